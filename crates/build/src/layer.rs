//! Layers that are written without a container: COPY, ADD, WORKDIR.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use squashfs::{Compression, Meta, Node, NodeId, NodeKind, Tree, Writer, WriterOptions};

use crate::error::{BuildError, Result};
use crate::files::{Files, Info, What};

/// What a copy says of owners and permission bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owning {
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: Option<u16>,
}

/// A layer that is being written over an image.
pub(crate) struct LayerWriter<'a> {
    writer: Writer,
    tree: Tree,
    below: &'a dyn Files,
    links: HashMap<(usize, (u64, u64)), NodeId>,
    /// Which tree links count in.
    from: usize,
    /// Latest time of a file, and the time of what is new.
    latest: Option<u32>,
    now: u32,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> BuildError {
    move |source| BuildError::Read { path: path.to_owned(), source }
}

impl<'a> LayerWriter<'a> {
    pub(crate) fn new(
        file: File,
        compression: Compression,
        below: &'a dyn Files,
        epoch: Option<u32>,
    ) -> Result<Self> {
        let options = WriterOptions { compression, ..WriterOptions::default() };
        let writer = Writer::new(file, options)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = epoch.unwrap_or_else(|| now.map_or(0, |now| now.as_secs() as u32));
        let root = below.info(Path::new("/")).map_err(failed(Path::new("/")))?;
        let mut new = Self {
            writer,
            tree: Tree::new(Meta { mode: 0o755, ..Meta::default() }),
            below,
            links: HashMap::new(),
            from: 0,
            latest: epoch,
            now,
        };
        if let Some(info) = root {
            let meta = new.meta(&info, Owning::default());
            let root = new.tree.root();
            new.tree.get_mut(root).meta = meta;
        }
        Ok(new)
    }

    fn meta(&self, info: &Info, owning: Owning) -> Meta {
        let (uid, gid) = owning.owner.unwrap_or((info.uid, info.gid));
        let mode = owning.mode.unwrap_or(info.mode);
        let mtime = self.latest.map_or(info.mtime, |latest| info.mtime.min(latest));
        Meta { mode, uid, gid, mtime, xattrs: info.xattrs.clone() }
    }

    /// The directory at a path, with those above it: as they are in the image,
    /// or new ones of `owner`.
    pub(crate) fn directory(&mut self, path: &Path, owner: Option<(u32, u32)>) -> Result<NodeId> {
        let mut dir = self.tree.root();
        let mut at = PathBuf::from("/");
        for word in path.components() {
            let Component::Normal(name) = word else { continue };
            at.push(name);
            dir = match self.tree.child(dir, name.as_bytes()) {
                Some(known) if !self.is_directory(known) => {
                    return Err(BuildError::NotADirectory { path: at });
                }
                Some(known) => known,
                None => {
                    let (uid, gid) = owner.unwrap_or((0, 0));
                    let meta = match self.below.info(&at).map_err(failed(&at))? {
                        Some(info) if info.what == What::Directory => {
                            self.meta(&info, Owning::default())
                        }
                        Some(_) => return Err(BuildError::NotADirectory { path: at }),
                        None => Meta { mode: 0o755, uid, gid, mtime: self.now, xattrs: Vec::new() },
                    };
                    let kind = NodeKind::Directory(BTreeMap::new());
                    let made = self.tree.add(Node { meta, kind });
                    self.tree.link(dir, name.as_bytes(), made);
                    made
                }
            };
        }
        Ok(dir)
    }

    fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.tree.get(node).kind, NodeKind::Directory(_))
    }

    /// A file of these bytes.
    pub(crate) fn bytes(&mut self, path: &Path, bytes: &[u8], owning: Owning) -> Result<()> {
        let info = Info {
            what: What::File(bytes.len() as u64),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: self.now,
            xattrs: Vec::new(),
            same: None,
        };
        let data = self.data(&mut &bytes[..], bytes.len() as u64)?;
        let meta = self.meta(&info, owning);
        self.place(path, Node { meta, kind: data }, owning)?;
        Ok(())
    }

    /// A file of what a reader gives, exactly `size` bytes.
    pub(crate) fn stream(
        &mut self,
        path: &Path,
        data: &mut dyn Read,
        size: u64,
        owning: Owning,
    ) -> Result<()> {
        let (uid, gid) = owning.owner.unwrap_or((0, 0));
        let mode = owning.mode.unwrap_or(0o644);
        let kind = self.data(data, size)?;
        let meta = Meta { mode, uid, gid, mtime: self.latest.unwrap_or(0), xattrs: Vec::new() };
        self.place(path, Node { meta, kind }, owning)?;
        Ok(())
    }

    /// Begins to copy from another tree.
    pub(crate) fn next_tree(&mut self) {
        self.from += 1;
    }

    /// Copies an entry of a tree to a path; of a directory, only itself.
    pub(crate) fn copy(
        &mut self,
        files: &dyn Files,
        from: &Path,
        info: &Info,
        to: &Path,
        owning: Owning,
    ) -> Result<()> {
        if self.linked(info, to, owning)? {
            return Ok(());
        }
        let kind = match &info.what {
            What::Directory => {
                let dir = self.directory(to, owning.owner)?;
                let mut meta = self.meta(info, owning);
                // A directory that is there keeps what it is.
                let there = self.below.info(to).map_err(failed(to))?;
                if there.is_none_or(|there| there.what != What::Directory) {
                    meta.xattrs.clone_from(&info.xattrs);
                    self.tree.get_mut(dir).meta = meta;
                }
                return Ok(());
            }
            What::File(_) => {
                let mut data = files.open(from).map_err(failed(from))?;
                return self.copy_data(&mut data, info, to, owning);
            }
            What::Symlink(to) => NodeKind::Symlink(to.clone()),
            What::BlockDevice(major, minor) => {
                NodeKind::BlockDevice { major: *major, minor: *minor }
            }
            What::CharDevice(major, minor) => NodeKind::CharDevice { major: *major, minor: *minor },
            What::Fifo => NodeKind::Fifo,
            What::Socket => NodeKind::Socket,
        };
        let mut meta = self.meta(info, owning);
        if let NodeKind::Symlink(_) = kind {
            meta.mode = 0o777;
        }
        self.place_known(info, to, Node { meta, kind }, owning)
    }

    /// The same for a file whose content comes from a reader, as much as the entry
    /// says.
    pub(crate) fn copy_data(
        &mut self,
        data: &mut dyn Read,
        info: &Info,
        to: &Path,
        owning: Owning,
    ) -> Result<()> {
        let What::File(size) = info.what else { return Ok(()) };
        if self.linked(info, to, owning)? {
            return Ok(());
        }
        let kind = self.data(data, size)?;
        let meta = self.meta(info, owning);
        self.place_known(info, to, Node { meta, kind }, owning)
    }

    /// Gives a file that is there already one more name; whether it is.
    fn linked(&mut self, info: &Info, to: &Path, owning: Owning) -> Result<bool> {
        let key = info.same.map(|same| (self.from, same));
        let known = key.and_then(|key| self.links.get(&key)).copied();
        let Some(known) = known else { return Ok(false) };
        let dir = self.directory(to.parent().unwrap_or(to), owning.owner)?;
        self.tree.link(dir, name_of(to).as_bytes(), known);
        Ok(true)
    }

    /// Places an entry that may come up under other names.
    fn place_known(&mut self, info: &Info, to: &Path, node: Node, owning: Owning) -> Result<()> {
        let node = self.place(to, node, owning)?;
        if let Some(same) = info.same {
            self.links.insert((self.from, same), node);
        }
        Ok(())
    }

    fn data(&mut self, data: &mut dyn Read, size: u64) -> Result<NodeKind> {
        Ok(NodeKind::File(self.writer.file(data, size)?))
    }

    fn place(&mut self, to: &Path, node: Node, owning: Owning) -> Result<NodeId> {
        let dir = self.directory(to.parent().unwrap_or(to), owning.owner)?;
        let below = self.below.info(to).map_err(failed(to))?;
        let here = self.tree.child(dir, name_of(to).as_bytes());
        if below.is_some_and(|info| info.what == What::Directory)
            || here.is_some_and(|known| self.is_directory(known))
        {
            return Err(BuildError::IsADirectory { path: to.to_owned() });
        }
        let node = self.tree.add(node);
        self.tree.link(dir, name_of(to).as_bytes(), node);
        Ok(node)
    }

    /// Completes the layer.
    pub(crate) fn finish(self) -> Result<()> {
        self.writer.finish(&self.tree)?;
        Ok(())
    }
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}
