//! Programs that a site, or a description of a device, wants run while a
//! container is made (OCI Runtime Specification, config.md "POSIX-platform
//! Hooks").

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

/// When a hook runs, in order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Before anything is made: it may change what is (an extension of
    /// podman-run(1), `--hooks-dir`).
    #[serde(rename = "precreate")]
    Precreate,
    /// After the namespaces are made; the specification's older name for
    /// [`Stage::CreateRuntime`].
    #[serde(rename = "prestart")]
    Prestart,
    /// After the namespaces are made, on the host.
    CreateRuntime,
    /// Before the root changes, in the container's namespaces.
    CreateContainer,
    /// Before the process starts, inside.
    StartContainer,
    /// After the process has started, on the host.
    #[serde(rename = "poststart")]
    Poststart,
    /// After the container is gone, on the host.
    #[serde(rename = "poststop")]
    Poststop,
}

impl Stage {
    /// Its name in the OCI runtime specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Precreate => "precreate",
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// Why a text is no stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no stage: expected prestart, createRuntime, createContainer, startContainer, \
     poststart or poststop"
)]
pub struct StageError(String);

impl FromStr for Stage {
    type Err = StageError;

    fn from_str(text: &str) -> Result<Self, StageError> {
        // Those of the specification: where the extension is known, its reader says so.
        let all = [
            Self::Prestart,
            Self::CreateRuntime,
            Self::CreateContainer,
            Self::StartContainer,
            Self::Poststart,
            Self::Poststop,
        ];
        all.into_iter().find(|s| s.name() == text).ok_or_else(|| StageError(text.to_owned()))
    }
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// When.
    pub stage: Stage,
    /// The program, absolute.
    pub path: PathBuf,
    /// Its words, its own name first; empty for the path alone.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// How long it may take; None is for ever.
    pub timeout: Option<Duration>,
    /// The file that asks for it.
    pub origin: PathBuf,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hook {:?} of {}", self.stage.name(), self.path, self.origin.display())
    }
}
