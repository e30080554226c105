//! Where a release's packages are: the recipe says, or the configuration, or the
//! host's own package configuration (sources.list(5)).

use std::path::{Path, PathBuf};

use deb822_fast::Deb822;
use trust::Keyring;

use crate::bootstrap::{files_in, keyring};
use crate::error::Result;

/// A mirror's release, and who signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its place among others.
    pub(super) index: usize,
    /// Without a slash at its end.
    pub(super) url: String,
    pub(super) suite: String,
    pub(super) components: Vec<String>,
    /// Files of keys; those that are missing do not count, if one is there.
    pub(super) keys: Vec<PathBuf>,
}

/// Where distributions put the keys of their releases.
const KEYRINGS: [&str; 4] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-removed-keys.gpg",
    "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
    "/etc/apt/trusted.gpg",
];
const KEYRING_DIRECTORY: &str = "/etc/apt/trusted.gpg.d";
const SOURCES: &str = "/etc/apt/sources.list";
const SOURCES_DIRECTORY: &str = "/etc/apt/sources.list.d";

impl Source {
    /// The keys that may sign it.
    pub(super) fn keyring(&self, url: &str) -> Result<Keyring> {
        keyring(&self.keys, url)
    }
}

/// The keyrings of this host.
pub(super) fn host_keyrings() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = KEYRINGS.iter().map(PathBuf::from).collect();
    all.extend(files_in(Path::new(KEYRING_DIRECTORY), &["gpg", "asc"]));
    all
}

/// What this host's package configuration has of a release and its updates.
pub(super) fn host_sources(suite: &str) -> Vec<Source> {
    let mut all = Vec::new();
    let mut files = vec![PathBuf::from(SOURCES)];
    files.extend(files_in(Path::new(SOURCES_DIRECTORY), &["list", "sources"]));
    for path in files {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if path.extension().is_some_and(|ending| ending == "sources") {
            paragraphs(&text, &mut all);
        } else {
            lines(&text, &mut all);
        }
    }
    // Of the release itself first; others' packages are not of the same kind.
    let own = |s: &Source| s.suite == suite || is_update(&s.suite, suite);
    all.retain(own);
    all.sort_by_key(|source| source.suite != suite);
    all.dedup_by(|a, b| a.url == b.url && a.suite == b.suite);
    if all.first().is_none_or(|first| first.suite != suite) {
        return Vec::new();
    }
    for (index, source) in all.iter_mut().enumerate() {
        source.index = index;
    }
    all
}

fn is_update(name: &str, suite: &str) -> bool {
    let ending = name.strip_prefix(suite).unwrap_or_default();
    ["-updates", "-security", "/updates"].contains(&ending)
}

fn source(url: &str, suite: &str, components: Vec<String>, keys: Option<PathBuf>) -> Source {
    let keys = keys.map_or_else(host_keyrings, |key| vec![key]);
    let url = url.trim_end_matches('/').to_owned();
    Source { index: 0, url, suite: suite.to_owned(), components, keys }
}

/// `deb [signed-by=FILE] URL SUITE COMPONENT…`
fn lines(text: &str, all: &mut Vec<Source>) {
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        let Some(rest) = line.strip_prefix("deb ").map(str::trim) else { continue };
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let key = options.split_whitespace().find_map(|word| word.strip_prefix("signed-by="));
        let mut words = rest.split_whitespace();
        let (Some(url), Some(suite)) = (words.next(), words.next()) else { continue };
        let components = words.map(str::to_owned).collect();
        all.push(source(url, suite, components, key.map(PathBuf::from)));
    }
}

fn paragraphs(text: &str, all: &mut Vec<Source>) {
    // Comments may stand within a paragraph.
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(|l| [l, "\n"]).collect();
    let Ok(parsed) = text.parse::<Deb822>() else { return };
    for paragraph in parsed.iter() {
        let list = |name: &str| -> Vec<String> {
            let text = paragraph.get(name).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        let off = paragraph.get("Enabled").is_some_and(|text| text.trim() == "no");
        if off || !list("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        let key = list("Signed-By").first().filter(|key| key.starts_with('/')).map(PathBuf::from);
        for url in list("URIs") {
            for suite in list("Suites") {
                all.push(source(&url, &suite, list("Components"), key.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_are_read() {
        let mut all = Vec::new();
        lines(
            "# c\ndeb [arch=amd64 signed-by=/k.gpg] http://m/debian/ bookworm main contrib\n\
             deb-src http://m/debian bookworm main\ndeb http://m/x\n",
            &mut all,
        );
        paragraphs(
            "Types: deb deb-src\n# a comment\nURIs: http://m/debian\nSuites: a a-updates\n\
             Components: main\nSigned-By: /k2.gpg\n\nTypes: deb\nEnabled: no\nURIs: http://n\n\
             Suites: a\n",
            &mut all,
        );
        let shown: Vec<String> = all
            .iter()
            .map(|s| format!("{} {} {:?} {:?}", s.url, s.suite, s.components, s.keys))
            .collect();
        assert_eq!(
            shown,
            [
                "http://m/debian bookworm [\"main\", \"contrib\"] [\"/k.gpg\"]",
                "http://m/debian a [\"main\"] [\"/k2.gpg\"]",
                "http://m/debian a-updates [\"main\"] [\"/k2.gpg\"]",
            ]
        );
        assert!(is_update("a-updates", "a") && !is_update("a-backports", "a"));
    }
}
