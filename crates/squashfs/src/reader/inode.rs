//! Inodes and the data of files.

use std::sync::{Arc, LazyLock, OnceLock};

use super::blocks::{Chunk, chunk_of};
use super::{Block, Cursor, Image};
use crate::error::Error;
use crate::format::{BLOCK_STORED, LINK_LEN, NONE, decode_device, kind, le16, le32, le64};

/// Where an inode is: block position in the inode table << 16 | offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeRef(pub u64);

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InodeKind {
    /// A directory.
    Directory {
        /// Block of its listing, relative to the directory table.
        block: u32,
        /// Offset in that block.
        offset: u16,
        /// Length of its listing, plus 3.
        size: u32,
        /// Inode number of its parent.
        parent: u32,
        /// How many index entries follow the inode.
        indexes: u16,
    },
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// Position of its first block.
        start: u64,
        /// Fragment that holds its tail, or [`NONE`].
        fragment: u32,
        /// Where in the fragment.
        fragment_offset: u32,
        /// How many bytes of zeroes are not stored.
        sparse: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Length of what it says.
        size: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// An inode.
#[derive(Debug)]
pub struct Inode {
    /// Where it is.
    pub reference: InodeRef,
    /// Its number, from 1.
    pub number: u32,
    /// What it is.
    pub kind: InodeKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: u32,
    /// Number of links.
    pub nlink: u32,
    /// Index into the xattr table, or [`NONE`].
    pub(super) xattr: u32,
    /// Where the variable part starts: block and offset.
    tail: (u64, usize),
    /// The block list, if it is short; read when the file first is.
    pub(super) list: OnceLock<Arc<Chunk>>,
}

impl Inode {
    /// Length in bytes of what a stat(2) shows.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.kind {
            InodeKind::File { size, .. } => size,
            InodeKind::Directory { size, .. } | InodeKind::Symlink { size } => u64::from(size),
            _ => 0,
        }
    }

    /// Whether there are extended attributes.
    #[must_use]
    pub fn has_xattrs(&self) -> bool {
        self.xattr != NONE
    }

    /// Whether it is a whiteout of overlayfs: a character device 0:0, which
    /// hides the name in the layers below.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        matches!(self.kind, InodeKind::CharDevice { major: 0, minor: 0 })
    }

    pub(super) fn tail(&self) -> (u64, usize) {
        self.tail
    }

    pub(super) fn wrong(&self, expected: &'static str) -> Error {
        Error::Kind { inode: self.number, expected }
    }
}

impl Image {
    /// Reads an inode.
    ///
    /// # Errors
    /// When the image cannot be read or is corrupt there.
    pub fn inode(&self, reference: InodeRef) -> Result<Arc<Inode>, Error> {
        self.inodes.get(reference.0, || self.read_inode(reference).map(Arc::new))
    }

    fn read_inode(&self, reference: InodeRef) -> Result<Inode, Error> {
        let offset = (reference.0 & 0xffff) as usize;
        let corrupt = |what| Error::Corrupt { what, offset: reference.0 >> 16 };
        let block = self.superblock().inode_table.checked_add(reference.0 >> 16);
        let block = block.filter(|b| *b < self.superblock().directory_table);
        let mut cursor =
            self.cursor(block.ok_or_else(|| corrupt("an inode's position"))?, offset)?;
        let head: [u8; 16] = cursor.take()?;
        let (mut nlink, mut xattr) = (1, NONE);
        let kind = read_kind(le16(&head, 0), &mut cursor, &mut nlink, &mut xattr)?;
        Ok(Inode {
            reference,
            number: le32(&head, 12),
            kind,
            mode: le16(&head, 2) & 0o7777,
            uid: self.id(le16(&head, 4))?,
            gid: self.id(le16(&head, 6))?,
            mtime: le32(&head, 8),
            nlink,
            xattr,
            tail: (cursor.block, cursor.offset),
            list: OnceLock::new(),
        })
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// When the inode is no link, or the image is corrupt there.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        let InodeKind::Symlink { size } = inode.kind else {
            return Err(inode.wrong("a symbolic link"));
        };
        let (block, offset) = inode.tail;
        // read_kind has checked the length.
        let mut target = vec![0; size as usize];
        self.cursor(block, offset)?.fill(&mut target)?;
        Ok(target)
    }

    /// A block of a file, inflated; None for a block of zeroes. The last one
    /// may be short.
    ///
    /// # Errors
    /// When the inode is no file, has no such block, or the image is corrupt
    /// there.
    pub fn block(&self, inode: &Inode, index: u64) -> Result<Option<Block>, Error> {
        self.block_in(inode, &*self.chunk(inode, index)?, index)
    }

    fn block_in(&self, inode: &Inode, chunk: &Chunk, index: u64) -> Result<Option<Block>, Error> {
        let (at, word) = chunk.block(index);
        if word & !BLOCK_STORED == 0 {
            return Ok(None);
        }
        let limit = self.superblock().block_size;
        let block_size = u64::from(limit);
        let expected = block_size.min(inode.size() - index * block_size) as usize;
        let block = self.data_block(at, word, limit as usize)?;
        if block.len() < expected {
            return Err(Error::Corrupt { what: "a data block that is too short", offset: at });
        }
        Ok(Some(block))
    }

    /// Reads a file's bytes; less than asked for only at its end.
    ///
    /// # Errors
    /// When the inode is no file, or the image is corrupt there.
    pub fn read(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        for piece in self.pieces(inode, offset, buf.len())? {
            let bytes = piece.bytes();
            buf[done..done + bytes.len()].copy_from_slice(bytes);
            done += bytes.len();
        }
        Ok(done)
    }

    /// The same without a copy: the parts of blocks that hold the bytes.
    ///
    /// # Errors
    /// When the inode is no file, or the image is corrupt there.
    pub fn pieces(&self, inode: &Inode, offset: u64, len: usize) -> Result<Vec<Piece>, Error> {
        let InodeKind::File { size, fragment, fragment_offset, .. } = inode.kind else {
            return Err(inode.wrong("a regular file"));
        };
        let want = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let block_size = u64::from(self.superblock().block_size);
        let full = self.blocks(size, fragment);
        let mut chunk: Option<(u64, Arc<Chunk>)> = None;
        let mut pieces = Vec::with_capacity(want.div_ceil(block_size as usize) + 1);
        let mut done = 0;
        while done < want {
            let at = offset + done as u64;
            let (index, inside) = (at / block_size, (at % block_size) as usize);
            let limit = (block_size - inside as u64).min(size - at) as usize;
            let len = limit.min(want - done);
            let piece = if index < full {
                let number = chunk_of(index);
                let chunk = match &chunk {
                    Some((have, chunk)) if *have == number => chunk,
                    _ => &chunk.insert((number, self.chunk(inode, index)?)).1,
                };
                Piece { block: self.block_in(inode, chunk, index)?, start: inside, len }
            } else {
                let block = self.fragment(fragment)?;
                let start = fragment_offset as usize + inside;
                if start.checked_add(len).is_none_or(|end| end > block.len()) {
                    let what = "a file's place in its fragment";
                    return Err(Error::Corrupt { what, offset: u64::from(fragment) });
                }
                Piece { block: Some(block), start, len }
            };
            pieces.push(piece);
            done += len;
        }
        Ok(pieces)
    }
}

/// What a block that is not stored reads as; as long as a block may be.
static ZEROES: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; 1 << 20]);

/// A part of a block.
#[derive(Debug, Clone)]
pub struct Piece {
    /// None for a block of zeroes.
    block: Option<Block>,
    start: usize,
    len: usize,
}

impl Piece {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.block {
            Some(block) => &block[self.start..self.start + self.len],
            None => &ZEROES[..self.len],
        }
    }
}

fn read_kind(
    code: u16,
    cursor: &mut Cursor<'_>,
    nlink: &mut u32,
    xattr: &mut u32,
) -> Result<InodeKind, Error> {
    let extended = code > kind::EXTENDED;
    let base = if extended { code - kind::EXTENDED } else { code };
    let what = "an inode's type";
    let unknown = Error::Corrupt { what, offset: cursor.place() };
    Ok(match (base, extended) {
        (kind::DIR, false) => {
            let b: [u8; 16] = cursor.take()?;
            *nlink = le32(&b, 4);
            InodeKind::Directory {
                block: le32(&b, 0),
                offset: le16(&b, 10),
                size: u32::from(le16(&b, 8)),
                parent: le32(&b, 12),
                indexes: 0,
            }
        }
        (kind::DIR, true) => {
            let b: [u8; 24] = cursor.take()?;
            (*nlink, *xattr) = (le32(&b, 0), le32(&b, 20));
            InodeKind::Directory {
                block: le32(&b, 8),
                offset: le16(&b, 18),
                size: le32(&b, 4),
                parent: le32(&b, 12),
                indexes: le16(&b, 16),
            }
        }
        (kind::FILE, false) => {
            let b: [u8; 16] = cursor.take()?;
            InodeKind::File {
                size: u64::from(le32(&b, 12)),
                start: u64::from(le32(&b, 0)),
                fragment: le32(&b, 4),
                fragment_offset: le32(&b, 8),
                sparse: 0,
            }
        }
        (kind::FILE, true) => {
            let b: [u8; 40] = cursor.take()?;
            (*nlink, *xattr) = (le32(&b, 24), le32(&b, 36));
            InodeKind::File {
                size: le64(&b, 8),
                start: le64(&b, 0),
                fragment: le32(&b, 28),
                fragment_offset: le32(&b, 32),
                sparse: le64(&b, 16),
            }
        }
        (kind::SYMLINK, _) => {
            let b: [u8; 8] = cursor.take()?;
            *nlink = le32(&b, 0);
            let (size, tail) = (le32(&b, 4), (cursor.block, cursor.offset));
            if size == 0 || size as usize > LINK_LEN {
                return Err(Error::Corrupt { what: "the length of a link", offset: tail.0 });
            }
            if extended {
                // The xattr index comes after the target.
                let mut after = cursor.image.cursor(tail.0, tail.1)?;
                after.skip(size as usize)?;
                *xattr = u32::from_le_bytes(after.take()?);
            }
            InodeKind::Symlink { size }
        }
        (kind::BLOCK | kind::CHAR, _) => {
            let b: [u8; 8] = cursor.take()?;
            *nlink = le32(&b, 0);
            let (major, minor) = decode_device(le32(&b, 4));
            if extended {
                *xattr = u32::from_le_bytes(cursor.take()?);
            }
            match base {
                kind::BLOCK => InodeKind::BlockDevice { major, minor },
                _ => InodeKind::CharDevice { major, minor },
            }
        }
        (kind::FIFO | kind::SOCKET, _) => {
            *nlink = u32::from_le_bytes(cursor.take()?);
            if extended {
                *xattr = u32::from_le_bytes(cursor.take()?);
            }
            if base == kind::FIFO { InodeKind::Fifo } else { InodeKind::Socket }
        }
        _ => return Err(unknown),
    })
}
