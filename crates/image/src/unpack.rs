//! An image to a directory.
//!
//! Everything is made relative to an open directory and never through a
//! symbolic link, so that a hostile image writes nowhere else. One directory
//! is open at a time, however deep the tree is: the way up is `..`, which must
//! lead to where the way down came from.
//!
//! [`TreeSource::Directory`](crate::TreeSource) reads back what is noted here.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, fchmod, fsetxattr,
    fstat, futimens, linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;
use squashfs::{Image, Inode, InodeKind, InodeRef};
use types::{CAPABILITY, CAPABILITY_NOTE, Device, OVERRIDE_STAT, Owner};

use crate::copy::of_overlay;

/// Deeper, or longer, than any path that the kernel takes in one piece.
const DEEPEST: usize = 1024;
const LONGEST: usize = 4095;
/// What a name costs of the size limit, as in a tar file.
const NAME_COST: u64 = 512;
/// Zeroes of this many bytes, at a multiple of it, become a hole.
const HOLE: usize = 64 << 10;

/// How an image is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct UnpackOptions {
    /// Note owners, modes, devices and file capabilities as extended
    /// attributes, where an ordinary user cannot give them; otherwise they are
    /// left out.
    pub noted: bool,
    /// Most bytes of all files together; every name counts too.
    pub size_limit: u64,
}

/// What a file system could not keep.
#[derive(Debug)]
pub struct Lost {
    /// How many files are concerned.
    pub files: u64,
    /// The first of them, in the image.
    pub path: PathBuf,
    /// Why it could not.
    pub source: io::Error,
}

/// Why an image cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The image cannot be read.
    #[error("cannot read {path:?} of the image")]
    Read {
        /// Path in the image.
        path: PathBuf,
        /// Why.
        source: squashfs::Error,
    },
    /// A file cannot be made.
    #[error("cannot make {path:?} of the image")]
    Make {
        /// Path in the image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory has more than one name.
    #[error("the directory {0:?} has another name in the image")]
    Twice(PathBuf),
    /// The directory changed while it was filled.
    #[error("somebody else has moved {0:?} of the new directory")]
    Moved(PathBuf),
    /// More data than the limit allows.
    #[error("at {path:?} the image passes the size limit of {limit} bytes")]
    TooLarge {
        /// Path in the image.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
}

/// Unpacks an image into an empty directory; what is lost, if anything is.
///
/// # Errors
/// When the image cannot be read, passes the limit, or a file cannot be made.
/// The directory is then of no use.
pub fn unpack(
    image: &Image,
    to: &Path,
    options: &UnpackOptions,
) -> Result<Option<Lost>, UnpackError> {
    let made = |source: Errno| UnpackError::Make { path: "/".into(), source: source.into() };
    let open = || openat(CWD, to, DIRECTORY, Mode::empty()).map_err(made);
    let mut unpacker = Unpacker {
        image,
        options: *options,
        left: options.size_limit,
        top: open()?,
        path: PathBuf::from("/"),
        seen: HashSet::new(),
        links: HashMap::new(),
        lost: None,
        buffer: vec![0; 1 << 20],
    };
    unpacker.run(open()?)?;
    Ok(unpacker.lost)
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Unpacker<'a> {
    image: &'a Image,
    options: UnpackOptions,
    left: u64,
    top: OwnedFd,
    /// Where the work is, from `/` on.
    path: PathBuf,
    seen: HashSet<InodeRef>,
    /// The first name of files that have several, by the inode's number.
    links: HashMap<u32, PathBuf>,
    lost: Option<Lost>,
    buffer: Vec<u8>,
}

/// A directory on the way down.
struct Level {
    inode: Arc<Inode>,
    /// Directories in it that are still empty.
    todo: Vec<(Vec<u8>, Arc<Inode>)>,
    /// Device and inode of the new directory.
    place: (u64, u64),
}

impl Unpacker<'_> {
    fn read_error(&self) -> impl Fn(squashfs::Error) -> UnpackError + use<> {
        let path = self.path.clone();
        move |source| UnpackError::Read { path: path.clone(), source }
    }

    fn make_error(&self) -> impl Fn(Errno) -> UnpackError + use<> {
        let path = self.path.clone();
        move |source| UnpackError::Make { path: path.clone(), source: source.into() }
    }

    fn spend(&mut self, size: u64) -> Result<(), UnpackError> {
        let left = self.left.checked_sub(size);
        let (path, limit) = (&self.path, self.options.size_limit);
        self.left = left.ok_or_else(|| UnpackError::TooLarge { path: path.clone(), limit })?;
        Ok(())
    }

    fn lose(&mut self, source: Errno) {
        let lost = self.lost.get_or_insert_with(|| Lost {
            files: 0,
            path: self.path.clone(),
            source: source.into(),
        });
        lost.files += 1;
    }

    fn run(&mut self, top: OwnedFd) -> Result<(), UnpackError> {
        let root = self.image.inode(self.image.root()).map_err(self.read_error())?;
        self.seen.insert(root.reference);
        let mut dir = top;
        let mut stack = vec![self.fill(root, &dir)?];
        while let Some(level) = stack.last_mut() {
            if let Some((name, inode)) = level.todo.pop() {
                let name = OsStr::from_bytes(&name);
                self.path.push(name);
                if stack.len() > DEEPEST || self.path.as_os_str().len() > LONGEST {
                    return Err(self.make_error()(Errno::NAMETOOLONG));
                }
                dir = openat(&dir, name, DIRECTORY, Mode::empty()).map_err(self.make_error())?;
                stack.push(self.fill(inode, &dir)?);
                continue;
            }
            let Some(done) = stack.pop() else { break };
            // The way up, before the directory is closed to its owner.
            let above = match stack.last() {
                Some(level) => {
                    let above = openat(&dir, "..", DIRECTORY, Mode::empty());
                    let above = above.map_err(self.make_error())?;
                    if place(&above).map_err(self.make_error())? != level.place {
                        return Err(UnpackError::Moved(self.path.clone()));
                    }
                    Some(above)
                }
                None => None,
            };
            self.finish(&done.inode, dir.as_fd(), None)?;
            let Some(above) = above else { break };
            dir = above;
            self.path.pop();
        }
        Ok(())
    }

    /// Makes all that a directory names; directories stay empty.
    fn fill(&mut self, inode: Arc<Inode>, dir: &OwnedFd) -> Result<Level, UnpackError> {
        let place = place(dir).map_err(self.make_error())?;
        let mut todo = Vec::new();
        for entry in self.image.read_dir(&inode, 0).map_err(self.read_error())? {
            let entry = entry.map_err(self.read_error())?;
            let name = OsStr::from_bytes(&entry.name);
            self.path.push(name);
            self.spend(NAME_COST)?;
            let child = self.image.inode(entry.inode).map_err(self.read_error())?;
            if let InodeKind::Directory { .. } = child.kind {
                // A directory has one name; another is a loop or damage.
                if !self.seen.insert(child.reference) {
                    return Err(UnpackError::Twice(self.path.clone()));
                }
                mkdirat(dir, name, Mode::RWXU).map_err(self.make_error())?;
                todo.push((entry.name, child));
            } else if !self.linked(&child, dir, name) {
                self.file(&child, dir, name)?;
                if child.nlink > 1 {
                    self.links.entry(child.number).or_insert_with(|| self.path.clone());
                }
            }
            self.path.pop();
        }
        Ok(Level { inode, todo, place })
    }

    /// Gives a file that is there another name. Where that cannot be, as when
    /// a directory on the way is closed to its owner, the file is made again.
    fn linked(&self, inode: &Inode, dir: &OwnedFd, name: &OsStr) -> bool {
        let Some(first) = self.links.get(&inode.number) else { return false };
        let first = first.strip_prefix("/").unwrap_or(first);
        linkat(&self.top, first, dir, name, AtFlags::empty()).is_ok()
    }

    /// What is no directory.
    fn file(&mut self, inode: &Arc<Inode>, dir: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
        let device = match inode.kind {
            InodeKind::BlockDevice { major, minor } => Some(Device { block: true, major, minor }),
            InodeKind::CharDevice { major, minor } => Some(Device { block: false, major, minor }),
            _ => None,
        };
        match &inode.kind {
            InodeKind::File { size, .. } => {
                let file = self.create(dir, name)?;
                self.spend(*size)?;
                self.data(inode, &file, *size)?;
                return self.finish(inode, file.as_fd(), None);
            }
            _ if device.is_some() => {
                if self.options.noted {
                    let file = self.create(dir, name)?;
                    self.finish(inode, file.as_fd(), device)?;
                }
                return Ok(());
            }
            InodeKind::Symlink { .. } => {
                let target = self.image.read_link(inode).map_err(self.read_error())?;
                let made = symlinkat(OsStr::from_bytes(&target), dir, name);
                made.map_err(self.make_error())?;
            }
            kind => {
                let kind = if *kind == InodeKind::Fifo { FileType::Fifo } else { FileType::Socket };
                let mode = Mode::from_raw_mode(u32::from(inode.mode) & 0o777);
                mknodat(dir, name, kind, mode, 0).map_err(self.make_error())?;
            }
        }
        // xattr(7): none of these can have an attribute of a user's.
        if self.options.noted && (inode.uid, inode.gid) != (0, 0) {
            self.lose(Errno::PERM);
        }
        let times = utimensat(dir, name, &times(inode), AtFlags::SYMLINK_NOFOLLOW);
        times.map_err(self.make_error())
    }

    fn create(&self, dir: &OwnedFd, name: &OsStr) -> Result<File, UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
        Ok(File::from(fd.map_err(self.make_error())?))
    }

    /// Zeroes become holes.
    fn data(&mut self, inode: &Inode, file: &File, size: u64) -> Result<(), UnpackError> {
        let path = self.path.clone();
        let made = |source| UnpackError::Make { path: path.clone(), source };
        let mut offset = 0;
        loop {
            let got =
                self.image.read(inode, offset, &mut self.buffer).map_err(self.read_error())?;
            if got == 0 {
                break;
            }
            for chunk in self.buffer[..got].chunks(HOLE) {
                if chunk.iter().any(|byte| *byte != 0) {
                    file.write_all_at(chunk, offset).map_err(made)?;
                }
                offset += chunk.len() as u64;
            }
        }
        file.set_len(size).map_err(made)
    }

    /// Attributes, permission bits and time, in an order in which none undoes
    /// another.
    fn finish(
        &mut self,
        inode: &Inode,
        fd: rustix::fd::BorrowedFd<'_>,
        device: Option<Device>,
    ) -> Result<(), UnpackError> {
        if let Err(error) = self.attributes(inode, fd, device)? {
            self.lose(error);
        }
        let is_dir = matches!(inode.kind, InodeKind::Directory { .. });
        let mut mode = u32::from(inode.mode) & if is_dir { 0o1777 } else { 0o777 };
        if self.options.noted {
            // The owner can read it back, and the true bits are noted.
            mode |= if is_dir { 0o500 } else { 0o400 };
        }
        fchmod(fd, Mode::from_raw_mode(mode)).map_err(self.make_error())?;
        futimens(fd, &times(inode)).map_err(self.make_error())
    }

    /// The inner result is that of the file system, which may keep none.
    fn attributes(
        &self,
        inode: &Inode,
        fd: rustix::fd::BorrowedFd<'_>,
        device: Option<Device>,
    ) -> Result<Result<(), Errno>, UnpackError> {
        let set = |name: &[u8], value: &[u8]| fsetxattr(fd, name, value, XattrFlags::empty());
        let mut kept = Ok(());
        for (name, value) in self.image.xattrs(inode).map_err(self.read_error())? {
            let notes = [OVERRIDE_STAT.as_bytes(), CAPABILITY_NOTE.as_bytes()];
            let set = if name == CAPABILITY.as_bytes() && self.options.noted {
                set(&name, &value).or_else(|_| set(notes[1], &value))
            } else if name.starts_with(b"user.")
                && !of_overlay(&name)
                && !notes.contains(&&name[..])
            {
                set(&name, &value)
            } else {
                continue;
            };
            kept = kept.and(set);
        }
        if self.options.noted {
            let Inode { uid, gid, mode, .. } = *inode;
            let note = Owner { uid, gid, mode: u32::from(mode), device }.to_string();
            kept = kept.and(set(OVERRIDE_STAT.as_bytes(), note.as_bytes()));
        }
        Ok(kept)
    }
}

fn place(dir: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn times(inode: &Inode) -> Timestamps {
    let time = Timespec { tv_sec: i64::from(inode.mtime), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
