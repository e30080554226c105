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
//! one init process, and a waiting parent, in [`supervise`](self).
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
mod lookahead;
mod namespace;
mod ops;
mod pass;
mod probe;
mod root;
mod server;
mod share;
mod supervise;
mod tree;
mod user;

use std::convert::Infallible;

use lookahead::Lookahead;
use plan::{ImageMount, Plan};
use share::Way;

pub use error::{ExecError, RuntimeError};
pub use probe::probe;
pub use server::{ImageFile, Keeper, MOST_PARTS};
pub use share::{LOG, Share};
pub use tree::{ImageTree, Info};
pub use user::as_root;

/// Becomes the container's process. Returns only when that failed, or, with a
/// PID namespace, with the process's exit code in shell form (128+signal).
///
/// `image` is the open image of a plan whose root file system the FUSE server
/// serves; `keeper` lives in that server; `share` says where containers that
/// may have one server find each other. Must be called while the process has
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
) -> Result<i32, RuntimeError> {
    let mut program = exec::Program::prepare(plan)?;
    let served = match (plan.rootfs.mount, image) {
        (ImageMount::Fuse, None) => return Err(RuntimeError::NoImage),
        (ImageMount::KernelSquashfs, _) => Served::default(),
        (ImageMount::Fuse, image) => find(plan, image, keeper, share, &mut program)?,
        (ImageMount::Bind, _) => find(plan, None, keeper, share, &mut program)?,
    };
    if plan.namespaces.pid {
        return supervise::run(plan, served, &program);
    }
    namespace::enter(plan, &served)?;
    match enter(plan, served, &program)? {}
}

/// Who serves the image, and whose user namespace it is.
#[derive(Default)]
struct Served {
    /// A server of the container's own, which waits for its connections.
    server: Option<server::Server>,
    /// A server that was there.
    joined: Option<share::Joined>,
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
    let new = |listener| {
        let ahead = image.map(|image| Lookahead::new(plan, image, program)).unwrap_or_default();
        server::start(image, plan, keeper, ahead, listener, share.map(Share::log)).map(Some)
    };
    let parts = image.map_or(0, ImageFile::parts);
    Ok(match share.map_or(Way::Alone, |share| share::find(share, parts)) {
        Way::Joined(joined) if joined.has(parts) => Served { server: None, joined: Some(joined) },
        // The kernel cannot clone the mounts of others: only the namespace is shared.
        Way::Joined(joined) => Served { server: new(None)?, joined: Some(joined) },
        Way::First(listener) => Served { server: new(Some(listener))?, joined: None },
        Way::Alone if image.is_none() => Served::default(),
        Way::Alone => Served { server: new(None)?, joined: None },
    })
}

/// What the process does once it is in its namespaces.
fn enter(plan: &Plan, served: Served, program: &exec::Program) -> Result<Infallible, RuntimeError> {
    root::enter(plan, served)?;
    emulation::Emulation::prepare(plan)?.install()?;
    exec::run(plan, program)
}
