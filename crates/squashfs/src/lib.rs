//! Read and write squashfs 4.0 images, in parallel and deterministically.
//!
//! [`Image`] reads: any thread may ask, tables are read on demand through
//! bounded caches, so memory does not grow with the image. [`Writer`] writes:
//! file data first, as a stream, compressed on several threads; then the
//! [`Tree`] that names it. The same input gives the same bytes.
//!
//! ```
//! use squashfs::{Image, Meta, Node, NodeKind, ReaderOptions, Tree, Writer, WriterOptions};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("image");
//! let out = std::fs::File::options().read(true).write(true).create_new(true).open(&path)?;
//! let mut writer = Writer::new(out, WriterOptions::default())?;
//! let mut tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
//! let data = writer.file(&mut &b"hello"[..], 5)?;
//! let meta = Meta { mode: 0o644, ..Meta::default() };
//! let file = tree.add(Node { meta, kind: NodeKind::File(data) });
//! tree.link(tree.root(), b"greeting", file);
//! writer.finish(&tree)?;
//!
//! let image = Image::open(std::fs::File::open(&path)?, 0, ReaderOptions::default())?;
//! let root = image.inode(image.root())?;
//! let entry = image.lookup(&root, b"greeting")?.ok_or("no such name")?;
//! let mut text = [0; 5];
//! image.read(&*image.inode(entry.inode)?, 0, &mut text)?;
//! assert_eq!(&text, b"hello");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod codec;
pub mod format;
mod lzo;

mod error;
mod read_at;
mod reader;
mod tree;
mod writer;

pub use codec::Compression;
pub use error::Error;
pub use read_at::ReadAt;
pub use reader::{
    Block, DirEntry, DirPosition, EntryKind, Image, Inode, InodeKind, InodeRef, Piece, ReadDir,
    ReaderOptions,
};
pub use tree::{Meta, Node, NodeId, NodeKind, Tree};
pub use writer::{FileData, Summary, WriteError, Writer, WriterOptions};
