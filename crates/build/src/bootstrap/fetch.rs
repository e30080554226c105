//! Files of a mirror, compared with what a signed index says of them.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::{Downloads, Event, SharedProgress};
use sha2::Digest as _;

use super::error::BootstrapError;
use super::select::Package;
use super::system::Fetched;
use crate::cache::hex;
use crate::error::{BuildError, Result};

/// An index that is longer when it is inflated is a bomb: Debian's has 50 MB,
/// Fedora's 200.
pub(super) const LARGEST_INDEX: u64 = 1 << 30;
/// Connections at once, as browsers have.
const CONNECTIONS: usize = 6;

/// A file of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// SHA-256 in hexadecimal.
    pub(super) sha256: String,
    /// Length in bytes.
    pub(super) size: u64,
}

/// Fetches what belongs to one bootstrap.
pub(super) struct Mirror<'a> {
    pub(super) downloads: Downloads,
    pub(super) progress: &'a SharedProgress,
    pub(super) scratch: &'a Path,
    /// The most bytes that all packages may have.
    pub(super) limit: u64,
}

impl Mirror<'_> {
    fn temporary(&self) -> Result<File> {
        let path = self.scratch.to_owned();
        tempfile::tempfile_in(&path).map_err(|source| BuildError::Write { path, source })
    }

    /// A small file, whatever it is.
    pub(super) fn small(&self, url: &str, limit: u64) -> Result<Vec<u8>> {
        let mut file = self.temporary()?;
        self.downloads.fetch(url, &mut Limited { file: &mut file, left: limit })?;
        let mut bytes = Vec::new();
        let rewound = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        rewound.map_err(|source| BuildError::Read { path: self.scratch.to_owned(), source })?;
        Ok(bytes)
    }

    /// A file that an index lists, from its beginning.
    pub(super) fn listed(&self, url: &str, listed: &Listed) -> Result<File> {
        let mut file = self.temporary()?;
        self.checked(url, listed, &mut file)?;
        let failed = |source| BuildError::Read { path: self.scratch.to_owned(), source };
        file.rewind().map_err(failed)?;
        Ok(file)
    }

    /// Fetches a file and compares it with what the signed index says of it.
    fn checked(&self, url: &str, listed: &Listed, file: &mut File) -> Result<()> {
        let mut out =
            Checked { out: Limited { file, left: listed.size }, sum: sha2::Sha256::new(), size: 0 };
        let fetched = self.downloads.fetch(url, &mut out);
        let changed =
            |reason: String| Err(BootstrapError::Changed { url: url.to_owned(), reason }.into());
        let too_long = out.out.left == 0 && fetched.is_err();
        if too_long {
            return changed(format!("it has more than {} bytes", listed.size));
        }
        fetched?;
        if out.size != listed.size {
            return changed(format!("it has {} bytes, not {}", out.size, listed.size));
        }
        let found = hex(&out.sum.finalize());
        if found != listed.sha256 {
            return changed(format!("its SHA-256 is {found}, not {}", listed.sha256));
        }
        Ok(())
    }

    /// Fetches packages into a directory, several at once. `url` says where one is.
    pub(super) fn fetch(
        &self,
        wanted: &[&Package],
        url: &(dyn Fn(&Package) -> String + Sync),
        (to, ending): (&Path, &str),
    ) -> Result<Vec<Fetched>> {
        let sizes = wanted.iter().map(|package| package.listed.size);
        let size = sizes.fold(0_u64, u64::saturating_add);
        if size > self.limit {
            return Err(BootstrapError::TooLarge { size, limit: self.limit }.into());
        }
        self.progress.event(Event::Packages { count: wanted.len(), size });
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let name = |index: usize| to.join(format!("{index:04}_{}.{ending}", wanted[index].name));
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(package) = wanted.get(index) else { return Ok(()) };
                let path = name(index);
                let create = File::create_new(&path);
                let mut file =
                    create.map_err(|source| BuildError::Write { path: path.clone(), source })?;
                self.checked(&url(package), &package.listed, &mut file)?;
                let count = package.listed.size;
                self.progress.event(Event::Bytes { layer: 0, count });
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS.min(wanted.len()) {
                scope.spawn(|| {
                    let done: Result<()> = work();
                    if let Err(error) = done {
                        // The others take no further package.
                        next.store(wanted.len(), Ordering::Relaxed);
                        if let Ok(mut failure) = failure.lock() {
                            failure.get_or_insert(error);
                        }
                    }
                });
            }
        });
        self.progress.event(Event::Done);
        if let Some(error) = failure.into_inner().ok().flatten() {
            return Err(error);
        }
        let fetched = wanted.iter().enumerate();
        let fetched = fetched
            .map(|(index, package)| Fetched { name: package.name.clone(), path: name(index) });
        Ok(fetched.collect())
    }
}

/// Takes so many bytes and no more.
struct Limited<'a> {
    file: &'a mut File,
    left: u64,
}

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
            }
        }
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts and hashes what passes.
struct Checked<'a> {
    out: Limited<'a>,
    sum: sha2::Sha256,
    size: u64,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let took = self.out.write(bytes)?;
        self.sum.update(&bytes[..took]);
        self.size += took as u64;
        Ok(took)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
