//! Layers of builds, in the user's store.
//!
//! ```text
//! STORE/build/KEY.json      what a step came to: the digest of its layer; the step is
//!                           done when this is there
//! STORE/build/DIGEST.sqfs   a layer in the form of overlayfs, by the SHA-256 of its tar:
//!                           the file of a name never has another content
//! STORE/build/KEY.cache     what a cache mount holds, a directory
//! STORE/build/KEY.note      the digest of an image file that a stage begins with
//! STORE/build/.OWNER.0.*    being written, or the lease of a build that runs; its maker
//!                           is in the name (`store::temporary_name`)
//! ```
//!
//! Each is written under a name of its maker and renamed, the layer before its record.
//! What a crash leaves is removed by the next build or by `prune`. An image that was
//! built names its layers by their digests, so a record that another build replaces
//! takes no layer away from it.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use types::Digest;

use crate::{Engine, Error, Result, SharedProgress, Silent};

/// What another machine has made, and what nobody names, stays so long: no step takes
/// longer.
pub const LONGEST_STEP: Duration = Duration::from_secs(24 * 3600);

/// How the name of a build's lease ends.
const LEASE: &str = "lease";
/// Who may look for leases and add one.
const TURN: &str = "builds";

/// What a step of a build came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Digest and length of the tar of its layer; None for an empty one.
    pub layer: Option<(Digest, u64)>,
    /// Which build made it, by a name of its own; None of what came from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
}

/// Where a layer is below the directory of the cache.
#[must_use]
pub fn layer_file(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(format!("{}.sqfs", digest.hex()))
}

/// Says that a build runs, so that nobody removes what it stands on; ends on drop.
#[derive(Debug)]
pub struct BuildLease {
    file: File,
    path: PathBuf,
}

impl BuildLease {
    /// Says that it still runs: at least once a day, for other machines.
    pub fn touch(&self) {
        // One that cannot be touched counts for its process, here.
        let _ = self.file.set_modified(SystemTime::now());
    }
}

impl Drop for BuildLease {
    fn drop(&mut self) {
        // What is left of it is known as such.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Engine {
    /// Where layers of builds are kept, in the user's store.
    ///
    /// # Errors
    /// When there is no store, or the directory cannot be made.
    pub fn build_cache(&self) -> Result<PathBuf> {
        let dir = self.build_dir()?;
        std::fs::create_dir_all(&dir).map_err(cannot(&dir))?;
        Ok(dir)
    }

    /// The same place, whether it is there or not.
    pub(crate) fn build_dir(&self) -> Result<PathBuf> {
        Ok(self.config().store.value.clone().ok_or(Error::NoStore)?.join("build"))
    }

    /// Keeps layers from being removed while a build runs.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn lease_builds(&self, progress: &SharedProgress) -> Result<Arc<BuildLease>> {
        let dir = self.build_cache()?;
        let _turn = self.turn(TURN, progress)?;
        let path = dir.join(format!(".{}", store::temporary_name(LEASE)));
        let file = File::create_new(&path).map_err(cannot(&path))?;
        Ok(Arc::new(BuildLease { file, path }))
    }

    /// Keeps builds from beginning, and says whether one runs; None where none has ever
    /// begun.
    pub(crate) fn builds(&self) -> Result<Option<Builds>> {
        let dir = self.build_dir()?;
        if !dir.is_dir() {
            return Ok(None);
        }
        let silent: SharedProgress = Arc::new(Silent);
        let turn = self.turn(TURN, &silent)?;
        let leases = list(&dir)?.into_iter().filter(|path| is_hidden(path, Some(LEASE)));
        let running = leases.filter(|path| !store::is_left(path, LONGEST_STEP)).count() > 0;
        Ok(Some(Builds { _turn: turn, dir, running }))
    }

    /// Removes what builds that were killed have left, and layers that neither a
    /// record nor an image names; with `all` every record and cache mount too.
    pub(crate) fn prune_builds(&self, builds: &Builds, all: bool) -> Result<()> {
        let dir = &builds.dir;
        let (mut named, mut layers) = (HashSet::new(), Vec::new());
        let mut gone = Vec::new();
        for path in list(dir)? {
            let ending = path.extension().unwrap_or_default();
            if is_hidden(&path, None) {
                gone.extend(store::is_left(&path, LONGEST_STEP).then_some(path));
            } else if ending == "sqfs" {
                layers.push(path);
            } else if all {
                gone.push(path);
            } else if ending == "json"
                && let Ok(bytes) = std::fs::read(&path)
                && let Ok(record) = serde_json::from_slice::<BuildRecord>(&bytes)
            {
                named.extend(record.layer.map(|(digest, _)| layer_file(dir, &digest)));
            }
        }
        for entry in self.images()? {
            let provenance = self.provenance_of(&entry.record)?.unwrap_or_default();
            named.extend(provenance.layers.iter().map(|digest| layer_file(dir, digest)));
        }
        layers.retain(|path| !named.contains(path));
        for path in gone.iter().chain(&layers) {
            crate::unpack::remove(path).map_err(cannot(path))?;
        }
        Ok(())
    }
}

/// Builds while none begins.
pub(crate) struct Builds {
    _turn: store::Turn,
    dir: PathBuf,
    /// Whether one runs.
    pub(crate) running: bool,
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(cannot(dir))?;
    entries.map(|entry| Ok(entry.map_err(cannot(dir))?.path())).collect()
}

/// Whether the name is that of something that a process makes, with such an ending.
fn is_hidden(path: &Path, ending: Option<&str>) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let ends = |ending: &str| path.extension().is_some_and(|found| found == ending);
    name.starts_with(b".") && ending.is_none_or(ends)
}

fn cannot(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::BuildCache { path: path.to_owned(), source }
}
