//! The image's tree with additions: what a container needs beside its image, with no
//! file system over it.
//!
//! It is a second tree of the same connection. Its root is the name [`VIEW`] in the
//! image's root directory, which no listing shows: whoever mounts the image binds that.
//! Its files are the image's own nodes, so that the kernel has one cache of their
//! bytes. Its directories are nodes of their own, as the kernel knows one name of a
//! directory only, and tells by the node what is in it.
//!
//! ```text
//! bit 62 of a node   a directory of this tree: the node of the image's is in the others
//! bit 61 with it     an addition, by its number
//! ```

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use squashfs::{Image, Inode, InodeKind};

use crate::libc_mode;
use crate::protocol::Attr;

/// The name that the image's root directory has for the view.
pub const VIEW: &str = "\u{1}view";

const OF_VIEW: u64 = 1 << 62;
const ADDED: u64 = 1 << 61;
/// What is listed after the names of the image begins with this offset.
const LISTED: u64 = 1 << 48;
/// Inode numbers of additions: no image has such ones.
const NUMBERS: u64 = 1 << 32;

/// Something that the image lacks, or that is shown in place of what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// A directory; the image's own, if it has one there, with other mode bits.
    Directory,
    /// A file and its bytes.
    File(Vec<u8>),
    /// A symbolic link and what it says.
    Symlink(Vec<u8>),
}

/// Why there is no such view.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The image cannot be read.
    #[error("cannot find the place of an addition in the image")]
    Image(#[from] squashfs::Error),
    /// An addition lies in no directory.
    #[error("there is no directory for the addition {}", .0.escape_ascii())]
    Parent(Vec<u8>),
}

/// The additions, in their places.
#[derive(Debug)]
pub struct View {
    owner: (u32, u32),
    /// Seconds since the epoch.
    made: u64,
    nodes: Vec<Addition>,
    /// By the node of a directory of the view.
    names: HashMap<u64, BTreeMap<Vec<u8>, usize>>,
    /// Mode bits that directories of the image have here, by their nodes here.
    modes: HashMap<u64, u16>,
}

#[derive(Debug)]
struct Addition {
    what: Added,
    mode: u16,
    /// The inode number of its directory.
    above: u64,
}

/// Which node is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A node of the image, in its own tree or as a file of the view.
    Image(u64),
    /// A directory of the image in the view: its node there is this.
    Directory(u64),
    /// An addition.
    Added(usize),
}

impl Place {
    pub(crate) fn of(node: u64) -> Self {
        match (node & OF_VIEW != 0, node & ADDED != 0) {
            (true, true) => Self::Added((node & !(OF_VIEW | ADDED)) as usize),
            (true, false) => Self::Directory(node & !OF_VIEW),
            (false, _) => Self::Image(node),
        }
    }

    fn node(self) -> u64 {
        match self {
            Self::Image(node) => node,
            Self::Directory(node) => node | OF_VIEW,
            Self::Added(index) => index as u64 | OF_VIEW | ADDED,
        }
    }
}

/// The node that a node of the image has as an entry of a directory of the view.
pub(crate) fn inside(node: u64, directory: bool) -> u64 {
    if directory { Place::Directory(node).node() } else { node }
}

/// The node of the view's root directory.
pub(crate) fn root() -> u64 {
    Place::Directory(1).node()
}

/// The node of the image's own, for whoever notes what is asked of the image; None for
/// an addition.
pub(crate) fn of_image(node: u64) -> Option<u64> {
    match Place::of(node) {
        Place::Image(node) | Place::Directory(node) => Some(node),
        Place::Added(_) => None,
    }
}

impl View {
    /// Puts additions over an image: paths from its root without a leading slash,
    /// permission bits, and what is there. Those above come before those in them, and
    /// no path leads through a symbolic link.
    ///
    /// # Errors
    /// When the image cannot be read, or an addition lies in no directory.
    pub fn new<'a>(
        image: &Image,
        owner: (u32, u32),
        additions: impl IntoIterator<Item = (&'a [u8], u16, Added)>,
    ) -> Result<Self, ViewError> {
        let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (nodes, names, modes) = (Vec::new(), HashMap::new(), HashMap::new());
        let mut view = Self { owner, made, nodes, names, modes };
        for (path, mode, what) in additions {
            let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
                Some(at) => (&path[..at], &path[at + 1..]),
                None => (&b""[..], path),
            };
            let none = || ViewError::Parent(path.to_owned());
            let mut place = Place::Directory(1);
            for part in dir.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
                place = view.step(image, place, part)?.ok_or_else(none)?;
            }
            match (&what, view.step(image, place, name)?) {
                (Added::Directory, Some(there @ Place::Directory(_))) => {
                    view.modes.insert(there.node(), mode);
                }
                (Added::Directory, Some(Place::Added(index))) => view.nodes[index].mode = mode,
                _ => {
                    let above = match place {
                        Place::Added(index) => NUMBERS + index as u64,
                        Place::Directory(node) | Place::Image(node) => {
                            u64::from(image.inode(crate::reference(image, node))?.number)
                        }
                    };
                    let index = view.nodes.len();
                    view.nodes.push(Addition { what, mode, above });
                    view.names.entry(place.node()).or_default().insert(name.to_owned(), index);
                }
            }
        }
        Ok(view)
    }

    /// The directory that a name leads to in a directory of the view.
    fn step(&self, image: &Image, dir: Place, name: &[u8]) -> Result<Option<Place>, ViewError> {
        if let Some(node) = self.named(dir.node(), name) {
            let directory = matches!(self.addition(node), Some((_, Added::Directory)));
            return Ok(directory.then_some(Place::of(node)));
        }
        let Place::Directory(node) = dir else { return Ok(None) };
        let Some(entry) = image.lookup(&*image.inode(crate::reference(image, node))?, name)? else {
            return Ok(None);
        };
        let directory = matches!(image.inode(entry.inode)?.kind, InodeKind::Directory { .. });
        Ok(directory.then(|| Place::Directory(crate::node(image, entry.inode))))
    }

    fn addition(&self, node: u64) -> Option<(usize, &Added)> {
        let Place::Added(index) = Place::of(node) else { return None };
        self.nodes.get(index).map(|addition| (index, &addition.what))
    }

    /// The addition that has a name in a directory.
    pub(crate) fn named(&self, dir: u64, name: &[u8]) -> Option<u64> {
        let index = self.names.get(&dir)?.get(name)?;
        Some(Place::Added(*index).node())
    }

    /// What is listed in a directory after the names of the image, from an offset on:
    /// the offset after it, the name and the node.
    pub(crate) fn listed(
        &self,
        dir: u64,
        offset: u64,
    ) -> impl Iterator<Item = (u64, &[u8], u64)> + '_ {
        let names = self.names.get(&dir).into_iter().flatten();
        let all = (LISTED + 1..).zip(names);
        all.skip(offset.saturating_sub(LISTED) as usize)
            .map(|(next, (name, index))| (next, &name[..], Place::Added(*index).node()))
    }

    /// Whether an offset lies behind the names of the image.
    pub(crate) fn behind(offset: u64) -> bool {
        offset >= LISTED
    }

    /// The attributes of an addition; None for what is none.
    pub(crate) fn attr(&self, node: u64) -> Option<Attr> {
        let (index, what) = self.addition(node)?;
        let mode = u32::from(self.nodes[index].mode);
        let (kind, size, nlink) = match what {
            Added::Directory => (libc_mode::DIRECTORY, 0, 2 + self.directories(node)),
            Added::File(bytes) => (libc_mode::REGULAR, bytes.len(), 1),
            Added::Symlink(to) => (libc_mode::SYMLINK, to.len(), 1),
        };
        Some(Attr {
            ino: NUMBERS + index as u64,
            size: size as u64,
            blocks: size.div_ceil(512) as u64,
            mtime: self.made,
            mode: kind | mode,
            nlink,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: 4096,
        })
    }

    /// What the attributes of a directory of the image are here.
    pub(crate) fn change(&self, node: u64, attr: &mut Attr) {
        attr.nlink += self.directories(node);
        if let Some(mode) = self.modes.get(&node) {
            attr.mode = libc_mode::DIRECTORY | u32::from(*mode);
        }
    }

    /// How many directories are added to a directory.
    fn directories(&self, dir: u64) -> u32 {
        let names = self.names.get(&dir).into_iter().flatten();
        names.filter(|(_, index)| self.nodes[**index].what == Added::Directory).count() as u32
    }

    /// The inode numbers of a directory that was added, and of the one above it.
    pub(crate) fn dots(&self, node: u64) -> Option<(u64, u64)> {
        let (index, _) = self.addition(node).filter(|(_, what)| **what == Added::Directory)?;
        Some((NUMBERS + index as u64, self.nodes[index].above))
    }

    /// The bytes of a file, or what a symbolic link says.
    pub(crate) fn bytes(&self, node: u64) -> Option<&[u8]> {
        match self.addition(node)?.1 {
            Added::File(bytes) | Added::Symlink(bytes) => Some(bytes),
            Added::Directory => None,
        }
    }
}

/// Whether an inode is a directory.
pub(crate) fn is_directory(inode: &Inode) -> bool {
    matches!(inode.kind, InodeKind::Directory { .. })
}
