//! Serve an image tree over a /dev/fuse descriptor.
//!
//! [`serve`] answers the kernel until the connection dies. The image never
//! changes, so the kernel is told to keep everything: entries, attributes,
//! negative entries and symbolic links for ever, pages across opens, and OPEN
//! and OPENDIR are answered ENOSYS once, after which the kernel does not ask.
//!
//! Node ids are derived from the image's inode references, so the server keeps
//! no table of nodes and FORGET costs nothing. Threads are added when a
//! request arrives and no thread is idle, up to the number of processors; one
//! thread is enough for all to be answered, since no request waits for
//! another, but for the block both need.
//!
//! Memory is bounded, whatever the image says of itself. With the default
//! [`squashfs::ReaderOptions`] a server holds at most
//!
//! | what | MiB |
//! |---|---|
//! | inflated data blocks | 32 |
//! | inflated metadata | 8 |
//! | 16,384 inodes | 16 |
//! | block lists of long files | 3 |
//! | files to preload (the caller's list) | 12 |
//! | what a [`Recorder`] notes: 16,384 requests | 6 |
//! | a [`View`] | what it adds |
//!
//! and for each thread its stack (¼), one answer (1), the blocks of one read (1 and two
//! blocks), and the decoder of one block (4 for xz, less than 1 for others): below
//! 7 MiB with blocks of 128 KiB. A directory is read from where the last answer
//! ended; of 256 readers that place is kept, 20 KiB, and nothing of what they read.
//! Where one process serves several images, it divides the caches
//! ([`squashfs::ReaderOptions::divided`]) and the threads over them.
#![forbid(unsafe_code)]

mod preload;
mod protocol;
mod record;
#[cfg(test)]
mod tests;
mod view;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use squashfs::{DirPosition, EntryKind, Image, Inode, InodeKind, InodeRef, Piece};
use types::{ACL_NOTES, Device, OVERRIDE_STAT, Owner, SPECIAL_STAT};

pub use preload::Preload;
use protocol::{Answer, Attr, MAJOR, MINOR, OUT_HEADER, Request, flag, op};
pub use record::{Access, Asked, Recorder};
use view::Place;
pub use view::{Added, VIEW, View, ViewError};

/// How an image is served.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Most threads, up to 16; None is the number of processors.
    pub threads: Option<std::num::NonZero<usize>>,
    /// The owner that every file is shown with, as ids of the namespace that
    /// mounts: a namespace with one id can express no other. None shows the
    /// image's own.
    pub owner: Option<(u32, u32)>,
    /// What is shown as the extended attribute `user.containers.override_stat`.
    pub noted: Noted,
    /// A second tree, where it is wanted: see [`VIEW`].
    pub view: Option<Arc<View>>,
}

/// What is noted in an attribute, for processes that are shown something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Noted {
    /// Nothing.
    #[default]
    Nothing,
    /// Devices, which are shown as empty files, so that overlayfs can copy them
    /// up without privilege.
    Devices,
    /// Devices, and the image's own owners.
    Owners,
}

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor could not be read.
    #[error("cannot read requests from /dev/fuse")]
    Read(#[source] io::Error),
    /// The kernel speaks another major version.
    #[error("the kernel speaks FUSE protocol {0}, this server speaks 7")]
    Version(u32),
}

/// Requests are at most this long: no writing, so names and xattr names are
/// the longest part. The kernel insists on 8 KiB at least.
const REQUEST_LEN: usize = 16 << 10;
/// Largest read, in pages of 4 KiB: 1 MiB.
const MAX_PAGES: u16 = 256;
/// More threads than this find little to do.
const MOST_THREADS: usize = 16;
/// How many readers of large directories may be under way at once without reading
/// from the beginning again.
const POSITIONS: usize = 256;

/// Answers requests until the connection dies. `preload` holds files that the
/// kernel is given once it knows their names; `recorder` notes what is asked. What cannot be read is EIO to
/// who asked, and a word to `report`.
///
/// # Errors
/// When the descriptor cannot be read, or the kernel's protocol is another.
pub fn serve(
    device: OwnedFd,
    image: Arc<Image>,
    options: ServerOptions,
    preload: Preload,
    recorder: Option<Arc<Recorder>>,
    report: Report,
) -> Result<(), Error> {
    let device = Arc::new(device);
    preload.connect(&device);
    Arc::new(Server::new(device, image, options, preload, recorder, report)).run()
}

/// What a server says when the image cannot be read; it has no terminal.
pub type Report = Box<dyn Fn(&str) + Send + Sync>;

struct Server {
    report: Report,
    device: Arc<OwnedFd>,
    preload: Preload,
    recorder: Option<Arc<Recorder>>,
    image: Arc<Image>,
    owner: Option<(u32, u32)>,
    noted: Noted,
    view: Option<Arc<View>>,
    /// Whether the image has attributes that a container can use.
    attributes: OnceLock<bool>,
    lists: OnceLock<bool>,
    most: usize,
    threads: AtomicUsize,
    idle: AtomicUsize,
    /// Where readers of directories will go on, by node and number of the entry.
    positions: Mutex<VecDeque<((u64, u64), DirPosition)>>,
}

/// What a request is answered with.
enum Reply {
    /// What has been written into the answer.
    Data,
    /// Parts of a file, sent from where they are.
    Pieces(Vec<Piece>),
    /// An error number.
    Errno(Errno),
    /// Nothing at all.
    Silence,
}

impl Server {
    fn new(
        device: Arc<OwnedFd>,
        image: Arc<Image>,
        options: ServerOptions,
        preload: Preload,
        recorder: Option<Arc<Recorder>>,
        report: Report,
    ) -> Self {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            device,
            image,
            owner: options.owner,
            noted: options.noted,
            view: options.view,
            attributes: OnceLock::new(),
            lists: OnceLock::new(),
            most: options.threads.map_or_else(processors, usize::from).min(MOST_THREADS),
            preload,
            recorder,
            report,
            threads: AtomicUsize::new(1),
            idle: AtomicUsize::new(0),
            positions: Mutex::new(VecDeque::new()),
        }
    }

    fn run(self: &Arc<Self>) -> Result<(), Error> {
        let mut buffer = vec![0; REQUEST_LEN];
        let mut answer = Answer::new();
        loop {
            self.idle.fetch_add(1, Ordering::SeqCst);
            let read = rustix::io::read(&self.device, &mut buffer[..]);
            let idle = self.idle.fetch_sub(1, Ordering::SeqCst) - 1;
            let len = match read {
                Ok(len) => len,
                // The mount is gone, or the server is told to stop.
                Err(Errno::NODEV) => return Ok(()),
                Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
                Err(e) => return Err(Error::Read(e.into())),
            };
            let Some(request) = Request::decode(&buffer[..len]) else { continue };
            // Nothing else is asked before INIT is answered.
            if idle == 0 && request.opcode != op::INIT {
                self.add_thread();
            }
            if request.opcode == op::INIT && request.u32(0).is_some_and(|major| major < MAJOR) {
                return Err(Error::Version(request.u32(0).unwrap_or_default()));
            }
            answer.reset();
            let (errno, pieces) = match self.answer(&request, &mut answer) {
                Reply::Silence => continue,
                Reply::Data => (0, Vec::new()),
                Reply::Pieces(pieces) => (0, pieces),
                Reply::Errno(e) => (e.raw_os_error(), Vec::new()),
            };
            let parts = pieces.iter().map(Piece::bytes);
            let more = parts.clone().map(<[u8]>::len).sum();
            let head = IoSlice::new(answer.seal(request.unique, errno, more));
            let message: Vec<_> = std::iter::once(head).chain(parts.map(IoSlice::new)).collect();
            match rustix::io::writev(&self.device, &message) {
                Ok(_) => {}
                Err(Errno::NODEV) => return Ok(()),
                // ENOENT: the request was interrupted and nobody waits.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(e) => (self.report)(&format!("an answer was refused: {e}")),
            }
            let found = if request.opcode == op::LOOKUP && errno == 0 { answer.node() } else { 0 };
            if found != 0 {
                self.preload.known(found);
            }
            if let (Some(recorder), 0) = (&self.recorder, errno) {
                recorder.note(&request, found);
            }
        }
    }

    /// Adds a thread unless there are enough. Failing to is no failure: the
    /// threads that are there go on.
    fn add_thread(self: &Arc<Self>) {
        let grow = |n| (n < self.most).then_some(n + 1);
        if self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, grow).is_err() {
            return;
        }
        let server = Arc::clone(self);
        let builder = std::thread::Builder::new().name("fuse".to_owned()).stack_size(256 << 10);
        if builder.spawn(move || server.run()).is_err() {
            self.threads.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn answer(&self, request: &Request<'_>, answer: &mut Answer) -> Reply {
        let result = match request.opcode {
            op::INIT => Ok(init(request, self.wanted(), answer)),
            op::FORGET | op::BATCH_FORGET | op::INTERRUPT => Ok(Reply::Silence),
            op::LOOKUP => self.lookup(request, answer),
            op::GETATTR => self.getattr(request, answer),
            op::READLINK => self.readlink(request, answer),
            op::READ => self.read(request, answer),
            op::READDIR => self.readdir(request, answer, false),
            op::READDIRPLUS => self.readdir(request, answer, true),
            op::STATFS => Ok(self.statfs(answer)),
            op::GETXATTR => self.getxattr(request, answer),
            op::LISTXATTR => self.listxattr(request, answer),
            op::DESTROY => Ok(Reply::Data),
            op::SETATTR
            | op::SYMLINK..=op::LINK
            | op::WRITE
            | op::SETXATTR
            | op::REMOVEXATTR
            | op::CREATE
            | op::FALLOCATE
            | op::RENAME2
            | op::TMPFILE => Ok(Reply::Errno(Errno::ROFS)),
            // OPEN, OPENDIR, ACCESS, FLUSH, …: the kernel stops asking.
            _ => Ok(Reply::Errno(Errno::NOSYS)),
        };
        result.unwrap_or_else(|error| {
            (self.report)(&with_causes(&error));
            Reply::Errno(Errno::IO)
        })
    }

    /// A node's inode in the image, in whichever tree; not an addition's.
    fn inode(&self, node: u64) -> Result<Arc<Inode>, squashfs::Error> {
        self.image.inode(reference(&self.image, view::of_image(node).unwrap_or_default()))
    }

    /// The view and one of its nodes, if the node is an addition.
    fn added(&self, node: u64) -> Option<&View> {
        self.view.as_deref().filter(|_| matches!(Place::of(node), Place::Added(_)))
    }

    /// The view and one of its directories, if the node is a directory there.
    fn viewed(&self, node: u64) -> Option<&View> {
        self.view.as_deref().filter(|_| !matches!(Place::of(node), Place::Image(_)))
    }

    /// Writes the entry for a node of the image that was found in a directory.
    fn entry(&self, dir: u64, inode: &Inode, answer: &mut Answer) {
        let (node, mut attr) = (self.node(inode.reference), self.attr(inode));
        let Some(view) = self.viewed(dir) else { return answer.entry_out(node, &attr) };
        let node = view::inside(node, view::is_directory(inode));
        if view::is_directory(inode) {
            view.change(node, &mut attr);
        }
        answer.entry_out(node, &attr);
    }

    fn node(&self, reference: InodeRef) -> u64 {
        node(&self.image, reference)
    }

    fn attr(&self, inode: &Inode) -> Attr {
        let (kind, rdev) = match inode.kind {
            // Nobody in the namespace could copy a device up.
            _ if self.noted != Noted::Nothing && device_of(inode).is_some() => {
                (libc_mode::REGULAR, 0)
            }
            InodeKind::Directory { .. } => (libc_mode::DIRECTORY, 0),
            InodeKind::File { .. } => (libc_mode::REGULAR, 0),
            InodeKind::Symlink { .. } => (libc_mode::SYMLINK, 0),
            InodeKind::BlockDevice { major, minor } => {
                (libc_mode::BLOCK, squashfs::format::encode_device(major, minor))
            }
            InodeKind::CharDevice { major, minor } => {
                (libc_mode::CHARACTER, squashfs::format::encode_device(major, minor))
            }
            InodeKind::Fifo => (libc_mode::FIFO, 0),
            InodeKind::Socket => (libc_mode::SOCKET, 0),
        };
        let sparse = match inode.kind {
            InodeKind::File { sparse, .. } => sparse,
            _ => 0,
        };
        let (uid, gid) = self.owner.unwrap_or((inode.uid, inode.gid));
        Attr {
            ino: u64::from(inode.number),
            size: inode.size(),
            blocks: inode.size().saturating_sub(sparse).div_ceil(512),
            mtime: u64::from(inode.mtime),
            mode: kind | u32::from(inode.mode),
            nlink: inode.nlink,
            uid,
            gid,
            rdev,
            blksize: self.image.superblock().block_size,
        }
    }

    fn lookup(&self, request: &Request<'_>, answer: &mut Answer) -> Result<Reply, squashfs::Error> {
        let Some(name) = request.name(0) else { return Ok(Reply::Errno(Errno::INVAL)) };
        let dots = matches!(name, b"." | b"..");
        if let Some(view) = &self.view {
            let added = view.named(request.node, name);
            if request.node == 1 && name == VIEW.as_bytes() {
                self.entry(view::root(), &*self.inode(1)?, answer);
                return Ok(Reply::Data);
            }
            if let Some((node, attr)) = added.and_then(|node| view.attr(node).map(|a| (node, a))) {
                answer.entry_out(node, &attr);
                return Ok(Reply::Data);
            }
            // Handles of directories of the view are not resolved: their parents are
            // those of another tree.
            if self.added(request.node).is_some() || dots && self.viewed(request.node).is_some() {
                answer.entry_out(0, &Attr::default());
                return Ok(Reply::Data);
            }
        }
        let dir = self.inode(request.node)?;
        let found = match name {
            _ if dots => self.by_handle(&dir, name == b"..")?,
            _ => self.image.lookup(&dir, name)?.map(|entry| entry.inode),
        };
        match found {
            Some(reference) => {
                self.entry(request.node, &*self.image.inode(reference)?, answer);
            }
            None => answer.entry_out(0, &Attr::default()),
        }
        Ok(Reply::Data)
    }

    /// What the kernel asks of a file handle, when it no longer knows the node:
    /// whether it is one, and which is its parent. The export table tells.
    fn by_handle(&self, inode: &Inode, parent: bool) -> Result<Option<InodeRef>, squashfs::Error> {
        if inode.reference == self.image.root() {
            return Ok(Some(inode.reference));
        }
        let real = self.image.by_number(inode.number)?.filter(|at| *at == inode.reference);
        if real.is_none() || !parent {
            return Ok(real);
        }
        let InodeKind::Directory { parent, .. } = inode.kind else { return Ok(None) };
        let Some(above) = self.image.by_number(parent)? else { return Ok(None) };
        let directory = matches!(self.image.inode(above)?.kind, InodeKind::Directory { .. });
        Ok(directory.then_some(above))
    }

    fn getattr(
        &self,
        request: &Request<'_>,
        answer: &mut Answer,
    ) -> Result<Reply, squashfs::Error> {
        let attr = match self.added(request.node).and_then(|view| view.attr(request.node)) {
            Some(attr) => attr,
            None => {
                let mut attr = self.attr(&*self.inode(request.node)?);
                if let Some(view) = self.viewed(request.node) {
                    view.change(request.node, &mut attr);
                }
                attr
            }
        };
        answer.attr_out(&attr);
        Ok(Reply::Data)
    }

    fn readlink(
        &self,
        request: &Request<'_>,
        answer: &mut Answer,
    ) -> Result<Reply, squashfs::Error> {
        match self.added(request.node).and_then(|view| view.bytes(request.node)) {
            Some(target) => answer.0.extend(target),
            None => answer.0.extend(self.image.read_link(&*self.inode(request.node)?)?),
        }
        Ok(Reply::Data)
    }

    /// `struct fuse_read_in`: offset at 8, size at 16.
    fn read(&self, request: &Request<'_>, answer: &mut Answer) -> Result<Reply, squashfs::Error> {
        let (Some(offset), Some(size)) = (request.u64(8), request.u32(16)) else {
            return Ok(Reply::Errno(Errno::INVAL));
        };
        let size = size.min(u32::from(MAX_PAGES) << 12) as usize;
        if let Some(bytes) = self.added(request.node).and_then(|view| view.bytes(request.node)) {
            let rest =
                &bytes[usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()))..];
            answer.0.extend(&rest[..size.min(rest.len())]);
            return Ok(Reply::Data);
        }
        let inode = self.inode(request.node)?;
        Ok(Reply::Pieces(self.image.pieces(&inode, offset, size)?))
    }

    fn readdir(
        &self,
        request: &Request<'_>,
        answer: &mut Answer,
        plus: bool,
    ) -> Result<Reply, squashfs::Error> {
        let (Some(offset), Some(size)) = (request.u64(8), request.u32(16)) else {
            return Ok(Reply::Errno(Errno::INVAL));
        };
        let added = self.added(request.node);
        let dir = if added.is_none() { Some(self.inode(request.node)?) } else { None };
        let dots = match (added, dir.as_deref()) {
            (Some(view), _) => view.dots(request.node),
            (_, Some(Inode { kind: InodeKind::Directory { parent, .. }, number, .. })) => {
                Some((u64::from(*number), u64::from(*parent)))
            }
            _ => None,
        };
        let Some((own, parent)) = dots else { return Ok(Reply::Errno(Errno::NOTDIR)) };
        let limit = OUT_HEADER + (size as usize).min(1 << 20);
        let fixed = if plus { 128 + 24 } else { 24 };
        // Offsets: 1 follows `.`, 2 follows `..`, n + 3 follows entry n.
        let dots = [(&b"."[..], own), (&b".."[..], parent)];
        for (index, (name, number)) in (0u64..).zip(dots).skip(offset.min(2) as usize) {
            if answer.0.len() + fixed + 8 > limit {
                return Ok(Reply::Data);
            }
            if plus {
                // Node 0: the kernel makes no entry of these.
                answer.entry_out(0, &Attr::default());
            }
            answer.dirent(number, index + 1, libc_mode::DIRECTORY >> 12, name);
        }
        let fits = |answer: &Answer, name: &[u8]| {
            answer.0.len() + (fixed + name.len()).next_multiple_of(8) <= limit
        };
        if let (Some(dir), false) = (dir, View::behind(offset)) {
            let view = self.viewed(request.node);
            let mut index = offset.saturating_sub(2);
            let mut entries = match self.position(request.node, index) {
                Some(position) => self.image.read_dir_at(&position)?,
                None => self.image.read_dir(&dir, index)?,
            };
            loop {
                let position = entries.position();
                let entry = match entries.next() {
                    // What there is before the damage is shown.
                    Some(Err(error)) if answer.0.len() == OUT_HEADER => return Err(error),
                    Some(Err(_)) | None => None,
                    Some(Ok(entry)) => Some(entry),
                };
                let Some(entry) = entry else {
                    self.keep_position(request.node, index, position);
                    break;
                };
                if !fits(answer, &entry.name) {
                    self.keep_position(request.node, index, position);
                    return Ok(Reply::Data);
                }
                index += 1;
                if view.is_some_and(|view| view.named(request.node, &entry.name).is_some()) {
                    continue;
                }
                if plus {
                    // Without a node the kernel makes no entry, and whoever asks for
                    // the name is told why.
                    match self.image.inode(entry.inode) {
                        Ok(inode) => self.entry(request.node, &inode, answer),
                        Err(_) => answer.entry_out(0, &Attr::default()),
                    }
                }
                let ino = u64::from(entry.inode_number);
                answer.dirent(ino, index + 2, dirent_type(entry.kind), &entry.name);
            }
        }
        let view = self.viewed(request.node).into_iter();
        for (next, name, node) in view.flat_map(|view| view.listed(request.node, offset)) {
            let attr = self.added(node).and_then(|view| view.attr(node)).unwrap_or_default();
            if !fits(answer, name) {
                break;
            }
            if plus {
                answer.entry_out(node, &attr);
            }
            answer.dirent(attr.ino, next, attr.mode >> 12, name);
        }
        Ok(Reply::Data)
    }

    /// Where the reader of a directory was who now wants the entry with an index.
    /// Each reader has a place of its own: it is taken out here.
    fn position(&self, node: u64, index: u64) -> Option<DirPosition> {
        let mut kept = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(key, _)| *key == (node, index))?;
        kept.remove(at).map(|(_, position)| position)
    }

    fn keep_position(&self, node: u64, index: u64, position: DirPosition) {
        let mut kept = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= POSITIONS {
            kept.pop_front();
        }
        kept.push_back(((node, index), position));
    }

    /// `struct fuse_kstatfs`: a full file system.
    fn statfs(&self, answer: &mut Answer) -> Reply {
        let sb = self.image.superblock();
        let blocks = sb.bytes_used.div_ceil(u64::from(sb.block_size));
        for value in [blocks, 0, 0, u64::from(sb.inodes), 0] {
            answer.u64(value);
        }
        for value in [sb.block_size, squashfs::format::NAME_LEN as u32, sb.block_size] {
            answer.u32(value);
        }
        answer.0.resize(OUT_HEADER + 80, 0);
        Reply::Data
    }

    /// Whether attributes are worth asking for.
    fn has_attributes(&self) -> bool {
        self.noted != Noted::Nothing
            || *self.attributes.get_or_init(|| useful_attributes(&self.image))
    }

    /// Whether access control lists are the kernel's to know: the namespace has
    /// the ids that they name.
    fn lists(&self) -> bool {
        *self.lists.get_or_init(|| {
            let noted = |name: &Vec<u8>| ACL_NOTES.iter().any(|(_, note)| note.as_bytes() == name);
            self.noted == Noted::Devices
                && !matches!(self.image.xattr_names(MOST_LISTS), Ok(Some(names)) if !names.iter().any(noted))
        })
    }

    /// What is asked of the kernel at INIT.
    fn wanted(&self) -> u32 {
        let lists = if self.lists() { flag::POSIX_ACL } else { 0 };
        // Handles are resolved by the export table.
        let exported = self.image.superblock().export_table != squashfs::format::ABSENT;
        let handles = if exported { flag::EXPORT_SUPPORT } else { 0 };
        flag::WANTED | lists | handles
    }

    /// What is noted of an inode; nothing of root's own files.
    fn note(&self, inode: &Inode) -> Option<String> {
        let device = device_of(inode);
        let (uid, gid) = match self.noted {
            Noted::Nothing => return None,
            // Its owner is the one that it is shown with.
            Noted::Devices => (0, 0),
            Noted::Owners => (inode.uid, inode.gid),
        };
        let owner = Owner { uid, gid, mode: u32::from(inode.mode & 0o7777), device };
        ((uid, gid) != (0, 0) || device.is_some()).then(|| owner.to_string())
    }

    fn getxattr(
        &self,
        request: &Request<'_>,
        answer: &mut Answer,
    ) -> Result<Reply, squashfs::Error> {
        let (Some(size), Some(name)) = (request.u32(0), request.name(8)) else {
            return Ok(Reply::Errno(Errno::INVAL));
        };
        if !self.has_attributes() {
            // The kernel stops asking: overlayfs asks at every lookup.
            return Ok(Reply::Errno(Errno::NOSYS));
        }
        if self.added(request.node).is_some() {
            return Ok(Reply::Errno(Errno::NODATA));
        }
        let inode = self.inode(request.node)?;
        if self.noted != Noted::Nothing && (name == NOTED || name == NOTED_SPECIAL) {
            return Ok(match self.note(&inode) {
                Some(value) => sized(answer, size, value.as_bytes()),
                None => Reply::Errno(Errno::NODATA),
            });
        }
        if !inode.has_xattrs() {
            return Ok(Reply::Errno(Errno::NODATA));
        }
        if name == OPAQUE {
            // Layers made by root's tools have it under the other name.
            let opaque = self.image.is_opaque(&inode)?;
            return Ok(if opaque {
                sized(answer, size, b"y")
            } else {
                Reply::Errno(Errno::NODATA)
            });
        }
        let acl = ACL_NOTES.iter().find(|(acl, _)| self.lists() && acl.as_bytes() == name);
        let name = acl.map_or(name, |(_, note)| note.as_bytes());
        Ok(match self.image.xattr(&inode, name)? {
            Some(value) => sized(answer, size, &value),
            None => Reply::Errno(Errno::NODATA),
        })
    }

    fn listxattr(
        &self,
        request: &Request<'_>,
        answer: &mut Answer,
    ) -> Result<Reply, squashfs::Error> {
        let Some(size) = request.u32(0) else { return Ok(Reply::Errno(Errno::INVAL)) };
        if self.added(request.node).is_some() {
            return Ok(sized(answer, size, b""));
        }
        let inode = self.inode(request.node)?;
        let mut names = Vec::new();
        if takes_attributes(&inode) && self.note(&inode).is_some() {
            names.extend_from_slice(NOTED);
            names.push(0);
        }
        let shown = if self.has_attributes() { self.image.xattr_list(&inode)? } else { Vec::new() };
        // The kernel refuses to read these in a user namespace (xattr(7)), and a
        // name that cannot be read stops overlayfs from copying the file up.
        for name in shown.iter().filter(|name| !name.starts_with(b"trusted.")) {
            let acl = ACL_NOTES.iter().find(|(_, note)| self.lists() && note.as_bytes() == name);
            names.extend(acl.map_or(&name[..], |(acl, _)| acl.as_bytes()));
            names.push(0);
        }
        Ok(sized(answer, size, &names))
    }
}

/// An error and what it comes from, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Where true owners are noted, as `rootemu` reads it.
const NOTED: &[u8] = OVERRIDE_STAT.as_bytes();
/// The same where that attribute cannot be; it is not listed, as overlayfs could
/// not copy it.
const NOTED_SPECIAL: &[u8] = SPECIAL_STAT.as_bytes();

/// Attributes that do nothing in a container: its image is mounted nosuid, so
/// file capabilities give none; `trusted.` is for root of the host; the others
/// are notes of tools.
const INERT: [&[u8]; 5] = [
    b"security.capability",
    NOTED,
    b"user.rootlesscontainers",
    ACL_NOTES[0].1.as_bytes(),
    ACL_NOTES[1].1.as_bytes(),
];
/// More sets of attributes than this are not looked through for lists.
const MOST_LISTS: u32 = 1 << 20;
/// More sets of attributes than this are not looked through.
const MOST_SETS: u32 = 512;

/// Whether an image has attributes that are worth a question for each of its
/// files: overlayfs asks at every first lookup, whatever the answer was before,
/// unless it is that there are none at all. Layers below another one need
/// theirs.
fn useful_attributes(image: &Image) -> bool {
    let inert = |name: &Vec<u8>| {
        INERT.contains(&name.as_slice())
            || name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay.")
    };
    // What cannot be read is told to who asks.
    !matches!(image.xattr_names(MOST_SETS), Ok(Some(names)) if names.iter().all(inert))
}

/// The device that is shown as an empty file with a note, as `rootemu` makes
/// them; not a whiteout of overlayfs.
fn device_of(inode: &Inode) -> Option<Device> {
    match inode.kind {
        InodeKind::CharDevice { major: 0, minor: 0 } => None,
        InodeKind::CharDevice { major, minor } => Some(Device { block: false, major, minor }),
        InodeKind::BlockDevice { major, minor } => Some(Device { block: true, major, minor }),
        _ => None,
    }
}

/// Whether an inode, as it is shown, can have `user.` attributes (xattr(7)).
fn takes_attributes(inode: &Inode) -> bool {
    let plain = matches!(inode.kind, InodeKind::Directory { .. } | InodeKind::File { .. });
    plain || device_of(inode).is_some()
}

/// What overlayfs asks of each directory that it merges, in a user namespace.
const OPAQUE: &[u8] = b"user.overlay.opaque";

/// The inode of a node of the image's own tree: 1 is the root by protocol, and 0 and 1
/// are no references.
fn reference(image: &Image, node: u64) -> InodeRef {
    if node <= 1 { image.root() } else { InodeRef(node - 2) }
}

/// The node of an inode: 1 is the root by protocol.
fn node(image: &Image, reference: InodeRef) -> u64 {
    if reference == image.root() { 1 } else { reference.0 + 2 }
}

/// A value, or its size when the caller gave no room (getxattr(2)).
fn sized(answer: &mut Answer, room: u32, value: &[u8]) -> Reply {
    if room == 0 {
        answer.u32(value.len() as u32);
        answer.u32(0);
    } else if value.len() > room as usize {
        return Reply::Errno(Errno::RANGE);
    } else {
        answer.0.extend_from_slice(value);
    }
    Reply::Data
}

/// `struct fuse_init_out`.
fn init(request: &Request<'_>, wanted: u32, answer: &mut Answer) -> Reply {
    let (Some(major), Some(readahead), Some(offered)) =
        (request.u32(0), request.u32(8), request.u32(12))
    else {
        return Reply::Errno(Errno::PROTO);
    };
    answer.u32(MAJOR);
    answer.u32(MINOR);
    if major > MAJOR {
        // The kernel repeats INIT in the version it was told.
        answer.0.resize(OUT_HEADER + 64, 0);
        return Reply::Data;
    }
    answer.u32(readahead);
    answer.u32(offered & wanted);
    // Requests in the background, and where the kernel calls it congested.
    answer.u16(64);
    answer.u16(48);
    // Nothing is ever written.
    answer.u32(4096);
    // Times are whole seconds.
    answer.u32(1_000_000_000);
    answer.u16(MAX_PAGES);
    answer.0.resize(OUT_HEADER + 64, 0);
    Reply::Data
}

/// File types of stat(2).
mod libc_mode {
    pub(crate) const FIFO: u32 = 0o010_000;
    pub(crate) const CHARACTER: u32 = 0o020_000;
    pub(crate) const DIRECTORY: u32 = 0o040_000;
    pub(crate) const BLOCK: u32 = 0o060_000;
    pub(crate) const REGULAR: u32 = 0o100_000;
    pub(crate) const SYMLINK: u32 = 0o120_000;
    pub(crate) const SOCKET: u32 = 0o140_000;
}

/// `DT_*` of readdir(3).
fn dirent_type(kind: EntryKind) -> u32 {
    let mode = match kind {
        EntryKind::Directory => libc_mode::DIRECTORY,
        EntryKind::File => libc_mode::REGULAR,
        EntryKind::Symlink => libc_mode::SYMLINK,
        EntryKind::BlockDevice => libc_mode::BLOCK,
        EntryKind::CharDevice => libc_mode::CHARACTER,
        EntryKind::Fifo => libc_mode::FIFO,
        EntryKind::Socket => libc_mode::SOCKET,
    };
    mode >> 12
}
