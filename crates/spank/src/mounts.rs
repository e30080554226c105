//! `SRC:DST[:FLAGS][,SRC:DST…]`, with + between flags, as users of pyxis write
//! mounts.

use crate::error::FlagError;

/// A mount, as words for sampan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `--bind` or `--tmpfs`.
    pub flag: &'static str,
    /// Its value.
    pub value: String,
}

/// Reads the value of `--container-mounts`.
///
/// # Errors
/// When a path is missing or relative where it must not be, or a flag has no
/// meaning here.
pub fn parse(text: &str) -> Result<Vec<Mount>, FlagError> {
    text.split(',').map(one).collect()
}

fn one(text: &str) -> Result<Mount, FlagError> {
    let wrong = |reason| FlagError::Mount { text: text.to_owned(), reason };
    let mut parts = text.splitn(3, ':');
    let source = parts.next().filter(|part| !part.is_empty()).ok_or_else(|| wrong("no source"))?;
    let target = parts.next();
    if target == Some("") {
        return Err(wrong("no target"));
    }
    match (source, target) {
        ("tmpfs", Some(target)) if target.starts_with('/') => {
            return Ok(Mount { flag: "--tmpfs", value: escape(target) });
        }
        ("tmpfs", _) => return Err(wrong("a tmpfs needs a path in the container")),
        ("umount", _) => {
            return Err(wrong(
                "nothing can be unmounted: --no-container-mount-home and the setting no_mount of \
                 sampan leave mounts out",
            ));
        }
        _ => {}
    }
    if !source.starts_with(['/', '.']) {
        return Err(wrong("the source must start with / or ., or be tmpfs"));
    }
    let target = target.unwrap_or(source);
    if !target.starts_with('/') {
        return Err(wrong("the target must start with /"));
    }
    let mut value = format!("{}:{}", escape(source), escape(target));
    let flags: Vec<&str> =
        parts.next().unwrap_or_default().split('+').filter(|flag| !flag.is_empty()).collect();
    for flag in &flags {
        known(flag).map_err(wrong)?;
    }
    // Mount points are made anyway.
    let flags: Vec<&str> =
        flags.into_iter().filter(|flag| !flag.starts_with("x-create=")).collect();
    if !flags.is_empty() {
        value = format!("{value}:{}", flags.join(","));
    }
    Ok(Mount { flag: "--bind", value })
}

fn known(flag: &str) -> Result<(), &'static str> {
    match flag {
        "ro" | "rw" | "bind" | "rbind" | "private" | "rprivate" | "x-create=auto"
        | "x-create=dir" | "x-create=file" => Ok(()),
        "shared" | "rshared" | "slave" | "rslave" => {
            Err("mounts are private: those made later on the node are not seen inside")
        }
        _ => Err("the flag is not known: expected ro, rw, bind, rbind, private or rprivate"),
    }
}

/// sampan takes \: and \, for these characters in a path.
fn escape(path: &str) -> String {
    path.replace('\\', r"\\").replace(':', r"\:").replace(',', r"\,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        parse(text).unwrap().into_iter().map(|m| format!("{} {}", m.flag, m.value)).collect()
    }

    #[test]
    fn mounts_in_all_their_forms() {
        assert_eq!(values("/a"), ["--bind /a:/a"]);
        assert_eq!(values("/a:/b,./c:/d:ro"), ["--bind /a:/b", "--bind ./c:/d:ro"]);
        assert_eq!(values("/a:/b:ro+rprivate"), ["--bind /a:/b:ro,rprivate"]);
        assert_eq!(values("/a:/b:x-create=auto+ro"), ["--bind /a:/b:ro"]);
        assert_eq!(values("tmpfs:/t"), ["--tmpfs /t"]);
        assert_eq!(values(r"/a\b:/c"), [r"--bind /a\\b:/c"]);
    }

    #[test]
    fn mounts_that_mean_nothing_here() {
        for (text, word) in [
            ("", "no source"),
            (":/b", "no source"),
            ("/a:", "no target"),
            ("a:/b", "must start with"),
            ("/a:b", "target"),
            ("./a", "target"),
            ("/a:/b:rx", "not known"),
            ("/a:/b:rshared", "private"),
            ("umount:/b", "unmounted"),
            ("tmpfs", "tmpfs"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
