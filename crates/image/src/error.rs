//! Why layers make no image.

use std::io;

use types::Digest;

/// Why layers make no image.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A layer could not be opened or read.
    #[error("cannot read layer {layer}")]
    Read {
        /// The layer.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer's tar stream is malformed.
    #[error("layer {layer} is malformed at entry {entry:?}")]
    Entry {
        /// The layer.
        layer: Digest,
        /// The entry, or the one before the damage.
        entry: String,
        /// Why.
        source: io::Error,
    },
    /// An entry that would lie outside the image.
    #[error("layer {layer}: entry {entry:?} leads out of the image ({reason})")]
    Escape {
        /// The layer.
        layer: Digest,
        /// The entry.
        entry: String,
        /// How.
        reason: &'static str,
    },
    /// A hard link to something that no layer has.
    #[error("layer {layer}: {entry:?} is a hard link to {target:?}, which is not in the image")]
    LinkTarget {
        /// The layer.
        layer: Digest,
        /// The entry.
        entry: String,
        /// What it links to.
        target: String,
    },
    /// More data than the limit allows.
    #[error("layer {layer}: at entry {entry:?} the image passes the size limit of {limit} bytes")]
    TooLarge {
        /// The layer.
        layer: Digest,
        /// The entry.
        entry: String,
        /// The limit.
        limit: u64,
    },
    /// The uncompressed layer is not the one that the configuration names.
    #[error("layer {layer} has the uncompressed digest {found}, the configuration says {expected}")]
    DiffId {
        /// The layer.
        layer: Digest,
        /// What it is.
        found: Digest,
        /// What it should be.
        expected: Digest,
    },
    /// The image file could not be written.
    #[error("cannot write the image file")]
    Write(#[from] squashfs::WriteError),
}

impl ConvertError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        let full = |e: &io::Error| e.kind() == io::ErrorKind::StorageFull;
        match self {
            Self::Write(squashfs::WriteError::Write { source, .. }) => full(source),
            Self::Read { source, .. } => full(source),
            _ => false,
        }
    }
}
