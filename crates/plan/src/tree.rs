//! What the image holds, as far as a plan has to know it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// What an entry of the image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A symbolic link and what it says.
    Symlink(PathBuf),
    /// A regular file.
    File,
    /// Anything else.
    Other,
}

/// An entry of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
}

/// Why the image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// An entry could not be read.
    #[error("cannot read {path:?} of the image")]
    Read {
        /// Path in the image.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More than forty symbolic links, as path_resolution(7) allows.
    #[error("too many symbolic links on the way to {0:?} in the image")]
    Loop(PathBuf),
}

/// The image's tree. Paths given are absolute and normal; no implementation
/// follows a symbolic link in the last component, and none is ever given a
/// path with one before it.
pub trait RootTree {
    /// The entry at a path, or None.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError>;

    /// The first `limit` bytes of a regular file, or None.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TreeError>;
}

/// A tree that can be searched, as host integrations do. Paths are those of
/// [`RootTree`].
pub trait SearchTree: RootTree {
    /// At most `limit` bytes of a regular file from an offset on, fewer at its
    /// end, or None.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn read_at(&self, path: &Path, offset: u64, limit: usize)
    -> Result<Option<Vec<u8>>, TreeError>;

    /// The names in a directory, without order; none where there is none.
    ///
    /// # Errors
    /// When the image cannot be read.
    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError>;
}

const MAX_LINKS: usize = 40;

/// Follows the symbolic links of the image, never out of it. The path that
/// comes back has none; the parts that do not exist are kept as they are.
///
/// # Errors
/// When the image cannot be read, or its links go round in circles.
pub fn resolve(tree: &dyn RootTree, path: &Path) -> Result<(PathBuf, Option<Entry>), TreeError> {
    let mut todo: Vec<OsString> = words(path);
    let mut done = PathBuf::from("/");
    let mut links = 0;
    let mut found = Some(Entry { kind: EntryKind::Directory, mode: 0o755 });
    while let Some(word) = todo.pop() {
        if word == ".." {
            done.pop();
            found = tree.entry(&done)?;
            continue;
        }
        done.push(&word);
        if found.is_none() {
            continue;
        }
        found = tree.entry(&done)?;
        if let Some(Entry { kind: EntryKind::Symlink(to), .. }) = &found {
            links += 1;
            if links > MAX_LINKS {
                return Err(TreeError::Loop(path.to_owned()));
            }
            done.pop();
            if to.is_absolute() {
                done = PathBuf::from("/");
            }
            todo.extend(words(to));
            found = Some(Entry { kind: EntryKind::Directory, mode: 0o755 });
        }
    }
    if done == Path::new("/") {
        found = tree.entry(&done)?.or(found);
    }
    Ok((done, found))
}

/// The path's words, last first, `.` dropped.
fn words(path: &Path) -> Vec<OsString> {
    let word = |c: Component<'_>| match c {
        Component::Normal(word) => Some(word.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        _ => None,
    };
    let mut words: Vec<_> = path.components().filter_map(word).collect();
    words.reverse();
    words
}

#[cfg(test)]
pub(crate) mod fake {
    //! An image in memory.

    use std::collections::BTreeMap;

    use super::*;

    /// Directories end in `/`, links hold ` -> `, the rest are files with contents.
    #[derive(Default)]
    pub(crate) struct FakeTree(pub BTreeMap<PathBuf, (EntryKind, Vec<u8>)>);

    impl FakeTree {
        pub(crate) fn new(lines: &[&str]) -> Self {
            let mut map = BTreeMap::new();
            map.insert("/".into(), (EntryKind::Directory, vec![]));
            for line in lines {
                if let Some((path, to)) = line.split_once(" -> ") {
                    map.insert(path.into(), (EntryKind::Symlink(to.into()), vec![]));
                } else if let Some((path, text)) = line.split_once('=') {
                    map.insert(path.into(), (EntryKind::File, text.into()));
                } else {
                    map.insert(line.trim_end_matches('/').into(), (EntryKind::Directory, vec![]));
                }
            }
            Self(map)
        }
    }

    impl RootTree for FakeTree {
        fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
            Ok(self.0.get(path).map(|(kind, _)| Entry { kind: kind.clone(), mode: 0o755 }))
        }
        fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TreeError> {
            Ok(self.0.get(path).map(|(_, bytes)| bytes[..bytes.len().min(limit)].to_vec()))
        }
    }

    #[test]
    fn links_stay_inside() {
        let tree = FakeTree::new(&[
            "/usr/",
            "/usr/lib/",
            "/lib -> usr/lib",
            "/up -> ../../../../usr",
            "/a -> /b",
            "/b -> a",
        ]);
        let at = |p: &str| resolve(&tree, Path::new(p)).map(|(p, e)| (p, e.is_some()));
        assert_eq!(at("/lib/x").unwrap(), ("/usr/lib/x".into(), false));
        assert_eq!(at("/up/lib").unwrap(), ("/usr/lib".into(), true));
        assert_eq!(at("/no/../x").unwrap().0, PathBuf::from("/x"));
        assert!(matches!(at("/a/c"), Err(TreeError::Loop(_))));
        assert_eq!(at("/").unwrap(), ("/".into(), true));
    }
}
