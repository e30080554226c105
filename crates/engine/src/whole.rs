//! A root file system as one squashfs image.
//!
//! Where it is one already, and nothing is to be changed, its bytes are taken as
//! they are: nothing is compressed again.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use image::{Extra, TreeSource};
use plan::{ImagePart, RootSource};
use squashfs::{Compression, Image, ReaderOptions};

use crate::{Engine, Error, Origin, Resolved, Result, unpack};

/// Where the kernel reads the last bytes of an image, it reads so many.
const PAGE: u64 = 4096;

/// An image in a file: `len` bytes from `at` on, and zeroes up to `padded`.
pub(crate) struct Whole {
    pub(crate) file: File,
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) padded: u64,
}

impl Whole {
    fn new(file: File, at: u64, image: &Image) -> Self {
        let len = image.superblock().bytes_used;
        Self { file, at, len, padded: len.next_multiple_of(PAGE) }
    }

    /// All bytes, zeroes too.
    pub(crate) fn reader(&self) -> impl Read + '_ {
        let own = Range { file: &self.file, at: self.at, left: self.len };
        own.chain(io::repeat(0).take(self.padded - self.len))
    }

    fn write(&self, to: &mut File) -> io::Result<()> {
        let mut from = &self.file;
        from.seek(io::SeekFrom::Start(self.at))?;
        // The kernel copies; where the file system can, it shares the blocks.
        if io::copy(&mut from.take(self.len), to)? < self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.set_len(self.padded)
    }
}

/// Bytes of a file, whatever its offset is.
struct Range<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let got = self.file.read_at(&mut buffer[..len], self.at)?;
        if got == 0 && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.at, self.left) = (self.at + got as u64, self.left - got as u64);
        Ok(got)
    }
}

impl Engine {
    /// The image to read as a tree. What is not one file is copied to a file
    /// without a name beside `near`, and so is what has to become older.
    pub(crate) fn as_image(
        &self,
        image: &Resolved,
        near: &Path,
        latest: Option<u32>,
    ) -> Result<Image> {
        match &image.root {
            RootSource::Squashfs { parts } if latest.is_none() => {
                unpack::flat(parts, near, self.config().size_limit.value)
            }
            _ => {
                let file = self.rewritten(image, &[], near, latest)?;
                let unread = |source| Error::UnpackRead { path: near.to_owned(), source };
                Image::open(file, 0, ReaderOptions::default()).map_err(unread)
            }
        }
    }

    /// The image's bytes, with `extras`; in a file without a name beside `near`
    /// unless they are there.
    pub(crate) fn as_squashfs(
        &self,
        image: &Resolved,
        extras: &[Extra],
        near: &Path,
        latest: Option<u32>,
    ) -> Result<Whole> {
        if let Some(whole) = self.unchanged(image, extras, latest)? {
            return Ok(whole);
        }
        let file = self.rewritten(image, extras, near, latest)?;
        let cannot = |source| Error::Export { path: near.to_owned(), source };
        let copy = file.try_clone().map_err(cannot)?;
        let unread = |source| Error::UnpackRead { path: near.to_owned(), source };
        let image = Image::open(copy, 0, ReaderOptions::default()).map_err(unread)?;
        Ok(Whole::new(file, 0, &image))
    }

    /// Writes the image's bytes, with `extras`, to an empty file.
    pub(crate) fn write_squashfs(
        &self,
        image: &Resolved,
        mut file: File,
        extras: &[Extra],
        path: &Path,
        latest: Option<u32>,
    ) -> Result<()> {
        match self.unchanged(image, extras, latest)? {
            Some(whole) => {
                let failed = |source| Error::Export { path: path.to_owned(), source };
                whole.write(&mut file).map_err(failed)
            }
            None => self.rewrite(image, file, extras, path, latest),
        }
    }

    /// The bytes that are there, where the result has the same.
    fn unchanged(
        &self,
        image: &Resolved,
        extras: &[Extra],
        latest: Option<u32>,
    ) -> Result<Option<Whole>> {
        let RootSource::Squashfs { parts } = &image.root else { return Ok(None) };
        let [part] = &parts[..] else { return Ok(None) };
        if !extras.is_empty() || latest.is_some() {
            return Ok(None);
        }
        let ImagePart { path, offset } = part;
        let file =
            File::open(path).map_err(|source| Error::OpenImage { path: path.clone(), source })?;
        let image = unpack::open(parts)?.remove(0);
        let compression = &self.config().compression;
        let kept = match (&compression.origin, compression.value) {
            (Origin::Default, _) => true,
            // Whoever names a codec may mean its level.
            (Origin::Flag { .. }, _) | (_, Compression::None) => false,
            (_, wanted) => wanted.id() == image.superblock().compression,
        };
        Ok(kept.then(|| Whole::new(file, *offset, &image)))
    }

    fn rewritten(
        &self,
        image: &Resolved,
        extras: &[Extra],
        near: &Path,
        latest: Option<u32>,
    ) -> Result<File> {
        let cannot = |source| Error::Export { path: near.to_owned(), source };
        let file = unpack::nameless(near).map_err(cannot)?;
        let copy = file.try_clone().map_err(cannot)?;
        self.rewrite(image, copy, extras, near, latest)?;
        Ok(file)
    }

    fn rewrite(
        &self,
        image: &Resolved,
        file: File,
        extras: &[Extra],
        path: &Path,
        latest: Option<u32>,
    ) -> Result<()> {
        let config = self.config();
        let options = image::ConvertOptions {
            compression: config.compression.value,
            size_limit: config.size_limit.value,
            latest,
            ..image::ConvertOptions::default()
        };
        let failed = |source| Error::Copy { path: path.to_owned(), source };
        match &image.root {
            RootSource::Directory { path: from } => {
                image::copy(TreeSource::Directory(from), file, &options, extras).map_err(failed)?;
            }
            RootSource::Squashfs { parts } => {
                let opened = unpack::open(parts)?;
                image::copy(TreeSource::Images(&opened), file, &options, extras).map_err(failed)?;
            }
        }
        Ok(())
    }
}
