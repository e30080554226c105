//! The mounts: system directories, the host's, and those contributed.

use std::path::{Path, PathBuf};

use crate::{
    Contribution, HomeChoice, HostFacts, MountFlags, MountSource, MountSpec, Op, PlanOp, Rank,
    RunRequest,
};

/// A node of the minimal `/dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNode(pub &'static str);

/// The nodes that the OCI runtime specification asks for (config-linux.md,
/// "Default Devices"), less the pseudo-terminals, which are a mount.
pub const MINIMAL_DEVICES: [DeviceNode; 6] = [
    DeviceNode("null"),
    DeviceNode("zero"),
    DeviceNode("full"),
    DeviceNode("random"),
    DeviceNode("urandom"),
    DeviceNode("tty"),
];

/// Files and directories that tell about the host (the set that Docker masks).
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];

/// Subtrees of /proc that change the host.
const PROTECTED: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Directories of an image that a working directory of the host never hides.
const SYSTEM: [&str; 11] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"];

fn op(op: Op, reason: &str) -> PlanOp {
    PlanOp { op, reason: reason.to_owned() }
}

fn bind(source: &str, target: &Path, recursive: bool) -> Op {
    Op::Bind {
        source: PathBuf::from(source),
        target: target.to_owned(),
        flags: MountFlags { read_only: false, recursive },
        create: false,
        optional: false,
    }
}

/// `/proc`, at its place in the image.
pub(crate) fn proc_ops(request: &RunRequest, target: &Path) -> Vec<PlanOp> {
    if request.isolation.pid {
        vec![op(Op::Proc { target: target.to_owned() }, "processes of the PID namespace")]
    } else {
        vec![op(bind("/proc", target, true), "processes of the host")]
    }
}

/// `/sys`, at its place in the image.
pub(crate) fn sys_ops(request: &RunRequest, target: &Path) -> Vec<PlanOp> {
    if request.isolation.no_net {
        vec![op(Op::Sysfs { target: target.to_owned() }, "devices, with the namespace's network")]
    } else {
        vec![op(bind("/sys", target, true), "devices of the host")]
    }
}

/// `/dev`, at its place in the image.
pub(crate) fn dev_ops(request: &RunRequest, target: &Path) -> Vec<PlanOp> {
    if !request.isolation.contain {
        return vec![op(bind("/dev", target, true), "devices of the host")];
    }
    let why = "minimal /dev";
    let at = |name: &str| target.join(name);
    let mut ops = vec![op(
        Op::Tmpfs { target: target.to_owned(), size: Some(1 << 16), mode: 0o755, create: false },
        why,
    )];
    for DeviceNode(name) in MINIMAL_DEVICES {
        let flags = MountFlags { read_only: false, recursive: false };
        let source = PathBuf::from("/dev").join(name);
        ops.push(op(
            Op::Bind { source, target: at(name), flags, create: true, optional: true },
            why,
        ));
    }
    for (to, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ] {
        ops.push(op(Op::Symlink { to: to.into(), target: at(name) }, why));
    }
    ops.push(op(Op::Mkdir { target: at("pts"), mode: 0o755 }, why));
    ops.push(op(Op::Devpts { target: at("pts") }, "terminals of the container"));
    ops.push(op(
        Op::Tmpfs { target: at("shm"), size: None, mode: 0o1777, create: true },
        "shared memory of the container",
    ));
    if request.isolation.ipc {
        ops.push(op(Op::Mkdir { target: at("mqueue"), mode: 0o1777 }, why));
        ops.push(op(Op::Mqueue { target: at("mqueue") }, "queues of the IPC namespace"));
    }
    ops
}

/// What `--isolate` hides and forbids, after everything else is mounted.
pub(crate) fn protect_ops(request: &RunRequest) -> Vec<PlanOp> {
    if !request.isolation.protect {
        return Vec::new();
    }
    let mask = |path: &&str| op(Op::Mask { target: PathBuf::from(path) }, "--isolate hides it");
    let protect =
        |path: &&str| op(Op::Protect { target: PathBuf::from(path) }, "--isolate protects it");
    let mut ops: Vec<PlanOp> = MASKED.iter().map(mask).collect();
    ops.extend(PROTECTED.iter().chain(&["/sys"]).map(protect));
    ops.push(op(Op::DropCapabilities, "--isolate keeps Docker's default capabilities"));
    ops
}

/// Where home is inside, and what is mounted there.
pub(crate) struct Home {
    pub(crate) path: PathBuf,
    pub(crate) mount: Option<(MountSource, &'static str, Rank)>,
}

pub(crate) fn home(request: &RunRequest, host: &HostFacts, image_home: Option<&str>) -> Home {
    let caller = host.home.clone();
    let image_home = || PathBuf::from(image_home.unwrap_or("/"));
    let tmpfs = MountSource::Tmpfs { size: None, mode: 0o700 };
    match &request.home {
        HomeChoice::None => Home { path: image_home(), mount: None },
        HomeChoice::At { source, target } => {
            let mount = match source.clone().or(caller) {
                Some(dir) => (MountSource::Directory(dir), "--home", Rank::User),
                None => (tmpfs, "--home, in memory: the caller has none", Rank::User),
            };
            Home { path: target.clone(), mount: Some(mount) }
        }
        HomeChoice::Host if request.isolation.contain => match image_home().as_path() {
            // The identity is one of the image's users: its home is the image's.
            path if path != Path::new("/") => Home { path: path.to_owned(), mount: None },
            _ => match caller {
                Some(path) => Home { path, mount: Some((tmpfs, "home in memory", Rank::Default)) },
                None => Home { path: "/".into(), mount: None },
            },
        },
        HomeChoice::Host => match caller {
            Some(path) if path != Path::new("/") => {
                let source = MountSource::Directory(path.clone());
                Home { path, mount: Some((source, "the caller's home", Rank::Default)) }
            }
            _ => Home { path: image_home(), mount: None },
        },
    }
}

/// The engine's default mounts other than the system's.
pub(crate) fn defaults(request: &RunRequest, host: &HostFacts, home: &Home) -> Vec<Contribution> {
    let mut list = Vec::new();
    let mut add = |rank, source, target: &Path, optional, reason: &str| {
        let (target, flags) = (target.to_owned(), MountFlags::default());
        let mounts = vec![MountSpec { source, target, flags, optional }];
        list.push(Contribution { mounts, ..Contribution::new(rank, reason) });
    };
    for dir in ["/tmp", "/var/tmp"].iter().map(Path::new).filter(|_| !request.skip.tmp) {
        if request.isolation.contain {
            let source = MountSource::Tmpfs { size: None, mode: 0o1777 };
            add(Rank::Default, source, dir, false, "temporary files in memory");
        } else {
            let source = MountSource::Directory(dir.to_owned());
            add(Rank::Default, source, dir, true, "temporary files of the host");
        }
    }
    if let Some((source, reason, rank)) = &home.mount {
        add(*rank, source.clone(), &home.path, false, reason);
    }
    let cwd = host.cwd.as_deref().filter(|_| !request.isolation.contain && !request.skip.cwd);
    if let Some(cwd) = cwd.filter(|cwd| wants_cwd(cwd, host, request)) {
        let source = MountSource::Directory(cwd.to_owned());
        add(Rank::Default, source, cwd, true, "the caller's working directory");
    }
    list
}

/// Whether the working directory needs a mount of its own: it is not the
/// image's business, and no default mount shows it already.
fn wants_cwd(cwd: &Path, host: &HostFacts, request: &RunRequest) -> bool {
    let shown_by_home = request.home == HomeChoice::Host
        && host.home.as_deref().is_some_and(|home| home != Path::new("/") && cwd.starts_with(home));
    let shown_by_tmp =
        !request.skip.tmp && ["/tmp", "/var/tmp"].iter().any(|tmp| cwd.starts_with(tmp));
    let system = cwd == Path::new("/") || SYSTEM.iter().any(|dir| cwd.starts_with(dir));
    !shown_by_home && !shown_by_tmp && !system
}
