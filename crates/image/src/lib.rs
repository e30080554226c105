//! OCI layers, images and directories to one squashfs file, and back to layers,
//! layouts, archives and directories.
//!
//! Layers stream from their source through inflation and digest check into the
//! squashfs writer: no unpacked tree is ever on disk. The top layer comes
//! first: the first sight of a path wins, and whiteouts hide what lies below
//! them. Layers are inflated on threads of their own, ahead of the one that is
//! being consumed, each by a few MiB at most.
#![forbid(unsafe_code)]

mod archive;
mod convert;
mod copy;
mod error;
mod layer;
mod merge;
mod put;
mod sparse;
mod stream;
mod tarball;
mod unpack;

pub use archive::{ArchiveError, LocalImage, OneLayer, layers};
pub use convert::{Conversion, ConvertOptions, convert};
pub use copy::{CopyError, Extra, TreeSource, copy};
pub use error::ConvertError;
pub use layer::{LayerForm, WrittenLayer, digest, tar_digest, write_layer};
pub use put::{OciImage, PutError, manifest};
pub use stream::{Layer, LayerSource};
pub use tarball::{Spool, Tarball};
pub use unpack::{Lost, UnpackError, UnpackOptions, unpack};
