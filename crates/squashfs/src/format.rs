//! The on-disk format, squashfs 4.0. All integers are little-endian.
//!
//! ```text
//! superblock                 96 bytes
//! [compression options]      one uncompressed metadata block
//! data blocks, fragments     compressed, each at most block_size when inflated
//! inode table                metadata blocks
//! directory table            metadata blocks
//! fragment table             metadata blocks of 16-byte entries, then their positions
//! [export table]             the same, 8-byte inode references
//! id table                   the same, 4-byte user and group ids
//! [xattr table]              key/value metadata, 16-byte id entries, positions
//! ```
//!
//! A metadata block is a 16-bit header (bit 15: stored, bits 0–14: length on
//! disk) and at most 8192 bytes inflated. A metadata reference is
//! `block position relative to its table << 16 | offset in the inflated block`.
//! A data block's size word has bit 24 set when it is stored; size 0 is a
//! block of zeroes. Source: the kernel's fs/squashfs/squashfs_fs.h and
//! Documentation/filesystems/squashfs.rst.

/// `hsqs`.
pub const MAGIC: u32 = 0x7371_7368;
/// Length of the superblock.
pub const SUPERBLOCK_LEN: usize = 96;
/// Largest inflated metadata block.
pub const METADATA_LEN: usize = 8192;
/// Bit of a metadata header that marks a stored block.
pub const METADATA_STORED: u16 = 0x8000;
/// Bit of a data block size that marks a stored block.
pub const BLOCK_STORED: u32 = 1 << 24;
/// No fragment, no xattrs.
pub const NONE: u32 = u32::MAX;
/// Position of an absent table.
pub const ABSENT: u64 = u64::MAX;
/// Longest name.
pub const NAME_LEN: usize = 256;

/// Longest value of an extended attribute: XATTR_SIZE_MAX of linux/limits.h.
pub const XATTR_VALUE_LEN: usize = 65_536;
/// Most bytes of names that an inode's attributes have, each with its NUL: what
/// listxattr(2) can return, XATTR_LIST_MAX of the same.
pub const XATTR_NAMES_LEN: usize = 65_536;
/// Most bytes of values that an inode's attributes have together. Linux has no
/// such limit; file systems that keep them beside the inode end far below it.
pub const XATTR_VALUES_LEN: usize = 1 << 20;
/// Longest target of a symbolic link: PATH_MAX of linux/limits.h less its NUL,
/// which is also what FUSE takes.
pub const LINK_LEN: usize = 4095;

/// Superblock flags.
pub mod flags {
    /// Fragments are always used.
    pub const ALWAYS_FRAGMENTS: u16 = 0x20;
    /// Duplicate files are stored once.
    pub const DUPLICATES: u16 = 0x40;
    /// There is an export table.
    pub const EXPORT: u16 = 0x80;
    /// There are no xattrs.
    pub const NO_XATTRS: u16 = 0x200;
    /// There is a compression options block.
    pub const OPTIONS: u16 = 0x400;
}

/// Inode types; the extended ones are 7 more.
pub mod kind {
    /// Directory.
    pub const DIR: u16 = 1;
    /// Regular file.
    pub const FILE: u16 = 2;
    /// Symbolic link.
    pub const SYMLINK: u16 = 3;
    /// Block device.
    pub const BLOCK: u16 = 4;
    /// Character device.
    pub const CHAR: u16 = 5;
    /// FIFO.
    pub const FIFO: u16 = 6;
    /// Socket.
    pub const SOCKET: u16 = 7;
    /// Added for the extended form.
    pub const EXTENDED: u16 = 7;
}

/// The superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of squashfs_fs.h")]
pub struct Superblock {
    pub inodes: u32,
    pub mkfs_time: u32,
    pub block_size: u32,
    pub fragments: u32,
    pub compression: u16,
    pub block_log: u16,
    pub flags: u16,
    pub ids: u16,
    pub root: u64,
    pub bytes_used: u64,
    pub id_table: u64,
    pub xattr_table: u64,
    pub inode_table: u64,
    pub directory_table: u64,
    pub fragment_table: u64,
    pub export_table: u64,
}

impl Superblock {
    /// Reads it; None when the magic or version is another.
    #[must_use]
    pub fn decode(b: &[u8; SUPERBLOCK_LEN]) -> Option<Self> {
        let (u16_at, u32_at, u64_at) = (|at| le16(b, at), |at| le32(b, at), |at| le64(b, at));
        if u32_at(0) != MAGIC || u16_at(28) != 4 || u16_at(30) != 0 {
            return None;
        }
        Some(Self {
            inodes: u32_at(4),
            mkfs_time: u32_at(8),
            block_size: u32_at(12),
            fragments: u32_at(16),
            compression: u16_at(20),
            block_log: u16_at(22),
            flags: u16_at(24),
            ids: u16_at(26),
            root: u64_at(32),
            bytes_used: u64_at(40),
            id_table: u64_at(48),
            xattr_table: u64_at(56),
            inode_table: u64_at(64),
            directory_table: u64_at(72),
            fragment_table: u64_at(80),
            export_table: u64_at(88),
        })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SUPERBLOCK_LEN);
        for word in [MAGIC, self.inodes, self.mkfs_time, self.block_size, self.fragments] {
            out.extend(word.to_le_bytes());
        }
        for half in [self.compression, self.block_log, self.flags, self.ids, 4, 0] {
            out.extend(half.to_le_bytes());
        }
        for long in [
            self.root,
            self.bytes_used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            out.extend(long.to_le_bytes());
        }
        out
    }
}

/// The 16 bits at an offset; 0 past the end.
#[must_use]
pub fn le16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |s| u16::from_le_bytes([s[0], s[1]]))
}

/// The 32 bits at an offset; 0 past the end.
#[must_use]
pub fn le32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |s| u32::from_le_bytes([s[0], s[1], s[2], s[3]]))
}

/// The 64 bits at an offset; 0 past the end.
#[must_use]
pub fn le64(b: &[u8], at: usize) -> u64 {
    u64::from(le32(b, at)) | u64::from(le32(b, at + 4)) << 32
}

/// A device number in the kernel's `new_encode_dev` form.
#[must_use]
pub fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Major and minor of a device number in that form.
#[must_use]
pub fn decode_device(device: u32) -> (u32, u32) {
    ((device & 0xfff00) >> 8, (device & 0xff) | ((device >> 12) & 0xfff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superblock_reads_as_written() {
        let sb = Superblock {
            inodes: 3,
            block_size: 131_072,
            block_log: 17,
            root: 7 << 16,
            ..Superblock::default()
        };
        let bytes: [u8; SUPERBLOCK_LEN] = sb.encode().try_into().unwrap();
        assert_eq!(Superblock::decode(&bytes), Some(sb));
        let mut other = bytes;
        other[28] = 3;
        assert_eq!(Superblock::decode(&other), None);
    }

    #[test]
    fn devices_round_trip() {
        for pair in [(1, 3), (259, 0x12345), (4095, 255)] {
            assert_eq!(decode_device(encode_device(pair.0, pair.1)), pair);
        }
    }
}
