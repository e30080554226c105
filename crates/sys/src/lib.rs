//! The only unsafe code of sampan: thin wrappers over the Linux system calls
//! that `rustix` does not offer as safe functions.
//!
//! Everything here is a direct rendering of a manual page, without policy.
//! Functions that act on the whole process (fork, unshare, exec, signal
//! masks) are meant for a process with one thread; a container is started
//! before any thread exists.

pub mod device;
pub mod mount;
pub mod process;
pub mod seccomp;
pub mod signal;
