//! Content digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A hash algorithm that the OCI image specification registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// The name used before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A content digest: an algorithm and lower-case hexadecimal digits.
///
/// Parsed strictly, so that the digits can serve as a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` in front.
    #[error("{0:?} is not a digest: expected algorithm:hexadecimal")]
    NoAlgorithm(String),
    /// The algorithm is neither sha256 nor sha512.
    #[error("digest algorithm {0:?} is not supported: expected sha256 or sha512")]
    Algorithm(String),
    /// The digits are too few, too many, or not lower-case hexadecimal.
    #[error("{text:?} is not a digest: expected {expected} lower-case hexadecimal digits")]
    Hex {
        /// What was given.
        text: String,
        /// How many digits the algorithm needs.
        expected: usize,
    },
}

impl Digest {
    /// A SHA-256 digest from the 32 bytes that the hash function gave.
    #[must_use]
    pub fn sha256(bytes: &[u8; 32]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex(bytes) }
    }

    /// A SHA-512 digest from the 64 bytes that the hash function gave.
    #[must_use]
    pub fn sha512(bytes: &[u8; 64]) -> Self {
        Self { algorithm: Algorithm::Sha512, hex: hex(bytes) }
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

fn hex(bytes: &[u8]) -> Box<str> {
    use fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into_boxed_str()
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) =
            text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm(text.to_owned()))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(DigestError::Algorithm(other.to_owned())),
        };
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(lower_hex) {
            return Err(DigestError::Hex { text: text.to_owned(), expected: algorithm.hex_len() });
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_prints_as_it_was_parsed() {
        let text = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        assert_eq!(Digest::sha256(&[0x0a; 32]).to_string(), text);
    }

    #[test]
    fn what_could_leave_a_directory_is_no_digest() {
        for bad in ["", "sha256", "sha256:", "md5:00", "sha256:../../etc/passwd"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(format!("sha256:{}", "0A".repeat(32)).parse::<Digest>().is_err());
        assert!(format!("sha256:{}", "0a".repeat(33)).parse::<Digest>().is_err());
    }
}
