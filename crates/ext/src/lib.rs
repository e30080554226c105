//! Read ext2, ext3 and ext4 file systems in a file, with no mount.
//!
//! Singularity's images before SIF are ext3, and so are the writable overlays
//! that Apptainer keeps in a SIF file. [`FileSystem::open`] takes the part of a
//! file that holds one; inodes, directories, file contents, links and extended
//! attributes are read on demand, any number of threads at once.
//!
//! Of a file system that was not unmounted, as a writable overlay whose container
//! was killed, the blocks that wait in its journal are read from there. Inline data, encryption and compression are
//! [`Error::Unsupported`]. Nothing is trusted: a corrupt field is
//! [`Error::Corrupt`], never a panic, a loop or a large allocation.
//!
//! The layout is that of Documentation/filesystems/ext4 of the kernel; all
//! numbers are little-endian.
#![forbid(unsafe_code)]

mod error;
mod journal;
mod map;
mod xattr;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

pub use error::Error;
pub use xattr::Xattr;

use journal::{ESCAPE, Newer};

/// Inode number of the root directory.
pub const ROOT: u32 = 2;

/// Where the superblock is.
const SUPERBLOCK: u64 = 1024;
/// `s_magic`.
const MAGIC: u16 = 0xef53;
/// Feature bits of `s_feature_incompat` that reading has to know.
mod incompat {
    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const WIDE: u32 = 0x80;
    /// File types in directories, extents, 64 bits, multi-mount protection,
    /// flexible groups, a checksum seed, large directories.
    pub(super) const KNOWN: u32 = 0x2 | 0x40 | WIDE | 0x100 | 0x200 | 0x2000 | 0x4000;
}
/// Longest directory that is read.
const MOST_DIRECTORY: u64 = 1 << 30;
/// Longest symbolic link, PATH_MAX of linux/limits.h.
const MOST_LINK: u64 = 4096;

pub(crate) fn le16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

pub(crate) fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// An open file system.
#[derive(Debug)]
pub struct FileSystem {
    file: File,
    /// Where it starts in the file, and how long it may be.
    start: u64,
    len: u64,
    block_size: u64,
    first_block: u64,
    inodes: u32,
    inodes_per_group: u32,
    inode_size: u64,
    descriptor_size: u64,
    /// Blocks that the journal has in a newer form.
    newer: HashMap<u64, Newer>,
}

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A block device.
    BlockDevice(u32, u32),
    /// A character device; 0:0 is a whiteout of overlayfs.
    CharDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// How many names it has.
    pub nlink: u16,
    flags: u32,
    blocks: [u8; 60],
    attributes: u64,
    /// Where it is, and how long, for its extended attributes.
    place: u64,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its inode.
    pub inode: u32,
}

impl FileSystem {
    /// Opens the file system in `len` bytes of a file, from byte `start` on.
    ///
    /// # Errors
    /// When there is none, or none that can be read.
    pub fn open(file: File, start: u64, len: u64) -> Result<Self, Error> {
        let mut fs = Self {
            file,
            start,
            len,
            block_size: 1024,
            first_block: 0,
            inodes: 0,
            inodes_per_group: 1,
            inode_size: 128,
            descriptor_size: 32,
            newer: HashMap::new(),
        };
        if len < SUPERBLOCK + 1024 {
            return Err(Error::NotExt);
        }
        let b = fs.bytes(SUPERBLOCK, 1024, "the superblock")?;
        let waiting = fs.geometry(&b)? & incompat::RECOVER != 0;
        if waiting {
            fs.newer = match le32(&b, 224) {
                // The journal is on another device.
                0 => return Err(Error::Journal),
                inode => fs.journal(inode)?,
            };
            let b = fs.bytes(SUPERBLOCK, 1024, "the superblock")?;
            fs.geometry(&b)?;
        }
        Ok(fs)
    }

    /// Takes from a superblock how the file system is laid out; its features.
    fn geometry(&mut self, b: &[u8]) -> Result<u32, Error> {
        if le16(b, 56) != MAGIC {
            return Err(Error::NotExt);
        }
        let corrupt = |what| Error::Corrupt { what, offset: SUPERBLOCK };
        let features = if le32(b, 76) == 0 { 0 } else { le32(b, 96) };
        let unknown = features & !incompat::KNOWN & !incompat::RECOVER;
        if unknown != 0 {
            return Err(Error::Unsupported { bits: unknown });
        }
        let shift = le32(b, 24);
        if shift > 6 {
            return Err(corrupt("the block size"));
        }
        self.block_size = 1024 << shift;
        self.first_block = u64::from(le32(b, 20));
        self.inodes = le32(b, 0);
        self.inodes_per_group = le32(b, 40);
        if self.inodes_per_group == 0 || self.first_block > 1 {
            return Err(corrupt("the geometry"));
        }
        if le32(b, 76) != 0 {
            self.inode_size = u64::from(le16(b, 88));
        }
        if !self.inode_size.is_power_of_two() || !(128..=self.block_size).contains(&self.inode_size)
        {
            return Err(corrupt("the size of inodes"));
        }
        if features & incompat::WIDE != 0 {
            self.descriptor_size = u64::from(le16(b, 254));
            if !self.descriptor_size.is_power_of_two()
                || !(64..=1024).contains(&self.descriptor_size)
            {
                return Err(corrupt("the size of group descriptors"));
            }
        }
        Ok(features)
    }

    /// Bytes at a place, all of them.
    pub(crate) fn bytes(
        &self,
        offset: u64,
        len: usize,
        what: &'static str,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; len];
        self.fill(offset, &mut bytes, what)?;
        Ok(bytes)
    }

    pub(crate) fn fill(
        &self,
        offset: u64,
        buf: &mut [u8],
        what: &'static str,
    ) -> Result<(), Error> {
        if self.newer.is_empty() {
            return self.stored(offset, buf, what);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset.checked_add(done as u64).ok_or(Error::Corrupt { what, offset })?;
            let within = at % self.block_size;
            let len = ((self.block_size - within) as usize).min(buf.len() - done);
            let part = &mut buf[done..done + len];
            match self.newer.get(&(at / self.block_size)) {
                None => self.stored(at, part, what)?,
                Some(newer) => {
                    self.stored(newer.place + within, part, what)?;
                    let head = ESCAPE.iter().skip(usize::try_from(within).unwrap_or(4));
                    if newer.escaped {
                        part.iter_mut().zip(head).for_each(|(byte, magic)| *byte = *magic);
                    }
                }
            }
            done += len;
        }
        Ok(())
    }

    /// Bytes that are there, whatever the journal says.
    fn stored(&self, offset: u64, buf: &mut [u8], what: &'static str) -> Result<(), Error> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let (Some(_), Some(at)) = (end, self.start.checked_add(offset)) else {
            return Err(Error::Corrupt { what, offset });
        };
        let len = buf.len();
        self.file.read_exact_at(buf, at).map_err(|source| Error::Read { offset, len, source })
    }

    /// Where a block is.
    pub(crate) fn block(&self, number: u64, what: &'static str) -> Result<u64, Error> {
        number.checked_mul(self.block_size).ok_or(Error::Corrupt { what, offset: number })
    }

    /// Reads an inode.
    ///
    /// # Errors
    /// When there is none of that number, or it is corrupt.
    pub fn inode(&self, number: u32) -> Result<Inode, Error> {
        let outside = || Error::Corrupt { what: "an inode's number", offset: u64::from(number) };
        let index = number.checked_sub(1).filter(|_| number <= self.inodes).ok_or_else(outside)?;
        let group = u64::from(index / self.inodes_per_group);
        let table = self.block(self.first_block + 1, "the group descriptors")?;
        let descriptor = table + group * self.descriptor_size;
        let d = self.bytes(descriptor, self.descriptor_size as usize, "a group descriptor")?;
        let high = if d.len() >= 64 { u64::from(le32(&d, 40)) } else { 0 };
        let table = self.block(high << 32 | u64::from(le32(&d, 8)), "a group's inode table")?;
        let place = table
            .checked_add(u64::from(index % self.inodes_per_group) * self.inode_size)
            .ok_or_else(outside)?;
        let b = self.bytes(place, 128, "an inode")?;
        let corrupt = |what| Error::Corrupt { what, offset: place };
        let mode = le16(&b, 0);
        let device = || match (le32(&b, 40), le32(&b, 44)) {
            (0, new) => ((new & 0xf_ff00) >> 8, (new & 0xff) | ((new >> 12) & 0xf_ff00)),
            (old, _) => (old >> 8 & 0xff, old & 0xff),
        };
        let kind = match mode >> 12 {
            0o04 => Kind::Directory,
            0o10 => Kind::File,
            0o12 => Kind::Symlink,
            0o06 => Kind::BlockDevice(device().0, device().1),
            0o02 => Kind::CharDevice(device().0, device().1),
            0o01 => Kind::Fifo,
            0o14 => Kind::Socket,
            _ => return Err(corrupt("an inode's type")),
        };
        let wide = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let mut blocks = [0; 60];
        blocks.copy_from_slice(&b[40..100]);
        Ok(Inode {
            number,
            mode: mode & 0o7777,
            uid: wide(le16(&b, 2), le16(&b, 120)),
            gid: wide(le16(&b, 24), le16(&b, 122)),
            size: u64::from(le32(&b, 4)) | u64::from(le32(&b, 108)) << 32,
            mtime: i64::from(le32(&b, 16).cast_signed()),
            nlink: le16(&b, 26),
            flags: le32(&b, 32),
            blocks,
            attributes: u64::from(le32(&b, 104)) | u64::from(le16(&b, 118)) << 32,
            place,
            kind,
        })
    }

    /// The entries of a directory, without `.` and `..`.
    ///
    /// # Errors
    /// When it is none, or corrupt.
    pub fn entries(&self, dir: &Inode) -> Result<Vec<DirEntry>, Error> {
        let corrupt = |what| Error::Corrupt { what, offset: dir.place };
        if dir.kind != Kind::Directory {
            return Err(corrupt("a directory"));
        }
        if dir.size > MOST_DIRECTORY.min(self.len) {
            return Err(corrupt("the length of a directory"));
        }
        let mut block = vec![0; self.block_size as usize];
        let mut list = Vec::new();
        // An index of hashes hides in what reads as one long unused entry.
        for at in (0..dir.size).step_by(self.block_size as usize) {
            let got = self.read(dir, at, &mut block)?;
            let mut rest = &block[..got];
            while rest.len() >= 8 {
                let (inode, len, name) =
                    (le32(rest, 0), usize::from(le16(rest, 4)), usize::from(rest[6]));
                // 64 KiB do not fit into the field.
                let len = if len == 0xffff || len == 0 { 1 << 16 } else { len };
                if len < 8 || len > rest.len() || 8 + name > len {
                    return Err(corrupt("an entry of a directory"));
                }
                let bytes = &rest[8..8 + name];
                if inode != 0 && bytes != b"." && bytes != b".." {
                    if bytes.is_empty() || bytes.iter().any(|b| [0, b'/'].contains(b)) {
                        return Err(corrupt("a name in a directory"));
                    }
                    list.push(DirEntry { name: bytes.to_vec(), inode });
                }
                rest = &rest[len..];
            }
        }
        Ok(list)
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// When it is none, or corrupt.
    pub fn read_link(&self, link: &Inode) -> Result<Vec<u8>, Error> {
        let corrupt = || Error::Corrupt { what: "a symbolic link", offset: link.place };
        if link.kind != Kind::Symlink || link.size == 0 || link.size > MOST_LINK {
            return Err(corrupt());
        }
        let len = link.size as usize;
        if len < link.blocks.len() && !link.has_extents() {
            return Ok(link.blocks[..len].to_vec());
        }
        let mut bytes = vec![0; len];
        if self.read(link, 0, &mut bytes)? == len { Ok(bytes) } else { Err(corrupt()) }
    }
}
