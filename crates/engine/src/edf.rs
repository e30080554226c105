//! Environment definition files: what CSCS's users write in place of flags.
//!
//! | key | value |
//! |---|---|
//! | `base_environment` | a name or path, or a list of them: what this file adds to; 10 levels at most |
//! | `image` | `[USER@][REGISTRY#]IMAGE[:TAG]`, a path, or a name as sampan reads it |
//! | `mounts` | a list of `SRC:DST[:OPTIONS]`, appended to the base's |
//! | `workdir` | a directory inside |
//! | `entrypoint` | whether the image's entrypoint runs; false |
//! | `writable` | whether the root file system takes writes, into memory; true |
//! | `env` | variables, added to the base's; an empty value unsets |
//! | `annotations` | texts, in tables or under dotted keys, added to the base's |
//! | `devices` | a list of CDI names, appended to the base's |
//!
//! `${NAME}` in a text is a variable of the caller, and an error if there is
//! none; `${NAME:-TEXT}` is TEXT then. A name without a slash is looked for as
//! NAME.toml in the directories of `EDF_PATH`, or else in those of the configuration
//! (`edf_dirs`), which are `~/.edf` unless it says otherwise.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::config::Variables;

/// Files that may stand one behind the other, with the first.
const DEEPEST: usize = 10;

/// Files that may be read for one.
const MOST: usize = 100;

/// More than any sane file, in bytes.
const LONGEST: u64 = 1 << 20;

/// The keys, for messages.
const KEYS: &str = "base_environment, image, mounts, workdir, entrypoint, writable, env, \
                    annotations, devices";

/// Why a file describes no environment.
#[derive(Debug, thiserror::Error)]
pub enum EdfError {
    /// No file of that name.
    #[error("there is no environment {name:?}: looked for {}", show(searched))]
    NotFound {
        /// The name.
        name: String,
        /// The files that are not there.
        searched: Vec<PathBuf>,
    },
    /// There is nowhere to look.
    #[error("there is no environment {name:?}: neither EDF_PATH, edf_dirs nor HOME is set")]
    NoPath {
        /// The name.
        name: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that means nothing.
    #[error("{}:{line}: {key:?} is not known: the keys are {KEYS}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A value of another type.
    #[error("{}:{line}: {key}: expected {expected}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A `${…}` that stands for nothing.
    #[error("{}:{line}: {reason}", path.display())]
    Expand {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The image is none.
    #[error("{}:{line}: image", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: types::EnrootNameError,
    },
    /// Files that stand too deep, or in a circle.
    #[error("{path:?} is more than {DEEPEST} levels deep: does base_environment lead back to it?")]
    Deep {
        /// The file.
        path: PathBuf,
    },
    /// Each file may name many, and those many more.
    #[error("{path:?} would be read after {MOST} others: name fewer files as base_environment")]
    Many {
        /// The file.
        path: PathBuf,
    },
}

fn show(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// An environment, with all that it adds to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edf {
    /// The file.
    pub path: PathBuf,
    /// The image, as [`types::ImageRef`] reads it.
    pub image: Option<String>,
    /// Mounts, as `--bind` reads them.
    pub mounts: Vec<String>,
    /// The working directory.
    pub workdir: Option<PathBuf>,
    /// Whether the image's entrypoint runs.
    pub entrypoint: Option<bool>,
    /// Whether writes are taken.
    pub writable: Option<bool>,
    /// Variables; None unsets.
    pub env: BTreeMap<String, Option<String>>,
    /// Texts for hooks, by dotted key.
    pub annotations: BTreeMap<String, String>,
    /// CDI names.
    pub devices: Vec<String>,
}

impl Edf {
    /// Reads a file by name or path, and all that it adds to. Names are looked for in
    /// `dirs` where the variable `EDF_PATH` says nothing else.
    ///
    /// # Errors
    /// When a file is missing or malformed, or a variable is not set.
    pub fn load(name: &str, dirs: &[PathBuf], vars: Variables<'_>) -> Result<Self, EdfError> {
        let own = vars("EDF_PATH").filter(|list| !list.is_empty());
        let own: Option<Vec<PathBuf>> =
            own.map(|list| std::env::split_paths(&list).filter(|p| p.is_absolute()).collect());
        let dirs = own.as_deref().unwrap_or(dirs);
        let path = find(name, Path::new(""), dirs)?;
        let (mut edf, mut left) = (Self::default(), MOST);
        read_into(&mut edf, path.clone(), (dirs, vars), 1, &mut left)?;
        Ok(Self { path, ..edf })
    }
}

/// Reads the text of a file, and the files that it adds to.
pub(crate) fn parse(path: &Path, text: String, vars: Variables<'_>) -> Result<Edf, EdfError> {
    let (mut edf, mut left) = (Edf::default(), MOST);
    File { path: path.to_owned(), text, dirs: &[], vars }.add_to(&mut edf, 1, &mut left)?;
    Ok(edf)
}

fn read_into(
    edf: &mut Edf,
    path: PathBuf,
    (dirs, vars): (&[PathBuf], Variables<'_>),
    level: usize,
    left: &mut usize,
) -> Result<(), EdfError> {
    if level > DEEPEST {
        return Err(EdfError::Deep { path });
    }
    *left = left.checked_sub(1).ok_or_else(|| EdfError::Many { path: path.clone() })?;
    let text = read(&path).map_err(|source| EdfError::Read { path: path.clone(), source })?;
    File { path, text, dirs, vars }.add_to(edf, level, left)
}

/// The file of a name; a path is relative to `dir`.
fn find(name: &str, dir: &Path, dirs: &[PathBuf]) -> Result<PathBuf, EdfError> {
    let not_found = |searched| EdfError::NotFound { name: name.to_owned(), searched };
    if name.contains('/') {
        let path = dir.join(name);
        return if path.exists() { Ok(path) } else { Err(not_found(vec![path])) };
    }
    if dirs.is_empty() {
        return Err(EdfError::NoPath { name: name.to_owned() });
    }
    let file = if name.ends_with(".toml") { name.to_owned() } else { format!("{name}.toml") };
    let all: Vec<PathBuf> = dirs.iter().map(|dir| dir.join(&file)).collect();
    match all.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => Err(not_found(all)),
    }
}

/// A file on its way into an environment.
struct File<'a> {
    path: PathBuf,
    text: String,
    /// Where names are looked for.
    dirs: &'a [PathBuf],
    vars: Variables<'a>,
}

type Value<'t> = Spanned<DeValue<'t>>;

impl File<'_> {
    fn add_to(&self, edf: &mut Edf, level: usize, left: &mut usize) -> Result<(), EdfError> {
        let document = DeTable::parse(&self.text).map_err(|e| EdfError::Syntax {
            path: self.path.clone(),
            line: self.line(e.span().map_or(0, |span| span.start)),
            message: e.message().to_owned(),
        })?;
        let document = document.get_ref();
        // First what this file adds to, wherever it is named.
        if let Some(value) = document.get("base_environment") {
            let dir = self.path.parent().unwrap_or(Path::new("")).to_owned();
            for name in self.base(value)? {
                let path = find(&name, &dir, self.dirs)?;
                read_into(edf, path, (self.dirs, self.vars), level + 1, left)?;
            }
        }
        for (name, value) in document {
            let key: &str = name.get_ref();
            match key {
                "base_environment" => {}
                "image" => edf.image = Some(self.image(key, value)?),
                "mounts" => edf.mounts.extend(self.list(key, value)?),
                "workdir" => edf.workdir = Some(self.string(key, value)?.into()),
                "entrypoint" => edf.entrypoint = Some(self.switch(key, value)?),
                "writable" => edf.writable = Some(self.switch(key, value)?),
                "env" => self.env(value, &mut edf.env)?,
                "annotations" => self.annotations(key, value, &mut edf.annotations)?,
                "devices" => edf.devices.extend(self.list(key, value)?),
                _ => {
                    let (path, line) = (self.path.clone(), self.line(name.span().start));
                    return Err(EdfError::Key { path, line, key: key.to_owned() });
                }
            }
        }
        Ok(())
    }

    fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        self.text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1
    }

    fn wrong(&self, key: &str, value: &Value<'_>, expected: &'static str) -> EdfError {
        let (path, line) = (self.path.clone(), self.line(value.span().start));
        EdfError::Type { path, line, key: key.to_owned(), expected }
    }

    /// A text, with its variables replaced.
    fn string(&self, key: &str, value: &Value<'_>) -> Result<String, EdfError> {
        let DeValue::String(text) = value.get_ref() else {
            return Err(self.wrong(key, value, "a string"));
        };
        expand(text, self.vars).map_err(|reason| {
            let (path, line) = (self.path.clone(), self.line(value.span().start));
            EdfError::Expand { path, line, reason }
        })
    }

    fn strings(&self, key: &str, list: &DeArray<'_>) -> Result<Vec<String>, EdfError> {
        list.iter().map(|item| self.string(key, item)).collect()
    }

    fn list(&self, key: &str, value: &Value<'_>) -> Result<Vec<String>, EdfError> {
        match value.get_ref() {
            DeValue::Array(list) => self.strings(key, list),
            _ => Err(self.wrong(key, value, "a list of strings")),
        }
    }

    fn base(&self, value: &Value<'_>) -> Result<Vec<String>, EdfError> {
        let key = "base_environment";
        match value.get_ref() {
            DeValue::Array(list) => self.strings(key, list),
            DeValue::String(_) => Ok(vec![self.string(key, value)?]),
            _ => Err(self.wrong(key, value, "a string or a list of strings")),
        }
    }

    fn switch(&self, key: &str, value: &Value<'_>) -> Result<bool, EdfError> {
        match value.get_ref() {
            DeValue::Boolean(on) => Ok(*on),
            _ => Err(self.wrong(key, value, "true or false")),
        }
    }

    fn image(&self, key: &str, value: &Value<'_>) -> Result<String, EdfError> {
        let text = self.string(key, value)?;
        types::from_enroot_name(&text).map_err(|source| {
            let (path, line) = (self.path.clone(), self.line(value.span().start));
            EdfError::Image { path, line, source }
        })
    }

    fn env(
        &self,
        value: &Value<'_>,
        env: &mut BTreeMap<String, Option<String>>,
    ) -> Result<(), EdfError> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.wrong("env", value, "a table of strings"));
        };
        for (name, value) in table {
            let name: &str = name.get_ref();
            let text = self.string(name, value)?;
            env.insert(name.to_owned(), Some(text).filter(|text| !text.is_empty()));
        }
        Ok(())
    }

    fn annotations(
        &self,
        key: &str,
        value: &Value<'_>,
        all: &mut BTreeMap<String, String>,
    ) -> Result<(), EdfError> {
        let text = match value.get_ref() {
            DeValue::Table(table) => {
                for (name, value) in table {
                    let name = match key {
                        "annotations" => name.get_ref().to_string(),
                        above => format!("{above}.{}", name.get_ref()),
                    };
                    self.annotations(&name, value, all)?;
                }
                return Ok(());
            }
            DeValue::Boolean(on) if key != "annotations" => on.to_string(),
            DeValue::Integer(number) if key != "annotations" => number.to_string(),
            DeValue::String(_) if key != "annotations" => self.string(key, value)?,
            _ => return Err(self.wrong(key, value, "a table of strings")),
        };
        all.insert(key.to_owned(), text);
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if file.take(LONGEST + 1).read_to_string(&mut text)? as u64 > LONGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Replaces `${NAME}` and `${NAME:-TEXT}`; any other $ is itself.
fn expand(text: &str, vars: Variables<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let (inner, tail) = after.split_once('}').ok_or_else(|| format!("{text:?} has no }}"))?;
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(word) {
            return Err(format!("{name:?} is not the name of a variable"));
        }
        let value = vars(name).map(OsString::into_string).transpose();
        let value = value.map_err(|_| format!("${name} is not UTF-8"))?;
        match (value, default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!("${name} is not set; ${{{name}:-TEXT}} stands for TEXT then"));
            }
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files in a search path, and what loading the first one says.
    fn load(files: &[(&str, &str)]) -> Result<Edf, EdfError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
        }
        let path = dir.path().as_os_str().to_owned();
        let vars = move |name: &str| match name {
            "EDF_PATH" => Some(path.clone()),
            "USER" => Some("me".into()),
            "EMPTY" => Some("".into()),
            _ => None,
        };
        Edf::load(files[0].0, &["/elsewhere".into()], &vars)
    }

    fn message(text: &str) -> String {
        load(&[("e", text)]).unwrap_err().to_string()
    }

    #[test]
    fn all_keys() {
        let text = r#"
image = "nvcr.io#nvidia/pytorch:24.01"
mounts = ["/scratch/${USER}:/data:ro", "/a:/b"]
workdir = "/work${EMPTY}"
entrypoint = true
writable = false
devices = ["nvidia.com/gpu=all"]
[env]
A = "1"
GONE = ""
FALLBACK = "${NONE:-x}${EMPTY:-y}${NONE:-}$HOME"
[annotations]
com.hooks.aws.enabled = "true"
[annotations.com.hooks.ssh]
port = 22
"#;
        let edf = load(&[("e", text)]).unwrap();
        assert_eq!(edf.image.as_deref(), Some("docker://nvcr.io/nvidia/pytorch:24.01"));
        assert_eq!(edf.mounts, ["/scratch/me:/data:ro", "/a:/b"]);
        assert_eq!(edf.workdir.as_deref(), Some(Path::new("/work")));
        assert_eq!((edf.entrypoint, edf.writable), (Some(true), Some(false)));
        assert_eq!(edf.env["A"].as_deref(), Some("1"));
        assert_eq!(edf.env["GONE"], None);
        assert_eq!(edf.env["FALLBACK"].as_deref(), Some("xy$HOME"));
        assert_eq!(edf.annotations["com.hooks.aws.enabled"], "true");
        assert_eq!(edf.annotations["com.hooks.ssh.port"], "22");
        assert_eq!(edf.devices, ["nvidia.com/gpu=all"]);
    }

    #[test]
    fn a_file_adds_to_others() {
        let edf = load(&[
            ("top", "mounts = ['/c']\nbase_environment = ['one', 'two']\n[env]\nB = 'top'"),
            ("one", "image = 'a'\nmounts = ['/a']\nworkdir = '/one'\n[env]\nA = '1'\nB = '1'"),
            ("two", "base_environment = 'three'\nimage = 'b'\n[env]\nA = ''"),
            ("three", "mounts = ['/b']\nentrypoint = true"),
        ]);
        let edf = edf.unwrap();
        assert_eq!((edf.image.as_deref(), edf.entrypoint), (Some("b"), Some(true)));
        assert_eq!(edf.mounts, ["/a", "/b", "/c"]);
        assert_eq!(edf.workdir.as_deref(), Some(Path::new("/one")));
        assert_eq!((edf.env["A"].as_deref(), edf.env["B"].as_deref()), (None, Some("top")));
        assert!(edf.path.ends_with("top.toml"));
    }

    #[test]
    fn ten_levels_and_no_more() {
        let names: Vec<String> = (0..11).map(|level| format!("l{level}")).collect();
        let texts: Vec<String> =
            (1..12).map(|level| format!("base_environment = 'l{level}'")).collect();
        let mut files: Vec<(&str, &str)> =
            names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
        files[9].1 = "image = 'deep'";
        assert_eq!(load(&files).unwrap().image.as_deref(), Some("deep"));
        files[9].1 = "base_environment = 'l10'";
        files[10].1 = "image = 'deeper'";
        assert!(load(&files).unwrap_err().to_string().contains("10 levels"));
        let circle = load(&[("a", "base_environment = 'b'"), ("b", "base_environment = 'a'")]);
        assert!(matches!(circle, Err(EdfError::Deep { .. })));
    }

    #[test]
    fn files_without_an_end_are_refused() {
        let bases = format!("base_environment = [{}]", "'b', ".repeat(MOST - 1));
        let leaf = ("b", "image = 'b'");
        assert!(load(&[("a", &bases), leaf]).is_ok());
        let bases = format!("base_environment = [{}]", "'b', ".repeat(MOST));
        let error = load(&[("a", &bases), leaf]).unwrap_err();
        assert!(matches!(error, EdfError::Many { .. }), "{error}");
        // Each level would name the next one again and again.
        let names = ["a", "b", "c", "d", "e", "f"];
        let texts: Vec<String> = names[1..]
            .iter()
            .map(|name| format!("base_environment = [{}]", format!("'{name}', ").repeat(99)))
            .collect();
        let mut files: Vec<_> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
        files.push(("f", "image = 'f'"));
        assert!(matches!(load(&files), Err(EdfError::Many { .. })));
    }

    #[test]
    fn tables_without_an_end_are_refused() {
        let nested = format!("annotations.{} = 'x'", vec!["a"; 100_000].join("."));
        assert!(load(&[("e", &nested)]).is_err());
        let nested = format!("annotations = {}", "{a = ".repeat(100_000));
        assert!(load(&[("e", &nested)]).is_err());
    }

    #[test]
    fn mistakes_have_a_file_and_a_line() {
        for (text, line, word) in [
            ("image = 'a'\nimge = 'b'", 2, "imge"),
            ("\nimage = 3", 2, "a string"),
            ("mounts = '/a:/b'", 1, "a list"),
            ("mounts = [\n'/a',\n4]", 3, "a string"),
            ("entrypoint = 'yes'", 1, "true or false"),
            ("image = 'a'\nworkdir = '${NONE}'", 2, "$NONE is not set"),
            ("image = '${'", 1, "no }"),
            ("image = '${a b}'", 1, "not the name"),
            ("image = 'dockerd://a'", 1, "image"),
            ("image =", 1, ""),
            ("[env]\nA = 1", 2, "a string"),
            ("annotations = 'x'", 1, "a table"),
        ] {
            let said = message(text);
            assert!(said.contains(&format!("e.toml:{line}: ")), "{text}: {said}");
            assert!(said.contains(word), "{text}: {said}");
        }
    }

    #[test]
    fn names_and_paths() {
        let dir = tempfile::tempdir().unwrap();
        let edf = dir.path().join(".edf");
        std::fs::create_dir(&edf).unwrap();
        std::fs::write(edf.join("home.toml"), "base_environment = './beside.toml'").unwrap();
        std::fs::write(edf.join("beside.toml"), "image = 'beside'").unwrap();
        let (dirs, vars) = (["/no/such/dir".into(), edf.clone()], |_: &str| None);
        for name in ["home", "home.toml", edf.join("home.toml").to_str().unwrap()] {
            assert_eq!(
                Edf::load(name, &dirs, &vars).unwrap().image.as_deref(),
                Some("beside"),
                "{name}"
            );
        }
        let said = Edf::load("none", &dirs, &vars).unwrap_err().to_string();
        assert!(
            said.contains("/no/such/dir/none.toml") && said.contains(".edf/none.toml"),
            "{said}"
        );
        assert!(Edf::load("none", &[], &vars).unwrap_err().to_string().contains("HOME"));
    }
}
