//! Metadata of a repository: `repomd.xml`, and the packages of `primary.xml`
//! (createrepo_c(8)).

use std::collections::BTreeMap;
use std::io::BufRead;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use crate::bootstrap::fetch::Listed;
use crate::bootstrap::select::{Need, Package, Relation};

/// Where the list of packages is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Primary {
    pub(super) path: String,
    pub(super) listed: Listed,
}

/// The attributes of an element by their names.
type Attributes = BTreeMap<String, String>;

/// What an element is to who reads it.
trait Sink {
    /// An element begins, or stands alone.
    fn begin(&mut self, name: &str, attributes: Attributes) -> Result<(), String>;
    /// An element ends that had this text.
    fn end(&mut self, name: &str, text: &str) -> Result<(), String>;
}

fn attributes(element: &BytesStart<'_>) -> Result<Attributes, String> {
    let pairs = element.attributes().map(|attribute| {
        let attribute = attribute.map_err(|e| e.to_string())?;
        let value =
            attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|e| e.to_string())?;
        Ok((attribute.key.local_name().as_ref().to_owned(), value.into_owned()))
    });
    pairs.collect()
}

fn read(input: impl BufRead, sink: &mut dyn Sink) -> Result<(), String> {
    let mut reader = Reader::from_reader(input);
    let mut buffer = Vec::new();
    let mut text = String::new();
    let mut depth = 0_usize;
    loop {
        let event = reader.read_event_into(&mut buffer).map_err(|e| e.to_string())?;
        match event {
            Event::Start(element) => {
                depth += 1;
                text.clear();
                sink.begin(element.local_name().as_ref(), attributes(&element)?)?;
            }
            Event::Empty(element) => {
                sink.begin(element.local_name().as_ref(), attributes(&element)?)?;
            }
            Event::End(element) => {
                depth = depth.saturating_sub(1);
                sink.end(element.local_name().as_ref(), text.trim())?;
                text.clear();
            }
            Event::Text(part) => text.push_str(&part.xml10_content()),
            Event::Eof if depth == 0 => return Ok(()),
            Event::Eof => return Err("it ends in the middle".to_owned()),
            _ => {}
        }
        buffer.clear();
    }
}

/// Paths stay below the repository.
fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') || text.split('/').any(|word| word == "..") {
        return Err(format!("{text:?} is no path of the repository"));
    }
    Ok(text.to_owned())
}

fn sha256(kind: &str, text: &str) -> Result<String, String> {
    let good = text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
    if kind != "sha256" || !good {
        return Err(format!("a checksum that is no SHA-256: {kind} {text}"));
    }
    Ok(text.to_ascii_lowercase())
}

#[derive(Default)]
struct Repomd {
    /// Whether this is about the list of packages.
    primary: bool,
    kind: String,
    path: Option<String>,
    sha256: Option<String>,
    size: Option<u64>,
}

impl Sink for Repomd {
    fn begin(&mut self, name: &str, attributes: Attributes) -> Result<(), String> {
        let get = |name: &str| attributes.get(name).cloned().unwrap_or_default();
        match name {
            "data" => self.primary = get("type") == "primary",
            "checksum" => self.kind = get("type"),
            "location" if self.primary => self.path = Some(path(&get("href"))?),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, name: &str, text: &str) -> Result<(), String> {
        match name {
            "data" => self.primary = false,
            "checksum" if self.primary => self.sha256 = Some(sha256(&self.kind, text)?),
            "size" if self.primary => {
                self.size = Some(text.parse().map_err(|_| format!("a size of {text:?}"))?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads `repomd.xml`.
pub(super) fn repomd(bytes: &[u8]) -> Result<Primary, String> {
    let mut sink = Repomd::default();
    read(bytes, &mut sink)?;
    match (sink.path, sink.sha256, sink.size) {
        (Some(path), Some(sha256), Some(size)) => {
            Ok(Primary { path, listed: Listed { sha256, size } })
        }
        _ => Err("it lists no packages".to_owned()),
    }
}

/// A package while it is read.
#[derive(Default)]
struct Packages<'a> {
    /// Architectures that run here.
    takes: &'a [&'a str],
    source: usize,
    put: Option<&'a mut dyn FnMut(Package)>,
    name: String,
    arch: String,
    version: String,
    kind: String,
    sha256: Option<String>,
    size: Option<u64>,
    path: Option<String>,
    needs: Vec<Need>,
    provides: Vec<Relation>,
    prefers: Vec<String>,
    /// Which list entries belong to.
    list: String,
}

impl Packages<'_> {
    fn finish(&mut self) -> Result<(), String> {
        let name = std::mem::take(&mut self.name);
        let missing = |what: &str| format!("package {name}: {what} is missing");
        let package = Package {
            version: std::mem::take(&mut self.version),
            needs: std::mem::take(&mut self.needs),
            provides: std::mem::take(&mut self.provides),
            prefers: std::mem::take(&mut self.prefers),
            always: false,
            path: self.path.take().ok_or_else(|| missing("location"))?,
            listed: Listed {
                sha256: self.sha256.take().ok_or_else(|| missing("checksum"))?,
                size: self.size.take().ok_or_else(|| missing("size"))?,
            },
            source: self.source,
            name,
        };
        if self.takes.contains(&self.arch.as_str())
            && let Some(put) = &mut self.put
        {
            put(package);
        }
        Ok(())
    }

    fn entry(&mut self, attributes: &Attributes) {
        let get = |name: &str| attributes.get(name).map(String::as_str);
        let name = get("name").unwrap_or_default();
        let operator = get("flags").and_then(|flags| match flags {
            "EQ" => Some("="),
            "LT" => Some("<<"),
            "LE" => Some("<="),
            "GT" => Some(">>"),
            "GE" => Some(">="),
            _ => None,
        });
        let version = operator.map(|operator| (operator.to_owned(), evr(attributes)));
        let relation = || Relation { name: name.to_owned(), version: version.clone() };
        match self.list.as_str() {
            // What rpm itself must be able to do.
            "requires" if name.starts_with("rpmlib(") => {}
            "requires" if name.starts_with('(') => self.needs.extend(rich(name)),
            "requires" => self.needs.push(Need { any: vec![relation()], only_if: None }),
            "provides" => self.provides.push(relation()),
            "suggests" | "recommends" => self.prefers.push(name.to_owned()),
            _ => {}
        }
    }
}

/// `EPOCH:VERSION[-RELEASE]` of an element's attributes.
fn evr(attributes: &Attributes) -> String {
    let get = |name: &str| attributes.get(name).map(String::as_str);
    let release = get("rel").map_or_else(String::new, |release| format!("-{release}"));
    format!("{}:{}{release}", get("epoch").unwrap_or("0"), get("ver").unwrap_or_default())
}

impl Sink for Packages<'_> {
    fn begin(&mut self, name: &str, attributes: Attributes) -> Result<(), String> {
        let get = |name: &str| attributes.get(name).cloned().unwrap_or_default();
        match name {
            "version" => self.version = evr(&attributes),
            "checksum" => self.kind = get("type"),
            "size" => self.size = get("package").parse().ok(),
            "location" => self.path = Some(path(&get("href"))?),
            "entry" => self.entry(&attributes),
            _ => self.list = name.to_owned(),
        }
        Ok(())
    }

    fn end(&mut self, name: &str, text: &str) -> Result<(), String> {
        match name {
            "name" => self.name = text.to_owned(),
            "arch" => self.arch = text.to_owned(),
            "checksum" => self.sha256 = Some(sha256(&self.kind, text)?),
            // Some packages need a file, whoever has it.
            "file" => self.provides.push(Relation::of(text)),
            "package" => self.finish()?,
            _ => {}
        }
        Ok(())
    }
}

/// Reads `primary.xml`; the error names the package that is wrong.
pub(super) fn primary(
    input: impl BufRead,
    takes: &[&str],
    source: usize,
    put: &mut dyn FnMut(Package),
) -> Result<(), String> {
    read(input, &mut Packages { takes, source, put: Some(put), ..Packages::default() })
}

/// Deeper conditions are not written by anybody.
const DEEPEST: usize = 32;

/// A condition (rpm-dependency "Boolean dependencies") as needs. What cannot be
/// read is left to rpm, which checks all of them.
fn rich(text: &str) -> Vec<Need> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    condition(&mut words, 0).unwrap_or_default()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn condition(words: &mut Words<'_>, depth: usize) -> Option<Vec<Need>> {
    if depth > DEEPEST {
        return None;
    }
    if words.next_if_eq(&"(").is_none() {
        let mut name = words.next()?.to_owned();
        // Names may have parentheses of their own, such as libc.so.6(GLIBC_2.4).
        while words.peek() == Some(&"(") && !name.is_empty() {
            words.next();
            name.push('(');
            while let Some(word) = words.next_if(|word| *word != ")") {
                name.push_str(word);
            }
            words.next()?;
            name.push(')');
        }
        let operator = words.next_if(|word| ["=", "<", "<=", ">", ">="].contains(word));
        let version = match operator {
            Some(operator) => {
                let operator = match operator {
                    "<" => "<<",
                    ">" => ">>",
                    other => other,
                };
                Some((operator.to_owned(), words.next()?.to_owned()))
            }
            None => None,
        };
        return Some(vec![Need { any: vec![Relation { name, version }], only_if: None }]);
    }
    let mut left = condition(words, depth + 1)?;
    while let Some(word) = words.next() {
        if word == ")" {
            return Some(left);
        }
        let right = condition(words, depth + 1)?;
        match word {
            "and" | "with" => left.extend(right),
            "or" => {
                let more = right.into_iter().flat_map(|need| need.any);
                left.first_mut()?.any.extend(more);
                left.truncate(1);
            }
            "if" => {
                let reason = right.into_iter().flat_map(|need| need.any).next();
                left.iter_mut().for_each(|need| need.only_if.clone_from(&reason));
            }
            // Otherwise this one: rpm knows better.
            "else" | "unless" | "without" => {}
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOMD: &str = "<repomd xmlns='x'><data type='other'><size>1</size></data>\
        <data type=\"primary\"><checksum type=\"sha256\">SUM</checksum>\
        <location href=\"repodata/p.xml.gz\"/><size>12</size></data></repomd>";
    const PRIMARY: &str = "<?xml version='1.0'?><metadata packages='1'><package type='rpm'>\
        <name>a</name><arch>noarch</arch><version epoch='0' ver='1' rel='2'/>\
        <checksum type='sha256' pkgid='YES'>SUM</checksum><size package='7' installed='9'/>\
        <location href='Packages/a.rpm'/><format><rpm:provides><rpm:entry name='a' flags='EQ' \
        epoch='0' ver='1' rel='2'/></rpm:provides><rpm:requires><rpm:entry name='/bin/sh'/>\
        <rpm:entry name='rpmlib(X)' flags='LE' ver='1'/><rpm:entry name='b' flags='GE' ver='2'/>\
        <rpm:entry name='(c if d)'/></rpm:requires><rpm:suggests><rpm:entry name='e'/>\
        </rpm:suggests><file>/usr/bin/a&amp;b</file><file>/bin/a</file></format></package></metadata>";

    fn with_sum(text: &str) -> String {
        text.replace("SUM", &"0".repeat(64))
    }

    fn all(text: &str) -> Result<Vec<Package>, String> {
        let mut all = Vec::new();
        primary(text.as_bytes(), &["noarch"], 3, &mut |package| all.push(package)).map(|()| all)
    }

    #[test]
    fn metadata_are_read() {
        assert_eq!(repomd(with_sum(REPOMD).as_bytes()).unwrap().path, "repodata/p.xml.gz");
        let packages = all(&with_sum(PRIMARY)).unwrap();
        let [package] = &packages[..] else { panic!() };
        assert_eq!((package.version.as_str(), package.listed.size), ("0:1-2", 7));
        assert_eq!(package.needs.len(), 3);
        assert_eq!(package.needs[1].any[0].version, Some((">=".into(), "0:2".into())));
        assert_eq!(package.needs[2].only_if, Some(Relation::of("d")));
        assert!(package.provides.contains(&Relation::of("/bin/a")));
        assert_eq!(package.prefers, ["e"]);
        let other = with_sum(PRIMARY).replace("noarch", "sparc");
        assert!(all(&other).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (from, to) in [
            ("Packages/", "../"),
            ("'sha256' pkgid", "'md5' pkgid"),
            ("<size package='7'", "<size package='x'"),
            ("</package>", ""),
        ] {
            let text = with_sum(PRIMARY);
            assert!(text.contains(from) && all(&text.replace(from, to)).is_err(), "{from}");
        }
        let text = with_sum(REPOMD);
        for (from, to) in [("repodata", "/etc"), ("primary", "secondary"), ("12", "-1")] {
            assert!(repomd(text.replace(from, to).as_bytes()).is_err(), "{from}");
        }
        for text in [&text, &with_sum(PRIMARY)] {
            for at in 0..text.len() {
                let mut bad = text.as_bytes().to_vec();
                bad[at] = b'<';
                let _ = (repomd(&bad), primary(&bad[..], &[], 0, &mut |_| {}));
                bad.truncate(at);
                assert!(repomd(&bad).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn conditions_are_needs() {
        let names = |text: &str| -> Vec<Vec<String>> {
            let needs = rich(text);
            needs.iter().map(|n| n.any.iter().map(|r| r.name.clone()).collect()).collect()
        };
        assert_eq!(names("(a >= 1 or b)"), [vec!["a", "b"]]);
        assert_eq!(names("(a and (b or c))"), [vec!["a"], vec!["b", "c"]]);
        assert_eq!(names("(lib(x)(64bit) with b)"), [vec!["lib(x)(64bit)"], vec!["b"]]);
        assert_eq!(rich("(a = 1-2 if b)")[0].only_if, Some(Relation::of("b")));
        assert!(rich("(a").is_empty() && rich(&"(".repeat(5000)).is_empty());
    }
}
