//! Layers of builds, by what they were made from.
//!
//! ```text
//! STORE/build/KEY.sqfs   a layer in the form of overlayfs; absent when it is empty
//! STORE/build/KEY.json   its record, written last: a layer exists when this does
//! ```
//!
//! KEY is the SHA-256 of the layer below, the instruction and the content of its
//! inputs: paths are relative to the context and no time counts, so another
//! checkout of the same files finds the same layers.

use std::fs::File;
use std::path::{Path, PathBuf};

use plan::ImagePart;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use types::Digest;

use crate::error::{BuildError, Result};

/// Another form of layers has other keys.
const VERSION: &str = "1";

/// What a layer is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key(String);

/// Puts a key together.
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn new(below: &Key, what: &str) -> Self {
        let mut hasher = Self(sha2::Sha256::new());
        hasher.text(VERSION);
        hasher.text(&below.0);
        hasher.text(what);
        hasher
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// With its length, so that two texts are not one.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(crate) fn key(self) -> Key {
        Key(hex(&self.0.finalize()))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Key {
    /// Of an image that a stage begins with.
    pub(crate) fn of_base(text: &str) -> Self {
        let mut hasher = Hasher(sha2::Sha256::new());
        hasher.text(text);
        hasher.key()
    }
}

/// What is known of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Digest and length of its tar; None for an empty one.
    pub(crate) layer: Option<(Digest, u64)>,
}

pub(crate) struct Cache {
    pub(crate) dir: PathBuf,
}

impl Cache {
    fn path(&self, key: &Key, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", key.0))
    }

    /// Where a layer is while it is being made.
    pub(crate) fn temporary(&self, key: &Key) -> PathBuf {
        self.dir.join(format!(".{}.{}", key.0, std::process::id()))
    }

    /// A layer's record, if it is there.
    pub(crate) fn find(&self, key: &Key) -> Option<Record> {
        let bytes = std::fs::read(self.path(key, "json")).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let there = record.layer.is_none() || self.path(key, "sqfs").is_file();
        there.then_some(record)
    }

    pub(crate) fn part(&self, key: &Key) -> ImagePart {
        ImagePart { path: self.path(key, "sqfs"), offset: 0 }
    }

    /// Keeps the layer that lies at the temporary place, or an empty one.
    pub(crate) fn keep(&self, key: &Key, layer: Option<(Digest, u64)>) -> Result<Record> {
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::Write { path, source }
        };
        if layer.is_some() {
            let to = self.path(key, "sqfs");
            std::fs::rename(self.temporary(key), &to).map_err(write(&to))?;
        }
        let record = Record { layer };
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        let (temporary, to) = (self.temporary(key), self.path(key, "json"));
        std::fs::write(&temporary, bytes).map_err(write(&temporary))?;
        std::fs::rename(&temporary, &to).map_err(write(&to))?;
        Ok(record)
    }

    /// A new file at the temporary place.
    pub(crate) fn create(&self, key: &Key) -> Result<File> {
        let path = self.temporary(key);
        // What a killed build of the same process number left.
        let _ = std::fs::remove_file(&path);
        let open = File::options().read(true).write(true).create_new(true).open(&path);
        open.map_err(|source| BuildError::Write { path, source })
    }
}
