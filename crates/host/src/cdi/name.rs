//! Names of CDI devices: `vendor/class=name`.
//!
//! The grammar is that of the CDI specification, section "Kind" and "CDI
//! Devices", as its reference implementation enforces it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::error::NameError;

/// Longest name that is accepted, in bytes: a vendor is a DNS name (253), a
/// class a label of 63.
const LONGEST: usize = 512;

/// The name of a device, `vendor/class=name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QualifiedName {
    /// `vendor/class`.
    pub kind: String,
    /// The device.
    pub device: String,
}

impl FromStr for QualifiedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = |reason: String| NameError { text: text.to_owned(), reason };
        if text.len() > LONGEST {
            return Err(wrong(format!("it is longer than {LONGEST} bytes")));
        }
        let (kind, device) =
            text.split_once('=').ok_or_else(|| wrong("there is no = before a name".to_owned()))?;
        check_kind(kind).map_err(wrong)?;
        check_device(device).map_err(wrong)?;
        Ok(Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl Serialize for QualifiedName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Whether a text is `vendor/class`, and what is wrong where it is not.
pub(super) fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) =
        kind.split_once('/').ok_or_else(|| format!("{kind:?} is not VENDOR/CLASS"))?;
    for (what, part) in [("vendor", vendor), ("class", class)] {
        let start = |c: char| c.is_ascii_alphabetic();
        check(what, part, start, "a letter", &['_', '-', '.'])?;
    }
    Ok(())
}

/// Whether a text names a device, and what is wrong where it does not.
pub(super) fn check_device(name: &str) -> Result<(), String> {
    let start = |c: char| c.is_ascii_alphanumeric();
    check("device", name, start, "a letter or digit", &['_', '-', '.', ':'])
}

fn check(
    what: &str,
    name: &str,
    start: impl Fn(char) -> bool,
    start_word: &str,
    inner: &[char],
) -> Result<(), String> {
    if !name.starts_with(start) {
        return Err(format!("the {what} {name:?} does not start with {start_word}"));
    }
    if let Some(c) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !inner.contains(c)) {
        return Err(format!("the {what} {name:?} has a {c:?}"));
    }
    if !name.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(format!("the {what} {name:?} does not end with a letter or digit"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in [
            "nvidia.com/gpu=0",
            "nvidia.com/gpu=all",
            "nvidia.com/gpu=GPU-8dcd427f-483b-b48f-d7e5-75fb19a52b76",
            "nvidia.com/gpu=0:1",
            "vendor_1.com/my-class.x=dev_1.2",
            "a/b=c",
        ] {
            assert_eq!(good.parse::<QualifiedName>().unwrap().to_string(), good);
        }
        for (bad, word) in [
            ("", "no ="),
            ("gpu=0", "VENDOR/CLASS"),
            ("/dev/nvidia0", "no ="),
            ("nvidia.com/gpu", "no ="),
            ("nvidia.com/gpu=", "device"),
            ("/gpu=0", "vendor"),
            ("nvidia.com/=0", "class"),
            ("1nvidia.com/gpu=0", "vendor"),
            ("nvidia.com/1gpu=0", "class"),
            ("nvidia.com/a/b=0", "class"),
            ("nvidia.com/gpu-=0", "class"),
            ("nvidia.com/gpu=-0", "device"),
            ("nvidia.com/gpu=0:", "device"),
            ("nvidia.com/gpu=a=b", "'='"),
            ("nvidia.com/gpü=0", "'ü'"),
        ] {
            let error = bad.parse::<QualifiedName>().unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
        assert!(format!("a/b={}", "x".repeat(600)).parse::<QualifiedName>().is_err());
    }
}
