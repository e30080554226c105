//! Where repositories are: an address, or a list of mirrors (dnf.conf(5)
//! `baseurl`, `mirrorlist`, `metalink`; Metalink 3.0 and RFC 5854).

use std::collections::BTreeMap;
use std::path::Path;

use super::xml::{Attributes, Sink, read};
use crate::bootstrap::error::BootstrapError;
use crate::bootstrap::fetch::{Fetcher, Mirrors};
use crate::bootstrap::files_in;

/// What every mirror has, and what a metalink tells the checksum of.
pub(super) const REPOMD: &str = "repodata/repomd.xml";
/// No list of mirrors comes near it.
const LARGEST_LIST: u64 = 4 << 20;
/// Where dnf and yum keep variables: a file each.
const VARIABLES: [&str; 2] = ["/etc/dnf/vars", "/etc/yum/vars"];

/// A repository as a recipe or a `.repo` file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bootstrap) enum Location {
    /// Addresses of the repository itself.
    Base(Vec<String>),
    /// The address of lines of addresses.
    Mirrorlist(String),
    /// The address of a metalink, which knows the checksum of `repomd.xml` too.
    Metalink(String),
}

/// Values of `$name` and `${name}`.
pub(in crate::bootstrap) type Variables = BTreeMap<String, String>;

impl Location {
    /// As a recipe has it: `metalink=URL` and `mirrorlist=URL` as in a `.repo` file, or
    /// an address, which is a list when its path ends with one of these words.
    pub(super) fn parse(text: &str, variables: &Variables) -> Self {
        let text = expand(text, variables);
        let path = text.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let last = path.rsplit('/').next().unwrap_or_default();
        match text.split_once('=') {
            Some(("metalink", url)) => Self::Metalink(url.to_owned()),
            Some(("mirrorlist", url)) => Self::Mirrorlist(url.to_owned()),
            _ if last == "metalink" || last.ends_with(".meta4") => Self::Metalink(text),
            _ if last == "mirrorlist" => Self::Mirrorlist(text),
            _ => Self::Base(vec![text]),
        }
    }

    /// The mirrors, and checksums of `repomd.xml` if they are known.
    pub(super) fn mirrors(
        &self,
        fetcher: &Fetcher<'_>,
    ) -> crate::error::Result<(Mirrors, Vec<String>)> {
        let url = match self {
            Self::Base(urls) => return Ok((Mirrors::new(urls.clone()), Vec::new())),
            Self::Mirrorlist(url) | Self::Metalink(url) => url,
        };
        let bytes = fetcher.small(url, LARGEST_LIST)?;
        let xml = bytes.trim_ascii_start().starts_with(b"<");
        let list = match self {
            Self::Mirrorlist(_) if !xml => lines(&bytes),
            _ => metalink(&bytes),
        };
        let malformed = |reason| BootstrapError::Malformed { url: url.clone(), reason };
        let (urls, sums) = list.map_err(malformed)?;
        Ok((Mirrors::new(urls), sums))
    }
}

/// As `.repo` files have it.
impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Base(urls) => write!(f, "baseurl={}", urls.join(" ")),
            Self::Mirrorlist(url) => write!(f, "mirrorlist={url}"),
            Self::Metalink(url) => write!(f, "metalink={url}"),
        }
    }
}

/// Replaces the variables that are known.
fn expand(text: &str, variables: &Variables) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, behind) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            Some(parts) => parts,
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !word(c)).unwrap_or(after.len()))
            }
        };
        match variables.get(name) {
            Some(value) => out.push_str(value),
            None => out.push_str(&rest[before.len()..rest.len() - behind.len()]),
        }
        rest = behind;
    }
    out + rest
}

/// What this host's dnf replaces in its repositories.
pub(super) fn host_variables() -> Variables {
    let files = VARIABLES.iter().rev().flat_map(|dir| files_in(Path::new(dir), &[]));
    let pairs = files.filter_map(|path| {
        let value = std::fs::read_to_string(&path).ok()?;
        let name = path.file_name()?.to_str()?.to_owned();
        Some((name, value.lines().next()?.trim().to_owned()))
    });
    pairs.collect()
}

/// The repositories of a `.repo` file that are in use. A metalink is better than a
/// list, and a list than an address.
pub(in crate::bootstrap) fn repositories(text: &str, variables: &Variables) -> Vec<Location> {
    let mut all = Vec::new();
    let mut section: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut key = "";
    let mut finish = |section: &mut BTreeMap<&str, Vec<&str>>| {
        let section = std::mem::take(section);
        let first = |name: &str| {
            let words = section.get(name)?;
            Some(expand(words.first()?, variables))
        };
        let on = ["0", "no", "false", "off"];
        if first("enabled").is_some_and(|text| on.contains(&text.to_ascii_lowercase().as_str())) {
            return;
        }
        let base = || {
            let urls = section.get("baseurl")?.iter().map(|url| expand(url, variables));
            Some(Location::Base(urls.collect()))
        };
        let list = first("metalink").map(Location::Metalink);
        let list = list.or_else(|| first("mirrorlist").map(Location::Mirrorlist));
        all.extend(list.or_else(base));
    };
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if line.starts_with('[') {
            finish(&mut section);
            key = "";
            continue;
        }
        // A line that begins with blanks goes on with the one before.
        let value = if line.starts_with([' ', '\t']) {
            line
        } else {
            let (name, value) = line.split_once('=').unwrap_or(("", ""));
            key = name.trim();
            value
        };
        let split = |c: char| c == ',' || c.is_whitespace();
        let words = value.split(split).filter(|word| !word.is_empty());
        section.entry(key).or_default().extend(words);
    }
    finish(&mut section);
    all
}

/// Mirrors and checksums.
type List = (Vec<String>, Vec<String>);

fn web(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// An address a line.
pub(in crate::bootstrap) fn lines(bytes: &[u8]) -> Result<List, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    let lines = text.lines().map(str::trim).filter(|line| web(line));
    let urls: Vec<String> = lines.map(str::to_owned).collect();
    if urls.is_empty() {
        return Err("it names no mirror".to_owned());
    }
    Ok((urls, Vec::new()))
}

#[derive(Default)]
struct Metalink {
    /// Whether this is about `repomd.xml`.
    ours: bool,
    kind: String,
    /// The order of an address, the smallest first.
    rank: i64,
    urls: Vec<(i64, String)>,
    sums: Vec<String>,
}

impl Sink for Metalink {
    fn begin(&mut self, name: &str, attributes: Attributes) -> Result<(), String> {
        let get = |name: &str| attributes.get(name).map(String::as_str);
        let number = |name: &str| get(name).and_then(|text| text.parse::<i64>().ok());
        match name {
            "file" => self.ours = get("name") == Some("repomd.xml"),
            "hash" => self.kind = get("type").unwrap_or_default().replace('-', ""),
            "url" => {
                // Metalink 3 has preferences, RFC 5854 priorities.
                let preference = number("preference").map(i64::saturating_neg);
                self.rank = number("priority").or(preference).unwrap_or(i64::MAX);
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, name: &str, text: &str) -> Result<(), String> {
        match name {
            "file" => self.ours = false,
            "hash" if self.ours && self.kind == "sha256" => {
                self.sums.push(text.to_ascii_lowercase());
            }
            "url" if self.ours && web(text) => {
                // What leads to another file is no mirror of it.
                let base = text.strip_suffix(REPOMD).and_then(|base| base.strip_suffix('/'));
                self.urls.extend(base.map(|base| (self.rank, base.to_owned())));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Mirrors in their order, and the checksums that `repomd.xml` may have: mirrors may
/// be a little behind.
pub(in crate::bootstrap) fn metalink(bytes: &[u8]) -> Result<List, String> {
    let mut sink = Metalink::default();
    read(bytes, &mut sink)?;
    if sink.sums.is_empty() {
        return Err("it has no SHA-256 of repomd.xml".to_owned());
    }
    if sink.urls.is_empty() {
        return Err("it names no mirror".to_owned());
    }
    sink.urls.sort_by_key(|(rank, _)| *rank);
    Ok((sink.urls.into_iter().map(|(_, url)| url).collect(), sink.sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let pairs = [("releasever", "40"), ("basearch", "x86_64")];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn repositories_of_a_file_are_those_in_use() {
        let text = "[a]\nname = a\nbaseurl = http://m/$releasever/${basearch}/$other/\n \
                    http://n/\n[b]\nenabled=0\nbaseurl=http://n/\n[c]\nenabled=1\n\
                    # mirrorlist=http://no/\nmetalink=http://o/?repo=c-$releasever\nbaseurl=http://p/\n\
                    [d]\nmirrorlist=http://q/\n";
        let all: Vec<String> =
            repositories(text, &variables()).iter().map(ToString::to_string).collect();
        assert_eq!(
            all,
            [
                "baseurl=http://m/40/x86_64/$other/ http://n/",
                "metalink=http://o/?repo=c-40",
                "mirrorlist=http://q/"
            ]
        );
    }

    #[test]
    fn a_recipe_says_what_its_address_is() {
        for (text, expected) in [
            ("http://m/os/", "baseurl=http://m/os/"),
            ("http://m/a=b/$basearch", "baseurl=http://m/a=b/x86_64"),
            ("metalink=http://m/x", "metalink=http://m/x"),
            ("http://m/metalink?repo=f-$releasever", "metalink=http://m/metalink?repo=f-40"),
            ("http://m/repomd.xml.meta4", "metalink=http://m/repomd.xml.meta4"),
            ("mirrorlist=http://m/x", "mirrorlist=http://m/x"),
            ("http://m/mirrorlist?a=b", "mirrorlist=http://m/mirrorlist?a=b"),
        ] {
            assert_eq!(Location::parse(text, &variables()).to_string(), expected);
        }
    }

    #[test]
    fn lists_of_mirrors_are_read_or_refused() {
        let (urls, _) = lines(b"# c\nhttp://a/\n\nrsync://b/\nhttps://c\n").unwrap();
        assert_eq!(urls, ["http://a/", "https://c"]);
        assert!(lines(b"# none\n").is_err() && lines(b"\xff").is_err());
        let text = "<metalink version='3.0'><files><file name='repomd.xml'><verification>\
            <hash type='md5'>1</hash><hash type='sha256'>AB</hash></verification>\
            <mm0:alternates><mm0:alternate><verification><hash type='sha-256'>cd</hash>\
            </verification></mm0:alternate></mm0:alternates><resources>\
            <url protocol='http' preference='7'>http://a/x&amp;y/repodata/repomd.xml</url>\
            <url preference='100'>https://b/repodata/repomd.xml</url>\
            <url preference='99'>rsync://c/repodata/repomd.xml</url>\
            <url preference='98'>http://d/other</url></resources></file>\
            <file name='other'><hash type='sha256'>ef</hash></file></files></metalink>";
        let (urls, sums) = metalink(text.as_bytes()).unwrap();
        assert_eq!(urls, ["https://b", "http://a/x&y"]);
        assert_eq!(sums, ["ab", "cd"]);
        for (from, to) in [("sha", "md"), ("/repodata/", "/"), ("repomd.xml'", "x'")] {
            assert!(metalink(text.replace(from, to).as_bytes()).is_err(), "{from}");
        }
        for at in 0..text.len() {
            let mut bad = text.as_bytes().to_vec();
            bad[at] = b'<';
            let _ = metalink(&bad);
            bad.truncate(at);
            assert!(metalink(&bad).is_err(), "{at}");
        }
    }
}
