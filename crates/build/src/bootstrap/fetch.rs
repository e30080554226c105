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
    /// SHA-256 or SHA-512 in hexadecimal; its length tells which.
    pub(super) sum: String,
    /// Length in bytes.
    pub(super) size: u64,
}

/// A file is asked for at so many mirrors: lists have hundreds.
const MOST_TRIED: usize = 8;

/// Addresses of the same files, the best first.
#[derive(Debug)]
pub(super) struct Mirrors {
    addresses: Vec<String>,
    /// The one that has answered last: the others are asked when it fails.
    good: AtomicUsize,
}

impl Mirrors {
    /// At least one; slashes at the end do not count.
    pub(super) fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        let plain = |address: String| address.trim_end_matches('/').to_owned();
        Self { addresses: addresses.into_iter().map(plain).collect(), good: AtomicUsize::new(0) }
    }

    /// Gets a file by its path, from the next mirror where one fails.
    ///
    /// # Errors
    /// When none has the file as it should be: what is wrong with it at the first that
    /// has it, or else the first mirror's failure.
    pub(super) fn each<T>(&self, path: &str, get: &mut dyn FnMut(&str) -> Result<T>) -> Result<T> {
        let count = self.addresses.len();
        let first = self.good.load(Ordering::Relaxed);
        let wrong = |error: &BuildError| matches!(error, BuildError::Bootstrap(_));
        let mut failure: Option<BuildError> = None;
        for index in (0..count.min(MOST_TRIED)).map(|next| (first + next) % count) {
            match get(&format!("{}/{path}", self.addresses[index])) {
                Ok(got) => {
                    self.good.store(index, Ordering::Relaxed);
                    return Ok(got);
                }
                Err(error) => {
                    failure = match failure {
                        Some(kept) if !wrong(&error) || wrong(&kept) => Some(kept),
                        _ => Some(error),
                    };
                }
            }
        }
        Err(match failure {
            Some(error) if count == 1 => error,
            first => {
                let (path, tried) = (path.to_owned(), count.min(MOST_TRIED));
                BootstrapError::NoGoodMirror { path, tried, first: first.map(Box::new) }.into()
            }
        })
    }
}

/// Fetches what belongs to one bootstrap.
pub(super) struct Fetcher<'a> {
    pub(super) downloads: Downloads,
    pub(super) progress: &'a SharedProgress,
    pub(super) scratch: &'a Path,
    /// The most bytes that all packages may have.
    pub(super) limit: u64,
}

impl Fetcher<'_> {
    fn temporary(&self) -> Result<File> {
        let path = self.scratch.to_owned();
        tempfile::tempfile_in(&path).map_err(|source| BuildError::Write { path, source })
    }

    /// A small file, whatever it is.
    pub(super) fn small(&self, url: &str, limit: u64) -> Result<Vec<u8>> {
        let mut file = self.temporary()?;
        self.downloads.fetch(url, &mut Limited { file: &mut file, left: limit })?;
        self.content(file)
    }

    /// A file that no index lists, from its beginning.
    pub(super) fn file(&self, url: &str, limit: u64) -> Result<File> {
        let mut file = self.temporary()?;
        self.downloads.fetch(url, &mut Limited { file: &mut file, left: limit })?;
        self.rewound(file)
    }

    /// A file, to be read from its beginning.
    pub(super) fn rewound(&self, mut file: File) -> Result<File> {
        let failed = |source| BuildError::Read { path: self.scratch.to_owned(), source };
        file.rewind().map_err(failed)?;
        Ok(file)
    }

    /// A small file that may be missing.
    pub(super) fn small_if_there(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let mut file = self.temporary()?;
        let mut out = Limited { file: &mut file, left: limit };
        let there = self.downloads.fetch_if_there(url, &mut out)?;
        there.then(|| self.content(file)).transpose()
    }

    fn content(&self, mut file: File) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        read.map_err(|source| BuildError::Read { path: self.scratch.to_owned(), source })?;
        Ok(bytes)
    }

    /// A file that an index lists, from its beginning.
    pub(super) fn listed(&self, url: &str, listed: &Listed) -> Result<File> {
        let mut file = self.temporary()?;
        self.checked(url, listed, &mut file)?;
        self.rewound(file)
    }

    /// Fetches a file and compares it with what the signed index says of it.
    fn checked(&self, url: &str, listed: &Listed, file: &mut File) -> Result<()> {
        let (name, sum) = Sum::of(&listed.sum);
        let mut out = Checked { out: Limited { file, left: listed.size }, sum, size: 0 };
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
        let found = out.sum.finish();
        if found != listed.sum {
            return changed(format!("its {name} is {found}, not {}", listed.sum));
        }
        Ok(())
    }

    /// Fetches packages into a directory, several at once, each from the mirrors of
    /// its source.
    pub(super) fn fetch(
        &self,
        wanted: &[&Package],
        mirrors: &[Mirrors],
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
                mirrors[package.source].each(&package.path, &mut |url| {
                    let emptied = file.rewind().and_then(|()| file.set_len(0));
                    emptied.map_err(|source| BuildError::Write { path: path.clone(), source })?;
                    self.checked(url, &package.listed, &mut file)
                })?;
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

/// The checksums that indexes have.
enum Sum {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Sum {
    /// The kind that a checksum in hexadecimal is of, and its name.
    fn of(sum: &str) -> (&'static str, Self) {
        match sum.len() {
            128 => ("SHA-512", Self::Sha512(Box::default())),
            _ => ("SHA-256", Self::Sha256(sha2::Sha256::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Sha512(sum) => sum.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(sum) => hex(&sum.finalize()),
            Self::Sha512(sum) => hex(&sum.finalize()),
        }
    }
}

/// Counts and hashes what passes.
struct Checked<'a> {
    out: Limited<'a>,
    sum: Sum,
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
