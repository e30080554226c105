//! What an answer about the host was made from, so that it can be kept.
//!
//! A [`WatchedTree`] passes everything on to a directory and notes the state of
//! each path that it was asked for, those that are not there among them. While
//! [`unchanged`] finds all of them as they were, whoever asks the same again
//! gets the same answer: one lstat(2) for each path in place of reading files.
//!
//! Names that are not there, and symbolic links, cannot change without the time of
//! their directory (inode(7)). Where that was asked for as well, and had been at rest
//! when the watch began, it stands for them: half of all paths are names of libraries
//! in directories that have none.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use plan::{Entry, RootTree, SearchTree, TreeError};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::DirectoryTree;

/// How long a directory has been as it is, at least, that stands for its names: more than
/// clocks of file servers differ, and than one tick of a clock.
const REST: Duration = Duration::from_secs(60);
/// Their directories do not have the time at which their names have changed.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// What tells whether something at a path is still the same: nothing there, or
/// what stat(2) says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(pub(crate) Option<Identity>);

/// Numbers of stat(2) of which one differs after every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) mode: u32,
    pub(crate) size: i64,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, u64),
    /// Seconds and nanoseconds.
    pub(crate) changed: (i64, u64),
}

impl Stamp {
    fn kind(&self) -> Option<FileType> {
        self.0.map(|identity| FileType::from_raw_mode(identity.mode))
    }

    /// Whether it is a directory whose names were the same before a time.
    fn rested(&self, before: SystemTime) -> bool {
        let seconds = self.0.map(|identity| u64::try_from(identity.modified.0).unwrap_or(u64::MAX));
        let time = seconds.and_then(|s| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)));
        self.kind() == Some(FileType::Directory)
            && time.is_some_and(|time| before.duration_since(time).is_ok_and(|age| age > REST))
    }
}

/// Paths and their states.
pub type Stamps = BTreeMap<PathBuf, Stamp>;

/// A directory's tree that notes what is asked of it.
pub struct WatchedTree<'a> {
    tree: &'a DirectoryTree,
    seen: RefCell<Stamps>,
    start: SystemTime,
}

impl<'a> WatchedTree<'a> {
    /// Watches a tree.
    #[must_use]
    pub fn new(tree: &'a DirectoryTree) -> Self {
        Self { tree, seen: RefCell::default(), start: SystemTime::now() }
    }

    /// What was asked for, as it was before it was read, without what another one of
    /// them stands for.
    #[must_use]
    pub fn into_stamps(self) -> Stamps {
        let mut seen = self.seen.into_inner();
        let rested = |dir: &&Path| seen.get(*dir).is_some_and(|stamp| stamp.rested(self.start));
        let stood_for = |(path, stamp): (&PathBuf, &Stamp)| {
            let name = matches!(stamp.kind(), None | Some(FileType::Symlink));
            let kernel = KERNEL.iter().any(|place| path.starts_with(place));
            (name && !kernel && path.parent().as_ref().is_some_and(rested)).then(|| path.clone())
        };
        let gone: Vec<PathBuf> = seen.iter().filter_map(stood_for).collect();
        seen.retain(|path, _| gone.binary_search(path).is_err());
        seen
    }

    fn note(&self, path: &Path) {
        let mut seen = self.seen.borrow_mut();
        if !seen.contains_key(path) {
            seen.insert(path.to_owned(), self.tree.stamp(path));
        }
    }
}

/// Whether everything is as it was.
#[must_use]
pub fn unchanged(tree: &DirectoryTree, stamps: &Stamps) -> bool {
    stamps.iter().all(|(path, stamp)| tree.stamp(path) == *stamp)
}

impl RootTree for WatchedTree<'_> {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        self.note(path);
        self.tree.entry(path)
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TreeError> {
        self.note(path);
        self.tree.read(path, limit)
    }
}

impl SearchTree for WatchedTree<'_> {
    fn read_at(
        &self,
        path: &Path,
        offset: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        self.note(path);
        self.tree.read_at(path, offset, limit)
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        self.note(path);
        self.tree.names(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Makes a directory seem to have been at rest for a time.
    fn rest(dir: &Path, time: Duration) {
        fs::File::open(dir).unwrap().set_modified(SystemTime::now() - time).unwrap();
    }

    #[test]
    fn a_directory_at_rest_stands_for_names_and_links() {
        let changes: [fn(&Path); 3] = [
            |lib| fs::write(lib.join("absent"), "").unwrap(),
            |lib| fs::remove_file(lib.join("link")).unwrap(),
            |lib| {
                symlink("b", lib.join("new")).unwrap();
                fs::rename(lib.join("new"), lib.join("link")).unwrap();
            },
        ];
        for (age, asked, expected) in [(2, true, 2), (0, true, 4), (2, false, 3)] {
            for (number, change) in changes.iter().enumerate() {
                let dir = tempfile::tempdir().unwrap();
                let lib = dir.path().join("lib");
                fs::create_dir(&lib).unwrap();
                fs::write(lib.join("a"), "a").unwrap();
                symlink("a", lib.join("link")).unwrap();
                rest(&lib, REST * age);
                let tree = DirectoryTree::open(dir.path()).unwrap();
                let watched = WatchedTree::new(&tree);
                for name in ["a", "link", "absent"] {
                    let _ = watched.entry(&Path::new("/lib").join(name)).unwrap();
                }
                if asked {
                    let _ = watched.names(Path::new("/lib")).unwrap();
                }
                let stamps = watched.into_stamps();
                assert_eq!(stamps.len(), expected, "{stamps:?}");
                assert!(unchanged(&tree, &stamps));
                change(&lib);
                assert!(!unchanged(&tree, &stamps), "change {number}, {age} times the rest");
            }
        }
    }

    #[test]
    fn directories_of_the_kernel_stand_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let driver = dir.path().join("proc/driver");
        fs::create_dir_all(&driver).unwrap();
        rest(&driver, 2 * REST);
        let tree = DirectoryTree::open(dir.path()).unwrap();
        let watched = WatchedTree::new(&tree);
        let _ = watched.names(Path::new("/proc/driver")).unwrap();
        let _ = watched.entry(Path::new("/proc/driver/nvidia")).unwrap();
        assert_eq!(watched.into_stamps().len(), 2);
    }

    #[test]
    fn every_change_of_what_was_asked_for_is_seen() {
        let changes: [fn(&Path); 6] = [
            |root| fs::write(root.join("lib/a"), "other").unwrap(),
            |root| fs::write(root.join("lib/new"), "").unwrap(),
            |root| fs::write(root.join("absent"), "").unwrap(),
            |root| {
                fs::remove_file(root.join("link")).unwrap();
                symlink("lib/b", root.join("link")).unwrap();
            },
            |root| fs::remove_file(root.join("lib/a")).unwrap(),
            // The same bytes, another file.
            |root| {
                fs::write(root.join("copy"), "a").unwrap();
                fs::rename(root.join("copy"), root.join("lib/a")).unwrap();
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path();
            fs::create_dir(root.join("lib")).unwrap();
            fs::write(root.join("lib/a"), "a").unwrap();
            symlink("lib/a", root.join("link")).unwrap();
            let tree = DirectoryTree::open(root).unwrap();
            let watched = WatchedTree::new(&tree);
            assert_eq!(watched.names(Path::new("/lib")).unwrap(), ["a"]);
            assert_eq!(watched.read(Path::new("/lib/a"), 9).unwrap().unwrap(), b"a");
            assert!(watched.entry(Path::new("/link")).unwrap().is_some());
            assert!(watched.entry(Path::new("/absent")).unwrap().is_none());
            let stamps = watched.into_stamps();
            assert_eq!(stamps.len(), 4);
            assert!(unchanged(&tree, &stamps));
            fs::write(root.join("unasked"), "").unwrap();
            assert!(unchanged(&tree, &stamps));
            change(root);
            assert!(!unchanged(&tree, &stamps), "change {number}");
        }
    }
}
