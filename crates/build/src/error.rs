//! What can go wrong in a build.

use std::io;
use std::path::PathBuf;

use crate::dockerfile::{Place, Problem, SyntaxError};

/// What a fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, BuildError>;

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The recipe cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path:?}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The recipe is wrong.
    #[error("{path:?}")]
    Syntax {
        /// The recipe.
        path: PathBuf,
        /// Where and why.
        source: SyntaxError,
    },
    /// A rule of .dockerignore that is none.
    #[error("{path:?} has a pattern that is none: {pattern}")]
    Ignore {
        /// The file.
        path: PathBuf,
        /// The pattern.
        pattern: String,
    },
    /// No such stage.
    #[error("there is no stage {0:?}")]
    NoStage(String),
    /// Nothing that a copy asks for.
    #[error("{0:?} is not there")]
    NoSource(String),
    /// A directory is where a file is to be.
    #[error("{path:?} is a directory of the image")]
    IsADirectory {
        /// Path in the image.
        path: PathBuf,
    },
    /// A file is where a directory is to be.
    #[error("{path:?} is no directory of the image")]
    NotADirectory {
        /// Path in the image.
        path: PathBuf,
    },
    /// No such user or group in the image.
    #[error("the image has no user or group {0:?}")]
    NoUser(String),
    /// An address gives something else than what was asked for.
    #[error("{url} has the checksum {found}, not {expected}")]
    Checksum {
        /// The address.
        url: String,
        /// What it should have.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A secret that is needed and was not given.
    #[error("the secret {0:?} is needed: --secret id={0},src=FILE")]
    NoSecret(String),
    /// An agent that is needed and was not given.
    #[error("the ssh agent {0:?} is needed: --ssh {0}")]
    NoAgent(String),
    /// A repository cannot be fetched.
    #[error("cannot fetch {url}: {reason}")]
    Git {
        /// The repository.
        url: String,
        /// What git says.
        reason: String,
    },
    /// A command failed.
    #[error("the command ended with exit code {code}")]
    Command {
        /// Its exit code.
        code: i32,
    },
    /// What a command changed cannot be kept.
    #[error("what the command changed cannot be kept")]
    Commit,
    /// Capabilities of files that a mount shows cannot be set.
    #[error("cannot set the capabilities of files in {path:?}")]
    Capabilities {
        /// The copy that is mounted.
        path: PathBuf,
    },
    /// A stage failed that was built in another process.
    #[error(transparent)]
    Elsewhere(Elsewhere),
    /// An instruction failed.
    #[error("{path:?}, {place}: {text}")]
    Step {
        /// The recipe.
        path: PathBuf,
        /// Where.
        place: Place,
        /// The instruction.
        text: String,
        /// Why.
        source: Box<Self>,
    },
    /// Something that is wrong with an instruction's values.
    #[error(transparent)]
    Value(#[from] Problem),
    /// The image cannot be looked into.
    #[error("cannot look into the image")]
    Tree(#[from] plan::TreeError),
    /// A layer cannot be written.
    #[error("cannot write a layer")]
    Layer(#[from] squashfs::WriteError),
    /// A layer cannot be copied.
    #[error("cannot copy a layer")]
    Copy(#[from] image::CopyError),
    /// A system cannot be made of packages.
    #[error(transparent)]
    Bootstrap(#[from] crate::bootstrap::BootstrapError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A process cannot be made.
    #[error(transparent)]
    Runtime(#[from] runtime::RuntimeError),
    /// A process cannot be made.
    #[error("cannot start a process")]
    Fork(#[source] io::Error),
}

/// A failure of another process: its messages, from the outermost to the cause.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Elsewhere {
    message: String,
    code: i32,
    hint: Option<String>,
    cause: Option<Box<Self>>,
}

impl Elsewhere {
    pub(crate) fn of(error: &BuildError) -> Self {
        let mut messages = vec![error.to_string()];
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            messages.push(cause.to_string());
            source = cause.source();
        }
        let (code, hint) = (error.exit_code(), error.hint());
        let chain = messages.into_iter().rev().fold(None, |cause, message| {
            Some(Box::new(Self { message, code, hint: hint.clone(), cause }))
        });
        chain.map_or_else(
            || Self { message: String::new(), code, hint: None, cause: None },
            |first| *first,
        )
    }
}

impl std::fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Elsewhere {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let cause = self.cause.as_deref()?;
        Some(cause)
    }
}

impl BuildError {
    /// The exit code for it.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Step { source, .. } => source.exit_code(),
            Self::Engine(error) => error.exit_code(),
            Self::Command { code } => *code,
            Self::Elsewhere(failure) => failure.code,
            _ => 1,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax { source, .. } => source.hint(),
            Self::Step { source, .. } => source.hint(),
            Self::Engine(error) => error.hint(),
            Self::Bootstrap(error) => error.hint().map(str::to_owned),
            Self::Runtime(error) => error.hint().map(str::to_owned),
            Self::Elsewhere(failure) => failure.hint.clone(),
            Self::Git { .. } => Some("ADD from git uses the git of this host".to_owned()),
            Self::NoSource(_) => {
                Some("paths are relative to the context; .dockerignore may leave it out".to_owned())
            }
            _ => None,
        }
    }
}
