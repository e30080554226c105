//! From a registry, a layout or an archive to one file in the store.

use std::io::Read;

use image::ConvertOptions;
use registry::Client;
use store::{Begin, ImageId, ImageRecord, LayerRecord, StoredImage, Ticket, canonical_reference};
use types::{
    Descriptor, Document, ImageConfig, ImageRef, Manifest, Platform, RegistryRef, parse_document,
    parse_image_config,
};

use crate::layers::{RegistryLayers, Watched};
use crate::transport::{self, Opened};
use crate::{Engine, Error, Event, LayerInfo, Result, SharedProgress, policy};

/// The most bytes of an image configuration.
const LARGEST_CONFIG: u64 = 16 << 20;

/// Says that another process does what this one waits for.
pub(crate) fn waiting(state: &store::WaitState) -> Event {
    let holder = state.holder.as_ref().map(|owner| format!("{}:{}", owner.host, owner.pid));
    Event::Waiting { holder }
}

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The reference under which the store has it.
    pub reference: String,
    /// The image.
    pub image: StoredImage,
    /// Whether it was converted now, by this process.
    pub converted: bool,
}

/// An image whose manifest is known and whose layers are not yet read.
pub(crate) struct Candidate {
    pub(crate) id: ImageId,
    pub(crate) reference: String,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_bytes: Vec<u8>,
    /// Whether it is at hand, in a layout or an archive.
    pub(crate) local: bool,
}

impl Engine {
    /// Fetches an image into the store, unless it is there already, and makes
    /// its name mean it.
    ///
    /// # Errors
    /// When it cannot be fetched, converted or stored; nothing half-done stays.
    pub fn pull(&self, image: &ImageRef, progress: &SharedProgress) -> Result<Pulled> {
        match image {
            ImageRef::Path(path) => Err(Error::NothingToPull { path: path.clone() }),
            ImageRef::File(file) => Err(Error::NothingToPull { path: file.to_string().into() }),
            ImageRef::Registry(name) => self.pull_registry(name, progress),
            _ => self.pull_local(image, progress),
        }
    }

    fn pull_registry(&self, name: &RegistryRef, progress: &SharedProgress) -> Result<Pulled> {
        policy::check_registry(self.config(), name)?;
        let shown = name.to_string();
        progress.event(Event::Resolving { name: shown.clone() });
        let client = self.client(Some(progress))?;
        let platform = &self.config().platform.value;
        let (candidate, full) = find_manifest(&client, name, platform)?;
        let begin = self.begin(&candidate.id, progress)?;
        self.finish(&shown, begin, &candidate, progress, |ticket| {
            let config = &candidate.manifest.config;
            let bytes = fetch_config(&client, &full, &shown, config)?;
            let parsed = self.parse_config(&shown, &bytes)?;
            let layers = image::layers(&candidate.manifest, &parsed);
            let source = RegistryLayers { client: &client, name: &full, layers };
            let source = Watched { inner: &source, progress };
            self.build(&shown, ticket, &candidate, (parsed, bytes), &source)
        })
    }

    fn pull_local(&self, image: &ImageRef, progress: &SharedProgress) -> Result<Pulled> {
        let shown = image.to_string();
        progress.event(Event::Resolving { name: shown.clone() });
        let Opened { id, reference, image } = transport::open(image, self.config())?;
        let (manifest, manifest_bytes) = (image.manifest.clone(), image.manifest_bytes.clone());
        let candidate = Candidate { id, reference, manifest, manifest_bytes, local: true };
        let begin = self.begin(&candidate.id, progress)?;
        self.finish(&shown, begin, &candidate, progress, |ticket| {
            let parsed = self.parse_config(&shown, &image.config_bytes)?;
            let source = Watched { inner: &image, progress };
            self.build(&shown, ticket, &candidate, (parsed, image.config_bytes.clone()), &source)
        })
    }

    fn begin(&self, id: &ImageId, progress: &SharedProgress) -> Result<Begin> {
        let waiting = |state: store::WaitState| progress.event(waiting(&state));
        Ok(self.store()?.begin(id, &waiting)?)
    }

    fn finish(
        &self,
        name: &str,
        begin: Begin,
        candidate: &Candidate,
        progress: &SharedProgress,
        convert: impl FnOnce(Ticket) -> Result<StoredImage>,
    ) -> Result<Pulled> {
        let platform = &self.config().platform.value;
        let (image, converted) = match begin {
            Begin::Present(image) => {
                check_platform(name, platform, &image.record.config)?;
                (image, false)
            }
            Begin::Build(ticket) => {
                let layers = candidate.manifest.layers.iter();
                let layers =
                    layers.map(|l| LayerInfo { digest: l.digest.clone(), size: l.size }).collect();
                let remote = !candidate.local;
                progress.event(Event::Layers { layers, remote });
                (convert(ticket)?, true)
            }
        };
        let reference = candidate.reference.clone();
        self.store()?.set_ref(&reference, platform, &image.id)?;
        progress.event(Event::Done);
        Ok(Pulled { reference, image, converted })
    }

    pub(crate) fn parse_config(&self, name: &str, bytes: &[u8]) -> Result<ImageConfig> {
        let config = parse_image_config(bytes)
            .map_err(|source| Error::ImageConfig { name: name.to_owned(), source })?;
        check_platform(name, &self.config().platform.value, &config)?;
        Ok(config)
    }

    fn build(
        &self,
        name: &str,
        mut ticket: Ticket,
        candidate: &Candidate,
        (config, config_bytes): (ImageConfig, Vec<u8>),
        source: &Watched<'_>,
    ) -> Result<StoredImage> {
        let store = self.store()?;
        let (file, _) = ticket.create_file()?;
        let settings = self.config();
        let options = ConvertOptions {
            compression: settings.compression.value,
            parallel_layers: settings.parallel_layers.value,
            size_limit: settings.size_limit.value,
            ..ConvertOptions::default()
        };
        image::convert(source, file, &options)
            .map_err(|source| Error::Convert { name: name.to_owned(), source })?;
        source.progress.event(Event::Finishing);
        let blobs =
            vec![store.blob_put(&candidate.manifest_bytes)?, store.blob_put(&config_bytes)?];
        let layer = |l: &Descriptor| LayerRecord {
            digest: l.digest.clone(),
            size: l.size,
            media_type: l.media_type.clone(),
        };
        let record = ImageRecord {
            id: candidate.id.clone(),
            reference: candidate.reference.clone(),
            platform: config.platform.clone().unwrap_or_else(|| settings.platform.value.clone()),
            config,
            layers: candidate.manifest.layers.iter().map(layer).collect(),
            blobs,
            size: 0,
            created_at: store::unix_now(),
            format: store::FORMAT_VERSION,
        };
        Ok(ticket.commit(record)?)
    }
}

/// A configuration that names another platform than the wanted one is the
/// wrong image, whatever index led to it.
fn check_platform(name: &str, wanted: &Platform, config: &ImageConfig) -> Result<()> {
    match &config.platform {
        Some(found) if !wanted.accepts(found) => Err(Error::Platform {
            name: name.to_owned(),
            wanted: Box::new(wanted.clone()),
            offered: vec![found.clone()],
        }),
        _ => Ok(()),
    }
}

/// The manifest for a platform, through at most one index, and the full name
/// that has it.
pub(crate) fn find_manifest(
    client: &Client,
    name: &RegistryRef,
    platform: &Platform,
) -> Result<(Candidate, RegistryRef)> {
    let shown = name.to_string();
    let document = |found: &registry::Manifest| {
        parse_document(&found.bytes, Some(&found.media_type))
            .map_err(|source| Error::Document { name: shown.clone(), source })
    };
    let first = client.manifest(name)?;
    let full = first.name.clone();
    let reference = canonical_reference(&full);
    let (found, manifest) = match document(&first)? {
        Document::Manifest(manifest) => (first, manifest),
        Document::Index(index) => {
            let entry = index.select(platform).ok_or_else(|| Error::Platform {
                name: shown.clone(),
                wanted: Box::new(platform.clone()),
                offered: index.platforms(),
            })?;
            let digest = Some(entry.digest.clone());
            let second = client.manifest(&RegistryRef { digest, tag: None, ..full.clone() })?;
            match document(&second)? {
                Document::Manifest(manifest) => (second, manifest),
                Document::Index(_) => return Err(Error::NestedIndex { name: shown }),
            }
        }
    };
    let id = ImageId::new(found.digest);
    let manifest_bytes = found.bytes;
    Ok((Candidate { id, reference, manifest, manifest_bytes, local: false }, full))
}

pub(crate) fn fetch_config(
    client: &Client,
    full: &RegistryRef,
    name: &str,
    config: &Descriptor,
) -> Result<Vec<u8>> {
    if config.size > LARGEST_CONFIG {
        let (name, size) = (name.to_owned(), config.size);
        return Err(Error::LargeConfig { name, size, limit: LARGEST_CONFIG });
    }
    let mut bytes = Vec::new();
    let blob = client.blob(full, &config.digest, Some(config.size))?;
    blob.take(LARGEST_CONFIG)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::ReadConfig { name: name.to_owned(), source })?;
    Ok(bytes)
}
