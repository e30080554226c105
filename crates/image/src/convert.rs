//! The conversion itself.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use squashfs::{Compression, Meta, Node, NodeId, NodeKind, Writer, WriterOptions};
use tar::EntryType;

use types::ACL_NOTES;

use crate::error::ConvertError;
use crate::merge::{Depth, Merge};
use crate::sparse::Sparse;
use crate::stream::{HEADER_LIMIT, Layer, LayerSource, TarStream};

/// How layers become an image.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    /// How blocks are compressed.
    pub compression: Compression,
    /// How many layers are read at once.
    pub parallel_layers: usize,
    /// Most uncompressed bytes of all layers together.
    pub size_limit: u64,
    /// Seconds since 1970 that nothing copied from a tree is younger than, and
    /// the time of the image itself.
    pub latest: Option<u32>,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(1),
            parallel_layers: 4,
            size_limit: 1 << 40,
            latest: None,
        }
    }
}

/// What a conversion made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Length of the image file in bytes.
    pub bytes: u64,
    /// How many inodes it has.
    pub inodes: u32,
}

/// Converts layers to a squashfs image in an empty file.
///
/// # Errors
/// When a layer cannot be read, means harm, or is not what its digests say;
/// or when the file cannot be written. The file is then of no use.
pub fn convert(
    source: &dyn LayerSource,
    out: File,
    options: &ConvertOptions,
) -> Result<Conversion, ConvertError> {
    let writer_options =
        WriterOptions { compression: options.compression, ..WriterOptions::default() };
    let mut state = State {
        merge: Merge::new(),
        writer: Writer::new(out, writer_options)?,
        pending: Vec::new(),
        skipped: HashSet::new(),
        left: options.size_limit,
        limit: options.size_limit,
    };
    let layers = source.layers();
    std::thread::scope(|scope| {
        // Top layer first; a few layers are ahead of the one that is read.
        let mut ahead = std::collections::VecDeque::new();
        let mut next = layers.len();
        for depth in 0..layers.len() {
            while next > 0 && ahead.len() < options.parallel_layers.max(1) {
                next -= 1;
                ahead.push_back(TarStream::start(scope, source, next));
            }
            let index = layers.len() - 1 - depth;
            let Some(stream) = ahead.pop_front() else { break };
            state.layer(&layers[index], depth as Depth, stream)?;
            if state.wants_second_pass(depth as Depth) {
                let again = TarStream::start(scope, source, index);
                state.second_pass(&layers[index], depth as Depth, again)?;
            }
        }
        Ok::<(), ConvertError>(())
    })?;
    state.finish()
}

/// A hard link whose target has not been seen.
struct Pending {
    depth: Depth,
    layer: types::Digest,
    target: Vec<Vec<u8>>,
    dir: NodeId,
    name: Vec<u8>,
}

struct State {
    merge: Merge,
    writer: Writer,
    pending: Vec<Pending>,
    /// Files of the current layer whose data was passed over.
    skipped: HashSet<Vec<Vec<u8>>>,
    left: u64,
    limit: u64,
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl State {
    fn layer(
        &mut self,
        layer: &Layer,
        depth: Depth,
        stream: TarStream,
    ) -> Result<(), ConvertError> {
        self.skipped.clear();
        let stream = each_entry(layer, stream, |entry, name| {
            self.spend(layer, name, entry.size())?;
            self.entry(layer, depth, entry)
        })?;
        let read = |source| ConvertError::Read { layer: layer.digest.clone(), source };
        let found = stream.finish().map_err(read)?;
        match (&layer.diff_id, found) {
            (Some(expected), Some(found)) if *expected != found => {
                let (layer, expected) = (layer.digest.clone(), expected.clone());
                Err(ConvertError::DiffId { layer, found, expected })
            }
            _ => Ok(()),
        }
    }

    fn spend(&mut self, layer: &Layer, entry: &str, size: u64) -> Result<(), ConvertError> {
        match self.left.checked_sub(size.saturating_add(512)) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(ConvertError::TooLarge {
                layer: layer.digest.clone(),
                entry: entry.to_owned(),
                limit: self.limit,
            }),
        }
    }

    fn entry(
        &mut self,
        layer: &Layer,
        depth: Depth,
        entry: &mut tar::Entry<'_, TarStream>,
    ) -> Result<(), ConvertError> {
        let extended = extended(entry);
        let extended = extended.map_err(entry_error(layer, &show(&entry.path_bytes())))?;
        let path_bytes = extended.path(entry);
        let path = split(&path_bytes).map_err(|reason| ConvertError::Escape {
            layer: layer.digest.clone(),
            entry: show(&path_bytes),
            reason,
        })?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let meta = extended.meta;
        let Some((name, parents)) = path.split_last() else {
            self.merge.place_dir(&[], meta, depth);
            return Ok(());
        };
        if kind == EntryType::Directory {
            self.merge.place_dir(&path, meta, depth);
            return Ok(());
        }
        let Some(dir) = self.merge.parent(parents, depth) else {
            self.skipped.insert(path);
            return Ok(());
        };
        if name.starts_with(b".wh.") {
            match &name[4..] {
                b".wh..opq" => self.merge.opaque(dir, depth),
                hidden if hidden.starts_with(b".wh.") => {}
                hidden => self.merge.whiteout(dir, hidden, depth),
            }
            return Ok(());
        }
        let wanted = self.wanted(&path, depth);
        let free = self.merge.free(dir, name, depth);
        if !free && !wanted {
            self.skipped.insert(path);
            return Ok(());
        }
        let place = (dir, name.as_slice(), free);
        let about = (path_bytes.as_slice(), &extended.sparse);
        let Some(kind) = self.kind(layer, depth, entry, place, about)? else {
            return Ok(());
        };
        let node = Node { meta, kind };
        let id =
            if free { self.merge.place(dir, name, node, depth) } else { self.merge.tree.add(node) };
        if wanted {
            self.resolve(&path, depth, id);
        }
        Ok(())
    }

    /// What the entry is; None for a hard link, which is dealt with here.
    fn kind(
        &mut self,
        layer: &Layer,
        depth: Depth,
        entry: &mut tar::Entry<'_, TarStream>,
        (dir, name, free): (NodeId, &[u8], bool),
        (path, sparse): (&[u8], &Sparse),
    ) -> Result<Option<NodeKind>, ConvertError> {
        let failed =
            |source| ConvertError::Entry { layer: layer.digest.clone(), entry: show(path), source };
        let invalid =
            |text: &str| failed(io::Error::new(io::ErrorKind::InvalidData, text.to_owned()));
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        let device = |entry: &tar::Entry<'_, TarStream>| {
            let number = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or_default();
            (number(entry.header().device_major()), number(entry.header().device_minor()))
        };
        Ok(Some(match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let written = match sparse.size() {
                    Some(size) => {
                        self.spend(layer, &show(path), size)?;
                        let mut expanded = sparse.expand(entry).map_err(failed)?;
                        self.writer.file(&mut expanded, size)
                    }
                    None if at_every_start(name) => {
                        let size = entry.size();
                        self.writer.file_stored(entry, size)
                    }
                    None => {
                        let size = entry.size();
                        self.writer.file(entry, size)
                    }
                };
                let data = written.map_err(|e| match e {
                    squashfs::WriteError::Source(source) => failed(source),
                    squashfs::WriteError::Short { .. } => {
                        failed(io::ErrorKind::UnexpectedEof.into())
                    }
                    other => other.into(),
                })?;
                NodeKind::File(data)
            }
            EntryType::Symlink => {
                let to = link.filter(|to| !to.is_empty() && to.len() <= 4096);
                NodeKind::Symlink(to.ok_or_else(|| invalid("a symbolic link without a target"))?)
            }
            EntryType::Fifo => NodeKind::Fifo,
            EntryType::Char => {
                let (major, minor) = device(entry);
                NodeKind::CharDevice { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = device(entry);
                NodeKind::BlockDevice { major, minor }
            }
            EntryType::Link => {
                let to = link.ok_or_else(|| invalid("a hard link without a target"))?;
                let target = split(&to).map_err(|_| ConvertError::Escape {
                    layer: layer.digest.clone(),
                    entry: show(path),
                    reason: "its hard link target is outside",
                })?;
                if free {
                    self.hard_link(layer, depth, target, dir, name);
                }
                return Ok(None);
            }
            _ => return Err(invalid("an entry of an unknown type")),
        }))
    }

    fn hard_link(
        &mut self,
        layer: &Layer,
        depth: Depth,
        target: Vec<Vec<u8>>,
        dir: NodeId,
        name: &[u8],
    ) {
        if let Some(id) = self.merge.find(&target, depth) {
            self.merge.tree.link(dir, name, id);
            return;
        }
        // A node that holds the place until the target is seen.
        let meta = Meta::default();
        self.merge.place(dir, name, Node { meta, kind: NodeKind::Fifo }, depth);
        let layer = layer.digest.clone();
        self.pending.push(Pending { depth, layer, target, dir, name: name.to_vec() });
    }

    /// Whether a link of a layer above waits for this path.
    fn wanted(&self, path: &[Vec<u8>], depth: Depth) -> bool {
        let waits = |p: &Pending| {
            p.depth < depth && p.target == path && !self.merge.removed_between(path, p.depth, depth)
        };
        self.pending.iter().any(waits)
    }

    fn resolve(&mut self, path: &[Vec<u8>], depth: Depth, id: NodeId) {
        let (ready, waiting): (Vec<_>, Vec<_>) =
            self.pending.drain(..).partition(|p| p.depth <= depth && p.target == path);
        self.pending = waiting;
        for link in ready {
            self.merge.tree.link(link.dir, &link.name, id);
        }
    }

    /// Whether a link of this layer has a target in it that a layer above
    /// hides, so that its data was passed over.
    fn wants_second_pass(&self, depth: Depth) -> bool {
        self.pending.iter().any(|p| p.depth == depth && self.skipped.contains(&p.target))
    }

    fn second_pass(
        &mut self,
        layer: &Layer,
        depth: Depth,
        stream: TarStream,
    ) -> Result<(), ConvertError> {
        each_entry(layer, stream, |entry, name| {
            let failed = entry_error(layer, name);
            let extended = extended(entry).map_err(failed)?;
            let bytes = extended.path(entry);
            let Ok(path) = split(&bytes) else { return Ok(()) };
            let waits = |p: &Pending| p.depth == depth && p.target == path;
            if !self.pending.iter().any(waits) || entry.header().entry_type() == EntryType::Link {
                return Ok(());
            }
            let place = (self.merge.tree.root(), &b""[..], false);
            if let Some(kind) = self.kind(layer, depth, entry, place, (&bytes, &extended.sparse))? {
                let id = self.merge.tree.add(Node { meta: extended.meta, kind });
                self.resolve(&path, depth, id);
            }
            Ok(())
        })?;
        Ok(())
    }

    fn finish(self) -> Result<Conversion, ConvertError> {
        if let Some(link) = self.pending.into_iter().next() {
            return Err(ConvertError::LinkTarget {
                layer: link.layer,
                entry: show(&link.name),
                target: show(&link.target.join(&b'/')),
            });
        }
        let summary = self.writer.finish(&self.merge.tree)?;
        Ok(Conversion { bytes: summary.bytes, inodes: summary.inodes })
    }
}

/// Files that every start of a container reads: the dynamic linker, its cache
/// and the C library, of glibc and of musl, and the accounts. They are kept
/// uncompressed, so that reading them is copying, and no block of other small
/// files is inflated for them.
pub(crate) fn at_every_start(name: &[u8]) -> bool {
    let starts = |prefixes: &[&[u8]]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    [&b"libc.so.6"[..], b"ld.so.cache", b"passwd", b"group"].contains(&name)
        || starts(&[b"ld-linux", b"ld64.so.", b"ld-musl-", b"ld-2.", b"libc-2."])
}

/// The words of a path inside the image.
fn split(path: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    if path.starts_with(b"/") {
        return Err("it is absolute");
    }
    if path.len() > 4096 {
        return Err("it is longer than any path");
    }
    let mut words = Vec::new();
    for word in path.split(|b| *b == b'/') {
        match word {
            b"" | b"." => {}
            b".." => return Err("it has a .. component"),
            word if word.len() > 255 || word.contains(&0) => {
                return Err("it has an impossible name");
            }
            word => words.push(word.to_vec()),
        }
    }
    Ok(words)
}

/// Owner, mode, time and extended attributes of an entry.
/// Names the layer and the entry of an error.
fn entry_error(layer: &Layer, entry: &str) -> impl Fn(io::Error) -> ConvertError {
    let (layer, entry) = (layer.digest.clone(), entry.to_owned());
    move |source| ConvertError::Entry { layer: layer.clone(), entry: entry.clone(), source }
}

type TarEntry<'a> = tar::Entry<'a, TarStream>;

/// Does something with each entry of a layer and its name; the stream behind
/// the last one. An entry is read to its end, so that what follows is a
/// header, and headers are not read beyond their limit.
fn each_entry(
    layer: &Layer,
    stream: TarStream,
    mut each: impl FnMut(&mut TarEntry<'_>, &str) -> Result<(), ConvertError>,
) -> Result<TarStream, ConvertError> {
    let headers = stream.headers();
    let mut archive = tar::Archive::new(stream);
    let mut last = String::new();
    let mut entries = archive.entries().map_err(entry_error(layer, ""))?;
    loop {
        headers.set(HEADER_LIMIT);
        let entry = entries.next();
        headers.set(u64::MAX);
        let Some(entry) = entry else { break };
        let mut entry = entry.map_err(entry_error(layer, &last))?;
        last = show(&entry.path_bytes());
        each(&mut entry, &last)?;
        io::copy(&mut entry, &mut io::sink()).map_err(entry_error(layer, &last))?;
    }
    Ok(archive.into_inner())
}

/// What header and extension records say of an entry.
struct Extended {
    meta: Meta,
    sparse: Sparse,
}

impl Extended {
    /// The entry's name; a sparse file's header holds another.
    fn path(&self, entry: &TarEntry<'_>) -> Vec<u8> {
        match &self.sparse.name {
            Some(name) if self.sparse.size().is_some() => name.clone(),
            _ => entry.path_bytes().into_owned(),
        }
    }
}

fn extended(entry: &mut TarEntry<'_>) -> io::Result<Extended> {
    let header = entry.header();
    // A blank field is 0, as every unpacker has it.
    let id = |n: io::Result<u64>| u32::try_from(n.unwrap_or(0)).unwrap_or(u32::MAX);
    let (mut uid, mut gid) = (id(header.uid()), id(header.gid()));
    let mode = (header.mode()? & 0o7777) as u16;
    let mut mtime = header.mtime().unwrap_or(0);
    let mut xattrs = Vec::new();
    let mut sparse = Sparse::default();
    if let Some(records) = entry.pax_extensions()? {
        for record in records {
            let record = record?;
            let value = record.value_bytes();
            let number = || record.value().ok()?.split('.').next()?.parse::<u64>().ok();
            match record.key_bytes() {
                b"uid" => uid = number().and_then(|n| u32::try_from(n).ok()).unwrap_or(uid),
                b"gid" => gid = number().and_then(|n| u32::try_from(n).ok()).unwrap_or(gid),
                b"mtime" => mtime = number().unwrap_or(mtime),
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        let note = ACL_NOTES.iter().find(|(acl, _)| acl.as_bytes() == name);
                        let name = note.map_or(name, |(_, note)| note.as_bytes());
                        xattrs.push((name.to_vec(), value.to_vec()));
                    } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        sparse.record(key, value)?;
                    }
                }
            }
        }
    }
    let mtime = u32::try_from(mtime).unwrap_or(u32::MAX);
    Ok(Extended { meta: Meta { mode, uid, gid, mtime, xattrs }, sparse })
}
