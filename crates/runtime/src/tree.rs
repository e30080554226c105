//! What an image in squashfs files holds, for the plan.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use plan::{Entry, EntryKind, RootTree, SearchTree, TreeError};
use squashfs::{Image, Inode, InodeKind};

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    path: &Path,
) -> impl Fn(E) -> TreeError {
    move |source| TreeError::Read { path: path.to_owned(), source: source.into() }
}

/// A root file system in squashfs images, those above the first being layers
/// in the form of overlayfs.
pub struct ImageTree {
    /// Top first.
    images: Vec<Arc<Image>>,
}

/// An entry, in the image that has it.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) image: Arc<Image>,
    pub(crate) inode: Arc<Inode>,
}

impl ImageTree {
    /// The tree of images, bottom first.
    #[must_use]
    pub fn new(mut images: Vec<Arc<Image>>) -> Self {
        images.reverse();
        Self { images }
    }

    pub(crate) fn find(&self, path: &Path) -> Result<Option<Found>, squashfs::Error> {
        Ok(self.all(path)?.into_iter().next())
    }

    /// All that is at a path, top first: more than one are directories.
    fn all(&self, path: &Path) -> Result<Vec<Found>, squashfs::Error> {
        let root = |image: &Arc<Image>| {
            Ok(Found { image: Arc::clone(image), inode: image.inode(image.root())? })
        };
        let mut found: Vec<Found> = self.images.iter().map(root).collect::<Result<_, _>>()?;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            found = below(&found, name.as_bytes())?;
        }
        Ok(found)
    }
}

/// What an entry of an image is, and all that is said of it.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its inode, of the image that has it.
    pub inode: Arc<Inode>,
    /// Full names and values of its extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Which image that is, and so whether two names are of one file.
    pub layer: usize,
}

impl ImageTree {
    /// What is at a path, which has no symbolic link before its last word.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn info(&self, path: &Path) -> Result<Option<Info>, TreeError> {
        let Some(Found { image, inode }) = self.find(path).map_err(failed(path))? else {
            return Ok(None);
        };
        let layer = self.images.iter().position(|other| Arc::ptr_eq(other, &image)).unwrap_or(0);
        let xattrs = image.xattrs(&inode).map_err(failed(path))?;
        Ok(Some(Info { inode, xattrs, layer }))
    }

    /// The names in a directory, in their order.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn list(&self, path: &Path) -> Result<Vec<Vec<u8>>, TreeError> {
        let mut names = std::collections::BTreeSet::new();
        let mut gone = std::collections::HashSet::new();
        for Found { image, inode } in self.all(path).map_err(failed(path))? {
            if !matches!(inode.kind, InodeKind::Directory { .. }) {
                break;
            }
            for entry in image.read_dir(&inode, 0).map_err(failed(path))? {
                let entry = entry.map_err(failed(path))?;
                let whiteout = entry.kind == squashfs::EntryKind::CharDevice
                    && image.inode(entry.inode).map_err(failed(path))?.is_whiteout();
                if whiteout {
                    gone.insert(entry.name);
                } else if !gone.contains(&entry.name) {
                    names.insert(entry.name);
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Reads a regular file from a byte on; 0 at its end.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn read_at(&self, info: &Info, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.images[info.layer].read(&info.inode, offset, buffer).map_err(std::io::Error::other)
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// When it is none, or the image cannot be read.
    pub fn link(&self, info: &Info) -> std::io::Result<Vec<u8>> {
        self.images[info.layer].read_link(&info.inode).map_err(std::io::Error::other)
    }
}

/// What lies under a name in directories that overlayfs merges, top first: one
/// entry that is no directory, or directories that are merged in turn.
fn below(dirs: &[Found], name: &[u8]) -> Result<Vec<Found>, squashfs::Error> {
    let mut all = Vec::new();
    for Found { image, inode } in dirs {
        if !matches!(inode.kind, InodeKind::Directory { .. }) {
            break;
        }
        let Some(entry) = image.lookup(inode, name)? else { continue };
        let inode = image.inode(entry.inode)?;
        let directory = matches!(inode.kind, InodeKind::Directory { .. });
        if inode.is_whiteout() || (!directory && !all.is_empty()) {
            break;
        }
        let last = !directory || image.is_opaque(&inode)?;
        all.push(Found { image: Arc::clone(image), inode });
        if last {
            break;
        }
    }
    Ok(all)
}

impl RootTree for ImageTree {
    fn entry(&self, path: &Path) -> Result<Option<Entry>, TreeError> {
        let Some(found) = self.find(path).map_err(failed(path))? else { return Ok(None) };
        let Found { image, inode } = found;
        let kind = match &inode.kind {
            InodeKind::Directory { .. } => EntryKind::Directory,
            InodeKind::File { .. } => EntryKind::File,
            InodeKind::Symlink { .. } => {
                let to = image.read_link(&inode).map_err(failed(path))?;
                EntryKind::Symlink(PathBuf::from(std::ffi::OsStr::from_bytes(&to)))
            }
            _ => EntryKind::Other,
        };
        Ok(Some(Entry { kind, mode: u32::from(inode.mode) & 0o7777 }))
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, TreeError> {
        SearchTree::read_at(self, path, 0, limit)
    }
}

impl SearchTree for ImageTree {
    fn names(&self, path: &Path) -> Result<Vec<OsString>, TreeError> {
        let names = self.list(path)?;
        Ok(names.iter().map(|name| OsStr::from_bytes(name).to_owned()).collect())
    }

    fn read_at(
        &self,
        path: &Path,
        offset: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        let Some(found) = self.find(path).map_err(failed(path))? else { return Ok(None) };
        let Found { image, inode } = found;
        let InodeKind::File { .. } = inode.kind else { return Ok(None) };
        let mut bytes = Vec::new();
        let mut chunk = vec![0; limit.min(1 << 16)];
        while bytes.len() < limit {
            let want = chunk.len().min(limit - bytes.len());
            let at = offset.saturating_add(bytes.len() as u64);
            let got = image.read(&inode, at, &mut chunk[..want]).map_err(failed(path))?;
            if got == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..got]);
        }
        Ok(Some(bytes))
    }
}
