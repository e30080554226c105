//! sampan refuses to be installed with privilege.

use std::fs;

use rustix::process::{getegid, geteuid, getgid, getuid};
use rustix::thread::{CapabilitySet, capabilities};

/// The key of getauxval(3) that says that this process gained privilege by
/// execve(2).
const AT_SECURE: usize = 23;

/// Why this process must not go on: it was given privilege by its file, and
/// with it a user would choose what a privileged process mounts.
pub fn refusal() -> Option<&'static str> {
    if getuid() != geteuid() {
        return Some("sampan is installed setuid and refuses to run");
    }
    if getgid() != getegid() {
        return Some("sampan is installed setgid and refuses to run");
    }
    // A file capability shows in AT_SECURE alone; capabilities that were
    // inherited, as in a user namespace, do not.
    let some = || capabilities(None).is_ok_and(|sets| sets.permitted != CapabilitySet::empty());
    if !geteuid().is_root() && some() && gained() {
        return Some("sampan is installed with file capabilities and refuses to run");
    }
    None
}

/// AT_SECURE. A process that gained privilege may not be able to read its own
/// vector, which is then the answer.
fn gained() -> bool {
    let Ok(bytes) = fs::read("/proc/self/auxv") else {
        return fs::metadata("/proc/self").is_ok();
    };
    let word = |bytes: &[u8]| usize::from_ne_bytes(bytes.try_into().unwrap_or_default());
    let size = size_of::<usize>();
    let found = bytes.chunks_exact(2 * size).find(|pair| word(&pair[..size]) == AT_SECURE);
    found.is_some_and(|pair| word(&pair[size..]) != 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_ordinary_process_is_not_refused() {
        assert_eq!(super::refusal(), None);
        assert!(!super::gained());
    }
}
