//! The texts that name a mount: `SRC[:DST[:OPTIONS]]` and the like. Pure: no
//! path is looked at.
//!
//! `\:`, `\,` and `\\` stand for the characters themselves. A comma begins
//! another bind where a `/` follows it, and another option elsewhere, so that
//! Apptainer's comma-separated lists and Docker's options both read as meant.

use std::path::PathBuf;

use plan::MountFlags;
use types::ByteSize;

/// A bind as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// File or directory of the host, absolute or relative to the caller's
    /// working directory.
    pub source: PathBuf,
    /// Path in the container; None is the path of the source.
    pub target: Option<PathBuf>,
    /// How it is mounted.
    pub flags: MountFlags,
}

/// A tmpfs as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Path in the container.
    pub target: PathBuf,
    /// Size limit in bytes.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: u32,
}

/// What `--mount` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// `type=bind`.
    Bind(Bind),
    /// `type=tmpfs`.
    Tmpfs(Tmpfs),
}

/// Why a text names no mount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountSyntaxError {
    /// No source or target.
    #[error("{0:?} names no path: expected SRC[:DST[:OPTIONS]]")]
    Empty(String),
    /// More than three parts.
    #[error(
        "{0:?} has too many parts: expected SRC[:DST[:OPTIONS]], with \\: for a colon in a path"
    )]
    TooManyParts(String),
    /// An option that is not known.
    #[error("mount option {option:?} of {text:?} is not known: expected ro, rw, bind or rbind")]
    Option {
        /// The option.
        option: String,
        /// The whole text.
        text: String,
    },
    /// A key of `--mount` or `--tmpfs` that is not known.
    #[error("{key:?} of {text:?} is not known: expected {expected}")]
    Key {
        /// The key.
        key: String,
        /// The whole text.
        text: String,
        /// What is known.
        expected: &'static str,
    },
    /// A value that cannot be read.
    #[error("{value:?} is no value for {key} in {text:?}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The whole text.
        text: String,
    },
    /// A key that is missing.
    #[error("{text:?} has no {key}=")]
    Missing {
        /// The key.
        key: &'static str,
        /// The whole text.
        text: String,
    },
    /// A target that is not absolute.
    #[error("{target:?} in {text:?} is not a path in the container: it must start with /")]
    Relative {
        /// The target.
        target: String,
        /// The whole text.
        text: String,
    },
}

/// Splits at a separator that no backslash precedes; the parts keep their
/// backslashes.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == separator && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

/// Resolves `\:`, `\,` and `\\`; any other backslash stays.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(next @ (':' | ',' | '\\'))) => {
                out.push(*next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

/// Reads one value of `--bind`, which may name several binds.
///
/// # Errors
/// When a part is empty or an option is not known.
pub fn parse_binds(text: &str) -> Result<Vec<Bind>, MountSyntaxError> {
    let mut pieces: Vec<String> = Vec::new();
    for piece in split(text, ',') {
        match pieces.last_mut() {
            Some(last) if !piece.starts_with('/') => {
                last.push(',');
                last.push_str(&piece);
            }
            _ => pieces.push(piece),
        }
    }
    pieces.iter().map(|piece| parse_bind(piece)).collect()
}

fn parse_bind(text: &str) -> Result<Bind, MountSyntaxError> {
    let parts = split(text, ':');
    let (source, target, options) = match &parts[..] {
        [source] => (source, None, None),
        // `SRC:ro` is no target: those are absolute.
        [source, option] if flags(option, text).is_ok() => (source, None, Some(option)),
        [source, target] => (source, Some(target), None),
        [source, target, options] => (source, Some(target), Some(options)),
        _ => return Err(MountSyntaxError::TooManyParts(text.to_owned())),
    };
    if source.is_empty() {
        return Err(MountSyntaxError::Empty(text.to_owned()));
    }
    let target = match target.filter(|t| !t.is_empty()) {
        Some(target) => Some(absolute(unescape(target), text)?),
        None => None,
    };
    let flags = options.map_or(Ok(MountFlags::default()), |options| flags(options, text))?;
    Ok(Bind { source: unescape(source).into(), target, flags })
}

fn absolute(target: String, text: &str) -> Result<PathBuf, MountSyntaxError> {
    if target.starts_with('/') {
        Ok(target.into())
    } else {
        Err(MountSyntaxError::Relative { target, text: text.to_owned() })
    }
}

fn flags(options: &str, text: &str) -> Result<MountFlags, MountSyntaxError> {
    let mut flags = MountFlags::default();
    for option in options.split(',') {
        match option {
            "ro" | "readonly" => flags.read_only = true,
            "rw" => flags.read_only = false,
            "bind" => flags.recursive = false,
            // Docker's labels and caching hints mean nothing here.
            "rbind" | "rprivate" | "private" | "z" | "Z" | "cached" | "delegated"
            | "consistent" => {}
            other => {
                let (option, text) = (other.to_owned(), text.to_owned());
                return Err(MountSyntaxError::Option { option, text });
            }
        }
    }
    Ok(flags)
}

/// Reads one value of `--tmpfs`: `DST[:size=SIZE,mode=OCTAL]`.
///
/// # Errors
/// When the target is not absolute or an option is not known.
pub fn parse_tmpfs(text: &str) -> Result<Tmpfs, MountSyntaxError> {
    let parts = split(text, ':');
    let (target, options) = match &parts[..] {
        [target] => (target, ""),
        [target, options] => (target, options.as_str()),
        _ => return Err(MountSyntaxError::TooManyParts(text.to_owned())),
    };
    let target = absolute(unescape(target), text)?;
    let mut tmpfs = Tmpfs { target, size: None, mode: 0o1777 };
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "size" => tmpfs.size = Some(size(value, key, text)?),
            "mode" => tmpfs.mode = mode(value, key, text)?,
            "rw" | "nosuid" | "nodev" => {}
            _ => return Err(unknown(key, text, "size or mode")),
        }
    }
    Ok(tmpfs)
}

fn unknown(key: &str, text: &str, expected: &'static str) -> MountSyntaxError {
    MountSyntaxError::Key { key: key.to_owned(), text: text.to_owned(), expected }
}

fn value_error(key: &str, value: &str, text: &str) -> MountSyntaxError {
    let (key, value, text) = (key.to_owned(), value.to_owned(), text.to_owned());
    MountSyntaxError::Value { key, value, text }
}

fn size(value: &str, key: &str, text: &str) -> Result<u64, MountSyntaxError> {
    value.parse::<ByteSize>().map(|size| size.0).map_err(|_| value_error(key, value, text))
}

fn mode(value: &str, key: &str, text: &str) -> Result<u32, MountSyntaxError> {
    let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| value_error(key, value, text))
}

/// Splits comma-separated values as Docker's `--mount` does: a field may be
/// in double quotes, in which a doubled quote stands for one (RFC 4180).
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(last) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                last.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => last.push(other),
        }
    }
    fields
}

const MOUNT_KEYS: &str =
    "type, source, target, readonly, bind-nonrecursive, tmpfs-size or tmpfs-mode";

/// Reads one value of `--mount`: `type=bind|tmpfs,source=…,target=…,readonly`.
///
/// # Errors
/// When a key is missing, not known, or has a malformed value.
pub fn parse_mount(text: &str) -> Result<Mount, MountSyntaxError> {
    let mut kind = None;
    let (mut source, mut target) = (None, None);
    let mut flags = MountFlags::default();
    let (mut limit, mut bits) = (None, 0o1777);
    for field in fields(text) {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        let switch = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(value_error(key, value, text)),
        };
        match key {
            "type" => kind = Some(value.to_owned()),
            "source" | "src" => source = Some(value.to_owned()),
            "target" | "dst" | "destination" => target = Some(value.to_owned()),
            "readonly" | "ro" => flags.read_only = switch()?,
            "bind-nonrecursive" => flags.recursive = !switch()?,
            "tmpfs-size" => limit = Some(size(value, key, text)?),
            "tmpfs-mode" => bits = mode(value, key, text)?,
            _ => return Err(unknown(key, text, MOUNT_KEYS)),
        }
    }
    let missing = |key| MountSyntaxError::Missing { key, text: text.to_owned() };
    let target = absolute(target.ok_or_else(|| missing("target"))?, text)?;
    // Docker's default kind is a volume, which needs a daemon to own it.
    match kind.as_deref().unwrap_or("bind") {
        "bind" => {
            let source = source.filter(|s| !s.is_empty()).ok_or_else(|| missing("source"))?;
            Ok(Mount::Bind(Bind { source: source.into(), target: Some(target), flags }))
        }
        "tmpfs" => Ok(Mount::Tmpfs(Tmpfs { target, size: limit, mode: bits })),
        other => Err(value_error("type", other, text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, target: Option<&str>, read_only: bool) -> Bind {
        let flags = MountFlags { read_only, ..MountFlags::default() };
        Bind { source: source.into(), target: target.map(PathBuf::from), flags }
    }

    #[test]
    fn binds_in_all_their_forms() {
        let table: [(&str, Vec<Bind>); 11] = [
            ("/a", vec![bind("/a", None, false)]),
            ("/a:/b", vec![bind("/a", Some("/b"), false)]),
            ("/a:/b:ro", vec![bind("/a", Some("/b"), true)]),
            ("/a:ro", vec![bind("/a", None, true)]),
            ("/a::ro", vec![bind("/a", None, true)]),
            ("./a dir:/b c:rw", vec![bind("./a dir", Some("/b c"), false)]),
            (r"/a\:b:/c\,d", vec![bind("/a:b", Some("/c,d"), false)]),
            (r"/back\\slash", vec![bind(r"/back\slash", None, false)]),
            ("/a,/b:/c", vec![bind("/a", None, false), bind("/b", Some("/c"), false)]),
            ("/a:/b:ro,rbind,/c", vec![bind("/a", Some("/b"), true), bind("/c", None, false)]),
            ("/with,comma:/x", vec![bind("/with,comma", Some("/x"), false)]),
        ];
        for (text, expected) in table {
            assert_eq!(parse_binds(text), Ok(expected), "{text}");
        }
        assert!(!parse_binds("/a:/b:bind").unwrap()[0].flags.recursive);
    }

    #[test]
    fn bad_binds_say_what_is_wrong() {
        for (text, word) in [
            ("", "names no path"),
            (":/b", "names no path"),
            ("/a:b", "must start with /"),
            ("/a:/b:rx", "rx"),
            ("/a:/b:ro:x", "too many parts"),
        ] {
            let message = parse_binds(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }

    #[test]
    fn tmpfs_options() {
        let tmpfs = parse_tmpfs("/scratch:size=64m,mode=700").unwrap();
        assert_eq!((tmpfs.size, tmpfs.mode), (Some(64 << 20), 0o700));
        assert_eq!(parse_tmpfs("/s").unwrap().mode, 0o1777);
        for bad in ["s", "/s:size=x", "/s:mode=99", "/s:what=1"] {
            assert!(parse_tmpfs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_as_docker_writes_them() {
        let mount = parse_mount("type=bind,source=/a b,target=/c,readonly").unwrap();
        assert_eq!(mount, Mount::Bind(bind("/a b", Some("/c"), true)));
        let mount = parse_mount(r#"type=bind,"src=/a,b",dst=/c"#).unwrap();
        assert_eq!(mount, Mount::Bind(bind("/a,b", Some("/c"), false)));
        let tmpfs = Tmpfs { target: "/t".into(), size: Some(1024), mode: 0o755 };
        let text = "type=tmpfs,target=/t,tmpfs-size=1k,tmpfs-mode=755";
        assert_eq!(parse_mount(text), Ok(Mount::Tmpfs(tmpfs)));
        for bad in ["type=bind,target=/c", "type=volume,source=v,target=/c", "src=/a", "x=1"] {
            assert!(parse_mount(bad).is_err(), "{bad}");
        }
    }
}
