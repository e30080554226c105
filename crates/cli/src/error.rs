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
    /// What a remote shell was told to start.
    #[error("the word after mpi-proxy is damaged: sampan itself writes it, for --mpi=container")]
    Packed,
    /// The start of a launcher's proxy.
    #[error("cannot execute {program:?}, which a launcher on another node asks for")]
    Proxy {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A module of an image.
    #[error(transparent)]
    Module(#[from] crate::module::ModuleError),
    /// A container that runs.
    #[error("the container cannot be entered")]
    Join(#[source] runtime::JoinError),
    /// A command in a container that runs.
    #[error("cannot execute {path:?} in the container")]
    JoinExec {
        /// The program.
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
    /// A signal that is none.
    #[error("--signal {0:?} is no signal: expected a name, for example SIGUSR1, or a number")]
    Signal(String),
    /// A pattern that is none.
    #[error("{text:?} is no pattern for names")]
    Pattern {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        source: globset::Error,
    },
    /// Names that no instance has.
    #[error("no instance of this node is named {0:?}")]
    NoInstance(String),
    /// A platform that is none.
    #[error(transparent)]
    Platform(#[from] types::PlatformError),
    /// An app that an image lacks.
    #[error("the image has no app {0:?}")]
    NoApp(String),
    /// A help text that an image lacks.
    #[error("{0} has no help of its own")]
    NoHelp(String),
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
            Self::NoApp(_) => "sampan inspect --list-apps IMAGE names its apps",
            Self::NoInstance(_) => "sampan instance list shows those that run",
            Self::Lower(LowerError::Running(_)) => {
                "give it to sampan instance start, or start another container"
            }
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
            | Self::Signal(_)
            | Self::Pattern { .. }
            | Self::Platform(_) => exit::USAGE,
            Self::NoInstance(_) => exit::NOT_FOUND,
            Self::Template { .. }
            | Self::Output(_)
            | Self::Task { .. }
            | Self::Page { .. }
            | Self::Prompt { .. }
            | Self::Packed
            | Self::Join(_)
            | Self::JoinExec { .. }
            | Self::Module(_)
            | Self::Proxy { .. }
            | Self::NoApp(_)
            | Self::NoHelp(_)
            | Self::Json(_) => exit::FAILURE,
        }
    }

    /// The exit code of a command that runs a container.
    pub fn container_exit_code(&self) -> i32 {
        match self {
            Self::Engine(error) => error.container_exit_code(),
            Self::JoinExec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::JoinExec { .. } => 126,
            _ => exit::ENGINE,
        }
    }
}
