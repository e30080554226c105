//! Archives that ADD unpacks: tar, alone or compressed by gzip, xz, bzip2 or
//! zstd. What is no archive is copied as it is.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use image::{ConvertOptions, Layer, LayerSource};
use runtime::ImageTree;
use squashfs::{Compression, Image, ReaderOptions};
use types::{ByteSize, Digest};

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

/// Where archives are unpacked, and how much of one at most.
pub(crate) struct Room {
    pub(crate) scratch: PathBuf,
    /// In bytes.
    pub(crate) limit: u64,
}

impl Room {
    /// A file without a name.
    fn file(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.scratch)
    }

    /// The tree of an archive; None for what is no archive.
    pub(crate) fn open<'a>(
        &self,
        open: impl Fn() -> io::Result<Box<dyn Read + 'a>>,
    ) -> io::Result<Option<ImageFiles>> {
        let mut head = Vec::new();
        open()?.take(HEAD).read_to_end(&mut head)?;
        let packed = [GZIP, ZSTD, XZ, BZIP2].iter().any(|magic| head.starts_with(magic));
        if !has_magic(&head) && !packed {
            return Ok(None);
        }
        let mut bytes = self.file()?;
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
            let mut plain = self.file()?;
            let most = self.limit.saturating_add(1);
            if io::copy(&mut inflated()?.take(most), &mut plain)? == most {
                let text = format!("it unpacks to more than {} (size_limit)", ByteSize(self.limit));
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
            }
            bytes = plain;
        }
        self.tree(bytes, has_magic(&start))
    }

    /// The tree of a tar; None for what is none, unless it says that it is one.
    fn tree(&self, tar: File, named: bool) -> io::Result<Option<ImageFiles>> {
        let size = tar.metadata()?.len();
        let layer = Layer { digest: Digest::sha256(&[0; 32]), size, diff_id: None };
        let source = OneTar { layer: [layer], file: tar };
        let out = self.file()?;
        let kept = out.try_clone()?;
        let options = ConvertOptions {
            compression: Compression::None,
            size_limit: self.limit,
            ..ConvertOptions::default()
        };
        match image::convert(&source, out, &options) {
            Ok(_) => {}
            // Compressed, but no tar: a file like any other.
            Err(_) if !named => return Ok(None),
            Err(error) => return Err(io::Error::other(error)),
        }
        let image = Image::open(kept, 0, ReaderOptions::default()).map_err(io::Error::other)?;
        Ok(Some(ImageFiles(ImageTree::new(vec![image.into()]))))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A tar with one file of a megabyte.
    fn tar() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1 << 20);
        header.set_mode(0o644);
        tar.append_data(&mut header, "zeros", io::repeat(0).take(1 << 20)).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn an_archive_unpacks_to_the_limit_at_most() {
        let scratch = tempfile::tempdir().unwrap();
        let plain = tar();
        let xz = {
            let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
            io::Write::write_all(&mut xz, &plain).unwrap();
            xz.finish().unwrap()
        };
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for (bytes, limit, good) in [
            (&plain, 4 << 20, true),
            (&xz, 4 << 20, true),
            (&zstd, 4 << 20, true),
            (&plain, 1 << 19, false),
            (&xz, 1 << 19, false),
            (&zstd, 1 << 19, false),
        ] {
            let room = Room { scratch: scratch.path().to_owned(), limit };
            let opened = room.open(|| Ok(Box::new(&bytes[..]) as Box<dyn Read + '_>));
            assert_eq!(opened.is_ok_and(|tree| tree.is_some()), good, "{} {limit}", bytes.len());
        }
    }

    #[test]
    fn it_is_unpacked_in_scratch() {
        let room = Room { scratch: "/nonexistent".into(), limit: 1 << 30 };
        let bytes = tar();
        let opened = room.open(|| Ok(Box::new(&bytes[..]) as Box<dyn Read + '_>));
        assert_eq!(opened.err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
    }
}
