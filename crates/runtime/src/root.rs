//! The root file system: image, skeleton, overlay, mounts, pivot.
//!
//! Everything is put together on a *stage*: a tmpfs attached at a directory
//! of the host that our private mount namespace may hide. All sources of the
//! host are opened as detached copies (open_tree(2)) before the stage hides
//! anything, so a bind of the very directory that the stage covers works.
//!
//! ```text
//! stage/image0 …     the images, when an overlay lies over them
//! stage/lower        what the engine adds, in memory
//! stage/over0 …      read-only overlay directories
//! stage/upper, work  the writable layer, in memory or bound from the host
//! stage/root         the finished root file system
//! ```
//!
//! Where the image server shows the additions itself ([`Plan::view`]) there is no
//! overlay: the finished root file system is a part of the mount of the image.
//!
//! A container that joins a server takes a clone of the root file system of one that
//! needed the same additions, or all of it where both are to be one.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use plan::{ImageMount, Plan, RootSource, Rootfs, Skeleton, SkeletonKind, Upper};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, chmodat, fchmod, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};

use crate::hooks::Hooks;
use crate::ops::{self, Sources};
use crate::server::Server;
use crate::share::{Common, Joined};
use crate::{RuntimeError, Served, join, lookahead, namespace};

/// Directories that the stage may cover; one of them is on every host.
const STAGES: [&str; 5] = ["/tmp", "/mnt", "/run", "/var", "/proc"];

/// Names a failing step.
pub(crate) fn step<E: Into<io::Error>>(step: &str) -> impl FnOnce(E) -> RuntimeError + '_ {
    move |source| RuntimeError::Root { step: step.to_owned(), source: source.into() }
}

/// Makes the plan's root file system and moves into it.
pub(crate) fn enter(plan: &Plan, mut served: Served, hooks: &Hooks) -> Result<(), RuntimeError> {
    // With the namespace it has entered a root file system that is made.
    if served.namespace().is_none() {
        let namespace = match served.common {
            // Afterwards /proc is the container's, or none.
            Common::Namespace { .. } => File::open("/proc/self/ns/mnt").ok(),
            _ => None,
        };
        pivot(&assemble(plan, &mut served, hooks)?)?;
        if let Some(namespace) = namespace {
            served.offer(namespace.as_fd());
        }
    }
    ops::finish(plan)?;
    namespace::take_identity(plan.namespaces.user, plan.id_map)
}

/// The root file system with all that belongs into it.
fn assemble(plan: &Plan, served: &mut Served, hooks: &Hooks) -> Result<OwnedFd, RuntimeError> {
    let sources = Sources::open(plan)?;
    let root = match served.joined.as_ref().and_then(Joined::root) {
        // The kernel's caches are those of the containers before.
        Some(root) => {
            on_stage(&root)?;
            ops::apply(plan, sources, &root)?;
            root
        }
        None => {
            let (root, copy) = made(plan, served)?;
            ops::apply(plan, sources, &root)?;
            if let Some(copy) = copy {
                served.offer(copy.as_fd());
            }
            root
        }
    };
    hooks.created()?;
    Ok(root)
}

/// A root file system of the container's own, and a copy for others.
fn made(plan: &Plan, served: &mut Served) -> Result<(OwnedFd, Option<OwnedFd>), RuntimeError> {
    let mut images = images(plan, served)?;
    let server = served.server.as_ref();
    let ahead = server.map_or(&[][..], |server| &server.ahead);
    if let (false, [image]) = (plan.rootfs.overlay(), &images[..]) {
        lookahead::touch(image, ahead);
        on_stage(image)?;
        return Ok((images.remove(0), None));
    }
    if let (true, [image]) = (server.is_some_and(|server| server.view), &images[..]) {
        let root = view(image)?;
        lookahead::touch(&root, ahead);
        let copy = served.copy(&root);
        on_stage(&root)?;
        return Ok((root, copy));
    }
    let stage = stage(&plan.rootfs, &images)?;
    if let [image] = &images[..] {
        // By now the server is up; the overlay asks it next in any case.
        lookahead::touch(image, ahead);
    }
    let root = stage.overlay(plan)?;
    let copy = served.copy(&root);
    stage.attach(&root)?;
    Ok((root, copy))
}

/// The part of an image's mount that has the additions, as a mount of its own.
fn view(image: &OwnedFd) -> Result<OwnedFd, RuntimeError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let bind = || open_tree(image, fuse::VIEW, flags);
    // Of a mount that was attached once, no other mount namespace may have a clone. A
    // kernel that clones no other mounts has nobody join in any case.
    let root = match bind() {
        Err(Errno::INVAL) => on_stage(image).map(|()| bind())?,
        bound => bound,
    };
    root.map_err(step("binding the image with the additions"))
}

/// The images as detached mounts, bottom first.
fn images(plan: &Plan, served: &mut Served) -> Result<Vec<OwnedFd>, RuntimeError> {
    let root = &plan.rootfs;
    match (&root.source, root.mount) {
        (RootSource::Directory { path }, _) => {
            if let Some(server) = &mut served.server {
                server.connect(&[], &[])?;
            }
            let opened = clone_tree(path, true);
            let mount = opened.map_err(step(&format!("binding {}", path.display())))?;
            if !root.in_place {
                // Mounts below the image that are locked stay as they are.
                sys::mount::set_attributes(&mount, sys::mount::RDONLY, false)
                    .map_err(step("making the image read-only"))?;
            }
            Ok(vec![mount])
        }
        (RootSource::Squashfs { parts }, ImageMount::KernelSquashfs) => {
            parts.iter().map(|part| kernel(&part.path, part.offset)).collect()
        }
        (RootSource::Squashfs { parts }, _) => match (&mut served.server, &served.joined) {
            (Some(server), _) => connected(plan, server, parts.len()),
            (None, Some(joined)) => joined.mounts().map_err(step("cloning the mount of the image")),
            (None, None) => Err(RuntimeError::NoImage),
        },
    }
}

/// Mounts what the image server serves.
fn connected(plan: &Plan, server: &mut Server, count: usize) -> Result<Vec<OwnedFd>, RuntimeError> {
    let both: Vec<_> = (0..count).map(|_| connection(plan)).collect::<Result<_, _>>()?;
    let (devices, mounts): (Vec<_>, Vec<_>) = both.into_iter().unzip();
    server.connect(&devices, &mounts)?;
    Ok(mounts)
}

/// A connection and its mount. The connection has to be opened in the user
/// namespace that mounts it (fs/fuse/inode.c, `fuse_fill_super`).
fn connection(plan: &Plan) -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    let ids = plan.id_map;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device =
        openat(CWD, "/dev/fuse", flags, Mode::empty()).map_err(step("opening /dev/fuse"))?;
    let mount = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let set = |key: &str, value: &str| fsconfig_set_string(fs.as_fd(), key, value);
        set("source", "sampan")?;
        set("subtype", "sampan")?;
        set("fd", &device.as_raw_fd().to_string())?;
        set("rootmode", "40000")?;
        set("user_id", &ids.uid.to_string())?;
        set("group_id", &ids.gid.to_string())?;
        fsconfig_set_flag(fs.as_fd(), "default_permissions")?;
        fsconfig_set_flag(fs.as_fd(), "allow_other")?;
        // Of a file system that is not read-only itself, every read makes the
        // access time unknown, and the next stat(2) asks the server.
        fsconfig_set_flag(fs.as_fd(), "ro")?;
        fsconfig_create(fs.as_fd())?;
        mount_of(&fs, MountAttrFlags::MOUNT_ATTR_RDONLY | attributes(plan))
    };
    let mount = mount().map_err(step("mounting the image through /dev/fuse"))?;
    Ok((device, mount))
}

const NO_PRIVILEGE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// What the mounts of a root file system forbid. Where the namespace has many
/// ids, setuid programs work: they give no id that is not the caller's.
fn attributes(plan: &Plan) -> MountAttrFlags {
    if plan.sub_ids.is_some() { MountAttrFlags::MOUNT_ATTR_NODEV } else { NO_PRIVILEGE }
}

/// The kernel's own squashfs over a loop device.
fn kernel(path: &Path, offset: u64) -> Result<OwnedFd, RuntimeError> {
    let file = File::open(path)
        .map_err(|source| RuntimeError::OpenImage { path: path.to_owned(), source })?;
    let (_device, loop_path) =
        sys::device::loop_attach(&file, offset).map_err(step("attaching a loop device"))?;
    let mount = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("squashfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(fs.as_fd(), "source", loop_path.as_path())?;
        fsconfig_set_flag(fs.as_fd(), "ro")?;
        fsconfig_create(fs.as_fd())?;
        mount_of(&fs, MountAttrFlags::MOUNT_ATTR_RDONLY | NO_PRIVILEGE)
    };
    mount().map_err(step("mounting the image as squashfs"))
}

pub(crate) fn mount_of(fs: &OwnedFd, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A detached tmpfs.
pub(crate) fn tmpfs(size: Option<u64>, mode: u32) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(size) = size {
        fsconfig_set_string(fs.as_fd(), "size", size.to_string())?;
    }
    fsconfig_set_string(fs.as_fd(), "mode", format!("{mode:o}"))?;
    fsconfig_create(fs.as_fd())?;
    mount_of(&fs, NO_PRIVILEGE)
}

/// A detached copy of the mounts at a path of the host.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, path, flags)
}

/// Attaches a detached mount at a path below a directory descriptor.
pub(crate) fn attach(
    mount: &OwnedFd,
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
) -> rustix::io::Result<()> {
    move_mount(mount, "", dir, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Attaches something at the first stage that this host has.
fn on_stage(mount: &OwnedFd) -> Result<(), RuntimeError> {
    let mut last = Errno::NOENT;
    for stage in STAGES {
        match attach(mount, CWD, stage) {
            Ok(()) => return Ok(()),
            Err(e) => last = e,
        }
    }
    Err(step("attaching the stage")(last))
}

/// The layers of an overlay, in their places.
struct Stage {
    dir: OwnedFd,
    layers: Vec<String>,
}

impl Stage {
    /// Mounts the overlay.
    fn overlay(&self, plan: &Plan) -> Result<OwnedFd, RuntimeError> {
        // Overlay options are paths; relative ones need no escaping.
        rustix::process::fchdir(&self.dir).map_err(step("entering the stage"))?;
        let mount = overlay_mount(&self.layers, plan);
        mount.map_err(step("mounting the overlay"))
    }

    /// Attaches the finished root file system.
    fn attach(&self, root: &OwnedFd) -> Result<(), RuntimeError> {
        attach(root, self.dir.as_fd(), "root").map_err(step("attaching the overlay"))
    }
}

/// What a container can have in common with others, or they with it.
pub(crate) fn common(plan: &Plan) -> Common {
    let one = if plan.one { one(plan) } else { None };
    let root = || additions(plan).map(Common::Root);
    one.or_else(root).unwrap_or(Common::Nothing)
}

/// What tells a container from others: who starts it, and what is mounted where.
fn one(plan: &Plan) -> Option<Common> {
    let Rootfs { source, mount, skeleton, lowers, upper, in_place, overlaid: _ } = &plan.rootfs;
    let parent = rustix::process::getppid()?;
    let mut hash = DefaultHasher::new();
    upper.hash(&mut hash);
    let directory = matches!(upper, Upper::Directory { .. });
    let upper = if directory { hash.finish() as u32 >> 1 | 1 } else { 0 };
    // Where others' processes are hidden (hidepid of proc(5)), the number has to do.
    (parent, join::started(parent)).hash(&mut hash);
    (source, mount, skeleton, lowers, in_place).hash(&mut hash);
    (&plan.ops, plan.id_map).hash(&mut hash);
    let (number, lasting) = (hash.finish() as u32, plan.keeps_writes());
    Some(Common::Namespace { number, upper, lasting })
}

/// What tells additions from others; None where the root file system is the
/// container's own for another reason.
fn additions(plan: &Plan) -> Option<u64> {
    let root = &plan.rootfs;
    if !root.overlay() || root.upper != Upper::None || !root.lowers.is_empty() {
        return None;
    }
    let mut hash = DefaultHasher::new();
    plan.view().hash(&mut hash);
    for Skeleton { path, kind, mode, reason: _ } in &root.skeleton {
        (path, kind, mode).hash(&mut hash);
    }
    Some(hash.finish())
}

/// Puts the layers of an overlay over the image in their places.
fn stage(root: &Rootfs, images: &[OwnedFd]) -> Result<Stage, RuntimeError> {
    let lowers: Vec<OwnedFd> = root
        .lowers
        .iter()
        .map(|dir| clone_tree(&lower_of(dir), false).map_err(step(&dir.display().to_string())))
        .collect::<Result<_, _>>()?;
    let upper = match &root.upper {
        Upper::Directory { path, .. } => Some(upper_dir(path)?),
        _ => None,
    };
    let stage = tmpfs(None, 0o755).map_err(step("making the stage"))?;
    on_stage(&stage)?;
    let dir = |name: &str| mkdirat(&stage, name, Mode::from_raw_mode(0o755));
    for name in ["lower", "root"] {
        dir(name).map_err(step("making the stage's directories"))?;
    }
    let mut layers = Vec::new();
    let in_upper = root.upper == Upper::Tmpfs;
    if in_upper {
        for name in ["upper", "work"] {
            dir(name).map_err(step("making the writable layer"))?;
        }
    }
    if let Some(mount) = &upper {
        dir("over").map_err(step("making the writable layer"))?;
        attach(mount, stage.as_fd(), "over").map_err(step("attaching the overlay directory"))?;
    }
    if !root.skeleton.is_empty() {
        let name = if in_upper { "upper" } else { "lower" };
        skeleton(&stage, name, &root.skeleton)?;
    }
    // An overlay that takes no writes has two layers at least.
    let one = root.upper == Upper::None && root.lowers.is_empty() && images.len() == 1;
    if !in_upper && (one || !root.skeleton.is_empty()) {
        layers.push("lower".to_owned());
    }
    for (index, mount) in lowers.iter().enumerate() {
        let name = format!("over{index}");
        dir(&name).map_err(step("making a place for an overlay"))?;
        attach(mount, stage.as_fd(), &name).map_err(step("attaching an overlay"))?;
        layers.push(name);
    }
    for (index, mount) in images.iter().enumerate().rev() {
        let name = format!("image{index}");
        dir(&name).map_err(step("making the stage's directories"))?;
        attach(mount, stage.as_fd(), &name).map_err(step("attaching the image"))?;
        layers.push(name);
    }
    Ok(Stage { dir: stage, layers })
}

fn overlay_mount(layers: &[String], plan: &Plan) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| fsconfig_set_string(fs.as_fd(), key, value);
    set("source", "sampan")?;
    set("lowerdir", &layers.join(":"))?;
    let mut attributes = attributes(plan);
    let upper = &plan.rootfs.upper;
    match upper {
        Upper::None => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
        Upper::Tmpfs => {
            set("upperdir", "upper")?;
            set("workdir", "work")?;
        }
        Upper::Directory { .. } => {
            set("upperdir", "over/upper")?;
            set("workdir", "over/work")?;
        }
    }
    fsconfig_set_flag(fs.as_fd(), "userxattr")?;
    if matches!(upper, Upper::Tmpfs | Upper::Directory { volatile: true, .. }) {
        // Nothing has to outlive a crash, so nothing need reach a disk.
        fsconfig_set_flag(fs.as_fd(), "volatile")?;
    }
    fsconfig_create(fs.as_fd())?;
    mount_of(&fs, attributes)
}

/// An overlay directory holds `upper` and `work`; a plain directory given
/// read-only is a layer as it is.
fn lower_of(dir: &Path) -> PathBuf {
    let upper = dir.join("upper");
    if upper.is_dir() && dir.join("work").is_dir() { upper } else { dir.to_owned() }
}

fn upper_dir(dir: &Path) -> Result<OwnedFd, RuntimeError> {
    for name in ["upper", "work"] {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).map_err(step(&format!("making {}", path.display())))?;
    }
    clone_tree(dir, false).map_err(step(&format!("opening {}", dir.display())))
}

/// Writes the engine's additions. They are sorted, so parents come first.
fn skeleton(stage: &OwnedFd, name: &str, entries: &[Skeleton]) -> Result<(), RuntimeError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = openat(stage, name, flags, Mode::empty()).map_err(step("opening the skeleton"))?;
    for entry in entries {
        let path = entry.path.strip_prefix("/").unwrap_or(&entry.path);
        let mode = Mode::from_raw_mode(entry.mode);
        let make = || -> io::Result<()> {
            match &entry.kind {
                SkeletonKind::Directory => {
                    mkdirat(&base, path, mode)?;
                    // Past the umask, which is the application's affair.
                    chmodat(&base, path, mode, AtFlags::empty())?;
                }
                SkeletonKind::Symlink(to) => rustix::fs::symlinkat(to, &base, path)?,
                SkeletonKind::File(bytes) => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    let fd = openat(&base, path, flags, mode)?;
                    fchmod(&fd, mode)?;
                    File::from(fd).write_all(bytes)?;
                }
            }
            Ok(())
        };
        make().map_err(step(&format!("adding {}", entry.path.display())))?;
    }
    Ok(())
}

/// pivot_root(2) onto itself: the old root ends up below the new one and is
/// let go, with no directory needed for it.
fn pivot(root: &OwnedFd) -> Result<(), RuntimeError> {
    rustix::process::fchdir(root).map_err(step("entering the root file system"))?;
    rustix::process::pivot_root(".", ".").map_err(step("pivoting"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("letting go of the host's root"))?;
    rustix::process::chdir("/").map_err(step("entering the root file system"))
}
