//! Layers of builds, by what they were made from.
//!
//! ```text
//! STORE/build/KEY.sqfs   a layer in the form of overlayfs; absent when it is empty
//! STORE/build/KEY.json   its record, written last: a layer exists when this does
//! STORE/build/.KEY@NODE-PIDNAMESPACE.PID   being written; left by who was killed, and
//!                        removed by the next build there
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
use squashfs::{Image, ReaderOptions};
use types::Digest;

use crate::error::{BuildError, Result};

/// Older temporary files belong to nobody.
const LONGEST_STEP: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Another form of layers has other keys.
const VERSION: &str = "2";

/// What a layer is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

#[derive(Clone, Debug)]
pub(crate) struct Cache {
    pub(crate) dir: PathBuf,
}

impl Cache {
    fn path(&self, key: &Key, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", key.0))
    }

    /// Where a layer is while it is being made.
    pub(crate) fn temporary(&self, key: &Key) -> PathBuf {
        self.dir.join(format!(".{}@{}.{}", key.0, whereabouts(), std::process::id()))
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
        let open = File::options().read(true).write(true).create_new(true).open(&path);
        open.map_err(|source| BuildError::Write { path, source })
    }

    /// Removes what builds that were killed have left: those of this node at once, of
    /// others after a day, for which no step writes.
    pub(crate) fn clean(&self) {
        let Ok(list) = std::fs::read_dir(&self.dir) else { return };
        let hidden = |e: &std::fs::DirEntry| {
            let name = e.file_name();
            let name = name.to_string_lossy();
            name.starts_with('.') || name.contains(".new-")
        };
        for entry in list.flatten().filter(hidden) {
            let age =
                entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            let dead = is_left(&entry.file_name().to_string_lossy());
            if dead || age.is_some_and(|age| age > LONGEST_STEP) {
                // Somebody else may be as quick.
                let path = entry.path();
                let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
            }
        }
    }
}

/// The node, and the PID namespace in which numbers of processes mean something.
fn whereabouts() -> String {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let space = std::fs::metadata("/proc/self/ns/pid");
    let space = space.map_or(0, |meta| std::os::unix::fs::MetadataExt::ino(&meta));
    format!("{}-{space}", node.replace('/', "_"))
}

/// Whether the process is gone that wrote a temporary file of this name.
fn is_left(name: &str) -> bool {
    let process = name.split_once('@').and_then(|(_, rest)| rest.rsplit_once('.'));
    process.is_some_and(|(place, pid)| {
        place == whereabouts() && pid.parse().is_ok_and(|pid| !store::process_lives(pid))
    })
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

    /// Keeps what was written, or an empty layer.
    pub(crate) fn keep(&self) -> Result<Record> {
        let path = self.cache.temporary(self.key);
        let failed = |source| BuildError::Read { path: path.clone(), source };
        let layer = match File::open(&path) {
            Ok(file) => {
                let image = Image::open(file, 0, ReaderOptions::default());
                let image = image.map_err(|e| failed(std::io::Error::other(e)))?;
                Some(image::tar_digest(&image)?)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(e)),
        };
        self.cache.keep(self.key, layer)
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

    #[test]
    fn only_what_the_dead_of_this_place_left_is_removed() {
        let name = |pid: &str| format!(".ab12@{}.{pid}", whereabouts());
        let own = std::process::id().to_string();
        assert!(!is_left(&name(&own)));
        // Above the kernel's limit of numbers.
        assert!(is_left(&name("4294967295")));
        let elsewhere = [".ab12@elsewhere-1.4294967295", ".ab12.4294967295", "ab12.sqfs", ""];
        assert!(!elsewhere.into_iter().any(is_left));
        assert!(!is_left(&name("../..")) && !is_left(&name("")));
    }
}
