//! Module streams of a repository (`modules.yaml`, libmodulemd's documents
//! `modulemd` of version 2 and `modulemd-defaults` of version 1).
//!
//! Of each module one stream is active, as with dnf: the one that is asked for, one that
//! such a stream requires, or the default. Packages of other streams do not count, nor do
//! packages of no stream whose name a package of an active one has.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, Read};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// No document comes near it, in bytes.
const LONGEST_DOCUMENT: u64 = 16 << 20;
/// The module that stands for the distribution's release.
const PLATFORM: &str = "platform";

#[derive(Deserialize)]
struct Kind {
    document: String,
}

#[derive(Deserialize)]
struct Document<T> {
    data: T,
}

/// A stream in one version and context: built for some streams of others.
#[derive(Clone, Debug, Deserialize)]
struct Module {
    name: String,
    stream: String,
    #[serde(default)]
    version: u64,
    #[serde(default)]
    context: String,
    #[serde(default)]
    arch: Option<String>,
    #[serde(default)]
    dependencies: Vec<Dependency>,
    #[serde(default)]
    profiles: BTreeMap<String, Rpms>,
    #[serde(default)]
    artifacts: Rpms,
}

#[derive(Clone, Debug, Deserialize)]
struct Dependency {
    /// Streams of modules; none of one means any.
    #[serde(default)]
    requires: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Rpms {
    #[serde(default)]
    rpms: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Defaults {
    module: String,
    #[serde(default)]
    stream: Option<String>,
    /// Of each stream, what is installed of it.
    #[serde(default)]
    profiles: BTreeMap<String, Vec<String>>,
}

/// A stream that is asked for: `@MODULE:STREAM[/PROFILE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    name: String,
    stream: String,
    profile: Option<String>,
}

impl Asked {
    /// None for the name of a package.
    pub(super) fn parse(word: &str) -> Option<Self> {
        let (name, rest) = word.strip_prefix('@')?.split_once(':')?;
        let (stream, profile) = match rest.split_once('/') {
            Some((stream, profile)) => (stream, Some(profile.to_owned())),
            None => (rest, None),
        };
        Some(Self { name: name.to_owned(), stream: stream.to_owned(), profile })
    }
}

/// All modules of all repositories.
#[derive(Debug, Default)]
pub(in crate::bootstrap) struct Modules {
    all: Vec<Module>,
    defaults: BTreeMap<String, Defaults>,
}

/// Which packages count.
#[derive(Debug, Default)]
pub(super) struct Active {
    /// Packages of active streams, `NAME-EPOCH:VERSION-RELEASE.ARCH`, and their names.
    packages: HashSet<String>,
    names: HashSet<String>,
    /// Packages of any stream.
    modular: HashSet<String>,
    /// Packages of the profiles that are asked for.
    pub(super) install: Vec<String>,
    /// Modules and streams that are not the default, and what dnf of the image is told of
    /// them (dnf.modularity(7)).
    pub(super) enabled: Vec<Enabled>,
}

/// A module's name, and what dnf keeps of it.
pub(super) type Enabled = (String, String);

impl Active {
    /// Whether a package counts; its version is `EPOCH:VERSION-RELEASE`.
    pub(super) fn has(&self, name: &str, version: &str, arch: &str) -> bool {
        let full = format!("{name}-{version}.{arch}");
        self.packages.contains(&full) || !self.modular.contains(&full) && !self.names.contains(name)
    }
}

impl Modules {
    /// Adds a repository's documents; those of other architectures or kinds are passed
    /// over.
    ///
    /// # Errors
    /// What is wrong, and in which document.
    pub(in crate::bootstrap) fn read(
        &mut self,
        mut input: impl BufRead,
        arch: &str,
    ) -> Result<(), String> {
        let (mut text, mut line, mut number) = (Vec::new(), Vec::new(), 1);
        loop {
            line.clear();
            let room = LONGEST_DOCUMENT.saturating_sub(text.len() as u64);
            let got = Read::take(&mut input, room + 1).read_until(b'\n', &mut line);
            let got = got.map_err(|e| e.to_string())? as u64;
            if got > room {
                return Err(format!("document {number} has more than {LONGEST_DOCUMENT} bytes"));
            }
            let begins = line.starts_with(b"---") && !line.starts_with(b"----");
            if got == 0 || begins || line == b"...\n" {
                self.document(&text, arch).map_err(|e| format!("document {number}: {e}"))?;
                number += usize::from(!text.is_empty());
                text.clear();
            }
            if got == 0 {
                return Ok(());
            }
            if line != b"...\n" {
                text.extend_from_slice(&line);
            }
        }
    }

    fn document(&mut self, text: &[u8], arch: &str) -> Result<(), String> {
        let comment = |line: &[u8]| line.is_empty() || line.starts_with(b"#") || line == b"---";
        if text.split(|b| *b == b'\n').all(comment) {
            return Ok(());
        }
        match of::<Kind>(text)?.document.as_str() {
            "modulemd" => {
                let module = of::<Document<Module>>(text)?.data;
                if module.arch.as_deref().is_none_or(|own| own == arch) {
                    self.all.push(module);
                }
            }
            "modulemd-defaults" => {
                let defaults = of::<Document<Defaults>>(text)?.data;
                self.defaults.insert(defaults.module.clone(), defaults);
            }
            _ => {}
        }
        Ok(())
    }

    /// The streams that there are of a module.
    pub(super) fn streams(&self, name: &str) -> Vec<String> {
        let all = self.all.iter().filter(|module| module.name == name);
        let mut all: Vec<String> = all.map(|module| module.stream.clone()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Chooses the streams.
    ///
    /// # Errors
    /// What is asked for and is not there, or cannot be together.
    pub(super) fn activate(&self, asked: &[Asked]) -> Result<Active, String> {
        let mut streams: BTreeMap<&str, &str> = BTreeMap::new();
        let mut todo: Vec<(&str, &str)> =
            asked.iter().map(|asked| (asked.name.as_str(), asked.stream.as_str())).collect();
        todo.reverse();
        while let Some((name, stream)) = todo.pop() {
            match streams.insert(name, stream) {
                Some(other) if other != stream => {
                    return Err(format!("{name} is asked for as {other} and as {stream}"));
                }
                Some(_) => continue,
                None => {}
            }
            let contexts = self.latest(name, stream);
            if contexts.is_empty() {
                let known = self.streams(name).join(", ");
                let known = if known.is_empty() { "none".to_owned() } else { known };
                return Err(format!(
                    "there is no stream {stream} of a module {name}; its streams: {known}"
                ));
            }
            // The first one that goes with what is there counts, or else the first one.
            let fitting = contexts.iter().find(|module| module.fits(&streams, self));
            let Some(module) = fitting.or(contexts.first()) else { continue };
            for (needed, of) in module.requires() {
                let chosen = streams.get(needed).copied().or_else(|| self.default_stream(needed));
                if !chosen.is_some_and(|chosen| takes(of, chosen))
                    && let Some(first) = of.iter().find(|stream| !stream.starts_with('-'))
                {
                    todo.push((needed, first));
                }
            }
        }
        let note = |(name, stream): (&&str, &&str)| {
            let text =
                format!("[{name}]\nname={name}\nstream={stream}\nstate=enabled\nprofiles=\n");
            ((*name).to_owned(), text)
        };
        let enabled = streams.iter().map(note).collect();
        for (name, defaults) in &self.defaults {
            if let Some(stream) = &defaults.stream {
                streams.entry(name).or_insert(stream);
            }
        }
        let install = self.profiles(asked)?;
        Ok(Active { install, enabled, ..self.active(&streams) })
    }

    fn active(&self, streams: &BTreeMap<&str, &str>) -> Active {
        let mut active = Active::default();
        for module in &self.all {
            active.modular.extend(module.artifacts.rpms.iter().cloned());
        }
        for (name, stream) in streams {
            for module in self.latest(name, stream) {
                if !module.fits(streams, self) {
                    continue;
                }
                for package in &module.artifacts.rpms {
                    active.packages.insert(package.clone());
                    if !package.ends_with(".src") {
                        active.names.extend(name_of(package).map(str::to_owned));
                    }
                }
            }
        }
        active
    }

    /// Packages of the profiles that are asked for, or of the default ones.
    fn profiles(&self, asked: &[Asked]) -> Result<Vec<String>, String> {
        let mut install = Vec::new();
        for Asked { name, stream, profile } in asked {
            let contexts = self.latest(name, stream);
            let names = match profile {
                Some(profile) => vec![profile.clone()],
                None => {
                    let said = self.defaults.get(name).and_then(|d| d.profiles.get(stream));
                    said.cloned().unwrap_or_else(|| vec!["default".to_owned()])
                }
            };
            for wanted in names {
                match contexts.iter().find_map(|module| module.profiles.get(&wanted)) {
                    Some(rpms) => install.extend(rpms.rpms.iter().cloned()),
                    None => {
                        let known = contexts.iter().flat_map(|module| module.profiles.keys());
                        let known: Vec<&str> = known.map(String::as_str).collect();
                        return Err(format!(
                            "{name}:{stream} has no profile {wanted}: write @{name}:{stream}/PROFILE \
                             with one of: {}",
                            known.join(", ")
                        ));
                    }
                }
            }
        }
        Ok(install)
    }

    fn default_stream(&self, name: &str) -> Option<&str> {
        self.defaults.get(name)?.stream.as_deref()
    }

    /// A stream's contexts, each in its latest version.
    fn latest(&self, name: &str, stream: &str) -> Vec<&Module> {
        let mut latest: BTreeMap<&str, &Module> = BTreeMap::new();
        let all = self.all.iter().filter(|m| m.name == name && m.stream == stream);
        for module in all {
            let known = latest.entry(&module.context).or_insert(module);
            if module.version > known.version {
                *known = module;
            }
        }
        latest.into_values().collect()
    }
}

impl Module {
    /// The streams of others that it needs. The release that it was made for is the
    /// repository's own.
    fn requires(&self) -> impl Iterator<Item = (&str, &[String])> {
        let all = self.dependencies.iter().flat_map(|dependency| &dependency.requires);
        all.filter(|(name, _)| *name != PLATFORM).map(|(name, of)| (name.as_str(), &of[..]))
    }

    fn fits(&self, streams: &BTreeMap<&str, &str>, all: &Modules) -> bool {
        self.requires().all(|(name, of)| {
            let chosen = streams.get(name).copied().or_else(|| all.default_stream(name));
            chosen.is_some_and(|chosen| takes(of, chosen))
        })
    }
}

/// Whether a list of streams has one; `-STREAM` is all but this one.
fn takes(list: &[String], stream: &str) -> bool {
    let refused = |text: &String| text.strip_prefix('-') == Some(stream);
    let all_refuse = list.iter().all(|text| text.starts_with('-'));
    !list.iter().any(refused) && (all_refuse || list.iter().any(|text| text == stream))
}

/// The name in `NAME-EPOCH:VERSION-RELEASE.ARCH`.
fn name_of(package: &str) -> Option<&str> {
    package.rsplitn(3, '-').nth(2)
}

fn of<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    let read = serde_saphyr::from_slice_with_options(text, options);
    read.map_err(|e: serde_saphyr::Error| e.without_snippet().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: &str = "---
document: modulemd
version: 2
data:
  name: tool
  stream: 1.10
  version: 1
  context: aa
  arch: x86_64
  dependencies:
  - requires: {platform: [el9]}
  profiles:
    common: {rpms: [tool, tool-extra]}
  artifacts:
    rpms: [tool-0:1.9-1.x86_64, tool-0:1.9-1.src]
---
document: modulemd
version: 2
data:
  name: tool
  stream: 1.10
  version: 2
  context: aa
  profiles:
    common: {rpms: [tool, tool-extra]}
  artifacts:
    rpms: [tool-0:1.10-1.x86_64]
...
---
document: modulemd
version: 2
data: {name: tool, stream: '2', version: 7, context: b, artifacts: {rpms: [tool-0:2-1.x86_64]},
       dependencies: [{requires: {base: [new]}}], profiles: {default: {rpms: [tool]}}}
---
document: modulemd
version: 2
data: {name: tool, stream: '2', version: 7, context: c, artifacts: {rpms: [tool-0:2-1.old.x86_64]},
       dependencies: [{requires: {base: [old]}}], profiles: {default: {rpms: [tool]}}}
---
document: modulemd
version: 2
data: {name: base, stream: new, artifacts: {rpms: [base-lib-1:3-1.noarch]}}
---
document: modulemd
version: 2
data: {name: sparc, stream: x, arch: sparc, artifacts: {rpms: [a-0:1-1.sparc]}}
---
document: modulemd-defaults
version: 1
data:
  module: tool
  stream: 1.10
  profiles: {1.10: [common]}
---
document: modulemd-obsoletes
data: [what, ever]
";

    fn modules() -> Modules {
        let mut modules = Modules::default();
        modules.read(MODULES.as_bytes(), "x86_64").unwrap();
        modules
    }

    fn asked(words: &[&str]) -> Result<Active, String> {
        let asked: Vec<Asked> = words.iter().filter_map(|word| Asked::parse(word)).collect();
        assert_eq!(asked.len(), words.len());
        modules().activate(&asked)
    }

    #[test]
    fn default_streams_count() {
        let active = asked(&[]).unwrap();
        assert!(active.has("tool", "0:1.10-1", "x86_64"));
        // An earlier version, another stream, and no stream at all.
        for version in ["0:1.9-1", "0:2-1", "0:9-9"] {
            assert!(!active.has("tool", version, "x86_64"), "{version}");
        }
        assert!(!active.has("base-lib", "1:3-1", "noarch"));
        assert!(active.has("other", "0:1-1", "noarch") && active.install.is_empty());
    }

    #[test]
    fn streams_bring_what_they_require() {
        let active = asked(&["@tool:2"]).unwrap();
        assert!(active.has("tool", "0:2-1", "x86_64") && active.has("base-lib", "1:3-1", "noarch"));
        assert!(!active.has("tool", "0:1.10-1", "x86_64"));
        // The same stream, made for another one of base.
        assert!(!active.has("tool", "0:2-1.old", "x86_64"));
        assert_eq!(active.install, ["tool"]);
        let [(base, _), (tool, text)] = &active.enabled[..] else { panic!() };
        assert_eq!((base.as_str(), tool.as_str()), ("base", "tool"));
        assert!(text.contains("stream=2\n"), "{text}");
        assert_eq!(asked(&["@tool:1.10"]).unwrap().install, ["tool", "tool-extra"]);
        assert_eq!(asked(&["@tool:1.10/common"]).unwrap().install, ["tool", "tool-extra"]);
        assert_eq!(Asked::parse("@core"), None);
    }

    #[test]
    fn what_is_not_there_is_told() {
        for (words, reason) in [
            (&["@tool:3"][..], "its streams: 1.10, 2"),
            (&["@nosuch:3"], "its streams: none"),
            (&["@tool:2", "@tool:1.10"], "as 2 and as 1.10"),
            (&["@tool:2/minimal"], "one of: default"),
            (&["@base:new"], "no profile default"),
        ] {
            let error = asked(words).unwrap_err();
            assert!(error.contains(reason), "{words:?}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let read = |text: &[u8]| Modules::default().read(text, "x86_64");
        for text in
            ["---\ndocument: modulemd\ndata: {name: x}\n", "--- [", "document: [a\n", "a: b\n"]
        {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        for text in ["", "---\n", "# nothing\n---\n...\n"] {
            assert_eq!(read(text.as_bytes()), Ok(()), "{text}");
        }
        let endless = std::io::BufReader::new(std::io::repeat(b'a'));
        let error = Modules::default().read(endless, "x86_64").unwrap_err();
        assert!(error.contains("more than"), "{error}");
        for at in 0..MODULES.len() {
            let mut bad = MODULES.as_bytes().to_vec();
            bad[at] = b'{';
            let _ = read(&bad);
        }
    }
}
