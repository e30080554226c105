//! What is fed.

use std::io::{self, Read};

use image::{ConvertOptions, Layer, LayerSource};
use squashfs::{Image, InodeKind, ReaderOptions};
use types::Digest;

use crate::corpus;

/// Reads an input to its end; whether it was good.
type Run = fn(&[u8]) -> bool;

/// Something that reads bytes from outside.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) corpus: Vec<Vec<u8>>,
    pub(crate) run: Run,
}

pub(crate) fn all() -> Vec<Target> {
    let mut all = vec![
        Target { name: "squashfs", corpus: corpus::squashfs(), run: squashfs },
        Target { name: "sif", corpus: corpus::sif(), run: sif },
        Target { name: "tar", corpus: corpus::tar(), run: tar },
    ];
    let own: [(&str, Run); 8] = [
        ("ext", ext),
        ("cdi", cdi),
        ("hook", hook),
        ("elf", elf),
        ("ldcache", ldcache),
        ("manifest", manifest),
        ("config", config),
        ("profile", runtime::fuzz::profile),
    ];
    let parsers = own.into_iter().chain(build::fuzz::parsers()).chain(engine::fuzz::PARSERS);
    all.extend(parsers.map(|(name, run)| Target { name, corpus: corpus::files(name), run }));
    all
}

/// A damaged image may name a directory twice and so be endless: what is
/// walked is bounded here, as it is for everybody who walks one.
const MOST_INODES: usize = 400;
const MOST_BYTES: usize = 1 << 18;

fn squashfs(input: &[u8]) -> bool {
    let options = ReaderOptions {
        data_cache: 1 << 16,
        metadata_cache: 1 << 15,
        inode_cache: 64,
        list_cache: 1 << 15,
    };
    let Ok(image) = Image::open(input.to_vec(), 0, options) else { return false };
    let mut good = true;
    let mut todo = vec![image.root()];
    let (mut inodes, mut bytes) = (0, 0);
    let mut buffer = vec![0; 8192];
    while let Some(reference) = todo.pop() {
        inodes += 1;
        if inodes > MOST_INODES || bytes > MOST_BYTES {
            break;
        }
        let Ok(inode) = image.inode(reference) else {
            good = false;
            continue;
        };
        good &= image.xattrs(&inode).is_ok() & image.xattr_list(&inode).is_ok();
        good &= image.by_number(inode.number).is_ok();
        match inode.kind {
            InodeKind::Directory { .. } => {
                let Ok(entries) = image.read_dir(&inode, 0) else {
                    good = false;
                    continue;
                };
                for entry in entries.take(MOST_INODES) {
                    let Ok(entry) = entry else {
                        good = false;
                        break;
                    };
                    good &= image.lookup(&inode, &entry.name).is_ok();
                    todo.push(entry.inode);
                }
            }
            InodeKind::Symlink { .. } => good &= image.read_link(&inode).is_ok(),
            InodeKind::File { size, .. } => {
                for offset in [0, size / 2, size.saturating_sub(100)] {
                    match image.read(&inode, offset, &mut buffer) {
                        Ok(got) => bytes += got,
                        Err(_) => good = false,
                    }
                }
            }
            _ => {}
        }
    }
    good
}

thread_local! {
    static FILE: tempfile::NamedTempFile = tempfile::Builder::new()
        .prefix("sampan-fuzz")
        .tempfile_in("/dev/shm")
        .or_else(|_| tempfile::NamedTempFile::new())
        .expect("a temporary file");
}

fn sif(input: &[u8]) -> bool {
    FILE.with(|file| {
        std::fs::write(file.path(), input).expect("a temporary file is written");
        let Ok(sif) = sif::Sif::open(file.path()) else { return false };
        // OCI-SIF has no partition, but a root index.
        let index = |object: &sif::Object| object.kind == sif::Kind::OciRootIndex;
        let mut good = sif.primary().is_some() || sif.objects().iter().any(index);
        for object in sif.objects() {
            good &= sif.read(object, 1 << 16).is_ok();
            // Whatever they are, they are no panic.
            let _ = (object.digest(), object.partition(), object.kind.to_string());
        }
        good
    })
}

fn ext(input: &[u8]) -> bool {
    FILE.with(|file| {
        std::fs::write(file.path(), input).expect("a temporary file is written");
        let file = file.reopen().expect("a descriptor");
        ext::FileSystem::open(file, 0, input.len() as u64).is_ok_and(|fs| walk(&fs).is_ok())
    })
}

fn walk(fs: &ext::FileSystem) -> Result<(), ext::Error> {
    let mut buffer = vec![0; 8192];
    let mut todo = vec![fs.inode(ext::ROOT)?];
    let mut inodes = 0;
    while let Some(inode) = todo.pop() {
        inodes += 1;
        if inodes > MOST_INODES {
            break;
        }
        fs.xattrs(&inode)?;
        match inode.kind {
            ext::Kind::Directory => {
                for entry in fs.entries(&inode)?.into_iter().take(MOST_INODES) {
                    todo.push(fs.inode(entry.inode)?);
                }
            }
            ext::Kind::File => {
                for offset in [0, inode.size / 2, inode.size.saturating_sub(100)] {
                    fs.read(&inode, offset, &mut buffer)?;
                }
            }
            ext::Kind::Symlink => drop(fs.read_link(&inode)?),
            _ => {}
        }
    }
    Ok(())
}

struct Memory<'a> {
    layer: Vec<Layer>,
    bytes: &'a [u8],
}

impl LayerSource for Memory<'_> {
    fn layers(&self) -> &[Layer] {
        &self.layer
    }

    fn open(&self, _: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.bytes))
    }
}

fn tar(input: &[u8]) -> bool {
    let layer = Layer { digest: Digest::sha256(&[0; 32]), size: input.len() as u64, diff_id: None };
    let source = Memory { layer: vec![layer], bytes: input };
    let out = tempfile::tempfile().expect("a temporary file");
    let options = ConvertOptions { size_limit: 8 << 20, ..ConvertOptions::default() };
    image::convert(&source, out, &options).is_ok()
}

/// A CDI spec, in both of its forms.
fn cdi(input: &[u8]) -> bool {
    use host::cdi::{Format, Spec};
    let good = |format| Spec::parse(input, format).is_ok();
    good(Format::Json) | good(Format::Yaml)
}

/// A hook of a hooks directory.
fn hook(input: &[u8]) -> bool {
    host::hooks::HookFile::parse(std::path::Path::new("hook.json"), input).is_ok()
}

fn elf(input: &[u8]) -> bool {
    let read = |at: u64, len: usize| {
        let rest = input.get(usize::try_from(at).ok()?..)?;
        Some(rest[..len.min(rest.len())].to_vec())
    };
    host::elf::read(&read).is_some()
}

fn ldcache(input: &[u8]) -> bool {
    match host::ldcache::parse(input) {
        // What was read can be written, and is the same again.
        Ok(entries) => {
            let again = host::ldcache::parse(&host::ldcache::write(&entries));
            again.is_ok_and(|again| again.len() == entries.len())
        }
        Err(_) => false,
    }
}

/// A manifest or an index, and what a pull asks of it.
fn manifest(input: &[u8]) -> bool {
    use types::{Document, Platform};
    let Ok(document) = types::parse_document(input, None) else { return false };
    if let Document::Index(index) = document {
        let _ = (index.select(&Platform::host()), index.platforms());
    }
    true
}

fn config(input: &[u8]) -> bool {
    types::parse_image_config(input).is_ok()
}
