//! Metadata of a repository: `repomd.xml`, and the packages of `primary.xml`
//! (createrepo_c(8)).

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::mem::take;

use super::xml::{Attributes, Sink, read};
use crate::bootstrap::fetch::Listed;
use crate::bootstrap::select::{Need, Package, Relation};

/// What `repomd.xml` says of a list: where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bootstrap) struct List {
    pub(super) path: String,
    pub(super) listed: Listed,
}

/// The lists of a repository that are read here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bootstrap) struct Lists {
    /// The packages.
    pub(super) primary: List,
    /// Every file of each; repositories may do without.
    pub(super) filelists: Option<List>,
    /// Streams of modules, where there are any.
    pub(super) modules: Option<List>,
}

/// Paths stay below the repository.
fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') || text.split('/').any(|word| word == "..") {
        return Err(format!("{text:?} is no path of the repository"));
    }
    Ok(text.to_owned())
}

fn checksum(kind: &str, text: &str) -> Result<String, String> {
    let length = match kind {
        "sha256" => 64,
        "sha512" => 128,
        _ => 0,
    };
    if text.len() != length || !text.chars().all(|c| c.is_ascii_hexdigit()) || length == 0 {
        return Err(format!("a checksum that is no SHA-256 or SHA-512: {kind} {text}"));
    }
    Ok(text.to_ascii_lowercase())
}

#[derive(Default)]
struct Repomd {
    all: BTreeMap<String, List>,
    /// The type of what is read now, and what is known of it.
    data: String,
    kind: String,
    path: Option<String>,
    sum: Option<String>,
    size: Option<u64>,
}

impl Repomd {
    /// Lists of other types may have any form.
    fn wanted(&self) -> bool {
        ["primary", "filelists", "modules"].contains(&self.data.as_str())
    }
}

impl Sink for Repomd {
    fn begin(&mut self, name: &str, attributes: Attributes) -> Result<(), String> {
        let get = |name: &str| attributes.get(name).cloned().unwrap_or_default();
        match name {
            "data" => {
                *self = Self { data: get("type"), all: take(&mut self.all), ..Self::default() }
            }
            "checksum" => self.kind = get("type"),
            "location" if self.wanted() => self.path = Some(path(&get("href"))?),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, name: &str, text: &str) -> Result<(), String> {
        match name {
            "data" => {
                if let (Some(path), Some(sum), Some(size)) =
                    (self.path.take(), self.sum.take(), self.size.take())
                {
                    let listed = Listed { sum, size };
                    self.all.insert(take(&mut self.data), List { path, listed });
                }
            }
            "checksum" if self.wanted() => self.sum = Some(checksum(&self.kind, text)?),
            "size" if self.wanted() => {
                self.size = Some(text.parse().map_err(|_| format!("a size of {text:?}"))?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads `repomd.xml`.
pub(in crate::bootstrap) fn repomd(bytes: &[u8]) -> Result<Lists, String> {
    let mut sink = Repomd::default();
    read(bytes, &mut sink)?;
    let primary = sink.all.remove("primary").ok_or("it lists no packages")?;
    let mut other = |name: &str| sink.all.remove(name);
    Ok(Lists { primary, filelists: other("filelists"), modules: other("modules") })
}

/// `filelists.xml` while it is read.
struct Filelists<'a> {
    /// Files that are looked for.
    wanted: &'a HashSet<String>,
    /// Checksum and name of the package.
    package: (String, String),
    put: &'a mut dyn FnMut(&str, &str, &str),
}

impl Sink for Filelists<'_> {
    fn begin(&mut self, name: &str, mut attributes: Attributes) -> Result<(), String> {
        if name == "package" {
            let mut get = |name: &str| attributes.remove(name).unwrap_or_default();
            self.package = (get("pkgid"), get("name"));
        }
        Ok(())
    }

    fn end(&mut self, name: &str, text: &str) -> Result<(), String> {
        if name == "file" && self.wanted.contains(text) {
            (self.put)(&self.package.0, &self.package.1, text);
        }
        Ok(())
    }
}

/// Reads `filelists.xml`: of each file that is looked for, the checksum and the name
/// of the package that has it.
pub(in crate::bootstrap) fn filelists(
    input: impl Read,
    wanted: &HashSet<String>,
    put: &mut dyn FnMut(&str, &str, &str),
) -> Result<(), String> {
    read(input, &mut Filelists { wanted, package: Default::default(), put })
}

/// Takes a package and its architecture.
pub(super) type Put<'a> = &'a mut dyn FnMut(Package, &str);

/// A package while it is read.
#[derive(Default)]
struct Packages<'a> {
    /// Architectures that run here.
    takes: &'a [&'a str],
    source: usize,
    put: Option<Put<'a>>,
    name: String,
    arch: String,
    version: String,
    kind: String,
    sum: Option<String>,
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
        let name = take(&mut self.name);
        let missing = |what: &str| format!("package {name}: {what} is missing");
        let package = Package {
            version: take(&mut self.version),
            needs: take(&mut self.needs),
            provides: take(&mut self.provides),
            conflicts: Vec::new(),
            prefers: take(&mut self.prefers),
            always: false,
            path: self.path.take().ok_or_else(|| missing("location"))?,
            listed: Listed {
                sum: self.sum.take().ok_or_else(|| missing("checksum"))?,
                size: self.size.take().ok_or_else(|| missing("size"))?,
            },
            source: self.source,
            name,
        };
        if self.takes.contains(&self.arch.as_str())
            && let Some(put) = &mut self.put
        {
            put(package, &self.arch);
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
            "checksum" => self.sum = Some(checksum(&self.kind, text)?),
            // Some packages need a file, whoever has it.
            "file" => self.provides.push(Relation::of(text)),
            "package" => self.finish()?,
            _ => {}
        }
        Ok(())
    }
}

/// Reads `primary.xml`: packages and their architectures; the error names the package that
/// is wrong.
pub(in crate::bootstrap) fn primary(
    input: impl Read,
    takes: &[&str],
    source: usize,
    put: Put<'_>,
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
        primary(text.as_bytes(), &["noarch"], 3, &mut |package, _| all.push(package)).map(|()| all)
    }

    #[test]
    fn metadata_are_read() {
        let lists = repomd(with_sum(REPOMD).as_bytes()).unwrap();
        assert_eq!(lists.primary.path, "repodata/p.xml.gz");
        assert_eq!((lists.filelists, lists.modules), (None, None));
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
    fn files_are_found_by_the_checksum_of_their_package() {
        let text = "<filelists packages='1'><package pkgid='SUM' name='a' arch='x'>\
            <version ver='1'/><file>/etc/x</file><file type='dir'>/etc/y</file></package>\
            </filelists>";
        let wanted = HashSet::from(["/etc/y".to_owned(), "/z".to_owned()]);
        let mut found = Vec::new();
        let mut put = |sum: &str, name: &str, file: &str| {
            found.push([sum, name, file].map(str::to_owned));
        };
        filelists(text.as_bytes(), &wanted, &mut put).unwrap();
        assert_eq!(found, [["SUM", "a", "/etc/y"]]);
        let endless =
            std::io::Read::chain(&b"<filelists><package name='"[..], std::io::repeat(b'a'));
        let error = filelists(endless, &wanted, &mut |_, _, _| {}).unwrap_err();
        assert!(error.contains("more than"), "{error}");
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
                let _ = (repomd(&bad), primary(&bad[..], &[], 0, &mut |_, _| {}));
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
