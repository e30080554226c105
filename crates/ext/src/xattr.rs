//! Extended attributes: behind the inode, and in a block of their own.

use crate::{Error, FileSystem, Inode, le16, le32};

/// A full name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

const MAGIC: u32 = 0xea02_0000;
/// The head of a block of attributes.
const HEAD: usize = 32;
/// An entry without its name.
const ENTRY: usize = 16;
/// Lists of acl(5).
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";
/// The part of an inode that all have.
const PLAIN_INODE: u64 = 128;

impl FileSystem {
    /// The extended attributes of an inode. Access control lists, which have a
    /// form of their own on disk, are in that of the kernel's interface.
    ///
    /// # Errors
    /// When they are corrupt.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let mut list = Vec::new();
        if self.inode_size > PLAIN_INODE {
            let len = (self.inode_size - PLAIN_INODE) as usize;
            let place = inode.place + PLAIN_INODE;
            let rest = self.bytes(place, len, "an inode")?;
            let extra = usize::from(le16(&rest, 0));
            if extra % 4 == 0
                && let Some(area) = rest.get(extra..).filter(|area| area.len() >= 4)
                && le32(area, 0) == MAGIC
            {
                entries(&area[4..], &area[4..], place, &mut list)?;
            }
        }
        if inode.attributes != 0 {
            let what = "a block of extended attributes";
            let place = self.block(inode.attributes, what)?;
            let block = self.bytes(place, self.block_size as usize, what)?;
            if le32(&block, 0) != MAGIC {
                return Err(Error::Corrupt { what, offset: place });
            }
            entries(&block[HEAD..], &block, place, &mut list)?;
        }
        list.sort();
        Ok(list)
    }
}

/// Reads entries; `values` is what their offsets count from.
fn entries(mut area: &[u8], values: &[u8], place: u64, list: &mut Vec<Xattr>) -> Result<(), Error> {
    let corrupt = || Error::Corrupt { what: "an extended attribute", offset: place };
    while area.len() >= ENTRY && le32(area, 0) != 0 {
        let (len, index) = (usize::from(area[0]), area[1]);
        let (offset, elsewhere, size) =
            (usize::from(le16(area, 2)), le32(area, 4), le32(area, 8) as usize);
        let name = area.get(ENTRY..ENTRY + len).ok_or_else(corrupt)?;
        if elsewhere != 0 {
            return Err(corrupt());
        }
        let value = values.get(offset..).and_then(|from| from.get(..size)).ok_or_else(corrupt)?;
        let list_name = match index {
            2 => Some(ACCESS_LIST),
            3 => Some(DEFAULT_LIST),
            _ => None,
        };
        if let Some(list_name) = list_name {
            list.push((list_name.to_vec(), access_list(value).ok_or_else(corrupt)?));
        }
        let prefix: Option<&[u8]> = match index {
            1 => Some(b"user."),
            4 => Some(b"trusted."),
            6 => Some(b"security."),
            _ => None,
        };
        if let Some(prefix) = prefix {
            list.push(([prefix, name].concat(), value.to_vec()));
        }
        area = area.get((ENTRY + len).next_multiple_of(4)..).ok_or_else(corrupt)?;
    }
    Ok(())
}

/// A list as getxattr(2) gives it (linux/posix_acl_xattr.h), from its form on disk
/// (fs/ext4/acl.h), where entries that name nobody have no id.
fn access_list(mut stored: &[u8]) -> Option<Vec<u8>> {
    const VERSION: u32 = 1;
    const SHOWN: u32 = 2;
    const NAMED: [u16; 2] = [0x02, 0x08];
    if stored.len() < 4 || le32(stored, 0) != VERSION {
        return None;
    }
    let mut shown = SHOWN.to_le_bytes().to_vec();
    stored = &stored[4..];
    while !stored.is_empty() {
        let named = NAMED.contains(&le16(stored.get(..4)?, 0));
        shown.extend(&stored[..4]);
        let len = if named { 8 } else { 4 };
        shown.extend(if named { stored.get(4..8)? } else { &[0xff; 4] });
        stored = &stored[len..];
    }
    Some(shown)
}
