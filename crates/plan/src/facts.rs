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
    /// Real root: uid 0 of the initial user namespace with CAP_SYS_ADMIN.
    pub real_root: bool,
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
