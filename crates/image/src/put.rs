//! Images to OCI layouts and archives.
//!
//! Blobs are copied as they are, so an image keeps its digest. In a directory
//! every file gets its name when it is whole, and `index.json` comes last.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use types::media::OCI_MANIFEST;
use types::{Descriptor, Digest};

use crate::layer::Hashed;
use crate::stream::{LayerSource, inflate};

/// An image in the form of the OCI specification.
pub struct OciImage<'a> {
    /// The manifest's bytes.
    pub manifest: &'a [u8],
    /// What the manifest calls itself.
    pub media_type: &'a str,
    /// The configuration's bytes.
    pub config: &'a [u8],
    /// The configuration as the manifest names it.
    pub config_descriptor: &'a Descriptor,
    /// The layers as the manifest names them, lowest first.
    pub layers: &'a [Descriptor],
    /// Where their bytes are.
    pub source: &'a dyn LayerSource,
}

/// Why an image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// A layer cannot be read.
    #[error("cannot read the layer {layer}")]
    Layer {
        /// Which.
        layer: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer is not what its digest says.
    #[error("the layer {expected} has the digest {found}")]
    Digest {
        /// What it should have.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// The destination cannot be written.
    #[error("cannot write {path:?}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something else in the directory.
    #[error("{path:?} is there and is no OCI layout")]
    NotALayout {
        /// Where.
        path: PathBuf,
    },
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

impl OciImage<'_> {
    /// Copies a layer, and checks it.
    fn layer(&self, index: usize, out: &mut dyn Write, path: &Path) -> Result<(), PutError> {
        let Descriptor { digest, .. } = &self.layers[index];
        let failed = |source| PutError::Layer { layer: digest.clone(), source };
        let mut from = self.source.open(index).map_err(failed)?;
        let mut out = Hashed::new(out);
        copy(&mut from, &mut out, failed, path)?;
        let (_, found, _) = out.finish();
        // Other algorithms are checked by whoever opened the layer.
        if digest.algorithm() == types::Algorithm::Sha256 && found != *digest {
            return Err(PutError::Digest { expected: digest.clone(), found });
        }
        Ok(())
    }

    fn entry(&self, tag: Option<&str>) -> Value {
        let digest = Digest::sha256(&sha256(self.manifest));
        let mut entry = json!({
            "mediaType": self.media_type, "digest": digest, "size": self.manifest.len(),
        });
        if let Some(tag) = tag {
            entry["annotations"] = json!({ REF_NAME: tag });
        }
        entry
    }

    /// Writes an OCI layout, or adds to one. A tag that is there moves.
    ///
    /// # Errors
    /// When a layer cannot be read or the directory cannot be written.
    pub fn put_layout(&self, dir: &Path, tag: Option<&str>) -> Result<(), PutError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PutError::Write { path, source }
        };
        let occupied = std::fs::read_dir(dir).is_ok_and(|mut list| list.next().is_some());
        if occupied && !dir.join("oci-layout").is_file() {
            return Err(PutError::NotALayout { path: dir.to_owned() });
        }
        std::fs::create_dir_all(dir.join("blobs/sha256")).map_err(failed(dir))?;
        let blob = |digest: &Digest| {
            dir.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
        };
        for (index, layer) in self.layers.iter().enumerate() {
            let path = blob(&layer.digest);
            if path.metadata().is_ok_and(|meta| meta.len() == layer.size) {
                continue;
            }
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(failed(parent))?;
            }
            whole(&path, |file| self.layer(index, file, &path))?;
        }
        let write = |path: &Path, bytes: &[u8]| {
            whole(path, |file| file.write_all(bytes).map_err(failed(path)))
        };
        write(&blob(&self.config_descriptor.digest), self.config)?;
        write(&blob(&Digest::sha256(&sha256(self.manifest))), self.manifest)?;
        write(&dir.join("oci-layout"), LAYOUT.as_bytes())?;
        let path = dir.join("index.json");
        let mut index = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|_| PutError::NotALayout { path: dir.to_owned() })?,
            Err(_) => json!({"schemaVersion": 2, "manifests": []}),
        };
        let entry = self.entry(tag);
        let Some(list) = index["manifests"].as_array_mut() else {
            return Err(PutError::NotALayout { path: dir.to_owned() });
        };
        list.retain(|other| match tag {
            Some(tag) => other["annotations"][REF_NAME] != tag,
            None => other["digest"] != entry["digest"] || !other["annotations"].is_null(),
        });
        list.push(entry);
        write(&path, index.to_string().as_bytes())
    }

    /// Writes an OCI layout as a tar file; `path` is for messages.
    ///
    /// # Errors
    /// When a layer cannot be read or the file cannot be written.
    pub fn put_oci_archive(
        &self,
        file: File,
        path: &Path,
        tag: Option<&str>,
    ) -> Result<(), PutError> {
        let mut archive = Archive::new(file, path);
        archive.file("oci-layout", LAYOUT.as_bytes())?;
        let index = json!({"schemaVersion": 2, "manifests": [self.entry(tag)]});
        archive.file("index.json", index.to_string().as_bytes())?;
        let name =
            |digest: &Digest| format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        archive.file(&name(&Digest::sha256(&sha256(self.manifest))), self.manifest)?;
        archive.file(&name(&self.config_descriptor.digest), self.config)?;
        let mut done = std::collections::HashSet::new();
        for (index, layer) in self.layers.iter().enumerate() {
            if done.insert(&layer.digest) {
                archive.header(&name(&layer.digest), layer.size)?;
                self.layer(index, archive.out.get_mut(), path)?;
                archive.pad(layer.size)?;
            }
        }
        archive.finish()
    }

    /// Writes what `docker load` reads; `names` are those that the image gets.
    /// Layers are uncompressed, each by way of a file without a name beside
    /// `path`, since a tar file says how long a member is before it comes.
    ///
    /// # Errors
    /// When a layer cannot be read or the file cannot be written.
    pub fn put_docker_archive(
        &self,
        file: File,
        path: &Path,
        names: &[String],
    ) -> Result<(), PutError> {
        let failed = |source| PutError::Write { path: path.to_owned(), source };
        let mut archive = Archive::new(file, path);
        let config = format!("{}.json", Digest::sha256(&sha256(self.config)).hex());
        archive.file(&config, self.config)?;
        let mut layers = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let unread = |source| PutError::Layer { layer: layer.digest.clone(), source };
            let from = self.source.open(index).map_err(unread)?;
            let mut from = inflate(from).map_err(unread)?;
            let mut plain = Hashed::new(nameless(path).map_err(failed)?);
            copy(&mut from, &mut plain, unread, path)?;
            let (mut plain, diff_id, size) = plain.finish();
            let known = self.source.layers()[index].diff_id.as_ref();
            if let Some(expected) = known.filter(|known| **known != diff_id) {
                return Err(PutError::Digest { expected: expected.clone(), found: diff_id });
            }
            let name = format!("{}.tar", diff_id.hex());
            if !layers.contains(&name) {
                plain.rewind().map_err(failed)?;
                archive.header(&name, size)?;
                io::copy(&mut plain, archive.out.get_mut()).map_err(failed)?;
                archive.pad(size)?;
            }
            layers.push(name);
        }
        let saved = json!([{"Config": config, "RepoTags": names, "Layers": layers}]);
        archive.file("manifest.json", saved.to_string().as_bytes())?;
        archive.finish()
    }
}

/// A new manifest of layers that were written here.
#[must_use]
pub fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let value = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    });
    value.to_string().into_bytes()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

/// Copies, and tells who failed.
fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    unread: impl Fn(io::Error) -> PutError,
    path: &Path,
) -> Result<(), PutError> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unread(error)),
        };
        let written = to.write_all(&buffer[..count]);
        written.map_err(|source| PutError::Write { path: path.to_owned(), source })?;
    }
}

/// A file of this name, once it is whole.
fn whole(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), PutError>,
) -> Result<(), PutError> {
    let failed = |source| PutError::Write { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let mut file = File::create(&temporary).map_err(failed)?;
    let made = fill(&mut file).and_then(|()| std::fs::rename(&temporary, path).map_err(failed));
    if made.is_err() {
        // The first failure is the one that is told.
        let _ = std::fs::remove_file(&temporary);
    }
    made
}

/// A file beside another, without a name.
fn nameless(beside: &Path) -> io::Result<File> {
    let name = beside.file_name().unwrap_or_default().to_string_lossy();
    let temporary = beside.with_file_name(format!(".{name}.{}.layer", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&temporary)?;
    std::fs::remove_file(&temporary)?;
    Ok(file)
}

/// A tar file of plain members.
struct Archive<'a> {
    out: tar::Builder<File>,
    path: &'a Path,
}

impl<'a> Archive<'a> {
    fn new(file: File, path: &'a Path) -> Self {
        Self { out: tar::Builder::new(file), path }
    }

    fn failed(&self, source: io::Error) -> PutError {
        PutError::Write { path: self.path.to_owned(), source }
    }

    fn header(&mut self, name: &str, size: u64) -> Result<(), PutError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        let set = header.set_path(name);
        header.set_cksum();
        let out = self.out.get_mut();
        set.and_then(|()| out.write_all(header.as_bytes())).map_err(|e| self.failed(e))
    }

    /// Fills the last block of a member.
    fn pad(&mut self, size: u64) -> Result<(), PutError> {
        let rest = size.next_multiple_of(512) - size;
        let zeros = [0; 512];
        self.out.get_mut().write_all(&zeros[..rest as usize]).map_err(|e| self.failed(e))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), PutError> {
        self.header(name, bytes.len() as u64)?;
        self.out.get_mut().write_all(bytes).map_err(|e| self.failed(e))?;
        self.pad(bytes.len() as u64)
    }

    fn finish(mut self) -> Result<(), PutError> {
        self.out.finish().map_err(|e| self.failed(e))
    }
}
