//! Extended attributes.

use std::collections::BTreeSet;

use super::{Image, Inode};
use crate::error::Error;
use crate::format::{ABSENT, NONE, le16, le32, le64};

/// XATTR_SIZE_MAX of linux/limits.h.
const VALUE_LEN: usize = 65_536;
/// XATTR_LIST_MAX of the same: no inode can list more names.
const COUNT: u32 = 65_536 / 2;

/// A name with its prefix, and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What marks an opaque directory in a layer of overlayfs, as root's mounts
/// and as those of others name it (Documentation/filesystems/overlayfs.rst).
const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

impl Image {
    /// Whether a directory hides what the layers of overlayfs below have in it.
    ///
    /// # Errors
    /// When the image is corrupt there.
    pub fn is_opaque(&self, inode: &Inode) -> Result<bool, Error> {
        let marked = |(name, value): &Xattr| OPAQUE.contains(&&name[..]) && value == b"y";
        Ok(inode.has_xattrs() && self.xattrs(inode)?.iter().any(marked))
    }

    /// The names of all extended attributes in the image; None where it has
    /// more than `most` sets of them.
    ///
    /// # Errors
    /// When the image is corrupt there.
    pub fn xattr_names(&self, most: u32) -> Result<Option<BTreeSet<Vec<u8>>>, Error> {
        let table = self.superblock().xattr_table;
        if table == ABSENT {
            return Ok(Some(BTreeSet::new()));
        }
        let ids = le32(&self.bytes(table, 16, "the xattr table")?, 8);
        if ids > most {
            return Ok(None);
        }
        let mut names = BTreeSet::new();
        for id in 0..ids {
            names.extend(self.xattr_set(id)?.into_iter().map(|(name, _)| name));
        }
        Ok(Some(names))
    }

    /// The extended attributes of an inode, with full names.
    ///
    /// # Errors
    /// When the image is corrupt there.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        if inode.xattr == NONE || self.superblock().xattr_table == ABSENT {
            return Ok(Vec::new());
        }
        self.xattr_set(inode.xattr)
    }

    /// The attributes of one index of the table.
    fn xattr_set(&self, id: u32) -> Result<Vec<Xattr>, Error> {
        let table = self.superblock().xattr_table;
        let corrupt = |what| Error::Corrupt { what, offset: table };
        let head = self.bytes(table, 16, "the xattr table")?;
        let (start, ids) = (le64(&head, 0), le32(&head, 8));
        if id >= ids {
            return Err(corrupt("an xattr's index"));
        }
        let entry: [u8; 16] = self.table_cursor(table + 16, u64::from(id) * 16)?.take()?;
        let (place, count) = (le64(&entry, 0), le32(&entry, 8));
        if count > COUNT {
            return Err(corrupt("the number of xattrs"));
        }
        let mut cursor = self.xattr_cursor(start, place)?;
        let mut list = Vec::new();
        for _ in 0..count {
            let b: [u8; 4] = cursor.take()?;
            let (code, len) = (le16(&b, 0), usize::from(le16(&b, 2)));
            let prefix: &[u8] = match code & 0xff {
                0 => b"user.",
                1 => b"trusted.",
                2 => b"security.",
                _ => return Err(corrupt("an xattr's type")),
            };
            let mut name = prefix.to_vec();
            name.resize(prefix.len() + len, 0);
            cursor.fill(&mut name[prefix.len()..])?;
            let size = u32::from_le_bytes(cursor.take()?) as usize;
            let value = if code & 0x100 != 0 {
                // The value is elsewhere; here is only its reference.
                let place: [u8; 8] = cursor.take()?;
                cursor.skip(size.saturating_sub(8).min(VALUE_LEN))?;
                let mut away = self.xattr_cursor(start, le64(&place, 0))?;
                let size = u32::from_le_bytes(away.take()?) as usize;
                take(&mut away, size).ok_or_else(|| corrupt("the length of an xattr"))??
            } else {
                take(&mut cursor, size).ok_or_else(|| corrupt("the length of an xattr"))??
            };
            list.push((name, value));
        }
        Ok(list)
    }

    fn xattr_cursor(&self, start: u64, place: u64) -> Result<super::Cursor<'_>, Error> {
        let what = "the position of an xattr";
        let block = start.checked_add(place >> 16).ok_or(Error::Corrupt { what, offset: start })?;
        self.cursor(block, (place & 0xffff) as usize)
    }
}

fn take(cursor: &mut super::Cursor<'_>, size: usize) -> Option<Result<Vec<u8>, Error>> {
    if size > VALUE_LEN {
        return None;
    }
    let mut value = vec![0; size];
    Some(cursor.fill(&mut value).map(|()| value))
}
