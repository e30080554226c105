//! From a request to a running container.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use host::DirectoryTree;
use host::hooks::Situation;
use plan::{
    Contribution, ImagePart, MountSource, MountSpec, Plan, Rank, RootEmulation, RootSource,
    RunRequest, SearchTree, Stage, Upper,
};
use runtime::{ImageFile, Keeper, Share};
use store::{ImageId, Lease, Store};

use crate::{
    Devices, Engine, Error, Origin, Resolved, Result, bundle, doctor, integrate, node_cache,
    policy, precreate, share, unpack,
};

/// A container, decided but not started.
pub struct Container {
    pub(crate) plan: Plan,
    pub(crate) image: Option<ImageFile>,
    pub(crate) keeper: Option<Box<dyn Keeper>>,
    pub(crate) share: Option<Share>,
    /// The scratch directory, for what hooks are told.
    pub(crate) bundles: PathBuf,
    /// What neither the image nor the user has set in the environment; None unsets.
    pub(crate) added_env: Vec<(String, Option<String>)>,
}

/// What to mount of a path on the host: a directory, or anything else.
///
/// # Errors
/// When there is nothing, or it may not be looked at; `origin` says who asked.
pub fn mount_source(path: &Path, origin: &str) -> Result<MountSource> {
    let meta = std::fs::metadata(path).map_err(|source| Error::MountSource {
        path: path.to_owned(),
        origin: origin.to_owned(),
        source,
    })?;
    let path = path.to_owned();
    Ok(if meta.is_dir() { MountSource::Directory(path) } else { MountSource::File(path) })
}

impl Engine {
    /// Decides a container: looks at the host and the image, starts nothing.
    /// The variables `unset` are not inside, whether they are the caller's or
    /// the image's.
    ///
    /// # Errors
    /// When the image cannot be opened, the request contradicts itself or the
    /// image, or a device is not there.
    pub fn prepare(
        &self,
        request: RunRequest,
        resolved: &Resolved,
        devices: &Devices,
        unset: &[String],
    ) -> Result<Container> {
        self.decide(request, resolved, Some(devices), unset)
    }

    /// As [`Engine::prepare`], without what the host's integrations and the
    /// configuration's binds add: a build must not depend on where it is done.
    ///
    /// # Errors
    /// As [`Engine::prepare`].
    pub fn prepare_apart(&self, request: RunRequest, resolved: &Resolved) -> Result<Container> {
        self.decide(request, resolved, None, &[])
    }

    fn decide(
        &self,
        mut request: RunRequest,
        resolved: &Resolved,
        wanted: Option<&Devices>,
        unset: &[String],
    ) -> Result<Container> {
        self.check_architecture(resolved)?;
        let mut facts = host::facts();
        if request.root_emulation == RootEmulation::Subid && !facts.real_root {
            facts.sub_ids = Some(host::subid::find(&facts)?);
        }
        facts.env.retain(|(name, _)| !unset.iter().any(|one| name == one.as_str()));
        request.config.env.retain(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !unset.iter().any(|one| one == name)
        });
        let mut warnings = Vec::new();
        let (emulation, said) = emulation_here(request.root_emulation);
        request.root_emulation = emulation;
        warnings.extend(said);
        let copied = wanted.is_some() && self.copied(&mut request, resolved, &mut warnings);
        if let (RootSource::Squashfs { parts }, false) = (&request.root, facts.real_root)
            && let Some(reason) = no_fuse()
        {
            if facts.sub_ids.is_some() {
                return Err(Error::SubIdsWithoutFuse(reason));
            }
            let key = resolved.stored.as_ref().map(|image| image.id.hex().to_owned());
            let scratch = &self.config().scratch.value;
            let dir = unpack::unpacked(parts, key, scratch, self.config().size_limit.value)?;
            warnings.push(format!(
                "/dev/fuse cannot be used ({reason}): the image was unpacked into {}",
                dir.display()
            ));
            request.root = RootSource::Directory { path: dir };
        }
        let ranks = wanted.is_some() && !host::launcher::detect(&facts.env).pmi.is_empty();
        // An instance is none, whatever starts it.
        if ranks && request.instance.is_none() {
            warnings.extend(integrate::join_ranks(&mut request));
        }
        let mut contributions = Vec::new();
        let (tree, image) = open_tree(&request.root)?;
        let (mut hooks, mut remote) = (Vec::new(), None);
        if let Some(wanted) = wanted {
            let config = self.config();
            contributions = self.configured_binds(&mut warnings);
            warnings.extend(policy::leave_out(config, &mut request, &facts));
            let added = self.integrate(&request, &facts, &*tree, wanted)?;
            policy::check_binds(config, &request, &facts, &contributions, &added.contributions)?;
            contributions.extend(policy::forced_binds(config, &request, &mut warnings)?);
            contributions.extend(added.contributions);
            warnings.extend(added.warnings);
            (hooks, remote) = (added.hooks, added.remote);
        }
        let make = |more: Option<Contribution>| {
            let all = contributions.iter().cloned().chain(more).collect();
            plan::build(&request, &facts, &*tree, all)
        };
        let mut plan = make(None)?;
        if let (Some(ids), Some(image)) = (&plan.sub_ids, &image) {
            let (users, groups) = ids.counts();
            let (largest, count) = (image.largest_id()?, users.max(groups));
            if u64::from(largest) >= count {
                let name = resolved.name.clone();
                return Err(Error::FewSubIds { name, largest, count });
            }
        }
        if wanted.is_some() {
            let command = plan.process.argv.first().map(|word| word.to_string_lossy().into_owned());
            hooks.extend(self.site_hooks(&Situation {
                command: &command.unwrap_or_default(),
                annotations: &plan.annotations,
                has_bind_mounts: !request.mounts.is_empty(),
            })?);
        }
        let changes = if request.dry_run { None } else { precreate::run(&hooks, &plan)? };
        if let Some(changes) = changes {
            if let Some(mounts) = changes.contribution() {
                let more = std::slice::from_ref(&mounts);
                policy::check_binds(self.config(), &request, &facts, &[], more)?;
                plan = make(Some(mounts))?;
            }
            changes.apply(&mut plan);
        }
        plan.warnings.splice(0..0, warnings);
        (plan.hooks, plan.remote) = (hooks, remote);
        // Ranks that can neither write to what is their own nor mount cannot tell whether
        // they are one.
        let alike = ranks && !plan.keeps_writes() && plan.id_map.uid != 0;
        plan.one = (request.one || alike) && plan.may_be_one();
        if request.one && !plan.one {
            if let Upper::Directory { path, .. } = &plan.rootfs.upper {
                return Err(Error::NotOne { path: path.clone() });
            }
            if plan.keeps_writes() {
                plan.warnings.push(ALONE.to_owned());
            }
        }
        let stored = resolved.stored.as_ref();
        let keeper = match (&resolved.root, &image, self.store()) {
            (RootSource::Squashfs { parts }, Some(_), Ok(store)) => {
                // A copy on this node needs no lease in the store.
                let leased = stored.filter(|stored| stored.writable && !copied);
                let profiles = match (wanted, stored) {
                    // Each step of a build starts once.
                    (None, _) => None,
                    (_, Some(stored)) => Some(stored.id.hex().to_owned()),
                    (_, None) => Some(unpack::files_key(parts)?),
                };
                let (store, leased) = (store.clone(), leased.map(|stored| stored.id.clone()));
                let keeper = ImageKeeper { store, leased, lease: None, profiles };
                Some(Box::new(keeper) as Box<dyn Keeper>)
            }
            _ => None,
        };
        // Ranks need one user namespace, or their MPI cannot read each other's memory.
        let share = (image.is_some() || ranks || plan.one).then(|| {
            // Without one the container has a server of its own.
            let found = share::share(self.config(), &plan);
            found.inspect_err(|error| tracing::debug!("no shared server: {error}")).ok()
        });
        let share = share.flatten();
        let bundles = self.config().scratch.value.clone();
        let text = |(name, value): &(OsString, Option<OsString>)| {
            let text = |text: &OsString| text.to_string_lossy().into_owned();
            (text(name), value.as_ref().map(text))
        };
        let added_env = contributions.iter().flat_map(|one| &one.env).map(text).collect();
        Ok(Container { plan, image, keeper, share, bundles, added_env })
    }

    /// Has a container's image served from copies on this node, where the configuration
    /// says so; whether it is.
    fn copied(
        &self,
        request: &mut RunRequest,
        resolved: &Resolved,
        warnings: &mut Vec<String>,
    ) -> bool {
        let (config, stored) = (self.config(), resolved.stored.as_ref());
        let (Some(cache), RootSource::Squashfs { parts }) =
            (&config.node_cache.value, &resolved.root)
        else {
            return false;
        };
        let limit = config.node_cache_size.value;
        let copies = node_cache::copies(cache, limit, parts, stored, &doctor::is_local);
        let usable = |parts: Vec<ImagePart>| match ImageFile::open(&parts) {
            Ok(_) => Ok(Some(parts)),
            Err(e) => {
                node_cache::discard(cache, &parts);
                Err(io::Error::other(e))
            }
        };
        match copies.and_then(|parts| parts.map_or(Ok(None), usable)) {
            Ok(None) => false,
            Ok(Some(parts)) => {
                request.root = RootSource::Squashfs { parts };
                true
            }
            Err(e) => {
                warnings.push(format!("the image was not copied to this node: {e}"));
                false
            }
        }
    }

    /// Does something with the tree of an image.
    pub(crate) fn with_tree<T>(
        &self,
        resolved: &Resolved,
        act: impl FnOnce(&dyn SearchTree) -> T,
    ) -> Result<T> {
        Ok(act(&*open_tree(&resolved.root)?.0))
    }

    /// The binds of the configuration. One that this host does not have is
    /// left out: a site's file serves many kinds of node.
    fn configured_binds(&self, warnings: &mut Vec<String>) -> Vec<Contribution> {
        let binds = &self.config().binds;
        let rank = match binds.origin {
            Origin::Default | Origin::File { .. } => Rank::Site,
            Origin::Environment { .. } | Origin::Flag { .. } => Rank::User,
        };
        let mut list = Vec::new();
        for bind in &binds.value {
            let reason = format!("binds ({})", binds.origin);
            let source = match mount_source(&bind.source, &reason) {
                Ok(source) => source,
                Err(error) => {
                    warnings.push(format!("{error}: left out"));
                    continue;
                }
            };
            let target = bind.target.clone().unwrap_or_else(|| bind.source.clone());
            let mounts = vec![MountSpec { source, target, flags: bind.flags, optional: true }];
            list.push(Contribution { mounts, ..Contribution::new(rank, &reason) });
        }
        list
    }
}

/// The tree of an image, and the image where it is in files.
fn open_tree(root: &RootSource) -> Result<(Box<dyn SearchTree>, Option<ImageFile>)> {
    Ok(match root {
        RootSource::Directory { path } => {
            let failed = |source| Error::OpenImage { path: path.clone(), source };
            (Box::new(DirectoryTree::open(path).map_err(failed)?), None)
        }
        RootSource::Squashfs { parts } => {
            let file = ImageFile::open(parts)?;
            (Box::new(file.tree()), Some(file))
        }
    })
}

/// What is said where `--sharens` cannot be, and changes something; a task of Slurm has it
/// from the plugin.
const ALONE: &str = "what is written is seen by one process alone, not by all that are started \
                     together (--sharens): the container has hooks, or namespaces beside that of \
                     its mounts";

/// Major and minor number of `/dev/fuse` (devices.txt of the kernel).
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// Why `/dev/fuse` cannot be opened; None when it can.
fn no_fuse() -> Option<io::Error> {
    let is_fuse = |device| (rustix::fs::major(device), rustix::fs::minor(device)) == FUSE_DEVICE;
    let open = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match open.and_then(|file| file.metadata()) {
        Ok(meta) if meta.file_type().is_char_device() && is_fuse(meta.rdev()) => None,
        Ok(_) => Some(io::Error::other("it is another file")),
        Err(error) => Some(error),
    }
}

impl Container {
    /// What will be done.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Becomes the container's process. Returns only when that failed, or,
    /// with a PID namespace, with the process's exit code (128+n for signal
    /// n). Must be called while the process has one thread.
    ///
    /// # Errors
    /// The step that failed; the process is then to report and end.
    pub fn launch(self) -> Result<i32> {
        let Self { plan, image, keeper, share, bundles, added_env: _ } = self;
        let told = plan.hooks.iter().any(|hook| hook.stage != Stage::Precreate);
        let bundle = told.then(|| bundle::write(&plan, &bundles)).transpose()?;
        let (image, share) = (image.as_ref(), share.as_ref());
        Ok(runtime::launch(&plan, image, keeper, share, bundle.as_deref())?)
    }
}

/// Keeps an image from being removed while it is served, and what is noted about
/// its starts. Lives in the server, which lives exactly as long as the
/// container's last process.
struct ImageKeeper {
    store: Store,
    /// What could be removed meanwhile.
    leased: Option<ImageId>,
    lease: Option<Lease>,
    /// The image's name among the profiles, where they are wanted.
    profiles: Option<String>,
}

impl Keeper for ImageKeeper {
    fn begin(&mut self) {
        // Without a lease the open file still serves a local file system; the
        // server has nobody to tell.
        self.lease = self.leased.as_ref().and_then(|image| self.store.lease(image).ok());
    }

    fn tick(&mut self) {
        if self.leased.is_none() {
            return;
        }
        if self.lease.as_ref().is_none_or(|lease| lease.touch().is_err()) {
            self.begin();
        }
    }

    fn end(&mut self) {
        self.lease = None;
    }

    fn profile(&self, name: &str) -> Option<Vec<u8>> {
        self.store.profile(self.profiles.as_ref()?, name)
    }

    fn keep_profile(&self, name: &str, bytes: &[u8]) {
        // A store that cannot be written has starts as slow as before.
        let image = self.profiles.as_ref();
        let _ = image.map(|image| self.store.keep_profile(image, name, bytes));
    }
}

/// The way in which root is emulated here for who wants this one, and what to say about
/// it where it is another.
#[must_use]
pub fn emulation_here(mut wanted: RootEmulation) -> (RootEmulation, Option<String>) {
    let said = as_it_can(&mut wanted, runtime::CONSISTENT);
    (wanted, said)
}

/// Leaves root to the fast mode where the consistent one is not known; what to say
/// about it.
fn as_it_can(emulation: &mut RootEmulation, consistent: bool) -> Option<String> {
    if *emulation != RootEmulation::Consistent || consistent {
        return None;
    }
    *emulation = RootEmulation::Fast;
    let arch = std::env::consts::ARCH;
    Some(format!(
        "--root-emulation=consistent is not known on {arch}: fast is taken, and owners are lost"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn engine(vars: &'static [(&'static str, &'static str)]) -> Engine {
        let get = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        Engine::new(Config::load_from(&get, &[]).unwrap())
    }

    #[test]
    fn a_mode_that_is_not_known_is_told_of() {
        let mut mode = RootEmulation::Consistent;
        assert!(as_it_can(&mut mode, true).is_none() && mode == RootEmulation::Consistent);
        let said = as_it_can(&mut mode, false).unwrap();
        assert!(said.contains("owners are lost") && mode == RootEmulation::Fast, "{said}");
        assert!(as_it_can(&mut mode, false).is_none());
    }

    #[test]
    fn configured_binds_that_are_not_there_are_left_out_aloud() {
        let engine = engine(&[("SAMPAN_BINDS", "/etc/passwd:/p:ro,/no/such/dir")]);
        let mut warnings = Vec::new();
        let list = engine.configured_binds(&mut warnings);
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].rank, Rank::User);
        assert_eq!(list[0].mounts[0].target, Path::new("/p"));
        assert!(warnings[0].contains("/no/such/dir") && warnings[0].contains("SAMPAN_BINDS"));
    }
}
