//! One TOML file.

use std::fs;
use std::io;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key};
use super::{Config, ConfigError, Origin, Variables};

/// More than any sane configuration file, in bytes.
const LONGEST: u64 = 1 << 20;

/// Reads a file, if there is one, into the configuration; its first error.
pub(super) fn apply(
    path: &Path,
    site: bool,
    vars: Variables<'_>,
    config: &mut Config,
) -> Result<(), ConfigError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(e) if absent(&e) => return Ok(()),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    match apply_text(path, &text, site, vars, config).into_iter().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Reads a file that has to be there; all of its errors.
pub(super) fn check(
    path: &Path,
    site: bool,
    vars: Variables<'_>,
    config: &mut Config,
) -> Vec<ConfigError> {
    match read(path) {
        Ok(text) => apply_text(path, &text, site, vars, config),
        Err(source) => vec![ConfigError::Read { path: path.to_owned(), source }],
    }
}

fn apply_text(
    path: &Path,
    text: &str,
    site: bool,
    vars: Variables<'_>,
    config: &mut Config,
) -> Vec<ConfigError> {
    let line = |offset: usize| {
        let end = offset.min(text.len());
        text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1
    };
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(e) => {
            let line = line(e.span().map_or(0, |span| span.start));
            let message = e.message().to_owned();
            return vec![ConfigError::Syntax { path: path.to_owned(), line, message }];
        }
    };
    let mut errors = Vec::new();
    for (name, at, value) in entries(document.get_ref()) {
        let (path, line_of) = (path.to_owned(), line(at));
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            errors.push(ConfigError::UnknownKey { path, line: line_of, key: name });
            continue;
        };
        if key.of_site && !site {
            errors.push(ConfigError::OfSite { path, line: line_of, key: name });
            continue;
        }
        let origin = Origin::File { path, line: line(value.span().start) };
        let set = words(key, value.get_ref()).ok_or_else(|| ConfigError::Value {
            origin: origin.clone(),
            key: key.name,
            reason: format!("a value of type {} is not expected here", value.get_ref().type_str()),
        });
        errors.extend(set.and_then(|words| key.set(config, &words, &origin, vars)).err());
    }
    errors
}

/// The keys of a document with their places, those of a section as one name.
fn entries<'a, 't>(document: &'a DeTable<'t>) -> Vec<(String, usize, &'a Spanned<DeValue<'t>>)> {
    let mut all = Vec::new();
    for (name, value) in document {
        match value.get_ref() {
            DeValue::Table(section) => {
                for (inner, value) in section {
                    let name = match inner.get_ref().as_ref() {
                        "mode" => name.get_ref().to_string(),
                        inner => format!("{}_{inner}", name.get_ref()),
                    };
                    all.push((name, inner.span().start, value));
                }
            }
            _ => all.push((name.get_ref().to_string(), name.span().start, value)),
        }
    }
    all
}

fn read(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if file.take(LONGEST + 1).read_to_string(&mut text)? as u64 > LONGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// A home directory that is absent or closed has no configuration.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn words(key: &Key, value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.to_string()]),
        DeValue::Integer(number) => Some(vec![number.to_string()]),
        DeValue::Array(list) if key.separator.is_some() => {
            list.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        }
        _ => None,
    }
}
