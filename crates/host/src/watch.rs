//! What an answer about the host was made from, so that it can be kept.
//!
//! A [`WatchedTree`] passes everything on to a directory and notes the state of
//! each path that it was asked for, those that are not there among them. While
//! [`unchanged`] finds all of them as they were, whoever asks the same again
//! gets the same answer: one lstat(2) for each path in place of reading files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use plan::{Entry, RootTree, SearchTree, TreeError};
use serde::{Deserialize, Serialize};

use crate::DirectoryTree;

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

/// Paths and their states.
pub type Stamps = BTreeMap<PathBuf, Stamp>;

/// A directory's tree that notes what is asked of it.
pub struct WatchedTree<'a> {
    tree: &'a DirectoryTree,
    seen: RefCell<Stamps>,
}

impl<'a> WatchedTree<'a> {
    /// Watches a tree.
    #[must_use]
    pub fn new(tree: &'a DirectoryTree) -> Self {
        Self { tree, seen: RefCell::default() }
    }

    /// What was asked for, as it was before it was read.
    #[must_use]
    pub fn into_stamps(self) -> Stamps {
        self.seen.into_inner()
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
