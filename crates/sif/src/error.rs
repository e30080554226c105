//! What can be wrong with a SIF file.

use std::io;
use std::path::{Path, PathBuf};

/// What can be wrong with a SIF file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read or written.
    #[error("cannot read or write {path:?}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The place that an object is copied to.
    #[error("cannot write the object")]
    Output(#[source] io::Error),
    /// The source of a new object.
    #[error("cannot read the data of the new object")]
    Source(#[source] io::Error),
    /// Another kind of file.
    #[error("{0:?} is no SIF file")]
    NotSif(PathBuf),
    /// It contradicts itself.
    #[error("{path:?} is corrupt: {what}, at byte {offset}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// There is no such object.
    #[error("{path:?} has no object {id}")]
    NoObject {
        /// The file.
        path: PathBuf,
        /// Its number.
        id: u32,
    },
    /// An object that is longer than anything sensible of its kind.
    #[error("object {id} of {path:?} has {size} bytes, more than {limit}")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its number.
        id: u32,
        /// Its length.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// No free descriptor.
    #[error("{0:?} has no free descriptor for another object")]
    Full(PathBuf),
    /// A name that does not fit its field.
    #[error("the name {0:?} is longer than 127 bytes")]
    Name(String),
    /// Only system partitions can be the primary one.
    #[error("object {0} is no system partition")]
    NotSystem(u32),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
