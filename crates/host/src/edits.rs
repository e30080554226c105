//! What a host integration wants of a container, before the image is looked at.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use plan::{Contribution, FileSpec, MountSource, MountSpec, Rank};
use serde::Serialize;

use crate::hooks::Hook;

/// A library of the host, as the host's ld.so.cache lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostLibrary {
    /// The file on the host, absolute; often a symbolic link.
    pub path: PathBuf,
    /// The name that programs ask the dynamic linker for: `libcuda.so.1`.
    pub soname: String,
}

/// What one integration wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Edits {
    /// Why, for `--explain`.
    pub reason: String,
    /// Mounts; each target once.
    pub mounts: Vec<MountSpec>,
    /// Variables, each once; None unsets.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// Files and links in memory; each path once.
    pub files: Vec<FileSpec>,
    /// Libraries that go before those of the same name in the image.
    pub libraries: Vec<HostLibrary>,
    /// Libraries for images that have none of that name.
    pub fallbacks: Vec<HostLibrary>,
    /// Directories in the container that the dynamic linker has to search,
    /// absolute. The libraries mounted there have no links for their sonames yet.
    pub cache_folders: Vec<PathBuf>,
    /// The version of NVIDIA's driver, where the image's libraries of CUDA are to
    /// go before the driver's if they are newer.
    pub cuda_compat: Option<String>,
    /// Programs to run while the container is made, in order.
    pub hooks: Vec<Hook>,
    /// What a person should know but need not stop for.
    pub warnings: Vec<String>,
}

impl Edits {
    /// Nothing yet.
    #[must_use]
    pub fn new(reason: &str) -> Self {
        Self { reason: reason.to_owned(), ..Self::default() }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
            && self.env.is_empty()
            && self.files.is_empty()
            && self.libraries.is_empty()
            && self.fallbacks.is_empty()
            && self.cache_folders.is_empty()
            && self.cuda_compat.is_none()
            && self.hooks.is_empty()
    }

    /// Adds a mount, in place of one with the same target.
    pub fn mount(&mut self, mount: MountSpec) {
        self.mounts.retain(|old| old.target != mount.target);
        self.mounts.push(mount);
    }

    /// Sets a variable, in place of an earlier value.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        let name = name.into();
        self.env.retain(|(old, _)| *old != name);
        self.env.push((name, Some(value.into())));
    }

    /// Adds a file or link, in place of one at the same path.
    pub fn file(&mut self, file: FileSpec) {
        self.files.retain(|old| old.path != file.path);
        self.files.push(file);
    }

    /// Adds a directory for the dynamic linker, once.
    pub fn cache_folder(&mut self, folder: PathBuf) {
        if !self.cache_folders.contains(&folder) {
            self.cache_folders.push(folder);
        }
    }

    /// Adds a warning, once.
    pub fn warn(&mut self, text: String) {
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    /// Mounts, variables and files as a contribution to a plan; what needs the
    /// image stays. Where the host's own `/dev` is shown, its nodes need no
    /// mounts of their own, and the links are left out: they are second names of
    /// nodes that have a first one.
    #[must_use]
    pub fn contribution(&self, host_dev: bool) -> Contribution {
        let in_dev = |path: &Path| path.starts_with("/dev");
        let needed = |mount: &&MountSpec| !(host_dev && own(mount) && in_dev(&mount.target));
        Contribution {
            mounts: self.mounts.iter().filter(needed).cloned().collect(),
            env: self.env.clone(),
            files: self
                .files
                .iter()
                .filter(|file| !host_dev || !in_dev(&file.path))
                .cloned()
                .collect(),
            ..Contribution::new(Rank::Host, &self.reason)
        }
    }

    /// A path in `/dev` where something is wanted that the host has elsewhere,
    /// and that `exists` denies. Where the host's own `/dev` is shown, it cannot
    /// be made.
    #[must_use]
    pub fn misplaced(&self, exists: &dyn Fn(&Path) -> bool) -> Option<&Path> {
        let mut targets =
            self.mounts.iter().filter(|mount| !own(mount)).map(|mount| &*mount.target);
        targets.find(|target| target.starts_with("/dev") && !exists(target))
    }
}

/// Whether something of the host is shown at its own path.
fn own(mount: &MountSpec) -> bool {
    matches!(&mount.source, MountSource::File(path) | MountSource::Directory(path)
        if *path == mount.target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::MountFlags;

    fn mount(source: &str, target: &str) -> MountSpec {
        let (source, target) = (MountSource::File(source.into()), target.into());
        MountSpec { source, target, flags: MountFlags::default(), optional: false }
    }

    #[test]
    fn the_last_one_wins() {
        let mut edits = Edits::new("test");
        edits.mount(mount("/a", "/x"));
        edits.mount(mount("/b", "/x"));
        edits.set("A", "1");
        edits.set("A", "2");
        assert_eq!(edits.mounts, [mount("/b", "/x")]);
        assert_eq!(edits.env, [("A".into(), Some("2".into()))]);
    }

    #[test]
    fn nodes_of_a_shown_dev_are_not_bound_again() {
        let mut edits = Edits::new("test");
        for (source, target) in [("/dev/a", "/dev/a"), ("/dev/a", "/dev/b"), ("/usr/x", "/usr/x")] {
            edits.mount(mount(source, target));
        }
        let targets = |host_dev| -> Vec<PathBuf> {
            edits.contribution(host_dev).mounts.into_iter().map(|m| m.target).collect()
        };
        assert_eq!(targets(false).len(), 3);
        assert_eq!(targets(true), [PathBuf::from("/dev/b"), "/usr/x".into()]);
        assert_eq!(edits.contribution(true).rank, Rank::Host);
        assert_eq!(edits.misplaced(&|_| false), Some(Path::new("/dev/b")));
        assert_eq!(edits.misplaced(&|path| path == Path::new("/dev/b")), None);
    }

    #[test]
    fn links_go_everywhere_but_into_the_hosts_dev() {
        let mut edits = Edits::new("test");
        for path in ["/dev/dri/by-path/x", "/usr/lib/libx.so"] {
            let kind = plan::SkeletonKind::Symlink("y".into());
            edits.file(FileSpec { path: path.into(), kind, mode: 0o777 });
        }
        assert_eq!(edits.contribution(true).files.len(), 1);
        assert_eq!(edits.contribution(false).files.len(), 2);
    }
}
