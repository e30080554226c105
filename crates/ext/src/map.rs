//! Where the blocks of a file are: lists of blocks, or extents.

use crate::{Error, FileSystem, Inode, le16, le32};

/// `EXT4_EXTENTS_FL`.
const EXTENTS: u32 = 0x8_0000;
/// `eh_magic`.
const MAGIC: u16 = 0xf30a;
/// Deepest tree of extents (fs/ext4/extents.c).
const DEEPEST: u16 = 5;
/// An extent longer than this is not written yet, and reads as zeros.
const WRITTEN: u16 = 32_768;

/// Blocks of a file that lie together.
struct Run {
    /// Where on the file system; None is a hole.
    block: Option<u64>,
    /// How many.
    count: u64,
}

impl Inode {
    pub(crate) fn has_extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    /// Where the inode is.
    pub(crate) fn place(&self) -> u64 {
        self.place
    }
}

impl FileSystem {
    /// Reads a file from a byte on; fewer bytes than asked for only at its end.
    ///
    /// # Errors
    /// When the file cannot be read or is corrupt.
    pub fn read(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize, Error> {
        let left = inode.size.saturating_sub(offset);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let mut done = 0;
        while done < want {
            let at = offset + done as u64;
            let (index, within) = (at / self.block_size, at % self.block_size);
            let run = self.run(inode, index)?;
            let bytes = run.count.max(1).saturating_mul(self.block_size) - within;
            let len = usize::try_from(bytes).unwrap_or(usize::MAX).min(want - done);
            let part = &mut buf[done..done + len];
            match run.block {
                Some(block) => {
                    let place = self.block(block, "a file's block")?;
                    self.fill(place.saturating_add(within), part, "a file's block")?;
                }
                None => part.fill(0),
            }
            done += len;
        }
        Ok(want)
    }

    /// The byte where a block of a file is; None in a hole.
    pub(crate) fn located(&self, inode: &Inode, index: u64) -> Result<Option<u64>, Error> {
        let block = self.run(inode, index)?.block;
        block.map(|block| self.block(block, "a file's block")).transpose()
    }

    fn run(&self, inode: &Inode, index: u64) -> Result<Run, Error> {
        if inode.has_extents() { self.extent(inode, index) } else { self.listed(inode, index) }
    }

    /// By the list in the inode and the blocks of lists that it names.
    fn listed(&self, inode: &Inode, index: u64) -> Result<Run, Error> {
        let per_block = self.block_size / 4;
        let number = |list: &[u8], at: u64| u64::from(le32(list, at as usize * 4));
        let run = |block: u64| Run { block: (block != 0).then_some(block), count: 1 };
        if index < 12 {
            return Ok(run(number(&inode.blocks, index)));
        }
        let mut rest = index - 12;
        let mut covered = per_block;
        for level in 0..3_u64 {
            if rest < covered {
                let mut block = number(&inode.blocks, 12 + level);
                let mut below = covered / per_block;
                while block != 0 {
                    let place = self.block(block, "a list of blocks")?;
                    let entry = place + rest / below * 4;
                    block = u64::from(le32(&self.bytes(entry, 4, "a list of blocks")?, 0));
                    if below == 1 {
                        return Ok(run(block));
                    }
                    rest %= below;
                    below /= per_block;
                }
                return Ok(Run { block: None, count: below - rest % below });
            }
            rest -= covered;
            covered = covered.saturating_mul(per_block);
        }
        Err(Error::Corrupt { what: "the length of a file", offset: inode.place })
    }

    /// By the tree of extents.
    fn extent(&self, inode: &Inode, index: u64) -> Result<Run, Error> {
        let mut node = inode.blocks.to_vec();
        let mut place = inode.place;
        let mut above: Option<u16> = None;
        // Where the next node of the tree begins.
        let mut end = u64::MAX;
        loop {
            let corrupt = || Error::Corrupt { what: "an extent", offset: place };
            let (count, depth) = (usize::from(le16(&node, 2)), le16(&node, 6));
            let fits = 12 + count * 12 <= node.len();
            let deeper = above.is_none_or(|above| depth + 1 == above);
            if le16(&node, 0) != MAGIC || !fits || depth > DEEPEST || !deeper {
                return Err(corrupt());
            }
            let entries = || node[12..12 + count * 12].chunks_exact(12);
            let first = |e: &[u8]| u64::from(le32(e, 0));
            // Whatever lies between two extents is a hole up to the next one.
            end = entries().map(first).find(|at| *at > index).map_or(end, |next| next.min(end));
            let hole = Run { block: None, count: end - index };
            let Some(entry) = entries().rev().find(|e| first(e) <= index) else { return Ok(hole) };
            if depth == 0 {
                let len = le16(entry, 4);
                let (len, written) =
                    if len > WRITTEN { (len - WRITTEN, false) } else { (len, true) };
                let within = index - first(entry);
                if within >= u64::from(len) {
                    return Ok(hole);
                }
                let start = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
                let block = written.then_some(start + within);
                return Ok(Run { block, count: u64::from(len) - within });
            }
            let child = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
            place = self.block(child, "an extent")?;
            node = self.bytes(place, self.block_size as usize, "an extent")?;
            above = Some(depth);
        }
    }
}
