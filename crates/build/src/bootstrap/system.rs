//! Packages as layers: their files, without their scripts.

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
    open: Open,
    /// Files that the distribution's program wants to find.
    seed: &'a [&'a str],
    layers: Vec<Layer>,
    /// Directories at the top that are links into /usr.
    merged: Vec<&'static str>,
}

/// Opens a package's files as a tar stream; what is unpacked for it goes to a
/// directory.
pub(super) type Open = fn(File, &Path) -> io::Result<Box<dyn Read + Send>>;

pub(super) fn malformed(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<'a> Packages<'a> {
    pub(super) fn new(
        files: &'a [Fetched],
        open: Open,
        merged: Vec<&'static str>,
        seed: &'a [&'a str],
    ) -> Self {
        let layer = Layer { digest: Digest::sha256(&[0; 32]), size: 0, diff_id: None };
        Self { files, open, seed, layers: vec![layer; files.len() + 1], merged }
    }

    /// Where an entry goes; None for one that the links stand for, or that is no file
    /// of the system.
    fn place(&self, path: &Path, kind: EntryType) -> Option<PathBuf> {
        let clean = path.strip_prefix(".").unwrap_or(path);
        let clean = clean.strip_prefix("/").unwrap_or(clean);
        // What pacman has to say of a package stands beside its files.
        let top = clean.components().count() == 1;
        if top && kind.is_file() && clean.as_os_str().as_encoded_bytes().starts_with(b".") {
            return None;
        }
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
        for name in self.seed {
            out.append_data(&mut file, name, io::empty())?;
        }
        Ok(())
    }

    fn copy(&self, from: &Fetched, out: &mut Builder<File>) -> io::Result<()> {
        let mut archive =
            tar::Archive::new((self.open)(File::open(&from.path)?, near(&from.path))?);
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

/// Where a file is.
fn near(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

impl LayerSource for Packages<'_> {
    fn layers(&self) -> &[Layer] {
        &self.layers
    }

    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        let place = self.files.first().map(|first| near(&first.path));
        let place = place.map_or_else(tempfile::tempfile, tempfile::tempfile_in);
        let mut out = Builder::new(place?);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_directories_are_below_usr() {
        let all = Packages::new(&[], |_, _| Ok(Box::new(io::empty())), vec!["bin", "lib64"], &[]);
        let place = |path: &str, kind| all.place(Path::new(path), kind);
        let file = |path| place(path, EntryType::Regular);
        assert_eq!(file("./bin/sh"), Some("usr/bin/sh".into()));
        assert_eq!(file("lib64/ld.so"), Some("usr/lib64/ld.so".into()));
        assert_eq!(file("./binary"), Some("binary".into()));
        assert_eq!(file("./usr/bin/x"), Some("usr/bin/x".into()));
        assert_eq!(file("./.PKGINFO"), None);
        assert_eq!(file("root/.profile"), Some("root/.profile".into()));
        assert_eq!(place("./bin", EntryType::Symlink), None);
        assert_eq!(place("./bin", EntryType::Directory), Some("usr/bin".into()));
    }
}
