//! Writing new files and changing those that are there.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::format::{DESCRIPTOR_LEN, HEADER_LEN, LAUNCH, NAME_LEN};
use crate::{Arch, Error, Header, Kind, Object, PartKind, Partition, Sif};

/// How many objects a file can hold, as all writers have it.
const DESCRIPTORS: u64 = 48;
/// Where the table begins.
const TABLE: u64 = 4096;
/// Partitions begin at a multiple of this.
const PAGE: u64 = 4096;

/// What a new object is.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// Its kind.
    pub kind: Kind,
    /// Its name, at most 127 bytes.
    pub name: String,
    /// Its group; 0 for none.
    pub group: u32,
    /// The object that it is about; 0 for none.
    pub link: u32,
    /// For a partition, what it is.
    pub partition: Option<Partition>,
    /// For an OCI blob or root index, its digest.
    pub digest: Option<String>,
}

/// How a new file is marked.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Architecture of the primary partition.
    pub arch: Arch,
    /// Seconds since 1970; None makes a deterministic file, without times and
    /// identity.
    pub time: Option<i64>,
    /// Identity; zero in a deterministic file.
    pub uuid: [u8; 16],
    /// Whether the file is a program that starts itself by Apptainer.
    pub launch: bool,
}

/// The time of deterministic files: Go's zero, in year 1.
pub(crate) const NO_TIME: i64 = -62_135_596_800;

/// Writes a new file in an empty one, without objects.
///
/// # Errors
/// When it cannot be written.
pub fn create(file: File, path: &Path, options: &CreateOptions) -> Result<Sif, Error> {
    let time = options.time.unwrap_or(NO_TIME);
    let uuid = if options.time.is_some() { options.uuid } else { [0; 16] };
    let header = Header {
        launch: if options.launch {
            String::from_utf8_lossy(LAUNCH).trim_end().to_owned()
        } else {
            String::new()
        },
        version: "01".to_owned(),
        arch: options.arch,
        uuid: uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
        created: time,
        modified: time,
        descriptors_free: DESCRIPTORS,
        descriptors_total: DESCRIPTORS,
        descriptors_offset: TABLE,
        descriptors_size: DESCRIPTORS * DESCRIPTOR_LEN as u64,
        data_offset: TABLE + DESCRIPTORS * DESCRIPTOR_LEN as u64,
        data_size: 0,
    };
    let io = || Error::io(path);
    file.set_len(header.data_offset).map_err(io())?;
    file.write_all_at(&header.encode(), 0).map_err(io())?;
    Ok(Sif { file, path: path.to_owned(), header, objects: Vec::new(), now: time })
}

impl Sif {
    /// Appends an object. Its data is written first, then its descriptor, then
    /// the header.
    ///
    /// # Errors
    /// When there is no room, the name is too long, or the file cannot be
    /// written.
    pub fn add(&mut self, new: NewObject, data: &mut dyn Read) -> Result<u32, Error> {
        self.add_by(new, |sif, offset| sif.append(data, offset))
    }

    /// As [`add`](Self::add), with a part of another file; zeroes follow until the
    /// object has `padded` bytes. The kernel copies, or shares the blocks.
    ///
    /// # Errors
    /// As of [`add`](Self::add), and when the other file is shorter.
    pub fn add_file(
        &mut self,
        new: NewObject,
        from: &File,
        range: Range<u64>,
        padded: u64,
    ) -> Result<u32, Error> {
        self.add_by(new, |sif, offset| {
            let len = range.end.saturating_sub(range.start);
            let (mut from, mut to) = (from, &sif.file);
            from.seek(io::SeekFrom::Start(range.start)).map_err(Error::Source)?;
            to.seek(io::SeekFrom::Start(offset)).map_err(Error::io(&sif.path))?;
            // Of the two files either may fail.
            let copied = io::copy(&mut from.take(len), &mut to).map_err(Error::io(&sif.path))?;
            if copied < len {
                return Err(Error::Source(io::ErrorKind::UnexpectedEof.into()));
            }
            let size = padded.max(len);
            sif.file.set_len(offset + size).map_err(Error::io(&sif.path))?;
            Ok(size)
        })
    }

    /// Where data can begin: behind header and table, whatever the header says.
    fn first(&self) -> u64 {
        let table = self.header.descriptors_total * DESCRIPTOR_LEN as u64;
        self.header.data_offset.max(self.header.descriptors_offset + table)
    }

    /// Where the last object ends.
    fn end(&self) -> u64 {
        let ends = self.objects.iter().map(|object| object.offset + object.size);
        ends.max().unwrap_or(0).max(self.first())
    }

    fn add_by(
        &mut self,
        new: NewObject,
        write: impl FnOnce(&Self, u64) -> Result<u64, Error>,
    ) -> Result<u32, Error> {
        if new.name.len() >= NAME_LEN {
            return Err(Error::Name(new.name));
        }
        let taken: Vec<u32> = self.objects.iter().map(|object| object.slot).collect();
        let slot = (0..self.header.descriptors_total as u32).find(|slot| !taken.contains(slot));
        let slot = slot.ok_or_else(|| Error::Full(self.path.clone()))?;
        let end = self.end();
        let offset = match new.kind {
            Kind::Partition => end.next_multiple_of(PAGE),
            _ => end,
        };
        let size = write(self, offset)?;
        let time = self.now;
        let object = Object {
            id: slot + 1,
            kind: new.kind,
            group: new.group,
            link: new.link,
            linked_group: false,
            offset,
            size,
            created: time,
            modified: time,
            uid: 0,
            gid: 0,
            name: new.name,
            extra: match (new.partition, new.digest) {
                (Some(partition), _) => partition.encode(),
                (None, digest) => digest.unwrap_or_default().into_bytes(),
            },
            slot,
        };
        if let Some(Partition { part: PartKind::Primary, arch, .. }) = new.partition {
            self.header.arch = arch;
        }
        self.write_descriptor(&object, offset - end + size)?;
        self.header.descriptors_free = self.header.descriptors_free.saturating_sub(1);
        self.header.data_size = offset + size - self.header.data_offset;
        self.objects.push(object);
        self.objects.sort_by_key(|object| object.slot);
        self.write_header()?;
        Ok(slot + 1)
    }

    fn append(&self, data: &mut dyn Read, offset: u64) -> Result<u64, Error> {
        let mut buffer = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            match data.read(&mut buffer) {
                Ok(0) => return Ok(size),
                Ok(got) => {
                    let write = self.file.write_all_at(&buffer[..got], offset + size);
                    write.map_err(Error::io(&self.path))?;
                    size += got as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Source(e)),
            }
        }
    }

    /// Removes an object. Its place is given back when it is the last one.
    ///
    /// # Errors
    /// When there is none, or the file cannot be written.
    pub fn delete(&mut self, id: u32) -> Result<(), Error> {
        let object = self.object(id)?.clone();
        let at = self.descriptor_at(object.slot);
        self.file.write_all_at(&[0; DESCRIPTOR_LEN], at).map_err(Error::io(&self.path))?;
        self.objects.retain(|other| other.slot != object.slot);
        self.header.descriptors_free += 1;
        let end = self.end();
        self.header.data_size = end.saturating_sub(self.header.data_offset);
        self.write_header()?;
        if object.offset >= end {
            self.file.set_len(end).map_err(Error::io(&self.path))?;
        }
        Ok(())
    }

    /// Makes a system partition the primary one.
    ///
    /// # Errors
    /// When it is none, or the file cannot be written.
    pub fn set_primary(&mut self, id: u32) -> Result<(), Error> {
        let wanted = self.object(id)?.partition().ok_or(Error::NotSystem(id))?;
        if !matches!(wanted.part, PartKind::System | PartKind::Primary) {
            return Err(Error::NotSystem(id));
        }
        for index in 0..self.objects.len() {
            let Some(mut partition) = self.objects[index].partition() else { continue };
            partition.part = match partition.part {
                _ if self.objects[index].id == id => PartKind::Primary,
                PartKind::Primary => PartKind::System,
                _ => continue,
            };
            let extra = partition.encode();
            self.objects[index].extra[..extra.len()].copy_from_slice(&extra);
            // What follows the type in the file stays as it is.
            let at = self.descriptor_at(self.objects[index].slot) + 73 + NAME_LEN as u64;
            self.file.write_all_at(&extra, at).map_err(Error::io(&self.path))?;
        }
        self.header.arch = wanted.arch;
        self.write_header()
    }

    fn descriptor_at(&self, slot: u32) -> u64 {
        self.header.descriptors_offset + u64::from(slot) * DESCRIPTOR_LEN as u64
    }

    fn write_descriptor(&self, object: &Object, padded: u64) -> Result<(), Error> {
        let at = self.descriptor_at(object.slot);
        self.file.write_all_at(&object.encode(padded), at).map_err(Error::io(&self.path))
    }

    /// The header but for the launch line, which is the writer's own.
    fn write_header(&mut self) -> Result<(), Error> {
        self.header.modified = self.now;
        let bytes = self.header.encode();
        let tail = &bytes[32..HEADER_LEN];
        self.file.write_all_at(tail, 32).map_err(Error::io(&self.path))
    }
}
