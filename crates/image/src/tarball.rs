//! A tar file whose members are read where they are.
//!
//! It is indexed once. One that is compressed is inflated first, into a file
//! that the caller gives.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::EntryType;

use crate::archive::ArchiveError;
use crate::stream::{HEADER_LIMIT, inflate, is_compressed};

/// What bzip2 begins with.
const BZIP2: &[u8] = b"BZh";
/// Links behind links, at most.
const LINKS: usize = 8;

/// Where a compressed archive is inflated to.
pub struct Spool<'a> {
    /// Makes an empty file, to write and to read.
    pub file: &'a dyn Fn() -> io::Result<File>,
    /// Most bytes that it may get.
    pub limit: u64,
}

/// An open archive.
#[derive(Debug)]
pub struct Tarball {
    path: PathBuf,
    file: Arc<File>,
    members: HashMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    /// Where its bytes are, and how many.
    Data(u64, u64),
    /// The member that it stands for.
    Link(String),
}

impl Tarball {
    /// Opens an archive, inflating it if need be.
    ///
    /// # Errors
    /// When it cannot be read, is no tar file, or is too large.
    pub fn open(path: &Path, spool: &Spool<'_>) -> Result<Self, ArchiveError> {
        let failed = |source| ArchiveError::Open { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mut head = Vec::new();
        (&file).take(8).read_to_end(&mut head).map_err(failed)?;
        file.rewind().map_err(failed)?;
        if head.starts_with(BZIP2) {
            return Err(ArchiveError::Bzip2 { path: path.to_owned() });
        }
        if is_compressed(&head) {
            file = inflated(path, file, spool)?;
        }
        let headers = Cell::new(0);
        let mut archive = tar::Archive::new(Headers { file: &file, left: &headers });
        let mut members = HashMap::new();
        let mut entries = archive.entries_with_seek().map_err(failed)?;
        loop {
            headers.set(HEADER_LIMIT);
            let Some(entry) = entries.next() else { break };
            let entry = entry.map_err(failed)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.trim_start_matches("./").to_owned();
            let target = entry.link_name_bytes();
            let target = target.map(|target| String::from_utf8_lossy(&target).into_owned());
            let member = match (entry.header().entry_type(), target) {
                (EntryType::Symlink, Some(target)) => {
                    let above = name.rsplit_once('/').map_or("", |(above, _)| above);
                    inside(&format!("{above}/{target}")).map(Entry::Link)
                }
                (EntryType::Link, Some(target)) => inside(&target).map(Entry::Link),
                _ => Some(Entry::Data(entry.raw_file_position(), entry.size())),
            };
            // What leads out of the archive is not there.
            match member {
                Some(member) => drop(members.insert(name, member)),
                None => drop(members.remove(&name)),
            }
        }
        Ok(Self { path: path.to_owned(), file: Arc::new(file), members })
    }

    /// The archive's own path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A member, and its length.
    pub(crate) fn member(&self, name: &str) -> io::Result<(Member, u64)> {
        let mut name = name;
        for _ in 0..LINKS {
            match self.members.get(name).ok_or(io::ErrorKind::NotFound)? {
                Entry::Link(target) => name = target,
                Entry::Data(at, size) => {
                    let (at, size) = (*at, *size);
                    let end = at.saturating_add(size);
                    return Ok((Member { file: Arc::clone(&self.file), at, end }, size));
                }
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A path inside the archive without `.` and `..`; None for one that leads out.
fn inside(path: &str) -> Option<String> {
    let mut words: Vec<&str> = Vec::new();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => drop(words.pop()?),
            word => words.push(word),
        }
    }
    Some(words.join("/"))
}

fn inflated(path: &Path, file: File, spool: &Spool<'_>) -> Result<File, ArchiveError> {
    let failed = |source| ArchiveError::Open { path: path.to_owned(), source };
    let cannot = |source| ArchiveError::Spool { path: path.to_owned(), source };
    let mut out = (spool.file)().map_err(cannot)?;
    let mut data = inflate(Box::new(file)).map_err(failed)?;
    let mut buffer = vec![0; 1 << 18];
    let mut left = spool.limit;
    loop {
        let got = match data.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(failed(e)),
        };
        let large = || ArchiveError::TooLarge { path: path.to_owned(), limit: spool.limit };
        left = left.checked_sub(got as u64).ok_or_else(large)?;
        io::Write::write_all(&mut out, &buffer[..got]).map_err(cannot)?;
    }
    out.rewind().map_err(cannot)?;
    Ok(out)
}

/// An archive while it is indexed: what is read are headers, which the tar reader
/// takes into memory whole, however long they say they are.
struct Headers<'a> {
    file: &'a File,
    left: &'a Cell<u64>,
}

impl Read for Headers<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "headers of more than 1 MiB"));
        }
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let got = self.file.read(&mut buf[..len])?;
        self.left.set(left - got as u64);
        Ok(got)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A member of a tar file, or another part of a file.
pub(crate) struct Member {
    pub(crate) file: Arc<File>,
    pub(crate) at: u64,
    pub(crate) end: u64,
}

impl Read for Member {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = (self.end - self.at).min(buf.len() as u64) as usize;
        let got = self.file.read_at(&mut buf[..len], self.at)?;
        if got == 0 && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, kind, target: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(data.len() as u64);
            if !target.is_empty() {
                header.set_link_name(target).unwrap();
            }
            builder.append_data(&mut header, name, data).unwrap();
        };
        add("a/layer.tar", EntryType::Regular, "", b"layer");
        add("b/layer.tar", EntryType::Symlink, "../a/layer.tar", b"");
        add("c/layer.tar", EntryType::Symlink, "../b/./layer.tar", b"");
        add("hard", EntryType::Link, "a/layer.tar", b"");
        add("loop", EntryType::Symlink, "loop", b"");
        add("out", EntryType::Symlink, "../../etc/passwd", b"");
        builder.into_inner().unwrap()
    }

    fn opened(bytes: &[u8], limit: u64) -> Result<Tarball, ArchiveError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive");
        std::fs::write(&path, bytes).unwrap();
        Tarball::open(&path, &Spool { file: &tempfile::tempfile, limit })
    }

    fn read(archive: &Tarball, name: &str) -> Option<Vec<u8>> {
        let (mut member, size) = archive.member(name).ok()?;
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, size);
        Some(bytes)
    }

    #[test]
    fn links_lead_to_members_of_the_archive() {
        let archive = opened(&archive(), 0).unwrap();
        for name in ["a/layer.tar", "b/layer.tar", "c/layer.tar", "hard"] {
            assert_eq!(read(&archive, name).as_deref(), Some(&b"layer"[..]), "{name}");
        }
        for name in ["loop", "out", "nothing"] {
            assert_eq!(read(&archive, name), None, "{name}");
        }
    }

    #[test]
    fn compressed_archives_are_inflated() {
        use std::io::Write;
        let plain = archive();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        gzip.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for bytes in [gzip.finish().unwrap(), xz.finish().unwrap(), zstd] {
            let found = opened(&bytes, 1 << 20).unwrap();
            assert_eq!(read(&found, "c/layer.tar").as_deref(), Some(&b"layer"[..]));
            let large = opened(&bytes, plain.len() as u64 - 1);
            assert!(matches!(large, Err(ArchiveError::TooLarge { .. })), "{large:?}");
            let cut = opened(&bytes[..bytes.len() / 2], 1 << 20);
            assert!(matches!(cut, Err(ArchiveError::Open { .. })), "{cut:?}");
        }
        assert!(matches!(opened(b"BZh91AY", 9), Err(ArchiveError::Bzip2 { .. })));
    }

    #[test]
    fn a_name_of_any_length_is_not_taken_into_memory() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(4 << 20, b'n');
        let error = opened(&bytes, 0).unwrap_err();
        assert!(matches!(error, ArchiveError::Open { .. }), "{error:?}");
    }
}
