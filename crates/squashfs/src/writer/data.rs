//! Data blocks and fragments.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::pool::{Job, Pool};
use super::{WriteError, WriterOptions};
use crate::codec::Codec;
use crate::format::{BLOCK_STORED, NONE, SUPERBLOCK_LEN};

/// The data of a file that a [`Writer`](super::Writer) has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileData {
    pub(super) record: u32,
    size: u64,
}

impl FileData {
    /// Length in bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        self.size
    }
}

/// How the data of a file is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Compressed,
    /// As it is, its tail in a block of its own.
    Stored,
}

/// Where a file's data is.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) size: u64,
    pub(super) start: u64,
    pub(super) words: Vec<u32>,
    pub(super) fragment: u32,
    pub(super) offset: u32,
    /// Bytes of zeroes that are not stored.
    pub(super) sparse: u64,
}

/// A written fragment block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment {
    pub(super) start: u64,
    pub(super) word: u32,
}

/// What a block in flight is for.
enum Target {
    Block { record: u32, index: usize },
    Fragment { index: usize },
}

/// Everything about data once it is all written.
pub(super) struct Done {
    pub(super) out: File,
    pub(super) position: u64,
    pub(super) records: Vec<Record>,
    pub(super) fragments: Vec<Fragment>,
    pub(super) duplicates: u32,
}

pub(super) struct Data {
    out: File,
    position: u64,
    block_size: usize,
    pool: Pool,
    codec: Codec,
    /// Blocks in flight, oldest first, with the sequence number of the oldest.
    targets: VecDeque<Target>,
    oldest: u64,
    early: BTreeMap<u64, Job>,
    window: usize,
    free: Vec<(Vec<u8>, Vec<u8>)>,
    records: Vec<Record>,
    fragments: Vec<Fragment>,
    /// The fragment block being filled.
    fragment: Vec<u8>,
    /// Records by size and hash of their data.
    seen: HashMap<(u64, u64), Vec<u32>>,
    inflated: Option<(u32, Vec<u8>)>,
    duplicates: u32,
}

impl Data {
    pub(super) fn new(out: File, options: &WriterOptions) -> Result<Self, WriteError> {
        let window = options.threads.max(1) * 4 + 2;
        let position =
            SUPERBLOCK_LEN as u64 + super::tables::options_block(options.compression).len() as u64;
        Ok(Self {
            out,
            position,
            block_size: options.block_size as usize,
            pool: Pool::new(options.compression, options.threads, window),
            codec: Codec::from_id(options.compression.id()).map_err(WriteError::Table)?,
            targets: VecDeque::new(),
            oldest: 0,
            early: BTreeMap::new(),
            window,
            free: Vec::new(),
            records: Vec::new(),
            fragments: Vec::new(),
            fragment: Vec::with_capacity(options.block_size as usize),
            seen: HashMap::new(),
            inflated: None,
            duplicates: 0,
        })
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn file(
        &mut self,
        source: &mut dyn Read,
        len: u64,
        packing: Packing,
    ) -> Result<FileData, WriteError> {
        let number = u32::try_from(self.records.len()).map_err(|_| WriteError::Table("files"))?;
        // SipHash with fixed keys: the same in every run.
        #[allow(deprecated, reason = "the stable, fixed-key SipHash of the standard library")]
        let mut hasher = std::hash::SipHasher::new();
        let record =
            Record { size: len, start: 0, words: Vec::new(), fragment: NONE, offset: 0, sparse: 0 };
        self.records.push(record);
        let blocks = len / self.block_size as u64;
        for _ in 0..blocks {
            let mut buffers = self.free.pop().unwrap_or_default();
            fill(source, &mut buffers.0, self.block_size, len)?;
            hasher.write(&buffers.0);
            self.block(number, buffers, packing)?;
        }
        let tail_len = (len % self.block_size as u64) as usize;
        let mut tail = self.free.pop().unwrap_or_default();
        fill(source, &mut tail.0, tail_len, len)?;
        hasher.write(&tail.0);
        let key = (len, hasher.finish());
        let size = len;
        if len == 0 {
            self.free.push(tail);
            return Ok(FileData { record: number, size });
        }
        if packing == Packing::Stored && tail_len > 0 {
            self.block(number, std::mem::take(&mut tail), packing)?;
        }
        if let Some(same) = self.duplicate(number, key, &tail.0)? {
            self.free.push(tail);
            self.duplicates += 1;
            return Ok(FileData { record: same, size });
        }
        if packing == Packing::Compressed && tail_len > 0 {
            self.tail(number, &tail.0)?;
        }
        self.free.push(tail);
        self.seen.entry(key).or_default().push(number);
        Ok(FileData { record: number, size })
    }

    /// Sends a block of a file to the workers, or notes that it is zeroes.
    fn block(
        &mut self,
        number: u32,
        buffers: (Vec<u8>, Vec<u8>),
        packing: Packing,
    ) -> Result<(), WriteError> {
        let record = &mut self.records[number as usize];
        let index = record.words.len();
        record.words.push(0);
        if is_zero(&buffers.0) {
            record.sparse += buffers.0.len() as u64;
            self.free.push(buffers);
            return Ok(());
        }
        self.submit(Target::Block { record: number, index }, buffers, packing)
    }

    fn submit(
        &mut self,
        target: Target,
        (data, packed): (Vec<u8>, Vec<u8>),
        packing: Packing,
    ) -> Result<(), WriteError> {
        while self.targets.len() >= self.window {
            let job = self.pool.wait()?;
            self.arrived(job)?;
        }
        let sequence = self.oldest + self.targets.len() as u64;
        self.targets.push_back(target);
        let job = Job { sequence, data, packed, shrunk: false };
        match packing {
            Packing::Compressed => self.pool.submit(job)?,
            Packing::Stored => self.arrived(job)?,
        }
        while let Some(job) = self.pool.poll() {
            self.arrived(job)?;
        }
        Ok(())
    }

    /// Writes what has arrived and is next in order.
    fn arrived(&mut self, job: Job) -> Result<(), WriteError> {
        self.early.insert(job.sequence, job);
        while let Some(job) = self.early.remove(&self.oldest) {
            self.oldest += 1;
            let Some(target) = self.targets.pop_front() else { return Err(WriteError::Worker) };
            let bytes = if job.shrunk { &job.packed } else { &job.data };
            let stored = if job.shrunk { 0 } else { BLOCK_STORED };
            // A block is at most 1 MiB.
            let word = bytes.len() as u32 | stored;
            let start = self.position;
            let write = self.out.write_all_at(bytes, start);
            write.map_err(|source| WriteError::Write { offset: start, source })?;
            self.position += bytes.len() as u64;
            match target {
                Target::Block { record, index } => {
                    let record = &mut self.records[record as usize];
                    if record.start == 0 {
                        record.start = start;
                    }
                    record.words[index] = word;
                }
                Target::Fragment { index } => self.fragments[index] = Fragment { start, word },
            }
            if self.free.len() < self.window {
                self.free.push((job.data, job.packed));
            }
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), WriteError> {
        while !self.targets.is_empty() {
            let job = self.pool.wait()?;
            self.arrived(job)?;
        }
        Ok(())
    }

    /// Puts a tail into the fragment block.
    fn tail(&mut self, number: u32, tail: &[u8]) -> Result<(), WriteError> {
        if self.fragment.len() + tail.len() > self.block_size {
            self.flush_fragment()?;
        }
        let record = &mut self.records[number as usize];
        record.fragment = self.fragments.len() as u32;
        record.offset = self.fragment.len() as u32;
        self.fragment.extend_from_slice(tail);
        Ok(())
    }

    fn flush_fragment(&mut self) -> Result<(), WriteError> {
        if self.fragment.is_empty() {
            return Ok(());
        }
        let (mut data, packed) = self.free.pop().unwrap_or_default();
        data.clear();
        std::mem::swap(&mut data, &mut self.fragment);
        let index = self.fragments.len();
        self.fragments.push(Fragment { start: 0, word: 0 });
        self.submit(Target::Fragment { index }, (data, packed), Packing::Compressed)
    }

    /// A record with the same bytes as the one that was just read, whose own
    /// blocks are then taken back.
    fn duplicate(
        &mut self,
        number: u32,
        key: (u64, u64),
        tail: &[u8],
    ) -> Result<Option<u32>, WriteError> {
        let Some(candidates) = self.seen.get(&key).cloned() else { return Ok(None) };
        self.drain()?;
        for candidate in candidates {
            let (new, old) = (&self.records[number as usize], &self.records[candidate as usize]);
            // Compression is deterministic: equal blocks have equal words.
            if new.words != old.words {
                continue;
            }
            let (start, length) = (new.start, stored_length(&new.words));
            let same =
                self.same_bytes(start, old.start, length)? && self.same_tail(candidate, tail)?;
            if same {
                if length > 0 {
                    self.position = start;
                }
                self.records[number as usize].words = Vec::new();
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    fn same_bytes(&self, a: u64, b: u64, length: u64) -> Result<bool, WriteError> {
        let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut done = 0;
        while done < length {
            let part = (length - done).min(left.len() as u64) as usize;
            for (buffer, at) in [(&mut left, a + done), (&mut right, b + done)] {
                let read = self.out.read_exact_at(&mut buffer[..part], at);
                read.map_err(|source| WriteError::Write { offset: at, source })?;
            }
            if left[..part] != right[..part] {
                return Ok(false);
            }
            done += part as u64;
        }
        Ok(true)
    }

    fn same_tail(&mut self, candidate: u32, tail: &[u8]) -> Result<bool, WriteError> {
        let Record { fragment, offset, .. } = self.records[candidate as usize];
        if fragment == NONE {
            return Ok(tail.is_empty());
        }
        let range = offset as usize..offset as usize + tail.len();
        if fragment as usize == self.fragments.len() {
            return Ok(self.fragment.get(range) == Some(tail));
        }
        if self.inflated.as_ref().is_none_or(|(index, _)| *index != fragment) {
            self.inflated = Some((fragment, self.inflate(self.fragments[fragment as usize])?));
        }
        Ok(self.inflated.as_ref().and_then(|(_, bytes)| bytes.get(range)) == Some(tail))
    }

    fn inflate(&self, Fragment { start, word }: Fragment) -> Result<Vec<u8>, WriteError> {
        let failed = |source| WriteError::Write { offset: start, source };
        let mut bytes = vec![0; (word & !BLOCK_STORED) as usize];
        self.out.read_exact_at(&mut bytes, start).map_err(failed)?;
        if word & BLOCK_STORED != 0 {
            return Ok(bytes);
        }
        let mut out = vec![0; self.block_size];
        let len =
            self.codec.decompress(&bytes, &mut out).map_err(|e| failed(io::Error::other(e)))?;
        out.truncate(len);
        Ok(out)
    }

    pub(super) fn finish(mut self) -> Result<Done, WriteError> {
        self.flush_fragment()?;
        self.drain()?;
        Ok(Done {
            out: self.out,
            position: self.position,
            records: self.records,
            fragments: self.fragments,
            duplicates: self.duplicates,
        })
    }
}

fn stored_length(words: &[u32]) -> u64 {
    words.iter().map(|word| u64::from(word & !BLOCK_STORED)).sum()
}

fn is_zero(data: &[u8]) -> bool {
    // The first word decides nearly always.
    data.iter().take(8).all(|b| *b == 0) && data.iter().all(|b| *b == 0)
}

/// Reads exactly `len` bytes.
fn fill(
    source: &mut dyn Read,
    buffer: &mut Vec<u8>,
    len: usize,
    expected: u64,
) -> Result<(), WriteError> {
    buffer.resize(len, 0);
    let mut done = 0;
    while done < len {
        match source.read(&mut buffer[done..]) {
            Ok(0) => return Err(WriteError::Short { got: done as u64, expected }),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(WriteError::Source(e)),
        }
    }
    Ok(())
}
