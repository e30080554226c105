//! Layers of builds, by what they were made from (`engine::layer_file` says where).
//!
//! A key is the SHA-256 of what lies below (its own key and the digest of its layer),
//! the instruction, the content of its inputs and the latest time of files, if there is
//! one: paths are relative to the context and no other time counts, so another checkout
//! of the same files finds the same layers. As the layer below counts with its content,
//! no layer is ever put over another one than it was made over.

use std::fs::File;
use std::path::{Path, PathBuf};

use plan::ImagePart;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use squashfs::{Image, ReaderOptions};
use types::Digest;

use crate::error::{BuildError, Result};

/// Another form of layers has other keys.
const VERSION: &str = "3";

/// What a layer is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Key(String);

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

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

    /// Of what lies over the layer that came of this one.
    pub(crate) fn over(&self, record: &Record) -> Self {
        let mut hasher = Hasher::new(self, "over");
        hasher.text(&record.layer.as_ref().map_or_else(String::new, |(d, _)| d.to_string()));
        hasher.key()
    }

    /// The same with files that are no younger.
    pub(crate) fn until(&self, latest: Option<u32>) -> Self {
        let mut hasher = Hasher::new(self, "until");
        hasher.text(&format!("{latest:?}"));
        hasher.key()
    }
}

pub(crate) use engine::BuildRecord as Record;

#[derive(Clone, Debug)]
pub(crate) struct Cache {
    pub(crate) dir: PathBuf,
    /// How the names of this process's files begin.
    own: String,
}

impl Cache {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, own: store::temporary_name("") }
    }

    fn path(&self, key: &Key, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", key.0))
    }

    /// Where something of a key is while it is being made.
    pub(crate) fn temporary(&self, key: &Key) -> PathBuf {
        self.dir.join(format!(".{}{}", self.own, key.0))
    }

    /// Where a cache mount lives.
    pub(crate) fn mount(&self, key: &Key) -> PathBuf {
        self.path(key, "cache")
    }

    /// A layer's record, if it is there.
    pub(crate) fn find(&self, key: &Key) -> Option<Record> {
        let bytes = std::fs::read(self.path(key, "json")).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let layer = record.layer.as_ref();
        let there = layer.is_none_or(|(digest, _)| self.layer(digest).is_file());
        there.then_some(record)
    }

    /// Where a layer is.
    pub(crate) fn layer(&self, digest: &Digest) -> PathBuf {
        engine::layer_file(&self.dir, digest)
    }

    pub(crate) fn part(&self, digest: &Digest) -> ImagePart {
        ImagePart { path: self.layer(digest), offset: 0 }
    }

    /// Keeps the layer that lies at the temporary place, or an empty one.
    fn keep(&self, key: &Key, record: &Record) -> Result<()> {
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::Write { path, source }
        };
        let temporary = self.temporary(key);
        if let Some((digest, _)) = &record.layer {
            let to = self.layer(digest);
            let length = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.len());
            // The same content: somebody may be reading that file.
            if length(&to).is_some() && length(&to) == length(&temporary) {
                std::fs::remove_file(&temporary).map_err(write(&temporary))?;
            } else {
                std::fs::rename(&temporary, &to).map_err(write(&to))?;
            }
        }
        let bytes = serde_json::to_vec(record).unwrap_or_default();
        let to = self.path(key, "json");
        std::fs::write(&temporary, bytes).map_err(write(&temporary))?;
        std::fs::rename(&temporary, &to).map_err(write(&to))
    }

    /// What was noted under a key.
    pub(crate) fn noted(&self, key: &Key) -> Option<String> {
        let text = std::fs::read_to_string(self.path(key, "note")).ok()?;
        Some(text).filter(|text| !text.is_empty())
    }

    /// Notes a line under a key, for other builds.
    pub(crate) fn note(&self, key: &Key, text: &str) -> Result<()> {
        let (temporary, to) = (self.temporary(key), self.path(key, "note"));
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &to))
            .map_err(|source| BuildError::Write { path: to, source })
    }

    /// A new file at the temporary place.
    fn create(&self, key: &Key) -> Result<File> {
        let path = self.temporary(key);
        let open = File::options().read(true).write(true).create_new(true).open(&path);
        open.map_err(|source| BuildError::Write { path, source })
    }

    /// Removes what builds that were killed have left.
    pub(crate) fn clean(&self) {
        let Ok(list) = std::fs::read_dir(&self.dir) else { return };
        let hidden =
            list.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."));
        for path in hidden.map(|entry| entry.path()) {
            if store::is_left(&path, engine::LONGEST_STEP) {
                // Somebody else may be as quick.
                let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
            }
        }
    }
}

/// Where a step that is not in the cache writes its layer.
pub(crate) struct Out<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) key: &'a Key,
}

impl Out<'_> {
    pub(crate) fn create(&self) -> Result<File> {
        self.cache.create(self.key)
    }

    /// Digest and length of what was written; None where nothing was.
    pub(crate) fn written(&self) -> Result<Option<(Digest, u64)>> {
        let path = self.cache.temporary(self.key);
        let failed = |source| BuildError::Read { path: path.clone(), source };
        match File::open(&path) {
            Ok(file) => {
                let image = Image::open(file, 0, ReaderOptions::default());
                let image = image.map_err(|e| failed(std::io::Error::other(e)))?;
                Ok(Some(image::tar_digest(&image)?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Keeps what was written, as a record says.
    pub(crate) fn keep(&self, record: &Record) -> Result<()> {
        self.cache.keep(self.key, record)
    }

    /// Removes what lies at the temporary place.
    pub(crate) fn discard(&self) {
        // Nothing there is as good, and a failure before this one is told.
        let _ = std::fs::remove_file(self.cache.temporary(self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(byte: u8) -> Record {
        Record { layer: Some((Digest::sha256(&[byte; 32]), 5)), build: None }
    }

    #[test]
    fn a_record_that_is_replaced_leaves_its_layer() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        let key = Key::of_base("x");
        for byte in [1, 2] {
            std::fs::write(cache.temporary(&key), [byte; 5]).unwrap();
            cache.keep(&key, &record(byte)).unwrap();
            assert_eq!(cache.find(&key), Some(record(byte)));
        }
        for byte in [1, 2] {
            let path = cache.layer(&Digest::sha256(&[byte; 32]));
            assert_eq!(std::fs::read(path).unwrap(), [byte; 5]);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_file_is_replaced_when_it_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        let key = Key::of_base("x");
        let path = cache.layer(&Digest::sha256(&[1; 32]));
        for (there, left) in [("", "whole"), ("known", "known")] {
            std::fs::write(&path, there).unwrap();
            std::fs::write(cache.temporary(&key), "whole").unwrap();
            cache.keep(&key, &record(1)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), left);
        }
    }

    #[test]
    fn what_lies_below_counts_with_its_content() {
        let key = Key::of_base("x");
        let all = [key.over(&record(1)), key.over(&record(2)), key.over(&Record::default())];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
        assert!(!all.contains(&key));
        assert_ne!(key.until(None), key.until(Some(0)));
    }
}
