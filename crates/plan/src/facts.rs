//! Snapshots of the host.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

/// A user or group with its number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NamedUser {
    /// The number.
    pub id: u32,
    /// The name.
    pub name: String,
}

/// What the caller and the host are, as far as a container depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The caller's user.
    pub user: NamedUser,
    /// The caller's groups that have names here, the primary one first.
    pub groups: Vec<NamedUser>,
    /// The caller's full name (GECOS).
    pub gecos: String,
    /// The caller's home directory, where it exists.
    pub home: Option<PathBuf>,
    /// The caller's login shell.
    pub shell: Option<PathBuf>,
    /// The caller's working directory.
    pub cwd: Option<PathBuf>,
    /// The caller's environment.
    pub env: Vec<(OsString, OsString)>,
    /// `/etc/resolv.conf`, where there is one.
    pub resolv_conf: Option<Vec<u8>>,
    /// `/etc/hosts`, where there is one.
    pub hosts: Option<Vec<u8>>,
    /// `/etc/localtime`, where there is one.
    pub localtime: Option<Vec<u8>>,
    /// The caller's subordinate ids; looked up only for a container that is to have them.
    pub sub_ids: Option<SubIds>,
    /// Real root: uid 0 of the initial user namespace with CAP_SYS_ADMIN.
    pub real_root: bool,
}

/// Ids of a container, and what they are on the host (user_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct IdRange {
    /// The first one inside.
    pub inside: u32,
    /// The first one on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// Many ids for a container: root is the caller, the others are subordinate
/// ids of the caller (subuid(5), subgid(5)).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct SubIds {
    /// Users, 0 first and without a gap.
    pub uids: Vec<IdRange>,
    /// Groups, likewise.
    pub gids: Vec<IdRange>,
    /// newuidmap(1), which maps the users.
    pub newuidmap: PathBuf,
    /// newgidmap(1), which maps the groups.
    pub newgidmap: PathBuf,
}

impl SubIds {
    /// How many users and how many groups there are, from 0 on.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let sum = |ranges: &[IdRange]| ranges.iter().map(|range| u64::from(range.count)).sum();
        (sum(&self.uids), sum(&self.gids))
    }
}

/// What this kernel allows, as `doctor` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelCaps {
    /// `uname -r`.
    pub release: String,
    /// A user namespace can be made; else the reason.
    pub user_namespace: Option<String>,
    /// A private mount namespace in it; else the reason.
    pub mount_namespace: Option<String>,
    /// `/dev/fuse` opens and mounts in a user namespace; else the reason.
    pub fuse: Option<String>,
    /// overlayfs mounts in a user namespace; else the reason.
    pub overlay: Option<String>,
    /// System calls can be answered by another process, as builds need it;
    /// else the reason.
    pub notification: Option<String>,
}
