//! From a request to a running container.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use host::DirectoryTree;
use host::hooks::Situation;
use plan::{Contribution, MountSource, MountSpec, Plan, Rank, RootSource, RunRequest, SearchTree};
use runtime::{ImageFile, Keeper, Share};
use store::{ImageId, Lease, Store};

use crate::{
    Devices, Engine, Error, Origin, Resolved, Result, bundle, integrate, node_cache, policy, share,
    unpack,
};

/// A container, decided but not started.
pub struct Container {
    plan: Plan,
    image: Option<ImageFile>,
    keeper: Option<Box<dyn Keeper>>,
    share: Option<Share>,
    /// The scratch directory, for what hooks are told.
    bundles: PathBuf,
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

    /// As [`Engine::prepare`], without what the host's integrations add: a
    /// build must not depend on where it is done.
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
        let mut facts = host::facts();
        facts.env.retain(|(name, _)| !unset.iter().any(|one| name == one.as_str()));
        request.config.env.retain(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !unset.iter().any(|one| one == name)
        });
        let mut warnings = Vec::new();
        let mut copied = false;
        if let (Some(cache), Some(image), Some(_)) =
            (&self.config().node_cache.value, &resolved.stored, wanted)
        {
            let limit = self.config().node_cache_size.value;
            match node_cache::copy(cache, limit, image) {
                Ok(path) => {
                    request.root = RootSource::squashfs(path, 0);
                    copied = true;
                }
                Err(e) => warnings.push(format!("the image was not copied to this node: {e}")),
            }
        }
        if let (RootSource::Squashfs { parts }, false) = (&request.root, facts.real_root)
            && let Some(reason) = no_fuse()
        {
            let key = resolved.stored.as_ref().map(|image| image.id.hex().to_owned());
            let scratch = &self.config().scratch.value;
            let dir = unpack::unpacked(parts, key, scratch)?;
            warnings.push(format!(
                "/dev/fuse cannot be used ({reason}): the image was unpacked into {}",
                dir.display()
            ));
            request.root = RootSource::Directory { path: dir };
        }
        let ranks = wanted.is_some() && !host::launcher::detect(&facts.env).pmi.is_empty();
        if ranks {
            warnings.extend(integrate::join_ranks(&mut request));
        }
        let mut contributions = self.configured_binds(&mut warnings);
        if wanted.is_some() {
            policy::check_binds(self.config(), &request)?;
            contributions.extend(policy::forced_binds(self.config(), &request, &mut warnings)?);
        }
        let mut hooks = Vec::new();
        let mut add = |tree: &dyn SearchTree| -> Result<Vec<Contribution>> {
            if let Some(wanted) = wanted {
                let added = self.integrate(&request, &facts, tree, wanted)?;
                contributions.extend(added.contributions);
                warnings.extend(added.warnings);
                hooks = added.hooks;
            }
            Ok(std::mem::take(&mut contributions))
        };
        let (mut plan, image) = match &request.root {
            RootSource::Directory { path } => {
                let failed = |source| Error::OpenImage { path: path.clone(), source };
                let tree = DirectoryTree::open(path).map_err(failed)?;
                (plan::build(&request, &facts, &tree, add(&tree)?)?, None)
            }
            RootSource::Squashfs { parts } => {
                let file = ImageFile::open(parts)?;
                let tree = file.tree();
                (plan::build(&request, &facts, &tree, add(&tree)?)?, Some(file))
            }
        };
        plan.warnings.splice(0..0, warnings);
        if wanted.is_some() {
            plan.hooks = hooks;
            let command = plan.process.argv.first().map(|word| word.to_string_lossy().into_owned());
            plan.hooks.extend(self.site_hooks(&Situation {
                command: &command.unwrap_or_default(),
                annotations: &plan.annotations,
                has_bind_mounts: !request.mounts.is_empty(),
            })?);
        }
        let keeper = match &resolved.stored {
            // A copy on this node needs no lease in the store.
            Some(stored) if stored.writable && image.is_some() && !copied => {
                let store = self.store()?.clone();
                let keeper = LeaseKeeper { store, image: stored.id.clone(), lease: None };
                Some(Box::new(keeper) as Box<dyn Keeper>)
            }
            _ => None,
        };
        // Ranks need one user namespace, or their MPI cannot read each other's memory.
        let share = (image.is_some() || ranks).then(|| {
            // Without one the container has a server of its own.
            let found = share::share(self.config(), &plan);
            found.inspect_err(|error| tracing::debug!("no shared server: {error}")).ok()
        });
        let share = share.flatten();
        let bundles = self.config().scratch.value.clone();
        Ok(Container { plan, image, keeper, share, bundles })
    }

    /// Does something with the tree of an image.
    pub(crate) fn with_tree<T>(
        &self,
        resolved: &Resolved,
        act: impl FnOnce(&dyn SearchTree) -> T,
    ) -> Result<T> {
        match &resolved.root {
            RootSource::Directory { path } => {
                let failed = |source| Error::OpenImage { path: path.clone(), source };
                Ok(act(&DirectoryTree::open(path).map_err(failed)?))
            }
            RootSource::Squashfs { parts } => Ok(act(&ImageFile::open(parts)?.tree())),
        }
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
        let Self { plan, image, keeper, share, bundles } = self;
        let bundle = match plan.hooks.is_empty() {
            true => None,
            false => Some(bundle::write(&plan, &bundles)?),
        };
        let (image, share) = (image.as_ref(), share.as_ref());
        Ok(runtime::launch(&plan, image, keeper, share, bundle.as_deref())?)
    }
}

/// Keeps an image from being removed while it is served. Lives in the server,
/// which lives exactly as long as the container's last process.
struct LeaseKeeper {
    store: Store,
    image: ImageId,
    lease: Option<Lease>,
}

impl Keeper for LeaseKeeper {
    fn begin(&mut self) {
        // Without a lease the open file still serves a local file system; the
        // server has nobody to tell.
        self.lease = self.store.lease(&self.image).ok();
    }

    fn tick(&mut self) {
        if self.lease.as_ref().is_none_or(|lease| lease.touch().is_err()) {
            self.begin();
        }
    }

    fn end(&mut self) {
        self.lease = None;
    }
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
