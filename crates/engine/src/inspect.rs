//! What is known about an image.

use std::fs::File;
use std::path::PathBuf;

use serde::Serialize;
use squashfs::{Image, ReaderOptions};
use store::{ImageEntry, RefRecord};
use types::{ImageConfig, ImageRef, Platform};

use crate::resolve::find_id;
use crate::{Engine, Error, Resolved, Result, Silent};

/// What is known about an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Inspected {
    /// An image of the store.
    Stored(Box<ImageEntry>),
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
    },
    /// A directory.
    Directory {
        /// Its path.
        path: PathBuf,
    },
}

impl Inspected {
    /// What a stored image says of its process.
    #[must_use]
    pub fn config(&self) -> Option<&ImageConfig> {
        match self {
            Self::Stored(entry) => Some(&entry.record.config),
            _ => None,
        }
    }

    /// What names a stored image.
    #[must_use]
    pub fn references(&self) -> &[RefRecord] {
        match self {
            Self::Stored(entry) => &entry.references,
            _ => &[],
        }
    }

    /// The platform of a stored image.
    #[must_use]
    pub fn platform(&self) -> Option<&Platform> {
        match self {
            Self::Stored(entry) => Some(&entry.record.platform),
            _ => None,
        }
    }
}

impl Engine {
    /// What is known about an image, by name, digest or path. Asks no
    /// registry.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    pub fn inspect(&self, name: &str) -> Result<Inspected> {
        let image: ImageRef = name.parse()?;
        if let ImageRef::Path(_) = image {
            let silent: crate::SharedProgress = std::sync::Arc::new(Silent);
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
        Ok(Inspected::Stored(Box::new(entry.ok_or_else(unknown)?)))
    }
}

fn path(resolved: &Resolved) -> Result<Inspected> {
    match &resolved.root {
        plan::RootSource::Directory { path } => Ok(Inspected::Directory { path: path.clone() }),
        plan::RootSource::Squashfs { path, offset } => {
            let open = |source| Error::OpenImage { path: path.clone(), source };
            let unread = |source| runtime::RuntimeError::Image { path: path.clone(), source };
            let file = File::open(path).map_err(open)?;
            let image = Image::open(file, *offset, ReaderOptions::default()).map_err(unread)?;
            let block = image.superblock();
            Ok(Inspected::File {
                path: path.clone(),
                size: block.bytes_used,
                inodes: block.inodes,
                block_size: block.block_size,
            })
        }
    }
}
