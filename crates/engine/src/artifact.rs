//! Files in a registry that are no image: a manifest whose layers they are (OCI
//! image-spec, "Guidelines for Artifact Usage").

use std::fs::File;
use std::io;
use std::path::PathBuf;

use registry::{Client, Content};
use types::{Descriptor, Digest, RegistryRef};

use crate::pull::{fetch_config, find_manifest};
use crate::{Engine, Error, Result, SharedProgress};

/// What an artifact is: the media types of its configuration and its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArtifactKind {
    /// Of the configuration.
    pub config: &'static str,
    /// Of each file.
    pub file: &'static str,
}

/// An artifact of a registry.
#[derive(Debug)]
pub struct Artifact {
    client: Client,
    name: RegistryRef,
    files: Vec<Descriptor>,
    /// Its configuration.
    pub config: Vec<u8>,
}

impl Artifact {
    /// The digest of a file; None where there is no such file.
    #[must_use]
    pub fn digest(&self, index: usize) -> Option<&Digest> {
        self.files.get(index).map(|file| &file.digest)
    }

    /// Fetches a file; its digest is checked.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be fetched or written.
    pub fn fetch(&self, index: usize, to: &mut File) -> Result<()> {
        let name = self.name.to_string();
        let file = self.files.get(index).ok_or(Error::UnknownImage { name: name.clone() })?;
        let mut blob = self.client.blob(&self.name, &file.digest, Some(file.size))?;
        io::copy(&mut blob, to).map_err(|source| Error::Download { url: name, source })?;
        Ok(())
    }
}

impl Engine {
    /// An artifact by its name; None when there is none, or something else.
    ///
    /// # Errors
    /// When the registry does not give it.
    pub fn artifact(
        &self,
        name: &RegistryRef,
        kind: ArtifactKind,
        progress: &SharedProgress,
    ) -> Result<Option<Artifact>> {
        let client = self.client(Some(progress))?;
        let (found, full) = match find_manifest(&client, name, &self.config().platform.value) {
            Ok(found) => found,
            Err(Error::Registry(registry::Error::NotFound { .. })) => return Ok(None),
            Err(error) => return Err(error),
        };
        if found.manifest.config.media_type != kind.config {
            return Ok(None);
        }
        let config = fetch_config(&client, &full, &name.to_string(), &found.manifest.config)?;
        Ok(Some(Artifact { client, name: full, files: found.manifest.layers, config }))
    }

    /// Writes an artifact. What the registry has is not sent again.
    ///
    /// # Errors
    /// When a file cannot be read, or the registry does not take it.
    pub fn push_artifact(
        &self,
        name: &RegistryRef,
        kind: ArtifactKind,
        config: &[u8],
        files: &[PathBuf],
        progress: &SharedProgress,
    ) -> Result<()> {
        let client = self.client(Some(progress))?;
        let mut layers = Vec::new();
        for path in files {
            let failed = |source| Error::OpenImage { path: path.clone(), source };
            let mut file = File::open(path).map_err(failed)?;
            let (digest, size) = image::digest(&mut file).map_err(failed)?;
            let mut open = || {
                let file = File::open(path)?;
                Ok(Box::new(file) as Box<dyn io::Read + Send + '_>)
            };
            client.push_blob(name, Content { digest: &digest, size, open: &mut open }, None)?;
            layers.push(Descriptor::new(kind.file, digest, size));
        }
        let (digest, size) = (crate::oci::digest(config), config.len() as u64);
        let mut open = || Ok(Box::new(config) as Box<dyn io::Read + Send + '_>);
        client.push_blob(name, Content { digest: &digest, size, open: &mut open }, None)?;
        let manifest = image::manifest(&Descriptor::new(kind.config, digest, size), &layers);
        Ok(client.push_manifest(name, types::media::OCI_MANIFEST, &manifest)?)
    }
}
