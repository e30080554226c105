//! OCI layers, images and directories to one squashfs file.
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
mod merge;
mod sparse;
mod stream;

pub use archive::{ArchiveError, LocalImage, layers};
pub use convert::{Conversion, ConvertOptions, convert};
pub use copy::{CopyError, Extra, OVERRIDE, TreeSource, copy};
pub use error::ConvertError;
pub use stream::{Layer, LayerSource};
