//! Processes: fork, unshare, exec, descriptors.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old process, with the id of the new one.
    Parent(Pid),
}

/// Duplicates the process (fork(2)).
///
/// # Errors
/// `EAGAIN` at a limit of processes, `ENOMEM`.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: glibc keeps its own state (the allocator included) usable in the
    // child. Rust state of other threads would be frozen, never invalid; the
    // callers have one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// Leaves namespaces of the parent for new ones (unshare(2)).
///
/// # Errors
/// `EPERM` and `ENOSPC` where a policy or limit forbids it; `EINVAL` for a
/// user namespace in a process with threads.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: CLONE_FILES and CLONE_FS only narrow what this thread shares; no
    // other thread relies on sharing: there is none, or it waits for children.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// Replaces the program (execve(2)); returns only to tell why not.
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| {
        let mut all: Vec<_> = list.iter().map(|s| s.as_ptr()).collect();
        all.push(std::ptr::null());
        all
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: all three are NUL-terminated strings or null-terminated lists of
    // such, alive through the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends the process at once: no destructors, no flushing (_exit(2)). For
/// forked helpers, whose copies of buffers belong to their parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing after it runs.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from 3 on that `keep` does not list
/// (close_range(2)). For a process that keeps only what it names.
pub fn close_others(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX);
}

/// Closes one descriptor, which the caller was given by number and has handed
/// on to nothing.
pub fn close(fd: RawFd) {
    // SAFETY: nothing in this process owns the descriptor, says the caller.
    // One that is not open is an error without consequence.
    unsafe { libc::close(fd) };
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the caller of `close_others` gives up every descriptor it does
    // not list. The result is of no use: an old kernel leaves them open, which
    // is harmless for correctness.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Takes the process out of its inherited limits and pinning, as far as its
/// hard limits allow: soft limits to hard ones, all processors of its cgroup.
pub fn lift_limits() {
    for resource in [
        libc::RLIMIT_AS,
        libc::RLIMIT_DATA,
        libc::RLIMIT_FSIZE,
        libc::RLIMIT_NOFILE,
        libc::RLIMIT_CPU,
    ] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid rlimit for both calls.
        unsafe {
            if libc::getrlimit(resource, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(resource, &raw const limit);
            }
        }
    }
    let all = [u64::MAX; 128];
    // SAFETY: the kernel reads exactly the given number of bytes and ignores
    // processors that do not exist or that the cgroup does not allow.
    unsafe { libc::sched_setaffinity(0, size_of_val(&all), all.as_ptr().cast()) };
}

/// A resource limit (getrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The soft one.
    pub current: u64,
    /// The hard one.
    pub maximum: u64,
}

/// RLIMIT_LOCKS of asm-generic/resource.h, which the kernel keeps and hands on to
/// children, and has not enforced since 2.4.25.
const LOCKS: libc::c_int = 10;

/// `RLIMIT_LOCKS` of a process.
///
/// # Errors
/// `ESRCH` when it has gone, `EPERM` of another user's.
pub fn lock_limit(pid: u32) -> io::Result<Limit> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new = std::ptr::null::<libc::rlimit64>();
    // SAFETY: nothing is set, and `old` is alive through the call, which fills it.
    let done =
        unsafe { libc::syscall(libc::SYS_prlimit64, pid.cast_signed(), LOCKS, new, &raw mut old) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Limit { current: old.rlim_cur, maximum: old.rlim_max })
}

/// Sets it.
///
/// # Errors
/// The same, and `EINVAL` for a soft limit above the hard one.
pub fn set_lock_limit(pid: u32, limit: Limit) -> io::Result<()> {
    let new = libc::rlimit64 { rlim_cur: limit.current, rlim_max: limit.maximum };
    let old = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the kernel only reads `new`, which is alive through the call.
    let done = unsafe {
        libc::syscall(libc::SYS_prlimit64, pid.cast_signed(), LOCKS, &raw const new, old)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
