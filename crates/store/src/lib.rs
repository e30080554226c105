//! Content-addressed images on shared file systems.
//!
//! A store is a directory of plain files that many processes on many nodes use
//! at once. It needs exclusive creation, rename and hard links or `O_EXCL`; it
//! needs neither flock nor fcntl locks, no database and no daemon, so that it
//! works on NFS, Lustre and GPFS.
//!
//! # Layout, version 1
//!
//! ```text
//! format                          "sampan-store 1\n"
//! blobs/sha256/<hex>              manifests and configurations, byte for byte
//! images/<hex>.sqfs               the image: one squashfs file
//! images/<hex>.json               its ImageRecord; <hex> is the manifest digest
//! refs/<reference>@<platform>.json  RefRecord: what a reference resolved to
//! profiles/<image>.<command>      what a command reads when it starts (see `runtime::profile`)
//! locks/<hex>.<generation>        who converts this image now (Owner, JSON)
//! leases/<hex>/<host>.<pid>.<start>.<token>   who runs this image (Owner, JSON)
//! tmp/<machine>.<pid>.<start>.<token>.<n>.<what>   files being written
//! ```
//!
//! In `refs`, bytes other than `A-Z a-z 0-9 . _ -` are written as `%XX`, `/` as
//! `+`, and a leading dot as `%2E`; a name that would be longer than 200 bytes
//! keeps its first 120 and ends in `~` and the SHA-256 of the whole. Neither
//! `~` nor `@` occurs otherwise, so two references never share a file.
//!
//! # Writing
//!
//! Every file is written under `tmp`, synced, and renamed; then the directory
//! is synced. Of an image the `.sqfs` is renamed first and the `.json` last:
//! *an image exists when its `.json` does*, and names a `.sqfs` of the recorded
//! size. Directories are made on the first write. The root is made with mode
//! 0700; what is inside takes the root's permission bits, so that an
//! administrator shares a store by `mkdir -m 755` beforehand.
//!
//! # Locking
//!
//! A lock only saves work: the commit is a rename of content named by its
//! digest, and stays right when two processes convert the same image. A lock
//! is `locks/<hex>.<generation>`, made whole by link(2) from `tmp` (or, where
//! the file system has no hard links, with `O_EXCL`). Its holder touches it
//! every 5 s. A waiter on the same host, boot and PID namespace sees in
//! `/proc/<pid>/stat` whether the holder lives; any other waiter takes the
//! holder for dead when the modification time has not changed for 60 s of the
//! waiter's own monotonic clock (no clocks of two machines are compared). Who
//! finds all holders dead makes the next generation: of many, one succeeds.
//! It then looks again, and gives way if a lock that it has not found dead has
//! appeared meanwhile. A holder removes its own lock, known by its token.
//!
//! # Leases
//!
//! Who runs an image leaves a lease and touches it at least every 10 minutes.
//! A lease counts while its process is seen alive, or, from another machine,
//! while it is younger than 10 minutes by the file system's own clock (what
//! touching `format` sets). Removal moves the image aside, looks for leases
//! once more, and puts it back if one has come. Site stores need no leases:
//! sampan never removes from them.
//!
//! # What a crash leaves behind
//!
//! | died | left | then |
//! |---|---|---|
//! | while writing | a file in `tmp`, a lock | the next holder of the lock, or `prune`, removes them |
//! | between the two renames | a `.sqfs` without `.json` | not an image; the next conversion replaces it, `prune` removes it |
//! | before the reference was set | an image without reference | found by its digest; `prune` removes it |
//! | while running | a lease | counts until seen dead or 10 minutes old |
//!
//! # Versions
//!
//! The number in `format` rises when an older sampan would misread the store;
//! a newer number than this program's is an error. Unknown fields in JSON are
//! ignored.
#![forbid(unsafe_code)]

mod blob;
mod error;
mod files;
mod gc;
mod id;
mod lease;
mod lock;
mod owner;
mod profile;
mod prune;
mod record;
mod ticket;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use types::Platform;

pub use error::Error;
pub use gc::{RemoveTarget, Removed};
pub use id::ImageId;
pub use lease::Lease;
pub use owner::{Liveness, Owner, is_left, process_lives, temporary_name};
pub use prune::{PruneOptions, PruneReport, Pruned, PrunedKind};
pub use record::{ImageRecord, LayerRecord, RefRecord, canonical_reference, unix_now};
pub use ticket::{Begin, Flight, Ticket, Turn, WaitState};

use files::{Json, Root, read_json};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The version of the layout that this program writes and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Where the stores are.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// The user's own store; it need not exist.
    pub root: PathBuf,
    /// Site stores, read only, in the order in which they are searched after
    /// the user's.
    pub site: Vec<PathBuf>,
}

/// The times that the protocol waits; tests shorten them.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// Between two touches of a held lock.
    pub heartbeat: Duration,
    /// How long a lock of another machine must stay unchanged to be dead.
    pub foreign_lock: Duration,
    /// The age at which the lease of another machine no longer counts.
    pub lease: Duration,
    /// The age below which an image without reference or a blob without image
    /// may be of a pull that has not ended.
    pub grace: Duration,
    /// The age at which a temporary file of another machine is dead.
    pub foreign_tmp: Duration,
    /// The age at which a profile of an image that is not in a store is removed.
    pub profile: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            foreign_lock: Duration::from_secs(60),
            lease: Duration::from_secs(600),
            grace: Duration::from_secs(300),
            foreign_tmp: Duration::from_secs(24 * 3600),
            profile: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// The user's store with the site stores stacked under it.
#[derive(Clone, Debug)]
pub struct Store {
    root: Root,
    site: Vec<Root>,
    timing: Timing,
}

/// An image that is whole.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// Its manifest digest.
    pub id: ImageId,
    /// What is known about it.
    pub record: ImageRecord,
    /// Its squashfs file.
    pub path: PathBuf,
    /// The root of the store that holds it.
    pub root: PathBuf,
    /// Whether it is in the user's own store, and so can be removed.
    pub writable: bool,
}

impl StoredImage {
    /// Opens the squashfs file for reading.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(|source| Error::ReadFile { path: self.path.clone(), source })
    }
}

/// An image in a listing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ImageEntry {
    /// Its manifest digest.
    pub id: ImageId,
    /// What is known about it.
    pub record: ImageRecord,
    /// What names it; empty when a tag has moved on.
    pub references: Vec<RefRecord>,
    /// Bytes of the squashfs file.
    pub size: u64,
    /// The squashfs file.
    pub path: PathBuf,
    /// Whether it is in a site store.
    pub site: bool,
}

impl Store {
    /// Opens the stores: reads one small file of each that exists, and writes
    /// nothing. An absent or unreadable store is an empty one.
    ///
    /// # Errors
    /// When a store is of a newer format, or its `format` file is not one.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let root = Root::new(options.root);
        root.check_format()?;
        let site: Vec<Root> = options.site.into_iter().map(Root::new).collect();
        site.iter().try_for_each(Root::check_format)?;
        Ok(Self { root, site, timing: Timing::default() })
    }

    /// The root of the user's store.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    fn roots(&self) -> impl Iterator<Item = (&Root, bool)> {
        std::iter::once((&self.root, true)).chain(self.site.iter().map(|root| (root, false)))
    }

    /// What a canonical reference (see [`canonical_reference`]) resolved to
    /// when it was last pulled for this platform: in the user's store, else in
    /// the site stores in order. Reads two small files and scans no directory.
    /// A damaged reference or record counts as absent, with a warning that
    /// names the file.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn resolve(&self, reference: &str, platform: &Platform) -> Result<Option<StoredImage>> {
        let name = record::ref_file_name(reference, platform);
        for (root, _) in self.roots() {
            let Some(found) = load_ref(&root.join("refs").join(&name))? else { continue };
            if found.reference != reference || found.platform != *platform {
                continue;
            }
            if let Some(image) = self.image(&found.image)? {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// The image of this digest, in the user's store or a site store.
    ///
    /// # Errors
    /// When its record is there and cannot be read.
    pub fn image(&self, id: &ImageId) -> Result<Option<StoredImage>> {
        for (root, writable) in self.roots() {
            if let Some(record) = load_image(root, id)? {
                let path = sqfs_path(root, id);
                let root = root.path().to_owned();
                return Ok(Some(StoredImage { id: id.clone(), record, path, root, writable }));
            }
        }
        Ok(None)
    }

    /// The image whose digest begins with `prefix` (with or without
    /// `sha256:`); None when there is none.
    ///
    /// # Errors
    /// When several images do, or a store cannot be listed.
    pub fn find(&self, prefix: &str) -> Result<Option<ImageId>> {
        let mut found = HashSet::new();
        for (root, _) in self.roots() {
            for id in record_ids(root)? {
                if id.matches(prefix) {
                    found.insert(id);
                }
            }
        }
        if found.len() > 1 {
            return Err(Error::Ambiguous { prefix: prefix.to_owned(), count: found.len() });
        }
        Ok(found.into_iter().next())
    }

    /// Every image, the user's before the site's, each once, newest first
    /// within its store. A site's reference is left out where the user's store
    /// has the same one.
    ///
    /// # Errors
    /// When a store cannot be listed.
    pub fn images(&self) -> Result<Vec<ImageEntry>> {
        let mut references: Vec<RefRecord> = Vec::new();
        let mut known = HashSet::new();
        for (root, _) in self.roots() {
            for (_, found) in load_refs(root)? {
                if let Some(found) = found
                    && known.insert((found.reference.clone(), found.platform.clone()))
                {
                    references.push(found);
                }
            }
        }
        let mut entries: Vec<ImageEntry> = Vec::new();
        let mut listed = HashSet::new();
        for (root, writable) in self.roots() {
            let start = entries.len();
            for id in record_ids(root)? {
                if listed.contains(&id) {
                    continue;
                }
                let Some(record) = load_image(root, &id)? else { continue };
                listed.insert(id.clone());
                let mut of_image: Vec<RefRecord> =
                    references.iter().filter(|r| r.image == id).cloned().collect();
                of_image.sort_by(|a, b| a.reference.cmp(&b.reference));
                let path = sqfs_path(root, &id);
                let (size, site) = (record.size, !writable);
                entries.push(ImageEntry { id, record, references: of_image, size, path, site });
            }
            entries[start..]
                .sort_by(|a, b| (b.record.created_at, &b.id).cmp(&(a.record.created_at, &a.id)));
        }
        Ok(entries)
    }

    /// Makes `reference` name `image` for `platform`, in place of what it
    /// named before. The image may be in a site store.
    ///
    /// # Errors
    /// When there is no such image, or the user's store cannot be written.
    pub fn set_ref(&self, reference: &str, platform: &Platform, image: &ImageId) -> Result<()> {
        if self.image(image)?.is_none() {
            return Err(Error::NoImage { image: image.clone() });
        }
        let record = RefRecord {
            reference: reference.to_owned(),
            platform: platform.clone(),
            image: image.clone(),
            pulled_at: unix_now(),
        };
        let name = record::ref_file_name(reference, platform);
        self.root.write_json("refs", &name, &record)
    }
}

pub(crate) fn sqfs_path(root: &Root, id: &ImageId) -> PathBuf {
    root.join("images").join(format!("{}.sqfs", id.hex()))
}

pub(crate) fn record_path(root: &Root, id: &ImageId) -> PathBuf {
    root.join("images").join(format!("{}.json", id.hex()))
}

/// The record of a whole image; None when it is absent, damaged, or its file
/// is not of the recorded size.
pub(crate) fn load_image(root: &Root, id: &ImageId) -> Result<Option<ImageRecord>> {
    let path = record_path(root, id);
    let record: ImageRecord = match read_json(&path)? {
        Json::Absent => return Ok(None),
        Json::Corrupt(reason) => {
            tracing::warn!("{}: not an image record, taken for absent: {reason}", path.display());
            return Ok(None);
        }
        Json::Value(record) => record,
    };
    if record.id != *id {
        tracing::warn!("{}: the record of another image, taken for absent", path.display());
        return Ok(None);
    }
    let sqfs = sqfs_path(root, id);
    match std::fs::metadata(&sqfs) {
        Ok(meta) if meta.is_file() && meta.len() == record.size => Ok(Some(record)),
        Ok(meta) => {
            let (found, expected) = (meta.len(), record.size);
            tracing::warn!(
                "{}: {found} bytes instead of {expected}, taken for absent",
                sqfs.display()
            );
            Ok(None)
        }
        Err(e) if files::is_absent(&e) => {
            // A removal takes the record away just before or after.
            tracing::debug!("{}: a record without its image file", sqfs.display());
            Ok(None)
        }
        Err(source) => Err(Error::ReadFile { path: sqfs, source }),
    }
}

fn load_ref(path: &Path) -> Result<Option<RefRecord>> {
    match read_json(path)? {
        Json::Absent => Ok(None),
        Json::Corrupt(reason) => {
            tracing::warn!("{}: not a reference, taken for absent: {reason}", path.display());
            Ok(None)
        }
        Json::Value(found) => Ok(Some(found)),
    }
}

/// Every file in `refs` with what it says; None where it is damaged.
pub(crate) fn load_refs(root: &Root) -> Result<Vec<(PathBuf, Option<RefRecord>)>> {
    let mut all = Vec::new();
    for (name, path) in files::list(&root.join("refs"))? {
        if name.ends_with(".json") {
            let found = load_ref(&path)?;
            all.push((path, found));
        }
    }
    Ok(all)
}

/// The digests that have a record, whole or not.
pub(crate) fn record_ids(root: &Root) -> Result<Vec<ImageId>> {
    let names = files::list(&root.join("images"))?;
    Ok(names
        .iter()
        .filter_map(|(name, _)| name.strip_suffix(".json").and_then(ImageId::from_hex))
        .collect())
}

#[cfg(test)]
mod tests;
