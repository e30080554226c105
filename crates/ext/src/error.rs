//! What can be wrong with a file system.

use std::io;

/// Why a file system cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read {len} bytes at {offset}")]
    Read {
        /// Where, from the start of the file system.
        offset: u64,
        /// How many.
        len: usize,
        /// Why.
        source: io::Error,
    },
    /// There is no superblock.
    #[error("it is no ext2, ext3 or ext4 file system")]
    NotExt,
    /// It was not unmounted, and its journal is on another device, very large, or of
    /// a form that this reader does not have.
    #[error("it was not unmounted, and its journal cannot be read: e2fsck -p replays it")]
    Journal,
    /// It needs what this reader does not have.
    #[error("it uses features that are not supported (incompat {bits:#x})")]
    Unsupported {
        /// The unknown bits of `s_feature_incompat`.
        bits: u32,
    },
    /// It contradicts itself.
    #[error("{what} at byte {offset} is corrupt")]
    Corrupt {
        /// What.
        what: &'static str,
        /// Where, from the start of the file system.
        offset: u64,
    },
}
