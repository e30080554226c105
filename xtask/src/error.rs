//! What can go wrong here.

use std::io;

/// Why a task ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A command could not be started.
    #[error("cannot start {command}: {source}")]
    Start {
        /// The command.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A command failed.
    #[error("{command} ended with {status}")]
    Failed {
        /// The command.
        command: String,
        /// How.
        status: String,
    },
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The test cluster.
    #[error("cannot start the test cluster: {0}")]
    Cluster(#[source] io::Error),
    /// A crate depends on one that it must not.
    #[error("forbidden dependencies:\n{0}")]
    Layers(String),
    /// A document that is not what it should be.
    #[error("cannot read {what}: {source}")]
    Json {
        /// Which.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The release binary is not static.
    #[error("the release binary is not static: {0}")]
    Dynamic(String),
    /// Words on the command line that mean nothing.
    #[error("usage: {0}")]
    Usage(&'static str),
    /// A user of the test set-up that has no entry.
    #[error("there is no user {0}")]
    User(String),
    /// The registry does not come up.
    #[error("the registry on {0} does not answer")]
    Registry(String),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::File { path, source }
}

pub(crate) fn json(what: &'static str) -> impl FnOnce(serde_json::Error) -> Error {
    move |source| Error::Json { what, source }
}
