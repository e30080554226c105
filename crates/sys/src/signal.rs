//! Signals: default dispositions, and a supervisor's synchronous waiting.

use std::io;

/// A signal that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub number: i32,
    /// Whether the kernel sent it (a terminal, say) and not a process.
    pub from_kernel: bool,
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
        // SAFETY: both structures are plain data that the kernel fills; the
        // set is initialised by sigfillset.
        let (number, info) = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::sigwaitinfo(&raw const set, &raw mut info), info)
        };
        if number > 0 {
            return Ok(Received { number, from_kernel: info.si_code == libc::SI_KERNEL });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
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
