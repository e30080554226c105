//! GPUs of this host, found without a spec.
//!
//! Where the driver's tools have written CDI specs, those are used
//! ([`crate::cdi`]). Else the devices are those in `/dev`, and the driver's
//! libraries those of the host's ld.so.cache.
//!
//! The scheduler's choice of GPUs is passed on, not enforced: a job's
//! CUDA_VISIBLE_DEVICES counts among the GPUs that the job's device cgroup
//! leaves open, so an index names no file of `/dev`. All nodes are shown, the
//! cgroup closes the same ones as outside, and numbers keep their meaning.

pub mod amd;
pub mod nvidia;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use plan::{MountFlags, MountSource, MountSpec};
use serde::Serialize;

use crate::cdi::QualifiedName;
use crate::edits::{Edits, HostLibrary};

/// Whose GPUs a container gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Everybody's that this host has.
    All,
    /// None.
    None,
    /// NVIDIA's.
    Nvidia,
    /// AMD's.
    Amd,
}

types::words!(Choice { "all" => All, "none" => None, "nvidia" => Nvidia, "amd" => Amd });

/// A maker of GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
}

impl Choice {
    /// Those whose GPUs are to be looked for.
    #[must_use]
    pub fn vendors(self) -> &'static [Vendor] {
        match self {
            Self::All => &[Vendor::Nvidia, Vendor::Amd],
            Self::None => &[],
            Self::Nvidia => &[Vendor::Nvidia],
            Self::Amd => &[Vendor::Amd],
        }
    }
}

/// Reads a variable of the caller's environment.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Vendor {
    /// The name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "NVIDIA",
            Self::Amd => "AMD",
        }
    }

    /// The kind of its CDI devices.
    #[must_use]
    pub fn cdi_kind(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia.com/gpu",
            Self::Amd => "amd.com/gpu",
        }
    }

    /// Variables by which schedulers and users choose among GPUs.
    fn variables(self) -> &'static [&'static str] {
        match self {
            Self::Nvidia => &[
                "CUDA_VISIBLE_DEVICES",
                "CUDA_DEVICE_ORDER",
                "CUDA_MPS_PIPE_DIRECTORY",
                "CUDA_MPS_LOG_DIRECTORY",
                "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
            ],
            Self::Amd => &["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"],
        }
    }

    /// Files without which there is no driver.
    fn traces(self) -> &'static [&'static str] {
        match self {
            Self::Nvidia => &["/proc/driver/nvidia/version", "/dev/nvidiactl"],
            Self::Amd => &["/dev/kfd"],
        }
    }

    /// What a container needs of this maker's driver, found below `root`; None
    /// where there is no driver. `cache` gives the host's ld.so.cache, and is
    /// asked only where there is one.
    #[must_use]
    pub fn discover(
        self,
        root: &Path,
        cache: &dyn Fn() -> Vec<HostLibrary>,
        vars: Variables<'_>,
    ) -> Option<Edits> {
        let there = |path: &&str| crate::below(root, Path::new(path)).exists();
        if !self.traces().iter().any(there) {
            return None;
        }
        match self {
            Self::Nvidia => {
                let facts = nvidia::probe(root, &cache(), vars);
                facts.present().then(|| nvidia::edits(&facts, vars))
            }
            Self::Amd => {
                let facts = amd::probe(root, &cache());
                facts.present().then(|| amd::edits(&facts, vars))
            }
        }
    }

    /// Passes the choice on, past a clean environment and the image's own.
    pub fn pass_on(self, vars: Variables<'_>, edits: &mut Edits) {
        for name in self.variables() {
            if let Some(value) = vars(name) {
                edits.set(name, value);
            }
        }
    }

    /// The CDI devices to ask for, of those that specs have: the GPUs and MIG
    /// instances that the scheduler names by their UUIDs, else all.
    #[must_use]
    pub fn cdi_devices(self, known: &[&str], vars: Variables<'_>) -> Vec<QualifiedName> {
        let visible = self.variables().first().and_then(|name| vars(name));
        let visible = visible.and_then(|text| text.into_string().ok()).unwrap_or_default();
        let mut chosen: Vec<&str> = visible.split(',').map(str::trim).collect();
        let uuid = |name: &&str| name.starts_with("GPU-") || name.starts_with("MIG-");
        if !chosen.iter().all(|name| uuid(name) && known.contains(name)) {
            chosen = vec!["all"];
        }
        let name =
            |device: &str| QualifiedName { kind: self.cdi_kind().into(), device: device.into() };
        chosen.into_iter().map(name).collect()
    }
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its path.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Group.
    pub gid: u32,
    /// Whether the caller may read and write it.
    pub open: bool,
}

/// The nodes of a directory below `root` whose names are wanted, in order.
fn nodes(root: &Path, dir: &str, wanted: impl Fn(&str) -> bool) -> Vec<Node> {
    let mut list = Vec::new();
    for entry in fs::read_dir(crate::below(root, Path::new(dir))).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| wanted(name)) else { continue };
        let found = crate::cdi::look(&entry.path());
        // Fixtures have files for nodes; what has no numbers is as good here.
        let Some(found) = found.filter(|f| f.kind != crate::cdi::PathKind::Directory) else {
            continue;
        };
        let open = found.readable && found.writable;
        let path = Path::new(dir).join(name);
        list.push(Node { path, mode: found.mode, gid: found.gid, open });
    }
    list.sort_by(|a, b| a.path.cmp(&b.path));
    list
}

/// Whether a text is a prefix and a number.
fn numbered(name: &str, prefix: &str) -> bool {
    let digits = name.strip_prefix(prefix).unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The same of a whole path.
fn numbered_path(path: &Path, prefix: &str) -> bool {
    path.to_str().is_some_and(|text| numbered(text, prefix))
}

/// Shows device nodes, with one warning for those that are closed to the caller.
fn show_nodes(nodes: &[Node], edits: &mut Edits) {
    for node in nodes {
        edits.mount(bind(&node.path, false));
    }
    let closed: Vec<String> = nodes
        .iter()
        .filter(|node| !node.open)
        .map(|n| format!("{} (mode {:04o}, group {})", n.path.display(), n.mode, n.gid))
        .collect();
    if !closed.is_empty() {
        edits.warn(format!("you may not open {}: its GPU will not work", closed.join(", ")));
    }
}

/// A file of the host at its own path.
fn bind(path: &Path, read_only: bool) -> MountSpec {
    let flags = MountFlags { read_only, recursive: false };
    let source = MountSource::File(path.to_owned());
    MountSpec { source, target: path.to_owned(), flags, optional: false }
}

/// A library of a driver, with what its file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DriverLibrary {
    /// As the cache lists it.
    #[serde(flatten)]
    pub library: HostLibrary,
    /// The file that the links lead to.
    pub file: PathBuf,
}

impl DriverLibrary {
    /// The version at the end of the file's name: `libcuda.so.535.129.03`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        let name = self.file.file_name()?.to_str()?;
        let (_, version) = name.rsplit_once(".so.")?;
        is_version(version).then_some(version)
    }
}

/// Two or three numbers with dots between them.
fn is_version(text: &str) -> bool {
    let number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    (1..=2).contains(&text.matches('.').count()) && text.split('.').all(number)
}

/// The cache's libraries of the given linker names (`libcuda.so`), in the order
/// of the names and of the cache. Entries without a file are left out.
fn libraries(root: &Path, cache: &[HostLibrary], names: &[&str]) -> Vec<DriverLibrary> {
    let mut list = Vec::new();
    for name in names {
        let same = |library: &&HostLibrary| {
            let rest = library.soname.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        for library in cache.iter().filter(same) {
            let Ok(file) = fs::canonicalize(crate::below(root, &library.path)) else { continue };
            let file = match file.strip_prefix(root) {
                Ok(inner) => Path::new("/").join(inner),
                Err(_) => file,
            };
            list.push(DriverLibrary { library: library.clone(), file });
        }
    }
    list
}

#[cfg(test)]
mod tests;
