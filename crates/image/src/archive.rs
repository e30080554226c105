//! Images in directories and tar files: OCI layouts and `docker save`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sha2::Digest as _;
use types::{
    Descriptor, Digest, Document, DocumentError, ImageConfigError, Manifest, Platform,
    parse_document, parse_image_config,
};

use crate::layer::WrittenLayer;
use crate::stream::{Layer, LayerSource};
use crate::tarball::{Member, Tarball};

/// Why an image in a directory or tar file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The directory or file could not be read.
    #[error("cannot read {path:?}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An archive that is compressed could not be inflated.
    #[error("cannot inflate {path:?} into the scratch directory")]
    Spool {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An archive with more data than the limit allows.
    #[error("{path:?} passes the size limit of {limit} bytes when it is inflated")]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// An archive that is compressed in a way that is not read.
    #[error("{path:?} is compressed by bzip2: inflate it first, with bunzip2 -k")]
    Bzip2 {
        /// Which.
        path: PathBuf,
    },
    /// A file that an image must have.
    #[error("{path:?} has no {name}")]
    Missing {
        /// The directory or file.
        path: PathBuf,
        /// What is missing.
        name: String,
    },
    /// An index or manifest that is no JSON of the right form.
    #[error("{name} in {path:?} is malformed")]
    Json {
        /// The directory or file.
        path: PathBuf,
        /// Which document.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A manifest that is none.
    #[error("a manifest in {path:?} is malformed")]
    Document {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: DocumentError,
    },
    /// A configuration that is none.
    #[error("the image configuration in {path:?} is malformed")]
    Config {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: ImageConfigError,
    },
    /// No image of that name, or several and none named.
    #[error("{path:?} has no image {wanted:?}: it has {offered}")]
    Tag {
        /// The directory or file.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// No image for the platform.
    #[error("{path:?} has no image for {wanted}")]
    Platform {
        /// The directory or file.
        path: PathBuf,
        /// The platform.
        wanted: Platform,
    },
    /// Bytes that are not what their name says.
    #[error("{name} in {path:?} does not have the digest that it is named by")]
    Digest {
        /// The directory or file.
        path: PathBuf,
        /// Which blob.
        name: String,
    },
}

/// An image that was found in a directory or tar file.
pub struct LocalImage {
    /// Its manifest; made up for `docker save`, which has none.
    pub manifest: Manifest,
    /// The manifest's bytes.
    pub manifest_bytes: Vec<u8>,
    /// The configuration's bytes.
    pub config_bytes: Vec<u8>,
    files: Files,
    names: Vec<String>,
    layers: Vec<Layer>,
}

/// What an OCI layout calls an image.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Documents are small; blobs are not read by this limit.
const DOCUMENT_LEN: u64 = 16 << 20;
/// Indexes inside indexes, at most.
const DEPTH: usize = 4;

enum Files {
    Directory(PathBuf),
    Tar(Arc<Tarball>),
}

impl Files {
    fn path(&self) -> PathBuf {
        match self {
            Self::Directory(path) => path.clone(),
            Self::Tar(archive) => archive.path().to_owned(),
        }
    }

    fn open(&self, name: &str) -> io::Result<(Box<dyn Read + Send>, u64)> {
        match self {
            Self::Directory(dir) => {
                let file = File::open(dir.join(name))?;
                let size = file.metadata()?.len();
                Ok((Box::new(file), size))
            }
            Self::Tar(archive) => {
                let (member, size) = archive.member(name)?;
                Ok((Box::new(member), size))
            }
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let path = self.path();
        let mut bytes = Vec::new();
        let read = self.open(name).and_then(|(r, _)| r.take(DOCUMENT_LEN).read_to_end(&mut bytes));
        match read {
            Ok(_) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(ArchiveError::Missing { path, name: name.to_owned() })
            }
            Err(source) => Err(ArchiveError::Open { path: path.join(name), source }),
        }
    }

    /// A document by its digest, checked.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        let name = blob_name(digest);
        let bytes = self.read(&name)?;
        if of(digest, &bytes) == *digest {
            Ok(bytes)
        } else {
            Err(ArchiveError::Digest { path: self.path(), name })
        }
    }

    fn json<'a, T: Deserialize<'a>>(&self, name: &str, bytes: &'a [u8]) -> Result<T, ArchiveError> {
        serde_json::from_slice(bytes).map_err(|source| ArchiveError::Json {
            path: self.path(),
            name: name.to_owned(),
            source,
        })
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn of(like: &Digest, bytes: &[u8]) -> Digest {
    match like.algorithm() {
        types::Algorithm::Sha256 => Digest::sha256(&sha2::Sha256::digest(bytes).into()),
        types::Algorithm::Sha512 => Digest::sha512(&sha2::Sha512::digest(bytes).into()),
    }
}

/// A layer that was written to a file of its own.
pub struct OneLayer {
    layer: [Layer; 1],
    written: WrittenLayer,
    file: Arc<File>,
}

impl OneLayer {
    /// A layer that fills a file from its first byte on.
    #[must_use]
    pub fn new(file: File, written: WrittenLayer) -> Self {
        let Descriptor { digest, size, .. } = written.descriptor.clone();
        let layer = Layer { digest, size, diff_id: Some(written.diff_id.clone()) };
        Self { layer: [layer], written, file: Arc::new(file) }
    }

    /// What a manifest says of it.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.written.descriptor
    }

    /// Digest of the uncompressed tar.
    #[must_use]
    pub fn diff_id(&self) -> &Digest {
        &self.written.diff_id
    }
}

impl LayerSource for OneLayer {
    fn layers(&self) -> &[Layer] {
        &self.layer
    }

    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        let layer = self.layer.get(index).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Member { file: Arc::clone(&self.file), at: 0, end: layer.size }))
    }
}

/// A reader that fails at the end unless the bytes have their digest.
struct Checked {
    inner: Box<dyn Read + Send>,
    hash: sha2::Sha256,
    expected: Digest,
}

impl Read for Checked {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buf)?;
        self.hash.update(&buf[..got]);
        if got == 0 && !buf.is_empty() {
            let found = Digest::sha256(&self.hash.clone().finalize().into());
            if found != self.expected {
                let text =
                    format!("the blob has the digest {found}, its name is {}", self.expected);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(got)
    }
}

impl LayerSource for LocalImage {
    fn layers(&self) -> &[Layer] {
        &self.layers
    }

    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        let (inner, _) = self.files.open(&self.names[index])?;
        let expected = self.layers[index].digest.clone();
        if expected.algorithm() != types::Algorithm::Sha256
            || !self.names[index].starts_with("blobs/")
        {
            // `docker save` names no digest of the file; the uncompressed one
            // that the configuration names is checked all the same.
            return Ok(inner);
        }
        Ok(Box::new(Checked { inner, hash: sha2::Sha256::new(), expected }))
    }
}

impl LocalImage {
    /// The digest of its manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::sha256(&sha2::Sha256::digest(&self.manifest_bytes).into())
    }

    /// Opens an OCI image layout in a directory.
    ///
    /// # Errors
    /// When it is none, or has no such image.
    pub fn layout(
        dir: &Path,
        tag: Option<&str>,
        platform: &Platform,
    ) -> Result<Self, ArchiveError> {
        Self::oci(Files::Directory(dir.to_owned()), tag, platform)
    }

    /// Opens an OCI image layout in a tar file.
    ///
    /// # Errors
    /// When it is none, or has no such image.
    pub fn oci_archive(
        archive: &Arc<Tarball>,
        tag: Option<&str>,
        platform: &Platform,
    ) -> Result<Self, ArchiveError> {
        Self::oci(Files::Tar(Arc::clone(archive)), tag, platform)
    }

    /// The names of the images in an archive of either form: whether it is one of
    /// `docker save`, and its names.
    ///
    /// # Errors
    /// When it is no archive of images.
    pub fn names(archive: &Arc<Tarball>) -> Result<(bool, Vec<String>), ArchiveError> {
        let files = Files::Tar(Arc::clone(archive));
        let oci = files.read("index.json");
        if let Ok(bytes) = files.read("manifest.json") {
            let images: Vec<Saved> = files.json("manifest.json", &bytes)?;
            let names = images.into_iter().flat_map(|saved| saved.repo_tags.unwrap_or_default());
            return Ok((true, names.collect()));
        }
        let index: types::Index = files.json("index.json", &oci?)?;
        let names = index.manifests.iter().filter_map(|d| d.annotation(REF_NAME));
        Ok((false, names.map(str::to_owned).collect()))
    }

    fn oci(files: Files, tag: Option<&str>, platform: &Platform) -> Result<Self, ArchiveError> {
        let path = files.path();
        let bytes = files.read("index.json")?;
        let index: types::Index = files.json("index.json", &bytes)?;
        let named = |d: &&Descriptor| tag.is_none() || d.annotation(REF_NAME) == tag;
        let found: Vec<&Descriptor> = index.manifests.iter().filter(named).collect();
        let fits = |d: &&&Descriptor| d.platform().is_none_or(|p| platform.accepts(&p));
        let tags =
            || index.manifests.iter().filter_map(|d| d.annotation(REF_NAME)).collect::<Vec<_>>();
        let mut names = tags();
        names.dedup();
        if found.is_empty() || (tag.is_none() && names.len() > 1) {
            let wanted = tag.unwrap_or("without a tag").to_owned();
            return Err(ArchiveError::Tag { path, wanted, offered: names.join(", ") });
        }
        let no_platform =
            || ArchiveError::Platform { path: path.clone(), wanted: platform.clone() };
        let mut digest = found.iter().find(fits).ok_or_else(no_platform)?.digest.clone();
        for _ in 0..DEPTH {
            let bytes = files.blob(&digest)?;
            let document = parse_document(&bytes, None)
                .map_err(|source| ArchiveError::Document { path: path.clone(), source })?;
            match document {
                Document::Index(index) => {
                    digest = index.select(platform).ok_or_else(no_platform)?.digest.clone();
                }
                Document::Manifest(manifest) => {
                    let config = files.blob(&manifest.config.digest)?;
                    let names = manifest.layers.iter().map(|l| blob_name(&l.digest)).collect();
                    return Self::assemble(files, manifest, bytes, config, names);
                }
            }
        }
        Err(no_platform())
    }

    /// Opens what `docker save` writes.
    ///
    /// # Errors
    /// When it is something else, or has no such image.
    pub fn docker_archive(
        archive: &Arc<Tarball>,
        name: Option<&str>,
    ) -> Result<Self, ArchiveError> {
        let files = Files::Tar(Arc::clone(archive));
        let file = archive.path();
        let bytes = files.read("manifest.json")?;
        let images: Vec<Saved> = files.json("manifest.json", &bytes)?;
        let tags = |s: &Saved| s.repo_tags.clone().unwrap_or_default();
        let full = name.map(|n| if n.contains(':') { n.to_owned() } else { format!("{n}:latest") });
        let wanted = |s: &&Saved| {
            full.as_ref()
                .is_none_or(|n| tags(s).iter().any(|t| t == n || t.ends_with(&format!("/{n}"))))
        };
        let mut found = images.iter().filter(wanted);
        let (Some(saved), None) = (found.next(), found.next()) else {
            let offered = images.iter().flat_map(tags).collect::<Vec<_>>().join(", ");
            let wanted = full.unwrap_or_else(|| "without a name".to_owned());
            return Err(ArchiveError::Tag { path: file.to_owned(), wanted, offered });
        };
        let config = files.read(&saved.config)?;
        let parsed = parse_image_config(&config)
            .map_err(|source| ArchiveError::Config { path: file.to_owned(), source })?;
        let mut layers = Vec::new();
        for (name, diff_id) in saved.layers.iter().zip(&parsed.diff_ids) {
            let missing = |_| ArchiveError::Missing { path: file.to_owned(), name: name.clone() };
            let (_, size) = files.open(name).map_err(missing)?;
            layers.push(Descriptor::new(
                "application/vnd.oci.image.layer.v1.tar",
                diff_id.clone(),
                size,
            ));
        }
        let digest = Digest::sha256(&sha2::Sha256::digest(&config).into());
        let media = "application/vnd.oci.image.config.v1+json";
        let manifest =
            Manifest { config: Descriptor::new(media, digest, config.len() as u64), layers };
        let bytes = serde_json::to_vec(&manifest).map_err(|source| ArchiveError::Json {
            path: file.to_owned(),
            name: "manifest".to_owned(),
            source,
        })?;
        Self::assemble(files, manifest, bytes, config, saved.layers.clone())
    }

    fn assemble(
        files: Files,
        manifest: Manifest,
        manifest_bytes: Vec<u8>,
        config_bytes: Vec<u8>,
        names: Vec<String>,
    ) -> Result<Self, ArchiveError> {
        let config = parse_image_config(&config_bytes)
            .map_err(|source| ArchiveError::Config { path: files.path(), source })?;
        let layers = layers(&manifest, &config);
        Ok(Self { manifest, manifest_bytes, config_bytes, files, names, layers })
    }
}

/// The layers of a manifest, with the digests that the configuration adds.
#[must_use]
pub fn layers(manifest: &Manifest, config: &types::ImageConfig) -> Vec<Layer> {
    let diff_ids = config.diff_ids.iter().cloned().map(Some).chain(std::iter::repeat(None));
    let layer = |(d, diff_id): (&Descriptor, Option<Digest>)| Layer {
        digest: d.digest.clone(),
        size: d.size,
        diff_id,
    };
    manifest.layers.iter().zip(diff_ids).map(layer).collect()
}
