//! Extended attributes.
//!
//! The attributes of an inode are walked; a value is read only where it is asked
//! for, as many may name one that is stored elsewhere. What an inode may have
//! is bounded by [`XATTR_NAMES_LEN`], [`XATTR_VALUE_LEN`] and
//! [`XATTR_VALUES_LEN`]. The length in the table of ids is not used; the kernel
//! does not use it either.

use std::collections::BTreeSet;

use super::{Cursor, Image, Inode};
use crate::error::Error;
use crate::format::{
    ABSENT, NONE, XATTR_NAMES_LEN, XATTR_VALUE_LEN, XATTR_VALUES_LEN, le16, le32, le64,
};

/// A name with its prefix, and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What marks an opaque directory in a layer of overlayfs, as root's mounts
/// and as those of others name it (Documentation/filesystems/overlayfs.rst).
const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

/// What a set of attributes is thought to take, where all of an image are walked.
const SET_LEN: u64 = 1024;

impl Image {
    /// Whether a directory hides what the layers of overlayfs below have in it.
    ///
    /// # Errors
    /// When the image is corrupt there.
    pub fn is_opaque(&self, inode: &Inode) -> Result<bool, Error> {
        let Some(mut set) = self.set_of(inode)? else { return Ok(false) };
        while let Some(name) = set.next()? {
            if OPAQUE.contains(&&name[..]) && set.value()? == b"y" {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The names of all extended attributes in the image; None where it has
    /// more than `most` sets of them, or more than is worth looking through.
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
        let (mut kept, mut walked) = (0, 0);
        for id in 0..ids {
            let mut set = self.set(id)?;
            while let Some(name) = set.next()? {
                if !names.contains(&name) {
                    kept += name.len();
                    names.insert(name);
                }
                if kept > XATTR_NAMES_LEN || walked + set.walked() > SET_LEN * u64::from(most) {
                    return Ok(None);
                }
            }
            walked += set.walked();
        }
        Ok(Some(names))
    }

    /// The full names of an inode's extended attributes.
    ///
    /// # Errors
    /// When the image is corrupt there.
    pub fn xattr_list(&self, inode: &Inode) -> Result<Vec<Vec<u8>>, Error> {
        let mut names = Vec::new();
        let Some(mut set) = self.set_of(inode)? else { return Ok(names) };
        while let Some(name) = set.next()? {
            names.push(name);
        }
        Ok(names)
    }

    /// The value of one extended attribute, by its full name.
    ///
    /// # Errors
    /// When the image is corrupt there.
    pub fn xattr(&self, inode: &Inode, wanted: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Some(mut set) = self.set_of(inode)? else { return Ok(None) };
        while let Some(name) = set.next()? {
            if name == wanted {
                return set.value().map(Some);
            }
        }
        Ok(None)
    }

    /// The extended attributes of an inode, with full names.
    ///
    /// # Errors
    /// When the image is corrupt there.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let mut list = Vec::new();
        let Some(mut set) = self.set_of(inode)? else { return Ok(list) };
        while let Some(name) = set.next()? {
            let value = set.value()?;
            list.push((name, value));
        }
        Ok(list)
    }

    fn set_of(&self, inode: &Inode) -> Result<Option<Set<'_>>, Error> {
        if inode.xattr == NONE || self.superblock().xattr_table == ABSENT {
            return Ok(None);
        }
        self.set(inode.xattr).map(Some)
    }

    /// The attributes of one index of the table.
    fn set(&self, id: u32) -> Result<Set<'_>, Error> {
        let table = self.superblock().xattr_table;
        let head = self.bytes(table, 16, "the xattr table")?;
        let (start, ids) = (le64(&head, 0), le32(&head, 8));
        if id >= ids {
            return Err(Error::Corrupt { what: "an xattr's index", offset: table });
        }
        let entry: [u8; 16] = self.table_cursor(table + 16, u64::from(id) * 16)?.take()?;
        let (place, left) = (le64(&entry, 0), le32(&entry, 8));
        let cursor = self.xattr_cursor(start, place)?;
        Ok(Set { image: self, start, cursor, left, names: 0, values: 0, value: None })
    }

    fn xattr_cursor(&self, start: u64, place: u64) -> Result<Cursor<'_>, Error> {
        let what = "the position of an xattr";
        let block = start.checked_add(place >> 16).ok_or(Error::Corrupt { what, offset: start })?;
        self.cursor(block, (place & 0xffff) as usize)
    }
}

/// A walk over the attributes of one inode.
struct Set<'a> {
    image: &'a Image,
    /// Where all names and values of the image start.
    start: u64,
    cursor: Cursor<'a>,
    left: u32,
    /// Bytes of names so far, as listxattr(2) counts them.
    names: usize,
    /// Bytes of values so far.
    values: usize,
    /// The value that the cursor is at.
    value: Option<Value>,
}

#[derive(Clone, Copy)]
struct Value {
    len: usize,
    /// Here is only the reference of where it is.
    away: bool,
}

impl Set<'_> {
    /// The next name.
    fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if let Some(value) = self.value.take() {
            self.cursor.skip(value.len)?;
        }
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let b: [u8; 4] = self.cursor.take()?;
        let (code, len) = (le16(&b, 0), usize::from(le16(&b, 2)));
        let prefix: &[u8] = match code & 0xff {
            0 => b"user.",
            1 => b"trusted.",
            2 => b"security.",
            _ => return Err(self.corrupt("an xattr's type")),
        };
        self.names += prefix.len() + len + 1;
        if self.names > XATTR_NAMES_LEN {
            return Err(self.corrupt("the length of an inode's xattr names"));
        }
        let mut name = prefix.to_vec();
        name.resize(prefix.len() + len, 0);
        self.cursor.fill(&mut name[prefix.len()..])?;
        let len = u32::from_le_bytes(self.cursor.take()?) as usize;
        let away = code & 0x100 != 0;
        if away && len != 8 {
            return Err(self.corrupt("the reference of an xattr's value"));
        }
        if !away {
            self.spend(len)?;
        }
        self.value = Some(Value { len, away });
        Ok(Some(name))
    }

    /// The value of the name that came last; it can be read once.
    fn value(&mut self) -> Result<Vec<u8>, Error> {
        let Some(Value { len, away }) = self.value.take() else { return Ok(Vec::new()) };
        if !away {
            let mut value = vec![0; len];
            self.cursor.fill(&mut value)?;
            return Ok(value);
        }
        let place: [u8; 8] = self.cursor.take()?;
        let mut away = self.image.xattr_cursor(self.start, le64(&place, 0))?;
        let len = u32::from_le_bytes(away.take()?) as usize;
        self.spend(len)?;
        let mut value = vec![0; len];
        away.fill(&mut value)?;
        Ok(value)
    }

    fn spend(&mut self, len: usize) -> Result<(), Error> {
        self.values = self.values.saturating_add(len);
        if len > XATTR_VALUE_LEN || self.values > XATTR_VALUES_LEN {
            return Err(self.corrupt("the length of an inode's xattr values"));
        }
        Ok(())
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::Corrupt { what, offset: self.cursor.place() }
    }

    /// Bytes that have been gone through.
    fn walked(&self) -> u64 {
        (self.names + self.values) as u64
    }
}
