//! What is known about an image.

use std::path::PathBuf;
use std::sync::Arc;

use host::DirectoryTree;
use plan::ImagePart;
use runtime::ImageTree;
use serde::Serialize;
use store::{ImageEntry, RefRecord};
use types::{ImageConfig, ImageRef, Platform};

use crate::resolve::find_id;
use crate::{Engine, Error, Metadata, Resolved, Result, Silent, unpack};

/// What is known about an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Inspected {
    /// An image of the store.
    Stored {
        /// What the store knows of it.
        #[serde(flatten)]
        entry: Box<ImageEntry>,
        /// What Apptainer's scripts in it say.
        #[serde(flatten)]
        texts: Metadata,
    },
    /// A squashfs file.
    File {
        /// Its path.
        path: PathBuf,
        /// Length in bytes, from the superblock.
        size: u64,
        /// How many inodes it has.
        inodes: u32,
        /// Bytes of a data block.
        block_size: u32,
        /// How many images are stacked.
        layers: usize,
        /// What Apptainer has put into it.
        #[serde(flatten)]
        texts: Metadata,
    },
    /// A directory.
    Directory {
        /// Its path.
        path: PathBuf,
        /// What Apptainer has put into it.
        #[serde(flatten)]
        texts: Metadata,
    },
}

impl Inspected {
    /// What a stored image says of its process.
    #[must_use]
    pub fn config(&self) -> Option<&ImageConfig> {
        match self {
            Self::Stored { entry, .. } => Some(&entry.record.config),
            _ => None,
        }
    }

    /// What an image of Apptainer's form says of itself.
    #[must_use]
    pub fn texts(&self) -> &Metadata {
        match self {
            Self::Stored { texts, .. }
            | Self::File { texts, .. }
            | Self::Directory { texts, .. } => texts,
        }
    }

    /// What names a stored image.
    #[must_use]
    pub fn references(&self) -> &[RefRecord] {
        match self {
            Self::Stored { entry, .. } => &entry.references,
            _ => &[],
        }
    }

    /// The platform of a stored image.
    #[must_use]
    pub fn platform(&self) -> Option<&Platform> {
        match self {
            Self::Stored { entry, .. } => Some(&entry.record.platform),
            _ => None,
        }
    }
}

impl Engine {
    /// What is known about an image, by name, digest or path, or about that of an
    /// instance. Asks no registry.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    pub fn inspect(&self, name: &str) -> Result<Inspected> {
        if name.starts_with(crate::INSTANCE) {
            let instance = self.instance(name)?;
            return match instance.digest() {
                Some(digest) => self.inspect(digest),
                None => path(&instance.resolved()),
            };
        }
        let image: ImageRef = name.parse()?;
        if let ImageRef::Path(_) | ImageRef::File(_) = image {
            let silent: crate::SharedProgress = Arc::new(Silent);
            return path(&self.resolve(&image, &silent)?);
        }
        let id = match self.stored(&image)? {
            Some(stored) => Some(stored.id),
            None => find_id(self.store()?, name)?,
        };
        let entry = match id {
            Some(id) => self.store()?.images()?.into_iter().find(|entry| entry.id == id),
            None => None,
        };
        let unknown = || Error::UnknownImage { name: name.to_owned() };
        let entry = Box::new(entry.ok_or_else(unknown)?);
        let part = ImagePart { path: entry.path.clone(), offset: 0 };
        let images = unpack::open(&[part])?.into_iter().map(Arc::new).collect();
        Ok(Inspected::Stored { texts: Metadata::read(&ImageTree::new(images)), entry })
    }
}

fn path(resolved: &Resolved) -> Result<Inspected> {
    match &resolved.root {
        plan::RootSource::Directory { path } => {
            let open = |source| Error::OpenImage { path: path.clone(), source };
            let tree = DirectoryTree::open(path).map_err(open)?;
            Ok(Inspected::Directory { path: path.clone(), texts: Metadata::read(&tree) })
        }
        plan::RootSource::Squashfs { parts } => {
            let images: Vec<_> = unpack::open(parts)?.into_iter().map(Arc::new).collect();
            let blocks = || images.iter().map(|image| image.superblock());
            Ok(Inspected::File {
                path: parts.first().map_or_else(PathBuf::new, |part| part.path.clone()),
                size: blocks().map(|block| block.bytes_used).sum(),
                inodes: blocks().map(|block| block.inodes).fold(0, u32::saturating_add),
                block_size: blocks().map(|block| block.block_size).max().unwrap_or(0),
                layers: images.len(),
                texts: Metadata::read(&ImageTree::new(images.clone())),
            })
        }
    }
}
