//! Names and values that every other crate speaks: image references, digests,
//! platforms and image configurations. Pure: nothing here touches the system.
//!
//! | type | what it is | specification |
//! |---|---|---|
//! | [`Digest`] | `sha256:…` or `sha512:…`, safe to use as a file name | OCI image-spec, descriptor.md |
//! | [`ImageRef`] | what a person wrote to name an image | containers-transports(5) |
//! | [`FileRef`] | an image file on the web | RFC 3986; Singularity's library API |
//! | [`RegistryRef`] | the part of it that a registry understands | OCI distribution-spec |
//! | [`Platform`] | `os/architecture[/variant]` | OCI image-spec, image-index.md |
//! | [`ImageConfig`] | what a container runs by default | OCI image-spec, config.md |
//! | [`Manifest`], [`Index`] | an image's parts, and its platforms | OCI image-spec, manifest.md |
#![forbid(unsafe_code)]

mod config;
mod digest;
mod elsewhere;
mod enroot;
mod manifest;
mod owner;
mod platform;
mod reference;
mod signal;
mod size;
mod words;

pub use config::{ImageConfig, ImageConfigError, parse_image_config};
pub use digest::{Algorithm, Digest, DigestError};
pub use elsewhere::FileRef;
pub use enroot::{EnrootNameError, from_enroot_name};
pub use manifest::{
    Descriptor, DescriptorPlatform, Document, DocumentError, Index, LayerCompression, Manifest,
    media, parse_document,
};
pub use owner::{
    ACL_NOTES, CAPABILITY, CAPABILITY_NOTE, Device, OVERRIDE_STAT, Owner, SPECIAL_OWNERS,
    SPECIAL_STAT, Special, Unattributed,
};
pub use platform::{Platform, PlatformError};
pub use reference::{ImageRef, ImageRefError, RegistryRef, Tag};
pub use signal::signal_number;
pub use size::{ByteSize, ByteSizeError};
