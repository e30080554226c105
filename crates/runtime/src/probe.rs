//! What this kernel allows, tried for real in a short-lived child.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use plan::{IdMap, KernelCaps, Namespaces};
use rustix::fs::{Mode, OFlags, mkdirat};
use rustix::mount::{
    FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen,
};
use rustix::process::{WaitOptions, waitpid};
use sys::process::{Fork, exit_now, fork};

use crate::root::{attach, mount_of, tmpfs};
use crate::{namespace, ops};

/// Tries what a container needs, each in turn. A missing reason means that it
/// works. Must be called while the process has one thread.
///
/// # Errors
/// When no child can be made to try in.
pub fn probe() -> io::Result<KernelCaps> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = match fork()? {
        Fork::Child => {
            let mut write = File::from(write);
            for result in attempts() {
                let line = result.err().map(|e| e.to_string()).unwrap_or_default();
                // The parent reads an early end as "not tried".
                let _ = writeln!(write, "{}", line.replace('\n', " "));
            }
            exit_now(0)
        }
        Fork::Parent(child) => child,
    };
    drop(write);
    let mut text = String::new();
    File::from(read).read_to_string(&mut text)?;
    waitpid(Some(child), WaitOptions::empty())?;
    let mut lines = text.lines().map(|line| (!line.is_empty()).then(|| line.to_owned()));
    let mut next = || lines.next().unwrap_or_else(|| Some("could not be tried".to_owned()));
    Ok(KernelCaps {
        release,
        user_namespace: next(),
        mount_namespace: next(),
        fuse: next(),
        overlay: next(),
        notification: next(),
    })
}

/// Whether overlayfs writes to a file system: tried in a child, in an empty directory
/// there. Must be called while the process has one thread.
#[must_use]
pub fn takes_upper(stage: BorrowedFd<'_>) -> bool {
    match fork() {
        Ok(Fork::Child) => {
            let done = enter().is_ok() && overlay(&stage).is_ok();
            exit_now(i32::from(!done))
        }
        Ok(Fork::Parent(child)) => {
            let status = waitpid(Some(child), WaitOptions::empty()).ok().flatten();
            status.is_some_and(|(_, status)| status.exit_status() == Some(0))
        }
        Err(_) => false,
    }
}

/// Namespaces of a user's own, with the caller's ids.
fn enter() -> Result<(), crate::RuntimeError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let ids = IdMap { uid, gid, host_uid: uid, host_gid: gid };
    let namespaces = Namespaces { user: uid != 0, ..Namespaces::default() };
    namespace::enter_with(namespaces, ids, None)
}

/// The attempts, each standing on the one before.
fn attempts() -> [io::Result<()>; 5] {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let ids = IdMap { uid, gid, host_uid: uid, host_gid: gid };
    let namespaces = Namespaces { user: true, ..Namespaces::default() };
    let entered = namespace::enter_with(namespaces, ids, None).map_err(|e| {
        let reason = std::error::Error::source(&e).map(ToString::to_string);
        io::Error::other(reason.unwrap_or_else(|| e.to_string()))
    });
    let stage = || -> io::Result<_> {
        let stage = tmpfs(None, 0o755)?;
        attach(&stage, rustix::fs::CWD, "/tmp")?;
        Ok(stage)
    };
    let fuse = fuse(ids);
    let stage = stage();
    let overlay = match &stage {
        Ok(stage) => overlay(stage),
        Err(_) => Err(io::Error::other("needs a private mount namespace")),
    };
    // Last, as what it leaves in force needs somebody to answer.
    let notification = rustix::thread::set_no_new_privs(true).map_err(Into::into).and_then(|()| {
        sys::seccomp::install_notifying(&rootemu::filter(rootemu::Mode::Consistent))
    });
    [entered, stage.map(drop), fuse, overlay, notification.map(drop)]
}

fn fuse(ids: IdMap) -> io::Result<()> {
    let device = ops::openable("/dev/fuse", OFlags::RDWR)?;
    let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| fsconfig_set_string(fs.as_fd(), key, value);
    set("fd", &device.as_raw_fd().to_string())?;
    set("rootmode", "40000")?;
    set("user_id", &ids.uid.to_string())?;
    set("group_id", &ids.gid.to_string())?;
    Ok(fsconfig_create(fs.as_fd())?)
}

fn overlay(stage: &impl AsFd) -> io::Result<()> {
    for name in ["lower", "upper", "work"] {
        mkdirat(stage, name, Mode::from_raw_mode(0o755))?;
    }
    rustix::process::fchdir(stage)?;
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        fsconfig_set_string(fs.as_fd(), key, value)?;
    }
    fsconfig_set_flag(fs.as_fd(), "userxattr")?;
    fsconfig_create(fs.as_fd())?;
    Ok(mount_of(&fs, MountAttrFlags::empty()).map(drop)?)
}
