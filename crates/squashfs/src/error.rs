//! Why an image cannot be read.

use std::io;
use std::sync::Arc;

use crate::codec::CodecError;

/// Why an image cannot be read. Offsets are bytes from the image's start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read {len} bytes at offset {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// How much.
        len: usize,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The file ends early.
    #[error("the image is truncated: {what} at offset {offset} ends past the file")]
    Truncated {
        /// What was read.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// No squashfs 4.0.
    #[error("this is no squashfs 4.0 image")]
    NotSquashfs,
    /// Compressed by a method that is not supported.
    #[error(
        "the image is compressed with {0}, which is not supported: convert it to zstd, gzip, xz or lz4"
    )]
    Compression(&'static str),
    /// A value that cannot be.
    #[error("the image is corrupt: {what} at offset {offset}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
        /// Where.
        offset: u64,
    },
    /// A block does not inflate.
    #[error("the image is corrupt: {what} at offset {offset} does not inflate")]
    Inflate {
        /// What was read.
        what: &'static str,
        /// Where.
        offset: u64,
        /// Why.
        source: CodecError,
    },
    /// A method was given the wrong kind of inode.
    #[error("inode {inode} is not {expected}")]
    Kind {
        /// The inode's number.
        inode: u32,
        /// What it should be.
        expected: &'static str,
    },
}
