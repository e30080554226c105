//! Layers of other builds: a directory in the form of `cache`, or an artifact of a
//! registry whose configuration lists keys and whose files are the layers.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use engine::{Artifact, ArtifactKind, Engine, SharedProgress};
use serde::{Deserialize, Serialize};
use types::{ImageRef, RegistryRef};

use crate::cache::{Cache, Key, Out, Record};
use crate::error::{BuildError, Result};

const KIND: ArtifactKind = ArtifactKind {
    config: "application/vnd.sampan.build-cache.v1+json",
    file: "application/vnd.sampan.layer.v1.squashfs",
};

/// Where layers of other builds are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePlace {
    /// A directory.
    Directory(PathBuf),
    /// A repository of a registry.
    Registry(RegistryRef),
}

impl CachePlace {
    /// A path, the name of an image, or `type=local,src=PATH` and
    /// `type=registry,ref=NAME` of docker build; None for what is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let place = if text.starts_with("type=") {
            let all: Option<HashMap<&str, &str>> =
                text.split(',').map(|part| part.split_once('=')).collect();
            let all = all?;
            match *all.get("type")? {
                "local" => {
                    let path = all.get("src").or(all.get("dest"))?;
                    return Some(Self::Directory(PathBuf::from(path)));
                }
                "registry" => *all.get("ref")?,
                _ => return None,
            }
        } else if text.starts_with(['/', '.']) {
            return Some(Self::Directory(text.into()));
        } else {
            text
        };
        match place.parse() {
            Ok(ImageRef::Registry(name)) => Some(Self::Registry(name)),
            _ => None,
        }
    }
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Registry(name) => write!(f, "{name}"),
        }
    }
}

/// A line of an artifact's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    key: Key,
    #[serde(flatten)]
    record: Record,
    /// Which file is the layer; None for an empty one.
    file: Option<usize>,
}

/// Layers of other builds, open.
pub(crate) enum Remote {
    Directory(Cache),
    Registry(HashMap<Key, Entry>, Box<Artifact>),
}

impl Remote {
    /// Opens a place; None when nothing is there yet.
    pub(crate) fn open(
        engine: &Engine,
        place: &CachePlace,
        progress: &SharedProgress,
    ) -> engine::Result<Option<Self>> {
        match place {
            CachePlace::Directory(dir) => Ok(Some(Self::Directory(Cache::new(dir.clone())))),
            CachePlace::Registry(name) => {
                let Some(artifact) = engine.artifact(name, KIND, progress)? else {
                    return Ok(None);
                };
                // One of another version has no layer that is known.
                let entries: Vec<Entry> =
                    serde_json::from_slice(&artifact.config).unwrap_or_default();
                let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry));
                Ok(Some(Self::Registry(entries.collect(), Box::new(artifact))))
            }
        }
    }

    /// Takes a layer over, if it is there and is what its record says.
    pub(crate) fn take(&self, key: &Key, cache: &Cache) -> Result<Option<Record>> {
        let out = Out { cache, key };
        let record = match self {
            Self::Directory(other) => {
                let Some(record) = other.find(key) else { return Ok(None) };
                if let Some((digest, _)) = &record.layer {
                    let path = other.layer(digest);
                    let failed = |source| BuildError::Read { path: path.clone(), source };
                    let mut from = File::open(&path).map_err(failed)?;
                    let copied = std::io::copy(&mut from, &mut out.create()?);
                    copied.map_err(failed).inspect_err(|_| out.discard())?;
                }
                record
            }
            Self::Registry(entries, artifact) => {
                let Some(entry) = entries.get(key) else { return Ok(None) };
                if let Some(index) = entry.file {
                    artifact.fetch(index, &mut out.create()?).inspect_err(|_| out.discard())?;
                }
                entry.record.clone()
            }
        };
        // Whoever wrote it may not have finished, or lied about the content.
        let record = Record { layer: record.layer, build: None };
        let written = out.written().inspect_err(|_| out.discard())?;
        if written != record.layer {
            out.discard();
            return Ok(None);
        }
        out.keep(&record).inspect_err(|_| out.discard())?;
        Ok(Some(record))
    }
}

/// Gives layers to others.
pub(crate) fn give(
    engine: &Engine,
    cache: &Cache,
    keys: &[Key],
    to: &CachePlace,
    progress: &SharedProgress,
) -> Result<()> {
    match to {
        CachePlace::Directory(dir) => {
            let failed = |source| BuildError::Write { path: dir.clone(), source };
            std::fs::create_dir_all(dir).map_err(failed)?;
            let other = Cache::new(dir.clone());
            for key in keys.iter().filter(|key| other.find(key).is_none()) {
                Remote::Directory(cache.clone()).take(key, &other)?;
            }
            Ok(())
        }
        CachePlace::Registry(name) => {
            let (mut entries, mut files) = (Vec::new(), Vec::new());
            for key in keys {
                let Some(Record { layer, .. }) = cache.find(key) else { continue };
                let file = layer.is_some().then_some(files.len());
                files.extend(layer.as_ref().map(|(digest, _)| cache.layer(digest)));
                let record = Record { layer, build: None };
                entries.push(Entry { key: key.clone(), record, file });
            }
            let config = serde_json::to_vec(&entries).unwrap_or_default();
            Ok(engine.push_artifact(name, KIND, &config, &files, progress)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let dir = |path: &str| Some(CachePlace::Directory(path.into()));
        assert_eq!(CachePlace::parse("./x"), dir("./x"));
        assert_eq!(CachePlace::parse("type=local,dest=x"), dir("x"));
        for name in ["r.example/c:1", "type=registry,ref=r.example/c:1"] {
            assert!(matches!(CachePlace::parse(name), Some(CachePlace::Registry(_))), "{name}");
        }
        for wrong in ["type=gha", "type=local", "type=registry,ref=./x", "type"] {
            let place = CachePlace::parse(wrong);
            assert!(place.is_none() || wrong == "type", "{wrong}");
        }
    }
}
