//! Directories: listing and lookup.
//!
//! A listing is a run of headers, each followed by up to 256 entries that
//! share an inode block. Entries are in bytewise order, so a lookup stops at
//! the first name that is greater, and in large directories starts at the
//! index entry before it.

use std::cmp::Ordering;

use super::{Cursor, Image, Inode, InodeKind, InodeRef};
use crate::error::Error;
use crate::format::{ABSENT, METADATA_LEN, NAME_LEN, kind, le16, le32};

/// What an entry is, as its directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum EntryKind {
    Directory,
    File,
    Symlink,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name: 1 to 256 bytes, no slash, no NUL, neither `.` nor `..`.
    pub name: Vec<u8>,
    /// Where its inode is.
    pub inode: InodeRef,
    /// Its inode's number.
    pub inode_number: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// The entries of a directory, in order.
pub struct ReadDir<'a> {
    cursor: Cursor<'a>,
    /// Bytes of the listing that are left.
    left: u64,
    /// Entries left under the current header.
    run: u32,
    block: u32,
    base: u32,
    failed: bool,
}

/// A place in a listing, from which reading can go on.
#[derive(Clone, Copy, Debug)]
pub struct DirPosition {
    /// Metadata block and the offset there.
    at: (u64, usize),
    left: u64,
    run: u32,
    block: u32,
    base: u32,
}

/// The fixed part of an entry.
struct Head {
    inode: InodeRef,
    number: u32,
    kind: EntryKind,
    len: usize,
}

impl ReadDir<'_> {
    /// Where this is: before the entry that comes next.
    #[must_use]
    pub fn position(&self) -> DirPosition {
        let at = (self.cursor.block, self.cursor.offset);
        let Self { left, run, block, base, .. } = *self;
        DirPosition { at, left, run, block, base }
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::Corrupt { what, offset: self.cursor.place() }
    }

    fn spend(&mut self, len: u64) -> Result<(), Error> {
        match self.left.checked_sub(len) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.corrupt("the length of a directory")),
        }
    }

    /// The next entry but for its name, or None at the end.
    fn head(&mut self) -> Result<Option<Head>, Error> {
        if self.run == 0 {
            if self.left == 0 {
                return Ok(None);
            }
            self.spend(12)?;
            let b: [u8; 12] = self.cursor.take()?;
            let count = le32(&b, 0);
            if count >= 256 {
                return Err(self.corrupt("a directory header"));
            }
            (self.run, self.block, self.base) = (count + 1, le32(&b, 4), le32(&b, 8));
        }
        self.run -= 1;
        let b: [u8; 8] = self.cursor.take()?;
        let len = usize::from(le16(&b, 6)) + 1;
        if len > NAME_LEN {
            return Err(self.corrupt("the length of a name"));
        }
        self.spend(8 + len as u64)?;
        let kind = match le16(&b, 4) {
            kind::DIR => EntryKind::Directory,
            kind::FILE => EntryKind::File,
            kind::SYMLINK => EntryKind::Symlink,
            kind::BLOCK => EntryKind::BlockDevice,
            kind::CHAR => EntryKind::CharDevice,
            kind::FIFO => EntryKind::Fifo,
            kind::SOCKET => EntryKind::Socket,
            _ => return Err(self.corrupt("the type of a directory entry")),
        };
        let delta = i32::from(i16::from_le_bytes([b[2], b[3]]));
        Ok(Some(Head {
            inode: InodeRef(u64::from(self.block) << 16 | u64::from(le16(&b, 0))),
            number: self.base.wrapping_add_signed(delta),
            kind,
            len,
        }))
    }

    fn name<'b>(&mut self, len: usize, space: &'b mut [u8; NAME_LEN]) -> Result<&'b [u8], Error> {
        let name = &mut space[..len];
        self.cursor.fill(name)?;
        if name.iter().any(|b| *b == b'/' || *b == 0) || *name == *b"." || *name == *b".." {
            return Err(self.corrupt("a name in a directory"));
        }
        Ok(name)
    }

    fn step(&mut self) -> Result<Option<DirEntry>, Error> {
        let Some(Head { inode, number, kind, len }) = self.head()? else { return Ok(None) };
        let mut space = [0; NAME_LEN];
        let name = self.name(len, &mut space)?.to_vec();
        Ok(Some(DirEntry { name, inode, inode_number: number, kind }))
    }

    fn find(&mut self, wanted: &[u8]) -> Result<Option<DirEntry>, Error> {
        let mut space = [0; NAME_LEN];
        while let Some(Head { inode, number, kind, len }) = self.head()? {
            match self.name(len, &mut space)?.cmp(wanted) {
                Ordering::Less => {}
                Ordering::Equal => {
                    let name = wanted.to_vec();
                    return Ok(Some(DirEntry { name, inode, inode_number: number, kind }));
                }
                Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }
}

impl Iterator for ReadDir<'_> {
    type Item = Result<DirEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.step().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}

impl Image {
    /// The entries of a directory, from the one with index `start` on.
    ///
    /// # Errors
    /// When the inode is no directory, or the image is corrupt there.
    pub fn read_dir(&self, dir: &Inode, start: u64) -> Result<ReadDir<'_>, Error> {
        let mut listing = self.listing(dir, None)?;
        let mut space = [0; NAME_LEN];
        for _ in 0..start {
            match listing.head()? {
                Some(head) => listing.name(head.len, &mut space).map(|_| ())?,
                None => break,
            }
        }
        Ok(listing)
    }

    /// The entries of a directory from where another reading of it was.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn read_dir_at(&self, position: &DirPosition) -> Result<ReadDir<'_>, Error> {
        let DirPosition { at, left, run, block, base } = *position;
        Ok(ReadDir { cursor: self.cursor(at.0, at.1)?, left, run, block, base, failed: false })
    }

    /// The entry with a name.
    ///
    /// # Errors
    /// When the inode is no directory, or the image is corrupt there.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry>, Error> {
        if name.is_empty() || name.len() > NAME_LEN {
            return Ok(None);
        }
        self.listing(dir, Some(name))?.find(name)
    }

    fn listing(&self, dir: &Inode, name: Option<&[u8]>) -> Result<ReadDir<'_>, Error> {
        let InodeKind::Directory { block, offset, size, indexes, .. } = dir.kind else {
            return Err(Error::Kind { inode: dir.number, expected: "a directory" });
        };
        // An empty listing has size 3, for `.` and `..` in old times.
        let mut left = u64::from(size).saturating_sub(3);
        let (mut block, mut offset) = (u64::from(block), usize::from(offset));
        if let Some(name) = name.filter(|_| indexes > 0) {
            let (skipped, at) = self.index(dir, indexes, name)?;
            if let Some(at) = at {
                offset = (offset + skipped as usize) % METADATA_LEN;
                block = u64::from(at);
                left = left.saturating_sub(u64::from(skipped));
            }
        }
        let (table, end) = self.directories();
        let what = "the position of a directory";
        let at = table.checked_add(block).ok_or(Error::Corrupt { what, offset: block })?;
        // No metadata block takes less than three bytes on disk.
        let room = end.saturating_sub(at).div_ceil(3).saturating_mul(METADATA_LEN as u64);
        if left > room {
            return Err(Error::Corrupt { what: "the length of a directory", offset: at });
        }
        let cursor = if left == 0 && block == 0 && offset == 0 {
            // An image of empty directories may have an empty table.
            self.cursor(self.superblock().inode_table, 0)?
        } else {
            self.cursor(at, offset)?
        };
        Ok(ReadDir { cursor, left, run: 0, block: 0, base: 0, failed: false })
    }

    /// Where the directory table starts, and an end that it cannot pass.
    fn directories(&self) -> (u64, u64) {
        let sb = self.superblock();
        let others = [sb.fragment_table, sb.export_table, sb.id_table, sb.xattr_table];
        let after = others.into_iter().filter(|at| *at != ABSENT && *at > sb.directory_table);
        (sb.directory_table, after.fold(sb.bytes_used, u64::min))
    }

    /// The last index entry whose name is not greater: how many bytes of the
    /// listing it skips, and the block it points at.
    fn index(&self, dir: &Inode, count: u16, name: &[u8]) -> Result<(u32, Option<u32>), Error> {
        let (block, offset) = dir.tail();
        let mut cursor = self.cursor(block, offset)?;
        let mut best = (0, None);
        let mut space = [0; NAME_LEN];
        for _ in 0..count {
            let b: [u8; 12] = cursor.take()?;
            let len = le32(&b, 8) as usize;
            let what = "a directory index";
            let corrupt = Error::Corrupt { what, offset: cursor.place() };
            let first = space.get_mut(..=len).ok_or(corrupt)?;
            cursor.fill(first)?;
            if &*first > name {
                break;
            }
            best = (le32(&b, 0), Some(le32(&b, 4)));
        }
        Ok(best)
    }
}
