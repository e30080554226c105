//! The journal of a file system that was not unmounted: what it would write is
//! read from it, and nothing is written.
//!
//! The layout is that of Documentation/filesystems/ext4/journal.rst of the
//! kernel; all numbers are big-endian. A transaction counts once its commit
//! block is there. Checksums are not looked at: a block counts by its magic
//! number and by the number of its transaction.

use std::collections::HashMap;

use crate::{Error, FileSystem, Inode, Kind};

const MAGIC: u32 = 0xc03b_3998;
/// Types of blocks.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const PLAIN_SUPERBLOCK: u32 = 3;
const SUPERBLOCK: u32 = 4;
const REVOKE: u32 = 5;
/// Features of `s_feature_incompat`: revocations, 64 bits, commits that say
/// where their checksums are, which 2 and 3 have elsewhere.
const WIDE: u32 = 0x2;
const CHECKSUM_2: u32 = 0x8;
const CHECKSUM_3: u32 = 0x10;
const KNOWN: u32 = 0x1 | WIDE | CHECKSUM_2 | CHECKSUM_3;
/// Flags of a tag.
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;
/// The head of every block of the journal's own.
const HEAD: usize = 12;
/// Most blocks of a journal, and most revocations, that are kept in memory.
const MOST: usize = 1 << 20;

/// A block of the file system that the journal has in another form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newer {
    /// The byte of the file system where it is, in the journal.
    pub(crate) place: u64,
    /// Whether its first bytes, which would be the magic number, are zeroes there.
    pub(crate) escaped: bool,
}

/// What stands for the first bytes of an escaped block.
pub(crate) const ESCAPE: [u8; 4] = MAGIC.to_be_bytes();

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

struct Journal<'a> {
    fs: &'a FileSystem,
    inode: Inode,
    features: u32,
    /// The ring of blocks: from the first on, up to the last.
    first: u64,
    end: u64,
    /// Blocks that were gone over.
    passed: u64,
    newer: HashMap<u64, Newer>,
}

impl FileSystem {
    /// The blocks that the journal in an inode has in a newer form.
    pub(crate) fn journal(&self, number: u32) -> Result<HashMap<u64, Newer>, Error> {
        let inode = self.inode(number)?;
        let corrupt = |what| Error::Corrupt { what, offset: inode.place() };
        if inode.kind != Kind::File {
            return Err(corrupt("the journal's inode"));
        }
        let place = self.located(&inode, 0)?.ok_or_else(|| corrupt("the journal"))?;
        let b = self.bytes(place, 1024, "the journal's superblock")?;
        let form = be32(&b, 4);
        if be32(&b, 0) != MAGIC || ![PLAIN_SUPERBLOCK, SUPERBLOCK].contains(&form) {
            return Err(corrupt("the journal's superblock"));
        }
        let features = if form == SUPERBLOCK { be32(&b, 40) } else { 0 };
        let (end, first) = (u64::from(be32(&b, 16)), u64::from(be32(&b, 20)));
        let (sequence, start) = (be32(&b, 24), u64::from(be32(&b, 28)));
        if features & !KNOWN != 0 || end > MOST as u64 {
            return Err(Error::Journal);
        }
        if start == 0 {
            return Ok(HashMap::new());
        }
        let whole = u64::from(be32(&b, 12)) == self.block_size
            && end.checked_mul(self.block_size).is_some_and(|len| len <= inode.size)
            && (1..end).contains(&first)
            && (first..end).contains(&start);
        if !whole {
            return Err(corrupt("the geometry of the journal"));
        }
        let newer = HashMap::new();
        let mut journal = Journal { fs: self, inode, features, first, end, passed: 0, newer };
        journal.replay(sequence, start)?;
        Ok(journal.newer)
    }
}

impl Journal<'_> {
    fn corrupt(&self, what: &'static str, at: u64) -> Error {
        Error::Corrupt { what, offset: at.saturating_mul(self.fs.block_size) }
    }

    /// The block behind another in the ring.
    fn next(&mut self, at: u64) -> Result<u64, Error> {
        self.passed += 1;
        if self.passed > self.end {
            return Err(self.corrupt("the journal, which never ends,", at));
        }
        Ok(if at + 1 == self.end { self.first } else { at + 1 })
    }

    fn place(&self, at: u64) -> Result<u64, Error> {
        let found = self.fs.located(&self.inode, at)?;
        found.ok_or_else(|| self.corrupt("a hole in the journal at its block", at))
    }

    /// Goes over the transactions that are whole.
    fn replay(&mut self, mut sequence: u32, mut at: u64) -> Result<(), Error> {
        let mut blocks = Vec::new();
        let mut revoked = Vec::new();
        loop {
            let place = self.place(at)?;
            let len = self.fs.block_size as usize;
            let block = self.fs.bytes(place, len, "a block of the journal")?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                return Ok(());
            }
            at = self.next(at)?;
            match be32(&block, 4) {
                DESCRIPTOR => at = self.tags(&block, at, &mut blocks)?,
                REVOKE => self.revocations(&block, at, &mut revoked)?,
                COMMIT => {
                    self.newer.extend(blocks.drain(..));
                    for number in revoked.drain(..) {
                        self.newer.remove(&number);
                    }
                    sequence = sequence.wrapping_add(1);
                }
                _ => return Ok(()),
            }
        }
    }

    /// The blocks that a descriptor announces, which follow it.
    fn tags(
        &mut self,
        block: &[u8],
        mut at: u64,
        blocks: &mut Vec<(u64, Newer)>,
    ) -> Result<u64, Error> {
        let has = |bit| self.features & bit != 0;
        let (wide, third, checked) = (has(WIDE), has(CHECKSUM_3), has(CHECKSUM_2));
        let len = match (third, wide) {
            (true, _) => 16,
            (false, wide) => 8 + if wide { 4 } else { 0 } + if checked { 2 } else { 0 },
        };
        // The descriptor's own checksum is at its end.
        let tail = if third || checked { 4 } else { 0 };
        let mut rest = &block[HEAD..block.len() - tail];
        while rest.len() >= len {
            let flags =
                if third { be32(rest, 4) } else { u32::from(rest[6]) << 8 | u32::from(rest[7]) };
            let high = if wide { u64::from(be32(rest, 8)) } else { 0 };
            let number = high << 32 | u64::from(be32(rest, 0));
            let newer = Newer { place: self.place(at)?, escaped: flags & ESCAPED != 0 };
            blocks.push((number, newer));
            at = self.next(at)?;
            let uuid = if flags & SAME_UUID == 0 { 16 } else { 0 };
            if flags & LAST != 0 {
                break;
            }
            rest = rest.get(len + uuid..).unwrap_or_default();
        }
        Ok(at)
    }

    fn revocations(&self, block: &[u8], at: u64, revoked: &mut Vec<u64>) -> Result<(), Error> {
        let used = be32(block, HEAD) as usize;
        let list = block.get(HEAD + 4..used);
        let list = list.ok_or_else(|| self.corrupt("a list of revocations before block", at))?;
        let wide = self.features & WIDE != 0;
        for entry in list.chunks_exact(if wide { 8 } else { 4 }) {
            let number = u64::from(be32(entry, 0));
            revoked.push(if wide { number << 32 | u64::from(be32(entry, 4)) } else { number });
        }
        if revoked.len() > MOST { Err(Error::Journal) } else { Ok(()) }
    }
}
