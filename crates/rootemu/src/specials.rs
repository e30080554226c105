//! Owners of what can have no attribute.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use sys::seccomp::Statx;
use types::{Owner, Special, Unattributed};

use crate::paths::RootPlace;
use crate::supervisor::{Refusal, Result, Target, c_string};

/// linux/stat.h: number and time of birth.
const INODE_AND_BIRTH: u32 = 0x100 | 0x800;
const EOPNOTSUPP: i32 = 95;

type Inode = (u64, i64, u32);

/// What is kept beside an upper directory.
#[derive(Debug)]
pub struct Beside {
    /// Lines of [`Special`].
    pub owners: File,
    /// The directory that the file and the upper directory are in.
    pub overlay: OwnedFd,
}

/// Owners of links, FIFOs and sockets, by their inodes; and of everything else where
/// the upper directory's file system has no attributes for users.
#[derive(Debug, Default)]
pub(crate) struct Specials {
    known: HashMap<Inode, ((u32, u32), Unattributed)>,
    beside: Option<Beside>,
    /// Whether files are among them.
    files: bool,
}

impl Specials {
    /// What a file knows already, and what it will be told.
    pub(crate) fn new(mut beside: Option<Beside>) -> Self {
        let mut text = String::new();
        if let Some(Beside { owners, .. }) = &mut beside {
            // What cannot be read belongs to root, as without the file.
            let _ = owners.read_to_string(&mut text);
        }
        let all = text.lines().filter_map(Special::parse);
        let known: HashMap<_, _> = all.map(|s| (s.inode, (s.owner, s.kind))).collect();
        let files = known.values().any(|(_, kind)| *kind != Unattributed::Special);
        Self { known, beside, files }
    }

    pub(crate) fn get(&self, target: &Target) -> Option<Owner> {
        if self.known.is_empty() {
            return None;
        }
        let stat = Statx::of(&target.path, target.follow, INODE_AND_BIRTH).ok()?;
        let (uid, gid) = self.known.get(&stat.inode())?.0;
        Some(Owner { uid, gid, mode: 0o777, device: None })
    }

    /// The same of a file or directory.
    pub(crate) fn get_file(&self, target: &Target, root: Option<RootPlace>) -> Option<Owner> {
        if !self.files {
            return None;
        }
        let inode = self.upper(&seen(target, root)?)?;
        let ((uid, gid), kind) = *self.known.get(&inode)?;
        let device = match kind {
            Unattributed::Special => return None,
            Unattributed::File => None,
            Unattributed::Device(device) => Some(device),
        };
        Some(Owner { uid, gid, mode: 0, device })
    }

    /// Whether it is the image's, whose server says of no file when it was made.
    pub(crate) fn of_image(target: &Target) -> bool {
        let stat = Statx::of(&target.path, target.follow, INODE_AND_BIRTH);
        stat.is_ok_and(|stat| stat.inode().1 == 0)
    }

    pub(crate) fn put(&mut self, target: &Target, owner: (u32, u32)) {
        let Ok(stat) = Statx::of(&target.path, target.follow, INODE_AND_BIRTH) else { return };
        self.note(Special { inode: stat.inode(), owner, kind: Unattributed::Special });
    }

    /// Notes the owner of a file or directory that takes no attribute.
    pub(crate) fn put_file(
        &mut self,
        target: &Target,
        owner: Owner,
        root: Option<RootPlace>,
    ) -> Result<()> {
        // Elsewhere its number would mean another file.
        let refused = Refusal::Errno(EOPNOTSUPP);
        seen(target, root).ok_or(refused)?;
        // One of the image is there under its own number once overlayfs has copied it,
        // as it does for any change.
        let stat = target.stat()?;
        rustix::fs::chmod(&target.path, Mode::from_raw_mode(stat.mode() & 0o7777))?;
        let inode = seen(target, root).and_then(|seen| self.upper(&seen));
        let inode = inode.ok_or(Refusal::Errno(EOPNOTSUPP))?;
        let kind = owner.device.map_or(Unattributed::File, Unattributed::Device);
        self.files = true;
        self.note(Special { inode, owner: (owner.uid, owner.gid), kind });
        Ok(())
    }

    fn note(&mut self, special: Special) {
        self.known.insert(special.inode, (special.owner, special.kind));
        if let Some(Beside { owners, .. }) = &mut self.beside {
            // One that is not kept is root's in the image.
            let _ = owners.write_all(format!("{special}\n").as_bytes());
        }
    }

    /// The inode of the upper directory behind a file. overlayfs shows other numbers for
    /// directories, and for what it has copied since it was mounted; so it is looked up by
    /// path. Without an upper directory to be read later any number is good.
    fn upper(&self, seen: &OwnedFd) -> Option<Inode> {
        let shown = |fd: BorrowedFd<'_>| {
            let path = c_string(format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()).ok()?;
            Some(Statx::of(&path, true, INODE_AND_BIRTH).ok()?.inode())
        };
        let Some(Beside { overlay, .. }) = &self.beside else { return shown(seen.as_fd()) };
        let link = format!("/proc/self/fd/{}", seen.as_raw_fd());
        let path = rustix::fs::readlink(link, Vec::new()).ok()?.into_bytes();
        let upper = rustix::fs::openat2(
            overlay,
            [b"upper", &path[..]].concat(),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        );
        shown(upper.ok()?.as_fd())
    }
}

/// A file as it is now, if it lies in the root file system.
fn seen(target: &Target, root: Option<RootPlace>) -> Option<OwnedFd> {
    let more = if target.follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::PATH | OFlags::CLOEXEC | more;
    let fd = rustix::fs::openat(CWD, &target.path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    (Some(stat.stx_mnt_id) == root.map(|(mount, ..)| mount)).then_some(fd)
}
