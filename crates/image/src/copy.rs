//! A tree that is there, an image's or a directory's, to a new squashfs file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ext::{FileSystem, Kind};
use squashfs::{Image, Inode, InodeKind, Meta, Node, NodeId, NodeKind, Writer, WriterOptions};

use types::{
    ACL_NOTES, CAPABILITY, CAPABILITY_NOTE, Device, OVERRIDE_STAT, Owner, SPECIAL_OWNERS, Special,
    Unattributed,
};

use crate::merge::{Depth, Merge};
use crate::{Conversion, ConvertOptions};

/// Where a tree comes from.
#[derive(Clone, Copy)]
pub enum TreeSource<'a> {
    /// Squashfs images, bottom first; those above the first one are layers in
    /// the form of overlayfs.
    Images(&'a [Image]),
    /// A directory of the host.
    Directory(&'a Path),
    /// The upper directory of an overlay that was written to in a user
    /// namespace: a layer in the form of overlayfs.
    Upper {
        /// The directory.
        path: &'a Path,
        /// Whether files have their own owners, as this process sees them, and
        /// not only noted ones.
        owned: bool,
    },
    /// A file system of ext2, ext3 or ext4, from one of its directories on.
    /// Whiteouts stay what they are.
    Ext(&'a FileSystem, &'a str),
}

/// A file to add, with the directories above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Path in the image, without a leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u16,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// Why a tree cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The image cannot be read.
    #[error("cannot read {path:?} of the image")]
    Image {
        /// Path in the image.
        path: PathBuf,
        /// Why.
        source: squashfs::Error,
    },
    /// The file system cannot be read.
    #[error("cannot read {path:?} of the file system")]
    Ext {
        /// Path in the file system.
        path: PathBuf,
        /// Why.
        source: ext::Error,
    },
    /// The file system has no such directory.
    #[error("the file system has no directory {0:?}")]
    NoDirectory(String),
    /// The image's directories form a loop.
    #[error("{0:?} is one of the directories above it")]
    Loop(PathBuf),
    /// The directory cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The path on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer cannot be written.
    #[error("cannot write the layer")]
    Layer(#[source] io::Error),
    /// The new image cannot be written.
    #[error("cannot write the new image")]
    Write(#[from] squashfs::WriteError),
    /// More data than the limit allows.
    #[error("at {path:?} the image passes the size limit of {limit} bytes")]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
}

impl CopyError {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Write(squashfs::WriteError::Write { source, .. })
            if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// Writes a tree as squashfs into an empty file. What `extras` names replaces
/// what is there.
///
/// # Errors
/// When the source cannot be read, or the file cannot be written.
pub fn copy(
    source: TreeSource<'_>,
    out: File,
    options: &ConvertOptions,
    extras: &[Extra],
) -> Result<Conversion, CopyError> {
    let writer_options = WriterOptions {
        compression: options.compression,
        mkfs_time: options.latest.unwrap_or(0),
        ..WriterOptions::default()
    };
    let mut copier = Copier {
        writer: Writer::new(out, writer_options)?,
        merge: Merge::new(),
        left: options.size_limit,
        limit: options.size_limit,
        latest: options.latest.unwrap_or(u32::MAX),
    };
    match source {
        TreeSource::Images(images) => {
            for (depth, image) in images.iter().rev().enumerate() {
                copier.image(image, depth as Depth)?;
            }
        }
        TreeSource::Directory(path) => copier.directory(path, Form::Plain)?,
        TreeSource::Upper { path, owned: false } => copier.directory(path, Form::Noted)?,
        TreeSource::Upper { path, owned: true } => copier.directory(path, Form::Owned)?,
        TreeSource::Ext(fs, top) => copier.ext(fs, top)?,
    }
    for extra in extras {
        copier.extra(extra)?;
    }
    let summary = copier.writer.finish(&copier.merge.tree)?;
    Ok(Conversion { bytes: summary.bytes, inodes: summary.inodes })
}

struct Copier {
    writer: Writer,
    merge: Merge,
    left: u64,
    limit: u64,
    latest: u32,
}

impl Copier {
    fn file(&mut self, data: &mut dyn Read, size: u64, path: &Path) -> Result<NodeKind, CopyError> {
        let limit = self.limit;
        let large = || CopyError::TooLarge { path: path.to_owned(), limit };
        self.left = self.left.checked_sub(size).ok_or_else(large)?;
        let stored =
            path.file_name().is_some_and(|name| crate::convert::at_every_start(name.as_bytes()));
        let data =
            if stored { self.writer.file_stored(data, size) } else { self.writer.file(data, size) };
        match data {
            Ok(data) => Ok(NodeKind::File(data)),
            Err(squashfs::WriteError::Source(source)) => {
                Err(CopyError::Read { path: path.to_owned(), source })
            }
            Err(squashfs::WriteError::Short { .. }) => {
                let source = io::Error::other("it became shorter while it was read");
                Err(CopyError::Read { path: path.to_owned(), source })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// One layer. Those above it have been here before.
    fn image(&mut self, image: &Image, depth: Depth) -> Result<(), CopyError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CopyError::Image { path, source }
        };
        let top = Path::new("/");
        let root = image.inode(image.root()).map_err(failed(top))?;
        self.merge.place_dir(
            &[],
            image_meta(image, &root, self.latest).map_err(failed(top))?,
            depth,
        );
        let mut links: HashMap<u32, NodeId> = HashMap::new();
        let mut seen = HashSet::from([root.reference]);
        let mut todo = vec![(root, Vec::new())];
        while let Some((dir, path)) = todo.pop() {
            // What a layer above hides is passed over, with all below it.
            let Some(id) = self.merge.parent(&path, depth) else { continue };
            if image.is_opaque(&dir).map_err(failed(&joined(&path)))? {
                self.merge.opaque(id, depth);
            }
            for entry in image.read_dir(&dir, 0).map_err(failed(&joined(&path)))? {
                let entry = entry.map_err(failed(&joined(&path)))?;
                let mut words = path.clone();
                words.push(entry.name.clone());
                let below = joined(&words);
                let inode = image.inode(entry.inode).map_err(failed(&below))?;
                if inode.is_whiteout() {
                    self.merge.whiteout(id, &entry.name, depth);
                    continue;
                }
                if let InodeKind::Directory { .. } = inode.kind {
                    // A directory has one name; another is a loop or damage.
                    if !seen.insert(inode.reference) {
                        return Err(CopyError::Loop(below));
                    }
                    let meta = image_meta(image, &inode, self.latest).map_err(failed(&below))?;
                    self.merge.place_dir(&words, meta, depth);
                    todo.push((inode, words));
                    continue;
                }
                if !self.merge.free(id, &entry.name, depth) {
                    continue;
                }
                if let Some(known) = links.get(&inode.number) {
                    self.merge.place_link(id, &entry.name, *known);
                    continue;
                }
                let kind = self.kind(image, &inode, &below)?;
                let meta = image_meta(image, &inode, self.latest).map_err(failed(&below))?;
                let node = self.merge.place(id, &entry.name, Node { meta, kind }, depth);
                if inode.nlink > 1 {
                    links.insert(inode.number, node);
                }
            }
        }
        Ok(())
    }

    /// What is no directory.
    fn kind(
        &mut self,
        image: &Image,
        inode: &Arc<Inode>,
        path: &Path,
    ) -> Result<NodeKind, CopyError> {
        Ok(match &inode.kind {
            InodeKind::File { size, .. } => {
                let mut data = FileReader { image, inode: Arc::clone(inode), at: 0 };
                self.file(&mut data, *size, path)?
            }
            InodeKind::Symlink { .. } => {
                let failed = |source| CopyError::Image { path: path.to_owned(), source };
                NodeKind::Symlink(image.read_link(inode).map_err(failed)?)
            }
            InodeKind::BlockDevice { major, minor } => {
                NodeKind::BlockDevice { major: *major, minor: *minor }
            }
            InodeKind::CharDevice { major, minor } => {
                NodeKind::CharDevice { major: *major, minor: *minor }
            }
            InodeKind::Fifo => NodeKind::Fifo,
            InodeKind::Socket => NodeKind::Socket,
            InodeKind::Directory { .. } => NodeKind::Directory(BTreeMap::new()),
        })
    }

    fn directory(&mut self, top: &Path, form: Form) -> Result<(), CopyError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CopyError::Read { path, source }
        };
        let meta = std::fs::symlink_metadata(top).map_err(failed(top))?;
        let root = self.merge.tree.root();
        let (mut own, _) = host_meta(top, &meta, form);
        own.mtime = own.mtime.min(self.latest);
        self.merge.tree.get_mut(root).meta = own;
        let specials =
            if form == Form::Plain { Specials::default() } else { Specials::of_upper(top) };
        let mut links: HashMap<(u64, u64), NodeId> = HashMap::new();
        let mut todo = vec![(top.to_owned(), root)];
        while let Some((dir, id)) = todo.pop() {
            let entries = std::fs::read_dir(&dir).map_err(failed(&dir))?;
            let mut names: Vec<_> = entries
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<io::Result<_>>()
                .map_err(failed(&dir))?;
            // The same tree makes the same image.
            names.sort();
            for name in names {
                let path = dir.join(&name);
                let meta = std::fs::symlink_metadata(&path).map_err(failed(&path))?;
                let kind = meta.file_type();
                let key = (meta.dev(), meta.ino());
                if let (false, Some(known)) = (kind.is_dir(), links.get(&key)) {
                    self.merge.tree.link(id, name.as_bytes(), *known);
                    continue;
                }
                let (mut own, mut noted) = host_meta(&path, &meta, form);
                own.mtime = own.mtime.min(self.latest);
                if let Some(special) = specials.of(&path, kind) {
                    (own.uid, own.gid) = special.owner;
                    if let Unattributed::Device(device) = special.kind {
                        noted = Some(device);
                    }
                }
                let device = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
                let node = if let Some(Device { block, major, minor }) = noted {
                    if block {
                        NodeKind::BlockDevice { major, minor }
                    } else {
                        NodeKind::CharDevice { major, minor }
                    }
                } else if kind.is_dir() {
                    NodeKind::Directory(BTreeMap::new())
                } else if kind.is_symlink() {
                    let to = std::fs::read_link(&path).map_err(failed(&path))?;
                    NodeKind::Symlink(to.as_os_str().as_bytes().to_vec())
                } else if kind.is_file() {
                    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
                    let open = File::options().read(true).custom_flags(flags).open(&path);
                    self.file(&mut open.map_err(failed(&path))?, meta.len(), &path)?
                } else if kind.is_block_device() {
                    let (major, minor) = device();
                    NodeKind::BlockDevice { major, minor }
                } else if kind.is_char_device() {
                    let (major, minor) = device();
                    NodeKind::CharDevice { major, minor }
                } else if kind.is_fifo() {
                    NodeKind::Fifo
                } else {
                    NodeKind::Socket
                };
                let node = self.merge.tree.add(Node { meta: own, kind: node });
                self.merge.tree.link(id, name.as_bytes(), node);
                if kind.is_dir() {
                    todo.push((path, node));
                } else if meta.nlink() > 1 {
                    links.insert(key, node);
                }
            }
        }
        Ok(())
    }

    fn ext(&mut self, fs: &FileSystem, top: &str) -> Result<(), CopyError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CopyError::Ext { path, source }
        };
        let mut dir = fs.inode(ext::ROOT).map_err(failed(Path::new("/")))?;
        let missing = || CopyError::NoDirectory(top.to_owned());
        for word in top.split('/').filter(|word| !word.is_empty()) {
            let entries = fs.entries(&dir).map_err(failed(Path::new(top)))?;
            let found = entries.into_iter().find(|entry| entry.name == word.as_bytes());
            let inode = found.ok_or_else(missing)?.inode;
            dir = fs.inode(inode).map_err(failed(Path::new(top)))?;
        }
        if dir.kind != Kind::Directory {
            return Err(missing());
        }
        let latest = self.latest;
        let meta = |inode: &ext::Inode| {
            let noted = |(name, value): (Vec<u8>, Vec<u8>)| {
                let note = ACL_NOTES.iter().find(|(acl, _)| acl.as_bytes() == name);
                (note.map_or(name, |(_, note)| note.as_bytes().to_vec()), value)
            };
            let mut xattrs: Vec<_> = fs.xattrs(inode)?.into_iter().map(noted).collect();
            xattrs.sort();
            let mtime = u32::try_from(inode.mtime.max(0)).unwrap_or(u32::MAX).min(latest);
            let ext::Inode { mode, uid, gid, .. } = *inode;
            Ok(Meta { mode, uid, gid, mtime, xattrs })
        };
        let root = self.merge.tree.root();
        self.merge.tree.get_mut(root).meta = meta(&dir).map_err(failed(Path::new("/")))?;
        let mut links: HashMap<u32, NodeId> = HashMap::new();
        let mut seen = HashSet::from([dir.number]);
        let mut todo = vec![(dir, root, PathBuf::from("/"))];
        while let Some((dir, id, path)) = todo.pop() {
            for entry in fs.entries(&dir).map_err(failed(&path))? {
                let below = path.join(std::ffi::OsStr::from_bytes(&entry.name));
                if let Some(known) = links.get(&entry.inode) {
                    self.merge.tree.link(id, &entry.name, *known);
                    continue;
                }
                let inode = fs.inode(entry.inode).map_err(failed(&below))?;
                let kind = match inode.kind {
                    // A directory has one name; another is a loop or damage.
                    Kind::Directory if !seen.insert(inode.number) => {
                        return Err(CopyError::Loop(below));
                    }
                    Kind::Directory => NodeKind::Directory(BTreeMap::new()),
                    Kind::File => {
                        let mut data = ExtReader { fs, inode: &inode, at: 0 };
                        self.file(&mut data, inode.size, &below)?
                    }
                    Kind::Symlink => {
                        NodeKind::Symlink(fs.read_link(&inode).map_err(failed(&below))?)
                    }
                    Kind::BlockDevice(major, minor) => NodeKind::BlockDevice { major, minor },
                    Kind::CharDevice(major, minor) => NodeKind::CharDevice { major, minor },
                    Kind::Fifo => NodeKind::Fifo,
                    Kind::Socket => NodeKind::Socket,
                };
                let node = Node { meta: meta(&inode).map_err(failed(&below))?, kind };
                let node = self.merge.tree.add(node);
                self.merge.tree.link(id, &entry.name, node);
                if inode.kind == Kind::Directory {
                    todo.push((inode, node, below));
                } else if inode.nlink > 1 {
                    links.insert(entry.inode, node);
                }
            }
        }
        Ok(())
    }

    fn extra(&mut self, extra: &Extra) -> Result<(), CopyError> {
        let mut dir = self.merge.tree.root();
        let mut words: Vec<&str> = extra.path.split('/').collect();
        let Some(name) = words.pop() else { return Ok(()) };
        for word in words {
            dir = match self.merge.tree.child(dir, word.as_bytes()) {
                Some(known)
                    if matches!(self.merge.tree.get(known).kind, NodeKind::Directory(_)) =>
                {
                    known
                }
                _ => {
                    let meta = Meta { mode: 0o755, ..Meta::default() };
                    let kind = NodeKind::Directory(BTreeMap::new());
                    let made = self.merge.tree.add(Node { meta, kind });
                    self.merge.tree.link(dir, word.as_bytes(), made);
                    made
                }
            };
        }
        let size = extra.bytes.len() as u64;
        let kind = self.file(&mut &extra.bytes[..], size, Path::new(&extra.path))?;
        let meta = Meta { mode: extra.mode, ..Meta::default() };
        let node = self.merge.tree.add(Node { meta, kind });
        self.merge.tree.link(dir, name.as_bytes(), node);
        Ok(())
    }
}

/// The path of words.
fn joined(words: &[Vec<u8>]) -> PathBuf {
    let words = words.iter().map(|word| std::ffi::OsStr::from_bytes(word));
    Path::new("/").join(words.collect::<PathBuf>())
}

/// The data of a file of an image.
pub(crate) struct FileReader<'a> {
    pub(crate) image: &'a Image,
    pub(crate) inode: Arc<Inode>,
    pub(crate) at: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.image.read(&self.inode, self.at, buf).map_err(io::Error::other)?;
        self.at += got as u64;
        Ok(got)
    }
}

/// Whether an attribute is overlayfs's own; the merged tree needs none.
pub(crate) fn of_overlay(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// The data of a file of a file system.
struct ExtReader<'a> {
    fs: &'a FileSystem,
    inode: &'a ext::Inode,
    at: u64,
}

impl Read for ExtReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.fs.read(self.inode, self.at, buf).map_err(io::Error::other)?;
        self.at += got as u64;
        Ok(got)
    }
}

fn image_meta(image: &Image, inode: &Inode, latest: u32) -> Result<Meta, squashfs::Error> {
    Ok(Meta {
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime.min(latest),
        xattrs: image.xattrs(inode)?.into_iter().filter(|(name, _)| !of_overlay(name)).collect(),
    })
}

/// What a directory of the host is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A tree, whose owners and permission bits may be noted.
    Plain,
    /// An upper directory: permission bits are real, owners noted.
    Noted,
    /// One whose files also have owners.
    Owned,
}

/// What a path of the host says of itself, and the device that it stands for.
/// What belongs to the caller belongs to root in the image. In an upper
/// directory the permission bits are real, and only owners are noted.
fn host_meta(path: &Path, meta: &std::fs::Metadata, form: Form) -> (Meta, Option<Device>) {
    let upper = form != Form::Plain;
    let mut xattrs = Vec::new();
    let (mut noted, mut real) = (None, Vec::new());
    for name in xattr_names(path) {
        let Some(value) = xattr(path, &name) else { continue };
        if name == OVERRIDE_STAT.as_bytes() {
            noted = Owner::parse(&value);
        } else if upper && name == b"user.overlay.opaque" {
            xattrs.push((b"trusted.overlay.opaque".to_vec(), value));
        } else if name == CAPABILITY.as_bytes() {
            xattrs.push((name, capability(value)));
        } else if name == CAPABILITY_NOTE.as_bytes() {
            real.push((CAPABILITY.into(), value));
        } else if let Some((_, note)) = ACL_NOTES.iter().find(|(acl, _)| acl.as_bytes() == name) {
            // Of a tree of the host it names the host's users.
            if upper && within(&value) {
                real.push((note.as_bytes().to_vec(), value));
            }
        } else if name.starts_with(b"user.") && !of_overlay(&name) {
            xattrs.push((name, value));
        }
    }
    real.retain(|(name, _)| !xattrs.iter().any(|(noted, _)| noted == name));
    xattrs.extend(real);
    xattrs.sort();
    let own = |id: u32, caller: u32| if id == caller { 0 } else { id };
    let bits = (meta.mode() & 0o7777) as u16;
    let mtime = u32::try_from(meta.mtime().max(0)).unwrap_or(u32::MAX);
    let owner = noted.unwrap_or(Owner {
        uid: own(meta.uid(), rustix::process::geteuid().as_raw()),
        gid: own(meta.gid(), rustix::process::getegid().as_raw()),
        mode: u32::from(bits),
        device: None,
    });
    let Owner { mut uid, mut gid, mode, device } = owner;
    if form == Form::Owned {
        // What was noted is of a time without those ids.
        let pick = |own: u32, noted: u32| if own == 0 { noted } else { own };
        (uid, gid) = (pick(meta.uid(), uid), pick(meta.gid(), gid));
    }
    let mode = if upper { bits } else { mode as u16 };
    (Meta { mode, uid, gid, mtime, xattrs }, device)
}

/// Owners of what has no attribute in an upper directory, by inode.
#[derive(Default)]
struct Specials {
    known: HashMap<(u64, i64, u32), Special>,
    /// Whether files and directories have none there.
    files: bool,
}

impl Specials {
    fn of_upper(upper: &Path) -> Self {
        let text = std::fs::read_to_string(upper.with_file_name(SPECIAL_OWNERS));
        let text = text.unwrap_or_default();
        let known: HashMap<_, _> =
            text.lines().filter_map(Special::parse).map(|s| (s.inode, s)).collect();
        let files = known.values().any(|s| s.kind != Unattributed::Special);
        Self { known, files }
    }

    fn of(&self, path: &Path, kind: std::fs::FileType) -> Option<&Special> {
        let file = kind.is_dir() || kind.is_file();
        if self.known.is_empty() || file && !self.files {
            return None;
        }
        let found = self.known.get(&birth(path)?)?;
        let fits = match found.kind {
            Unattributed::Special => !file,
            Unattributed::File => file,
            Unattributed::Device(_) => kind.is_file(),
        };
        fits.then_some(found)
    }
}

/// Number of a file's inode, and when it was made, zero where nobody knows.
fn birth(path: &Path) -> Option<(u64, i64, u32)> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted).ok()?;
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let born = stat.stx_btime;
    Some(if known { (stat.stx_ino, born.tv_sec, born.tv_nsec) } else { (stat.stx_ino, 0, 0) })
}

/// File capabilities without the user namespace that gave them: revision 3 of
/// linux/capability.h is revision 2 and the id of its root.
fn capability(value: Vec<u8>) -> Vec<u8> {
    match value[..] {
        [flags, 0, 0, 3, ref rest @ ..] if rest.len() == 20 => {
            [&[flags, 0, 0, 2][..], &rest[..16]].concat()
        }
        _ => value,
    }
}

/// Whether a list of acl(5) names users and groups of this namespace alone: one that
/// the host's directory has passed on names others, whose ids are shown as -1.
fn within(list: &[u8]) -> bool {
    // struct posix_acl_xattr_entry of linux/posix_acl_xattr.h.
    const NAMED: [u16; 2] = [0x02, 0x08];
    let entries = list.get(4..).unwrap_or_default().chunks_exact(8);
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    entries.into_iter().all(|entry| !NAMED.contains(&tag(entry)) || entry[4..] != [0xff; 4])
}

/// The names of extended attributes; none where there are none to be had.
fn xattr_names(path: &Path) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap_or(0);
    let names = buffer[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    names.map(<[u8]>::to_vec).collect()
}

fn xattr(path: &Path, name: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let len = rustix::fs::lgetxattr(path, name, &mut buffer[..]).ok()?;
    buffer.truncate(len);
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_their_namespace() {
        let third = [&[1, 0, 0, 3][..], &[7; 16], &[0xe8, 3, 0, 0]].concat();
        assert_eq!(capability(third), [&[1, 0, 0, 2][..], &[7; 16]].concat());
        let second = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        assert_eq!(capability(second.clone()), second);
    }

    #[test]
    fn a_directory_and_its_image_copy_alike() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/file"), "data").unwrap();
        std::fs::hard_link(tree.join("a/file"), tree.join("a/b/hard")).unwrap();
        std::os::unix::fs::symlink("file", tree.join("a/link")).unwrap();
        let create = |name: &str| {
            let path = dir.path().join(name);
            (File::options().read(true).write(true).create_new(true).open(&path).unwrap(), path)
        };
        let options = ConvertOptions::default();
        let (first, path) = create("first");
        copy(TreeSource::Directory(&tree), first, &options, &[]).unwrap();
        let image = Image::open(File::open(&path).unwrap(), 0, Default::default()).unwrap();
        let (second, again) = create("second");
        copy(TreeSource::Images(std::slice::from_ref(&image)), second, &options, &[]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
        let (third, with) = create("third");
        let extra = Extra { path: "new/x".into(), mode: 0o755, bytes: b"hi".to_vec() };
        copy(TreeSource::Images(std::slice::from_ref(&image)), third, &options, &[extra]).unwrap();
        let image = Image::open(File::open(&with).unwrap(), 0, Default::default()).unwrap();
        let root = image.inode(image.root()).unwrap();
        let new = image.lookup(&root, b"new").unwrap().unwrap();
        let new = image.inode(new.inode).unwrap();
        assert!(image.lookup(&new, b"x").unwrap().is_some());
        let small = ConvertOptions { size_limit: 1, ..options };
        let (fourth, _) = create("fourth");
        let refused = copy(TreeSource::Directory(&tree), fourth, &small, &[]);
        assert!(matches!(refused, Err(CopyError::TooLarge { .. })));
    }
}
