//! Archives that ADD unpacks: tar, alone or compressed by gzip, xz, bzip2 or
//! zstd. What is no archive is copied as it is.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use image::{ConvertOptions, Layer, LayerSource};
use runtime::ImageTree;
use squashfs::{Compression, Image, ReaderOptions};
use types::Digest;

use crate::bootstrap::inflate::inflate;
use crate::error::Result;
use crate::files::{Files, ImageFiles, What};
use crate::layer::{LayerWriter, Owning};

/// How an archive may begin, and what `ustar` has at byte 257.
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

const BZIP2: &[u8] = b"BZh";

/// What the first entry of a tar takes.
const HEAD: u64 = 512;

/// One layer, in a file.
struct OneTar {
    layer: [Layer; 1],
    file: File,
}

impl LayerSource for OneTar {
    fn layers(&self) -> &[Layer] {
        &self.layer
    }

    fn open(&self, _: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(FromStart::new(&self.file)))
    }
}

/// The tree of an archive; None for what is no archive.
pub(crate) fn open<'a>(
    open: impl Fn() -> io::Result<Box<dyn Read + 'a>>,
) -> io::Result<Option<ImageFiles>> {
    let mut head = Vec::new();
    open()?.take(HEAD).read_to_end(&mut head)?;
    let packed = [GZIP, ZSTD, XZ, BZIP2].iter().any(|magic| head.starts_with(magic));
    if !has_magic(&head) && !packed {
        return Ok(None);
    }
    let mut bytes = tempfile::tempfile()?;
    io::copy(&mut open()?, &mut bytes)?;
    let inflated = || {
        let mut file = bytes.try_clone()?;
        file.rewind()?;
        inflate(file)
    };
    let mut start = Vec::new();
    if inflated()?.take(HEAD).read_to_end(&mut start).is_err() {
        return Ok(None);
    }
    if [XZ, BZIP2].iter().any(|magic| head.starts_with(magic)) {
        let mut plain = tempfile::tempfile()?;
        io::copy(&mut inflated()?, &mut plain)?;
        bytes = plain;
    }
    let size = bytes.metadata()?.len();
    let layer = Layer { digest: Digest::sha256(&[0; 32]), size, diff_id: None };
    let source = OneTar { layer: [layer], file: bytes };
    let out = tempfile::tempfile()?;
    let kept = out.try_clone()?;
    let options = ConvertOptions { compression: Compression::None, ..ConvertOptions::default() };
    match image::convert(&source, out, &options) {
        Ok(_) => {}
        // Compressed, but no tar: a file like any other.
        Err(_) if !has_magic(&start) => return Ok(None),
        Err(error) => return Err(io::Error::other(error)),
    }
    let image = Image::open(kept, 0, ReaderOptions::default()).map_err(io::Error::other)?;
    Ok(Some(ImageFiles(ImageTree::new(vec![image.into()]))))
}

fn has_magic(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// A file from its beginning, wherever others have read to.
pub(crate) struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl<'a> FromStart<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

/// Copies a whole tree into a directory.
pub(crate) fn copy_all(writer: &mut LayerWriter<'_>, tree: &ImageFiles, to: &Path) -> Result<()> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| crate::error::BuildError::Read { path, source }
    };
    writer.directory(to, None)?;
    let mut todo = vec![PathBuf::from("/")];
    while let Some(dir) = todo.pop() {
        for name in tree.list(&dir).map_err(failed(&dir))? {
            let from = dir.join(name);
            let Some(info) = tree.info(&from).map_err(failed(&from))? else { continue };
            let to = to.join(from.strip_prefix("/").unwrap_or(&from));
            writer.copy(tree, &from, &info, &to, Owning::default())?;
            if info.what == What::Directory {
                todo.push(from);
            }
        }
    }
    Ok(())
}
