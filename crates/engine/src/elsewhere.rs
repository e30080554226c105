//! Image files of the web: fetched once, checked, and kept beside the store's images.
//!
//! ```text
//! STORE/files/SHA256.sif        the file, whatever form it has
//! STORE/files/of-SHA256.json    of a name's SHA-256: which file the name meant
//! ```
//!
//! A file gets its name when it is whole, by rename. What a name meant is believed
//! until the pull policy says otherwise; a digest in the name is believed for ever.
//! Libraries speak the API of Singularity's library: `v1/images/PATH:TAG` is a document
//! with the SHA-256 of the file, `v1/imagefile/PATH:TAG` leads to the file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use plan::ImagePart;
use registry::Client;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use store::Flight;
use types::{Digest, FileRef, RegistryRef};

use crate::artifact::{Artifact, ArtifactKind};
use crate::export::Fresh;
use crate::image_file::{self, Form};
use crate::pull::waiting;
use crate::{Engine, Error, Event, PullPolicy, Result, SharedProgress, policy, unpack};

/// What `apptainer push` makes of a SIF file.
const SIF: ArtifactKind = ArtifactKind {
    config: "application/vnd.sylabs.sif.config.v1+json",
    file: "application/vnd.sylabs.sif.layer.v1.sif",
};

/// No library's document comes near it.
const LONGEST_DOCUMENT: u64 = 1 << 20;

/// What a name meant when it was asked for.
#[derive(Serialize, Deserialize)]
struct Meant {
    name: String,
    digest: Digest,
}

/// What a library says of an image.
#[derive(Deserialize)]
struct Answer {
    data: LibraryImage,
}

#[derive(Deserialize)]
struct LibraryImage {
    /// `sha256.` and hexadecimal digits.
    hash: String,
}

/// An image file that is on this machine now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedFile {
    /// Where it is kept.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl FetchedFile {
    /// The file of a digest, if it is kept.
    fn of(dir: &Path, digest: Digest) -> Option<Self> {
        let path = dir.join(format!("{}.sif", digest.hex()));
        let meta = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        Some(Self { path, digest, size: meta.len() })
    }
}

/// Where a file is, and its digest if somebody vouches for it.
enum Source {
    Web { url: String, digest: Option<Digest> },
    Library { url: String, path: String, digest: Digest },
    Artifact(Box<Artifact>, Digest),
}

impl Engine {
    /// An image file of the web, on this machine: fetched unless the store has it and
    /// the pull policy lets it stand. Its digest is checked where it is known.
    ///
    /// # Errors
    /// When it cannot be fetched, is not what its digest says, or is no image.
    pub fn fetch_file(&self, file: &FileRef, progress: &SharedProgress) -> Result<FetchedFile> {
        let name = match file {
            // Another architecture has another file under the same name.
            FileRef::Web { .. } => file.to_string(),
            _ => format!("{file} {}", self.config().platform.value),
        };
        let (dir, pull) = (self.files()?, &self.config().pull);
        let known = || kept(&dir, &name, file);
        if pull.value != PullPolicy::Always
            && let Some(found) = known()
        {
            return Ok(found);
        }
        match pull.value {
            PullPolicy::Never => {
                let (name, origin) = (file.to_string(), pull.origin.to_string());
                Err(Error::NotPulled { name, origin })
            }
            PullPolicy::Always => self.fetch_anew(&dir, &name, file, progress),
            PullPolicy::Missing => {
                let waiting = |state: store::WaitState| progress.event(waiting(&state));
                match self.store()?.flight(&name, &waiting, &|| Ok(known()))? {
                    Flight::Found(found) => Ok(found),
                    Flight::Yours(_turn) => self.fetch_anew(&dir, &name, file, progress),
                }
            }
        }
    }

    /// Where such files are kept.
    fn files(&self) -> Result<PathBuf> {
        let dir = self.config().store.value.clone().ok_or(Error::NoStore)?.join("files");
        let made = std::fs::create_dir_all(&dir);
        made.map_err(|source| Error::Export { path: dir.clone(), source })?;
        Ok(dir)
    }

    /// Removes what was fetched.
    pub(crate) fn clear_files(&self) -> Result<()> {
        let dir = self.files()?;
        std::fs::remove_dir_all(&dir).map_err(|source| Error::Export { path: dir, source })
    }

    fn fetch_anew(
        &self,
        dir: &Path,
        name: &str,
        file: &FileRef,
        progress: &SharedProgress,
    ) -> Result<FetchedFile> {
        progress.event(Event::Resolving { name: file.to_string() });
        let client = self.client(Some(progress))?;
        let source = match file {
            FileRef::Web { url, digest } => {
                self.allowed(url)?;
                Source::Web { url: url.clone(), digest: digest.clone() }
            }
            FileRef::Library { server, path, tag } => {
                let server = self.library(server.as_deref(), file)?;
                self.allowed(&server)?;
                let arch = self.config().platform.value.architecture();
                let of = |what: &str| format!("{server}/v1/{what}/{path}:{tag}?arch={arch}");
                let digest = library_digest(&client, &of("images"), path)?;
                Source::Library { url: of("imagefile"), path: path.clone(), digest }
            }
            FileRef::Oras(name) => self.oras(name, progress)?,
        };
        let expected = match &source {
            Source::Web { digest, .. } => digest.as_ref(),
            Source::Library { digest, .. } | Source::Artifact(_, digest) => Some(digest),
        };
        if let Some(found) = expected.and_then(|digest| FetchedFile::of(dir, digest.clone())) {
            remember(dir, name, &found.digest)?;
            return Ok(found);
        }
        let (fresh, mut out) = Fresh::create(&dir.join("file"), "new")?;
        let limit = self.config().size_limit.value;
        let found = match &source {
            Source::Web { url, .. } => keep(client.download(url)?, url, &mut out, limit)?,
            Source::Library { url, path, .. } => {
                keep(client.download_from_library(url, path)?, url, &mut out, limit)?
            }
            Source::Artifact(artifact, digest) => {
                artifact.fetch(0, &mut out)?;
                digest.clone()
            }
        };
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            let (name, expected) = (file.to_string(), expected.to_string());
            return Err(Error::FileDigest { name, expected, found: found.to_string() });
        }
        let wrong =
            |source: Error| Error::NoImageFile { name: file.to_string(), source: Box::new(source) };
        check(&fresh.temporary).map_err(wrong)?;
        let meta = out.metadata();
        let size = meta.map_err(|source| Error::Export { path: dir.to_owned(), source })?.len();
        let path = dir.join(format!("{}.sif", found.hex()));
        fresh.keep_as(&path)?;
        remember(dir, name, &found)?;
        progress.event(Event::Done);
        Ok(FetchedFile { path, digest: found, size })
    }

    /// The address of a library's API.
    fn library(&self, server: Option<&str>, file: &FileRef) -> Result<String> {
        let configured = self.config().library.value.as_deref();
        let configured = configured.map(|url| url.trim_end_matches('/').to_owned());
        let Some(server) = server else {
            return configured.ok_or_else(|| Error::NoLibrary { name: file.to_string() });
        };
        if server.contains("://") {
            return Ok(server.trim_end_matches('/').to_owned());
        }
        // The configuration may know more of a host than its name.
        let host = |url: &String| url.split("://").nth(1) == Some(server);
        Ok(configured.filter(host).unwrap_or_else(|| format!("https://{server}")))
    }

    /// Refuses hosts that the site does not allow, as for registries.
    fn allowed(&self, url: &str) -> Result<()> {
        let place = url.split("://").nth(1).unwrap_or(url);
        policy::check_names(self.config(), vec![place.to_owned()])
    }

    fn oras(&self, name: &RegistryRef, progress: &SharedProgress) -> Result<Source> {
        policy::check_registry(self.config(), name)?;
        let none = || Error::NoSifArtifact { name: name.to_string() };
        let artifact = self.artifact(name, SIF, progress)?.ok_or_else(none)?;
        let digest = artifact.digest(0).cloned().ok_or_else(none)?;
        Ok(Source::Artifact(Box::new(artifact), digest))
    }
}

fn note_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("of-{}.json", Digest::sha256(&sha2::Sha256::digest(name).into()).hex()))
}

/// What a name means, if it is here.
fn kept(dir: &Path, name: &str, file: &FileRef) -> Option<FetchedFile> {
    let digest = match file {
        FileRef::Web { digest: Some(digest), .. } => digest.clone(),
        _ => {
            let text = std::fs::read(note_of(dir, name)).ok()?;
            let meant: Meant = serde_json::from_slice(&text).ok()?;
            (meant.name == name).then_some(meant.digest)?
        }
    };
    FetchedFile::of(dir, digest)
}

fn remember(dir: &Path, name: &str, digest: &Digest) -> Result<()> {
    let meant = Meant { name: name.to_owned(), digest: digest.clone() };
    let text = serde_json::to_vec(&meant).unwrap_or_default();
    let path = note_of(dir, name);
    let (fresh, mut out) = Fresh::create(&path, "new")?;
    out.write_all(&text).map_err(|source| Error::Export { path, source })?;
    fresh.keep()
}

/// That a file is an image: a login page is none.
fn check(path: &Path) -> Result<()> {
    let parts = image_file::in_file(path)?.parts.into_iter();
    let plain = parts.filter(|part| part.form == Form::Squashfs);
    let plain = plain.map(|part| ImagePart { path: path.to_owned(), offset: part.offset });
    unpack::open(&plain.collect::<Vec<_>>()).map(drop)
}

/// The digest that a library's document tells.
fn library_digest(client: &Client, url: &str, path: &str) -> Result<Digest> {
    let failed = |source| Error::Download { url: url.to_owned(), source };
    let mut text = Vec::new();
    let answer = client.download_from_library(url, path)?;
    let mut reader = io::Read::take(answer, LONGEST_DOCUMENT);
    io::Read::read_to_end(&mut reader, &mut text).map_err(failed)?;
    let malformed = |reason: String| Error::LibraryAnswer { url: url.to_owned(), reason };
    let answer: Answer = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    let hash = &answer.data.hash;
    let digest = hash.strip_prefix("sha256.").and_then(|hex| format!("sha256:{hex}").parse().ok());
    digest.ok_or_else(|| malformed(format!("a hash of {hash:?}, which is no sha256")))
}

/// Keeps what an address gives; the SHA-256 of what came.
fn keep(answer: impl io::Read, url: &str, out: &mut File, limit: u64) -> Result<Digest> {
    let failed = |source| Error::Download { url: url.to_owned(), source };
    let mut reader = io::Read::take(answer, limit.saturating_add(1));
    let mut hashed = Hashed { out, sum: sha2::Sha256::new() };
    let size = io::copy(&mut reader, &mut hashed).map_err(failed)?;
    if size > limit {
        let text = format!("it has more than {limit} bytes, the size_limit of the configuration");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, text)));
    }
    Ok(Digest::sha256(&hashed.sum.finalize().into()))
}

/// Hashes what is written.
struct Hashed<'a> {
    out: &'a mut File,
    sum: sha2::Sha256,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wrote = self.out.write(bytes)?;
        self.sum.update(&bytes[..wrote]);
        Ok(wrote)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
