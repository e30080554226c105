//! The plan's steps.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use plan::{MountFlags, Op, Plan, PlanOp};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsopen, move_mount, open_tree,
};

use crate::RuntimeError;
use crate::root::{clone_tree, mount_of, tmpfs};

/// How often a mount point that is not there is looked for again.
const TRIES: usize = 8;

/// The sources of all binds, opened before anything is hidden; in the order
/// of the plan's steps, None for steps without a source.
pub(crate) struct Sources {
    binds: Vec<Option<OwnedFd>>,
    null: Option<OwnedFd>,
}

impl Sources {
    pub(crate) fn open(plan: &Plan) -> Result<Self, RuntimeError> {
        let binds = plan.ops.iter().map(open_source).collect::<Result<_, _>>()?;
        let masks = plan.ops.iter().any(|step| matches!(step.op, Op::Mask { .. }));
        let null = masks
            .then(|| clone_tree(Path::new("/dev/null"), false))
            .transpose()
            .map_err(crate::root::step("opening /dev/null"))?;
        Ok(Self { binds, null })
    }
}

fn open_source(step: &PlanOp) -> Result<Option<OwnedFd>, RuntimeError> {
    let Op::Bind { source, flags, optional, .. } = &step.op else { return Ok(None) };
    let opened = clone_tree(source, flags.recursive).and_then(|mount| {
        protect(&mount, *flags)?;
        Ok(mount)
    });
    match opened {
        Ok(mount) => Ok(Some(mount)),
        Err(_) if *optional => Ok(None),
        Err(e) => Err(RuntimeError::Source {
            path: source.clone(),
            reason: step.reason.clone(),
            source: e.into(),
        }),
    }
}

fn protect(mount: &OwnedFd, flags: MountFlags) -> rustix::io::Result<()> {
    if !flags.read_only {
        return Ok(());
    }
    sys::mount::set_attributes(mount, sys::mount::RDONLY, flags.recursive)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// Applies every mount step to the root file system behind `root`.
pub(crate) fn apply(plan: &Plan, sources: Sources, root: &OwnedFd) -> Result<(), RuntimeError> {
    let Sources { binds, null } = sources;
    for (step, source) in plan.ops.iter().zip(binds) {
        let site = Site { root, reason: &step.reason };
        match &step.op {
            Op::Bind { target, create, .. } => {
                if let Some(mount) = source {
                    site.bind(&mount, target, *create)?;
                }
            }
            Op::Tmpfs { target, size, mode, create } => {
                let mount = tmpfs(*size, *mode).map_err(site.failed("mount a tmpfs", target))?;
                if *create {
                    site.make_dir(target, 0o755)?;
                }
                site.attach(&mount, target)?;
            }
            Op::Proc { target } => site.fresh("proc", &[], target)?,
            Op::Sysfs { target } => site.fresh("sysfs", &[], target)?,
            Op::Mqueue { target } => site.fresh("mqueue", &[], target)?,
            Op::Devpts { target } => {
                site.fresh("devpts", &[("ptmxmode", "0666"), ("mode", "0620")], target)?;
            }
            Op::Mkdir { target, mode } => site.make_dir(target, *mode)?,
            Op::Symlink { to, target } => site.symlink(to, target)?,
            Op::Mask { target } => site.mask(null.as_ref(), target)?,
            Op::Protect { target } => site.protect(target)?,
            Op::Hostname { .. } | Op::LoopbackUp | Op::DropCapabilities => {}
        }
    }
    Ok(())
}

/// Applies the steps that act on the process and its namespaces.
pub(crate) fn finish(plan: &Plan) -> Result<(), RuntimeError> {
    for PlanOp { op, reason } in &plan.ops {
        let failed = |step: &'static str| {
            let (target, reason) = (PathBuf::from("/"), reason.clone());
            move |source| RuntimeError::Op { step, target, reason, source }
        };
        match op {
            Op::Hostname { name } => rustix::system::sethostname(name.as_bytes())
                .map_err(|e| failed("set the host name")(e.into()))?,
            Op::LoopbackUp => {
                sys::device::loopback_up().map_err(failed("bring up the loopback interface"))?;
            }
            Op::DropCapabilities => {
                drop_capabilities().map_err(failed("drop capabilities"))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Docker's default set: what is not in it leaves the bounding set, so no
/// execve(2) brings it back.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    /// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
    /// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap
    /// (linux/capability.h).
    const KEEP: [u32; 14] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
    for capability in (0..64).filter(|c| !KEEP.contains(c)) {
        let set = rustix::thread::CapabilitySet::from_bits_retain(1 << capability);
        match rustix::thread::remove_capability_from_bounding_set(set) {
            Ok(()) => {}
            // The kernel knows fewer capabilities than the number space holds.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// A place in the new root file system. Targets are resolved inside it, so a
/// symbolic link of the image or of a bound directory never leads out.
struct Site<'a> {
    root: &'a OwnedFd,
    reason: &'a str,
}

impl Site<'_> {
    fn failed<E: Into<io::Error>>(
        &self,
        step: &'static str,
        target: &Path,
    ) -> impl FnOnce(E) -> RuntimeError {
        let (target, reason) = (target.to_owned(), self.reason.to_owned());
        move |source| RuntimeError::Op { step, target, reason, source: source.into() }
    }

    fn open(&self, target: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(self.root, target, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// The directory that holds the target, and the target's name there.
    fn parent<'t>(&self, target: &'t Path) -> rustix::io::Result<(OwnedFd, &'t std::ffi::OsStr)> {
        let parent = target.parent().ok_or(Errno::INVAL)?;
        Ok((self.open(parent)?, target.file_name().ok_or(Errno::INVAL)?))
    }

    fn attach(&self, mount: &OwnedFd, target: &Path) -> Result<(), RuntimeError> {
        let attach = || {
            let place = self.open(target)?;
            let flags =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(mount, "", &place, "", flags)
        };
        // A name that others look up for the first time just now may be found and gone
        // (since Linux 6.16, `fuse_dentry_revalidate`).
        let mut result = attach();
        for _ in 0..TRIES {
            if result != Err(Errno::NOENT) {
                break;
            }
            result = attach();
        }
        result.map_err(self.failed("mount", target))
    }

    fn bind(&self, mount: &OwnedFd, target: &Path, create: bool) -> Result<(), RuntimeError> {
        if create {
            let stat =
                fstat(mount).map_err(self.failed("look at the source of the mount", target))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.make_dir(target, 0o755)?;
            } else {
                self.make_file(target)?;
            }
        }
        self.attach(mount, target)
    }

    /// Makes a directory and those above it, where they are missing.
    fn make_dir(&self, target: &Path, mode: u32) -> Result<(), RuntimeError> {
        if self.open(target).is_ok() {
            return Ok(());
        }
        if let Some(parent) = target.parent() {
            self.make_dir(parent, 0o755)?;
        }
        let make = || {
            let (parent, name) = self.parent(target)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            }
        };
        make().map_err(self.failed("make the mount point", target))
    }

    fn make_file(&self, target: &Path) -> Result<(), RuntimeError> {
        if let Some(parent) = target.parent() {
            self.make_dir(parent, 0o755)?;
        }
        let make = || {
            let (parent, name) = self.parent(target)?;
            // Another mount may have it already, and not be the caller's to open.
            if rustix::fs::statat(&parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Ok(());
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        };
        make().map_err(self.failed("make the mount point", target))
    }

    fn symlink(&self, to: &Path, target: &Path) -> Result<(), RuntimeError> {
        let make = || {
            let (parent, name) = self.parent(target)?;
            rustix::fs::symlinkat(to, &parent, name)
        };
        make().map_err(self.failed("make a symbolic link", target))
    }

    /// Mounts a new instance of a kernel file system.
    fn fresh(
        &self,
        kind: &'static str,
        options: &[(&str, &str)],
        target: &Path,
    ) -> Result<(), RuntimeError> {
        let make = || {
            let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
            for (key, value) in options {
                fsconfig_set_string(fs.as_fd(), *key, *value)?;
            }
            fsconfig_create(fs.as_fd())?;
            let mut attributes =
                MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
            attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, kind != "devpts");
            mount_of(&fs, attributes)
        };
        let step = match kind {
            "proc" => "mount a new proc",
            "sysfs" => "mount a new sysfs",
            "mqueue" => "mount a new mqueue",
            _ => "mount a new devpts",
        };
        let mount = make().map_err(self.failed(step, target))?;
        self.attach(&mount, target)
    }

    fn mask(&self, null: Option<&OwnedFd>, target: &Path) -> Result<(), RuntimeError> {
        let Ok(place) = self.open(target) else { return Ok(()) };
        let stat = fstat(&place).map_err(self.failed("look at", target))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let mount = tmpfs(Some(4096), 0o555).map_err(self.failed("mount a tmpfs", target))?;
            sys::mount::set_attributes(&mount, sys::mount::RDONLY, false)
                .map_err(self.failed("make read-only", target))?;
            return self.attach(&mount, target);
        }
        let Some(null) = null else { return Ok(()) };
        // Each mask is a mount of its own, copied from the one of /dev/null.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let mount =
            open_tree(null, "", flags).map_err(self.failed("copy /dev/null for", target))?;
        self.attach(&mount, target)
    }

    fn protect(&self, target: &Path) -> Result<(), RuntimeError> {
        let Ok(place) = self.open(target) else { return Ok(()) };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let mount = open_tree(&place, "", flags).map_err(self.failed("copy the mount", target))?;
        sys::mount::set_attributes(&mount, sys::mount::RDONLY, true)
            .map_err(self.failed("make read-only", target))?;
        self.attach(&mount, target)
    }
}

/// Whether a path of the host can be opened at all; for the probes.
pub(crate) fn openable(path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}
