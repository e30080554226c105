//! The tree that an image will hold.

use std::collections::BTreeMap;

use crate::writer::FileData;

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What every inode has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970.
    pub mtime: u32,
    /// Extended attributes with full names. Names outside `user.`, `trusted.`
    /// and `security.` have no place in squashfs and are left out.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory and its entries.
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    /// A regular file whose data a [`Writer`](crate::Writer) has taken.
    File(FileData),
    /// A symbolic link and what it says.
    Symlink(Vec<u8>),
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What every inode has.
    pub meta: Meta,
    /// What it is.
    pub kind: NodeKind,
}

/// A tree under construction. A node that is linked under several names is a
/// hard link.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// A tree of one directory.
    #[must_use]
    pub fn new(root: Meta) -> Self {
        Self { nodes: vec![Node { meta: root, kind: NodeKind::Directory(BTreeMap::new()) }] }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// Adds a node that no directory names yet.
    pub fn add(&mut self, node: Node) -> NodeId {
        // Squashfs counts inodes in 32 bits; memory ends long before.
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }

    /// Names a node in a directory; the node that had the name before.
    /// Does nothing when `parent` is no directory.
    pub fn link(&mut self, parent: NodeId, name: &[u8], child: NodeId) -> Option<NodeId> {
        match &mut self.get_mut(parent).kind {
            NodeKind::Directory(entries) => entries.insert(name.into(), child),
            _ => None,
        }
    }

    /// Takes a name out of a directory; the node that had it.
    pub fn unlink(&mut self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        match &mut self.get_mut(parent).kind {
            NodeKind::Directory(entries) => entries.remove(name),
            _ => None,
        }
    }

    /// A node.
    #[must_use]
    pub fn get(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A node, to change it.
    pub fn get_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// The node with a name in a directory.
    #[must_use]
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.get(parent).kind {
            NodeKind::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    /// The entries of a directory, in order; none for anything else.
    pub fn children(&self, parent: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        let entries = match &self.get(parent).kind {
            NodeKind::Directory(entries) => Some(entries),
            _ => None,
        };
        entries.into_iter().flatten().map(|(name, id)| (&**name, *id))
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }
}
