//! From a mirror: signed indexes, then packages by what those say.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::{Downloads, Event, SharedProgress};
use sha2::Digest as _;

use super::deb::Fetched;
use super::error::BootstrapError;
use super::index::{Listed, Package, Release, packages};
use super::source::Source;
use crate::cache::hex;
use crate::error::{BuildError, Result};

/// No Release file comes near it.
const LARGEST_RELEASE: u64 = 32 << 20;
/// Connections at once, as browsers have.
const CONNECTIONS: usize = 6;

/// Fetches what belongs to one bootstrap.
pub(super) struct Mirror<'a> {
    pub(super) downloads: Downloads,
    pub(super) progress: &'a SharedProgress,
    pub(super) scratch: &'a Path,
    pub(super) architecture: &'a str,
}

impl Mirror<'_> {
    fn temporary(&self) -> Result<File> {
        let path = self.scratch.to_owned();
        tempfile::tempfile_in(&path).map_err(|source| BuildError::Write { path, source })
    }

    /// A source's Release file, its signature verified.
    pub(super) fn release(&self, source: &Source, check_date: bool) -> Result<Release> {
        let url = format!("{}/dists/{}/InRelease", source.url, source.suite);
        let mut file = self.temporary()?;
        self.downloads.fetch(&url, &mut Limited { file: &mut file, left: LARGEST_RELEASE })?;
        let mut bytes = Vec::new();
        let rewound = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
        rewound.map_err(|source| BuildError::Read { path: self.scratch.to_owned(), source })?;
        let keyring = source.keyring(&url)?;
        let signed = keyring
            .open(&bytes)
            .map_err(|source| BootstrapError::Signature { url: url.clone(), source })?;
        let malformed = |reason: &str| BootstrapError::Malformed {
            url: url.clone(),
            reason: reason.to_owned(),
        };
        let release = Release::parse(&signed.text).ok_or_else(|| malformed("no Release file"))?;
        // A mirror may not give the signed file of another release for this one.
        let name = source.suite.split('/').next().unwrap_or_default();
        if ![&*release.suite, &*release.codename].contains(&name)
            && !source.suite.starts_with(&format!("{}-", release.codename))
        {
            let reason = format!("it is of {} ({})", release.suite, release.codename);
            return Err(malformed(&reason).into());
        }
        if let Some(until) = &release.valid_until
            && check_date
        {
            let time = httpdate::parse_http_date(&until.replace("UTC", "GMT"));
            let time = time.map_err(|_| malformed("a Valid-Until that is no date"))?;
            if time < std::time::SystemTime::now() {
                let until = until.clone();
                return Err(BootstrapError::Expired { url, until }.into());
            }
        }
        Ok(release)
    }

    /// Reads the packages of a component.
    pub(super) fn packages(
        &self,
        source: &Source,
        release: &Release,
        component: &str,
        put: &mut dyn FnMut(Package),
    ) -> Result<()> {
        let dist = format!("{}/dists/{}", source.url, source.suite);
        let base = format!("{component}/binary-{}/Packages", self.architecture);
        let found = [".xz", ".gz", ""].iter().find_map(|ending| {
            let path = format!("{base}{ending}");
            release.files.get(&path).map(|listed| (path, *ending, listed))
        });
        let lacks =
            || BootstrapError::Lacks { url: format!("{dist}/InRelease"), what: base.clone() };
        let (path, ending, listed) = found.ok_or_else(lacks)?;
        let url = match (release.by_hash, path.rsplit_once('/')) {
            (true, Some((dir, _))) => format!("{dist}/{dir}/by-hash/SHA256/{}", listed.sha256),
            _ => format!("{dist}/{path}"),
        };
        let mut file = self.temporary()?;
        self.checked(&url, listed, &mut file)?;
        let failed = |source| BuildError::Read { path: self.scratch.to_owned(), source };
        file.rewind().map_err(failed)?;
        let reader: Box<dyn BufRead> = match ending {
            ".xz" => Box::new(BufReader::new(liblzma::read::XzDecoder::new(file))),
            ".gz" => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
            _ => Box::new(BufReader::new(file)),
        };
        let malformed = |reason| BootstrapError::Malformed { url, reason };
        packages(reader, source.index, put).map_err(malformed)?;
        Ok(())
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

    /// Fetches packages into a directory, several at once.
    pub(super) fn fetch(
        &self,
        sources: &[Source],
        wanted: &[&Package],
        to: &Path,
    ) -> Result<Vec<Fetched>> {
        let size = wanted.iter().map(|package| package.listed.size).sum();
        self.progress.event(Event::Packages { count: wanted.len(), size });
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let name = |index: usize| to.join(format!("{index:04}_{}.deb", wanted[index].name));
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(package) = wanted.get(index) else { return Ok(()) };
                let path = name(index);
                let create = File::create_new(&path);
                let mut file =
                    create.map_err(|source| BuildError::Write { path: path.clone(), source })?;
                let url = format!("{}/{}", sources[package.source].url, package.path);
                self.checked(&url, &package.listed, &mut file)?;
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
