//! Apply a [`Plan`]: root file system, namespaces, exec.
//!
//! ```text
//! caller ── fork ─→ image server (its own session, the host's namespaces)
//!    │                  ▲ /dev/fuse descriptor over a socket
//!    ├─ unshare user, mount, …
//!    ├─ open every bind source, mount the image, the overlay, the rest
//!    ├─ pivot_root
//!    └─ execve            the caller's process IS the application
//! ```
//!
//! There is no fork between the caller and the application: signals, exit
//! code, umask, affinity, open descriptors and the terminal are right by
//! construction, and since the process has one thread and has not forked,
//! every step reports its own error as an ordinary value. A PID namespace adds
//! one init process, and a waiting parent, in [`supervise`](self); that of an
//! [`instance`] stays when the caller goes.
//!
//! The image server is forked first, while nothing is open and no thread
//! exists. It stays in the host's namespaces, so it does not keep the
//! container's mount namespace alive: when the last process of the container
//! ends, the kernel unmounts the image, the connection dies, and the server
//! with it.
#![forbid(unsafe_code)]

mod emulation;
mod error;
mod exec;
#[doc(hidden)]
pub mod fuzz;
mod hooks;
pub mod instance;
mod join;
mod lookahead;
mod namespace;
mod ops;
mod pass;
mod probe;
mod profile;
pub mod remote;
mod root;
mod server;
mod share;
mod subid;
mod supervise;
mod tree;
mod user;

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use lookahead::Lookahead;
use plan::{ImageMount, Plan, Upper};
use share::{Common, Way};

pub use error::{ExecError, RuntimeError};
pub use join::{Container, JoinError, join};
pub use probe::{probe, takes_upper};
pub use rootemu::CONSISTENT;
pub use server::{ImageFile, Keeper, MOST_PARTS};
pub use share::{LOG, PROTOCOL, Share};
pub use tree::{ImageTree, Info};
pub use user::as_root;

/// Becomes the container's process. Returns only when that failed, or, with a
/// PID namespace, with the process's exit code in shell form (128+signal).
///
/// `image` is the open image of a plan whose root file system the FUSE server
/// serves; `keeper` lives in that server; `share` says where containers that
/// may have one server find each other; `bundle` is the directory that hooks
/// are told of, with the container's config.json, and is removed. Must be called while the process has
/// one thread.
///
/// # Errors
/// The step that failed, with its reason; the process's state is then that of
/// a half-made container, so the caller reports and ends.
pub fn launch(
    plan: &Plan,
    image: Option<&ImageFile>,
    keeper: Option<Box<dyn Keeper>>,
    share: Option<&Share>,
    bundle: Option<&Path>,
) -> Result<i32, RuntimeError> {
    let Ready { program, hooks, mut served } = Ready::new(plan, image, keeper, share, bundle)?;
    if plan.namespaces.pid {
        return supervise::run(plan, served, hooks, &program);
    }
    namespace::enter(plan, &mut served)?;
    match enter(plan, served, &hooks, &program)? {}
}

/// What is there before the namespaces are.
struct Ready {
    program: exec::Program,
    hooks: hooks::Hooks,
    served: Served,
}

impl Ready {
    fn new(
        plan: &Plan,
        image: Option<&ImageFile>,
        keeper: Option<Box<dyn Keeper>>,
        share: Option<&Share>,
        bundle: Option<&Path>,
    ) -> Result<Self, RuntimeError> {
        let mut program = exec::Program::prepare(plan)?;
        let hooks = hooks::Hooks::start(plan, bundle)?;
        if let Some(remote) = &plan.remote {
            remote::start(remote)?;
        }
        let served = match (plan.rootfs.mount, image) {
            (ImageMount::Fuse, None) => return Err(RuntimeError::NoImage),
            (ImageMount::KernelSquashfs, _) => Served::default(),
            (ImageMount::Fuse, image) => find(plan, image, keeper, share, &mut program)?,
            (ImageMount::Bind, _) => find(plan, None, keeper, share, &mut program)?,
        };
        Ok(Self { program, hooks, served })
    }
}

/// Who serves the image, and whose user namespace it is.
#[derive(Default)]
struct Served {
    /// A server of the container's own, which waits for its connections.
    server: Option<server::Server>,
    /// A server that was there.
    joined: Option<share::Joined>,
    /// What others may have of the container, or it of theirs.
    common: Common,
}

impl Served {
    /// The mount namespace of the container that this one is to be, if there is one.
    fn namespace(&self) -> Option<&OwnedFd> {
        self.joined.as_ref().and_then(share::Joined::namespace)
    }

    /// A copy for others of a root file system that was not attached yet.
    fn copy(&self, root: &OwnedFd) -> Option<OwnedFd> {
        let copied = match (self.common, &self.server) {
            (Common::Root(_), Some(server)) => server.cloned,
            (Common::Root(_), None) => self.joined.is_some(),
            _ => false,
        };
        // Without it those who join make their own.
        if copied { share::clone(root).ok() } else { None }
    }

    /// Gives the server what others can have, in which everything has its place by now.
    fn offer(&self, fd: BorrowedFd<'_>) {
        match (&self.server, &self.joined) {
            (Some(server), None) => server.offer(self.common, fd),
            (_, Some(joined)) => joined.offer(fd),
            (None, None) => {}
        }
    }
}

/// Finds a server to join, or starts one. An image that is a directory needs
/// none but for others to share the user namespace.
fn find(
    plan: &Plan,
    image: Option<&ImageFile>,
    keeper: Option<Box<dyn Keeper>>,
    share: Option<&Share>,
    program: &mut exec::Program,
) -> Result<Served, RuntimeError> {
    let share = share.filter(|_| plan.namespaces.user);
    let common = root::common(plan);
    let new = |listener| {
        let ahead = image.map(|image| Lookahead::new(plan, image, program)).unwrap_or_default();
        let log = share.map(Share::log);
        server::start(image, plan, keeper, ahead, listener, log, common).map(Some)
    };
    let parts = image.map_or(0, ImageFile::parts);
    let way = share.map_or(Way::Alone, |share| share::find(share, common));
    let one = matches!((&way, common), (Way::Joined(_) | Way::First(_), Common::Namespace { .. }));
    if let Upper::Directory { path, .. } = &plan.rootfs.upper
        && plan.one
        && !one
    {
        // Two overlays with one upper directory would be undefined.
        return Err(RuntimeError::NotOne { path: path.clone() });
    }
    Ok(match way {
        Way::Joined(joined) if joined.has(parts) || joined.namespace().is_some() => {
            Served { server: None, joined: Some(joined), common }
        }
        // The kernel cannot clone the mounts of others: only the namespace is shared.
        Way::Joined(joined) => Served { server: new(None)?, joined: Some(joined), common },
        Way::First(listener) => Served { server: new(Some(listener))?, joined: None, common },
        Way::Alone | Way::Refused if image.is_none() => Served::default(),
        Way::Alone | Way::Refused => Served { server: new(None)?, joined: None, common },
    })
}

/// What the process does once it is in its namespaces.
fn enter(
    plan: &Plan,
    served: Served,
    hooks: &hooks::Hooks,
    program: &exec::Program,
) -> Result<Infallible, RuntimeError> {
    root::enter(plan, served, hooks)?;
    hooks.starting()?;
    emulation::Emulation::prepare(plan)?.unattended().install()?;
    exec::run(plan, program).inspect_err(|_| hooks.not_started())
}
