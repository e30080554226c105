//! registries.conf, version 2: where a name leads.
//!
//! Source: containers-registries.conf(5). The user's file replaces the
//! system's; files of registries.conf.d are laid over it in the order of their
//! names, the system's directory first.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use types::RegistryRef;

use crate::environment::Environment;
use crate::error::{ConfigError, Error};

/// What an unqualified name means when nothing is configured.
const DEFAULT_REGISTRY: &str = "docker.io";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<Table>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    registries: Option<toml::Spanned<toml::Value>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Table {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
    #[serde(default)]
    mirror_by_digest_only: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: PullFromMirror,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

/// One place that a repository can be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and optional port, as configuration and credentials name it.
    pub registry: String,
    /// The repository's path on that host.
    pub repository: String,
    /// Plain HTTP and untrusted certificates are allowed.
    pub insecure: bool,
    /// Whether this is a mirror rather than the registry itself.
    pub mirror: bool,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

/// What a request asks for, as far as mirrors care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A manifest by its tag.
    Tag,
    /// A manifest or blob by its digest.
    Digest,
}

/// The merged configuration of registries.
#[derive(Debug, Default)]
pub struct RegistriesConf {
    search: Option<Vec<String>>,
    aliases: BTreeMap<String, String>,
    tables: Vec<Table>,
}

impl RegistriesConf {
    /// Reads and merges all files. Absent files are no error.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, with its line.
    pub fn load(environment: &Environment) -> Result<Self, ConfigError> {
        let mut conf = Self::default();
        let user = environment.user_containers();
        if let Some(path) = environment.path("CONTAINERS_REGISTRIES_CONF") {
            conf.merge_path(&path, true)?;
            if let Some(directory) = environment.path("CONTAINERS_REGISTRIES_CONF_DIR") {
                conf.merge_directory(&directory)?;
            }
            return Ok(conf);
        }
        let found = match &user {
            Some(directory) => conf.merge_path(&directory.join("registries.conf"), false)?,
            None => false,
        };
        let system = environment.system_containers();
        if !found {
            conf.merge_path(&system.join("registries.conf"), false)?;
        }
        conf.merge_directory(&system.join("registries.conf.d"))?;
        if let Some(directory) = user {
            conf.merge_directory(&directory.join("registries.conf.d"))?;
        }
        Ok(conf)
    }

    fn merge_directory(&mut self, directory: &Path) -> Result<(), ConfigError> {
        let read = |source| ConfigError::Read { path: directory.to_owned(), source };
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(read(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(read)?.path();
            if path.extension().is_some_and(|e| e == "conf") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().try_for_each(|path| self.merge_path(path, false).map(|_| ()))
    }

    /// Whether the file was there.
    fn merge_path(&mut self, path: &Path, required: bool) -> Result<bool, ConfigError> {
        match fs::read_to_string(path) {
            Ok(text) => self.merge_text(path, &text).map(|()| true),
            Err(error) if !required && is_absent(&error) => Ok(false),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn merge_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let syntax = |offset: Option<usize>, message: String| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_at(text, offset.unwrap_or(0)),
            message,
        };
        let file: File = toml::from_str(text)
            .map_err(|e| syntax(e.span().map(|span| span.start), e.message().to_owned()))?;
        if let Some(old) = file.registries {
            return Err(syntax(
                Some(old.span().start),
                "[registries] is the first version of the format; use [[registry]]".to_owned(),
            ));
        }
        for table in &file.registry {
            check_table(table).map_err(|(word, message)| {
                let offset = if word.is_empty() { None } else { text.find(word) };
                syntax(offset.or_else(|| text.find("[[registry]]")), message)
            })?;
        }
        if let Some(search) = file.unqualified_search_registries {
            self.search = Some(search);
        }
        for table in file.registry {
            self.tables.retain(|old| prefix_of(old) != prefix_of(&table));
            self.tables.push(table);
        }
        for (name, target) in file.aliases {
            if target.is_empty() {
                self.aliases.remove(&name);
                continue;
            }
            match target.parse::<RegistryRef>() {
                Ok(full) if full.domain.is_some() && full.tag.is_none() => {
                    self.aliases.insert(name, target);
                }
                _ => {
                    let message =
                        format!("alias {name:?} must be a registry and repository, not {target:?}");
                    return Err(syntax(text.find(&format!("\"{target}\"")), message));
                }
            }
        }
        Ok(())
    }

    /// The full names that a written name may stand for, in the order to try.
    ///
    /// # Errors
    /// [`Error::ShortName`] when the configuration has an empty search list.
    pub fn qualify(&self, name: &RegistryRef) -> Result<Vec<RegistryRef>, Error> {
        if name.domain.is_some() {
            return Ok(vec![canonical(name.clone())]);
        }
        if let Some(alias) = self.aliases.get(&name.path)
            && let Ok(mut full) = alias.parse::<RegistryRef>()
        {
            full.tag.clone_from(&name.tag);
            full.digest.clone_from(&name.digest);
            return Ok(vec![canonical(full)]);
        }
        let default = [DEFAULT_REGISTRY.to_owned()];
        let search = self.search.as_deref().unwrap_or(&default);
        if search.is_empty() {
            return Err(Error::ShortName { name: name.path.clone() });
        }
        let with = |registry: &String| {
            let domain = Some(registry.trim_end_matches('/').to_owned());
            canonical(RegistryRef { domain, ..name.clone() })
        };
        Ok(search.iter().map(with).collect())
    }

    /// The endpoints of a full name: mirrors first, the registry last.
    ///
    /// # Errors
    /// [`Error::Blocked`].
    pub fn endpoints(&self, name: &RegistryRef, by: By) -> Result<Vec<Endpoint>, Error> {
        let domain = name.domain.as_deref().unwrap_or(DEFAULT_REGISTRY);
        let full = format!("{domain}/{}", name.path);
        let Some((table, matched)) = self.find(name, &full) else {
            return Ok(vec![endpoint(&full, false, false)]);
        };
        if table.blocked {
            let prefix = prefix_of(table).unwrap_or_default().to_owned();
            return Err(Error::Blocked { name: name.to_string(), prefix });
        }
        let rest = &full[matched..];
        let mut endpoints = Vec::new();
        for mirror in &table.mirror {
            let wanted = match mirror.pull_from_mirror {
                PullFromMirror::All => !table.mirror_by_digest_only || by == By::Digest,
                PullFromMirror::DigestOnly => by == By::Digest,
                PullFromMirror::TagOnly => by == By::Tag,
            };
            if wanted {
                let location = mirror.location.trim_end_matches('/');
                endpoints.push(endpoint(&format!("{location}{rest}"), mirror.insecure, true));
            }
        }
        let location = match table.location.as_deref().filter(|l| !l.is_empty()) {
            Some(location) => format!("{}{rest}", location.trim_end_matches('/')),
            None => full.clone(),
        };
        endpoints.push(endpoint(&location, table.insecure, false));
        Ok(endpoints)
    }

    /// Whether the configuration calls this registry insecure.
    #[must_use]
    pub fn is_insecure(&self, registry: &str) -> bool {
        let name = format!("{registry}/");
        self.tables
            .iter()
            .filter_map(|table| {
                let prefix = prefix_of(table)?;
                matches(prefix, &name).map(|_| (prefix.len(), table.insecure))
            })
            .max_by_key(|(length, _)| *length)
            .is_some_and(|(_, insecure)| insecure)
    }

    /// The table with the longest match, and how many bytes of the full name
    /// (without tag and digest) it covers.
    fn find(&self, name: &RegistryRef, full: &str) -> Option<(&Table, usize)> {
        let mut exact = full.to_owned();
        if let Some(digest) = &name.digest {
            exact = format!("{full}@{digest}");
        } else if let Some(tag) = name.effective_tag() {
            exact = format!("{full}:{}", tag.as_str());
        }
        self.tables
            .iter()
            .filter_map(|table| {
                let prefix = prefix_of(table)?;
                Some((table, prefix.len(), matches(prefix, &exact)?.min(full.len())))
            })
            .max_by_key(|(_, length, _)| *length)
            .map(|(table, _, matched)| (table, matched))
    }
}

/// The paths that [`RegistriesConf::load`] looks at, for diagnosis.
#[must_use]
pub fn configuration_files(environment: &Environment) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    paths.extend(environment.path("CONTAINERS_REGISTRIES_CONF"));
    let system = environment.system_containers();
    for directory in environment.user_containers().into_iter().chain([system]) {
        paths.push(directory.join("registries.conf"));
        paths.push(directory.join("registries.conf.d"));
    }
    paths
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

fn prefix_of(table: &Table) -> Option<&str> {
    table.prefix.as_deref().filter(|p| !p.is_empty()).or(table.location.as_deref())
}

/// The offending word and what is wrong with it.
fn check_table(table: &Table) -> Result<(), (&str, String)> {
    let Some(prefix) = prefix_of(table).filter(|p| !p.is_empty()) else {
        return Err(("", "a [[registry]] needs a prefix or a location".to_owned()));
    };
    let bad = |place: &str| {
        place.is_empty() || place.contains("://") || place.contains(char::is_whitespace)
    };
    if let Some(rest) = prefix.strip_prefix("*.") {
        if bad(rest) || rest.contains(['/', '*', ':', '@']) {
            return Err((prefix, format!("{prefix:?} is no prefix: expected *.host")));
        }
    } else if bad(prefix) || prefix.contains('*') {
        return Err((prefix, format!("{prefix:?} is no prefix: expected host[:port][/path]")));
    }
    let locations = table.mirror.iter().map(|m| &m.location).chain(&table.location);
    for location in locations.filter(|l| !l.is_empty()) {
        if bad(location) || location.contains('*') {
            let message = format!("{location:?} is no location: expected host[:port][/path]");
            return Err((location, message));
        }
    }
    let mixed = |m: &Mirror| m.pull_from_mirror != PullFromMirror::All;
    if table.mirror_by_digest_only && table.mirror.iter().any(mixed) {
        let message = "pull-from-mirror has no meaning with mirror-by-digest-only = true";
        return Err(("pull-from-mirror", message.to_owned()));
    }
    Ok(())
}

/// How many bytes of `name` the prefix covers, if it matches.
fn matches(prefix: &str, name: &str) -> Option<usize> {
    if let Some(suffix) = prefix.strip_prefix('*') {
        let host = name.split('/').next()?;
        let bare = host.split(':').next()?;
        return (bare.len() > suffix.len() && bare.ends_with(suffix)).then_some(bare.len());
    }
    let prefix = prefix.trim_end_matches('/');
    let rest = name.strip_prefix(prefix)?;
    // A colon after a bare host is a port, hence another registry.
    let separators: &[char] = if prefix.contains('/') { &['/', ':', '@'] } else { &['/'] };
    (rest.is_empty() || rest.starts_with(separators)).then_some(prefix.len())
}

fn endpoint(location: &str, insecure: bool, mirror: bool) -> Endpoint {
    let (registry, repository) = location.split_once('/').unwrap_or((location, ""));
    // A location may carry a tag or digest of an exact prefix; the request has its own.
    let repository = repository.split(['@', ':']).next().unwrap_or(repository);
    Endpoint { registry: registry.to_owned(), repository: repository.to_owned(), insecure, mirror }
}

/// Docker Hub has several names, and official images a hidden directory.
fn canonical(mut name: RegistryRef) -> RegistryRef {
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
    if name.domain.as_deref().is_some_and(|d| hub.contains(&d)) {
        name.domain = Some(DEFAULT_REGISTRY.to_owned());
        if !name.path.contains('/') {
            name.path = format!("library/{}", name.path);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> RegistriesConf {
        let mut conf = RegistriesConf::default();
        conf.merge_text(Path::new("registries.conf"), text).unwrap();
        conf
    }

    fn names(conf: &RegistriesConf, name: &str) -> Vec<String> {
        conf.qualify(&name.parse().unwrap()).unwrap().iter().map(ToString::to_string).collect()
    }

    fn places(conf: &RegistriesConf, name: &str) -> Vec<String> {
        let name: RegistryRef = name.parse().unwrap();
        let by = if name.digest.is_some() { By::Digest } else { By::Tag };
        conf.endpoints(&name, by).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_unqualified_name_goes_to_docker_hub_without_configuration() {
        let conf = RegistriesConf::default();
        assert_eq!(names(&conf, "debian:12"), ["docker.io/library/debian:12"]);
        assert_eq!(names(&conf, "a/b"), ["docker.io/a/b"]);
        assert_eq!(names(&conf, "index.docker.io/x"), ["docker.io/library/x"]);
        assert_eq!(places(&conf, "ghcr.io/a/b"), ["ghcr.io/a/b"]);
    }

    #[test]
    fn search_lists_and_aliases() {
        let conf = conf(
            "unqualified-search-registries = [\"a.io\", \"docker.io\"]\n\
             [aliases]\n\"deb\" = \"quay.io/x/debian\"\n",
        );
        assert_eq!(names(&conf, "x"), ["a.io/x", "docker.io/library/x"]);
        assert_eq!(names(&conf, "deb:12"), ["quay.io/x/debian:12"]);
        let empty = super::tests::conf("unqualified-search-registries = []");
        let error = empty.qualify(&"x".parse().unwrap()).unwrap_err();
        assert!(matches!(error, Error::ShortName { .. }));
    }

    #[test]
    fn the_longest_prefix_wins_and_rewrites() {
        let conf = conf(
            "[[registry]]\nprefix = \"example.com\"\nlocation = \"m.net/all\"\n\
             [[registry]]\nprefix = \"example.com/foo\"\nlocation = \"m.net/bar\"\n\
             [[registry]]\nprefix = \"*.wild.org\"\ninsecure = true\n",
        );
        assert_eq!(places(&conf, "example.com/foo/x:1"), ["m.net/bar/x"]);
        assert_eq!(places(&conf, "example.com/foobar:1"), ["m.net/all/foobar"]);
        assert_eq!(places(&conf, "example.com:5000/foo"), ["example.com:5000/foo"]);
        assert_eq!(places(&conf, "a.b.wild.org/x"), ["a.b.wild.org/x"]);
        let wild = conf.endpoints(&"a.b.wild.org/x".parse().unwrap(), By::Tag).unwrap();
        assert!(wild[0].insecure);
        let bare = conf.endpoints(&"wild.org/x".parse().unwrap(), By::Tag).unwrap();
        assert!(!bare[0].insecure);
        assert!(conf.is_insecure("q.wild.org"));
    }

    #[test]
    fn mirrors_are_chosen_by_what_is_asked() {
        let conf = conf(
            "[[registry]]\nlocation = \"r.io\"\n\
             [[registry.mirror]]\nlocation = \"all.io/r\"\n\
             [[registry.mirror]]\nlocation = \"dig.io\"\npull-from-mirror = \"digest-only\"\n\
             [[registry.mirror]]\nlocation = \"tag.io\"\npull-from-mirror = \"tag-only\"\n\
             [[registry]]\nlocation = \"d.io\"\nmirror-by-digest-only = true\n\
             [[registry.mirror]]\nlocation = \"m.io\"\n",
        );
        let digest = format!("@sha256:{}", "0".repeat(64));
        assert_eq!(places(&conf, "r.io/x:1"), ["all.io/r/x", "tag.io/x", "r.io/x"]);
        assert_eq!(places(&conf, &format!("r.io/x{digest}")), ["all.io/r/x", "dig.io/x", "r.io/x"]);
        assert_eq!(places(&conf, "d.io/x"), ["d.io/x"]);
        assert_eq!(places(&conf, &format!("d.io/x{digest}")), ["m.io/x", "d.io/x"]);
    }

    #[test]
    fn blocked_is_an_error_naming_the_prefix() {
        let conf = conf("[[registry]]\nprefix = \"bad.io/evil\"\nblocked = true\n");
        let error = conf.endpoints(&"bad.io/evil/x".parse().unwrap(), By::Tag).unwrap_err();
        assert!(matches!(error, Error::Blocked { ref prefix, .. } if prefix == "bad.io/evil"));
        assert_eq!(places(&conf, "bad.io/good"), ["bad.io/good"]);
    }

    #[test]
    fn a_malformed_file_is_named_with_its_line() {
        for (text, line) in [
            ("a = 1\n\nb = [", 3),
            ("[[registry]]\nblocked = \"yes\"\n", 2),
            ("\n[[registry]]\nblocked = true\n", 2),
            ("x = 1\n[registries.search]\nregistries = []\n", 2),
            ("[[registry]]\nprefix = \"a.*.b\"\n", 2),
            ("[[registry]]\nlocation = \"https://a.b\"\n", 2),
            ("[aliases]\n\"a\" = \"nodomain\"\n", 2),
        ] {
            let error = RegistriesConf::default().merge_text(Path::new("/x/r.conf"), text);
            match error.unwrap_err() {
                ConfigError::Syntax { line: l, .. } => assert_eq!(l, line, "{text:?}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn files_are_found_and_merged_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let environment = Environment {
            variables: [("HOME".to_owned(), root.join("home").display().to_string())].into(),
            system: root.join("etc"),
        };
        write("etc/containers/registries.conf", "unqualified-search-registries = [\"sys.io\"]");
        write("etc/containers/registries.conf.d/1.conf", "[aliases]\na = \"one.io/a\"");
        write("etc/containers/registries.conf.d/2.conf", "[aliases]\na = \"two.io/a\"");
        let conf = RegistriesConf::load(&environment).unwrap();
        assert_eq!(names(&conf, "x"), ["sys.io/x"]);
        assert_eq!(names(&conf, "a"), ["two.io/a"]);
        write(
            "home/.config/containers/registries.conf",
            "unqualified-search-registries = [\"user.io\"]",
        );
        let conf = RegistriesConf::load(&environment).unwrap();
        assert_eq!(names(&conf, "x"), ["user.io/x"]);
    }
}
