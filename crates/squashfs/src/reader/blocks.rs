//! The block list of a file: how long each of its blocks is on disk.
//!
//! Where a block starts is the sum of all lengths before it, so a list is read in
//! chunks, each of which says where the next one starts. A short list stays with
//! its inode. The chunks of others are in a cache, bounded whatever the size of the
//! files. Of the long files read last, the starts of at most [`STARTS`] chunks are
//! kept, so that a jump reads the list from the start before it on, and not from the
//! beginning. No lock is held while a list is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Image, Inode, InodeKind};
use crate::error::Error;
use crate::format::{BLOCK_STORED, METADATA_LEN, NONE};

/// Words of a chunk: 4 KiB of memory; 128 MiB of a file in blocks of 128 KiB.
const CHUNK: u64 = 1024;
/// Bytes of the cache for each chunk that it has; see [`FILE_COST`].
pub(super) const CHUNK_COST: usize = 6 << 10;
/// A list of so many words stays with its inode.
const SHORT: u64 = 64;
/// Bytes of the cache for each long file of which starts of chunks are kept: its
/// 24 KiB, and 16 chunks of less than 4.5 KiB.
pub(super) const FILE_COST: usize = 96 << 10;
/// Most starts that are kept of one file: 24 KiB.
const STARTS: usize = 1024;
/// A chunk has the position of every 64th block.
const MARK: usize = 64;

/// Where a chunk starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Metadata block of its first word, and the offset there.
    pub(super) block: u64,
    pub(super) offset: usize,
    /// Position of its first data block.
    pub(super) data: u64,
}

/// A chunk of a list.
#[derive(Debug)]
pub(super) struct Chunk {
    words: Vec<u32>,
    /// Position of the chunk's blocks 0, 64, 128, …
    marks: Vec<u64>,
    /// Where the next chunk starts.
    next: Place,
}

impl Chunk {
    /// Position and size word of a block; the chunk has it.
    pub(super) fn block(&self, index: u64) -> (u64, u32) {
        let number = (index % CHUNK) as usize;
        let mark = number / MARK;
        let len = |word: &u32| u64::from(word & !BLOCK_STORED);
        let before: u64 = self.words[mark * MARK..number].iter().map(len).sum();
        (self.marks[mark] + before, self.words[number])
    }
}

/// Which chunk has a block.
pub(super) fn chunk_of(index: u64) -> u64 {
    index / CHUNK
}

/// Where chunks 0, `stride`, 2 × `stride`, … of a file start, as far as that is known.
#[derive(Debug)]
pub(super) struct Starts {
    stride: u64,
    places: Vec<Place>,
}

impl Starts {
    pub(super) fn new(first: Place) -> Self {
        Self { stride: 1, places: vec![first] }
    }

    /// The last known start that is not after a chunk.
    fn before(&self, chunk: u64) -> (u64, Place) {
        let last = self.places.len() as u64 - 1;
        let index = (chunk / self.stride).min(last);
        (index * self.stride, self.places[index as usize])
    }

    fn note(&mut self, chunk: u64, place: Place) {
        if chunk != self.places.len() as u64 * self.stride {
            return;
        }
        if self.places.len() < STARTS {
            self.places.push(place);
            return;
        }
        // Every second one is enough from now on.
        self.stride *= 2;
        let mut index = 0;
        self.places.retain(|_| {
            index += 1;
            index % 2 == 1
        });
        self.note(chunk, place);
    }
}

fn lock(starts: &Mutex<Starts>) -> MutexGuard<'_, Starts> {
    starts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Image {
    /// How many blocks a file has beside its tail in a fragment.
    pub(super) fn blocks(&self, size: u64, fragment: u32) -> u64 {
        let block_size = u64::from(self.superblock().block_size);
        if fragment == NONE { size.div_ceil(block_size) } else { size / block_size }
    }

    /// The chunk that has a block of a file.
    pub(super) fn chunk(&self, inode: &Inode, index: u64) -> Result<Arc<Chunk>, Error> {
        let InodeKind::File { size, start, fragment, .. } = inode.kind else {
            return Err(inode.wrong("a regular file"));
        };
        let count = self.blocks(size, fragment);
        if index >= count {
            return Err(Error::Corrupt { what: "the index of a file's block", offset: index });
        }
        if let Some(chunk) = inode.list.get() {
            return Ok(Arc::clone(chunk));
        }
        let (block, offset) = inode.tail();
        let first = Place { block, offset, data: start };
        // No metadata block takes less than three bytes on disk.
        let end = self.superblock().directory_table;
        let room = end.saturating_sub(block).div_ceil(3).saturating_mul(METADATA_LEN as u64);
        if count.saturating_mul(4) > room {
            return Err(Error::Corrupt { what: "the size of a file", offset: block });
        }
        if count <= SHORT {
            let chunk = Arc::new(self.read_chunk(first, count)?);
            return Ok(Arc::clone(inode.list.get_or_init(|| chunk)));
        }
        let key = (inode.reference.0, chunk_of(index));
        self.chunks.get(key, || self.find_chunk(key, first, count).map(Arc::new))
    }

    /// Reads a chunk, and for that the list from the nearest known start on.
    fn find_chunk(&self, key: (u64, u64), first: Place, count: u64) -> Result<Chunk, Error> {
        let (file, wanted) = key;
        let starts = self.starts.get(file, || Ok(Arc::new(Mutex::new(Starts::new(first)))))?;
        let before = wanted.checked_sub(1).and_then(|chunk| self.chunks.peek((file, chunk)));
        let (mut number, mut place) = match before {
            Some(chunk) => (wanted, chunk.next),
            None => lock(&starts).before(wanted),
        };
        loop {
            let chunk = self.read_chunk(place, CHUNK.min(count - number * CHUNK))?;
            lock(&starts).note(number + 1, chunk.next);
            if number == wanted {
                return Ok(chunk);
            }
            (number, place) = (number + 1, chunk.next);
        }
    }

    /// Reads `count` words, at most [`CHUNK`].
    fn read_chunk(&self, start: Place, count: u64) -> Result<Chunk, Error> {
        let block_size = u64::from(self.superblock().block_size);
        let mut cursor = self.cursor(start.block, start.offset)?;
        let mut bytes = vec![0; count as usize * 4];
        cursor.fill(&mut bytes)?;
        let words = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let words: Vec<u32> = words.collect();
        let (mut marks, mut data) = (Vec::with_capacity(words.len().div_ceil(MARK)), start.data);
        for (index, word) in words.iter().enumerate() {
            if index % MARK == 0 {
                marks.push(data);
            }
            let len = u64::from(word & !BLOCK_STORED);
            if len > block_size {
                return Err(Error::Corrupt { what: "a file's block list", offset: cursor.place() });
            }
            let what = "the position of a file's block";
            data = data.checked_add(len).ok_or(Error::Corrupt { what, offset: data })?;
        }
        let next = Place { block: cursor.block, offset: cursor.offset, data };
        Ok(Chunk { words, marks, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_bounded_and_the_nearest_is_found() {
        let place = |chunk: u64| Place { block: chunk, offset: 0, data: chunk };
        let mut starts = Starts::new(place(0));
        for chunk in 1..100_000 {
            starts.note(chunk, place(chunk));
            assert!(starts.places.len() <= STARTS);
        }
        for chunk in [0, 1, 127, 128, 5_000, 99_999] {
            let (found, at) = starts.before(chunk);
            assert_eq!(at, place(found));
            assert!(found <= chunk && chunk - found < 256, "{chunk}: {found}");
        }
        // What comes out of turn is not noted.
        starts.note(1_000_000, place(7));
        assert!(starts.before(u64::MAX).0 < 100_000);
    }
}
