//! Locks without flock: files made exclusively, and watched. The protocol is
//! described in the crate's documentation.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::full_or;
use crate::files::{self, Root};
use crate::owner::{Liveness, Owner};
use crate::{Error, ImageId, Result};

/// Owners are a few hundred bytes.
const LONGEST_OWNER: u64 = 64 << 10;

/// A lock file as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub path: PathBuf,
    generation: u32,
    /// None when the content is damaged or not yet written.
    pub owner: Option<Owner>,
    /// Seconds and nanoseconds.
    mtime: (i64, i64),
    inode: u64,
}

/// What stays the same while a lock file is the same one.
type Key = (u32, u64, String);

impl Seen {
    fn key(&self) -> Key {
        let token = self.owner.as_ref().map(|owner| owner.token.clone()).unwrap_or_default();
        (self.generation, self.inode, token)
    }

    pub(crate) fn liveness(&self, here: &Owner) -> Liveness {
        self.owner.as_ref().map_or(Liveness::Unknown, |owner| owner.liveness(here))
    }
}

/// Reads an owner file and its modification time through one descriptor:
/// opening makes NFS ask the server instead of its cache.
pub(crate) fn read_owner(path: &Path) -> Result<Option<(Option<Owner>, fs::Metadata)>> {
    let read = || -> io::Result<_> {
        let file = files::open(path)?;
        let meta = file.metadata()?;
        let owner = match files::read_open(&file, LONGEST_OWNER) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok(),
            Err(e) if files::is_damage(&e) => None,
            Err(e) => return Err(e),
        };
        Ok((owner, meta))
    };
    match read() {
        Ok(found) => Ok(Some(found)),
        // ESTALE (116): removed on another NFS client since it was opened.
        Err(e) if files::is_absent(&e) || e.kind() == io::ErrorKind::StaleNetworkFileHandle => {
            Ok(None)
        }
        Err(source) => Err(Error::ReadFile { path: path.to_owned(), source }),
    }
}

/// The locks of one image, or of every image, lowest generation first.
pub(crate) fn list(root: &Root, of: Option<&ImageId>) -> Result<Vec<(ImageId, Seen)>> {
    let mut found = Vec::new();
    for (name, path) in files::list(&root.join("locks"))? {
        let Some((hex, generation)) = name.split_once('.') else { continue };
        if of.is_some_and(|id| id.hex() != hex) {
            continue;
        }
        let (Some(id), Ok(generation)) = (ImageId::from_hex(hex), generation.parse()) else {
            continue;
        };
        let Some((owner, meta)) = read_owner(&path)? else { continue };
        let mtime = (meta.mtime(), meta.mtime_nsec());
        found.push((id, Seen { path, generation, owner, mtime, inode: meta.ino() }));
    }
    found.sort_by_key(|(_, seen)| seen.generation);
    Ok(found)
}

/// What one waiter has seen so far.
pub(crate) struct Watch {
    here: Owner,
    patience: Duration,
    dead: HashSet<Key>,
    still: Vec<(Key, (i64, i64), Instant)>,
}

impl Watch {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { here: Owner::current(), patience, dead: HashSet::new(), still: Vec::new() }
    }

    fn is_dead(&mut self, seen: &Seen) -> bool {
        let key = seen.key();
        if self.dead.contains(&key) {
            return true;
        }
        let dead = match seen.liveness(&self.here) {
            Liveness::Alive => false,
            Liveness::Dead => true,
            Liveness::Unknown => self.unchanged(&key, seen.mtime),
        };
        if dead {
            self.dead.insert(key);
        }
        dead
    }

    fn unchanged(&mut self, key: &Key, mtime: (i64, i64)) -> bool {
        let now = Instant::now();
        match self.still.iter_mut().find(|(known, ..)| known == key) {
            Some((_, last, since)) if *last == mtime => now.duration_since(*since) >= self.patience,
            Some((_, last, since)) => {
                (*last, *since) = (mtime, now);
                false
            }
            None => {
                self.still.push((key.clone(), mtime, now));
                false
            }
        }
    }
}

/// The outcome of one try.
pub(crate) enum Try {
    Acquired(Lock),
    /// Held by this owner; None when it cannot be read, or several contend.
    Held(Option<Owner>),
}

/// A held lock; given back on drop.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    owner: Owner,
    beat: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Tries once to take the lock of `id`.
pub(crate) fn try_acquire(
    root: &Root,
    id: &ImageId,
    watch: &mut Watch,
    heartbeat: Duration,
) -> Result<Try> {
    let mut newest = 0u32;
    for (_, seen) in list(root, Some(id))? {
        newest = newest.max(seen.generation);
        if !watch.is_dead(&seen) {
            return Ok(Try::Held(seen.owner));
        }
    }
    // A generation that high was not made by counting: start over below it.
    let generation = newest.checked_add(1).unwrap_or(1);
    let Some(lock) = create(root, id, generation, heartbeat)? else { return Ok(Try::Held(None)) };
    // Whoever made another generation since this one's list has either been
    // seen now, or will see this one.
    let mut dead = Vec::new();
    for (_, seen) in list(root, Some(id))? {
        if seen.path == lock.path {
            continue;
        }
        if !watch.is_dead(&seen) {
            return Ok(Try::Held(seen.owner));
        }
        dead.push(seen);
    }
    for seen in dead {
        remove_temporary(&seen.path)?;
        // Another machine's holder may be asleep and still finish its work.
        if let Some(owner) = &seen.owner
            && seen.liveness(&watch.here) == Liveness::Dead
        {
            clear_temporaries(root, owner)?;
        }
    }
    Ok(Try::Acquired(lock))
}

/// Removes what a dead process left in `tmp`.
fn clear_temporaries(root: &Root, owner: &Owner) -> Result<()> {
    let prefix = owner.process_prefix();
    for (name, path) in files::list(&root.join("tmp"))? {
        if name.starts_with(&prefix) {
            remove_temporary(&path)?;
        }
    }
    Ok(())
}

/// Removes a file or a directory in `tmp`.
pub(crate) fn remove_temporary(path: &Path) -> Result<()> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    if !is_dir {
        return files::remove(path).map(|_| ());
    }
    match fs::remove_dir_all(path) {
        Err(e) if !files::is_absent(&e) => Err(Error::Remove { path: path.to_owned(), source: e }),
        _ => Ok(()),
    }
}

/// Makes the lock file of one generation; None when somebody else has.
fn create(root: &Root, id: &ImageId, generation: u32, heartbeat: Duration) -> Result<Option<Lock>> {
    let path = root.ensure("locks")?.join(format!("{}.{generation}", id.hex()));
    let owner = Owner::current();
    let bytes = serde_json::to_vec(&owner)
        .map_err(|source| Error::Encode { path: path.clone(), source })?;
    let (file, temp) = root.temp_file(&owner, "lock")?;
    let linked = files::fill(&file, &temp, &bytes).and_then(|()| link(&file, &temp, &path));
    let _ = fs::remove_file(&temp);
    let file = match linked? {
        Linked::Made => file,
        Linked::Taken => return Ok(None),
        Linked::Unsupported => match exclusive(root, &path, &bytes)? {
            Some(file) => file,
            None => return Ok(None),
        },
    };
    let mut lock = Lock { path, owner, beat: None };
    lock.start(file, heartbeat)?;
    Ok(Some(lock))
}

enum Linked {
    Made,
    Taken,
    Unsupported,
}

fn link(file: &File, temp: &Path, path: &Path) -> Result<Linked> {
    let error = match fs::hard_link(temp, path) {
        Ok(()) => return Ok(Linked::Made),
        Err(e) => e,
    };
    // An NFS server's answer may be lost and the request sent again: then the
    // link is there though the second answer says that it exists (open(2),
    // O_EXCL).
    if file.metadata().is_ok_and(|meta| meta.nlink() == 2) {
        return Ok(Linked::Made);
    }
    use rustix::io::Errno;
    match Errno::from_io_error(&error) {
        Some(Errno::EXIST) => Ok(Linked::Taken),
        Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK | Errno::XDEV) => {
            Ok(Linked::Unsupported)
        }
        _ => Err(full_or(path, error, |path, source| Error::Lock { path, source })),
    }
}

/// Where there are no hard links. A reader may see the file before its
/// content, and then waits as for a lock of another machine.
fn exclusive(root: &Root, path: &Path, bytes: &[u8]) -> Result<Option<File>> {
    let file = match root.create(path) {
        Ok(file) => file,
        Err(Error::CreateFile { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    match files::fill(&file, path, bytes) {
        Ok(()) => Ok(Some(file)),
        Err(e) => {
            let _ = fs::remove_file(path);
            Err(e)
        }
    }
}

impl Lock {
    /// The process and token that hold it.
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Touches the file until the lock is dropped.
    fn start(&mut self, file: File, every: Duration) -> Result<()> {
        let (stop, stopped) = mpsc::channel();
        let beat = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                // A file that was taken over is gone, and so is the need.
                let _ = files::touch(&file);
            }
        };
        let thread = std::thread::Builder::new()
            .name("store-heartbeat".to_owned())
            .spawn(beat)
            .map_err(|source| Error::Heartbeat { path: self.path.clone(), source })?;
        self.beat = Some((stop, thread));
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.beat.take() {
            drop(stop);
            let _ = thread.join();
        }
        // Another's lock can have this name once this one was taken over.
        let own = matches!(read_owner(&self.path),
            Ok(Some((Some(owner), _))) if owner.token == self.owner.token);
        if own {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root, ImageId) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path().join("store"));
        (dir, root, format!("sha256:{}", "ab".repeat(32)).parse().unwrap())
    }

    fn attempt(root: &Root, id: &ImageId, watch: &mut Watch) -> Try {
        try_acquire(root, id, watch, Duration::from_secs(5)).unwrap()
    }

    fn forge(root: &Root, id: &ImageId, generation: u32, change: fn(&mut Owner)) -> PathBuf {
        let mut owner = Owner::current();
        change(&mut owner);
        let path = root.ensure("locks").unwrap().join(format!("{}.{generation}", id.hex()));
        fs::write(&path, serde_json::to_vec(&owner).unwrap()).unwrap();
        path
    }

    #[test]
    fn one_holder_and_release_on_drop() {
        let (_dir, root, id) = root();
        let mut watch = Watch::new(Duration::ZERO);
        let Try::Acquired(lock) = attempt(&root, &id, &mut watch) else { panic!("not acquired") };
        let Try::Held(Some(owner)) = attempt(&root, &id, &mut watch) else { panic!("acquired") };
        assert_eq!(owner.token, lock.owner().token);
        drop(lock);
        assert!(matches!(attempt(&root, &id, &mut watch), Try::Acquired(_)));
        assert_eq!(files::list(&root.join("locks")).unwrap(), []);
        assert_eq!(files::list(&root.join("tmp")).unwrap(), []);
    }

    #[test]
    fn a_dead_holder_of_this_machine_is_replaced_at_once() {
        let (_dir, root, id) = root();
        let old = forge(&root, &id, 7, |o| o.pid_start_time += 1);
        let mut watch = Watch::new(Duration::from_secs(3600));
        let Try::Acquired(lock) = attempt(&root, &id, &mut watch) else { panic!("not acquired") };
        assert!(lock.path.to_string_lossy().ends_with(".8") && !old.exists());
    }

    #[test]
    fn another_machines_holder_is_watched_on_the_own_clock() {
        let (_dir, root, id) = root();
        for change in [
            (|o: &mut Owner| o.host.push('x')) as fn(&mut Owner),
            |o| o.pid_ns += 1,
            |o| o.boot_id.clear(),
        ] {
            let path = forge(&root, &id, 1, change);
            // Long dead by its own time, which must not matter.
            File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            let mut watch = Watch::new(Duration::from_secs(3600));
            assert!(matches!(attempt(&root, &id, &mut watch), Try::Held(Some(_))));
            assert!(matches!(attempt(&root, &id, &mut watch), Try::Held(Some(_))));
            // Once patience is over, but it was touched: watched anew.
            watch.patience = Duration::ZERO;
            touch_path(&path);
            assert!(matches!(attempt(&root, &id, &mut watch), Try::Held(Some(_))));
            assert!(matches!(attempt(&root, &id, &mut watch), Try::Acquired(_)));
            assert!(!path.exists());
        }
    }

    fn touch_path(path: &Path) {
        files::touch(&File::options().write(true).open(path).unwrap()).unwrap();
    }

    #[test]
    fn a_live_lock_of_another_generation_makes_the_newcomer_give_way() {
        let (_dir, root, id) = root();
        let mut watch = Watch::new(Duration::from_secs(3600));
        let Try::Acquired(lock) = attempt(&root, &id, &mut watch) else { panic!("not acquired") };
        // As if the newcomer had listed before that lock was made.
        let other = create(&root, &id, 9, Duration::from_secs(5)).unwrap().unwrap();
        assert!(matches!(attempt(&root, &id, &mut watch), Try::Held(Some(_))));
        drop((lock, other));
        assert_eq!(files::list(&root.join("locks")).unwrap(), []);
    }

    #[test]
    fn a_lock_that_was_taken_over_is_not_given_back_by_its_former_holder() {
        let (_dir, root, id) = root();
        let lock = create(&root, &id, 1, Duration::from_secs(5)).unwrap().unwrap();
        fs::remove_file(&lock.path).unwrap();
        let other = forge(&root, &id, 1, |_| ());
        drop(lock);
        assert!(other.exists());
    }

    #[test]
    fn a_damaged_lock_is_waited_for_and_then_replaced() {
        let (_dir, root, id) = root();
        let path = root.ensure("locks").unwrap().join(format!("{}.4294967295", id.hex()));
        fs::write(&path, b"").unwrap();
        let mut watch = Watch::new(Duration::ZERO);
        assert!(matches!(attempt(&root, &id, &mut watch), Try::Held(None)));
        assert!(matches!(attempt(&root, &id, &mut watch), Try::Acquired(_)));
        assert!(!path.exists());
    }

    #[test]
    fn the_heartbeat_moves_the_modification_time() {
        let (_dir, root, id) = root();
        let lock = create(&root, &id, 1, Duration::from_millis(1)).unwrap().unwrap();
        let first = fs::metadata(&lock.path).unwrap().modified().unwrap();
        // Ends when the heart beats; the runner's own limit is the other end.
        while fs::metadata(&lock.path).unwrap().modified().unwrap() == first {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn without_hard_links_exclusive_creation_decides() {
        let (_dir, root, id) = root();
        let path = root.ensure("locks").unwrap().join(format!("{}.1", id.hex()));
        assert!(exclusive(&root, &path, b"{}").unwrap().is_some());
        assert!(exclusive(&root, &path, b"{}").unwrap().is_none());
    }
}
