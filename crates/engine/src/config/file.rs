//! One TOML file.

use std::fs;
use std::io;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key};
use super::{Config, ConfigError, Origin, Variables};

/// More than any sane configuration file, in bytes.
const LONGEST: u64 = 1 << 20;

/// Reads a file, if there is one, into the configuration.
pub(super) fn apply(
    path: &Path,
    vars: Variables<'_>,
    config: &mut Config,
) -> Result<(), ConfigError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(e) if absent(&e) => return Ok(()),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let line = |offset: usize| {
        let end = offset.min(text.len());
        text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1
    };
    let document = DeTable::parse(&text).map_err(|e| ConfigError::Syntax {
        path: path.to_owned(),
        line: line(e.span().map_or(0, |span| span.start)),
        message: e.message().to_owned(),
    })?;
    for (name, value) in document.get_ref() {
        let Some(key) = KEYS.iter().find(|key| key.name == name.get_ref()) else {
            let (path, line) = (path.to_owned(), line(name.span().start));
            return Err(ConfigError::UnknownKey { path, line, key: name.get_ref().to_string() });
        };
        let origin = Origin::File { path: path.to_owned(), line: line(value.span().start) };
        let words = words(key, value.get_ref()).ok_or_else(|| ConfigError::Value {
            origin: origin.clone(),
            key: key.name,
            reason: format!("a value of type {} is not expected here", value.get_ref().type_str()),
        })?;
        key.set(config, &words, &origin, vars)?;
    }
    Ok(())
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
