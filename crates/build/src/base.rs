//! Images that stages begin with: those of the store, files and directories of the
//! caller's own, and the empty one.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use engine::{Engine, Resolved};
use image::TreeSource;
use plan::{ImagePart, RootSource};
use serde_json::json;
use squashfs::Compression;
use types::{ImageRef, Platform};

use crate::builder::Builder;
use crate::cache::{Cache, Key, Out, Record};
use crate::error::{BuildError, Result};
use crate::layer::LayerWriter;
use crate::state::State;

/// What stages begin to run commands with.
fn shell() -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned()]
}

impl Builder<'_> {
    /// An image as a state; `scratch` is the empty one.
    pub(crate) fn image(&mut self, name: &str) -> Result<State> {
        self.image_for(name, None)
    }

    /// The same for another platform than the build's.
    pub(crate) fn image_for(&mut self, name: &str, platform: Option<Platform>) -> Result<State> {
        let own = self.engine().config().platform.value.clone();
        let other = platform.filter(|platform| *platform != own);
        let platform = other.clone().unwrap_or(own);
        if name.eq_ignore_ascii_case("scratch") {
            let key = Key::of_base("scratch");
            let empty = self.empty(&key)?;
            let config = json!({
                "architecture": platform.architecture(), "os": platform.os(),
                "config": {}, "rootfs": {"type": "layers", "diff_ids": []},
            });
            let parts = empty.layer.iter().map(|(digest, _)| self.cache().part(digest)).collect();
            let (args, shell) = (BTreeMap::new(), shell());
            let (layers, provenance) = (Vec::new(), Some(engine::Provenance::default()));
            return Ok(State { parts, layers, provenance, key, config, args, shell });
        }
        let reference = name.parse().map_err(engine::Error::from)?;
        match other {
            Some(platform) => {
                let engine = self.engine().with_platform(platform);
                self.image_of_engine(&engine, &reference)
            }
            None => self.image_by(&reference),
        }
    }

    /// The image that has nothing.
    fn empty(&self, key: &Key) -> Result<Record> {
        if let Some(record) = self.cache().find(key) {
            return Ok(record);
        }
        let out = Out { cache: self.cache(), key };
        LayerWriter::new(out.create()?, Compression::None, &Nothing, Some(0))?.finish()?;
        let record = Record { layer: out.written()?, build: None };
        out.keep(&record)?;
        Ok(record)
    }

    /// An image as a state.
    pub(crate) fn image_by(&mut self, reference: &ImageRef) -> Result<State> {
        self.image_of_engine(self.engine(), reference)
    }

    fn image_of_engine(&mut self, engine: &Engine, reference: &ImageRef) -> Result<State> {
        let resolved = engine.resolve(reference, self.progress())?;
        let parts = match &resolved.root {
            RootSource::Squashfs { parts } => parts.clone(),
            RootSource::Directory { path } => return self.image_of_directory(&resolved, path),
        };
        let (layers, id, provenance) = match &resolved.stored {
            Some(stored) => {
                let mut provenance = self.engine().provenance(stored)?;
                if let (ImageRef::Registry(_), Some(from)) = (reference, &mut provenance)
                    && from.layers.is_empty()
                    && let Some(name) = self.engine().name_in_store(reference)?
                {
                    // Where it was first pulled from may be gone.
                    from.base = name;
                }
                (stored.record.layers.clone(), stored.id.to_string(), provenance)
            }
            None => (Vec::new(), content_of(self.cache(), &parts)?, None),
        };
        let config = self.engine().image_document(&resolved)?;
        let (key, args, shell) = (Key::of_base(&id), BTreeMap::new(), shell());
        Ok(State { parts, layers, provenance, key, config, args, shell })
    }

    /// A directory of the caller's own: it is copied each time, as nobody could say
    /// when it has changed, and what came of it says what is in the cache over it.
    fn image_of_directory(&mut self, resolved: &Resolved, path: &Path) -> Result<State> {
        let name = format!("directory {}", path.display());
        if let Some(known) = self.known_as(&name) {
            return Ok(known.clone());
        }
        let mut state = self.image("scratch")?;
        state.config = self.engine().image_document(resolved)?;
        let key = self.momentary(&state, "directory");
        let mut options = self.convert_options();
        options.size_limit = self.engine().config().size_limit.value;
        self.layer(&mut state, &key, |_, _, out| {
            image::copy(TreeSource::Directory(path), out.create()?, &options, &[])?;
            Ok(())
        })?;
        let digests: Vec<_> = state.layers.iter().map(|layer| layer.digest.to_string()).collect();
        state.key = Key::of_base(&format!("directory {}", digests.join(" ")));
        self.name_stage(&name, &state);
        Ok(state)
    }
}

/// The content of image files: the SHA-256 of each and where in it the image begins.
/// That of a file that has not changed since is noted in the cache.
fn content_of(cache: &Cache, parts: &[ImagePart]) -> Result<String> {
    let mut known: HashMap<&PathBuf, String> = HashMap::new();
    let mut all = String::new();
    for ImagePart { path, offset } in parts {
        if !known.contains_key(path) {
            known.insert(path, digest_of(cache, path)?);
        }
        all.push_str(&format!("{} {offset} ", known[path]));
    }
    Ok(all)
}

fn digest_of(cache: &Cache, path: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| BuildError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let (modified, changed) =
        ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    let state = format!("{} {} {} {modified:?} {changed:?}", meta.dev(), meta.ino(), meta.len());
    let key = Key::of_base(&format!("digest of {} {state}", path.display()));
    if let Some(noted) = cache.noted(&key) {
        return Ok(noted);
    }
    let digest = image::digest(&mut file).map_err(failed)?.0.to_string();
    cache.note(&key, &digest)?;
    Ok(digest)
}

/// The image that has nothing.
struct Nothing;

impl plan::RootTree for Nothing {
    fn entry(&self, _: &Path) -> std::result::Result<Option<plan::Entry>, plan::TreeError> {
        Ok(None)
    }

    fn read(&self, _: &Path, _: usize) -> std::result::Result<Option<Vec<u8>>, plan::TreeError> {
        Ok(None)
    }
}

impl crate::files::Files for Nothing {
    fn info(&self, _: &Path) -> std::io::Result<Option<crate::files::Info>> {
        Ok(None)
    }

    fn list(&self, _: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
        Ok(Vec::new())
    }

    fn open(&self, _: &Path) -> std::io::Result<Box<dyn std::io::Read + '_>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}
