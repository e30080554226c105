//! What this host has at the paths that specs name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, major, minor};
use serde::Serialize;

use super::Selection;

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// A directory.
    Directory,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A FIFO.
    Fifo,
    /// A file or anything else.
    File,
}

/// What is at a path; symbolic links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostPath {
    /// What it is.
    pub kind: PathKind,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Permission bits.
    pub mode: u32,
    /// Group.
    pub gid: u32,
    /// Whether the caller may read it.
    pub readable: bool,
    /// Whether the caller may write it.
    pub writable: bool,
}

/// What is at each path, and the caller's groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostPaths {
    /// By path on the host; absent ones are left out.
    pub paths: BTreeMap<PathBuf, HostPath>,
    /// Groups of the caller.
    pub groups: Vec<u32>,
}

/// Looks at every path that the devices name, below `root`.
#[must_use]
pub fn probe(root: &Path, selection: &Selection<'_>) -> HostPaths {
    let mut paths = BTreeMap::new();
    let mut look = |path: &str| {
        if let Some(found) = look(&crate::below(root, Path::new(path))) {
            paths.insert(PathBuf::from(path), found);
        }
    };
    for part in selection.parts() {
        for node in &part.edits.device_nodes {
            look(if node.host_path.is_empty() { &node.path } else { &node.host_path });
        }
        part.edits.mounts.iter().for_each(|mount| look(&mount.host_path));
    }
    let mut groups = vec![rustix::process::getegid().as_raw()];
    groups.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|g| g.as_raw()));
    HostPaths { paths, groups }
}

/// What is at a path.
pub(crate) fn look(path: &Path) -> Option<HostPath> {
    let meta = fs::metadata(path).ok()?;
    let kind = match meta.file_type() {
        t if t.is_dir() => PathKind::Directory,
        t if t.is_char_device() => PathKind::Character,
        t if t.is_block_device() => PathKind::Block,
        t if t.is_fifo() => PathKind::Fifo,
        _ => PathKind::File,
    };
    let may = |how| access(path, how).is_ok();
    Some(HostPath {
        kind,
        device: (major(meta.rdev()), minor(meta.rdev())),
        mode: meta.mode() & 0o7777,
        gid: meta.gid(),
        readable: may(Access::READ_OK),
        writable: may(Access::WRITE_OK),
    })
}
