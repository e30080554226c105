//! What a build needs of the engine: a place for its cache, a place to write,
//! and a way into the store.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use plan::ImagePart;
use registry::Client;
use serde::{Deserialize, Serialize};
use squashfs::Compression;
use store::{Begin, ImageId, ImageRecord, LayerRecord, RemoveTarget, StoredImage};
use types::{Digest, ImageConfig, ImageRef, RegistryRef};

use crate::{BuildLease, Engine, Error, Resolved, Result, SharedProgress, unpack};

/// The registry of images that were built here and have none.
pub const LOCAL: &str = "localhost";

/// Which blob of an image's record says where its layers are, after manifest
/// and configuration.
pub(crate) const PROVENANCE: usize = 2;

/// Where the layers of an image are, so that it is written elsewhere with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The image that has the first layers; empty without any.
    pub base: String,
    /// How many those are.
    pub base_layers: usize,
    /// The others, by the digests of their tars, lowest first: the layers that builds
    /// have in the store.
    pub layers: Vec<Digest>,
}

impl Provenance {
    /// Whether the base's layers can still be read: its archive may be gone.
    pub(crate) fn reachable(&self) -> bool {
        match self.base.parse() {
            _ if self.base_layers == 0 => true,
            Ok(ImageRef::Registry(_) | ImageRef::File(_)) => true,
            Ok(
                ImageRef::OciLayout { path, .. }
                | ImageRef::OciArchive { path, .. }
                | ImageRef::DockerArchive { path, .. }
                | ImageRef::Path(path),
            ) => path.exists(),
            Err(_) => false,
        }
    }
}

/// An image that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Its manifest's bytes, whose digest is the image's.
    pub manifest: Vec<u8>,
    /// Its configuration's bytes.
    pub config_bytes: Vec<u8>,
    /// The same, read.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRecord>,
    /// The file systems that make its root file system, bottom first.
    pub parts: Vec<ImagePart>,
    /// Where its layers are; None where its base has none to give.
    pub provenance: Option<Provenance>,
    /// Keeps its layers where they are until it is in the store.
    pub lease: Arc<BuildLease>,
}

/// Fetches from addresses on the web, several at once if need be.
#[derive(Debug)]
pub struct Downloads {
    client: Client,
}

impl Downloads {
    /// As [`fetch`](Self::fetch); whether the address gives anything (404 says no).
    ///
    /// # Errors
    /// When it cannot be fetched, or the writer fails.
    pub fn fetch_if_there(&self, url: &str, to: &mut dyn Write) -> Result<bool> {
        match self.fetch(url, to) {
            Err(Error::Registry(registry::Error::NotFound { .. })) => Ok(false),
            fetched => fetched.map(|()| true),
        }
    }

    /// Writes what an address gives; nothing is checked.
    ///
    /// # Errors
    /// When it cannot be fetched, or the writer fails.
    pub fn fetch(&self, url: &str, to: &mut dyn Write) -> Result<()> {
        let mut reader = self.client.download(url)?;
        let failed = |source| Error::Download { url: url.to_owned(), source };
        std::io::copy(&mut reader, to).map_err(failed)?;
        Ok(())
    }
}

impl Engine {
    /// Waits for the turn at something that builds share; it ends with the value.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn turn(&self, name: &str, progress: &SharedProgress) -> Result<store::Turn> {
        match self.turn_unless::<std::convert::Infallible>(name, progress, &|| None)? {
            store::Flight::Yours(turn) => Ok(turn),
            store::Flight::Found(never) => match never {},
        }
    }

    /// The same, unless something is found meanwhile: what who had the turn has made.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn turn_unless<T>(
        &self,
        name: &str,
        progress: &SharedProgress,
        found: &dyn Fn() -> Option<T>,
    ) -> Result<store::Flight<T>> {
        let waiting = |state: store::WaitState| progress.event(crate::pull::waiting(&state));
        Ok(self.store()?.flight(name, &waiting, &|| Ok(found()))?)
    }

    /// The same without waiting; None while somebody else has it.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn turn_if_free(&self, name: &str) -> Result<Option<store::Turn>> {
        let taken = std::cell::Cell::new(false);
        let given_up = || Ok(taken.get().then_some(()));
        Ok(match self.store()?.flight(name, &|_| taken.set(true), &given_up)? {
            store::Flight::Yours(turn) => Some(turn),
            store::Flight::Found(()) => None,
        })
    }

    /// Where a build writes: node-local, of this user alone; and what to say about it.
    /// Must be called while the process has one thread.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to somebody else.
    pub fn build_scratch(&self) -> Result<(PathBuf, Option<String>)> {
        crate::scratch::for_builds(self.config())
    }

    /// The caller's subordinate ids; None for real root, which needs none.
    ///
    /// # Errors
    /// When it has none, or nobody may map them.
    pub fn sub_ids(&self) -> Result<Option<plan::SubIds>> {
        let facts = host::facts();
        Ok(if facts.real_root { None } else { Some(host::subid::find(&facts)?) })
    }

    /// The configuration of an image as a document: what it was given, or what
    /// can be said of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn image_document(&self, image: &Resolved) -> Result<serde_json::Value> {
        self.document(image)
    }

    /// Where the layers of an image of the store are, as far as that is known.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn provenance(&self, image: &StoredImage) -> Result<Option<Provenance>> {
        self.provenance_of(&image.record)
    }

    pub(crate) fn provenance_of(&self, record: &ImageRecord) -> Result<Option<Provenance>> {
        if let Some(blob) = record.blobs.get(PROVENANCE) {
            let bytes = self.store()?.blob_get(blob)?;
            return Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()));
        }
        let (base, base_layers) = (record.reference.clone(), record.layers.len());
        let layers = Vec::new();
        let local = base.starts_with(&format!("{LOCAL}/"));
        Ok((!local).then_some(Provenance { base, base_layers, layers }))
    }

    /// What fetches from addresses on the web.
    ///
    /// # Errors
    /// When the configuration of certificates or proxies cannot be used.
    pub fn downloads(&self, progress: &SharedProgress) -> Result<Downloads> {
        Ok(Downloads { client: self.client(Some(progress))? })
    }

    /// Takes every image of an archive into the store, each under its own name;
    /// names, and digests.
    ///
    /// # Errors
    /// When it is no archive, or an image cannot be taken.
    pub fn load(
        &self,
        file: &std::path::Path,
        progress: &SharedProgress,
    ) -> Result<Vec<(String, StoredImage)>> {
        let failed =
            |source| Error::Archive { name: file.display().to_string(), source: Box::new(source) };
        let (docker, names) = crate::transport::archive(file, self.config())
            .and_then(|archive| image::LocalImage::names(&archive))
            .map_err(failed)?;
        let names =
            if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        let mut loaded = Vec::new();
        for name in names {
            let path = file.to_owned();
            let reference = match docker {
                true => ImageRef::DockerArchive { path, name: name.clone() },
                false => ImageRef::OciArchive { path, tag: name.clone() },
            };
            let pulled = self.pull(&reference, progress)?;
            // A tag of a layout need not be the name of an image.
            let parsed = name.as_deref().and_then(|name| name.parse::<ImageRef>().ok());
            let known = match (docker, parsed) {
                (true, Some(ImageRef::Registry(name))) => {
                    let reference = store::canonical_reference(&name);
                    let platform = &self.config().platform.value;
                    self.store()?.set_ref(&reference, platform, &pulled.image.id)?;
                    // The archive was the way, and may be a temporary file. Somebody else
                    // who loads it may be quicker.
                    let platform = Some(platform.clone());
                    let way = RemoveTarget::Reference { reference: pulled.reference, platform };
                    let _ = self.store()?.remove(&way, false);
                    reference
                }
                _ => pulled.reference,
            };
            loaded.push((known, pulled.image));
        }
        Ok(loaded)
    }

    /// Gives an image of the store another name; the name as the store has it.
    ///
    /// # Errors
    /// When there is no such image, or the store cannot be written.
    pub fn tag(&self, image: &ImageRef, name: &RegistryRef) -> Result<String> {
        let unknown = || Error::UnknownImage { name: image.to_string() };
        let stored = self.stored(image)?.ok_or_else(unknown)?;
        let reference = local_reference(name);
        self.store()?.set_ref(&reference, &self.config().platform.value, &stored.id)?;
        Ok(reference)
    }

    /// How layers of builds are compressed.
    #[must_use]
    pub fn build_compression(&self) -> Compression {
        self.config().compression.value
    }

    /// Puts an image that was built into the store, under names; names
    /// without a registry are those of [`LOCAL`].
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_built(&self, built: &Built, names: &[RegistryRef]) -> Result<StoredImage> {
        let store = self.store()?;
        let digest: Digest = crate::oci::digest(&built.manifest);
        let id = ImageId::new(digest);
        let references: Vec<String> = names.iter().map(local_reference).collect();
        let image = match store.begin(&id, &|_| {})? {
            Begin::Present(image) => image,
            Begin::Build(mut ticket) => {
                let (file, path) = ticket.create_file()?;
                let images = unpack::open(&built.parts)?;
                let settings = self.config();
                let options = image::ConvertOptions {
                    compression: settings.compression.value,
                    size_limit: settings.size_limit.value,
                    ..image::ConvertOptions::default()
                };
                let failed = |source| Error::Copy { path: path.clone(), source };
                let source = image::TreeSource::Images(&images);
                image::copy(source, file, &options, &[]).map_err(failed)?;
                let mut blobs =
                    vec![store.blob_put(&built.manifest)?, store.blob_put(&built.config_bytes)?];
                if let Some(provenance) = &built.provenance {
                    let bytes = serde_json::to_vec(provenance).unwrap_or_default();
                    blobs.push(store.blob_put(&bytes)?);
                }
                let platform = built.config.platform.clone();
                let record = ImageRecord {
                    id: id.clone(),
                    reference: references.first().cloned().unwrap_or_default(),
                    platform: platform.unwrap_or_else(|| settings.platform.value.clone()),
                    config: built.config.clone(),
                    layers: built.layers.clone(),
                    blobs,
                    size: 0,
                    created_at: store::unix_now(),
                    format: store::FORMAT_VERSION,
                };
                ticket.commit(record)?
            }
        };
        for reference in &references {
            store.set_ref(reference, &self.config().platform.value, &image.id)?;
        }
        Ok(image)
    }
}

/// The name in the store of what was built here.
pub(crate) fn local_reference(name: &RegistryRef) -> String {
    let mut full = name.clone();
    if full.domain.is_none() {
        full.domain = Some(LOCAL.to_owned());
    }
    store::canonical_reference(&full)
}
