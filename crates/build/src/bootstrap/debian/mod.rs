//! Debian, Ubuntu and what follows them (`Bootstrap: debootstrap`).

pub(super) mod deb;
pub(super) mod index;
mod repository;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;

use types::Platform;

use super::fetch::Mirrors;
use super::select::Universe;
use super::system::Packages;
use super::{BootstrapError, Installation, hash_keyring, needs, words};
use crate::builder::Builder;
use crate::cache::{Hasher, Out};
use crate::definition::Stage;
use crate::error::Result;
use crate::run::Scratch;
use crate::state::State;

use source::{Source, host_keyrings, host_sources};

/// What installs the packages. No service may start while it runs.
const INSTALL: &str = r#"set -e
for file in passwd group; do
    [ -e /etc/$file ] || cp /usr/share/base-passwd/$file.master /etc/$file
done
[ -e /usr/bin/awk ] || [ ! -e /usr/bin/mawk ] || ln -s mawk /usr/bin/awk
/usr/bin/dpkg --force-unsafe-io --force-depends --force-confold --unpack /run/sampan/packages/*.deb
/usr/bin/dpkg --force-unsafe-io --force-confold --configure --pending
rm -f /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
    /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log
[ ! -d /etc/apt ] || printf '%s' "$0" >/etc/apt/sources.list
[ -z "$1" ] || { mkdir -p "${1%/*}"; cp /run/sampan/keyring "$1"; chmod 644 "$1"; }
"#;

/// What a definition file asks for.
struct Wanted {
    suite: String,
    sources: Vec<Source>,
    include: Vec<String>,
    /// debootstrap's word for the kind of system.
    variant: String,
    check_date: bool,
    /// A keyring that is not the distribution's own.
    keyring: Option<PathBuf>,
}

impl Wanted {
    fn read(builder: &Builder<'_>, header: &BTreeMap<String, String>) -> Result<Self> {
        let get = |name: &str| header.get(name).map(String::as_str);
        let suite = get("osversion").filter(|suite| !suite.is_empty());
        let suite = suite.ok_or_else(|| needs("Bootstrap: debootstrap", "OSVersion:"))?.to_owned();
        let keyring = get("keyring").map(|path| builder.options().directory.join(path));
        let mirrors = &builder.engine().config().mirrors.value;
        let configured = || mirrors.iter().find(|(name, _)| *name == suite).map(|(_, url)| &**url);
        let mut sources = match get("mirrorurl").or_else(configured) {
            Some(url) => {
                let url = url.replace("%{OSVERSION}", &suite);
                let mut components = words(get("components"));
                if components.is_empty() {
                    components.push("main".to_owned());
                }
                let url = url.trim_end_matches('/').to_owned();
                let (suite, keys) = (suite.clone(), host_keyrings());
                vec![Source { index: 0, url, suite, components, keys }]
            }
            None => host_sources(&suite),
        };
        if sources.is_empty() {
            return Err(BootstrapError::NoMirror { suite }.into());
        }
        if let Some(keyring) = &keyring {
            for source in &mut sources {
                source.keys = vec![keyring.clone()];
            }
        }
        let variant = get("variant").unwrap_or("minbase").to_owned();
        let mut include = match variant.as_str() {
            "minbase" => vec!["apt".to_owned()],
            "buildd" => vec!["apt".to_owned(), "build-essential".to_owned()],
            "essential" | "required" => Vec::new(),
            other => {
                let text = format!("Variant: {other} (minbase, buildd and essential are known)");
                return Err(crate::dockerfile::Problem::Unsupported(text).into());
            }
        };
        include.extend(words(get("include")));
        let check_date = get("check-valid-until").is_none_or(|text| text != "no");
        Ok(Self { suite, sources, include, variant, check_date, keyring })
    }

    /// Where the image keeps a keyring of the recipe; apt goes by the ending.
    fn key_in_image(&self) -> Option<&'static str> {
        let path = self.keyring.as_ref()?;
        let armored = std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"-----"));
        Some(if armored {
            "/etc/apt/keyrings/bootstrap.asc"
        } else {
            "/etc/apt/keyrings/bootstrap.gpg"
        })
    }

    /// What the image's apt reads.
    fn sources_list(&self) -> String {
        let key = self.key_in_image();
        let signed = key.map_or_else(String::new, |key| format!("[signed-by={key}] "));
        let line =
            |s: &Source| format!("deb {signed}{} {} {}\n", s.url, s.suite, s.components.join(" "));
        self.sources.iter().map(line).collect()
    }
}

/// Debian's name of a platform's architecture.
fn architecture(platform: &Platform) -> &str {
    match (platform.architecture(), platform.variant()) {
        ("386", _) => "i386",
        ("arm", Some("v5" | "v6")) => "armel",
        ("arm", _) => "armhf",
        ("ppc64le", _) => "ppc64el",
        ("loong64", _) => "loong64",
        (other, _) => other,
    }
}

impl Builder<'_> {
    /// A system of a distribution's packages: from the cache, or made now. A
    /// system that is there is not compared with the mirror, as a RUN is not.
    pub(crate) fn debian(&mut self, stage: &Stage, name: &str) -> Result<State> {
        let wanted = Wanted::read(self, &stage.header)?;
        let platform = self.engine().config().platform.value.clone();
        let mut state = self.nothing("/bin/bash")?;
        let mut hasher = Hasher::new(&state.key, "debian");
        hasher.text(&format!("{platform} {} {:?}", wanted.variant, wanted.include));
        hasher.text(&wanted.sources_list());
        hash_keyring(&mut hasher, wanted.keyring.as_deref())?;
        self.say(name, &format!("Bootstrap: {} from {}", wanted.suite, wanted.sources[0].url));
        let cached = self.layer(&mut state, &hasher.key(), |builder, state, out| {
            builder.bootstrap_debian(state, &wanted, architecture(&platform), out)
        })?;
        self.told(cached);
        Ok(state)
    }

    fn bootstrap_debian(
        &mut self,
        state: &State,
        wanted: &Wanted,
        architecture: &str,
        out: &Out<'_>,
    ) -> Result<()> {
        let scratch = Scratch::new(self)?;
        let dir = scratch.directory("packages")?;
        let packages = {
            let fetcher = self.fetcher()?;
            let mut universe = Universe::new(index::compare);
            for source in &wanted.sources {
                let release = repository::release(&fetcher, source, wanted.check_date)?;
                for component in &source.components {
                    let mut add = |package| universe.add(package);
                    repository::list(
                        &fetcher,
                        architecture,
                        source,
                        &release,
                        component,
                        &mut add,
                    )?;
                }
            }
            universe.complete();
            let mut names = wanted.include.clone();
            // The links are there: nothing has to be moved.
            names.extend(universe.has("usr-is-merged").then(|| "usr-is-merged".to_owned()));
            let selected = universe.select(&names)?;
            let one = |source: &Source| Mirrors::new([source.url.clone()]);
            let mirrors: Vec<Mirrors> = wanted.sources.iter().map(one).collect();
            fetcher.fetch(&selected, &mirrors, (&dir, "deb"))?
        };
        let seed = ["var/lib/dpkg/status", "var/lib/dpkg/available"];
        let merged = merged(&wanted.suite, architecture);
        let system = Packages::new(&packages, deb::data, merged, &seed);
        let key = wanted.key_in_image().unwrap_or_default().to_owned();
        let installation = Installation {
            script: INSTALL,
            arguments: vec![wanted.sources_list(), key],
            env: &[("DEBIAN_FRONTEND", "noninteractive"), ("DEBCONF_NONINTERACTIVE_SEEN", "true")],
            keyring: wanted.keyring.as_deref(),
        };
        self.install(state, &system, (&scratch, &dir), &installation, out)
    }
}

/// Directories at the top that are links into /usr.
fn merged(suite: &str, architecture: &str) -> Vec<&'static str> {
    // Before these, /bin and /usr/bin were two directories.
    let split = ["wheezy", "jessie", "stretch", "trusty", "xenial", "bionic"];
    match (split.contains(&suite), architecture) {
        (true, _) => Vec::new(),
        (false, "amd64" | "ppc64el" | "loong64") => vec!["bin", "sbin", "lib", "lib64"],
        _ => vec!["bin", "sbin", "lib"],
    }
}
