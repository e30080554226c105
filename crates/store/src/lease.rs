//! Leases: images that somebody runs are not removed.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::files::{self, Root};
use crate::lock::read_owner;
use crate::owner::{Liveness, Owner};
use crate::record::escape;
use crate::{Error, ImageId, Result, Store, sqfs_path};

/// Says that this process runs an image. Touch it at least every 10 minutes;
/// it ends on drop, or when the process does.
#[derive(Debug)]
pub struct Lease {
    /// None where none is needed.
    held: Option<(File, PathBuf)>,
}

impl Lease {
    /// Says that the image is still in use.
    ///
    /// # Errors
    /// When the lease's file is gone or cannot be touched.
    pub fn touch(&self) -> io::Result<()> {
        self.held.as_ref().map_or(Ok(()), |(file, _)| files::touch(file))
    }

    /// Whether there is a lease: not for a store that is never written.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((_, path)) = self.held.take() {
            let _ = fs::remove_file(&path);
            // The last lease takes the directory along; others keep it.
            if let Some(dir) = path.parent() {
                let _ = fs::remove_dir(dir);
            }
        }
    }
}

/// A lease file as it was seen.
pub(crate) struct SeenLease {
    pub path: PathBuf,
    pub owner: Option<Owner>,
    pub counts: bool,
}

impl Store {
    /// Takes a lease on an image for this process. For an image of a site
    /// store, and in a user's store that is read only, there is none to take
    /// and none is needed.
    ///
    /// # Errors
    /// [`Error::NoImage`] when the image has been removed; otherwise when the
    /// store cannot be written.
    pub fn lease(&self, id: &ImageId) -> Result<Lease> {
        let sqfs = sqfs_path(&self.root, id);
        if !sqfs.exists() && self.site.iter().any(|root| sqfs_path(root, id).exists()) {
            return Ok(Lease { held: None });
        }
        let lease = match create(&self.root, id) {
            Ok(held) => Lease { held: Some(held) },
            Err(Error::CreateFile { source, .. } | Error::CreateDirectory { source, .. })
                if is_read_only(&source) =>
            {
                return Ok(Lease { held: None });
            }
            Err(e) => return Err(e),
        };
        // A removal that has not seen the lease when it looked first moves the
        // image aside, looks again, and puts it back.
        for _ in 0..50 {
            if sqfs.exists() {
                return Ok(lease);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Error::NoImage { image: id.clone() })
    }

    /// Who runs this image, as far as leases say.
    ///
    /// # Errors
    /// When the leases cannot be read.
    pub fn leases(&self, id: &ImageId) -> Result<Vec<Owner>> {
        let seen = list(&self.root, id, self.timing.lease)?;
        Ok(seen.into_iter().filter(|lease| lease.counts).filter_map(|l| l.owner).collect())
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

fn create(root: &Root, id: &ImageId) -> Result<(File, PathBuf)> {
    let owner = Owner::current();
    let host: String = owner.host.chars().take(64).collect();
    let name = format!("{}.{}.{}.{}", escape(&host), owner.pid, owner.pid_start_time, owner.token);
    let dir = format!("leases/{}", id.hex());
    loop {
        let path = root.ensure(&dir)?.join(&name);
        let bytes = serde_json::to_vec(&owner)
            .map_err(|source| Error::Encode { path: path.clone(), source })?;
        let file = match root.create(&path) {
            Ok(file) => file,
            // Another's last lease took the directory along just now.
            Err(Error::CreateFile { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            Err(e) => return Err(e),
        };
        return match files::fill(&file, &path, &bytes) {
            Ok(()) => Ok((file, path)),
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(e)
            }
        };
    }
}

/// The leases of an image, and whether each counts. `longest` is the age at
/// which one of another machine no longer does.
pub(crate) fn list(root: &Root, id: &ImageId, longest: Duration) -> Result<Vec<SeenLease>> {
    let here = Owner::current();
    let mut clock: Option<SystemTime> = None;
    let mut seen = Vec::new();
    for (_, path) in files::list(&root.join("leases").join(id.hex()))? {
        let Some((owner, meta)) = read_owner(&path)? else { continue };
        let liveness = owner.as_ref().map_or(Liveness::Unknown, |owner| owner.liveness(&here));
        let counts = match liveness {
            Liveness::Alive => true,
            Liveness::Dead => false,
            Liveness::Unknown => {
                let now = match clock {
                    Some(now) => now,
                    None => *clock.insert(root.clock()?),
                };
                let touched = meta
                    .modified()
                    .map_err(|source| Error::ReadFile { path: path.clone(), source })?;
                // One from the future is young.
                now.duration_since(touched).map_or(true, |age| age < longest)
            }
        };
        seen.push(SeenLease { path, owner, counts });
    }
    Ok(seen)
}
