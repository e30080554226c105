//! Owners of what can have no attribute.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};

use sys::seccomp::Statx;
use types::{Owner, Special};

use crate::supervisor::Target;

/// linux/stat.h: number and time of birth.
const INODE_AND_BIRTH: u32 = 0x100 | 0x800;

/// Owners of links, FIFOs and sockets, by their inodes.
#[derive(Debug, Default)]
pub(crate) struct Specials {
    known: HashMap<(u64, i64, u32), (u32, u32)>,
    file: Option<File>,
}

impl Specials {
    /// What a file knows already, and what it will be told.
    pub(crate) fn new(mut file: Option<File>) -> Self {
        let mut text = String::new();
        if let Some(file) = &mut file {
            // What cannot be read belongs to root, as without the file.
            let _ = file.read_to_string(&mut text);
        }
        let known = text.lines().filter_map(Special::parse).map(|s| (s.inode, s.owner)).collect();
        Self { known, file }
    }

    pub(crate) fn get(&self, target: &Target) -> Option<Owner> {
        if self.known.is_empty() {
            return None;
        }
        let stat = Statx::of(&target.path, target.follow, INODE_AND_BIRTH).ok()?;
        let (uid, gid) = *self.known.get(&stat.inode())?;
        Some(Owner { uid, gid, mode: 0o777, device: None })
    }

    /// Whether it is the image's, whose server says of no file when it was made.
    pub(crate) fn of_image(target: &Target) -> bool {
        let stat = Statx::of(&target.path, target.follow, INODE_AND_BIRTH);
        stat.is_ok_and(|stat| stat.inode().1 == 0)
    }

    pub(crate) fn put(&mut self, target: &Target, owner: (u32, u32)) {
        let Ok(stat) = Statx::of(&target.path, target.follow, INODE_AND_BIRTH) else { return };
        let inode = stat.inode();
        self.known.insert(inode, owner);
        if let Some(file) = &mut self.file {
            // One that is not kept is root's in the image.
            let _ = file.write_all(format!("{}\n", Special { inode, owner }).as_bytes());
        }
    }
}
