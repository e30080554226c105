//! Databases of pacman's repositories: a tar of a directory per package, in which
//! `desc` says what it is (repo-add(8)).
//!
//! ```text
//! NAME-VERSION/desc     %NAME%
//!                       bash
//!
//!                       %DEPENDS%
//!                       glibc
//!                       readline>=8
//! ```

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::bootstrap::fetch::Listed;
use crate::bootstrap::select::{Need, Package, Relation};

/// A longer description has no package: its signature and its relations are some KiB.
const LONGEST_ENTRY: u64 = 1 << 20;

/// A package of a database.
#[derive(Clone, Debug)]
pub(in crate::bootstrap) struct Entry {
    pub(super) package: Package,
    pub(super) groups: Vec<String>,
    /// A detached OpenPGP signature of the file; others are in a file beside it.
    pub(super) signature: Option<Vec<u8>>,
}

impl Relation {
    /// `name[<|<=|=|>=|>version]`
    fn of_pacman(text: &str) -> Self {
        let Some(at) = text.find(['<', '=', '>']) else { return Self::of(text) };
        let (name, rest) = text.split_at(at);
        let end = rest.find(|c| !"<=>".contains(c)).unwrap_or(rest.len());
        let (operator, version) = rest.split_at(end);
        let operator = match operator {
            "<" => "<<",
            ">" => ">>",
            other => other,
        };
        Self { name: name.to_owned(), version: Some((operator.to_owned(), version.to_owned())) }
    }
}

/// Reads a database, already inflated; the error names the package that is wrong.
pub(in crate::bootstrap) fn packages(
    input: impl Read,
    takes: &[&str],
    source: usize,
    put: &mut dyn FnMut(Entry),
) -> Result<(), String> {
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let path = entry.path().map_err(|e| e.to_string())?.into_owned();
        if path.file_name().is_none_or(|name| name != "desc") {
            continue;
        }
        let dir = path.parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        if entry.size() > LONGEST_ENTRY {
            return Err(format!("package {dir}: a description of {} bytes", entry.size()));
        }
        let mut text = String::new();
        let read = entry.take(LONGEST_ENTRY).read_to_string(&mut text);
        read.map_err(|e| format!("package {dir}: {e}"))?;
        let fields = fields(&text);
        let arch = fields.get("ARCH").and_then(|values| values.first());
        if arch.is_none_or(|arch| takes.contains(arch)) {
            let wrong = |what| format!("package {dir}: %{what}% is missing or wrong");
            put(self::entry(&fields, source).map_err(wrong)?);
        }
    }
    Ok(())
}

type Fields<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn fields(text: &str) -> Fields<'_> {
    let mut fields = Fields::new();
    let mut name = "";
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix('%').and_then(|line| line.strip_suffix('%')) {
            Some(field) => name = field,
            None => fields.entry(name).or_default().push(line),
        }
    }
    fields
}

fn entry(fields: &Fields<'_>, source: usize) -> Result<Entry, &'static str> {
    let list = |name: &str| fields.get(name).map(Vec::as_slice).unwrap_or_default();
    let one = |name: &'static str| list(name).first().copied().ok_or(name);
    let relations = |name: &str| list(name).iter().map(|text| Relation::of_pacman(text));
    let path = one("FILENAME")?;
    if path.contains('/') || path.starts_with('.') {
        return Err("FILENAME");
    }
    let name = one("NAME")?;
    let good = |c: char| c.is_ascii_alphanumeric() || "@._+-".contains(c);
    // It becomes part of the name of a file.
    if name.starts_with(['.', '-']) || !name.chars().all(good) {
        return Err("NAME");
    }
    let sha256 = one("SHA256SUM")?.to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err("SHA256SUM");
    }
    let signature = match list("PGPSIG").first() {
        Some(text) => Some(BASE64_STANDARD.decode(text).map_err(|_| "PGPSIG")?),
        None => None,
    };
    let need = |relation| Need { any: vec![relation], only_if: None };
    let package = Package {
        name: name.to_owned(),
        version: one("VERSION")?.to_owned(),
        needs: relations("DEPENDS").map(need).collect(),
        provides: relations("PROVIDES").collect(),
        conflicts: relations("CONFLICTS").collect(),
        prefers: Vec::new(),
        always: false,
        path: path.to_owned(),
        listed: Listed { sum: sha256, size: one("CSIZE")?.parse().map_err(|_| "CSIZE")? },
        source,
    };
    let groups = list("GROUPS").iter().map(|group| (*group).to_owned()).collect();
    Ok(Entry { package, groups, signature })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESC: &str = "%FILENAME%\na-1:2-1-any.pkg.tar.zst\n\n%NAME%\na\n\n%VERSION%\n1:2-1\n\n\
        %CSIZE%\n7\n\n%SHA256SUM%\nSUM\n\n%PGPSIG%\niQEz\n\n%ARCH%\nany\n\n%GROUPS%\ng\n\n\
        %DEPENDS%\nb\nc>=2\nlibx.so=1-64\n\n%PROVIDES%\nd=3\n\n%CONFLICTS%\ne<4\n";

    fn database(desc: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let text = desc.replace("SUM\n", &format!("{}\n", "0".repeat(64)));
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, "a-1:2-1/desc", text.as_bytes()).unwrap();
        tar.into_inner().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, String> {
        let mut all = Vec::new();
        packages(bytes, &["x86_64", "any"], 2, &mut |entry| all.push(entry)).map(|()| all)
    }

    #[test]
    fn descriptions_are_read() {
        let all = read(&database(DESC)).unwrap();
        let [Entry { package, groups, signature }] = &all[..] else { panic!() };
        assert_eq!((package.name.as_str(), package.version.as_str()), ("a", "1:2-1"));
        let shown: Vec<String> =
            package.needs.iter().map(|need| format!("{:?}", need.any)).collect();
        assert!(shown[0].contains("None") && shown[1].contains("\">=\", \"2\""), "{shown:?}");
        assert!(shown[2].contains("libx.so") && shown[2].contains("\"=\", \"1-64\""), "{shown:?}");
        let below = Some(("<<".to_owned(), "4".to_owned()));
        assert_eq!(package.conflicts, [Relation { name: "e".to_owned(), version: below }]);
        assert_eq!(
            (groups.as_slice(), signature.as_deref()),
            (&["g".to_owned()][..], Some(&[0x89, 1, 0x33][..]))
        );
        assert!(read(&database(&DESC.replace("\nany\n", "\nsparc\n"))).unwrap().is_empty());
    }

    #[test]
    fn databases_of_any_form_are_read_or_refused() {
        for (from, to, word) in [
            ("a-1:2", "../a", "FILENAME"),
            ("%NAME%\na", "%NAME%\n../a", "NAME"),
            ("\n7\n", "\nx\n", "CSIZE"),
            ("SUM\n\n%PGP", "12\n\n%PGP", "SHA256SUM"),
            ("iQEz", "*", "PGPSIG"),
            ("%VERSION%", "%X%", "VERSION"),
        ] {
            assert!(DESC.contains(from));
            let error = read(&database(&DESC.replacen(from, to, 1))).unwrap_err();
            assert!(error.contains("a-1:2-1") && error.contains(word), "{word}: {error}");
        }
        let whole = database(DESC);
        for at in 0..whole.len().min(1200) {
            let mut bad = whole.clone();
            bad[at] ^= 0x15;
            let _ = read(&bad);
            let _ = read(&whole[..at]);
        }
    }
}
