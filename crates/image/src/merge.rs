//! Layers into one tree, top layer first.
//!
//! | upper | lower | result |
//! |---|---|---|
//! | any entry | the same path | the upper one; two directories share their entries |
//! | `.wh.NAME` | NAME and all below it | gone |
//! | `.wh..wh..opq` in a directory | its entries | gone |
//! | a non-directory | entries below it | gone |
//!
//! Whiteouts never hide entries of their own layer. Symbolic links are never
//! followed when an entry is placed: an upper directory replaces a lower link,
//! as in overlayfs.

use std::collections::HashMap;

use squashfs::{Meta, Node, NodeId, NodeKind, Tree};

/// Counts layers from the top.
pub(crate) type Depth = u32;

/// The tree so far, and what it hides.
pub(crate) struct Merge {
    pub(crate) tree: Tree,
    /// Which layer a node came from.
    layer: HashMap<NodeId, Depth>,
    /// Directories that only an entry below them implied.
    implied: HashMap<NodeId, Depth>,
    /// Names that a layer takes away from all below it.
    whiteouts: HashMap<(NodeId, Box<[u8]>), Depth>,
    /// Directories that hide the entries of all layers below one.
    opaque: HashMap<NodeId, Depth>,
}

fn directory(meta: Meta) -> Node {
    Node { meta, kind: NodeKind::Directory(std::collections::BTreeMap::new()) }
}

fn implied_meta() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}

impl Merge {
    pub(crate) fn new() -> Self {
        let tree = Tree::new(implied_meta());
        let implied = HashMap::from([(tree.root(), 0)]);
        Self {
            tree,
            layer: HashMap::new(),
            implied,
            whiteouts: HashMap::new(),
            opaque: HashMap::new(),
        }
    }

    fn is_dir(&self, id: NodeId) -> bool {
        matches!(self.tree.get(id).kind, NodeKind::Directory(_))
    }

    /// Whether a layer's entries under this name are hidden by one above it.
    fn hidden(&self, dir: NodeId, name: &[u8], depth: Depth) -> bool {
        let above = |at: Option<&Depth>| at.is_some_and(|at| *at < depth);
        above(self.opaque.get(&dir)) || above(self.whiteouts.get(&(dir, name.into())))
    }

    /// The directory that will hold an entry, made if need be; None when a
    /// layer above hides it.
    pub(crate) fn parent(&mut self, path: &[Vec<u8>], depth: Depth) -> Option<NodeId> {
        let mut dir = self.tree.root();
        for name in path {
            if self.hidden(dir, name, depth) {
                return None;
            }
            dir = match self.tree.child(dir, name) {
                Some(child) if self.is_dir(child) => child,
                Some(child) if self.layer.get(&child).is_some_and(|at| *at < depth) => return None,
                _ => {
                    let id = self.tree.add(directory(implied_meta()));
                    self.tree.link(dir, name, id);
                    self.layer.insert(id, depth);
                    self.implied.insert(id, depth);
                    id
                }
            };
        }
        Some(dir)
    }

    /// Whether an entry that is no directory may take this place.
    pub(crate) fn free(&mut self, dir: NodeId, name: &[u8], depth: Depth) -> bool {
        if self.hidden(dir, name, depth) {
            return false;
        }
        match self.tree.child(dir, name) {
            Some(child) if self.layer.get(&child).is_some_and(|at| *at < depth) => {
                if self.is_dir(child) {
                    // What layers below this one have there is behind a file.
                    self.opaque.entry(child).or_insert(depth);
                }
                false
            }
            _ => true,
        }
    }

    /// Places a node that is no directory, where [`free`](Self::free) said so.
    pub(crate) fn place(&mut self, dir: NodeId, name: &[u8], node: Node, depth: Depth) -> NodeId {
        let id = self.tree.add(node);
        self.tree.link(dir, name, id);
        self.layer.insert(id, depth);
        id
    }

    /// Gives a node of the same layer another name, as
    /// [`place`](Self::place) gives the first.
    pub(crate) fn place_link(&mut self, dir: NodeId, name: &[u8], node: NodeId) {
        self.tree.link(dir, name, node);
    }

    /// Places a directory: its attributes are those of the topmost layer that
    /// has an entry of its own for it.
    pub(crate) fn place_dir(&mut self, path: &[Vec<u8>], meta: Meta, depth: Depth) {
        let Some(id) = self.parent(path, depth) else { return };
        let own_layer = self.layer.get(&id).is_some_and(|at| *at == depth);
        if self.implied.remove(&id).is_some() || own_layer {
            self.tree.get_mut(id).meta = meta;
        }
    }

    pub(crate) fn whiteout(&mut self, dir: NodeId, name: &[u8], depth: Depth) {
        self.whiteouts.entry((dir, name.into())).or_insert(depth);
    }

    pub(crate) fn opaque(&mut self, dir: NodeId, depth: Depth) {
        self.opaque.entry(dir).or_insert(depth);
    }

    /// The node at a path that this very layer has put there.
    pub(crate) fn find(&self, path: &[Vec<u8>], depth: Depth) -> Option<NodeId> {
        let mut id = self.tree.root();
        for name in path {
            id = self.tree.child(id, name)?;
        }
        self.layer.get(&id).is_some_and(|at| *at == depth).then_some(id)
    }

    /// Whether a path, as a layer saw it, is hidden from layers below it by
    /// whiteouts between the two.
    pub(crate) fn removed_between(&self, path: &[Vec<u8>], from: Depth, to: Depth) -> bool {
        let within = |at: Option<&Depth>| at.is_some_and(|at| *at >= from && *at < to);
        let mut dir = self.tree.root();
        for name in path {
            if within(self.whiteouts.get(&(dir, name.as_slice().into())))
                || within(self.opaque.get(&dir))
            {
                return true;
            }
            match self.tree.child(dir, name) {
                Some(child) => dir = child,
                None => return false,
            }
        }
        false
    }
}
