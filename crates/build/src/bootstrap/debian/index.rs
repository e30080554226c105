//! What a Debian repository says of itself: Release and Packages files
//! (Debian repository format; policy manual §5 and §7).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::BufRead;

use deb822_fast::Deb822;

use crate::bootstrap::fetch::Listed;
use crate::bootstrap::select::{Need, Package, Relation};

/// A Release file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::bootstrap) struct Release {
    pub(super) suite: String,
    pub(super) codename: String,
    pub(super) valid_until: Option<String>,
    pub(super) by_hash: bool,
    pub(super) files: HashMap<String, Listed>,
}

impl Release {
    /// Reads a Release file; None for what is none.
    pub(in crate::bootstrap) fn parse(text: &str) -> Option<Self> {
        let all: Deb822 = text.parse().ok()?;
        let first = all.iter().next()?;
        let field = |name: &str| first.get(name).map(|text| text.trim().to_owned());
        let mut files = HashMap::new();
        for line in first.get("SHA256")?.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [sha256, size, path] = words[..] else { continue };
            let listed = Listed { sum: sha256.to_ascii_lowercase(), size: size.parse().ok()? };
            files.insert(path.to_owned(), listed);
        }
        Some(Self {
            suite: field("Suite").unwrap_or_default(),
            codename: field("Codename").unwrap_or_default(),
            valid_until: field("Valid-Until"),
            by_hash: field("Acquire-By-Hash").is_some_and(|text| text == "yes"),
            files,
        })
    }
}

impl Relation {
    /// `name[:arch] [(op version)]`; None for what is none.
    fn parse(text: &str) -> Option<Self> {
        let (name, rest) = match text.find(['(', ' ', '[', '<']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let name = name.trim().split(':').next()?;
        let good = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if name.is_empty() || !name.chars().all(good) {
            return None;
        }
        let version = match rest.split_once('(') {
            Some((_, rest)) => {
                let rest = rest.split_once(')')?.0.trim();
                let at = rest.find(|c| !"<>=".contains(c))?;
                let (operator, version) = rest.split_at(at);
                Some((operator.to_owned(), version.trim().to_owned()))
            }
            None => None,
        };
        Some(Self { name: name.to_owned(), version })
    }
}

fn relations(text: &str) -> Option<Vec<Need>> {
    let groups = text.split(',').map(str::trim).filter(|group| !group.is_empty());
    let group = |group: &str| {
        let any: Option<Vec<_>> = group.split('|').map(|one| Relation::parse(one.trim())).collect();
        Some(Need { any: any?, only_if: None })
    };
    groups.map(group).collect()
}

/// Reads a Packages file; the error names the paragraph that is wrong.
pub(in crate::bootstrap) fn packages(
    reader: impl BufRead,
    source: usize,
    put: &mut dyn FnMut(Package),
) -> Result<(), String> {
    for paragraph in Deb822::iter_paragraphs_from_reader(reader) {
        let paragraph = paragraph.map_err(|e| e.to_string())?;
        let field = |name: &str| paragraph.get(name).map(str::trim);
        let name = field("Package").ok_or("a paragraph without Package")?;
        let missing = |field: &str| format!("package {name}: {field} is missing or wrong");
        let need = |name: &str| field(name).ok_or_else(|| missing(name));
        let list = |name: &str| relations(field(name).unwrap_or_default()).ok_or(missing(name));
        let path = need("Filename")?;
        if path.starts_with('/') || path.split('/').any(|word| word == "..") {
            return Err(missing("Filename"));
        }
        let sha256 = need("SHA256")?.to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(missing("SHA256"));
        }
        let mut needs = list("Pre-Depends")?;
        needs.extend(list("Depends")?);
        put(Package {
            name: name.to_owned(),
            version: need("Version")?.to_owned(),
            needs,
            provides: list("Provides")?.into_iter().flat_map(|need| need.any).collect(),
            conflicts: Vec::new(),
            prefers: Vec::new(),
            always: field("Essential") == Some("yes") || field("Priority") == Some("required"),
            path: path.to_owned(),
            listed: Listed {
                sum: sha256,
                size: need("Size")?.parse().map_err(|_| missing("Size"))?,
            },
            source,
        });
    }
    Ok(())
}

/// The order of two versions (policy manual §5.6.12).
pub(in crate::bootstrap) fn compare(a: &str, b: &str) -> Ordering {
    fn split(text: &str) -> (u64, &str, &str) {
        let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        (epoch.parse().unwrap_or(0), upstream, revision)
    }
    let (a, b) = (split(a), split(b));
    a.0.cmp(&b.0).then_with(|| part(a.1, b.1)).then_with(|| part(a.2, b.2))
}

/// Runs of other characters and of digits by turns; a tilde is before the end.
fn part(mut a: &str, mut b: &str) -> Ordering {
    let weight = |c: Option<u8>| match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_digit() => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(c),
        Some(c) => i32::from(c) + 256,
    };
    let cut = |text: &mut &str, digits: bool| {
        let end = text.bytes().position(|c| c.is_ascii_digit() != digits).unwrap_or(text.len());
        let Some((head, tail)) = text.split_at_checked(end) else { return String::new() };
        let head = head.to_owned();
        *text = tail;
        head
    };
    while !a.is_empty() || !b.is_empty() {
        let (x, y) = (cut(&mut a, false), cut(&mut b, false));
        let longest = x.len().max(y.len());
        for at in 0..longest {
            let at = |text: &str| weight(text.as_bytes().get(at).copied());
            match at(&x).cmp(&at(&y)) {
                Ordering::Equal => {}
                other => return other,
            }
        }
        let (x, y) = (cut(&mut a, true), cut(&mut b, true));
        let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
        match x.len().cmp(&y.len()).then_with(|| x.cmp(y)) {
            Ordering::Equal => {}
            other => return other,
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_has_them() {
        let sorted = [
            "0~~",
            "0~",
            "0",
            "1.0~rc1-1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0-2",
            "1.0a-1",
            "1.0+dfsg-1",
            "1.2",
            "1.10",
            "2024",
            "1:0.1",
            "2:0",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
    }

    #[test]
    fn relations_say_which_versions_will_do() {
        let parsed = relations("a (>= 1.2), b:any | c [amd64], d(<< 2)").unwrap();
        let one = |r: &Relation| match &r.version {
            Some((operator, version)) => format!("{} {operator} {version}", r.name),
            None => r.name.clone(),
        };
        let shown: Vec<Vec<String>> =
            parsed.iter().map(|need| need.any.iter().map(one).collect()).collect();
        assert_eq!(shown, [vec!["a >= 1.2"], vec!["b", "c"], vec!["d << 2"]]);
        for wrong in ["a (1.2", "../x", "a (>=)", "é"] {
            assert_eq!(relations(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_index_that_is_wrong_is_refused_by_name() {
        let good = "Package: a\nVersion: 1\nFilename: pool/a.deb\nSize: 3\nSHA256: ";
        let sum = "0".repeat(64);
        let read = |text: &str| {
            let mut all = Vec::new();
            packages(text.as_bytes(), 0, &mut |p| all.push(p)).map(|()| all)
        };
        assert_eq!(read(&format!("{good}{sum}\nEssential: yes\n")).unwrap().len(), 1);
        for (text, word) in [
            (format!("{good}12\n"), "SHA256"),
            (format!("{good}{sum}\n").replace("pool", "../pool"), "Filename"),
            (format!("{good}{sum}\n").replace("Size: 3", "Size: x"), "Size"),
            (format!("{good}{sum}\nDepends: (\n"), "Depends"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains("package a") && error.contains(word), "{error}");
        }
    }
}
