//! What identifies an image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use types::{Digest, DigestError};

/// The digest of an image's manifest. The manifest is of one platform, so that
/// it also tells the platforms of one name apart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(Digest);

impl ImageId {
    /// From the digest of a manifest.
    #[must_use]
    pub fn new(manifest: Digest) -> Self {
        Self(manifest)
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0
    }

    /// The digits: the name of the image's files.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.hex()
    }

    /// The first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.short()
    }

    /// What locks the looking up of a name. It is no image's: nobody finds a
    /// manifest of such a digest.
    pub(crate) fn of_name(name: &str) -> Self {
        let bytes = sha2::Sha256::digest(format!("reference {name}").as_bytes());
        Self(Digest::sha256(&bytes.into()))
    }

    /// From digits alone; their number tells the algorithm.
    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        let algorithm = match hex.len() {
            64 => "sha256",
            128 => "sha512",
            _ => return None,
        };
        format!("{algorithm}:{hex}").parse().ok().map(Self)
    }

    /// Whether `prefix` begins this digest: hexadecimal digits, at least one,
    /// with or without `sha256:` in front.
    #[must_use]
    pub fn matches(&self, prefix: &str) -> bool {
        let digits = match prefix.split_once(':') {
            Some((algorithm, digits)) if algorithm == self.0.algorithm().as_str() => digits,
            Some(_) => return false,
            None => prefix,
        };
        !digits.is_empty() && self.hex().starts_with(digits)
    }
}

impl From<Digest> for ImageId {
    fn from(manifest: Digest) -> Self {
        Self(manifest)
    }
}

impl FromStr for ImageId {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageId({})", self.0)
    }
}
