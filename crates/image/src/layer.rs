//! A squashfs image as one layer: a tar stream with pax headers. Whiteouts of
//! overlayfs become those of OCI.
//!
//! The same image gives the same bytes: entries come in the order of names,
//! times are the image's, and what names nobody (inode numbers, device of the
//! file system) is left out.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::Digest as _;
use squashfs::{Image, Inode, InodeKind};
use tar::{EntryType, Header};
use types::{ACL_NOTES, Descriptor, Digest};

use crate::copy::{CopyError, FileReader};

/// How a layer that is written is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerForm {
    /// gzip: every tool reads it.
    Gzip(i32),
    /// zstd: smaller and faster, for tools since 2020.
    Zstd(i32),
}

impl LayerForm {
    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A layer that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenLayer {
    /// What a manifest says of it.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
}

/// Writes an image as a compressed layer.
///
/// # Errors
/// When the image cannot be read, or the layer cannot be written.
pub fn write_layer(
    image: &Image,
    out: &mut dyn Write,
    form: LayerForm,
) -> Result<WrittenLayer, CopyError> {
    let blob = Hashed::new(out);
    let (diff_id, blob) = match form {
        LayerForm::Gzip(level) => {
            let level = flate2::Compression::new(level.clamp(0, 9).unsigned_abs());
            let mut tar = Hashed::new(flate2::write::GzEncoder::new(blob, level));
            write_tar(image, &mut tar)?;
            let (inner, digest, _) = tar.finish();
            (digest, inner.finish().map_err(CopyError::Layer)?)
        }
        LayerForm::Zstd(level) => {
            let encoder = zstd::Encoder::new(blob, level).map_err(CopyError::Layer)?;
            let mut tar = Hashed::new(encoder);
            write_tar(image, &mut tar)?;
            let (inner, digest, _) = tar.finish();
            (digest, inner.finish().map_err(CopyError::Layer)?)
        }
    };
    let (_, digest, size) = blob.finish();
    Ok(WrittenLayer { descriptor: Descriptor::new(form.media_type(), digest, size), diff_id })
}

/// The digest and the length of an image's tar stream, uncompressed.
///
/// # Errors
/// When the image cannot be read.
pub fn tar_digest(image: &Image) -> Result<(Digest, u64), CopyError> {
    let mut tar = Hashed::new(io::sink());
    write_tar(image, &mut tar)?;
    let (_, digest, size) = tar.finish();
    Ok((digest, size))
}

/// The digest and the length of what a reader gives.
///
/// # Errors
/// When it cannot be read.
pub fn digest(reader: &mut dyn io::Read) -> io::Result<(Digest, u64)> {
    let mut sink = Hashed::new(io::sink());
    io::copy(reader, &mut sink)?;
    let (_, digest, size) = sink.finish();
    Ok((digest, size))
}

/// Counts and hashes what passes.
pub(crate) struct Hashed<W> {
    inner: W,
    hash: sha2::Sha256,
    count: u64,
}

impl<W: Write> Hashed<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: sha2::Sha256::new(), count: 0 }
    }

    pub(crate) fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest::sha256(&self.hash.finalize().into()), self.count)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Longest text in a name field of a header.
const NAME_FIELD: usize = 100;
/// Largest owner that seven octal digits hold.
const LARGEST_ID: u32 = 0o7_777_777;
/// First size that eleven octal digits do not hold.
const LARGEST_SIZE: u64 = 1 << 33;

/// Writes an image as an uncompressed tar stream.
fn write_tar(image: &Image, out: &mut dyn Write) -> Result<(), CopyError> {
    let mut tar = Tar { image, out: tar::Builder::new(out), links: HashMap::new() };
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| CopyError::Image { path, source }
    };
    let root = image.inode(image.root()).map_err(read(Path::new("/")))?;
    let mut seen = HashSet::from([root.reference]);
    tar.entry(&root, Path::new("."))?;
    // Depth first, so that a directory comes before what is in it.
    let mut todo = vec![(root, PathBuf::new())];
    while let Some((dir, path)) = todo.pop() {
        let mut below = Vec::new();
        for entry in image.read_dir(&dir, 0).map_err(read(&path))? {
            let entry = entry.map_err(read(&path))?;
            let name = std::os::unix::ffi::OsStrExt::from_bytes(&entry.name[..]);
            let path = path.join::<&std::ffi::OsStr>(name);
            let inode = image.inode(entry.inode).map_err(read(&path))?;
            if inode.is_whiteout() {
                tar.marker(&path.with_file_name(concat(b".wh.", &entry.name)))?;
                continue;
            }
            tar.entry(&inode, &path)?;
            if let InodeKind::Directory { .. } = inode.kind {
                // A directory has one name; another is a loop or damage.
                if !seen.insert(inode.reference) {
                    return Err(CopyError::Loop(path));
                }
                if image.is_opaque(&inode).map_err(read(&path))? {
                    tar.marker(&path.join(".wh..wh..opq"))?;
                }
                below.push((inode, path));
            }
        }
        todo.extend(below.into_iter().rev());
    }
    tar.out.finish().map_err(CopyError::Layer)
}

fn concat(prefix: &[u8], name: &[u8]) -> std::ffi::OsString {
    std::os::unix::ffi::OsStringExt::from_vec([prefix, name].concat())
}

struct Tar<'a, W: Write> {
    image: &'a Image,
    out: tar::Builder<W>,
    links: HashMap<u32, PathBuf>,
}

impl<W: Write> Tar<'_, W> {
    /// What takes something of a lower layer away (OCI image-spec, layer.md).
    fn marker(&mut self, path: &Path) -> Result<(), CopyError> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(0);
        self.out.append_data(&mut header, path, io::empty()).map_err(CopyError::Layer)
    }

    fn entry(&mut self, inode: &Arc<Inode>, path: &Path) -> Result<(), CopyError> {
        let failed = |source| CopyError::Image { path: path.to_owned(), source };
        let mut name = path.as_os_str().as_encoded_bytes().to_vec();
        let (mut link, mut size) = (Vec::new(), 0);
        let mut header = Header::new_ustar();
        let device = |header: &mut Header, major, minor| {
            let set = header.set_device_major(major);
            set.and_then(|()| header.set_device_minor(minor)).map_err(CopyError::Layer)
        };
        let known = self.links.get(&inode.number).filter(|_| inode.nlink > 1);
        let kind = match (&inode.kind, known) {
            (InodeKind::Directory { .. }, _) => {
                name.push(b'/');
                EntryType::Directory
            }
            (_, Some(first)) => {
                link = first.as_os_str().as_encoded_bytes().to_vec();
                EntryType::Link
            }
            (InodeKind::File { size: bytes, .. }, _) => {
                size = *bytes;
                EntryType::Regular
            }
            (InodeKind::Symlink { .. }, _) => {
                link = self.image.read_link(inode).map_err(failed)?;
                EntryType::Symlink
            }
            (InodeKind::BlockDevice { major, minor }, _) => {
                device(&mut header, *major, *minor)?;
                EntryType::Block
            }
            (InodeKind::CharDevice { major, minor }, _) => {
                device(&mut header, *major, *minor)?;
                EntryType::Char
            }
            (InodeKind::Fifo, _) => EntryType::Fifo,
            // tar has no sockets; a program makes its own.
            (InodeKind::Socket, _) => return Ok(()),
        };
        if inode.nlink > 1 && known.is_none() && kind != EntryType::Directory {
            self.links.insert(inode.number, path.to_owned());
        }
        let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
        let mut extend = |key: &str, value: &[u8]| pax.push((key.to_owned(), value.to_vec()));
        if name.len() > NAME_FIELD {
            extend("path", &name);
        }
        if link.len() > NAME_FIELD {
            extend("linkpath", &link);
        }
        for (key, id) in [("uid", inode.uid), ("gid", inode.gid)] {
            if id > LARGEST_ID {
                extend(key, id.to_string().as_bytes());
            }
        }
        if size >= LARGEST_SIZE {
            extend("size", size.to_string().as_bytes());
        }
        if kind != EntryType::Link {
            for (key, value) in self.image.xattrs(inode).map_err(failed)? {
                if crate::copy::of_overlay(&key) {
                    continue;
                }
                let acl = ACL_NOTES.iter().find(|(_, note)| note.as_bytes() == key);
                let key = acl.map_or(String::from_utf8_lossy(&key), |(acl, _)| (*acl).into());
                extend(&format!("SCHILY.xattr.{key}"), &value);
            }
        }
        if !pax.is_empty() {
            let list = pax.iter().map(|(key, value)| (key.as_str(), &value[..]));
            self.out.append_pax_extensions(list).map_err(CopyError::Layer)?;
        }
        let fields = header.as_ustar_mut();
        if let Some(fields) = fields {
            let cut = |text: &[u8]| text.len().min(NAME_FIELD);
            fields.name[..cut(&name)].copy_from_slice(&name[..cut(&name)]);
            fields.linkname[..cut(&link)].copy_from_slice(&link[..cut(&link)]);
        }
        header.set_entry_type(kind);
        header.set_mode(u32::from(inode.mode & 0o7777));
        header.set_uid(u64::from(inode.uid));
        header.set_gid(u64::from(inode.gid));
        header.set_mtime(u64::from(inode.mtime));
        header.set_size(size);
        header.set_cksum();
        let data = FileReader { image: self.image, inode: Arc::clone(inode), at: 0 };
        let appended = if kind == EntryType::Regular {
            self.out.append(&header, io::BufReader::with_capacity(1 << 20, data))
        } else {
            self.out.append(&header, io::empty())
        };
        appended.map_err(CopyError::Layer)
    }
}
