//! Root for a process tree that has one user id, through seccomp.
//!
//! In a user namespace with one id, chown(2) to another one fails, and so do
//! setgroups(2) and mknod(2) of devices: package managers insist on all of
//! them. The answers:
//!
//! | mode | what happens |
//! |---|---|
//! | fast | the calls succeed and do nothing; no process looks at them, but at those that set attributes, where access control lists and capabilities that the kernel refuses are no failure either |
//! | consistent | a supervisor records what was asked for, and answers stat(2), getuid(2) and their like with it |
//! | devices | the same for devices alone, where the user namespace has many ids |
//!
//! All work with any C library and without one, since they sit at the system
//! call. Owners are recorded where the file is, in the extended attribute
//! `user.containers.override_stat` that other tools use too: `UID:GID:MODE`, and
//! `:char-MAJOR-MINOR` behind it for a device, whose place an empty file takes.
//! So they travel with renames and hard links, overlayfs takes them along when
//! it copies a file up, and whoever writes the image reads them. Links, FIFOs and
//! sockets take no attribute: theirs are in a file beside the upper directory, and so are all
//! where the file system has no attributes for users. The image's
//! server shows the owners of its files as the same attribute. Access control lists
//! have attributes of their own.
//!
//! io_uring would go past the filter: it is not there where something is recorded.
//!
//! What is real stays real: permission bits, file capabilities, FIFOs, sockets,
//! mounts, chroot(2).
#![forbid(unsafe_code)]

mod acl;
mod calls;
mod filter;
mod identity;
mod making;
mod paths;
mod specials;
mod supervisor;

pub use filter::{filter, unattended};
pub use identity::begin;
pub use specials::Beside;
pub use supervisor::supervise;

/// Whether this binary's architecture is one whose structures a supervisor knows: on
/// others the consistent mode would record nothing.
pub const CONSISTENT: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// How root is emulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: calls fail as the kernel says.
    #[default]
    None,
    /// Privileged calls succeed and do nothing.
    Fast,
    /// What they ask for is recorded and shown.
    Consistent,
    /// The kernel has ids enough to do them; only devices, which it makes for
    /// nobody but the host's root, are recorded and shown.
    Devices,
}
