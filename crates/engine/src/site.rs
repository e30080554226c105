//! What `site init` finds on a host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use host::DirectoryTree;
use host::gpu::Vendor;
use host::libraries::Libraries;
use host::mpi;
use plan::{EntryKind, SearchTree, TreeError, resolve};

use crate::{Engine, Resolved, Result, devices};

/// File systems that many nodes share, by their names in /proc/mounts.
const SHARED: [&str; 10] =
    ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "cephfs", "ceph", "afs", "panfs", "wekafs"];
/// File systems of a disk of the node.
const LOCAL: [&str; 4] = ["ext4", "xfs", "btrfs", "zfs"];
/// Where sites mount such a disk.
const SCRATCH: [&str; 7] = [
    "/local/scratch",
    "/local_scratch",
    "/localscratch",
    "/scratch/local",
    "/local",
    "/nvme",
    "/mnt/nvme",
];

/// What a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteFacts {
    /// Mounts that nodes share, with the kind of their file system.
    pub shared: Vec<(PathBuf, String)>,
    /// A disk of the node.
    pub scratch: Option<PathBuf>,
    /// MPIs, in words.
    pub mpi: Vec<String>,
    /// GPUs, in words.
    pub gpu: Option<String>,
    /// What else should be known.
    pub notes: Vec<String>,
}

impl SiteFacts {
    /// Looks at this host.
    #[must_use]
    pub fn probe() -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let (shared, scratch) = disks(&mounts);
        let mut facts = Self { shared, scratch, ..Self::default() };
        if let Ok(tree) = DirectoryTree::open(Path::new("/")) {
            let get = |name: &str| std::env::var(name).ok();
            let (libraries, path) = (get("LD_LIBRARY_PATH"), get("PATH"));
            let search = mpi::host_search(&tree, &[], libraries.as_deref(), path.as_deref());
            let found = mpi::discover(&Libraries::new(&tree, search), &[]);
            facts.mpi = found.iter().map(ToString::to_string).collect();
        }
        let vars = |name: &str| std::env::var_os(name);
        let gpus = [Vendor::Nvidia, Vendor::Amd]
            .into_iter()
            .filter_map(|vendor| vendor.discover(Path::new("/"), &devices::host_cache, &vars));
        let gpus: Vec<String> = gpus.map(|edits| edits.reason).collect();
        facts.gpu = (!gpus.is_empty()).then(|| gpus.join(", "));
        if Path::new("/etc/slurm/slurm.conf").exists() {
            facts.notes.push("Slurm is here: docs/slurm.md says how to add the plugin.".to_owned());
        }
        if Path::new("/dev/infiniband").exists() {
            facts
                .notes
                .push("InfiniBand is here: containers see /dev/infiniband as it is.".to_owned());
        }
        facts
    }
}

/// What a table of mounts says of disks that are shared, and of one that is not.
fn disks(mounts: &str) -> (Vec<(PathBuf, String)>, Option<PathBuf>) {
    let lines = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_, at, kind) = (words.next()?, words.next()?, words.next()?);
        Some((PathBuf::from(at.replace("\\040", " ")), kind.to_owned()))
    });
    let all: Vec<(PathBuf, String)> = lines.collect();
    let is = |kinds: &[&str], kind: &str| kinds.contains(&kind);
    let system =
        |path: &Path| ["/", "/usr", "/boot", "/var", "/home"].iter().any(|p| path == Path::new(p));
    let shared = all.iter().filter(|(path, kind)| is(&SHARED, kind) && !system(path));
    let scratch = SCRATCH.iter().map(PathBuf::from);
    let scratch = scratch
        .into_iter()
        .find(|place| all.iter().any(|(path, kind)| path == place && is(&LOCAL, kind)));
    (shared.cloned().collect(), scratch)
}

/// A command on an image's PATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageCommand {
    /// Its name.
    pub name: String,
    /// Whether it lies in a directory of the system, as every image has them.
    pub system: bool,
}

/// The PATH of an image that names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Directories of the system.
const SYSTEM: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

impl Engine {
    /// The commands on an image's PATH, each once, in the order of names.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn commands(&self, resolved: &Resolved) -> Result<Vec<ImageCommand>> {
        let env = &resolved.config.env;
        let path = env.iter().rev().find_map(|pair| pair.strip_prefix("PATH="));
        let path = path.unwrap_or(DEFAULT_PATH).to_owned();
        Ok(self
            .with_tree(resolved, |tree| commands(tree, &path))?
            .map_err(plan::PlanError::from)?)
    }
}

fn commands(tree: &dyn SearchTree, path: &str) -> Result<Vec<ImageCommand>, TreeError> {
    let mut found = BTreeMap::new();
    for dir in path.split(':').filter(|dir| dir.starts_with('/')) {
        let (real, _) = resolve(tree, Path::new(dir))?;
        // /bin may be a link to /usr/bin, and an own directory lead to neither.
        let system = SYSTEM.iter().any(|one| real == Path::new(one) || dir == *one);
        for name in tree.names(&real)? {
            let Ok(name) = name.into_string() else { continue };
            let entry = match resolve(tree, &real.join(&name)) {
                Ok((_, entry)) => entry,
                // A link to itself is nobody's command.
                Err(TreeError::Loop(_)) => continue,
                Err(e) => return Err(e),
            };
            if entry.is_some_and(|e| e.kind == EntryKind::File && e.mode & 0o111 != 0) {
                found.entry(name).or_insert(system);
            }
        }
    }
    Ok(found.into_iter().map(|(name, system)| ImageCommand { name, system }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_and_local_disks_are_told_apart() {
        let mounts = "\
/dev/sda1 / ext4 rw 0 0
10.0.0.1@o2ib:/work /work lustre rw,flock 0 0
home:/home /home nfs4 rw 0 0
proj:/a /proj\\040x nfs rw 0 0
/dev/nvme0n1 /local xfs rw 0 0
broken
";
        let (shared, scratch) = disks(mounts);
        let shared: Vec<_> =
            shared.iter().map(|(path, kind)| (path.to_str().unwrap(), kind.as_str())).collect();
        assert_eq!(shared, [("/work", "lustre"), ("/proj x", "nfs")]);
        assert_eq!(scratch, Some("/local".into()));
    }
}
