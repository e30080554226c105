//! A root file system in a directory: an image's, or the host's own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use plan::{Entry, EntryKind, RootTree, SearchTree, TreeError};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};

use crate::watch::{Identity, Stamp};

fn failed(path: &Path) -> impl Fn(std::io::Error) -> TreeError {
    move |source| TreeError::Read { path: path.to_owned(), source: source.into() }
}

/// A root file system in a directory.
pub struct DirectoryTree {
    root: OwnedFd,
}

impl DirectoryTree {
    /// Opens the directory.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: openat(CWD, path, flags, Mode::empty())? })
    }

    /// What is at a path, a symbolic link in its last word not followed. What
    /// cannot be looked at counts as absent.
    pub(crate) fn stamp(&self, path: &Path) -> Stamp {
        let stat = statat(&self.root, relative(path), AtFlags::SYMLINK_NOFOLLOW).ok();
        Stamp(stat.map(|stat| Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }))
    }
}

/// The path below the root, `.` for the root itself.
fn relative(path: &Path) -> &Path {
    match path.strip_prefix("/") {
        Ok(rest) if !rest.as_os_str().is_empty() => rest,
        _ => Path::new("."),
    }
}

impl RootTree for DirectoryTree {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        use rustix::io::Errno;
        // The paths asked for have no symbolic link before the last word.
        let stat = match statat(&self.root, relative(path), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) => return Err(failed(path)(e.into())),
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => EntryKind::Directory,
            FileType::RegularFile => EntryKind::File,
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(&self.root, relative(path), Vec::new())
                    .map_err(|e| failed(path)(e.into()))?;
                EntryKind::Symlink(PathBuf::from(std::ffi::OsStr::from_bytes(to.as_bytes())))
            }
            _ => EntryKind::Other,
        };
        Ok(Some(Entry { kind, mode: stat.st_mode & 0o7777 }))
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TreeError> {
        self.read_at(path, 0, limit)
    }
}

impl SearchTree for DirectoryTree {
    fn read_at(
        &self,
        path: &Path,
        offset: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let opened =
            openat2(&self.root, relative(path), flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let Ok(fd) = opened else { return Ok(None) };
        let file = fs::File::from(fd);
        let meta = file.metadata().map_err(failed(path))?;
        if !meta.is_file() {
            return Ok(None);
        }
        // Files of /proc have no size.
        let length = if meta.len() == 0 { limit as u64 } else { meta.len().saturating_sub(offset) };
        let mut bytes = vec![0; usize::try_from(length).map_or(limit, |length| length.min(limit))];
        let mut done = 0;
        while done < bytes.len() {
            let at = offset.saturating_add(done as u64);
            match file.read_at(&mut bytes[done..], at).map_err(failed(path))? {
                0 => break,
                got => done += got,
            }
        }
        bytes.truncate(done);
        Ok(Some(bytes))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            openat2(&self.root, relative(path), flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let Ok(fd) = opened else { return Ok(Vec::new()) };
        let entries = rustix::fs::Dir::read_from(&fd).map_err(|e| failed(path)(e.into()))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| failed(path)(e.into()))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }
}
