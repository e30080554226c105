//! Digests of what streams by.

use sha2::{Digest as _, Sha256, Sha512};
use types::{Algorithm, Digest};

/// Computes a digest piece by piece.
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::sha256(&hasher.clone().finalize().into()),
            Self::Sha512(hasher) => Digest::sha512(&hasher.clone().finalize().into()),
        }
    }

    pub(crate) fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Self::new(algorithm);
        hasher.update(bytes);
        hasher.digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests() {
        let empty = Hasher::of(Algorithm::Sha256, b"");
        assert!(empty.hex().starts_with("e3b0c44298fc1c149afbf4c8996fb924"));
        let abc = Hasher::of(Algorithm::Sha512, b"abc");
        assert!(abc.hex().starts_with("ddaf35a193617abacc417349ae204131"));
    }
}
