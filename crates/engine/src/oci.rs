//! Images to layouts, archives, registries and OCI-SIF.
//!
//! An image that comes from a registry, a layout or an archive keeps its layers
//! and its digest: blobs are copied, nothing is converted. A directory, a SIF
//! or squashfs file, and what is only in the store, become one layer.

use std::io;
use std::path::Path;

use image::{Layer, LayerForm, LayerSource, OciImage, OneLayer};
use registry::Content;
use serde_json::{Value, json};
use sha2::Digest as _;
use sif::{Arch, CreateOptions, Kind, NewObject};
use squashfs::Compression;
use store::{LayerRecord, StoredImage};
use types::{
    Descriptor, Digest, ImageConfig, ImageRef, LayerCompression, Manifest, RegistryRef, media,
};

use crate::build_cache::layer_file;
use crate::built::{LOCAL, PROVENANCE, Provenance};
use crate::export::{self, Fresh, oci_config};
use crate::layers::{RegistryLayers, Watched};
use crate::pull::{fetch_config, find_manifest};
use crate::{
    Destination, Engine, Error, Event, ExportOptions, LayerInfo, Origin, PullPolicy, Resolved,
    Result, SharedProgress, resolve, transport, unpack,
};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const SQUASHFS_LAYER: &str = "application/vnd.sylabs.image.layer.v1.squashfs";
/// What gzip(1) takes by default.
const GZIP_LEVEL: i32 = 6;

/// An image whose documents are at hand.
struct Documents {
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    media_type: String,
    config: Vec<u8>,
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::sha256(&sha2::Sha256::digest(bytes).into())
}

impl Engine {
    /// Writes an image in a form of OCI; the digest of its manifest.
    pub(crate) fn export_oci(
        &self,
        source: &ImageRef,
        to: &Destination,
        ExportOptions { force, epoch, .. }: ExportOptions,
        progress: &SharedProgress,
    ) -> Result<Digest> {
        let name = source.to_string();
        if let ImageRef::Registry(reference) = source
            && self.config().pull.value != PullPolicy::Never
            && resolve::id_prefix(reference).is_none()
            && !self.built_here(source)?
        {
            progress.event(Event::Resolving { name: name.clone() });
            let client = self.client(Some(progress))?;
            let platform = &self.config().platform.value;
            let (found, full) = find_manifest(&client, reference, platform)?;
            let config = fetch_config(&client, &full, &name, &found.manifest.config)?;
            let parsed = self.parse_config(&name, &config)?;
            let layers = image::layers(&found.manifest, &parsed);
            let documents = Documents {
                media_type: media_type(&found.manifest_bytes),
                manifest: found.manifest,
                manifest_bytes: found.manifest_bytes,
                config,
            };
            let layers = RegistryLayers { client: &client, name: &full, layers };
            let from = Some(&full);
            return self.put(&documents, &layers, to, (force, from), progress);
        }
        if !matches!(source, ImageRef::Path(_) | ImageRef::File(_) | ImageRef::Registry(_)) {
            let image = transport::open(source, self.config())?.image;
            let documents = Documents {
                media_type: media_type(&image.manifest_bytes),
                manifest: image.manifest.clone(),
                manifest_bytes: image.manifest_bytes.clone(),
                config: image.config_bytes.clone(),
            };
            return self.put(&documents, &image, to, (force, None), progress);
        }
        let resolved = self.resolve(source, progress)?;
        if let Some(stored) = &resolved.stored
            && let Some(provenance) = self.provenance(stored)?
            && !provenance.layers.is_empty()
            && self.has_layers(&provenance)?
            && provenance.reachable()
        {
            return self.export_built(stored, &provenance, to, force, progress);
        }
        let (documents, layer) = self.one_layer(&resolved, epoch)?;
        self.put(&documents, &layer, to, (force, None), progress)
    }

    /// Whether a name means what was built here or came from a file, which no
    /// registry has.
    fn built_here(&self, source: &ImageRef) -> Result<bool> {
        let local = format!("{LOCAL}/");
        let built = |image: StoredImage| {
            let from = &image.record.reference;
            let registry = matches!(from.parse(), Ok(ImageRef::Registry(_)));
            image.record.blobs.len() > PROVENANCE || from.starts_with(&local) || !registry
        };
        Ok(self.stored(source)?.is_some_and(built))
    }

    /// Whether the layers that builds have put over a base are still there.
    fn has_layers(&self, provenance: &Provenance) -> Result<bool> {
        let dir = self.build_dir()?;
        Ok(provenance.layers.iter().all(|digest| layer_file(&dir, digest).is_file()))
    }

    /// Writes an image that was built, with the layers that it was built of.
    fn export_built(
        &self,
        stored: &StoredImage,
        provenance: &Provenance,
        to: &Destination,
        force: bool,
        progress: &SharedProgress,
    ) -> Result<Digest> {
        let name = stored.record.reference.clone();
        let missing = || Error::UnknownImage { name: name.clone() };
        let blob = stored.record.blobs.get(1).ok_or_else(missing)?;
        let config = self.store()?.blob_get(blob)?.ok_or_else(missing)?;
        let base = &stored.record.layers[..provenance.base_layers.min(stored.record.layers.len())];
        let mut descriptors: Vec<Descriptor> = base.iter().map(of_oci).collect();
        let mut own = Vec::new();
        let dir = self.build_dir()?;
        for expected in &provenance.layers {
            let path = layer_file(&dir, expected);
            let part = plan::ImagePart { path: path.clone(), offset: 0 };
            let image = unpack::open(&[part])?.remove(0);
            let layer = self.as_layer(&image)?;
            if layer.diff_id() != expected {
                return Err(Error::LayerChanged { path, found: layer.diff_id().clone() });
            }
            descriptors.push(layer.descriptor().clone());
            own.push(layer);
        }
        let config_descriptor = Descriptor::new(CONFIG, digest(&config), config.len() as u64);
        let manifest = Manifest { config: config_descriptor, layers: descriptors };
        let documents = Documents {
            manifest_bytes: image::manifest(&manifest.config, &manifest.layers),
            manifest,
            media_type: media::OCI_MANIFEST.to_owned(),
            config,
        };
        let parsed = self.parse_config(&name, &documents.config)?;
        let layers = image::layers(&documents.manifest, &parsed);
        let put = |below: &dyn LayerSource, from: Option<&RegistryRef>| {
            let source = Composite { layers: &layers, below, own: &own };
            self.put(&documents, &source, to, (force, from), progress)
        };
        if base.is_empty() {
            return put(&Nowhere, None);
        }
        match provenance.base.parse::<ImageRef>()? {
            ImageRef::Registry(reference) => {
                let client = self.client(Some(progress))?;
                let layers = layers[..base.len()].to_vec();
                let below = RegistryLayers { client: &client, name: &reference, layers };
                put(&below, Some(&reference))
            }
            local => {
                let opened = transport::open(&local, self.config())?;
                put(&opened.image, None)
            }
        }
    }

    /// A file system as a compressed layer, in a file without a name.
    fn as_layer(&self, image: &squashfs::Image) -> Result<OneLayer> {
        let scratch = &self.config().scratch.value;
        let near = unpack::own_directory(&unpack::cache(scratch))?.join("layer");
        let cannot = |source| Error::Export { path: near.clone(), source };
        let mut file = unpack::nameless(&near).map_err(cannot)?;
        let failed = |source| Error::Copy { path: near.clone(), source };
        let compression = &self.config().compression;
        let form = match (compression.value, &compression.origin) {
            // The default is the one of squashfs; a layer's is what all read.
            (_, Origin::Default) => LayerForm::Gzip(GZIP_LEVEL),
            (Compression::Zstd(level), _) => LayerForm::Zstd(level),
            (Compression::Gzip(level), _) => LayerForm::Gzip(level),
            _ => LayerForm::Gzip(GZIP_LEVEL),
        };
        let mut buffered = io::BufWriter::with_capacity(1 << 20, &mut file);
        let written = image::write_layer(image, &mut buffered, form).map_err(failed)?;
        buffered.into_inner().map_err(|e| cannot(e.into_error()))?;
        Ok(OneLayer::new(file, written))
    }

    /// A root file system as an image of one layer.
    fn one_layer(&self, resolved: &Resolved, epoch: Option<u32>) -> Result<(Documents, OneLayer)> {
        let scratch = &self.config().scratch.value;
        let near = unpack::own_directory(&unpack::cache(scratch))?.join("layer");
        let image = self.as_image(resolved, &near, epoch)?;
        let layer = self.as_layer(&image)?;
        let config = self.config_of(resolved, layer.diff_id())?;
        let descriptor = Descriptor::new(CONFIG, digest(&config), config.len() as u64);
        let layers = vec![layer.descriptor().clone()];
        let manifest_bytes = image::manifest(&descriptor, &layers);
        let manifest = Manifest { config: descriptor, layers };
        let media_type = media::OCI_MANIFEST.to_owned();
        let documents = Documents { manifest, manifest_bytes, media_type, config };
        Ok((documents, layer))
    }

    /// The configuration of an image whose layers became one.
    fn config_of(&self, resolved: &Resolved, diff_id: &Digest) -> Result<Vec<u8>> {
        let mut value = self.document(resolved)?;
        if let Some(process) = export::process_of_sif(resolved)? {
            value["config"] = process;
        }
        value["rootfs"] = json!({"type": "layers", "diff_ids": [diff_id]});
        value["history"] =
            json!([{"created_by": "sampan convert", "comment": "all layers as one"}]);
        Ok(value.to_string().into_bytes())
    }

    /// The configuration of an image. What it says beyond what sampan reads is
    /// kept, where there is a document that says it.
    pub(crate) fn document(&self, resolved: &Resolved) -> Result<Value> {
        let kept = match &resolved.stored {
            Some(stored) => match stored.record.blobs.get(1) {
                Some(blob) => self.store()?.blob_get(blob)?,
                None => None,
            },
            None => None,
        };
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        if let Some(kept) = kept.filter(Value::is_object) {
            return Ok(kept);
        }
        let platform = self.platform_of(resolved);
        Ok(json!({
            "architecture": platform.architecture(), "os": platform.os(),
            "config": process_of(resolved)?, "rootfs": {"type": "layers", "diff_ids": []},
        }))
    }

    fn put(
        &self,
        documents: &Documents,
        layers: &dyn LayerSource,
        to: &Destination,
        (force, from): (bool, Option<&RegistryRef>),
        progress: &SharedProgress,
    ) -> Result<Digest> {
        let infos = documents.manifest.layers.iter();
        let infos = infos.map(|l| LayerInfo { digest: l.digest.clone(), size: l.size }).collect();
        progress.event(Event::Layers { layers: infos, remote: from.is_some() });
        let watched = Watched { inner: layers, progress };
        let image = OciImage {
            manifest: &documents.manifest_bytes,
            media_type: &documents.media_type,
            config: &documents.config,
            config_descriptor: &documents.manifest.config,
            layers: &documents.manifest.layers,
            source: &watched,
        };
        let failed = |source| Error::Put { to: to.to_string(), source };
        match to {
            Destination::OciLayout(path, tag) => {
                image.put_layout(path, tag.as_deref()).map_err(failed)?;
            }
            Destination::OciArchive(path, tag) => {
                let (fresh, file) = Fresh::replacing(path, force)?;
                image.put_oci_archive(file, path, tag.as_deref()).map_err(failed)?;
                fresh.keep()?;
            }
            Destination::DockerArchive(path, name) => {
                let (fresh, file) = Fresh::replacing(path, force)?;
                let names: Vec<String> = name.iter().map(|name| tagged(name)).collect();
                image.put_docker_archive(file, path, &names).map_err(failed)?;
                fresh.keep()?;
            }
            Destination::Registry(name) => self.push(&image, name, from, progress)?,
            _ => return Err(Error::Destination { text: to.to_string() }),
        }
        progress.event(Event::Done);
        Ok(digest(&documents.manifest_bytes))
    }

    fn push(
        &self,
        image: &OciImage<'_>,
        to: &RegistryRef,
        from: Option<&RegistryRef>,
        progress: &SharedProgress,
    ) -> Result<()> {
        let client = self.client(Some(progress))?;
        // A registry need not be sent what another of its repositories has.
        let mount = from
            .filter(|from| from.domain == to.domain && from.path != to.path)
            .map(|from| from.path.clone());
        for (index, layer) in image.layers.iter().enumerate() {
            let mut open = || image.source.open(index);
            let content = Content { digest: &layer.digest, size: layer.size, open: &mut open };
            client.push_blob(to, content, mount.as_deref())?;
            progress.event(Event::LayerDone { layer: index });
        }
        let config = image.config;
        let mut open = || Ok(Box::new(config) as Box<dyn io::Read + Send + '_>);
        let digest = &image.config_descriptor.digest;
        let content = Content { digest, size: config.len() as u64, open: &mut open };
        client.push_blob(to, content, None)?;
        progress.event(Event::Finishing);
        Ok(client.push_manifest(to, image.media_type, image.manifest)?)
    }

    /// Writes a SIF file of SingularityCE's OCI form, of one layer.
    pub(crate) fn write_oci_sif(
        &self,
        resolved: &Resolved,
        path: &Path,
        epoch: Option<u32>,
    ) -> Result<Digest> {
        let data = self.as_squashfs(resolved, &[], path, epoch)?;
        let failed = |source| Error::Export { path: path.to_owned(), source };
        let (squashfs, size) = image::digest(&mut data.reader()).map_err(failed)?;
        let config = self.config_of(resolved, &squashfs)?;
        let config_descriptor = Descriptor::new(CONFIG, digest(&config), config.len() as u64);
        let layers = [Descriptor::new(SQUASHFS_LAYER, squashfs, size)];
        let manifest = image::manifest(&config_descriptor, &layers);
        let manifest_digest = digest(&manifest);
        let index = json!({
            "schemaVersion": 2, "mediaType": media::OCI_INDEX,
            "manifests": [Descriptor::new(
                media::OCI_MANIFEST, manifest_digest.clone(), manifest.len() as u64,
            )],
        });
        let index = index.to_string().into_bytes();
        let (fresh, file) = Fresh::create(path, "new")?;
        let arch = Arch::from_name(self.platform_of(resolved).architecture());
        let options = CreateOptions { arch, time: None, uuid: [0; 16], launch: false };
        let mut sif = sif::create(file, &fresh.temporary, &options)?;
        let mut add = |kind, digest: &Digest, data: &mut dyn io::Read| {
            let object = NewObject {
                kind,
                name: String::new(),
                group: 1,
                link: 0,
                partition: None,
                digest: Some(digest.to_string()),
            };
            sif.add(object, data)
        };
        add(Kind::OciBlob, &layers[0].digest, &mut data.reader())?;
        add(Kind::OciBlob, &config_descriptor.digest, &mut &config[..])?;
        add(Kind::OciBlob, &manifest_digest, &mut &manifest[..])?;
        add(Kind::OciRootIndex, &digest(&index), &mut &index[..])?;
        drop(sif);
        fresh.keep()?;
        Ok(manifest_digest)
    }
}

/// What an image without a configuration starts: the scripts of Apptainer,
/// where it has them.
fn process_of(resolved: &Resolved) -> Result<Value> {
    let action = format!("{}/actions/run", plan::SCRIPTS);
    if resolved.config != ImageConfig::default() || !export::has(resolved, &action)? {
        return Ok(oci_config(&resolved.config));
    }
    Ok(json!({ "Entrypoint": [action] }))
}

/// The layers of a base, and those that a build has put over them.
struct Composite<'a> {
    layers: &'a [Layer],
    below: &'a dyn LayerSource,
    own: &'a [OneLayer],
}

impl LayerSource for Composite<'_> {
    fn layers(&self) -> &[Layer] {
        self.layers
    }

    fn open(&self, index: usize) -> io::Result<Box<dyn io::Read + Send + '_>> {
        let below = self.layers.len() - self.own.len();
        match index.checked_sub(below) {
            None => self.below.open(index),
            Some(own) => self.own.get(own).ok_or(io::ErrorKind::NotFound)?.open(0),
        }
    }
}

/// The layers of an image that begins with nothing.
struct Nowhere;

impl LayerSource for Nowhere {
    fn layers(&self) -> &[Layer] {
        &[]
    }

    fn open(&self, _: usize) -> io::Result<Box<dyn io::Read + Send + '_>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What a manifest calls itself; OCI's own need not.
fn media_type(manifest: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(manifest).ok();
    let named = value.as_ref().and_then(|value| value["mediaType"].as_str());
    named.unwrap_or(media::OCI_MANIFEST).to_owned()
}

/// A layer as a manifest of OCI names it, whatever its own manifest was.
fn of_oci(layer: &LayerRecord) -> Descriptor {
    let plain = Descriptor::new(&layer.media_type, layer.digest.clone(), layer.size);
    let media_type = match plain.layer_compression() {
        Some(LayerCompression::None) => "application/vnd.oci.image.layer.v1.tar",
        Some(LayerCompression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
        Some(LayerCompression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        None => return plain,
    };
    Descriptor { media_type: media_type.to_owned(), ..plain }
}

/// Docker's names have a tag.
fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_tag_get_one() {
        assert_eq!(tagged("r.io:5000/a/b"), "r.io:5000/a/b:latest");
        assert_eq!(tagged("a:1"), "a:1");
    }

    #[test]
    fn documents_name_themselves() {
        assert_eq!(media_type(b"{}"), media::OCI_MANIFEST);
        assert_eq!(media_type(br#"{"mediaType":"x/y"}"#), "x/y");
    }
}
