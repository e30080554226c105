//! Why a request makes no plan.

use std::path::PathBuf;

use crate::TreeError;

/// Why a request makes no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Nothing to run.
    #[error("the image names no command and none was given")]
    NoCommand,
    /// The image has no such app.
    #[error("the image has no app {0:?}")]
    NoApp(String),
    /// The image has no test script.
    #[error("the image has no test script")]
    NoTest,
    /// The image has no shell.
    #[error("the image has neither /bin/bash nor /bin/sh")]
    NoShell,
    /// `--user NAME` with a name that the image does not know.
    #[error("user {0:?} is not in the image's /etc/passwd")]
    UnknownUser(String),
    /// `--user X:GROUP` with a name that the image does not know.
    #[error("group {0:?} is not in the image's /etc/group")]
    UnknownGroup(String),
    /// A mount target that is not absolute.
    #[error("mount target {target:?} of {origin} is not an absolute path")]
    RelativeTarget {
        /// The target.
        target: PathBuf,
        /// What was typed.
        origin: String,
    },
    /// The root directory as a mount target.
    #[error("{0} would hide the whole image")]
    TargetIsRoot(String),
    /// A file over a directory or the other way round.
    #[error("{origin} cannot be mounted: {target:?} is not {expected} in the image")]
    KindMismatch {
        /// What was typed.
        origin: String,
        /// The target.
        target: PathBuf,
        /// `a directory` or `a file`.
        expected: &'static str,
    },
    /// Two contributions of one rank want different things.
    #[error("{target:?} is wanted by both {first} and {second}, and they differ")]
    Conflict {
        /// The mount target or variable.
        target: String,
        /// The first reason.
        first: String,
        /// The second reason.
        second: String,
    },
    /// `--writable` on an image file.
    #[error("an image file is never changed: --writable needs a directory image")]
    WritableFile,
    /// Two layers that would both take writes.
    #[error("only one of --writable, --writable-tmpfs and a writable --overlay can take writes")]
    TwoUppers,
    /// A name with a NUL or `=`.
    #[error("{0:?} is not the name of an environment variable")]
    EnvName(String),
    /// Subordinate ids are wanted and were not looked up.
    #[error("a container with subordinate ids needs to know them")]
    NoSubIds,
    /// The image could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl PlanError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoCommand => "give one after the image: sampan run IMAGE COMMAND",
            Self::NoTest => "only images made from a definition file with %test have one",
            Self::NoShell => "start a program that the image has: sampan exec IMAGE COMMAND",
            Self::UnknownUser(_) | Self::UnknownGroup(_) => "numbers always work: --user 1000:1000",
            Self::WritableFile => "use --overlay DIR or --writable-tmpfs to keep changes beside it",
            Self::RelativeTarget { .. } => "start it with /",
            _ => return None,
        })
    }
}
