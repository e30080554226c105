//! Removing references and images.

use std::path::PathBuf;

use serde::Serialize;
use types::Platform;

use crate::files::{self, Root};
use crate::record::ref_file_name;
use crate::{
    Error, ImageId, Owner, RefRecord, Result, Store, lease, load_ref, load_refs, record_path,
    sqfs_path,
};

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoveTarget {
    /// A reference, and its image when nothing else names it.
    Reference {
        /// The canonical reference.
        reference: String,
        /// For one platform, or for all.
        platform: Option<Platform>,
    },
    /// An image with all its references.
    Image(ImageId),
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// References that name nothing now.
    pub untagged: Vec<RefRecord>,
    /// Images that are gone.
    pub deleted: Vec<ImageId>,
    /// Bytes that were freed.
    pub bytes: u64,
}

impl Store {
    /// Removes a reference or an image. An image of a site store keeps being
    /// there when a reference of the user's to it is removed.
    ///
    /// # Errors
    /// [`Error::Leased`] when somebody runs an image that would go, unless
    /// `force`; [`Error::SiteStore`] when the target is only in a site store;
    /// [`Error::NoReference`] and [`Error::NoImage`] when it is nowhere; else
    /// when the store cannot be written. Nothing is removed in the first four.
    pub fn remove(&self, target: &RemoveTarget, force: bool) -> Result<Removed> {
        let refs: Vec<(PathBuf, RefRecord)> = load_refs(&self.root)?
            .into_iter()
            .filter_map(|(path, found)| found.map(|found| (path, found)))
            .collect();
        let (going, staying): (Vec<_>, Vec<_>) =
            refs.into_iter().partition(|(_, found)| target.includes(found));
        let mut images: Vec<ImageId> = match target {
            RemoveTarget::Image(id) => vec![id.clone()],
            RemoveTarget::Reference { .. } => {
                going.iter().map(|(_, found)| found.image.clone()).collect()
            }
        };
        images.sort();
        images.dedup();
        images.retain(|id| !staying.iter().any(|(_, found)| found.image == *id));
        let own = |id: &ImageId| record_path(&self.root, id).exists();
        match target {
            RemoveTarget::Image(id) if !own(id) => return Err(self.not_own_image(id)?),
            RemoveTarget::Reference { reference, platform } if going.is_empty() => {
                return Err(self.not_own_reference(reference, platform.as_ref())?);
            }
            _ => {}
        }
        images.retain(own);
        if !force {
            images.iter().try_for_each(|id| self.refuse_leased(id))?;
        }
        let mut removed = Removed::default();
        for (path, found) in going {
            files::remove(&path)?;
            removed.untagged.push(found);
        }
        for id in images {
            removed.bytes += self.delete_image(&id, force)?;
            removed.deleted.push(id);
        }
        Ok(removed)
    }

    fn not_own_image(&self, id: &ImageId) -> Result<Error> {
        for root in &self.site {
            if record_path(root, id).exists() {
                let (target, root) = (id.to_string(), root.path().to_owned());
                return Ok(Error::SiteStore { target, root });
            }
        }
        Ok(Error::NoImage { image: id.clone() })
    }

    fn not_own_reference(&self, reference: &str, platform: Option<&Platform>) -> Result<Error> {
        for root in &self.site {
            let there = match platform {
                Some(platform) => {
                    let name = ref_file_name(reference, platform);
                    load_ref(&root.join("refs").join(name))?.is_some()
                }
                None => load_refs(root)?
                    .iter()
                    .any(|(_, found)| found.as_ref().is_some_and(|f| f.reference == reference)),
            };
            if there {
                let (target, root) = (reference.to_owned(), root.path().to_owned());
                return Ok(Error::SiteStore { target, root });
            }
        }
        Ok(Error::NoReference { reference: reference.to_owned() })
    }

    fn refuse_leased(&self, id: &ImageId) -> Result<()> {
        let holders: Vec<String> = lease::list(&self.root, id, self.timing.lease)?
            .iter()
            .filter(|lease| lease.counts)
            .map(|lease| {
                let unknown = || "an unknown process".to_owned();
                lease.owner.as_ref().map_or_else(unknown, |o| format!("{}:{}", o.host, o.pid))
            })
            .collect();
        if holders.is_empty() {
            return Ok(());
        }
        Err(Error::Leased { image: id.clone(), holders: holders.join(", ") })
    }

    /// Removes an image of the user's store, and its blobs with the next
    /// prune; the bytes freed. Looks for leases after the image is out of
    /// sight, and puts it back when there are.
    pub(crate) fn delete_image(&self, id: &ImageId, force: bool) -> Result<u64> {
        let root = &self.root;
        let owner = Owner::current();
        let moved = [record_path(root, id), sqfs_path(root, id)];
        let mut aside = Vec::new();
        for path in moved {
            let to = root.temp_path(&owner, "removed")?;
            match std::fs::rename(&path, &to) {
                Ok(()) => aside.push((path, to)),
                Err(e) if files::is_absent(&e) => {}
                Err(source) => {
                    put_back(&aside)?;
                    return Err(Error::Rename { from: path, to, source });
                }
            }
        }
        if !force && let Err(leased) = self.refuse_leased(id) {
            put_back(&aside)?;
            return Err(leased);
        }
        let mut bytes = 0;
        for (_, path) in &aside {
            bytes += std::fs::metadata(path).map_or(0, |meta| meta.len());
            files::remove(path)?;
        }
        sync_images(root)?;
        Ok(bytes)
    }
}

/// The image file first, its record last.
fn put_back(aside: &[(PathBuf, PathBuf)]) -> Result<()> {
    aside.iter().rev().try_for_each(|(path, to)| files::rename(to, path))
}

fn sync_images(root: &Root) -> Result<()> {
    let images = root.join("images");
    if images.is_dir() { files::sync_dir(&images) } else { Ok(()) }
}

impl RemoveTarget {
    fn includes(&self, found: &RefRecord) -> bool {
        match self {
            Self::Image(id) => found.image == *id,
            Self::Reference { reference, platform } => {
                found.reference == *reference
                    && platform.as_ref().is_none_or(|platform| found.platform == *platform)
            }
        }
    }
}
