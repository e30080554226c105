//! Copies of images on a disk of this node.
//!
//! Where images are on a file system that all nodes share, a site may have
//! each node copy an image once, and serve it from there:
//!
//! ```text
//! NODE_CACHE/sampan-UID/KEY.sqfs     a whole copy
//! NODE_CACHE/sampan-UID/.KEY.used    its time of change is that of the copy's last use
//! NODE_CACHE/sampan-UID/.KEY.part    a copy that is being written, as long as it will be;
//!                                    who writes it holds a lock on it
//! NODE_CACHE/sampan-UID/.lock        who makes room holds a lock on this
//! ```
//!
//! KEY is the digest of an image of a store, or device, inode, size and time of change
//! of a file of a person's own. Locks are those of flock(2), as the disk is local, so what
//! a killed writer leaves is known by its free lock, and removed when room is made. A
//! copy has its final name when it is on the disk and has been read back from there; one of
//! another length than the image, as a full or broken disk leaves it, is made anew. The time
//! of use is not that of the copy, by whose state containers know that they may share a server.
//!
//! The limit holds for each user, whose copies are readable to nobody else. What is written
//! counts too. What was used longest ago goes when there is no room; a server that has a
//! copy open goes on serving it. Whatever fails, the image where it was is as good.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use plan::ImagePart;
use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use sha2::{Digest as _, Sha256};
use store::StoredImage;

use crate::unpack;

/// Bytes that are copied at once.
const BLOCK: usize = 1 << 20;

/// An image file to be copied.
struct Source<'a> {
    path: &'a Path,
    key: String,
    /// In bytes.
    size: u64,
}

/// The parts of an image as this node has them, copied if they were not there: those of
/// an image of a store, and those of other files that are not `local`. None where
/// all are where they belong.
pub(crate) fn copies(
    cache: &Path,
    limit: u64,
    parts: &[ImagePart],
    stored: Option<&StoredImage>,
    local: &dyn Fn(&Path) -> bool,
) -> io::Result<Option<Vec<ImagePart>>> {
    let mut copied = false;
    let mut copy_of = |part: &ImagePart| {
        let path = part.path.as_path();
        let source = match stored {
            Some(image) => Source { path, key: image.id.hex().to_owned(), size: image.record.size },
            None if local(path) => return Ok(part.clone()),
            None => {
                let whole = ImagePart { path: path.to_owned(), offset: 0 };
                let key = unpack::file_key(&whole).map_err(io::Error::other)?;
                Source { path, key, size: fs::metadata(path)?.len() }
            }
        };
        copied = true;
        Ok(ImagePart { path: copy(cache, limit, &source)?, offset: part.offset })
    };
    let parts = parts.iter().map(&mut copy_of).collect::<io::Result<Vec<_>>>()?;
    Ok(copied.then_some(parts))
}

/// Removes copies that cannot be used.
pub(crate) fn discard(cache: &Path, parts: &[ImagePart]) {
    let cache = unpack::cache(cache);
    for part in parts.iter().filter(|part| part.path.starts_with(&cache)) {
        // It may have gone to make room.
        let _ = fs::remove_file(&part.path);
    }
}

/// The copy of an image file, made if there is none.
fn copy(cache: &Path, limit: u64, source: &Source<'_>) -> io::Result<PathBuf> {
    let dir = unpack::own_directory(&unpack::cache(cache)).map_err(io::Error::other)?;
    let Source { key, size, .. } = source;
    let place = dir.join(format!("{key}.sqfs"));
    if used(&dir, source, &place)? {
        return Ok(place);
    }
    if *size > limit {
        return Err(full(format!("the image's {size} bytes are more than node_cache_size")));
    }
    let part = dir.join(format!(".{key}.part"));
    let file = loop {
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(&part)?;
        flock(&file, FlockOperation::LockExclusive)?;
        // Who had it before may have finished, or given up.
        if is_at(&file, &part)? {
            break file;
        }
        if used(&dir, source, &place)? {
            return Ok(place);
        }
    };
    let made = reserve(&dir, &file, limit, *size)
        .and_then(|()| write(source, &file))
        .and_then(|()| fs::rename(&part, &place));
    if made.is_err() {
        // The error that counts is the first.
        let _ = fs::remove_file(&part);
    }
    made?;
    File::open(&dir)?.sync_all()?;
    let _ = used(&dir, source, &place)?;
    Ok(place)
}

fn full(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, text)
}

/// Whether a file is the one of a name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(meta) => Ok((meta.dev(), meta.ino()) == (own.dev(), own.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a copy is there; its time of use is now. One of another length goes.
fn used(dir: &Path, source: &Source<'_>, place: &Path) -> io::Result<bool> {
    match fs::metadata(place) {
        Ok(meta) if meta.len() == source.size => {
            let note = dir.join(format!(".{}.used", source.key));
            let file = File::options().create(true).truncate(false).write(true).open(note);
            // A copy whose time cannot be set goes earlier than it should.
            let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
            Ok(true)
        }
        Ok(_) => {
            fs::remove_file(place)?;
            Ok(false)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Makes room for a copy, and gives the file its length so that others count it.
fn reserve(dir: &Path, file: &File, limit: u64, size: u64) -> io::Result<()> {
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join(".lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    // Nothing of a killed writer's counts.
    file.set_len(0)?;
    make_room(dir, limit - size)?;
    file.set_len(size)
}

/// Writes a copy and reads it back from the disk.
fn write(source: &Source<'_>, mut file: &File) -> io::Result<()> {
    file.rewind()?;
    let (copied, digest) = pass(&mut File::open(source.path)?, &mut file)?;
    if copied != source.size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.sync_all()?;
    // What is read now comes from the disk, and is in memory when it is served.
    fadvise(file, 0, None, Advice::DontNeed)?;
    file.rewind()?;
    if pass(&mut file, &mut io::sink())? == (copied, digest) {
        return Ok(());
    }
    let text = "what the disk of node_cache gives back is not what was written";
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Passes bytes on; how many, and their SHA-256.
fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<(u64, [u8; 32])> {
    let (mut buffer, mut hash, mut total) = (vec![0; BLOCK], Sha256::new(), 0);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok((total, hash.finalize().into())),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        hash.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        total += count as u64;
    }
}

/// Removes what was used longest ago until no more than `limit` bytes are left. Who calls
/// holds the lock of the directory.
fn make_room(dir: &Path, limit: u64) -> io::Result<()> {
    let (mut copies, mut notes, mut total, mut written) = (Vec::new(), Vec::new(), 0, 0);
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Ok(meta) = fs::metadata(&path) else { continue };
        let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if let Some(key) = name.strip_suffix(".sqfs").filter(|key| !key.starts_with('.')) {
            let note = dir.join(format!(".{key}.used"));
            let used = fs::metadata(&note).and_then(|meta| meta.modified());
            total += meta.len();
            copies.push((used.unwrap_or(changed), meta.len(), path, note));
        } else if name.starts_with('.') && name.ends_with(".part") {
            if abandoned(&path)? {
                fs::remove_file(&path)?;
            } else {
                written += meta.len();
            }
        } else if let Some(key) = name.strip_prefix('.').and_then(|n| n.strip_suffix(".used")) {
            notes.push((dir.join(format!("{key}.sqfs")), path));
        }
    }
    for (_, note) in notes.iter().filter(|(copy, _)| !copy.exists()) {
        // Its copy was removed by somebody else; so may this be.
        let _ = fs::remove_file(note);
    }
    if written > limit {
        return Err(full("copies that are being made take all of node_cache_size".to_owned()));
    }
    copies.sort();
    for (_, size, path, note) in copies {
        if total + written <= limit {
            break;
        }
        fs::remove_file(path)?;
        // One that is left goes the next time.
        let _ = fs::remove_file(note);
        total -= size;
    }
    Ok(())
}

/// Whether the writer of a copy is gone.
fn abandoned(part: &Path) -> io::Result<bool> {
    let file = match File::open(part) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // It may have been renamed since.
        Ok(()) => is_at(&file, part),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A directory with image files, whose names are their keys, and a cache.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn copy(&self, name: &str, limit: u64) -> io::Result<PathBuf> {
            let path = self.path(name);
            let size = fs::metadata(&path)?.len();
            copy(self.0.path(), limit, &Source { path: &path, key: name.to_owned(), size })
        }

        /// The names of whole copies, and of all other files but the lock.
        fn names(&self) -> (Vec<String>, Vec<String>) {
            let all = fs::read_dir(unpack::cache(self.0.path())).unwrap();
            let mut all: Vec<_> =
                all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            all.retain(|name| name != ".lock");
            all.sort();
            all.into_iter().partition(|name| name.ends_with(".sqfs"))
        }
    }

    fn age(path: &Path, seconds: u64) {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let place = Place::new();
        for (name, seconds) in [("a", 30), ("b", 10), ("c", 20)] {
            fs::write(place.path(name), [1; 100]).unwrap();
            let _ = place.copy(name, 1000).unwrap();
            age(&unpack::cache(place.0.path()).join(format!(".{name}.used")), seconds);
        }
        // A killed writer's file holds no room.
        fs::write(unpack::cache(place.0.path()).join(".e.part"), [0; 900]).unwrap();
        fs::write(place.path("d"), [4; 100]).unwrap();
        let copy = place.copy("d", 300).unwrap();
        assert_eq!(fs::read(copy).unwrap(), [4; 100]);
        let (copies, others) = place.names();
        assert_eq!(copies, ["b.sqfs", "c.sqfs", "d.sqfs"]);
        assert_eq!(others, [".b.used", ".c.used", ".d.used"]);
        let error = place.copy("a", 99).unwrap_err();
        assert!(error.to_string().contains("node_cache_size"), "{error}");
    }

    #[test]
    fn what_is_being_written_counts() {
        let place = Place::new();
        for name in ["a", "b"] {
            fs::write(place.path(name), [1; 100]).unwrap();
        }
        let _ = place.copy("a", 150).unwrap();
        let path = unpack::cache(place.0.path()).join(".x.part");
        let other = File::create(&path).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        other.set_len(100).unwrap();
        let error = place.copy("b", 150).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        // Nothing goes for what does not fit anyway.
        assert_eq!(place.names().0, ["a.sqfs"]);
        let _ = place.copy("b", 200).unwrap();
        assert_eq!(place.names().0, ["b.sqfs"]);
        drop(other);
        let _ = place.copy("a", 200).unwrap();
        assert_eq!(place.names().0, ["a.sqfs", "b.sqfs"]);
    }

    /// Many at once, each over the limit with any other three.
    #[test]
    fn no_more_than_the_limit_is_there_at_any_time() {
        let place = Place::new();
        let names: Vec<String> = (0..8).map(|n| format!("image{n}")).collect();
        for name in &names {
            fs::write(place.path(name), vec![7; 3 << 20]).unwrap();
        }
        let limit = 10 << 20;
        let total = || {
            let all = fs::read_dir(unpack::cache(place.0.path())).into_iter().flatten();
            let sizes = all.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
            sizes.sum::<u64>()
        };
        let place = &place;
        std::thread::scope(|scope| {
            for name in names.iter().chain(&names) {
                scope.spawn(move || match place.copy(name, limit) {
                    // Another one may have had it removed by now.
                    Ok(copy) => assert!(copy.ends_with(format!("{name}.sqfs"))),
                    Err(e) => assert_eq!(e.kind(), io::ErrorKind::StorageFull, "{e}"),
                });
            }
            for _ in 0..1000 {
                let lock = unpack::cache(place.0.path()).join(".lock");
                let Ok(lock) = File::open(lock) else { continue };
                flock(&lock, FlockOperation::LockExclusive).unwrap();
                assert!(total() <= limit);
            }
        });
        assert!(place.names().1.iter().all(|name| name.ends_with(".used")), "{:?}", place.names());
    }

    #[test]
    fn a_damaged_copy_is_made_anew_and_use_does_not_change_a_good_one() {
        let place = Place::new();
        fs::write(place.path("a"), [1; 5000]).unwrap();
        let copy = place.copy("a", 10_000).unwrap();
        let state = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            (meta.ino(), meta.ctime(), meta.ctime_nsec())
        };
        let before = state(&copy);
        let _ = place.copy("a", 10_000).unwrap();
        assert_eq!(state(&copy), before);
        File::options().write(true).open(&copy).unwrap().set_len(4096).unwrap();
        let _ = place.copy("a", 10_000).unwrap();
        assert_eq!(fs::read(copy).unwrap(), [1; 5000]);
    }

    #[test]
    fn files_of_a_local_disk_stay_where_they_are() {
        let place = Place::new();
        fs::write(place.path("a.sif"), [1; 5000]).unwrap();
        let part = |offset| ImagePart { path: place.path("a.sif"), offset };
        let parts = [part(0), part(4096)];
        let copies = |local| copies(place.0.path(), 10_000, &parts, None, &|_: &Path| local);
        assert_eq!(copies(true).unwrap(), None);
        let copied = copies(false).unwrap().unwrap();
        assert_eq!((copied[0].offset, copied[1].offset), (0, 4096));
        assert!(copied[0].path == copied[1].path && copied[0].path != parts[0].path);
        // Another file of that name is another image.
        fs::write(place.path("b"), [2; 5000]).unwrap();
        fs::rename(place.path("b"), place.path("a.sif")).unwrap();
        assert_ne!(copies(false).unwrap().unwrap()[0].path, copied[0].path);
        discard(place.0.path(), &copied);
        discard(place.0.path(), &parts);
        assert!(!copied[0].path.exists() && parts[0].path.exists());
    }
}
