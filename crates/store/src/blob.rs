//! Manifests and configurations, byte for byte.

use std::io;

use sha2::{Digest as _, Sha256, Sha512};
use types::{Algorithm, Digest};

use crate::files::{self, Root, read_limited};
use crate::{Error, Result, Store};

/// Manifests and configurations are at most 4 MiB by custom; layers are not
/// kept here.
const LONGEST_BLOB: u64 = 64 << 20;

impl Store {
    /// Keeps `bytes` under their SHA-256 digest.
    ///
    /// # Errors
    /// When the user's store cannot be written.
    pub fn blob_put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::sha256(&Sha256::digest(bytes).into());
        if read_blob(&self.root, &digest)?.is_none() {
            self.root.write("blobs/sha256", digest.hex(), bytes)?;
        }
        Ok(digest)
    }

    /// The bytes of this digest, verified, from the user's store or a site
    /// store. Damaged ones count as absent, with a warning that names the
    /// file, so that the next pull replaces them.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn blob_get(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        for (root, _) in self.roots() {
            if let Some(bytes) = read_blob(root, digest)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

fn read_blob(root: &Root, digest: &Digest) -> Result<Option<Vec<u8>>> {
    let path = root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex());
    let bytes = match read_limited(&path, LONGEST_BLOB) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!("{}: may not be read, taken for absent", path.display());
            return Ok(None);
        }
        Err(e) if files::is_damage(&e) => {
            tracing::warn!("{}: {e}, taken for absent", path.display());
            return Ok(None);
        }
        Err(source) => return Err(Error::ReadFile { path, source }),
    };
    let found = match digest.algorithm() {
        Algorithm::Sha256 => Digest::sha256(&Sha256::digest(&bytes).into()),
        Algorithm::Sha512 => Digest::sha512(&Sha512::digest(&bytes).into()),
    };
    if found != *digest {
        tracing::warn!("{}: content is {found}, taken for absent", path.display());
        return Ok(None);
    }
    Ok(Some(bytes))
}
