//! What the command line adds to the engine's errors.

use std::io;
use std::path::PathBuf;

use engine::exit;

use crate::lower::LowerError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A build.
    #[error(transparent)]
    Recipe(#[from] build::BuildError),
    /// Flags that make no build.
    #[error("{0}")]
    Build(String),
    /// Flags that make no request.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// Standard output.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// What the Slurm plugin has left for a task.
    #[error("cannot read the words of the task in {path:?}")]
    Task {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A page of the manual.
    #[error("cannot write {path:?}")]
    Page {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A template.
    #[error("cannot read {path:?}")]
    Template {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A manual page that is none.
    #[error("there is no command {0:?}")]
    NoCommand(String),
    /// Nothing to ask for a name or password.
    #[error("there is no terminal to ask for the {0}")]
    NoTerminal(&'static str),
    /// The terminal or standard input.
    #[error("cannot read the {what}")]
    Prompt {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An empty answer.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// An age that is none.
    #[error("--older-than {0:?} is no age: expected a number with s, m, h, d or w, for example 7d")]
    Age(String),
    /// A platform that is none.
    #[error(transparent)]
    Platform(#[from] types::PlatformError),
    /// JSON that cannot be made.
    #[error("cannot print JSON")]
    Json(#[from] serde_json::Error),
}

impl CliError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Engine(error) | Self::Lower(LowerError::Source(error)) => return error.hint(),
            Self::Recipe(error) => return error.hint(),
            Self::Lower(LowerError::Mount(_)) => "sampan run --help explains --bind and --mount",
            Self::NoTerminal(_) => "give --username and --password-stdin",
            Self::NoCommand(_) => "sampan --help lists the commands",
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// The exit code of a command that runs no container.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Engine(error) | Self::Lower(LowerError::Source(error)) => error.exit_code(),
            Self::Recipe(error) => error.exit_code(),
            Self::Lower(_)
            | Self::Build(_)
            | Self::NoCommand(_)
            | Self::NoTerminal(_)
            | Self::Empty(_)
            | Self::Age(_)
            | Self::Platform(_) => exit::USAGE,
            Self::Template { .. }
            | Self::Output(_)
            | Self::Task { .. }
            | Self::Page { .. }
            | Self::Prompt { .. }
            | Self::Json(_) => exit::FAILURE,
        }
    }

    /// The exit code of a command that runs a container.
    pub fn container_exit_code(&self) -> i32 {
        match self {
            Self::Engine(error) => error.container_exit_code(),
            _ => exit::ENGINE,
        }
    }
}
