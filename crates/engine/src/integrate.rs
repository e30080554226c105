//! What the host adds to a container: the launcher's wires, its MPI, its
//! libraries.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use host::DirectoryTree;
use host::companions::with_companions;
use host::edits::{Edits, HostLibrary};
use host::gpu::nvidia;
use host::hooks::Hook;
use host::inject::{self, Injection, Mounted, Wanted};
use host::launcher;
use host::libraries::{Libc, Libraries, Library, search_path};
use host::mpi::{self, Policy};
use plan::{
    Contribution, FileSpec, HostFacts, MountFlags, MountSource, MountSpec, OtherNodes, Rank,
    Remote, RootSource, RunRequest, SearchTree, SkeletonKind, Writable,
};
use serde::Serialize;
use types::ImageConfig;

use crate::kept::{Answer, Place};
use crate::{
    Config, Devices, Engine, Error, Resolved, Result, devices, mount_source, share, unpack,
};

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

types::words!(MpiMode { "auto" => Auto, "host" => Host, "container" => Container, "none" => None });

/// Whose network libraries a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fabric {
    /// The image's.
    #[default]
    None,
    /// The host's, in place of those that the image has.
    Host,
}

types::words!(Fabric { "none" => None, "host" => Host });

/// Leaves out the namespaces in which the ranks of a node could not reach each
/// other's processes and memory; what to say about it.
pub(crate) fn join_ranks(request: &mut RunRequest) -> Option<String> {
    let isolation = &mut request.isolation;
    // A supervisor needs a PID namespace.
    let apart = request.root_emulation.supervised();
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
    /// How a launcher inside reaches other nodes.
    pub(crate) remote: Option<Remote>,
    pub(crate) warnings: Vec<String>,
}

impl Engine {
    /// How a launcher of the image reaches the other nodes of the job.
    fn remote(&self, request: &RunRequest, facts: &HostFacts) -> Result<Option<Remote>> {
        let OtherNodes::By(again) = &request.other_nodes else { return Ok(None) };
        // Without the host's network nobody is reached.
        if request.isolation.no_net {
            return Ok(None);
        }
        let hosts = match variable(&facts.env, "PBS_NODEFILE") {
            Some(path) => {
                let failed = |source| Error::NodeFile { path: path.into(), source };
                let text = std::fs::read_to_string(path).map_err(failed)?;
                text.split_whitespace().map(str::to_owned).collect()
            }
            None => self.config().mpi_hosts.value.clone(),
        };
        let program: Vec<String> =
            self.config().mpi_shell.value.split_whitespace().map(str::to_owned).collect();
        let Some(shell) = host::remote::find(&facts.env, &hosts, &program) else {
            return Ok(None);
        };
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Error::Random(e.into()))?;
        let socket = format!("sampan-{:032x}", u128::from_ne_bytes(random));
        Ok(Some(Remote { shell, socket, again: again.clone() }))
    }

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
        let contained = request.isolation.contain;
        match mode {
            MpiMode::None => {}
            MpiMode::Container => {
                added.contributions.push(launcher::without(&facts.env));
                added.remote = self.remote(request, facts)?;
                if added.remote.is_some() || request.other_nodes == OtherNodes::Proxy {
                    let sampan = std::env::current_exe().map_err(Error::Program)?;
                    added.contributions.push(host::remote::agent(&sampan));
                }
                let remote = added.remote.iter();
                let remote = remote.map(|remote| host::remote::contribution(&facts.env, remote));
                added.contributions.extend(remote);
            }
            MpiMode::Auto | MpiMode::Host => {
                let node = launcher::Node::probe(&facts.env);
                added.contributions = launcher::contribution(&facts.env, &node, contained);
            }
        }
        if mode != MpiMode::None && added.remote.is_none() {
            added.contributions.extend(launcher::job(&facts.env, contained));
        }
        let edits = self.device_edits(devices, &devices::host_cache)?;
        for one in &edits {
            added.contributions.push(Self::shown(one, request, &mut added.warnings)?);
            added.hooks.extend(one.hooks.iter().cloned());
        }
        let wants = |one: &Edits| {
            let listed = [&one.libraries, &one.fallbacks].iter().all(|list| list.is_empty());
            !(listed && one.cache_folders.is_empty() && one.cuda_compat.is_none())
        };
        let fabric = self.config().fabric.value == Fabric::Host;
        if mode == MpiMode::Host || fabric || edits.iter().any(wants) {
            let open = DirectoryTree::open(Path::new("/")).map_err(Error::HostRoot)?;
            let find = |host: &dyn SearchTree| self.libraries(request, facts, tree, host, &edits);
            let answer = match self.kept(request, facts, &edits) {
                Some(place) => place.once(&open, find)?,
                None => find(&open)?,
            };
            added.contributions.extend(answer.contributions);
            added.warnings.extend(answer.warnings);
        }
        Ok(added)
    }

    /// Where the answer of [`Engine::libraries`] is kept; None for an image whose
    /// files may change.
    fn kept(&self, request: &RunRequest, facts: &HostFacts, edits: &[Edits]) -> Option<Place> {
        let RootSource::Squashfs { parts } = &request.root else { return None };
        let config = self.config();
        let node = rustix::system::uname();
        let questions = Questions {
            version: env!("CARGO_PKG_VERSION"),
            node: node.nodename().to_bytes(),
            image: &unpack::files_key(parts).ok()?,
            mpi: (config.mpi.value == MpiMode::Host).then_some(config.mpi_policy.value),
            mpi_path: &config.mpi_path.value,
            fabric: config.fabric.value == Fabric::Host,
            contained: request.isolation.contain,
            library_path: library_path(request),
            env: ["LD_LIBRARY_PATH", "PATH", "FI_PROVIDER_PATH", "UCX_MODULE_DIR"]
                .map(|name| variable(&facts.env, name)),
            edits,
        };
        let dir = share::directory(config);
        let dir = dir.inspect_err(|error| tracing::debug!("no answer is kept: {error}")).ok()?;
        Place::new(&dir, &questions)
    }

    /// The libraries of MPI and devices, which share one cache of the linker.
    /// Whatever this depends on is a part of [`Questions`], or of `host`.
    fn libraries(
        &self,
        request: &RunRequest,
        facts: &HostFacts,
        tree: &dyn SearchTree,
        host: &dyn SearchTree,
        edits: &[Edits],
    ) -> Result<Answer> {
        let mut added = Answer::default();
        let config = self.config();
        let library_path = library_path(request);
        let host = host_libraries(config, host, &facts.env);
        let image = image_libraries(tree, library_path.as_deref());
        let mut injection = Injection::default();
        if config.mpi.value == MpiMode::Host {
            let (path, policy) = (&config.mpi_path.value, config.mpi_policy.value);
            let check = mpi::check(&host, &image, &facts.env, path, policy);
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
            self.fabric(request, facts, [&host, &image], &mut injection, &mut added)?;
        }
        let in_place = request.writable == Writable::InPlace;
        let driver = edits.iter().find_map(|one| one.cuda_compat.as_deref());
        let mut mounted = driver.map(|driver| nvidia::compat(driver, &image)).unwrap_or_default();
        let newer: Vec<String> = mounted.iter().map(|library| library.name.clone()).collect();
        let mut links = Contribution::new(Rank::Host, "names of mounted libraries");
        let mut wanted = Vec::new();
        for one in edits {
            wanted.extend(device_libraries(one, &host, &image));
            for (library, at) in in_folders(one, &host) {
                match soname_link(&library, &at, &image) {
                    Some(_) if in_place => links.mounts.push(in_directory(&library)),
                    link => links.files.extend(link),
                }
                let (name, machine) = (library.soname().to_owned(), library.elf.machine);
                if newer.contains(&name) {
                    continue;
                }
                mounted.push(Mounted { name, path: at, machine });
                let plain = Wanted::new(library, false, one.reason.clone());
                wanted.push(Wanted { mounted: true, ..plain });
            }
        }
        wanted.retain(|one| one.mounted || newer.iter().all(|name| name != one.library.soname()));
        let none = wanted.is_empty() && config.fabric.value == Fabric::None;
        if let (false, libc @ (Libc::Musl | Libc::None)) = (none, image.libc()) {
            let text = format!("the image has {libc}: no library of the host can be used in it");
            added.warnings.push(text);
            wanted.clear();
        }
        // None of them is required, so this cannot fail.
        let devices = inject::inject(&host, &image, &wanted).unwrap_or_default();
        added.warnings.extend(devices.warnings.iter().cloned());
        injection.merge(devices);
        let mut all = injection.contribution(&image, &mounted, library_path.as_deref(), in_place);
        let replaced = injection.taken.iter().filter(|taken| !taken.replaces.is_empty()).count();
        all.reason = format!(
            "libraries of the host: {} taken, {replaced} of the image's replaced",
            injection.taken.len()
        );
        added.contributions.extend([links, all]);
        Ok(added)
    }
}

/// What the answer about libraries depends on, beside the host's files.
#[derive(Serialize)]
struct Questions<'a> {
    version: &'a str,
    node: &'a [u8],
    image: &'a str,
    mpi: Option<Policy>,
    mpi_path: &'a [PathBuf],
    fabric: bool,
    contained: bool,
    library_path: Option<String>,
    env: [Option<&'a str>; 4],
    edits: &'a [Edits],
}

impl Engine {
    /// The host's network libraries, and its devices where /dev is the
    /// container's own.
    fn fabric(
        &self,
        request: &RunRequest,
        facts: &HostFacts,
        [host, image]: [&Libraries<'_>; 2],
        injection: &mut Injection,
        added: &mut Answer,
    ) -> Result<()> {
        let mut wanted = host::fabric::wanted(host, image);
        // What an MPI of the host brings is there already, with its plugins.
        wanted.retain(|one| injection.taken.iter().all(|t| t.name != one.library.soname()));
        // None of them is required, so this cannot fail.
        let (libraries, beside) =
            with_companions(host, image, &facts.env, wanted).unwrap_or_default();
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

/// The same for an image that is written in place: the library once more, where the
/// search path leads.
fn in_directory(library: &Library) -> MountSpec {
    let target = Path::new(inject::DIR).join(library.soname());
    let flags = MountFlags { read_only: true, recursive: false };
    MountSpec { source: MountSource::File(library.real.clone()), target, flags, optional: false }
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

fn variable<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a str> {
    env.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.to_str())
}

fn host_libraries<'a>(
    config: &Config,
    tree: &'a dyn SearchTree,
    env: &[(OsString, OsString)],
) -> Libraries<'a> {
    let (library_path, path) = (variable(env, "LD_LIBRARY_PATH"), variable(env, "PATH"));
    let search = mpi::host_search(tree, &config.mpi_path.value, library_path, path);
    Libraries::new(tree, search)
}

fn image_libraries<'a>(tree: &'a dyn SearchTree, library_path: Option<&str>) -> Libraries<'a> {
    let search = library_path.map(search_path).unwrap_or_default();
    Libraries::new(tree, search).with_apart(mpi::packages(tree))
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
            mpi::check(&host, &image, &env, &self.config().mpi_path.value, policy)
        })
    }
}

#[cfg(test)]
mod tests;
