//! Manifests and indexes, OCI and Docker schema 2.

use serde::{Deserialize, Serialize};

use crate::{Digest, Platform};

/// Media types (OCI image-spec media-types.md; Docker image manifest v2.2).
pub mod media {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A Docker image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// The four documents a client accepts.
    pub const ACCEPT: [&str; 4] = [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST];
}

/// How a layer's tar stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerCompression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878).
    Zstd,
}

/// A reference to content: media type, digest, size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What an image in an index is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    /// Free-form pairs; an OCI layout's tag is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// The platform object of an index entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    os: String,
    architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl Descriptor {
    /// Of content, without more.
    #[must_use]
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, platform: None, annotations: None }
    }

    /// The platform in sampan's form.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let p = self.platform.as_ref()?;
        Some(Platform::new(&p.os, &p.architecture, p.variant.as_deref()))
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// How this layer is compressed by its media type; None for content that
    /// is no file system layer, and for encrypted layers.
    #[must_use]
    pub fn layer_compression(&self) -> Option<LayerCompression> {
        match self.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Some(LayerCompression::None),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
                Some(LayerCompression::Gzip)
            }
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(LayerCompression::Zstd),
            _ => None,
        }
    }
}

/// An image manifest: its configuration and its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The configuration blob.
    pub config: Descriptor,
    /// The layer blobs, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An index: one manifest per platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The first manifest that answers a request for `wanted`. Entries that
    /// hold attestations carry the platform `unknown/unknown` and never match.
    #[must_use]
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let offers = |d: &&Descriptor| d.platform().is_some_and(|found| wanted.accepts(&found));
        self.manifests.iter().find(offers)
    }

    /// The platforms on offer, for messages.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        self.manifests
            .iter()
            .filter_map(Descriptor::platform)
            .filter(|p| p.os() != "unknown")
            .collect()
    }
}

/// What a manifest request can answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, by platform.
    Index(Index),
}

/// Why bytes are neither a manifest nor an index.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or a required field is missing or malformed.
    #[error("the manifest is malformed")]
    Json(#[from] serde_json::Error),
    /// Docker's schema 1, retired in 2019.
    #[error("the manifest is of Docker's retired schema 1, which has no layers to verify")]
    Schema1,
    /// Neither `layers` nor `manifests`.
    #[error("the document is neither an image manifest nor an index (media type {0:?})")]
    Unknown(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or an index; `content_type` is what the registry called
/// it, used when the document does not name itself.
///
/// A document that names itself one thing and has the fields of the other is
/// refused, as image-spec's manifest.md asks (CVE-2021-41190).
///
/// # Errors
/// When it is malformed or something else.
pub fn parse_document(bytes: &[u8], content_type: Option<&str>) -> Result<Document, DocumentError> {
    let probe: Probe = serde_json::from_slice(bytes)?;
    if probe.schema_version == 1 {
        return Err(DocumentError::Schema1);
    }
    let named = probe.media_type.as_deref().or(content_type).unwrap_or_default();
    let named_index = matches!(named, media::OCI_INDEX | media::DOCKER_LIST);
    let named_manifest = matches!(named, media::OCI_MANIFEST | media::DOCKER_MANIFEST);
    match (probe.layers.is_some(), probe.manifests.is_some()) {
        (true, false) if !named_index => Ok(Document::Manifest(serde_json::from_slice(bytes)?)),
        (false, true) if !named_manifest => Ok(Document::Index(serde_json::from_slice(bytes)?)),
        _ => Err(DocumentError::Unknown(named.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(extra: &str) -> String {
        format!(r#"{{"mediaType":"m","digest":"sha256:{}","size":1{extra}}}"#, "ab".repeat(32))
    }

    #[test]
    fn an_index_gives_the_wanted_platform() {
        let arm = descriptor(r#","platform":{"os":"linux","architecture":"arm64","variant":"v8"}"#);
        let none = descriptor(r#","platform":{"os":"unknown","architecture":"unknown"}"#);
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{none},{arm}]}}"#);
        let Document::Index(index) = parse_document(text.as_bytes(), None).unwrap() else {
            panic!("an index was expected");
        };
        assert!(index.select(&"linux/arm64".parse().unwrap()).is_some());
        assert!(index.select(&"linux/amd64".parse().unwrap()).is_none());
        assert_eq!(index.platforms().len(), 1);
    }

    #[test]
    fn an_ambiguous_document_is_refused() {
        let d = descriptor("");
        let both = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"manifests":[]}}"#);
        assert!(matches!(parse_document(both.as_bytes(), None), Err(DocumentError::Unknown(_))));
        let lying = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[]}}"#);
        assert!(parse_document(lying.as_bytes(), Some(media::OCI_INDEX)).is_err());
        assert!(parse_document(lying.as_bytes(), Some(media::OCI_MANIFEST)).is_ok());
        let one = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(parse_document(one, None), Err(DocumentError::Schema1)));
    }
}
