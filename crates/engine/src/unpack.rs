//! Images as directories, where nothing can mount them.
//!
//! `SCRATCH/sampan-UID/KEY` holds the tree of one image, where KEY is its
//! digest, or, for a file of a person's own, its device, inode, size and time
//! of change. It is made under a temporary name and renamed, so that what has
//! its final name is whole; of two processes that unpack at once, one is late
//! and removes its own. The directory is its user's alone: it is refused when
//! somebody else owns it or may write to it.
//!
//! Everything is made relative to directory descriptors and never through a
//! symbolic link, so that a hostile image writes nowhere else. Devices are
//! left out (an ordinary user cannot make them), and so are owners.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use ::image::TreeSource;
use plan::ImagePart;
use rustix::fs::{CWD, Mode, OFlags, fchmod, mkdirat, openat, symlinkat};
use sha2::Digest as _;
use squashfs::{Image, Inode, InodeKind, ReaderOptions};
use types::{Digest, OVERRIDE_STAT, Owner};

use crate::build_cache::LONGEST_STEP;
use crate::{Error, Result};

/// Deeper than any path that the kernel takes in one piece.
const DEEPEST: usize = 1024;

pub(crate) fn cache(scratch: &Path) -> PathBuf {
    scratch.join(format!("sampan-{}", rustix::process::geteuid().as_raw()))
}

/// What changes when an image file does: device, inode, size, time of change.
pub(crate) fn file_key(part: &ImagePart) -> Result<String> {
    let ImagePart { path, offset } = part;
    let meta = std::fs::metadata(path)
        .map_err(|source| Error::OpenImage { path: path.clone(), source })?;
    Ok(format!("{:x}-{:x}-{:x}-{:x}", meta.dev(), meta.ino(), meta.size(), meta.ctime_nsec())
        + &format!("-{:x}-{offset:x}", meta.ctime()))
}

/// What changes when one of the files does.
pub(crate) fn files_key(parts: &[ImagePart]) -> Result<String> {
    let keys = parts.iter().map(file_key).collect::<Result<Vec<_>>>()?;
    Ok(match &keys[..] {
        [key] => key.clone(),
        // A name has no room for all.
        _ => Digest::sha256(&sha2::Sha256::digest(keys.join(" ")).into()).hex().to_owned(),
    })
}

/// The directory with the tree of an image; makes it if it is not there.
pub(crate) fn unpacked(
    parts: &[ImagePart],
    key: Option<String>,
    scratch: &Path,
) -> Result<PathBuf> {
    let cannot = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Unpack { path, source }
    };
    let key = match key {
        Some(key) => key,
        None => files_key(parts)?,
    };
    let cache = own_directory(&cache(scratch))?;
    let done = cache.join(key);
    if done.is_dir() {
        return Ok(done);
    }
    let image = flat(parts, &done)?;
    let temporary = cache.join(format!(".{}.new", std::process::id()));
    remove(&temporary).map_err(cannot(&temporary))?;
    std::fs::create_dir(&temporary).map_err(cannot(&temporary))?;
    let made =
        unpack(&image, &temporary, false).and_then(|()| match std::fs::rename(&temporary, &done) {
            Err(_) if done.is_dir() => Ok(()),
            other => other.map_err(cannot(&done)),
        });
    // Gone after the rename; else this is what is left of a failure.
    let removed = remove(&temporary).map_err(cannot(&temporary));
    made?;
    removed?;
    Ok(done)
}

/// A file system of ext2, ext3 or ext4 as squashfs, in a file beside unpacked
/// images; makes it if it is not there. An ordinary user can mount no other.
pub(crate) fn from_ext(
    path: &Path,
    offset: u64,
    size: u64,
    top: &str,
    scratch: &Path,
) -> Result<ImagePart> {
    let part = ImagePart { path: path.to_owned(), offset };
    let cache = own_directory(&cache(scratch))?;
    let done = cache.join(format!("{}.sqfs", file_key(&part)?));
    if done.is_file() {
        return Ok(ImagePart { path: done, offset: 0 });
    }
    let failed = |source| Error::OpenImage { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let unread = |source| Error::ReadExt { path: path.to_owned(), offset, source };
    let fs = ext::FileSystem::open(file, offset, size).map_err(unread)?;
    let cannot = |source| Error::Unpack { path: done.clone(), source };
    let temporary = cache.join(format!(".{}.sqfs", std::process::id()));
    remove(&temporary).map_err(cannot)?;
    let file = File::options().read(true).write(true).create_new(true).open(&temporary);
    let copied = |source| Error::Copy { path: done.clone(), source };
    let options = ::image::ConvertOptions::default();
    let made = ::image::copy(TreeSource::Ext(&fs, top), file.map_err(cannot)?, &options, &[])
        .map_err(copied)
        .and_then(|_| std::fs::rename(&temporary, &done).map_err(cannot));
    // Gone after the rename; else this is what is left of a failure.
    let removed = remove(&temporary).map_err(cannot);
    made?;
    removed?;
    Ok(ImagePart { path: done, offset: 0 })
}

/// Where the sockets and the log of image servers are, beside unpacked images.
pub(crate) const RUN: &str = "run";

/// What named containers have written, beside unpacked images.
pub(crate) const NAMED: &str = "named";

/// The records and logs of instances, beside unpacked images.
pub(crate) const INSTANCES: &str = "instances";

/// Where builds write, beside unpacked images.
pub(crate) const BUILD: &str = "build";

/// Removes every unpacked image of this user, and what builds that are over have left.
pub(crate) fn clear(scratch: &Path) -> Result<()> {
    let cache = cache(scratch);
    if !cache.exists() {
        return Ok(());
    }
    let cache = own_directory(&cache)?;
    let clear = || -> io::Result<()> {
        for entry in std::fs::read_dir(&cache)? {
            let entry = entry?;
            if ![RUN, NAMED, INSTANCES, BUILD].iter().any(|kept| entry.file_name() == *kept) {
                remove(&entry.path())?;
            }
        }
        let builds = std::fs::read_dir(cache.join(BUILD)).into_iter().flatten().flatten();
        for left in builds.map(|e| e.path()).filter(|p| store::is_left(p, LONGEST_STEP)) {
            // What belongs to subordinate ids the next build that has them removes.
            let _ = remove(&left);
        }
        Ok(())
    };
    clear().map_err(|source| Error::Unpack { path: cache.clone(), source })
}

/// Makes a directory of this user alone, or checks that it is one.
pub(crate) fn own_directory(path: &Path) -> Result<PathBuf> {
    let cannot = |source| Error::Unpack { path: path.to_owned(), source };
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(e)),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(path).map_err(cannot)?;
    let own = meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0;
    if meta.is_dir() && own {
        Ok(path.to_owned())
    } else {
        Err(Error::ScratchOwner { path: path.to_owned() })
    }
}

/// Removes a tree whose directories may be closed even to their owner.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !meta.is_dir() {
        return std::fs::remove_file(path);
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(meta.mode() | 0o700);
    std::fs::set_permissions(path, mode)?;
    for entry in std::fs::read_dir(path)? {
        remove(&entry?.path())?;
    }
    std::fs::remove_dir(path)
}

/// Opens images to read them as trees.
///
/// # Errors
/// When a file cannot be opened, or is no image.
pub fn open(parts: &[ImagePart]) -> Result<Vec<Image>> {
    let open = |ImagePart { path, offset }: &ImagePart| {
        let file =
            File::open(path).map_err(|source| Error::OpenImage { path: path.clone(), source })?;
        let unread = |source| Error::UnpackRead { path: path.clone(), source };
        Image::open(file, *offset, ReaderOptions::default()).map_err(unread)
    };
    parts.iter().map(open).collect()
}

/// A file without a name beside another.
pub(crate) fn nameless(near: &Path) -> io::Result<File> {
    let name = near.file_name().unwrap_or_default().to_string_lossy();
    let temporary = near.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&temporary)?;
    // From here on it goes with its descriptor.
    std::fs::remove_file(&temporary)?;
    Ok(file)
}

/// One image of several: itself, or a copy without a name on the file system
/// of `near`.
pub(crate) fn flat(parts: &[ImagePart], near: &Path) -> Result<Image> {
    let mut images = open(parts)?;
    if images.len() == 1 {
        return Ok(images.remove(0));
    }
    let cannot = |source| Error::Unpack { path: near.to_owned(), source };
    let file = nameless(near).map_err(cannot)?;
    let copy = file.try_clone().map_err(cannot)?;
    let options = ::image::ConvertOptions {
        compression: squashfs::Compression::None,
        ..image::ConvertOptions::default()
    };
    let failed = |source| Error::Copy { path: near.to_owned(), source };
    ::image::copy(TreeSource::Images(&images), copy, &options, &[]).map_err(failed)?;
    let unread = |source| Error::UnpackRead { path: near.to_owned(), source };
    Image::open(file, 0, ReaderOptions::default()).map_err(unread)
}

/// Unpacks an image into a new directory. Owners and modes that a person
/// cannot give are noted as extended attributes, as other tools do.
pub(crate) fn with_owners(parts: &[ImagePart], to: &Path) -> Result<()> {
    let cannot = |source| Error::Unpack { path: to.to_owned(), source };
    let image = flat(parts, to)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let temporary = to.with_file_name(format!(".{name}.{}.new", std::process::id()));
    std::fs::create_dir(&temporary).map_err(cannot)?;
    let made = unpack(&image, &temporary, true)
        .and_then(|()| std::fs::rename(&temporary, to).map_err(cannot));
    if made.is_err() {
        // The first failure is the one that is told.
        let _ = remove(&temporary);
    }
    made
}

/// Notes owner and mode of a file or directory; a file system without user
/// attributes has no place for them.
fn note_owner(fd: impl AsFd, inode: &Inode) {
    let Inode { uid, gid, mode, .. } = *inode;
    let value = Owner { uid, gid, mode: u32::from(mode), device: None }.to_string();
    let flags = rustix::fs::XattrFlags::empty();
    if let Err(error) = rustix::fs::fsetxattr(fd, OVERRIDE_STAT, value.as_bytes(), flags) {
        tracing::debug!("the owner of inode {} is lost: {error}", inode.number);
    }
}

fn unpack(image: &Image, to: &Path, owners: bool) -> Result<()> {
    let cannot =
        |source: rustix::io::Errno| Error::Unpack { path: to.to_owned(), source: source.into() };
    let unread = |source| Error::UnpackRead { path: "/".into(), source };
    let root = image.inode(image.root()).map_err(unread)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(CWD, to, flags, Mode::empty()).map_err(cannot)?;
    directory(image, &root, &dir, Path::new("/"), 0, owners)
}

fn directory(
    image: &Image,
    inode: &Inode,
    dir: &OwnedFd,
    path: &Path,
    depth: usize,
    owners: bool,
) -> Result<()> {
    let unread = |source| Error::UnpackRead { path: path.to_owned(), source };
    let cannot = |path: &Path| {
        let path = path.to_owned();
        move |source: rustix::io::Errno| Error::Unpack { path, source: source.into() }
    };
    if depth > DEEPEST {
        return Err(cannot(path)(rustix::io::Errno::NAMETOOLONG));
    }
    for entry in image.read_dir(inode, 0).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let name = OsStr::from_bytes(&entry.name);
        let below = path.join(name);
        let child = image.inode(entry.inode).map_err(unread)?;
        match &child.kind {
            InodeKind::Directory { .. } => {
                mkdirat(dir, name, Mode::RWXU).map_err(cannot(&below))?;
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let next = openat(dir, name, flags, Mode::empty()).map_err(cannot(&below))?;
                directory(image, &child, &next, &below, depth + 1, owners)?;
            }
            InodeKind::File { .. } => regular(image, &child, dir, &below, owners)?,
            InodeKind::Symlink { .. } => {
                let target = image.read_link(&child).map_err(unread)?;
                symlinkat(OsStr::from_bytes(&target), dir, name).map_err(cannot(&below))?;
            }
            InodeKind::Fifo => {
                let kind = rustix::fs::FileType::Fifo;
                let mode = Mode::from_raw_mode(u32::from(child.mode) & 0o777);
                rustix::fs::mknodat(dir, name, kind, mode, 0).map_err(cannot(&below))?;
            }
            _ => {}
        }
    }
    if owners {
        note_owner(dir, inode);
    }
    let mode = Mode::from_raw_mode(u32::from(inode.mode) & 0o1777);
    fchmod(dir.as_fd(), mode).map_err(cannot(path))
}

fn regular(image: &Image, inode: &Inode, dir: &OwnedFd, path: &Path, owners: bool) -> Result<()> {
    let unread = |source| Error::UnpackRead { path: path.to_owned(), source };
    let cannot = |source| Error::Unpack { path: path.to_owned(), source };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = path.file_name().unwrap_or_default();
    let fd = openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(|e| cannot(e.into()))?;
    let mut file = File::from(fd);
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let count = image.read(inode, offset, &mut buffer).map_err(unread)?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).map_err(cannot)?;
        offset += count as u64;
    }
    if owners {
        note_owner(&file, inode);
    }
    let mode = Mode::from_raw_mode(u32::from(inode.mode) & 0o777);
    fchmod(file.as_fd(), mode).map_err(|e| cannot(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use squashfs::{Meta, Node, NodeKind, Tree, Writer, WriterOptions};
    use std::os::unix::fs::PermissionsExt;

    fn meta(mode: u16) -> Meta {
        Meta { mode, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }
    }

    fn parts(path: &Path) -> Vec<ImagePart> {
        vec![ImagePart { path: path.to_owned(), offset: 0 }]
    }

    /// A small image with a link that leads out, beside a file.
    fn image(path: &Path) {
        let file =
            std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        let mut writer = Writer::new(file, WriterOptions::default()).unwrap();
        let data = writer.file(&mut &b"hello"[..], 5).unwrap();
        let mut tree = Tree::new(meta(0o755));
        let root = tree.root();
        let dir =
            tree.add(Node { meta: meta(0o555), kind: NodeKind::Directory(Default::default()) });
        tree.link(root, b"dir", dir);
        let file = tree.add(Node { meta: meta(0o750), kind: NodeKind::File(data) });
        tree.link(dir, b"file", file);
        let out = tree.add(Node { meta: meta(0o777), kind: NodeKind::Symlink(b"/etc".to_vec()) });
        tree.link(root, b"out", out);
        writer.finish(&tree).unwrap();
    }

    #[test]
    fn an_image_is_unpacked_once_and_cleared() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("x.sqfs");
        image(&file);
        let dir = unpacked(&parts(&file), None, scratch.path()).unwrap();
        assert_eq!(std::fs::read(dir.join("dir/file")).unwrap(), b"hello");
        let mode = |name: &str| std::fs::symlink_metadata(dir.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("dir"), mode("dir/file")), (0o555, 0o750));
        assert_eq!(std::fs::read_link(dir.join("out")).unwrap(), Path::new("/etc"));
        let first = std::fs::metadata(&dir).unwrap().ino();
        let again = unpacked(&parts(&file), None, scratch.path()).unwrap();
        assert_eq!(std::fs::metadata(&again).unwrap().ino(), first);
        let names = std::fs::read_dir(cache(scratch.path())).unwrap().count();
        assert_eq!(names, 1, "something temporary is left");
        std::fs::create_dir(cache(scratch.path()).join(RUN)).unwrap();
        clear(scratch.path()).unwrap();
        let left = std::fs::read_dir(cache(scratch.path())).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [RUN], "the sockets of servers went, or an image stayed");
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = cache(scratch.path());
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(own_directory(&dir), Err(Error::ScratchOwner { .. })));
        std::fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/tmp", &dir).unwrap();
        assert!(matches!(own_directory(&dir), Err(Error::ScratchOwner { .. })));
    }

    #[test]
    fn a_cut_image_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("x.sqfs");
        image(&file);
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(200).unwrap();
        assert!(unpacked(&parts(&file), Some("k".into()), scratch.path()).is_err());
        assert_eq!(std::fs::read_dir(cache(scratch.path())).unwrap().count(), 0);
    }
}
