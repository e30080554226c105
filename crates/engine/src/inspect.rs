//! What is known about an image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host::DirectoryTree;
use plan::{RootTree, SCRIPTS};
use runtime::ImageTree;
use serde::Serialize;
use store::{ImageEntry, RefRecord};
use types::{ImageConfig, ImageRef, Platform};

use crate::resolve::find_id;
use crate::{Engine, Error, Resolved, Result, Silent, unpack};

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
        /// How many images are stacked.
        layers: usize,
        /// What Apptainer has put into it.
        #[serde(flatten)]
        texts: Texts,
    },
    /// A directory.
    Directory {
        /// Its path.
        path: PathBuf,
        /// What Apptainer has put into it.
        #[serde(flatten)]
        texts: Texts,
    },
}

/// What an image of Apptainer's form says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Texts {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Scripts and other texts by name: `definition`, `environment`, `help`,
    /// `runscript`, `startscript`, `test`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scripts: BTreeMap<&'static str, String>,
}

/// Where the texts are, below the scripts' directory.
const TEXTS: [(&str, &str); 7] = [
    ("definition", "Singularity"),
    ("environment", "env/10-docker2singularity.sh"),
    ("environment", "env/90-environment.sh"),
    ("help", "runscript.help"),
    ("runscript", "runscript"),
    ("startscript", "startscript"),
    ("test", "test"),
];

/// Longest text that is shown.
const LONGEST_TEXT: usize = 1 << 20;

impl Texts {
    fn read(tree: &dyn RootTree) -> Self {
        let mut texts = Self::default();
        let read = |name: &str| {
            // A text that cannot be read is not shown; running the image says why.
            let (path, _) = plan::resolve(tree, &Path::new(SCRIPTS).join(name)).ok()?;
            tree.read(&path, LONGEST_TEXT).ok()?
        };
        for (key, name) in TEXTS {
            if let Some(bytes) = read(name) {
                let text: &mut String = texts.scripts.entry(key).or_default();
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        let labels = read("labels.json").unwrap_or_default();
        texts.labels = serde_json::from_slice(&labels).unwrap_or_default();
        texts
    }
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

    /// What an image of Apptainer's form says of itself.
    #[must_use]
    pub fn texts(&self) -> Option<&Texts> {
        match self {
            Self::Stored(_) => None,
            Self::File { texts, .. } | Self::Directory { texts, .. } => Some(texts),
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
        Ok(Inspected::Stored(Box::new(entry.ok_or_else(unknown)?)))
    }
}

fn path(resolved: &Resolved) -> Result<Inspected> {
    match &resolved.root {
        plan::RootSource::Directory { path } => {
            let open = |source| Error::OpenImage { path: path.clone(), source };
            let tree = DirectoryTree::open(path).map_err(open)?;
            Ok(Inspected::Directory { path: path.clone(), texts: Texts::read(&tree) })
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
                texts: Texts::read(&ImageTree::new(images.clone())),
            })
        }
    }
}
