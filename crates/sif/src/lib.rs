//! Read, write and edit SIF, the Singularity Image Format.
//!
//! A SIF file is a header, a table of descriptors and data objects:
//! partitions, definition file, labels, signatures. [`Sif::open`] reads header
//! and table and checks them against the file; objects are read where they
//! are. [`create`] writes a new file, [`Sif::add`], [`Sif::delete`] and
//! [`Sif::set_primary`] change one in place, in an order that leaves a
//! readable file whenever it is interrupted.
//!
//! The layout is that of `pkg/sif` of github.com/apptainer/sif; all numbers
//! are little-endian, structures packed.
#![forbid(unsafe_code)]

mod edit;
mod error;
mod format;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use edit::{CreateOptions, NewObject, create};
pub use error::Error;
pub use format::{Arch, FsKind, Header, Kind, NO_GROUP, Object, PartKind, Partition, is_sif};

use edit::NO_TIME;
use format::{DESCRIPTOR_LEN, HEADER_LEN};

/// More descriptors than this are not read: 48 is what all writers make.
const MOST_OBJECTS: u64 = 1 << 16;

/// An open file.
#[derive(Debug)]
pub struct Sif {
    file: File,
    path: PathBuf,
    header: Header,
    objects: Vec<Object>,
    /// The time of changes, seconds since 1970.
    now: i64,
}

impl Sif {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it cannot be read, is no SIF file, or its table contradicts it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        regular(path)?;
        let file = File::open(path).map_err(Error::io(path))?;
        Self::from_file(file, path)
    }

    /// Opens a file for changes.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when it cannot be written.
    pub fn open_for_writing(path: &Path) -> Result<Self, Error> {
        regular(path)?;
        let file = File::options().read(true).write(true).open(path).map_err(Error::io(path))?;
        Self::from_file(file, path)
    }

    fn from_file(file: File, path: &Path) -> Result<Self, Error> {
        let io = || Error::io(path);
        let len = file.metadata().map_err(io())?.len();
        let mut bytes = [0; HEADER_LEN];
        if len < HEADER_LEN as u64 {
            return Err(Error::NotSif(path.to_owned()));
        }
        file.read_exact_at(&mut bytes, 0).map_err(io())?;
        let header = Header::decode(&bytes).ok_or_else(|| Error::NotSif(path.to_owned()))?;
        let corrupt = |what: &'static str, offset: u64| Error::Corrupt {
            path: path.to_owned(),
            what,
            offset,
        };
        let table = header.descriptors_total.checked_mul(DESCRIPTOR_LEN as u64);
        let end = table.and_then(|table| table.checked_add(header.descriptors_offset));
        let over_header = header.descriptors_offset < HEADER_LEN as u64;
        let outside = end.is_none_or(|end| end > len);
        if header.descriptors_total > MOST_OBJECTS || over_header || outside {
            return Err(corrupt("the table of objects", header.descriptors_offset));
        }
        let mut table = vec![0; header.descriptors_total as usize * DESCRIPTOR_LEN];
        file.read_exact_at(&mut table, header.descriptors_offset).map_err(io())?;
        let mut objects = Vec::new();
        for (slot, bytes) in (0u64..).zip(table.chunks_exact(DESCRIPTOR_LEN)) {
            let at = header.descriptors_offset + slot * DESCRIPTOR_LEN as u64;
            let Some(object) = Object::decode(bytes, slot as u32) else { continue };
            let object = object.map_err(|what| corrupt(what, at))?;
            if object.offset.checked_add(object.size).is_none_or(|end| end > len) {
                return Err(corrupt("the extent of an object", at));
            }
            objects.push(object);
        }
        // What has no times stays so.
        let now = if header.created == NO_TIME { NO_TIME } else { unix_now() };
        Ok(Self { file, path: path.to_owned(), header, objects, now })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The objects, in the order of the table.
    #[must_use]
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The object with an id.
    ///
    /// # Errors
    /// When there is none.
    pub fn object(&self, id: u32) -> Result<&Object, Error> {
        let found = self.objects.iter().find(|object| object.id == id);
        found.ok_or_else(|| Error::NoObject { path: self.path.clone(), id })
    }

    /// The partition that is the root file system.
    #[must_use]
    pub fn primary(&self) -> Option<(&Object, Partition)> {
        self.partitions().find(|(_, partition)| partition.part == PartKind::Primary)
    }

    /// The partitions, in the order of the table.
    pub fn partitions(&self) -> impl Iterator<Item = (&Object, Partition)> {
        self.objects.iter().filter_map(|object| object.partition().map(|part| (object, part)))
    }

    /// The bytes of an object, which must not be longer than `limit`.
    ///
    /// # Errors
    /// When it is longer, or cannot be read.
    pub fn read(&self, object: &Object, limit: u64) -> Result<Vec<u8>, Error> {
        if object.size > limit {
            let (path, id) = (self.path.clone(), object.id);
            return Err(Error::TooLong { path, id, size: object.size, limit });
        }
        let mut bytes = vec![0; object.size as usize];
        self.file.read_exact_at(&mut bytes, object.offset).map_err(Error::io(&self.path))?;
        Ok(bytes)
    }

    /// Writes the bytes of an object to somewhere.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub fn copy(&self, object: &Object, to: &mut dyn std::io::Write) -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        while done < object.size {
            let part = buffer.len().min(usize::try_from(object.size - done).unwrap_or(usize::MAX));
            let read = self.file.read_exact_at(&mut buffer[..part], object.offset + done);
            read.map_err(Error::io(&self.path))?;
            to.write_all(&buffer[..part]).map_err(Error::Output)?;
            done += part as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}

/// Opening a FIFO would wait for somebody to write to it.
fn regular(path: &Path) -> Result<(), Error> {
    let is_file = path.metadata().map_err(Error::io(path))?.is_file();
    if is_file { Ok(()) } else { Err(Error::NotSif(path.to_owned())) }
}
