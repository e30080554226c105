//! Pruning: what crashes left, and what nobody names or runs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::files::{self, Root};
use crate::lock::{self, remove_temporary};
use crate::owner::{Liveness, Owner};
use crate::profile::PROFILES;
use crate::{
    Error, ImageId, ImageRecord, RefRecord, Result, Store, Timing, lease, load_image, load_refs,
    record_path, sqfs_path,
};

/// What to prune besides what crashes left.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Also images that references name, with those references.
    pub all: bool,
    /// No image at all, for one that nobody names may be what somebody works on.
    pub keep_images: bool,
    /// Keep images converted or pulled less than this ago.
    pub older_than: Option<Duration>,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What kind of thing was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrunedKind {
    /// A file of a process that died while writing.
    Temporary,
    /// A lock of a process that died.
    Lock,
    /// A lease of a process that died.
    Lease,
    /// A file without record, a record without file, a damaged file.
    Broken,
    /// An image.
    Image,
    /// A reference, to an image that is not there or was pruned.
    Reference,
    /// A manifest or configuration of no image.
    Blob,
    /// Notes about the starts of an image that is gone, or old ones.
    Profile,
}

/// One thing that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Its kind.
    pub kind: PrunedKind,
    /// The image's digest, the reference, else the file's name.
    pub name: String,
    /// Where it was.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Each thing, in the order of its removal.
    pub removed: Vec<Pruned>,
    /// Images that would have gone, were they not in use.
    pub leased: Vec<ImageId>,
    /// Bytes freed, all together.
    pub bytes: u64,
}

struct Pruner<'a> {
    store: &'a Store,
    root: &'a Root,
    timing: &'a Timing,
    options: &'a PruneOptions,
    here: Owner,
    now: SystemTime,
    report: PruneReport,
    /// Images that are being converted.
    locked: HashSet<ImageId>,
    leased: HashSet<ImageId>,
    /// Images that are gone, or would be.
    gone: HashSet<ImageId>,
}

impl Store {
    /// Removes from the user's store what dead processes left and what nobody
    /// names or runs, and with [`PruneOptions::all`] every image that nobody
    /// runs. Young images without reference and young blobs stay: a pull may
    /// be about to name them.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport> {
        if !self.root.path().is_dir() {
            return Ok(PruneReport::default());
        }
        let mut pruner = Pruner {
            store: self,
            root: &self.root,
            timing: &self.timing,
            options,
            here: Owner::current(),
            now: self.root.clock()?,
            report: PruneReport::default(),
            locked: HashSet::new(),
            leased: HashSet::new(),
            gone: HashSet::new(),
        };
        pruner.temporaries()?;
        pruner.locks()?;
        pruner.leases()?;
        let refs = load_refs(&self.root)?;
        pruner.images(&refs)?;
        pruner.references(refs)?;
        pruner.blobs()?;
        pruner.profiles()?;
        Ok(pruner.report)
    }
}

impl Pruner<'_> {
    fn age(&self, path: &Path) -> Duration {
        fs::symlink_metadata(path)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| self.now.duration_since(time).ok())
            .unwrap_or_default()
    }

    fn note(&mut self, kind: PrunedKind, name: &str, path: &Path, bytes: u64) {
        let (name, path) = (name.to_owned(), path.to_owned());
        self.report.removed.push(Pruned { kind, name, path, bytes });
        self.report.bytes += bytes;
    }

    /// Removes one file and reports it.
    fn take(&mut self, kind: PrunedKind, name: &str, path: &Path) -> Result<()> {
        let bytes = size(path);
        if !self.options.dry_run {
            remove_temporary(path)?;
        }
        self.note(kind, name, path, bytes);
        Ok(())
    }

    fn temporaries(&mut self) -> Result<()> {
        for (name, path) in files::list(&self.root.join("tmp"))? {
            let dead = match Owner::temp_liveness(&name, &self.here) {
                None | Some(Liveness::Alive) => false,
                Some(Liveness::Dead) => true,
                Some(Liveness::Unknown) => self.age(&path) >= self.timing.foreign_tmp,
            };
            if dead {
                self.take(PrunedKind::Temporary, &name, &path)?;
            }
        }
        Ok(())
    }

    fn locks(&mut self) -> Result<()> {
        for (id, seen) in lock::list(self.root, None)? {
            let dead = match seen.liveness(&self.here) {
                Liveness::Alive => false,
                Liveness::Dead => true,
                // Ten times what a waiter's patience is: this looks only once.
                Liveness::Unknown => self.age(&seen.path) >= self.timing.foreign_lock * 10,
            };
            if dead {
                self.take(PrunedKind::Lock, &file_name(&seen.path), &seen.path)?;
            } else {
                self.locked.insert(id);
            }
        }
        Ok(())
    }

    fn leases(&mut self) -> Result<()> {
        for (hex, dir) in files::list(&self.root.join("leases"))? {
            let Some(id) = ImageId::from_hex(&hex) else { continue };
            for seen in lease::list(self.root, &id, self.timing.lease)? {
                if seen.counts {
                    self.leased.insert(id.clone());
                } else {
                    self.take(PrunedKind::Lease, &file_name(&seen.path), &seen.path)?;
                }
            }
            if !self.options.dry_run {
                // Stays while anything is in it.
                let _ = fs::remove_dir(&dir);
            }
        }
        Ok(())
    }

    fn images(&mut self, refs: &[(PathBuf, Option<RefRecord>)]) -> Result<()> {
        let mut pulled: HashMap<&ImageId, u64> = HashMap::new();
        for found in refs.iter().filter_map(|(_, found)| found.as_ref()) {
            let newest = pulled.entry(&found.image).or_default();
            *newest = found.pulled_at.max(*newest);
        }
        let mut files_of: BTreeMap<ImageId, Vec<PathBuf>> = BTreeMap::new();
        for (name, path) in files::list(&self.root.join("images"))? {
            let stem = name.strip_suffix(".json").or_else(|| name.strip_suffix(".sqfs"));
            if let Some(id) = stem.and_then(ImageId::from_hex) {
                files_of.entry(id).or_default().push(path);
            }
        }
        for (id, paths) in files_of {
            match load_image(self.root, &id)? {
                Some(record) => self.image(&id, &record, pulled.get(&id).copied())?,
                None if self.locked.contains(&id) || self.leased.contains(&id) => {}
                None => {
                    for path in paths {
                        self.take(PrunedKind::Broken, &file_name(&path), &path)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A whole image; `pulled` is the time of its newest reference.
    fn image(&mut self, id: &ImageId, record: &ImageRecord, pulled: Option<u64>) -> Result<()> {
        let unused = match pulled {
            Some(_) => self.options.all,
            None => self.age(&record_path(self.root, id)) >= self.timing.grace,
        };
        let newest = record.created_at.max(pulled.unwrap_or(0));
        let now = self.now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let old = self
            .options
            .older_than
            .is_none_or(|least| now.saturating_sub(Duration::from_secs(newest)) >= least);
        if !unused || !old || self.options.keep_images {
            return Ok(());
        }
        if self.leased.contains(id) {
            self.report.leased.push(id.clone());
            return Ok(());
        }
        let path = sqfs_path(self.root, id);
        let bytes = if self.options.dry_run {
            size(&path) + size(&record_path(self.root, id))
        } else {
            match self.store.delete_image(id, false) {
                Ok(bytes) => bytes,
                Err(Error::Leased { .. }) => {
                    self.report.leased.push(id.clone());
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        };
        self.note(PrunedKind::Image, &id.to_string(), &path, bytes);
        self.gone.insert(id.clone());
        Ok(())
    }

    fn references(&mut self, refs: Vec<(PathBuf, Option<RefRecord>)>) -> Result<()> {
        for (path, found) in refs {
            let Some(found) = found else {
                // Absent, unreadable or damaged; only the last is to go.
                if matches!(files::read_json::<RefRecord>(&path)?, files::Json::Corrupt(_)) {
                    self.take(PrunedKind::Broken, &file_name(&path), &path)?;
                }
                continue;
            };
            if !self.is_there(&found.image)? && !self.locked.contains(&found.image) {
                self.take(PrunedKind::Reference, &found.reference, &path)?;
            }
        }
        Ok(())
    }

    /// Whether an image is in a store, now that others are gone.
    fn is_there(&self, id: &ImageId) -> Result<bool> {
        let mut there = !self.gone.contains(id) && load_image(self.root, id)?.is_some();
        for site in &self.store.site {
            there = there || load_image(site, id)?.is_some();
        }
        Ok(there)
    }

    fn profiles(&mut self) -> Result<()> {
        for (name, path) in files::list(&self.root.join(PROFILES))? {
            let image = name.split_once('.').and_then(|(image, _)| ImageId::from_hex(image));
            let idle = match image {
                Some(id) => !self.is_there(&id)?,
                None => self.age(&path) >= self.timing.profile,
            };
            if idle {
                self.take(PrunedKind::Profile, &name, &path)?;
            }
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<()> {
        let mut kept: BTreeSet<String> = BTreeSet::new();
        for id in crate::record_ids(self.root)? {
            if self.gone.contains(&id) {
                continue;
            }
            if let Some(record) = load_image(self.root, &id)? {
                kept.insert(id.hex().to_owned());
                kept.extend(record.blobs.iter().map(|digest| digest.hex().to_owned()));
            }
        }
        for algorithm in ["sha256", "sha512"] {
            for (name, path) in files::list(&self.root.join("blobs").join(algorithm))? {
                let ours = ImageId::from_hex(&name).is_some();
                if ours && !kept.contains(&name) && self.age(&path) >= self.timing.grace {
                    self.take(PrunedKind::Blob, &name, &path)?;
                }
            }
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Bytes of a file, or of the files right inside a directory.
fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}
