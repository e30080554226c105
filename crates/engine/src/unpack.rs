//! Images as directories, where nothing can mount them.
//!
//! `SCRATCH/sampan-UID/KEY` holds the tree of one image, where KEY is its
//! digest, or, for a file of a person's own, its device, inode, size and time
//! of change. It is made under a temporary name and renamed, so that what has
//! its final name is whole; of two processes that unpack at once, one is late
//! and removes its own. The directory is its user's alone: it is refused when
//! somebody else owns it or may write to it.
//!
//! Devices are left out (an ordinary user cannot make them), and so are owners.
//!
//! `SCRATCH/sampan-UID/KEY.sqfs` is a file system of ext2, ext3 or ext4, copied.
//! A new copy takes the place of older ones of the same part of the same file,
//! and copies that nobody has read for a week go with it, or by `prune`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::image::{TreeSource, UnpackOptions};
use plan::ImagePart;
use sha2::Digest as _;
use squashfs::{Image, ReaderOptions};
use types::Digest;

use crate::build_cache::LONGEST_STEP;
use crate::{Error, Result};

/// How long a copy that nobody reads is kept. File systems note reads once a
/// day (relatime of mount(8)).
const UNREAD: Duration = Duration::from_secs(7 * 86400);

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
    size_limit: u64,
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
    let image = flat(parts, &done, size_limit)?;
    let temporary = cache.join(format!(".{}.new", std::process::id()));
    remove(&temporary).map_err(cannot(&temporary))?;
    std::fs::create_dir(&temporary).map_err(cannot(&temporary))?;
    let options = UnpackOptions { noted: false, size_limit };
    let made = unpack(&image, &temporary, &options).and_then(|_| {
        match std::fs::rename(&temporary, &done) {
            Err(_) if done.is_dir() => Ok(()),
            other => other.map_err(cannot(&done)),
        }
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
    size_limit: u64,
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
    let options = ::image::ConvertOptions { size_limit, ..Default::default() };
    let made = ::image::copy(TreeSource::Ext(&fs, top), file.map_err(cannot)?, &options, &[])
        .map_err(copied)
        .and_then(|_| std::fs::rename(&temporary, &done).map_err(cannot));
    // Gone after the rename; else this is what is left of a failure.
    let removed = remove(&temporary).map_err(cannot);
    made?;
    removed?;
    // The copy is there, whether or not older ones can be removed.
    let _ = remove_copies(&cache, Some(&done));
    Ok(ImagePart { path: done, offset: 0 })
}

/// Removes copies that nobody reads, and older ones of what `new` is a copy of.
fn remove_copies(cache: &Path, new: Option<&Path>) -> io::Result<()> {
    // What of a key stays when the file changes: device, inode and offset.
    let place = |name: &str| -> Option<[String; 3]> {
        let words: Vec<&str> = name.strip_suffix(".sqfs")?.split('-').collect();
        match words[..] {
            [device, inode, _, _, _, offset] => Some([device, inode, offset].map(str::to_owned)),
            _ => None,
        }
    };
    let text = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let replaced = new.and_then(|new| place(&text(new)));
    for entry in std::fs::read_dir(cache)? {
        let path = entry?.path();
        let Some(of) = place(&text(&path)) else { continue };
        if Some(&*path) == new {
            continue;
        }
        let meta = path.symlink_metadata()?;
        let used = meta.accessed()?.max(meta.modified()?);
        let unread = used.elapsed().is_ok_and(|since| since > UNREAD);
        if meta.is_file() && (unread || Some(of) == replaced) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes copies that nobody reads.
pub(crate) fn prune(scratch: &Path) -> Result<()> {
    let cache = cache(scratch);
    if !cache.exists() {
        return Ok(());
    }
    let cache = own_directory(&cache)?;
    remove_copies(&cache, None).map_err(|source| Error::Unpack { path: cache.clone(), source })
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
    // Names first: no directory stays open on the way down.
    let entries = std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
    for entry in entries.collect::<io::Result<Vec<_>>>()? {
        remove(&entry)?;
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
pub(crate) fn flat(parts: &[ImagePart], near: &Path, size_limit: u64) -> Result<Image> {
    let mut images = open(parts)?;
    if images.len() == 1 {
        return Ok(images.remove(0));
    }
    let cannot = |source| Error::Unpack { path: near.to_owned(), source };
    let file = nameless(near).map_err(cannot)?;
    let copy = file.try_clone().map_err(cannot)?;
    let options = ::image::ConvertOptions {
        compression: squashfs::Compression::None,
        size_limit,
        ..image::ConvertOptions::default()
    };
    let failed = |source| Error::Copy { path: near.to_owned(), source };
    ::image::copy(TreeSource::Images(&images), copy, &options, &[]).map_err(failed)?;
    let unread = |source| Error::UnpackRead { path: near.to_owned(), source };
    Image::open(file, 0, ReaderOptions::default()).map_err(unread)
}

/// Unpacks an image into a new directory; what the file system could not keep.
/// Owners and modes that a person cannot give are noted as extended attributes,
/// as other tools do.
pub(crate) fn with_owners(
    image: &Image,
    to: &Path,
    size_limit: u64,
) -> Result<Option<::image::Lost>> {
    let cannot = |source| Error::Unpack { path: to.to_owned(), source };
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let temporary = to.with_file_name(format!(".{name}.{}.new", std::process::id()));
    std::fs::create_dir(&temporary).map_err(cannot)?;
    let options = UnpackOptions { noted: true, size_limit };
    let made = unpack(image, &temporary, &options)
        .and_then(|lost| std::fs::rename(&temporary, to).map_err(cannot).map(|()| lost));
    if made.is_err() {
        // The first failure is the one that is told.
        let _ = remove(&temporary);
    }
    made
}

fn unpack(image: &Image, to: &Path, options: &UnpackOptions) -> Result<Option<::image::Lost>> {
    let failed = |source| Error::UnpackImage { path: to.to_owned(), source };
    ::image::unpack(image, to, options).map_err(failed)
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
        let dir = unpacked(&parts(&file), None, scratch.path(), 1 << 20).unwrap();
        assert_eq!(std::fs::read(dir.join("dir/file")).unwrap(), b"hello");
        let mode = |name: &str| std::fs::symlink_metadata(dir.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("dir"), mode("dir/file")), (0o555, 0o750));
        assert_eq!(std::fs::read_link(dir.join("out")).unwrap(), Path::new("/etc"));
        let first = std::fs::metadata(&dir).unwrap().ino();
        let again = unpacked(&parts(&file), None, scratch.path(), 1 << 20).unwrap();
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
    fn copies_of_what_changed_or_is_not_read_go() {
        let cache = tempfile::tempdir().unwrap();
        let copy = |name: &str, age: u64| {
            let path = cache.path().join(name);
            let file = File::create(&path).unwrap();
            let time = std::time::SystemTime::now() - Duration::from_secs(age * 86400);
            let times = std::fs::FileTimes::new().set_accessed(time).set_modified(time);
            file.set_times(times).unwrap();
            path
        };
        let left = || {
            let names = std::fs::read_dir(cache.path()).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let new = copy("1-2-30-4-5-0.sqfs", 0);
        // The same file as it was; another part of it; another file; no copy.
        copy("1-2-20-3-4-0.sqfs", 1);
        let kept = ["1-2-20-3-4-1000.sqfs", "1-3-20-3-4-0.sqfs", "x.sqfs", "1-2-20-3-4-0"];
        let _ = kept.map(|name| copy(name, 6));
        remove_copies(cache.path(), Some(&new)).unwrap();
        let mut all: std::collections::BTreeSet<_> = kept.map(str::to_owned).into();
        all.insert("1-2-30-4-5-0.sqfs".to_owned());
        assert_eq!(left(), all);
        copy(kept[0], 8);
        copy(kept[2], 8);
        remove_copies(cache.path(), None).unwrap();
        all.remove(kept[0]);
        assert_eq!(left(), all);
    }

    #[test]
    fn a_cut_image_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("x.sqfs");
        image(&file);
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(200).unwrap();
        assert!(unpacked(&parts(&file), Some("k".into()), scratch.path(), 1 << 20).is_err());
        assert_eq!(std::fs::read_dir(cache(scratch.path())).unwrap().count(), 0);
    }
}
