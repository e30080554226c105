//! Copies of images on a disk of this node.
//!
//! Where the store is on a file system that all nodes share, a site may have
//! each node copy an image once, and serve it from there:
//!
//! ```text
//! NODE_CACHE/sampan-UID/HEX.sqfs      a whole copy; its time of change is that of its last use
//! NODE_CACHE/sampan-UID/.HEX.PID      one that is being written
//! NODE_CACHE/sampan-UID/.HEX.lock     who writes it holds this (flock(2): the disk is local)
//! ```
//!
//! A killed writer leaves a file with a point, which goes after a day. What was
//! used longest ago goes when there is no room; a server that has a copy open
//! goes on serving it. Whatever fails, the image in the store is as good.

use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use store::StoredImage;

use crate::unpack;

/// Temporary files older than this belong to nobody.
const STALE: Duration = Duration::from_secs(86_400);

/// The copy of an image, made if there is none.
pub(crate) fn copy(cache: &Path, limit: u64, image: &StoredImage) -> io::Result<PathBuf> {
    let dir = unpack::own_directory(&unpack::cache(cache)).map_err(io::Error::other)?;
    let hex = image.id.hex().to_owned();
    let place = dir.join(format!("{hex}.sqfs"));
    if used(&place)? {
        return Ok(place);
    }
    let size = fs::metadata(&image.path)?.len();
    if size > limit {
        let text = format!("the image's {size} bytes are more than node_cache_size");
        return Err(io::Error::new(io::ErrorKind::StorageFull, text));
    }
    let lock_path = dir.join(format!(".{hex}.lock"));
    let lock = File::options().create(true).truncate(false).write(true).open(&lock_path)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    // Another one may have made it while this one waited.
    if !used(&place)? {
        make_room(&dir, limit - size)?;
        let temporary = dir.join(format!(".{hex}.{}", std::process::id()));
        let made =
            write(&image.path, &temporary, size).and_then(|()| fs::rename(&temporary, &place));
        if made.is_err() {
            // The error that counts is the first.
            let _ = fs::remove_file(&temporary);
        }
        made?;
    }
    let _ = fs::remove_file(&lock_path);
    Ok(place)
}

/// Whether a copy is there; its time of use is now.
fn used(place: &Path) -> io::Result<bool> {
    match File::open(place) {
        Ok(file) => {
            // A copy whose time cannot be set goes earlier than it should.
            let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn write(from: &Path, to: &Path, size: u64) -> io::Result<()> {
    let copied = io::copy(&mut File::open(from)?, &mut File::create(to)?)?;
    if copied == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Removes what was used longest ago until no more than `limit` bytes are left.
fn make_room(dir: &Path, limit: u64) -> io::Result<()> {
    let mut copies = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(meta) = entry.metadata() else { continue };
        let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && meta.is_file() {
            if used.elapsed().is_ok_and(|age| age > STALE) {
                let _ = fs::remove_file(entry.path());
            }
        } else if name.ends_with(".sqfs") {
            copies.push((used, meta.len(), entry.path()));
        }
    }
    copies.sort();
    let mut total: u64 = copies.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in copies {
        if total <= limit {
            break;
        }
        fs::remove_file(path)?;
        total -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, age: u64| {
            let path = dir.path().join(name);
            fs::write(&path, [0; 100]).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        write("a.sqfs", 30);
        write("b.sqfs", 10);
        write("c.sqfs", 20);
        write(".d.17", 90_000);
        write(".e.18", 10);
        write("other", 50);
        make_room(dir.path(), 200).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".e.18", "b.sqfs", "c.sqfs", "other"]);
        make_room(dir.path(), 100).unwrap();
        assert!(!dir.path().join("c.sqfs").exists());
    }
}
