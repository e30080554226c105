//! A stream of metadata blocks, kept compressed in memory.

use crate::codec::{Compression, Compressor};
use crate::format::{METADATA_LEN, METADATA_STORED};

pub(super) struct Stream {
    compressor: Compressor,
    /// Finished blocks with their headers.
    pub(super) out: Vec<u8>,
    block: Vec<u8>,
    packed: Vec<u8>,
    /// Where each block starts in `out`.
    pub(super) starts: Vec<u64>,
}

impl Stream {
    pub(super) fn new(compression: Compression) -> Self {
        Self {
            compressor: Compressor::new(compression),
            out: Vec::new(),
            block: Vec::with_capacity(METADATA_LEN),
            packed: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// Where the next byte goes: block start in `out`, offset in the block.
    pub(super) fn position(&self) -> (u64, u16) {
        // A full block is flushed at once, so the offset is below 8192.
        (self.out.len() as u64, self.block.len() as u16)
    }

    /// The same as one number, the form of a metadata reference.
    pub(super) fn reference(&self) -> u64 {
        let (block, offset) = self.position();
        block << 16 | u64::from(offset)
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = METADATA_LEN - self.block.len();
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(part);
            bytes = rest;
            if self.block.len() == METADATA_LEN {
                self.flush();
            }
        }
    }

    pub(super) fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        self.starts.push(self.out.len() as u64);
        let shrunk = self.compressor.compress(&self.block, &mut self.packed);
        let (bytes, stored) =
            if shrunk { (&self.packed, 0) } else { (&self.block, METADATA_STORED) };
        // At most 8192 bytes.
        self.out.extend((bytes.len() as u16 | stored).to_le_bytes());
        self.out.extend_from_slice(bytes);
        self.block.clear();
    }
}
