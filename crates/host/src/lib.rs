//! Facts about this host.
//!
//! [`facts`] gathers what every container start depends on: a few small files
//! and system calls, no helper program where the caller is in /etc/passwd.
//! On sites whose accounts live in LDAP, `getent` is asked, as a static
//! program must not load the host's name service modules.
#![forbid(unsafe_code)]

mod accounts;
pub mod cdi;
pub mod companions;
pub mod edits;
pub mod elf;
pub mod fabric;
#[cfg(test)]
mod fixture;
pub mod gpu;
pub mod hooks;
pub mod inject;
pub mod launcher;
pub mod ldcache;
pub mod libraries;
pub mod mpi;
pub mod remote;
pub mod subid;
mod tree;
pub mod watch;

pub use tree::DirectoryTree;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use plan::HostFacts;

/// More than any sane configuration file.
const LIMIT: u64 = 1 << 20;

/// What the caller and the host are.
#[must_use]
pub fn facts() -> HostFacts {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let account = accounts::user(uid);
    let env: Vec<_> = std::env::vars_os().collect();
    let from_env =
        env.iter().find(|(name, _)| name == "HOME").map(|(_, value)| PathBuf::from(value));
    let home =
        from_env.filter(|home| home.is_absolute()).or(account.home).filter(|home| home.is_dir());
    HostFacts {
        user: account.user,
        groups: vec![accounts::group(gid)],
        gecos: account.gecos,
        home,
        shell: account.shell,
        cwd: std::env::current_dir().ok(),
        env,
        resolv_conf: small_file("/etc/resolv.conf"),
        hosts: small_file("/etc/hosts"),
        localtime: small_file("/etc/localtime"),
        sub_ids: None,
        real_root: real_root(uid),
    }
}

/// Whether this is uid 0 of the initial user namespace, with the capability
/// to mount. Root inside a container is not.
fn real_root(uid: u32) -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    let initial = || {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
    };
    let admin =
        || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    uid == 0 && initial() && admin()
}

fn small_file(path: impl AsRef<Path>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A path of the host, seen from another root: fixtures are directories.
pub(crate) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A whole regular file.
///
/// # Errors
/// When it cannot be read or has more than `limit` bytes.
pub(crate) fn bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Error;
    // Before it is opened: a FIFO would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(Error::other("it is not a regular file"));
    }
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    if file.take(limit + 1).read_to_end(&mut bytes)? as u64 > limit {
        return Err(Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}
