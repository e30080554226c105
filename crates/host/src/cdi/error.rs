//! What can be wrong with CDI specs and with what is asked of them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::QualifiedName;

/// One thing that is wrong in a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as `devices[0].containerEdits.env[1]`; empty for the document.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Problem {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.reason),
            field => write!(f, "{field}: {}", self.reason),
        }
    }
}

/// Why a text names no CDI device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no CDI device: {reason}")]
pub struct NameError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why CDI devices cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// A directory of specs.
    #[error("cannot read the CDI directory {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A spec's file.
    #[error("cannot read the CDI spec {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no spec.
    #[error("{}: {problem}", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: Problem,
    },
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A device that no spec describes.
    #[error("there is no CDI device {name}{}", among(known, broken))]
    Unknown {
        /// What was asked for.
        name: QualifiedName,
        /// The devices of the same kind, or all where there is none.
        known: Vec<String>,
        /// Specs that could not be read, and why.
        broken: Vec<String>,
    },
    /// A device that two specs of one directory describe.
    #[error("the CDI device {name} is in {first:?} and in {second:?}")]
    Conflict {
        /// The device.
        name: QualifiedName,
        /// A spec.
        first: PathBuf,
        /// Another spec.
        second: PathBuf,
    },
    /// Something that a spec names is not on this host, or is something else.
    #[error("{}: {field}: {path:?} {reason}", spec.display())]
    Host {
        /// The spec's file.
        spec: PathBuf,
        /// The field.
        field: String,
        /// The path on the host.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl CdiError {
    /// The error with what the system said, for where the chain is not shown.
    #[must_use]
    pub fn with_cause(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Name(_) => {
                Some("a CDI device is VENDOR/CLASS=NAME, for example nvidia.com/gpu=0")
            }
            Self::Unknown { .. } => Some("sampan cdi list shows what there is"),
            Self::Spec { .. } => Some("sampan cdi validate shows everything that is wrong"),
            Self::Conflict { .. } => Some("remove one of the two files"),
            Self::Host { .. } => Some(
                "the spec does not fit this host, perhaps since a driver was changed: have it \
                 written anew (nvidia-ctk cdi generate, amd-ctk cdi generate)",
            ),
            Self::Directory { .. } | Self::Read { .. } => None,
        }
    }
}

fn among(known: &[String], broken: &[String]) -> String {
    let mut text = match known {
        [] => String::new(),
        _ => format!(": there is {}", known.join(", ")),
    };
    if !broken.is_empty() {
        text += &format!(" (left out: {})", broken.join("; "));
    }
    text
}
