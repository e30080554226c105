//! Inodes, directories and the tables behind them.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::data::{Done, Record};
use super::metadata::Stream;
use super::{Summary, WriteError, WriterOptions};
use crate::codec::Compression;
use crate::format::{
    ABSENT, LINK_LEN, METADATA_LEN, METADATA_STORED, NAME_LEN, NONE, Superblock, XATTR_NAMES_LEN,
    XATTR_VALUE_LEN, XATTR_VALUES_LEN, encode_device, flags, kind,
};
use crate::tree::{Meta, NodeId, NodeKind, Tree};

/// The block after the superblock that some compressors need; empty for the
/// others. lz4 must say that it is lz4 version 1.
pub(super) fn options_block(compression: Compression) -> Vec<u8> {
    if compression != Compression::Lz4 {
        return Vec::new();
    }
    let mut block = (8 | METADATA_STORED).to_le_bytes().to_vec();
    block.extend(1u32.to_le_bytes());
    block.extend(0u32.to_le_bytes());
    block
}

pub(super) fn write(
    done: Done,
    tree: &Tree,
    options: &WriterOptions,
) -> Result<Summary, WriteError> {
    let mut builder = Builder::new(&done.records, tree, options);
    let root = builder.tree()?;
    let Builder { inodes, directories, ids, xattrs, references, .. } = builder;
    let mut out = Output { file: done.out, at: done.position };
    let mut sb = Superblock {
        inodes: references.len() as u32,
        mkfs_time: options.mkfs_time,
        block_size: options.block_size,
        fragments: done.fragments.len() as u32,
        compression: options.compression.id(),
        block_log: options.block_size.trailing_zeros() as u16,
        flags: flags::DUPLICATES,
        ids: ids.list.len() as u16,
        root,
        xattr_table: ABSENT,
        export_table: ABSENT,
        fragment_table: ABSENT,
        ..Superblock::default()
    };
    let new = || Stream::new(options.compression);
    sb.inode_table = out.stream(inodes)?.0;
    sb.directory_table = out.stream(directories)?.0;
    let mut fragments = new();
    for fragment in &done.fragments {
        fragments.write(&fragment.start.to_le_bytes());
        fragments.write(&u64::from(fragment.word).to_le_bytes());
    }
    sb.fragment_table = out.table(fragments)?;
    if options.exportable {
        sb.flags |= flags::EXPORT;
        let mut export = new();
        for reference in &references {
            export.write(&reference.to_le_bytes());
        }
        sb.export_table = out.table(export)?;
    }
    let mut id_table = new();
    for id in &ids.list {
        id_table.write(&id.to_le_bytes());
    }
    sb.id_table = out.table(id_table)?;
    if xattrs.sets.is_empty() {
        sb.flags |= flags::NO_XATTRS;
    } else {
        sb.xattr_table = out.xattrs(xattrs, new())?;
    }
    let block = options_block(options.compression);
    if !block.is_empty() {
        sb.flags |= flags::OPTIONS;
    }
    sb.bytes_used = out.at;
    out.pad()?;
    let bytes = out.at;
    let mut head = sb.encode();
    head.extend(block);
    out.at = 0;
    out.write(&head)?;
    let end = out.file.set_len(bytes);
    end.map_err(|source| WriteError::Write { offset: bytes, source })?;
    Ok(Summary { bytes, inodes: sb.inodes, duplicates: done.duplicates })
}

/// The end of the output file.
struct Output {
    file: File,
    at: u64,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let write = self.file.write_all_at(bytes, self.at);
        write.map_err(|source| WriteError::Write { offset: self.at, source })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Writes a stream; where it starts, and where its blocks do.
    fn stream(&mut self, mut stream: Stream) -> Result<(u64, Vec<u64>), WriteError> {
        stream.flush();
        let start = self.at;
        self.write(&stream.out)?;
        Ok((start, stream.starts.iter().map(|at| start + at).collect()))
    }

    /// Writes a stream and the list of its blocks; where the list is.
    fn table(&mut self, stream: Stream) -> Result<u64, WriteError> {
        let (_, starts) = self.stream(stream)?;
        let list = self.at;
        for start in starts {
            self.write(&start.to_le_bytes())?;
        }
        Ok(list)
    }

    fn xattrs(&mut self, xattrs: Xattrs, mut ids: Stream) -> Result<u64, WriteError> {
        let count = xattrs.sets.len() as u32;
        for (reference, entries, size) in &xattrs.sets {
            ids.write(&reference.to_le_bytes());
            ids.write(&entries.to_le_bytes());
            ids.write(&size.to_le_bytes());
        }
        let (start, _) = self.stream(xattrs.stream)?;
        let (_, starts) = self.stream(ids)?;
        let table = self.at;
        self.write(&start.to_le_bytes())?;
        self.write(&count.to_le_bytes())?;
        self.write(&0u32.to_le_bytes())?;
        for start in starts {
            self.write(&start.to_le_bytes())?;
        }
        Ok(table)
    }

    /// Images end at a multiple of 4 KiB, for loop devices.
    fn pad(&mut self) -> Result<(), WriteError> {
        let end = self.at.next_multiple_of(4096);
        self.write(&vec![0; (end - self.at) as usize])
    }
}

#[derive(Default)]
struct Ids {
    list: Vec<u32>,
    index: HashMap<u32, u16>,
}

impl Ids {
    fn get(&mut self, id: u32) -> Result<u16, WriteError> {
        if let Some(index) = self.index.get(&id) {
            return Ok(*index);
        }
        // The superblock counts them in 16 bits.
        let index = u16::try_from(self.list.len()).ok().filter(|i| *i < u16::MAX);
        let index = index.ok_or(WriteError::Ids)?;
        self.list.push(id);
        self.index.insert(id, index);
        Ok(index)
    }
}

struct Xattrs {
    stream: Stream,
    index: HashMap<Vec<u8>, u32>,
    /// Reference, number of attributes, length.
    sets: Vec<(u64, u32, u32)>,
}

impl Xattrs {
    fn get(&mut self, list: &[(Vec<u8>, Vec<u8>)]) -> Result<u32, WriteError> {
        const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
        let (mut bytes, mut count) = (Vec::new(), 0);
        let (mut names, mut values) = (0, 0);
        let mut sorted: Vec<_> = list.iter().collect();
        sorted.sort();
        for (name, value) in sorted {
            let find = |(code, prefix): (u16, &&[u8])| Some((code, name.strip_prefix(*prefix)?));
            let Some((code, rest)) = (0..).zip(&PREFIXES).find_map(find) else { continue };
            let too_long = || WriteError::Xattr(String::from_utf8_lossy(name).into_owned());
            (names, values) = (names + name.len() + 1, values + value.len());
            let together = names > XATTR_NAMES_LEN || values > XATTR_VALUES_LEN;
            if rest.len() > 255 || value.len() > XATTR_VALUE_LEN || together {
                return Err(too_long());
            }
            bytes.extend(code.to_le_bytes());
            bytes.extend((rest.len() as u16).to_le_bytes());
            bytes.extend_from_slice(rest);
            bytes.extend((value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value);
            count += 1;
        }
        if count == 0 {
            return Ok(NONE);
        }
        if let Some(index) = self.index.get(&bytes) {
            return Ok(*index);
        }
        let index = self.sets.len() as u32;
        self.sets.push((self.stream.reference(), count, bytes.len() as u32));
        self.stream.write(&bytes);
        self.index.insert(bytes, index);
        Ok(index)
    }
}

struct Builder<'a> {
    records: &'a [Record],
    tree: &'a Tree,
    inodes: Stream,
    directories: Stream,
    ids: Ids,
    xattrs: Xattrs,
    /// Inode number of each node, 0 for one that no directory names.
    numbers: Vec<u32>,
    links: Vec<u32>,
    /// Reference of each inode, by number less 1.
    references: Vec<u64>,
}

/// A listing that has been written.
struct Listing {
    block: u32,
    offset: u16,
    size: u32,
    /// Index entries: offset in the listing, block, first name.
    index: Vec<(u32, u32, Vec<u8>)>,
}

impl<'a> Builder<'a> {
    fn new(records: &'a [Record], tree: &'a Tree, options: &WriterOptions) -> Self {
        let stream = || Stream::new(options.compression);
        Self {
            records,
            tree,
            inodes: stream(),
            directories: stream(),
            ids: Ids::default(),
            xattrs: Xattrs { stream: stream(), index: HashMap::new(), sets: Vec::new() },
            numbers: vec![0; tree.len()],
            links: vec![0; tree.len()],
            references: Vec::new(),
        }
    }

    /// Writes every inode, children before their directory; the root's
    /// reference.
    fn tree(&mut self) -> Result<u64, WriteError> {
        let order = self.number()?;
        for (dir, parent) in order.iter().rev() {
            let children: Vec<(&[u8], NodeId)> = self.tree.children(*dir).collect();
            for (name, child) in &children {
                let number = self.numbers[child.index()] as usize - 1;
                if self.references[number] == u64::MAX {
                    self.references[number] = self.inode(*child, name)?;
                }
            }
            let listing = self.listing(&children)?;
            let number = self.numbers[dir.index()] as usize - 1;
            self.references[number] = self.directory(*dir, *parent, listing, &children)?;
        }
        Ok(self.references[0])
    }

    /// Numbers the inodes; every directory with its parent's number, parents
    /// first.
    fn number(&mut self) -> Result<Vec<(NodeId, u32)>, WriteError> {
        let root = self.tree.root();
        let mut order = vec![(root, 0)];
        self.numbers[root.index()] = 1;
        let (mut next, mut at) = (2, 0);
        while let Some((dir, _)) = order.get(at).copied() {
            at += 1;
            let own = self.numbers[dir.index()];
            for (_, child) in self.tree.children(dir) {
                self.links[child.index()] += 1;
                let number = &mut self.numbers[child.index()];
                if *number != 0 {
                    continue;
                }
                *number = next;
                next = next.checked_add(1).ok_or(WriteError::Table("inodes"))?;
                if matches!(self.tree.get(child).kind, NodeKind::Directory(_)) {
                    order.push((child, own));
                }
            }
        }
        self.references = vec![u64::MAX; next as usize - 1];
        Ok(order)
    }

    fn head(&mut self, code: u16, node: NodeId) -> Result<Vec<u8>, WriteError> {
        let Meta { mode, uid, gid, mtime, .. } = self.tree.get(node).meta;
        let mut head = code.to_le_bytes().to_vec();
        head.extend((mode & 0o7777).to_le_bytes());
        head.extend(self.ids.get(uid)?.to_le_bytes());
        head.extend(self.ids.get(gid)?.to_le_bytes());
        head.extend(mtime.to_le_bytes());
        head.extend(self.numbers[node.index()].to_le_bytes());
        Ok(head)
    }

    /// Writes the inode of anything but a directory.
    fn inode(&mut self, node: NodeId, name: &[u8]) -> Result<u64, WriteError> {
        let tree = self.tree;
        let entry = tree.get(node);
        let xattr = self.xattrs.get(&entry.meta.xattrs)?;
        let nlink = self.links[node.index()];
        let extended = |base: u16| if xattr == NONE { base } else { base + kind::EXTENDED };
        let mut bytes;
        match &entry.kind {
            NodeKind::Directory(_) => return Ok(u64::MAX),
            NodeKind::File(data) => {
                let record = &self.records[data.record as usize];
                return self.file(node, record, nlink, xattr);
            }
            NodeKind::Symlink(target) => {
                if target.is_empty() || target.len() > LINK_LEN {
                    return Err(WriteError::Link(String::from_utf8_lossy(name).into_owned()));
                }
                bytes = self.head(extended(kind::SYMLINK), node)?;
                bytes.extend(nlink.to_le_bytes());
                bytes.extend((target.len() as u32).to_le_bytes());
                bytes.extend_from_slice(target);
            }
            NodeKind::BlockDevice { major, minor } | NodeKind::CharDevice { major, minor } => {
                let base = match entry.kind {
                    NodeKind::BlockDevice { .. } => kind::BLOCK,
                    _ => kind::CHAR,
                };
                bytes = self.head(extended(base), node)?;
                bytes.extend(nlink.to_le_bytes());
                bytes.extend(encode_device(*major, *minor).to_le_bytes());
            }
            NodeKind::Fifo | NodeKind::Socket => {
                let base = if entry.kind == NodeKind::Fifo { kind::FIFO } else { kind::SOCKET };
                bytes = self.head(extended(base), node)?;
                bytes.extend(nlink.to_le_bytes());
            }
        }
        if xattr != NONE {
            bytes.extend(xattr.to_le_bytes());
        }
        self.emit(&bytes)
    }

    fn file(
        &mut self,
        node: NodeId,
        record: &Record,
        nlink: u32,
        xattr: u32,
    ) -> Result<u64, WriteError> {
        let small = u32::try_from(record.size).is_ok() && u32::try_from(record.start).is_ok();
        let mut bytes;
        if small && nlink == 1 && xattr == NONE && record.sparse == 0 {
            bytes = self.head(kind::FILE, node)?;
            for word in [record.start as u32, record.fragment, record.offset, record.size as u32] {
                bytes.extend(word.to_le_bytes());
            }
        } else {
            bytes = self.head(kind::FILE + kind::EXTENDED, node)?;
            // The kernel takes the size less this for the number of sectors.
            let sparse = record.sparse.min(record.size.saturating_sub(1));
            for long in [record.start, record.size, sparse] {
                bytes.extend(long.to_le_bytes());
            }
            for word in [nlink, record.fragment, record.offset, xattr] {
                bytes.extend(word.to_le_bytes());
            }
        }
        for word in &record.words {
            bytes.extend(word.to_le_bytes());
        }
        self.emit(&bytes)
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<u64, WriteError> {
        let reference = self.inodes.reference();
        if reference >> 48 != 0 {
            return Err(WriteError::Table("inodes"));
        }
        self.inodes.write(bytes);
        Ok(reference)
    }

    fn directory(
        &mut self,
        node: NodeId,
        parent: u32,
        listing: Listing,
        children: &[(&[u8], NodeId)],
    ) -> Result<u64, WriteError> {
        let tree = self.tree;
        let xattr = self.xattrs.get(&tree.get(node).meta.xattrs)?;
        let is_dir = |id: &NodeId| matches!(tree.get(*id).kind, NodeKind::Directory(_));
        let subdirs = children.iter().filter(|(_, id)| is_dir(id)).count();
        let nlink = 2 + u32::try_from(subdirs).map_err(|_| WriteError::Table("directories"))?;
        // The root's parent is, by custom, the number after the last inode.
        let parent = if parent == 0 { self.references.len() as u32 + 1 } else { parent };
        let Listing { block, offset, size, index } = listing;
        let mut bytes;
        match u16::try_from(size) {
            Ok(size) if xattr == NONE && index.is_empty() => {
                bytes = self.head(kind::DIR, node)?;
                bytes.extend(block.to_le_bytes());
                bytes.extend(nlink.to_le_bytes());
                bytes.extend(size.to_le_bytes());
                bytes.extend(offset.to_le_bytes());
                bytes.extend(parent.to_le_bytes());
            }
            _ => {
                bytes = self.head(kind::DIR + kind::EXTENDED, node)?;
                for word in [nlink, size, block, parent] {
                    bytes.extend(word.to_le_bytes());
                }
                bytes.extend((index.len() as u16).to_le_bytes());
                bytes.extend(offset.to_le_bytes());
                bytes.extend(xattr.to_le_bytes());
                for (at, block, name) in index {
                    for word in [at, block, name.len() as u32 - 1] {
                        bytes.extend(word.to_le_bytes());
                    }
                    bytes.extend(name);
                }
            }
        }
        self.emit(&bytes)
    }

    /// Writes a directory's listing. A header is started for a new inode
    /// block, after 256 entries, for a number too far from the header's, and
    /// where the listing enters a new metadata block, so that an index entry
    /// can point there.
    fn listing(&mut self, children: &[(&[u8], NodeId)]) -> Result<Listing, WriteError> {
        let (block, offset) = self.directories.position();
        let narrow =
            |value: u64| u32::try_from(value).map_err(|_| WriteError::Table("directories"));
        let mut listing = Listing { block: narrow(block)?, offset, size: 3, index: Vec::new() };
        let mut written: u64 = 0;
        let mut rest = children;
        while !rest.is_empty() {
            let entered = (u64::from(offset) + written) / METADATA_LEN as u64;
            let indexed = listing.index.len() as u64;
            if entered > indexed && listing.index.len() < usize::from(u16::MAX) {
                let (at, _) = self.directories.position();
                listing.index.push((narrow(written)?, narrow(at)?, rest[0].0.to_vec()));
            }
            let room = METADATA_LEN as u64 - (u64::from(offset) + written) % METADATA_LEN as u64;
            let (bytes, count) = self.run(rest, room)?;
            self.directories.write(&bytes);
            written += bytes.len() as u64;
            rest = &rest[count..];
        }
        listing.size = narrow(written + 3)?;
        Ok(listing)
    }

    /// One header and its entries: at least one, at most 256, none that
    /// starts past `room`.
    fn run(&self, children: &[(&[u8], NodeId)], room: u64) -> Result<(Vec<u8>, usize), WriteError> {
        let place = |id: NodeId| {
            let number = self.numbers[id.index()];
            (number, self.references[number as usize - 1])
        };
        let (base, first) = place(children[0].1);
        let mut entries = Vec::new();
        let mut count = 0;
        for (name, id) in children.iter().take(256) {
            let (number, reference) = place(*id);
            let delta = i64::from(number) - i64::from(base);
            let Ok(delta) = i16::try_from(delta) else { break };
            if reference >> 16 != first >> 16 || (count > 0 && 12 + entries.len() as u64 >= room) {
                break;
            }
            let bad = name.is_empty()
                || name.len() > NAME_LEN
                || name.iter().any(|b| *b == b'/' || *b == 0)
                || *name == b"."
                || *name == b"..";
            if bad {
                return Err(WriteError::Name(String::from_utf8_lossy(name).into_owned()));
            }
            entries.extend((reference as u16).to_le_bytes());
            entries.extend(delta.to_le_bytes());
            entries.extend(self.code(*id).to_le_bytes());
            entries.extend((name.len() as u16 - 1).to_le_bytes());
            entries.extend_from_slice(name);
            count += 1;
        }
        let mut bytes = (count as u32 - 1).to_le_bytes().to_vec();
        let block = u32::try_from(first >> 16).map_err(|_| WriteError::Table("inodes"))?;
        bytes.extend(block.to_le_bytes());
        bytes.extend(base.to_le_bytes());
        bytes.extend(entries);
        Ok((bytes, count))
    }

    fn code(&self, id: NodeId) -> u16 {
        match self.tree.get(id).kind {
            NodeKind::Directory(_) => kind::DIR,
            NodeKind::File(_) => kind::FILE,
            NodeKind::Symlink(_) => kind::SYMLINK,
            NodeKind::BlockDevice { .. } => kind::BLOCK,
            NodeKind::CharDevice { .. } => kind::CHAR,
            NodeKind::Fifo => kind::FIFO,
            NodeKind::Socket => kind::SOCKET,
        }
    }
}
