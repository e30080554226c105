//! The JSON files of a store, and the names of references.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use types::{Digest, ImageConfig, Platform, RegistryRef};

use crate::ImageId;

/// `images/<hex>.json`: what is known about an image without opening it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The manifest digest.
    pub id: ImageId,
    /// The reference it was first pulled by, for people; `refs` says what
    /// names it now.
    pub reference: String,
    /// What it runs on.
    pub platform: Platform,
    /// What to start in it.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRecord>,
    /// Blobs of this store that belong to it (manifest, configuration, index):
    /// kept while it is.
    #[serde(default)]
    pub blobs: Vec<Digest>,
    /// Bytes of the squashfs file; set by the commit.
    pub size: u64,
    /// When it was converted, seconds since 1970 (UTC).
    pub created_at: u64,
    /// Version of the converter that made the squashfs file.
    pub format: u32,
}

/// A layer that went into an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the blob in the registry.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
}

/// `refs/….json`: what a reference resolved to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefRecord {
    /// The canonical reference.
    pub reference: String,
    /// The platform that was asked for.
    pub platform: Platform,
    /// The image.
    pub image: ImageId,
    /// When it was pulled, seconds since 1970 (UTC).
    pub pulled_at: u64,
}

/// Seconds since 1970 (UTC), as records have them.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The one text that a store knows a registry reference by:
/// `domain/path@digest` where a digest was written, else `domain/path:tag`
/// with `latest` for an absent tag. The caller has filled in the domain of an
/// unqualified name.
#[must_use]
pub fn canonical_reference(name: &RegistryRef) -> String {
    let mut canonical = name.clone();
    canonical.tag = name.effective_tag();
    canonical.to_string()
}

const LONGEST_NAME: usize = 200;
const KEPT_OF_LONG: usize = 120;

/// The file in `refs` for a reference; see the crate's documentation.
pub(crate) fn ref_file_name(reference: &str, platform: &Platform) -> String {
    let name = format!("{}@{}", escape(reference), escape(&platform.to_string()));
    if name.len() <= LONGEST_NAME {
        return format!("{name}.json");
    }
    // Every byte of an escaped name is ASCII, so that any cut is a boundary.
    let hash = Digest::sha256(&Sha256::digest(name.as_bytes()).into());
    format!("{}~{}.json", &name[..KEPT_OF_LONG], hash.hex())
}

/// Injective, and never empty of meaning to a reader.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if index == 0 => out.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                out.push(char::from(byte));
            }
            b'/' => out.push('+'),
            other => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn reference_files_are_injective_and_short_enough() {
        let platform: Platform = "linux/amd64".parse().unwrap();
        let other: Platform = "linux/arm64".parse().unwrap();
        let mut seen = HashSet::new();
        let long = "a".repeat(255);
        let texts = [
            "a/b:c".to_owned(),
            "a+b:c".to_owned(),
            "a%2Fb:c".to_owned(),
            "a/b%3Ac".to_owned(),
            "a@linux/amd64".to_owned(),
            "..".to_owned(),
            ".".to_owned(),
            "%2E".to_owned(),
            format!("h/{long}:1"),
            format!("h/{long}:2"),
            format!("h/{long}:1~"),
            "/".repeat(4000),
        ];
        for text in &texts {
            for platform in [&platform, &other] {
                let name = ref_file_name(text, platform);
                assert!(name.len() <= 205 && !name.contains('/'), "{name}");
                assert!(!name.starts_with('.'), "{name}");
                assert!(seen.insert(name), "{text}");
            }
        }
        assert_eq!(
            ref_file_name("127.0.0.1:5000/a/b:v1", &platform),
            "127.0.0.1%3A5000+a+b%3Av1@linux+amd64.json"
        );
    }

    #[test]
    fn canonical_references_have_a_tag_or_a_digest() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (written, canonical) in [
            ("h.x/a".to_owned(), "h.x/a:latest".to_owned()),
            ("h.x/a:1".to_owned(), "h.x/a:1".to_owned()),
            (format!("h.x/a:1@{digest}"), format!("h.x/a@{digest}")),
        ] {
            assert_eq!(canonical_reference(&written.parse().unwrap()), canonical);
        }
    }
}
