//! What can go wrong with a distribution's mirror.

use std::io;
use std::path::PathBuf;

use crate::error::BuildError;

/// Why a system cannot be made from its distribution's packages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// Nobody says where the packages are.
    #[error("no mirror is known for {suite}")]
    NoMirror {
        /// The release that is asked for.
        suite: String,
    },
    /// All mirrors of a list failed.
    #[error("none of the {tried} mirrors that were tried gives {path}")]
    NoGoodMirror {
        /// The file, below each of them.
        path: String,
        /// How many were asked.
        tried: usize,
        /// How the first one failed; None of no mirrors.
        #[source]
        first: Option<Box<BuildError>>,
    },
    /// Nothing to check signatures with.
    #[error("there is no keyring to check {url} with")]
    NoKeyring {
        /// What would be checked.
        url: String,
    },
    /// A keyring cannot be used.
    #[error("the keyring {path:?} cannot be used")]
    Keyring {
        /// The file.
        path: PathBuf,
        /// Why.
        source: trust::TrustError,
    },
    /// The signature of a Release file is not good.
    #[error("{url} is not trusted")]
    Signature {
        /// The file.
        url: String,
        /// Why.
        source: trust::TrustError,
    },
    /// The time of a Release file is over.
    #[error("{url} was valid until {until} only")]
    Expired {
        /// The file.
        url: String,
        /// Its last day.
        until: String,
    },
    /// A mirror gives something else than what its signed index says.
    #[error("{url} is not what the signed index says: {reason}")]
    Changed {
        /// The file.
        url: String,
        /// How it differs.
        reason: String,
    },
    /// A file of the repository is malformed.
    #[error("{url} is malformed: {reason}")]
    Malformed {
        /// The file.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The repository has no such part.
    #[error("{url} has no {what}")]
    Lacks {
        /// The Release file.
        url: String,
        /// What is missing.
        what: String,
    },
    /// A package that is needed is nowhere.
    #[error("there is no package {name}, which {by} needs")]
    NoPackage {
        /// Its name.
        name: String,
        /// Who needs it.
        by: String,
    },
    /// A stream of a module that cannot be chosen.
    #[error("the streams of modules that are asked for cannot be had: {0}")]
    Module(String),
    /// Two packages that are needed cannot be installed together.
    #[error("the packages {name} and {other} cannot be installed together")]
    Conflict {
        /// One of them.
        name: String,
        /// The other one.
        other: String,
    },
    /// The packages are larger than an image may be.
    #[error("the packages have {} bytes, more than the limit of {}", .size, .limit)]
    TooLarge {
        /// Bytes of all of them.
        size: u64,
        /// `size_limit` of the configuration.
        limit: u64,
    },
    /// A package cannot be unpacked.
    #[error("the package {name} cannot be unpacked")]
    Package {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The first system cannot be written.
    #[error("the packages cannot be unpacked")]
    Unpack(#[source] image::ConvertError),
    /// A package's signature is not good.
    #[error("the package {name} is not trusted")]
    Untrusted {
        /// Its name.
        name: String,
        /// Why.
        source: Box<PackageError>,
    },
    /// Its programs do not run here.
    #[error("{platform} does not run on this machine")]
    Platform {
        /// The platform.
        platform: String,
    },
}

impl BootstrapError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoMirror { .. } => {
                "write MirrorURL: in the definition file, or set mirrors in the configuration"
            }
            Self::NoKeyring { .. } => "write Keyring: FILE in the definition file",
            Self::Signature { .. } | Self::Untrusted { .. } => {
                "the keys of a release are in its distribution's keyring package; \
                 Keyring: FILE in the definition file names another keyring"
            }
            Self::Expired { .. } => {
                "the mirror is out of date, or an archive: Check-Valid-Until: no in the \
                 definition file takes it as it is"
            }
            Self::TooLarge { .. } => "size_limit in the configuration says how large one may be",
            Self::Conflict { .. } => "Include: the one that you want instead",
            Self::Changed { .. } => "the mirror may be in the middle of an update: try again later",
            _ => return None,
        })
    }
}

/// Why a package is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It cannot be read, or is malformed.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It has no signature over its header.
    #[error("it is not signed")]
    Unsigned,
    /// Its signature is not good.
    #[error("its signature is not good")]
    Signature(#[source] trust::TrustError),
    /// Nothing that is signed says what its files are.
    #[error("its signature covers its header alone, which does not name its files")]
    NoPayloadDigest,
    /// Its payload is not the one that the signed header names.
    #[error("its files have changed since it was signed")]
    Payload,
}
