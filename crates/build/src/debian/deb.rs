//! Binary packages (deb(5)) as layers: their files, without their scripts.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use image::{Layer, LayerSource};
use tar::{Builder, EntryType, Header};
use types::Digest;

/// A package file in the directory that they were fetched to.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// The packages' files, and above them the links of a merged /usr.
pub(super) struct Packages<'a> {
    files: &'a [Fetched],
    layers: Vec<Layer>,
    /// Directories at the top that are links into /usr.
    merged: Vec<&'static str>,
}

const MAGIC: &[u8] = b"!<arch>\n";
/// Length of a member's header.
const MEMBER: usize = 60;

fn malformed(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<'a> Packages<'a> {
    pub(super) fn new(files: &'a [Fetched], suite: &str, architecture: &str) -> Self {
        // Before these, /bin and /usr/bin were two directories.
        let split = ["wheezy", "jessie", "stretch", "trusty", "xenial", "bionic"];
        let merged = match (split.contains(&suite), architecture) {
            (true, _) => Vec::new(),
            (false, "amd64" | "ppc64el" | "loong64") => vec!["bin", "sbin", "lib", "lib64"],
            _ => vec!["bin", "sbin", "lib"],
        };
        let layer = Layer { digest: Digest::sha256(&[0; 32]), size: 0, diff_id: None };
        Self { files, layers: vec![layer; files.len() + 1], merged }
    }

    /// Where an entry goes; None for one that the links stand for.
    fn place(&self, path: &Path, kind: EntryType) -> Option<PathBuf> {
        let clean = path.strip_prefix(".").unwrap_or(path);
        let clean = clean.strip_prefix("/").unwrap_or(clean);
        let mut words = clean.components();
        let first = words.next().map(|word| word.as_os_str().to_owned());
        let top = first.is_some_and(|first| self.merged.iter().any(|name| first == *name));
        match top {
            true if kind == EntryType::Symlink && words.next().is_none() => None,
            true => Some(Path::new("usr").join(clean)),
            false => Some(clean.to_owned()),
        }
    }

    /// The links, and the files without which dpkg does not begin.
    fn seed(&self, out: &mut Builder<File>) -> io::Result<()> {
        let header = |mode| {
            let mut header = Header::new_gnu();
            header.set_mode(mode);
            header.set_size(0);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header
        };
        let mut link = header(0o777);
        link.set_entry_type(EntryType::Symlink);
        for name in &self.merged {
            out.append_link(&mut link, name, format!("usr/{name}"))?;
        }
        let mut file = header(0o644);
        for name in ["var/lib/dpkg/status", "var/lib/dpkg/available"] {
            out.append_data(&mut file, name, io::empty())?;
        }
        Ok(())
    }

    fn copy(&self, from: &Fetched, out: &mut Builder<File>) -> io::Result<()> {
        let mut archive = tar::Archive::new(data(File::open(&from.path)?)?);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let mut header = entry.header().clone();
            let kind = header.entry_type();
            let Some(path) = self.place(&entry.path()?, kind) else { continue };
            if path.as_os_str().is_empty() {
                continue;
            }
            match kind {
                EntryType::Link => {
                    let to = entry.link_name()?.ok_or(malformed("a link without a target"))?;
                    let to = self.place(&to, kind).unwrap_or_default();
                    out.append_link(&mut header, path, to)?;
                }
                EntryType::Symlink => {
                    let to = entry.link_name()?.ok_or(malformed("a link without a target"))?;
                    out.append_link(&mut header, path, to)?;
                }
                _ => out.append_data(&mut header, path, &mut entry)?,
            }
        }
        Ok(())
    }
}

impl LayerSource for Packages<'_> {
    fn layers(&self) -> &[Layer] {
        &self.layers
    }

    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        let mut out = Builder::new(tempfile::tempfile()?);
        match self.files.get(index) {
            Some(package) => self.copy(package, &mut out).map_err(|source| {
                io::Error::new(source.kind(), format!("package {}: {source}", package.name))
            })?,
            None => self.seed(&mut out)?,
        }
        let mut file = out.into_inner()?;
        file.rewind()?;
        Ok(Box::new(file))
    }
}

/// The tar stream of a package's files.
fn data(mut file: File) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(malformed("no Debian package"));
    }
    loop {
        let mut header = [0; MEMBER];
        file.read_exact(&mut header)?;
        let text = std::str::from_utf8(&header).map_err(|_| malformed("a broken member"))?;
        let size = text.get(48..58).and_then(|size| size.trim().parse::<u64>().ok());
        let size = size.ok_or(malformed("a member of no length"))?;
        let name = text.get(..16).unwrap_or_default().trim().trim_end_matches('/').to_owned();
        if let Some(ending) = name.strip_prefix("data.tar") {
            let member = file.take(size);
            return Ok(match ending {
                "" => Box::new(member),
                ".gz" => Box::new(flate2::read::MultiGzDecoder::new(member)),
                ".xz" => Box::new(liblzma::read::XzDecoder::new(member)),
                ".zst" => Box::new(zstd::Decoder::new(member)?),
                _ => return Err(malformed("files compressed in an unknown way")),
            });
        }
        // Members begin at even places.
        let next = size.checked_add(size % 2).and_then(|size| i64::try_from(size).ok());
        file.seek_relative(next.ok_or(malformed("a member of no length"))?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_directories_are_below_usr() {
        let all = Packages::new(&[], "bookworm", "amd64");
        let place = |path: &str, kind| all.place(Path::new(path), kind);
        let file = |path| place(path, EntryType::Regular);
        assert_eq!(file("./bin/sh"), Some("usr/bin/sh".into()));
        assert_eq!(file("lib64/ld.so"), Some("usr/lib64/ld.so".into()));
        assert_eq!(file("./binary"), Some("binary".into()));
        assert_eq!(file("./usr/bin/x"), Some("usr/bin/x".into()));
        assert_eq!(place("./bin", EntryType::Symlink), None);
        assert_eq!(place("./bin", EntryType::Directory), Some("usr/bin".into()));
        assert!(Packages::new(&[], "xenial", "amd64").merged.is_empty());
    }

    #[test]
    fn what_is_no_package_is_refused() {
        use std::io::Write;
        let mut deb = MAGIC.to_vec();
        deb.extend(format!("{:<48}{:<10}`\n", "debian-binary", 4).bytes());
        deb.extend(b"2.0\n");
        let whole = deb.len();
        deb.extend(format!("{:<48}{:<10}`\n", "data.tar", 3).bytes());
        deb.extend(b"abc");
        let read = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            let mut text = String::new();
            data(file).and_then(|mut data| data.read_to_string(&mut text)).map(|_| text)
        };
        assert_eq!(read(&deb).unwrap(), "abc");
        for end in 0..=whole {
            assert!(read(&deb[..end]).is_err(), "{end}");
        }
        for at in 0..whole + MEMBER {
            let mut bad = deb.clone();
            bad[at] = 0xff;
            let _ = read(&bad);
        }
    }
}
