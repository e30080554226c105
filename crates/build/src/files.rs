//! Trees that files are copied from: a directory of the host, or an image.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use plan::{Entry, EntryKind, RootTree, TreeError};
use runtime::ImageTree;
use squashfs::InodeKind;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File(u64),
    Symlink(Vec<u8>),
    BlockDevice(u32, u32),
    CharDevice(u32, u32),
    Fifo,
    Socket,
}

/// What is said of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u32,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The same for all names of a file that has several.
    pub(crate) same: Option<(u64, u64)>,
}

/// A tree. Paths are absolute, `/` being its top, and have no symbolic link
/// before their last word.
pub(crate) trait Files: RootTree {
    fn info(&self, path: &Path) -> io::Result<Option<Info>>;
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + '_>>;
}

/// A directory of the host.
pub(crate) struct HostFiles {
    pub(crate) top: PathBuf,
    /// Whether files keep their owners; else what is in it belongs to root.
    pub(crate) own: bool,
}

impl HostFiles {
    fn real(&self, path: &Path) -> PathBuf {
        self.top.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Files for HostFiles {
    fn info(&self, path: &Path) -> io::Result<Option<Info>> {
        let real = self.real(path);
        let meta = match std::fs::symlink_metadata(&real) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            Err(e) => return Err(e),
        };
        let kind = meta.file_type();
        let device = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let what = if kind.is_dir() {
            What::Directory
        } else if kind.is_file() {
            What::File(meta.len())
        } else if kind.is_symlink() {
            What::Symlink(std::fs::read_link(&real)?.into_os_string().into_vec())
        } else if kind.is_fifo() {
            What::Fifo
        } else if kind.is_socket() {
            What::Socket
        } else if kind.is_block_device() {
            What::BlockDevice(device().0, device().1)
        } else {
            What::CharDevice(device().0, device().1)
        };
        Ok(Some(Info {
            same: (!kind.is_dir() && meta.nlink() > 1).then(|| (meta.dev(), meta.ino())),
            what,
            mode: (meta.mode() & 0o7777) as u16,
            uid: if self.own { meta.uid() } else { 0 },
            gid: if self.own { meta.gid() } else { 0 },
            mtime: u32::try_from(meta.mtime().max(0)).unwrap_or(u32::MAX),
            xattrs: if self.own { attributes(&real) } else { Vec::new() },
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let entries = std::fs::read_dir(self.real(path))?;
        let mut names: Vec<OsString> =
            entries.map(|e| e.map(|e| e.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + '_>> {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        Ok(Box::new(File::options().read(true).custom_flags(flags).open(self.real(path))?))
    }
}

/// File capabilities and access control lists of the host, the latter as images note
/// them.
fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let capability = ("security.capability", "security.capability");
    let all = std::iter::once(capability).chain(types::ACL_NOTES);
    let found = all.filter_map(|(name, noted)| {
        // None of them is longer than an attribute may be (xattr(7)).
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some((noted.as_bytes().to_vec(), value))
    });
    found.collect()
}

fn entry_of(info: Info) -> Entry {
    let kind = match info.what {
        What::Directory => EntryKind::Directory,
        What::File(_) => EntryKind::File,
        What::Symlink(to) => EntryKind::Symlink(PathBuf::from(OsString::from_vec(to))),
        _ => EntryKind::Other,
    };
    Entry { kind, mode: u32::from(info.mode) }
}

fn unread(path: &Path) -> impl Fn(io::Error) -> TreeError {
    move |source| TreeError::Read { path: path.to_owned(), source: source.into() }
}

impl RootTree for HostFiles {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        Ok(self.info(path).map_err(unread(path))?.map(entry_of))
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TreeError> {
        let mut bytes = Vec::new();
        let file = self.open(path).map_err(unread(path))?;
        file.take(limit as u64).read_to_end(&mut bytes).map_err(unread(path))?;
        Ok(Some(bytes))
    }
}

/// Writes a program that a container runs.
pub(crate) fn write_program(path: &Path, text: &str) -> crate::error::Result<()> {
    use std::io::Write;
    let file = File::options().write(true).create_new(true).mode(0o755).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| crate::error::BuildError::Write { path: path.to_owned(), source })
}

/// The files of an image.
pub(crate) struct ImageFiles(pub(crate) ImageTree);

impl Files for ImageFiles {
    fn info(&self, path: &Path) -> io::Result<Option<Info>> {
        let Some(found) = self.0.info(path).map_err(io::Error::other)? else { return Ok(None) };
        let inode = &found.inode;
        let what = match &inode.kind {
            InodeKind::Directory { .. } => What::Directory,
            InodeKind::File { size, .. } => What::File(*size),
            InodeKind::Symlink { .. } => What::Symlink(self.0.link(&found)?),
            InodeKind::BlockDevice { major, minor } => What::BlockDevice(*major, *minor),
            InodeKind::CharDevice { major, minor } => What::CharDevice(*major, *minor),
            InodeKind::Fifo => What::Fifo,
            InodeKind::Socket => What::Socket,
        };
        let several = what != What::Directory && inode.nlink > 1;
        let own = |name: &[u8]| name.starts_with(b"trusted.overlay.");
        Ok(Some(Info {
            what,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            same: several.then_some((found.layer as u64, u64::from(inode.number))),
            xattrs: found.xattrs.into_iter().filter(|(name, _)| !own(name)).collect(),
        }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let names = self.0.list(path).map_err(io::Error::other)?;
        Ok(names.iter().map(|name| OsStr::from_bytes(name).to_owned()).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + '_>> {
        let info = self.0.info(path).map_err(io::Error::other)?;
        let info = info.ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(ImageReader { tree: &self.0, info, at: 0 }))
    }
}

impl RootTree for ImageFiles {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        self.0.entry(path)
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TreeError> {
        self.0.read(path, limit)
    }
}

struct ImageReader<'a> {
    tree: &'a ImageTree,
    info: runtime::Info,
    at: u64,
}

impl Read for ImageReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.tree.read_at(&self.info, self.at, buffer)?;
        self.at += got as u64;
        Ok(got)
    }
}
