//! What the host adds to a container: the launcher's wires, its MPI, its
//! libraries.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use host::DirectoryTree;
use host::companions::with_companions;
use host::edits::{Edits, HostLibrary};
use host::hooks::Hook;
use host::inject::{Injection, Mounted, Wanted, inject};
use host::libraries::{Libc, Libraries, Library};
use host::mpi::{self, Policy};
use plan::{
    Contribution, FileSpec, HostFacts, MountFlags, MountSource, MountSpec, Rank, RootEmulation,
    RunRequest, SearchTree, SkeletonKind, Writable,
};
use types::ImageConfig;

use crate::{Config, Devices, Engine, Error, Resolved, Result, devices, mount_source};

/// Whose MPI a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MpiMode {
    /// The image's, wired to the launcher that started this process.
    #[default]
    Auto,
    /// The host's, in place of the image's.
    Host,
    /// The image's, with a launcher of the image's: nothing of an outer launcher
    /// is passed on.
    Container,
    /// Nothing is done.
    None,
}

impl FromStr for MpiMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "host" => Ok(Self::Host),
            "container" => Ok(Self::Container),
            "none" => Ok(Self::None),
            _ => Err(format!("{text:?} is none of auto, host, container and none")),
        }
    }
}

/// Whose network libraries a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fabric {
    /// The image's.
    #[default]
    None,
    /// The host's, in place of those that the image has.
    Host,
}

impl FromStr for Fabric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            _ => Err(format!("{text:?} is neither none nor host")),
        }
    }
}

impl fmt::Display for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Host { "host" } else { "none" })
    }
}

impl fmt::Display for MpiMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Container => "container",
            Self::None => "none",
        })
    }
}

/// Leaves out the namespaces in which the ranks of a node could not reach each
/// other's processes and memory; what to say about it.
pub(crate) fn join_ranks(request: &mut RunRequest) -> Option<String> {
    let isolation = &mut request.isolation;
    // Recorded ownership needs a PID namespace for its supervisor.
    let apart = request.root_emulation == RootEmulation::Consistent;
    if apart || !(isolation.pid || isolation.ipc) {
        return None;
    }
    isolation.pid = false;
    isolation.ipc = false;
    Some("a launcher started this as a rank: PID and IPC namespaces are left out".to_owned())
}

/// What the host adds to a container.
#[derive(Default)]
pub(crate) struct Added {
    pub(crate) contributions: Vec<Contribution>,
    /// Programs to run while the container is made.
    pub(crate) hooks: Vec<Hook>,
    pub(crate) warnings: Vec<String>,
}

impl Engine {
    /// Works out what the host adds.
    pub(crate) fn integrate(
        &self,
        request: &RunRequest,
        facts: &HostFacts,
        tree: &dyn SearchTree,
        devices: &Devices,
    ) -> Result<Added> {
        let mut added = Added::default();
        let mode = self.config().mpi.value;
        match mode {
            MpiMode::None => {}
            MpiMode::Container => added.contributions.push(host::launcher::without(&facts.env)),
            MpiMode::Auto | MpiMode::Host => {
                let contained = request.isolation.contain;
                added.contributions = host::launcher::contribution(&facts.env, contained);
            }
        }
        let edits = self.device_edits(devices, &devices::host_cache)?;
        for one in &edits {
            added.contributions.push(Self::shown(one, request, &mut added.warnings)?);
            added.hooks.extend(one.hooks.iter().cloned());
        }
        let wants = |one: &Edits| {
            !(one.libraries.is_empty() && one.fallbacks.is_empty() && one.cache_folders.is_empty())
        };
        let fabric = self.config().fabric.value == Fabric::Host;
        if mode == MpiMode::Host || fabric || edits.iter().any(wants) {
            if request.writable == Writable::InPlace {
                return Err(Error::LibrariesInPlace);
            }
            self.libraries(request, facts, tree, &edits, &mut added)?;
        }
        Ok(added)
    }

    /// The libraries of MPI and devices, which share one cache of the linker.
    fn libraries(
        &self,
        request: &RunRequest,
        facts: &HostFacts,
        tree: &dyn SearchTree,
        edits: &[Edits],
        added: &mut Added,
    ) -> Result<()> {
        let config = self.config();
        let library_path = library_path(request);
        let open = DirectoryTree::open(Path::new("/")).map_err(Error::HostRoot)?;
        let host = host_libraries(config, &open, &facts.env);
        let image = image_libraries(tree, library_path.as_deref());
        let mut injection = Injection::default();
        if config.mpi.value == MpiMode::Host {
            let check = mpi::check(&host, &image, &config.mpi_path.value, config.mpi_policy.value);
            if let Some(error) = check.error {
                return Err(Error::Mpi(error));
            }
            added.warnings.extend(check.warnings);
            injection = check.injection;
            let mut beside = Contribution::new(Rank::Host, "what the host's MPI needs beside it");
            beside.mounts = check.companions.mounts;
            beside.env = check.companions.env;
            added.contributions.push(beside);
        }
        if config.fabric.value == Fabric::Host {
            self.fabric(request, &host, &image, &mut injection, added)?;
        }
        let mut mounted = Vec::new();
        let mut links = Contribution::new(Rank::Host, "names of mounted libraries");
        let mut wanted = Vec::new();
        for one in edits {
            wanted.extend(device_libraries(one, &host, &image));
            for (library, at) in in_folders(one, &host) {
                links.files.extend(soname_link(&library, &at, &image));
                let (name, machine) = (library.soname().to_owned(), library.elf.machine);
                mounted.push(Mounted { name, path: at, machine });
                let plain = Wanted::new(library, false, one.reason.clone());
                wanted.push(Wanted { mounted: true, ..plain });
            }
        }
        let none = wanted.is_empty() && config.fabric.value == Fabric::None;
        if let (false, libc @ (Libc::Musl | Libc::None)) = (none, image.libc()) {
            let text = format!("the image has {libc}: no library of the host can be used in it");
            added.warnings.push(text);
            wanted.clear();
        }
        // None of them is required, so this cannot fail.
        let devices = inject(&host, &image, wanted).unwrap_or_default();
        added.warnings.extend(devices.warnings.iter().cloned());
        injection.merge(devices);
        let mut all = injection.contribution(&image, &mounted, library_path.as_deref());
        let replaced = injection.taken.iter().filter(|taken| !taken.replaces.is_empty()).count();
        all.reason = format!(
            "libraries of the host: {} taken, {replaced} of the image's replaced",
            injection.taken.len()
        );
        added.contributions.extend([links, all]);
        Ok(())
    }
}

impl Engine {
    /// The host's network libraries, and its devices where /dev is the
    /// container's own.
    fn fabric(
        &self,
        request: &RunRequest,
        host: &Libraries<'_>,
        image: &Libraries<'_>,
        injection: &mut Injection,
        added: &mut Added,
    ) -> Result<()> {
        let mut wanted = host::fabric::wanted(host, image);
        // What an MPI of the host brings is there already, with its plugins.
        wanted.retain(|one| injection.taken.iter().all(|t| t.name != one.library.soname()));
        // None of them is required, so this cannot fail.
        let (libraries, beside) = with_companions(host, image, wanted).unwrap_or_default();
        added.warnings.extend(libraries.warnings.iter().cloned());
        injection.merge(libraries);
        let mut all = Contribution::new(Rank::Host, "--fabric=host: the host's network");
        all.mounts = beside.mounts;
        all.env = beside.env;
        if request.isolation.contain {
            for path in host::fabric::devices(host) {
                let source = mount_source(&path, "--fabric=host")?;
                let (target, flags) = (path, MountFlags::default());
                all.mounts.push(MountSpec { source, target, flags, optional: true });
            }
        }
        added.contributions.push(all);
        Ok(())
    }
}

/// Libraries that come before the image's, and those that it lacks.
fn device_libraries(edits: &Edits, host: &Libraries<'_>, image: &Libraries<'_>) -> Vec<Wanted> {
    let lacked = edits.fallbacks.iter().filter(|one| image.find(&one.soname).is_none());
    let all = edits.libraries.iter().chain(lacked);
    let want = |one: &HostLibrary| {
        let library = host.at(&one.path)?;
        let other = (library.soname() != one.soname).then(|| one.soname.clone());
        let plain = Wanted::new(library, false, edits.reason.clone());
        Some(Wanted { aliases: other.into_iter().collect(), ..plain })
    };
    all.filter_map(want).collect()
}

/// Libraries that are mounted in directories of the linker, and where.
fn in_folders(edits: &Edits, host: &Libraries<'_>) -> Vec<(Library, PathBuf)> {
    let inside = |mount: &&MountSpec| {
        let dir = mount.target.parent();
        dir.is_some_and(|dir| edits.cache_folders.iter().any(|folder| folder == dir))
    };
    let library = |mount: &MountSpec| match &mount.source {
        MountSource::File(path) => Some((host.at(path)?, mount.target.clone())),
        _ => None,
    };
    edits.mounts.iter().filter(inside).filter_map(library).collect()
}

/// The link that ldconfig(8) would make for a library.
fn soname_link(library: &Library, at: &Path, image: &Libraries<'_>) -> Option<FileSpec> {
    let path = at.with_file_name(library.soname());
    let name = at.file_name().filter(|_| path != at && !image.exists(&path))?;
    Some(FileSpec { path, kind: SkeletonKind::Symlink(name.into()), mode: 0o777 })
}

/// `LD_LIBRARY_PATH` as the container's programs will have it.
fn library_path(request: &RunRequest) -> Option<String> {
    let user = request.env.iter().rev().find(|(name, _)| name == "LD_LIBRARY_PATH");
    let user = user.and_then(|(_, value)| value.to_str()).map(str::to_owned);
    user.or_else(|| image_library_path(&request.config))
}

fn image_library_path(config: &ImageConfig) -> Option<String> {
    let pair = |pair: &String| pair.strip_prefix("LD_LIBRARY_PATH=").map(str::to_owned);
    config.env.iter().filter_map(pair).next_back()
}

fn host_libraries<'a>(
    config: &Config,
    tree: &'a DirectoryTree,
    env: &[(OsString, OsString)],
) -> Libraries<'a> {
    let get =
        |name: &str| env.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.to_str());
    let configured = &config.mpi_path.value;
    let search = mpi::host_search(tree, configured, get("LD_LIBRARY_PATH"), get("PATH"));
    Libraries::new(tree, search)
}

fn image_libraries<'a>(tree: &'a dyn SearchTree, library_path: Option<&str>) -> Libraries<'a> {
    Libraries::new(tree, mpi::image_search(tree, library_path))
}

impl Engine {
    /// Compares the MPI of this host with that of an image: whether the host's
    /// could stand in for it, and what would be taken.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn check_mpi(&self, resolved: &Resolved, policy: Option<Policy>) -> Result<mpi::Check> {
        let policy = policy.unwrap_or(self.config().mpi_policy.value);
        let env: Vec<_> = std::env::vars_os().collect();
        let open = DirectoryTree::open(Path::new("/")).map_err(Error::HostRoot)?;
        let host = host_libraries(self.config(), &open, &env);
        let library_path = image_library_path(&resolved.config);
        self.with_tree(resolved, |tree| {
            let image = image_libraries(tree, library_path.as_deref());
            mpi::check(&host, &image, &self.config().mpi_path.value, policy)
        })
    }
}
