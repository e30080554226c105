//! Writing an image, in one pass and with bounded memory.
//!
//! ```text
//! file() ─ blocks ─→ worker threads ─→ reordered ─→ output, in order of submission
//!   └──── tail ────→ fragment block ─┘
//! finish() ─ inode, directory, fragment, export, id and xattr tables, superblock
//! ```
//!
//! Blocks are compressed by worker threads and written in the order in which
//! they were submitted, so the bytes do not depend on the number of threads.
//! At most a few blocks per thread are in flight. A file that is the same as
//! one before is stored once: a hash finds the candidate, a comparison of
//! bytes decides.

mod data;
mod metadata;
mod pool;
mod tables;

use std::fs::File;
use std::io;

pub use data::FileData;

use crate::codec::Compression;
use crate::tree::Tree;
use data::{Data, Packing};

/// How an image is written.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// How blocks are compressed.
    pub compression: Compression,
    /// Size of a data block: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// How many threads compress.
    pub threads: usize,
    /// Time of the image itself, seconds since 1970.
    pub mkfs_time: u32,
    /// Whether NFS servers can export it.
    pub exportable: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            compression: Compression::Zstd(3),
            block_size: 128 << 10,
            threads,
            mkfs_time: 0,
            exportable: true,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image file in bytes.
    pub bytes: u64,
    /// How many inodes it has.
    pub inodes: u32,
    /// How many files were the same as one before.
    pub duplicates: u32,
}

/// Why an image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output could not be written.
    #[error("cannot write the image at offset {offset}")]
    Write {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The data of a file could not be read.
    #[error("cannot read the data of a file")]
    Source(#[source] io::Error),
    /// The data of a file ended early.
    #[error("the data of a file ends after {got} of {expected} bytes")]
    Short {
        /// What there was.
        got: u64,
        /// What should be there.
        expected: u64,
    },
    /// The block size is not one of squashfs.
    #[error("block size {0} is not a power of two from 4096 to 1048576")]
    BlockSize(u32),
    /// A name that no directory can hold.
    #[error("{0:?} cannot be a name in a squashfs image")]
    Name(String),
    /// A symbolic link that is empty or too long.
    #[error("the target of symbolic link {0:?} is empty or longer than 4095 bytes")]
    Link(String),
    /// More than 65,536 different user and group ids.
    #[error("the image has more than 65536 different user and group ids")]
    Ids,
    /// A table grew past what its references can express.
    #[error("the image has too many {0} for squashfs")]
    Table(&'static str),
    /// An extended attribute that is too long, or is one too many of its inode.
    #[error(
        "extended attribute {0:?} is longer than Linux allows, or with the others of its file: \
         64 KiB of names, 1 MiB of values"
    )]
    Xattr(String),
    /// A worker thread is gone.
    #[error("a compression thread ended unexpectedly")]
    Worker,
}

/// Writes one image.
pub struct Writer {
    data: Data,
    options: WriterOptions,
}

impl Writer {
    /// Starts an image in an empty file.
    ///
    /// # Errors
    /// When the block size is not one of squashfs.
    pub fn new(out: File, options: WriterOptions) -> Result<Self, WriteError> {
        let size = options.block_size;
        if !size.is_power_of_two() || !(4096..=1 << 20).contains(&size) {
            return Err(WriteError::BlockSize(size));
        }
        Ok(Self { data: Data::new(out, &options)?, options })
    }

    /// Takes the data of a regular file: exactly `len` bytes.
    ///
    /// # Errors
    /// When the source ends early or cannot be read, or the output cannot be
    /// written.
    pub fn file(&mut self, source: &mut dyn io::Read, len: u64) -> Result<FileData, WriteError> {
        self.data.file(source, len, Packing::Compressed)
    }

    /// The same without compression, for files that are read far more often
    /// than they are worth the space: reading them is copying.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn file_stored(
        &mut self,
        source: &mut dyn io::Read,
        len: u64,
    ) -> Result<FileData, WriteError> {
        self.data.file(source, len, Packing::Stored)
    }

    /// How many bytes of compressed data have been written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.data.position()
    }

    /// Writes the tree and completes the image.
    ///
    /// # Errors
    /// When the tree does not fit squashfs, or the output cannot be written.
    pub fn finish(self, tree: &Tree) -> Result<Summary, WriteError> {
        let done = self.data.finish()?;
        tables::write(done, tree, &self.options)
    }
}
