//! What can go wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use crate::ImageId;

/// A step that failed, where, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store was written by a newer program.
    #[error(
        "the store {root} has format {found}; this sampan knows up to {supported}: use a newer \
         sampan or another store"
    )]
    NewerFormat {
        /// The store.
        root: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest that this program reads.
        supported: u32,
    },
    /// The `format` file does not say `sampan-store N`.
    #[error("{path} does not say \"sampan-store 1\": {root} is not a sampan store, or is damaged")]
    NotAStore {
        /// The store.
        root: PathBuf,
        /// The file.
        path: PathBuf,
    },
    /// The file system or the quota is full.
    #[error(
        "no space left for {path}: free some space (`sampan prune` removes unused images) or \
         choose another store"
    )]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A directory could not be made.
    #[error("cannot make the store directory {path}")]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A directory could not be listed.
    #[error("cannot list the store directory {path}")]
    ReadDirectory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file could not be made.
    #[error("cannot make {path}")]
    CreateFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// What was written could not be brought to disk.
    #[error("cannot sync {path} to disk")]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A finished file could not be renamed into place.
    #[error("cannot rename {from} to {to}")]
    Rename {
        /// The file.
        from: PathBuf,
        /// Its place.
        to: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("cannot remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A record could not be written as JSON.
    #[error("cannot encode {path}")]
    Encode {
        /// The file it was for.
        path: PathBuf,
        /// The encoder's error.
        source: serde_json::Error,
    },
    /// A lock could not be taken.
    #[error("cannot take the lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The thread that keeps a lock alive could not be started.
    #[error("cannot start the thread that keeps the lock {path} alive")]
    Heartbeat {
        /// The lock file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A ticket was committed without a file.
    #[error("image {image} was committed before its file was made")]
    NoFile {
        /// The image.
        image: ImageId,
    },
    /// A ticket was committed with the record of another image.
    #[error("the record of image {found} was committed for image {expected}")]
    WrongRecord {
        /// The image of the ticket.
        expected: ImageId,
        /// The image of the record.
        found: ImageId,
    },
    /// There is no such image.
    #[error("image {image} is not in the store")]
    NoImage {
        /// The image.
        image: ImageId,
    },
    /// There is no such reference.
    #[error("{reference} is not in the store")]
    NoReference {
        /// What was asked for.
        reference: String,
    },
    /// Several images begin with the same digits.
    #[error("{count} images begin with {prefix}: give more digits")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many images match.
        count: usize,
    },
    /// Somebody runs the image.
    #[error("image {image} is in use by {holders}: stop it, or remove with --force")]
    Leased {
        /// The image.
        image: ImageId,
        /// `host:pid` of each, with commas.
        holders: String,
    },
    /// The image is in a store that sampan does not write.
    #[error("{target} is in the site store {root}, which is read only: ask its administrator")]
    SiteStore {
        /// What was to be removed.
        target: String,
        /// The site store.
        root: PathBuf,
    },
}

/// Tells a full disk or quota from another error.
pub(crate) fn full_or(
    path: &Path,
    source: io::Error,
    other: impl FnOnce(PathBuf, io::Error) -> Error,
) -> Error {
    let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if full {
        Error::NoSpace { path: path.to_owned(), source }
    } else {
        other(path.to_owned(), source)
    }
}
