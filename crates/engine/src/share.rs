//! Which containers may share a server: those of one image, user, node and,
//! inside a job, of one job step.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plan::{Plan, RootSource};
use runtime::Share;

use crate::{Config, Error, Result, unpack};

/// The directory in which the user's containers on this node find each other.
///
/// # Errors
/// When it is not the user's own, or cannot be made.
pub(crate) fn directory(config: &Config) -> Result<PathBuf> {
    let dir = unpack::own_directory(&unpack::cache(&config.scratch.value))?;
    unpack::own_directory(&dir.join(unpack::RUN))
}

/// Where the container's equals are found.
///
/// # Errors
/// When the scratch directory is not the user's own.
pub(crate) fn share(config: &Config, plan: &Plan) -> Result<Share> {
    let ids = plan.id_map;
    let file = match &plan.rootfs.source {
        RootSource::Squashfs { parts } => unpack::files_key(parts)?,
        RootSource::Directory { path } => directory_key(path)?,
    };
    let dir = directory(config)?;
    let mut hash = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), runtime::PROTOCOL).hash(&mut hash);
    // Its server shows what others hide.
    plan.root_emulation.supervised().hash(&mut hash);
    plan.sub_ids.hash(&mut hash);
    rustix::system::uname().nodename().to_bytes().hash(&mut hash);
    // A namespace can be joined from its parent only.
    std::fs::read_link("/proc/self/ns/user").ok().hash(&mut hash);
    for name in host::launcher::JOB {
        std::env::var_os(name).hash(&mut hash);
    }
    let key = format!("{file}-{}-{}-{:016x}", ids.uid, ids.gid, hash.finish());
    Ok(Share { dir, key, linger: config.linger.value })
}

/// What tells one directory from others.
fn directory_key(path: &Path) -> Result<String> {
    let failed = |source| Error::OpenImage { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(failed)?;
    Ok(format!("dir-{:x}-{:x}", meta.dev(), meta.ino()))
}
