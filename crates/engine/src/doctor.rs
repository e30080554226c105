//! What this machine offers to containers, and how to mend what it lacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plan::KernelCaps;
use registry::{Client, ClientOptions, RetryPolicy};
use serde::Serialize;
use types::{ByteSize, RegistryRef};

use crate::scratch::{Takes, takes};
use crate::{Config, Error, Result, unpack};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Containers run; something is slower or missing.
    Warn,
    /// Containers do not run.
    Fail,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status: Status::Ok, detail: detail.into(), fix: None }
    }

    fn with(name: &str, status: Status, detail: impl Into<String>, fix: &str) -> Self {
        let fix = (!fix.is_empty()).then(|| fix.to_owned());
        Self { name: name.to_owned(), status, detail: detail.into(), fix }
    }
}

/// What a sysctl file says.
fn sysctl(name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name);
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Looks at everything. Must be called while the process has one thread.
pub(crate) fn doctor(config: &Config, registries: &[String]) -> Result<Vec<Check>> {
    let caps = runtime::probe().map_err(Error::Probe)?;
    let mut checks = vec![Check::ok("kernel", format!("Linux {}", caps.release))];
    checks.extend(kernel(&caps, &sysctl));
    checks.push(subordinate_ids());
    checks.extend(store(config));
    checks.push(scratch(&config.scratch.value));
    checks.extend(server_errors(&config.scratch.value));
    let var = |name: &str| std::env::var(name).ok();
    checks.push(parallel(&|name| var(name)));
    checks.push(scheduler(&|name| var(name)));
    checks.push(gpus());
    checks.extend(registries.iter().map(|name| reach(name, config.stall_timeout.value)));
    Ok(checks)
}

type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

fn kernel(caps: &KernelCaps, sysctl: Read<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.push(match &caps.user_namespace {
        None => Check::ok("user namespaces", "can be made"),
        Some(reason) => {
            Check::with("user namespaces", Status::Fail, reason, user_namespace_fix(sysctl))
        }
    });
    checks.push(match &caps.mount_namespace {
        None => Check::ok("mount namespaces", "can be made and mounted in"),
        Some(reason) => Check::with(
            "mount namespaces",
            Status::Fail,
            reason,
            "AppArmor or another security module forbids mounts in a user namespace: allow \
             `userns` and `mount` for the sampan binary in its profile",
        ),
    });
    checks.push(match &caps.fuse {
        None => Check::ok("FUSE", "/dev/fuse opens and mounts in a user namespace"),
        Some(reason) => {
            let fix = match Path::new("/dev/fuse").exists() {
                true => "make it usable by everyone: chmod 0666 /dev/fuse (Linux 4.18 or newer)",
                false => "load the module: modprobe fuse; until then image files are unpacked",
            };
            Check::with("FUSE", Status::Warn, reason, fix)
        }
    });
    checks.push(match &caps.overlay {
        None => Check::ok("overlay", "overlayfs mounts in a user namespace"),
        Some(reason) => Check::with(
            "overlay",
            Status::Fail,
            reason,
            "overlayfs in a user namespace needs Linux 5.11 or newer and the module overlay",
        ),
    });
    checks.push(match &caps.notification {
        None => Check::ok("root emulation", "seccomp notifies of system calls"),
        Some(reason) => Check::with(
            "root emulation",
            Status::Warn,
            reason,
            "builds need Linux 5.14 or newer and no seccomp listener around this process; \
             sampan build --root-emulation=fast does without, and loses owners",
        ),
    });
    checks
}

/// Subordinate ids, which one mode of building has and nobody needs.
fn subordinate_ids() -> Check {
    const NAME: &str = "subordinate ids";
    const WHAT_FOR: &str = "for --root-emulation=subid alone";
    let facts = host::facts();
    let ids = match host::subid::find(&facts) {
        _ if facts.real_root => return Check::ok(NAME, "not needed by root"),
        Ok(ids) => ids,
        // Nothing is amiss: the default does without.
        Err(error) => {
            return Check::with(NAME, Status::Ok, format!("{error}; {WHAT_FOR}"), error.hint());
        }
    };
    let count = |ranges: &[plan::IdRange]| ranges.iter().map(|range| u64::from(range.count)).sum();
    let (users, groups): (u64, u64) = (count(&ids.uids), count(&ids.gids));
    // The first one is the caller's own.
    let detail = format!("{} user and {} group ids, {WHAT_FOR}", users - 1, groups - 1);
    let lacking: Vec<String> = [&ids.newuidmap, &ids.newgidmap]
        .into_iter()
        .filter_map(|helper| host::subid::lacks_privilege(helper))
        .collect();
    if lacking.is_empty() {
        return Check::ok(NAME, detail);
    }
    Check::with(
        NAME,
        Status::Warn,
        format!("{detail}, but {}", lacking.join(", and ")),
        "as root: chmod u+s newuidmap newgidmap, or install the package again",
    )
}

/// The setting that forbids user namespaces, and how to change it.
fn user_namespace_fix(sysctl: Read<'_>) -> &'static str {
    let is = |name: &str, value: &str| sysctl(name).is_some_and(|found| found == value);
    if is("user/max_user_namespaces", "0") {
        "as root: sysctl -w user.max_user_namespaces=16384, and put it in /etc/sysctl.d"
    } else if is("kernel/unprivileged_userns_clone", "0") {
        "as root: sysctl -w kernel.unprivileged_userns_clone=1, and put it in /etc/sysctl.d"
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor restricts them: as root, give sampan a profile with `userns,`, or sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0"
    } else {
        "a container or a security module around this process forbids them: look at its seccomp \
         and SELinux rules, or ask whoever runs this machine"
    }
}

/// File systems by the number that statfs(2) gives, and whether they are
/// shared between machines.
const FILE_SYSTEMS: [(u64, &str, bool); 14] = [
    (0xEF53, "ext4", false),
    (0x5846_5342, "xfs", false),
    (0x9123_683E, "btrfs", false),
    (0x2FC1_2FC1, "zfs", false),
    (0x0102_1994, "tmpfs", false),
    (0x794C_7630, "overlayfs", false),
    (0x6969, "nfs", true),
    (0x0BD0_0BD0, "lustre", true),
    (0x4750_4653, "gpfs", true),
    (0x1983_0326, "beegfs", true),
    (0x00C3_6400, "ceph", true),
    (0xFF53_4D42, "cifs", true),
    (0x6573_5546, "fuse", true),
    (0xAAD7_AAEA, "panfs", true),
];

/// Whether a file is on a disk, or in the memory, of this machine alone. One that is
/// on a file system of an unknown kind is not.
pub(crate) fn is_local(path: &Path) -> bool {
    disk(path).is_some_and(|disk| disk.known && !disk.shared)
}

struct Disk {
    kind: String,
    /// Whether its kind is among [`FILE_SYSTEMS`].
    known: bool,
    shared: bool,
    memory: bool,
    free: u64,
    /// None where the file system does not count them.
    inodes: Option<u64>,
}

fn disk(path: &Path) -> Option<Disk> {
    let there = path.ancestors().find(|dir| dir.exists())?;
    let stat = rustix::fs::statfs(there).ok()?;
    let magic = stat.f_type as u64 & 0xFFFF_FFFF;
    let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic);
    let block = u64::try_from(stat.f_bsize).unwrap_or(1);
    Some(Disk {
        kind: known.map_or_else(|| format!("type {magic:#x}"), |(_, name, _)| (*name).to_owned()),
        known: known.is_some(),
        shared: known.is_some_and(|(.., shared)| *shared),
        memory: known.is_some_and(|(_, name, _)| *name == "tmpfs"),
        free: stat.f_bavail.saturating_mul(block),
        inodes: (stat.f_files > 0).then_some(stat.f_ffree),
    })
}

fn store(config: &Config) -> Vec<Check> {
    let Some(root) = &config.store.value else {
        let fix = "set SAMPAN_STORE to a directory of yours";
        return vec![Check::with("store", Status::Warn, "there is no home directory", fix)];
    };
    let mut checks = vec![store_disk(root)];
    for site in &config.site_stores.value {
        let name = format!("site store {}", site.display());
        checks.push(match site.join("format").is_file() {
            true => Check::ok(&name, "is a store"),
            false => Check::with(
                &name,
                Status::Warn,
                "is not there, or is no store",
                "correct site_stores (sampan config show says where it is set)",
            ),
        });
    }
    checks
}

fn store_disk(root: &Path) -> Check {
    let there = root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok();
    if !writable {
        return Check::with(
            "store",
            Status::Warn,
            format!("{} cannot be written", root.display()),
            "images can be run but not pulled: set SAMPAN_STORE to a directory of yours",
        );
    }
    let Some(disk) = disk(root) else {
        return Check::with(
            "store",
            Status::Warn,
            format!("{} cannot be read", root.display()),
            "",
        );
    };
    let mut detail = format!("{} on {}, {} free", root.display(), disk.kind, ByteSize(disk.free));
    if let Some(inodes) = disk.inodes {
        detail = format!("{detail}, {inodes} inodes free");
    }
    let few = disk.inodes.is_some_and(|inodes| inodes < 1000);
    let fix = if disk.free < 2 << 30 || few {
        "there is little space: sampan prune, or set SAMPAN_STORE to a larger file system"
    } else if disk.memory {
        "images here use memory and are lost at the next boot: set SAMPAN_STORE to a disk"
    } else {
        return Check::ok("store", detail);
    };
    Check::with("store", Status::Warn, detail, fix)
}

/// Whether it lies on a file system that overlayfs is known to write to.
pub(crate) fn holds_overlays(dir: &Path) -> bool {
    disk(dir).is_some_and(|disk| ["ext4", "xfs", "btrfs", "tmpfs"].contains(&&*disk.kind))
}

/// What is amiss with it for builds; None where nobody has been there yet.
fn for_builds(dir: &Path) -> Option<Check> {
    let own = unpack::own_directory(&unpack::cache(dir)).ok()?;
    let detail = match takes(&own) {
        Takes::All => return None,
        Takes::Nothing => "overlayfs cannot write to",
        Takes::Files => "a user may give no file extended attributes on",
    };
    Some(Check::with(
        "scratch",
        Status::Warn,
        format!("{detail} {}", dir.display()),
        "builds take another directory of this machine: set SAMPAN_SCRATCH to one on ext4, xfs \
         or tmpfs (of Linux 6.6 or newer)",
    ))
}

fn scratch(dir: &Path) -> Check {
    match disk(dir) {
        Some(disk) if disk.shared => Check::with(
            "scratch",
            Status::Warn,
            format!("{} is on {}, which is shared", dir.display(), disk.kind),
            "set SAMPAN_SCRATCH to a directory on a disk of this machine",
        ),
        Some(disk) => {
            if let Some(check) = for_builds(dir) {
                return check;
            }
            let free = ByteSize(disk.free);
            Check::ok("scratch", format!("{} on {}, {free} free", dir.display(), disk.kind))
        }
        None => Check::with(
            "scratch",
            Status::Warn,
            format!("{} is not there", dir.display()),
            "set SAMPAN_SCRATCH to a directory on a disk of this machine",
        ),
    }
}

/// The last thing that an image's server had to say; it has no terminal.
fn server_errors(scratch: &Path) -> Option<Check> {
    let log = unpack::cache(scratch).join(unpack::RUN).join(runtime::LOG);
    let text = std::fs::read(&log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().last()?;
    Some(Check::with(
        "image servers",
        Status::Warn,
        format!("{} errors in {}, the last: {last}", text.lines().count(), log.display()),
        "fetch or copy the image again; then remove the file",
    ))
}

fn parallel(var: Read<'_>) -> Check {
    if let Some(rank) = var("PMIX_RANK") {
        let server =
            ["PMIX_SERVER_URI41", "PMIX_SERVER_URI4", "PMIX_SERVER_URI3", "PMIX_SERVER_URI2"]
                .iter()
                .find(|name| var(name).is_some());
        return match server {
            Some(name) => Check::ok("PMI", format!("PMIx rank {rank}, server in {name}")),
            None => Check::with(
                "PMI",
                Status::Warn,
                format!("PMIx rank {rank}, but no PMIX_SERVER_URI"),
                "start the program by srun --mpi=pmix or mpirun",
            ),
        };
    }
    match (var("PMI_FD"), var("PMI_RANK")) {
        (Some(fd), _) => Check::ok("PMI", format!("PMI-1 on descriptor {fd}")),
        (None, Some(rank)) => Check::ok("PMI", format!("PMI-2 rank {rank}")),
        (None, None) => Check::ok("PMI", "this process is no rank of a parallel job"),
    }
}

fn scheduler(var: Read<'_>) -> Check {
    for (name, id, step) in [
        ("Slurm", "SLURM_JOB_ID", "SLURM_STEP_ID"),
        ("PBS", "PBS_JOBID", "PBS_TASKNUM"),
        ("LSF", "LSB_JOBID", "LSF_PM_TASKID"),
        ("Flux", "FLUX_JOB_ID", "FLUX_TASK_RANK"),
    ] {
        if let Some(job) = var(id) {
            let step = var(step).map(|step| format!(", step {step}")).unwrap_or_default();
            return Check::ok("scheduler", format!("{name} job {job}{step}"));
        }
    }
    Check::ok("scheduler", "this process is in no batch job")
}

fn gpus() -> Check {
    let nodes = |dir: &str, prefix: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let device = |name: &str| {
            name.strip_prefix(prefix).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
        };
        let named = |e: &fs::DirEntry| e.file_name().to_str().is_some_and(device);
        entries.filter(named).map(|e| e.path()).collect()
    };
    let mut found = Vec::new();
    let mut closed = Vec::new();
    for (name, list) in [
        ("NVIDIA", nodes("/dev", "nvidia")),
        ("AMD", if Path::new("/dev/kfd").exists() { vec!["/dev/kfd".into()] } else { vec![] }),
        ("DRI", nodes("/dev/dri", "renderD")),
    ] {
        if !list.is_empty() {
            found.push(format!("{} {name}", list.len()));
        }
        let open = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
        closed.extend(list.into_iter().filter(|path| rustix::fs::access(path, open).is_err()));
    }
    match (found.is_empty(), closed.first()) {
        (true, _) => Check::ok("GPU", "no device nodes"),
        (false, None) => Check::ok("GPU", format!("device nodes: {}", found.join(", "))),
        (false, Some(path)) => Check::with(
            "GPU",
            Status::Warn,
            format!("{} cannot be opened by this user", path.display()),
            "ask for the group that owns it (video or render), or ask the scheduler for a GPU",
        ),
    }
}

/// Whether a registry answers as one.
fn reach(name: &str, stall: Duration) -> Check {
    let label = format!("registry {name}");
    let reference: Result<RegistryRef, _> = format!("{name}/sampan/doctor").parse();
    let Ok(reference) = reference else {
        let fix = "expected host or host:port";
        return Check::with(&label, Status::Fail, "is no registry's name", fix);
    };
    let options = ClientOptions {
        stall_timeout: stall.min(Duration::from_secs(10)),
        retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
        ..ClientOptions::default()
    };
    use registry::Error as E;
    match Client::new(options).and_then(|client| client.manifest(&reference)) {
        Ok(_) | Err(E::NotFound { .. }) => Check::ok(&label, "answers"),
        Err(E::Unauthorized { .. } | E::Denied { .. }) => {
            Check::ok(&label, "answers, and wants a login for what is not public")
        }
        Err(error) => {
            let mut detail = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                detail = format!("{detail}: {source}");
            }
            Check::with(&label, Status::Fail, detail, &error.hint().unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_restriction_has_its_own_fix() {
        let refused = |name: &'static str, value: &'static str| {
            let caps = KernelCaps { user_namespace: Some("no".into()), ..KernelCaps::default() };
            let read = move |asked: &str| (asked == name).then(|| value.to_owned());
            kernel(&caps, &read).remove(0)
        };
        for (name, value, word) in [
            ("user/max_user_namespaces", "0", "max_user_namespaces"),
            ("kernel/unprivileged_userns_clone", "0", "unprivileged_userns_clone=1"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
            ("none", "", "security module"),
        ] {
            let check = refused(name, value);
            assert_eq!(check.status, Status::Fail);
            assert!(check.fix.unwrap().contains(word), "{name}");
        }
        let fine = kernel(&KernelCaps::default(), &|_| None);
        assert!(fine.iter().all(|check| check.status == Status::Ok), "{fine:?}");
    }

    #[test]
    fn jobs_and_ranks_are_recognised() {
        let pmix = |name: &str| (name == "PMIX_RANK").then(|| "3".to_owned());
        assert_eq!(parallel(&pmix).status, Status::Warn);
        let slurm = |name: &str| (name == "SLURM_JOB_ID").then(|| "42".to_owned());
        assert_eq!(scheduler(&slurm).detail, "Slurm job 42");
        assert_eq!(parallel(&|_| None).status, Status::Ok);
    }

    #[test]
    fn the_disk_of_a_path_that_is_not_there_yet() {
        let disk = disk(Path::new("/proc/no/such/place")).unwrap();
        assert_eq!((disk.kind.as_str(), disk.free), ("type 0x9fa0", 0));
    }
}
