//! Signals: default dispositions, and a supervisor's synchronous waiting.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// A signal that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub number: i32,
    /// Whether the kernel sent it (a terminal, say) and not a process.
    pub from_kernel: bool,
    /// What a process has sent with it (sigqueue(3)).
    pub value: Option<usize>,
}

/// Gives the program that will be executed the mask and the SIGPIPE that a
/// shell gives it; the Rust runtime ignores SIGPIPE for its own sake.
pub fn restore_defaults() {
    // SAFETY: the set is initialised by sigemptyset before use; SIG_DFL is a
    // valid disposition.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Gives every signal its default disposition, also what the caller ignores, as a shell's
/// background jobs and nohup(1) do. For a program that has nothing of its caller's.
pub fn ignore_none() {
    // Those that cannot be changed stay as they are.
    for number in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Has the kernel reap children as they end (`SIG_IGN` of SIGCHLD, wait(2)).
/// For a process that waits for none.
pub fn reap_children() {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Blocks every signal that can be blocked, so that [`wait`] receives them.
///
/// # Errors
/// As sigprocmask(2).
pub fn block_all() -> io::Result<()> {
    // SAFETY: the set is initialised by sigfillset before use.
    let result = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits for any blocked signal (sigwaitinfo(2)).
///
/// # Errors
/// As sigwaitinfo(2), but for EINTR, which starts over.
pub fn wait() -> io::Result<Received> {
    loop {
        if let Some(received) = receive(None)? {
            return Ok(received);
        }
    }
}

/// As [`wait`], for so long at most.
///
/// # Errors
/// As sigtimedwait(2), but for EINTR and EAGAIN, which are None.
pub fn wait_for(time: Duration) -> io::Result<Option<Received>> {
    receive(Some(time))
}

/// Waits once; None when something else has ended the waiting.
fn receive(time: Option<Duration>) -> io::Result<Option<Received>> {
    let time = time.map(|time| libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both structures are plain data that the kernel fills; the set is
    // initialised by sigfillset; the time is null, which means for ever, or valid
    // through the call.
    let (number, info) = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (libc::sigtimedwait(&raw const set, &raw mut info, time), info)
    };
    if number > 0 {
        // SAFETY: every signal that a process queues has a value.
        let value = || unsafe { info.si_value() }.sival_ptr.addr();
        let value = (info.si_code == libc::SI_QUEUE).then(value);
        let from_kernel = info.si_code == libc::SI_KERNEL;
        return Ok(Some(Received { number, from_kernel, value }));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(None),
        _ => Err(error),
    }
}

/// Sends a signal with a value (sigqueue(3), `pidfd_send_signal(2)`).
///
/// # Errors
/// As `pidfd_send_signal(2)`.
pub fn queue(process: BorrowedFd<'_>, number: i32, value: usize) -> io::Result<()> {
    // Of siginfo_t's union, the part of signals that are queued (sigaction(2)).
    #[repr(C)]
    struct Queued {
        signo: i32,
        errno: i32,
        code: i32,
        _pad: i32,
        pid: i32,
        uid: u32,
        value: usize,
        _rest: [u8; 96],
    }
    const { assert!(size_of::<Queued>() == size_of::<libc::siginfo_t>()) };
    let (pid, uid) = (std::process::id().cast_signed(), rustix::process::getuid().as_raw());
    let code = libc::SI_QUEUE;
    let info = Queued { signo: number, errno: 0, code, _pad: 0, pid, uid, value, _rest: [0; 96] };
    // SAFETY: the kernel reads one siginfo_t, of whose layout and size `info` is.
    let result = unsafe {
        let fd = process.as_raw_fd();
        libc::syscall(libc::SYS_pidfd_send_signal, fd, number, &raw const info, 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal, or with 0 nothing, to every process of this one's PID namespace
/// but itself and those that it may not signal (kill(2), -1); whether there is one.
/// For the namespace's init alone: nobody else does anything.
///
/// # Errors
/// As kill(2), but for ESRCH.
pub fn send_all(number: i32) -> io::Result<bool> {
    if std::process::id() != 1 {
        return Ok(false);
    }
    // SAFETY: kill takes two integers.
    if unsafe { libc::kill(-1, number) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(false) } else { Err(error) }
}

/// Sends a signal by number (kill(2)), real-time ones included.
///
/// # Errors
/// As kill(2).
pub fn send(pid: rustix::process::Pid, number: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers.
    let result = unsafe { libc::kill(pid.as_raw_nonzero().get(), number) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
