//! The root file system inside a SIF file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use sif::{FsKind, Kind, Object, Sif};
use types::{ImageConfig, Platform};

use crate::{Error, Result};

/// Longest JSON object that is read.
const MOST_JSON: u64 = 16 << 20;

/// Where the root file system is, and what the image says of its process.
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) config: ImageConfig,
    /// Whether it is an image of Apptainer's own form, with scripts.
    pub(crate) scripts: bool,
}

fn refused(path: &Path, reason: &'static str, hint: &'static str) -> Error {
    Error::Sif { path: path.to_owned(), reason, hint }
}

/// Whether a file's first bytes are those of a SIF file.
pub(crate) fn is_sif(path: &Path) -> std::io::Result<bool> {
    use std::io::Read;
    let mut head = Vec::new();
    std::fs::File::open(path)?.take(64).read_to_end(&mut head)?;
    Ok(sif::is_sif(&head))
}

/// Finds the root file system.
pub(crate) fn find(path: &Path) -> Result<Found> {
    let sif = Sif::open(path)?;
    if let Some(index) = sif.objects().iter().find(|object| object.kind == Kind::OciRootIndex) {
        return oci(path, &sif, index);
    }
    let primary = sif.primary();
    let Some((object, partition)) = primary else {
        let hint = "sampan sif list shows what it holds, sampan sif setprim chooses a partition";
        return Err(refused(path, "it has no primary system partition", hint));
    };
    let host = Platform::host();
    if partition.arch.name().is_some_and(|arch| arch != host.architecture()) {
        let hint = "take an image for this machine's architecture";
        return Err(refused(path, "its programs are for another architecture", hint));
    }
    match partition.fs {
        FsKind::Squashfs => {}
        FsKind::EncryptedSquashfs | FsKind::Gocryptfs => {
            let hint = "decrypt it with the tool that made it, for example apptainer build";
            return Err(refused(path, "its root file system is encrypted", hint));
        }
        FsKind::Ext3 => {
            let hint = "make a squashfs image of it with the tool that made it";
            return Err(refused(path, "its root file system is ext3", hint));
        }
        _ => {
            let hint = "sampan sif list shows what it holds";
            return Err(refused(path, "its root file system is no squashfs", hint));
        }
    }
    Ok(Found { offset: object.offset, config: ImageConfig::default(), scripts: true })
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: String,
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

/// An OCI image whose layers are squashfs: SingularityCE's OCI-SIF.
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
    let [manifest] = &index.manifests[..] else {
        return Err(refused(path, "its OCI index does not name one image", hint));
    };
    let manifest = read(blob(&manifest.digest)?)?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(malformed)?;
    let config = read(blob(&manifest.config.digest)?)?;
    let config = types::parse_image_config(&config)
        .map_err(|_| refused(path, "its OCI configuration is malformed", hint))?;
    let squashfs = manifest.layers.iter().filter(|layer| layer.media_type.ends_with(".squashfs"));
    let layers: Vec<&Descriptor> = squashfs.collect();
    match &layers[..] {
        [layer] => Ok(Found { offset: blob(&layer.digest)?.offset, config, scripts: false }),
        [] => Err(refused(path, "it has no squashfs layer", hint)),
        _ => {
            let hint =
                "make it anew with one layer, which is the default of singularity pull --oci";
            Err(refused(path, "it has several layers", hint))
        }
    }
}
