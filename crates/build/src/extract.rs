//! Files of a tree, written into a directory of the host for a mount.
//!
//! Trees come from images and are hostile. Everything is made relative to a descriptor
//! of the new directory, beneath it and never through a symbolic link, so nothing is
//! written elsewhere. Whose a file is, and a device, is noted as `rootemu` reads it;
//! file capabilities are set by root of a user namespace, as the kernel wants it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plan::SubIds;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags,
};
use types::{Device, OVERRIDE_STAT, Owner};

use crate::copy::Item;
use crate::error::{BuildError, Result};
use crate::files::{Files, Info, What};

/// What the kernel keeps file capabilities in.
const CAPABILITY: &[u8] = b"security.capability";

/// Writes the entries of a tree that [`Item::to`] places below `/` as a new directory,
/// or a single file as a new file.
pub(crate) fn extract(
    files: &dyn Files,
    items: &[Item],
    to: &Path,
    sub_ids: Option<&SubIds>,
) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BuildError::Write { path, source }
    };
    let single = items.first().is_some_and(|item| item.info.what != What::Directory);
    let (top, name) = match (single, to.parent(), to.file_name()) {
        (true, Some(parent), Some(name)) => (parent, Some(PathBuf::from(name))),
        _ => {
            std::fs::create_dir(to).map_err(failed(to))?;
            (to, None)
        }
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, top, flags, Mode::empty()).map_err(io::Error::from);
    let mut new = New { top: top.map_err(failed(to))?, links: HashMap::new() };
    let mut able = Vec::new();
    for item in items {
        let below = item.to.strip_prefix("/").unwrap_or(&item.to);
        let path = name.as_deref().unwrap_or(below);
        new.add(files, item, path).map_err(failed(&to.join(below)))?;
        able.extend(capability(&item.info).map(|value| (path.to_owned(), value)));
    }
    // What was made in a directory has changed its time.
    for item in items.iter().filter(|item| item.info.what == What::Directory) {
        let below = item.to.strip_prefix("/").unwrap_or(&item.to);
        new.set_time(below, item.info.mtime).map_err(failed(&to.join(below)))?;
    }
    if able.is_empty() {
        return Ok(());
    }
    let done = runtime::as_root(sub_ids, || {
        able.iter().all(|(path, value)| new.make_able(path, value).is_ok())
    })?;
    if done { Ok(()) } else { Err(BuildError::Capabilities { path: to.to_owned() }) }
}

fn capability(info: &Info) -> Option<&[u8]> {
    let found = info.xattrs.iter().find(|(name, _)| name == CAPABILITY);
    found.map(|(_, value)| &value[..])
}

/// What is being written.
struct New {
    top: OwnedFd,
    /// Files of several names, by what they have in common.
    links: HashMap<(u64, u64), PathBuf>,
}

impl New {
    /// Something below the top, which no link leads out of.
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&self.top, path, flags, Mode::empty(), resolve)?)
    }

    fn add(&mut self, files: &dyn Files, item: &Item, path: &Path) -> io::Result<()> {
        let info = &item.info;
        let mode = Mode::from_raw_mode(info.mode.into());
        let Some(name) = path.file_name() else {
            // The top itself is there.
            return self.note(&self.top, info, mode | Mode::RWXU);
        };
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        let dir = self.open(dir, OFlags::DIRECTORY | OFlags::PATH)?;
        if let Some(first) = info.same.and_then(|same| self.links.get(&same)) {
            let from = self.open(first.parent().unwrap_or(first), OFlags::PATH)?;
            let old = first.file_name().unwrap_or_default();
            return Ok(rustix::fs::linkat(from, old, &dir, name, AtFlags::empty())?);
        }
        match &info.what {
            What::Directory => {
                rustix::fs::mkdirat(&dir, name, Mode::RWXU)?;
                let made = self.open(path, OFlags::DIRECTORY)?;
                // Files below it are still to be made.
                self.note(&made, info, mode | Mode::RWXU)?;
            }
            What::File(_) | What::BlockDevice(..) | What::CharDevice(..) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)?;
                let mut made = File::from(made);
                if let What::File(_) = info.what {
                    io::copy(&mut files.open(&item.from)?, &mut made)?;
                }
                self.note(&made, info, mode)?;
            }
            What::Symlink(to) => rustix::fs::symlinkat(OsStr::from_bytes(to), &dir, name)?,
            What::Fifo => rustix::fs::mknodat(&dir, name, FileType::Fifo, mode, 0)?,
            What::Socket => rustix::fs::mknodat(&dir, name, FileType::Socket, mode, 0)?,
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(&dir, name, &times(info.mtime), flags)?;
        if let Some(same) = info.same {
            self.links.insert(same, path.to_owned());
        }
        Ok(())
    }

    /// Attributes, owner, device and, last, the mode of something open.
    fn note(&self, made: impl AsFd, info: &Info, mode: Mode) -> io::Result<()> {
        let flags = XattrFlags::empty();
        let set = |name: &[u8], value: &[u8]| {
            // Where there are no attributes everything is root's and plain.
            let _ = rustix::fs::fsetxattr(made.as_fd(), OsStr::from_bytes(name), value, flags);
        };
        let own = |name: &[u8]| name.starts_with(b"user.") && name != OVERRIDE_STAT.as_bytes();
        for (name, value) in info.xattrs.iter().filter(|(name, _)| own(name)) {
            set(name, value);
        }
        let device = match info.what {
            What::BlockDevice(major, minor) => Some(Device { block: true, major, minor }),
            What::CharDevice(major, minor) => Some(Device { block: false, major, minor }),
            _ => None,
        };
        if (info.uid, info.gid) != (0, 0) || device.is_some() {
            let (uid, gid) = (info.uid, info.gid);
            let owner = Owner { uid, gid, mode: info.mode.into(), device };
            set(OVERRIDE_STAT.as_bytes(), owner.to_string().as_bytes());
        }
        Ok(rustix::fs::fchmod(made, mode)?)
    }

    fn set_time(&self, path: &Path, mtime: u32) -> io::Result<()> {
        let dir = self.open(path, OFlags::DIRECTORY)?;
        Ok(rustix::fs::futimens(dir, &times(mtime))?)
    }

    fn make_able(&self, path: &Path, value: &[u8]) -> io::Result<()> {
        let file = self.open(path, OFlags::RDONLY)?;
        let name = OsStr::from_bytes(CAPABILITY);
        Ok(rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())?)
    }
}

fn times(mtime: u32) -> Timestamps {
    let time = Timespec { tv_sec: mtime.into(), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::files::HostFiles;

    fn item(files: &HostFiles, from: &str, to: &str) -> Item {
        let info = files.info(Path::new(from)).unwrap().unwrap();
        Item { from: from.into(), info, to: to.into() }
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (from, out) = (dir.path().join("from"), dir.path().join("out"));
        std::fs::create_dir_all(from.join("dir")).unwrap();
        std::fs::create_dir(&out).unwrap();
        std::os::unix::fs::symlink(&out, from.join("link")).unwrap();
        std::fs::write(from.join("file"), "x").unwrap();
        let files = HostFiles { top: from, own: false };
        for (place, last) in [("/x/new", "/dir"), ("/x/new", "/file"), ("/x", "/dir")] {
            let items =
                [item(&files, "/", "/"), item(&files, "/link", "/x"), item(&files, last, place)];
            let to = dir.path().join("to");
            assert!(extract(&files, &items, &to, None).is_err(), "{place} {last}");
            assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "{place} {last}");
            std::fs::remove_dir_all(to).unwrap();
        }
        let up = [item(&files, "/", "/"), item(&files, "/file", "/../out/file")];
        assert!(extract(&files, &up, &dir.path().join("to"), None).is_err());
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    }

    #[test]
    fn times_links_and_devices_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir_all(from.join("dir")).unwrap();
        std::fs::write(from.join("dir/one"), "x").unwrap();
        std::fs::hard_link(from.join("dir/one"), from.join("dir/two")).unwrap();
        let files = HostFiles { top: from, own: false };
        let mut items = vec![item(&files, "/", "/")];
        for name in ["/dir", "/dir/one", "/dir/two"] {
            items.push(item(&files, name, name));
        }
        items[1].info.mtime = 1000;
        let mut device = item(&files, "/dir/one", "/dir/null");
        (device.info.what, device.info.same) = (What::CharDevice(1, 3), None);
        items.push(device);
        let to = dir.path().join("to");
        extract(&files, &items, &to, None).unwrap();
        let meta = |name: &str| std::fs::symlink_metadata(to.join(name)).unwrap();
        assert_eq!(meta("dir/one").ino(), meta("dir/two").ino());
        assert_eq!((meta("dir").mtime(), meta("dir/null").len()), (1000, 0));
        let mut value = [0; 64];
        let path = to.join("dir/null");
        // A file system without attributes has no devices either.
        if let Ok(got) = rustix::fs::getxattr(&path, OVERRIDE_STAT, &mut value[..]) {
            let owner = Owner::parse(&value[..got]).unwrap();
            assert_eq!(owner.device, Some(Device { block: false, major: 1, minor: 3 }));
        }
    }

    #[test]
    fn a_single_file_gets_the_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "text").unwrap();
        let files = HostFiles { top: dir.path().to_owned(), own: false };
        let to = dir.path().join("to");
        extract(&files, &[item(&files, "/file", "/")], &to, None).unwrap();
        assert_eq!(std::fs::read_to_string(to).unwrap(), "text");
    }
}
