//! The root file system inside a file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use sif::{FsKind, Kind, Object, PartKind, Partition, Sif};
use types::ImageConfig;

use crate::{Error, Result};

/// Longest JSON object that is read.
const MOST_JSON: u64 = 16 << 20;
/// The object that says what the OCI image was.
pub(crate) const OCI_CONFIG: &str = "oci-config.json";
/// The annotation with the name of an image in an index (OCI image-spec,
/// annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where the root file system is, and what the image says of its process.
pub(crate) struct Found {
    /// Bottom first.
    pub(crate) parts: Vec<Part>,
    pub(crate) config: ImageConfig,
    /// Whether it is an image of Apptainer's own form, with scripts.
    pub(crate) scripts: bool,
    /// The architecture of its programs, in Go's name.
    pub(crate) architecture: Option<String>,
    /// Whether the file may have objects that describe it.
    pub(crate) described: bool,
}

/// A file system inside a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) form: Form,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Squashfs,
    /// ext3, and the directory that counts: `upper` of an overlay.
    Ext(&'static str),
}

fn refused(path: &Path, reason: &'static str, hint: &'static str) -> Error {
    Error::Sif { path: path.to_owned(), reason, hint }
}

/// What Singularity 2 wrote before its images, to make them programs.
const LAUNCHER: &[u8] = b"#!/usr/bin/env run-singularity\n";
/// What squashfs 4.0 begins with.
const SQUASHFS_MAGIC: &[u8] = b"hsqs";
/// Where the magic number of ext2 and its successors is, and what it is.
const EXT_MAGIC: (usize, [u8; 2]) = (1080, [0x53, 0xef]);

/// Finds the root file system in a file: SIF, squashfs, or ext3 as
/// Singularity 2 made them.
pub(crate) fn in_file(path: &Path) -> Result<Found> {
    use std::io::Read;
    let failed = |source| Error::OpenImage { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    let mut head = Vec::new();
    file.take(2048).read_to_end(&mut head).map_err(failed)?;
    if sif::is_sif(&head) {
        return find(path);
    }
    let start = if head.starts_with(LAUNCHER) { LAUNCHER.len() } else { 0 };
    let (at, magic) = EXT_MAGIC;
    let has =
        |at: usize, magic: &[u8]| head.get(start + at..).is_some_and(|r| r.starts_with(magic));
    let form = if has(0, SQUASHFS_MAGIC) {
        Form::Squashfs
    } else if has(at, &magic) {
        Form::Ext("/")
    } else {
        let hint = "archives of images are named docker-archive:FILE or oci-archive:FILE";
        return Err(refused(path, "it is neither a SIF file nor squashfs", hint));
    };
    let part = Part { offset: start as u64, size: len.saturating_sub(start as u64), form };
    let config = ImageConfig::default();
    let (architecture, described) = (None, false);
    Ok(Found { parts: vec![part], config, scripts: true, architecture, described })
}

/// Finds the root file system of a SIF file.
fn find(path: &Path) -> Result<Found> {
    let sif = Sif::open(path)?;
    if let Some(index) = sif.objects().iter().find(|object| object.kind == Kind::OciRootIndex) {
        return oci(path, &sif, index);
    }
    let primary = sif.primary();
    let Some((object, partition)) = primary else {
        let hint = "sampan sif list shows what it holds, sampan sif setprim chooses a partition";
        return Err(refused(path, "it has no primary system partition", hint));
    };
    let mut parts = vec![part(path, object, partition, "/")?];
    for (object, partition) in sif.partitions().filter(|(_, p)| p.part == PartKind::Overlay) {
        // Overlays that are directories of a writable file system have the
        // working directory of overlayfs beside them.
        parts.push(part(path, object, partition, "upper")?);
    }
    let architecture = partition.arch.name().map(str::to_owned);
    let config = ImageConfig::default();
    Ok(Found { parts, config, scripts: true, architecture, described: true })
}

/// The object in which Apptainer keeps what the OCI image said that the file was
/// made from: the `config` of its configuration. `run` goes by the scripts.
pub(crate) struct OciConfig {
    /// As it is.
    pub(crate) said: Map<String, Value>,
    /// The same, read.
    pub(crate) config: ImageConfig,
}

/// Reads that object; None where the file has none.
pub(crate) fn oci_config(path: &Path) -> Result<Option<OciConfig>> {
    let sif = Sif::open(path)?;
    let named = |object: &&Object| object.kind == Kind::GenericJson && object.name == OCI_CONFIG;
    let Some(object) = sif.objects().iter().find(named) else { return Ok(None) };
    let name = || format!("{} in {}", object.name, path.display());
    let malformed = |source| Error::ImageConfig { name: name(), source };
    let bytes = sif.read(object, MOST_JSON)?;
    let said: Option<Map<String, Value>> =
        serde_json::from_slice(&bytes).map_err(|source| malformed(source.into()))?;
    let said = said.unwrap_or_default();
    let whole = serde_json::json!({ "config": &said }).to_string();
    let config = types::parse_image_config(whole.as_bytes()).map_err(malformed)?;
    Ok(Some(OciConfig { said, config }))
}

/// A partition that can be part of the root file system.
fn part(path: &Path, object: &Object, partition: Partition, top: &'static str) -> Result<Part> {
    let form = match partition.fs {
        FsKind::Squashfs => Form::Squashfs,
        FsKind::Ext3 => Form::Ext(top),
        FsKind::EncryptedSquashfs | FsKind::Gocryptfs => {
            let hint = "decrypt it with the tool that made it, for example apptainer build";
            return Err(refused(path, "its root file system is encrypted", hint));
        }
        _ => {
            let hint = "sampan sif list shows what it holds";
            return Err(refused(path, "a file system in it is neither squashfs nor ext3", hint));
        }
    };
    Ok(Part { offset: object.offset, size: object.size, form })
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// Whether it is what cosign has said of an image in the file:
    /// SingularityCE gives it a name of that form.
    fn is_cosign(&self) -> bool {
        let name = self.annotations.as_ref().and_then(|all| all.get(REF_NAME));
        name.is_some_and(|name| name.starts_with("_cosign"))
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An OCI image whose layers are squashfs: SingularityCE's OCI-SIF. Its
/// overlays are layers too.
fn oci(path: &Path, sif: &Sif, index: &Object) -> Result<Found> {
    let blobs: BTreeMap<String, &Object> = sif
        .objects()
        .iter()
        .filter_map(|object| object.digest().map(|digest| (digest, object)))
        .collect();
    let hint = "sampan sif list shows what it holds";
    let blob = |digest: &str| {
        let missing = || refused(path, "its OCI index names a blob that it lacks", hint);
        blobs.get(digest).copied().ok_or_else(missing)
    };
    let read = |object: &Object| sif.read(object, MOST_JSON);
    let malformed = |_| refused(path, "its OCI index or manifest is malformed", hint);
    let index: Index = serde_json::from_slice(&read(index)?).map_err(malformed)?;
    let images: Vec<_> = index.manifests.iter().filter(|one| !one.is_cosign()).collect();
    let [manifest] = images[..] else {
        return Err(refused(path, "its OCI index does not name one image", hint));
    };
    let manifest = read(blob(&manifest.digest)?)?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(malformed)?;
    let config = read(blob(&manifest.config.digest)?)?;
    let config = types::parse_image_config(&config)
        .map_err(|_| refused(path, "its OCI configuration is malformed", hint))?;
    let mut parts = Vec::new();
    for layer in &manifest.layers {
        let form = match layer.media_type.rsplit('.').next() {
            Some("squashfs") => Form::Squashfs,
            // A writable overlay, which is the last one.
            Some("ext3") => Form::Ext("upper"),
            _ => {
                let hint = "singularity pull --oci makes one that can be run";
                return Err(refused(path, "it has a layer that is no file system", hint));
            }
        };
        let object = blob(&layer.digest)?;
        parts.push(Part { offset: object.offset, size: object.size, form });
    }
    if parts.is_empty() {
        return Err(refused(path, "it has no layer", hint));
    }
    let architecture = config.platform.as_ref().map(|p| p.architecture().to_owned());
    Ok(Found { parts, config, scripts: false, architecture, described: false })
}
