//! Waiting for what a test asserts.

use std::time::{Duration, Instant};

/// So long is waited for anything: the machine may be slow, and who waits for what
/// never comes fails all the same.
const LONGEST: Duration = Duration::from_secs(300);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The same for bash: `wait_for COMMANDS`, until they succeed.
pub const WAIT_FOR: &str = "wait_for() { local n; for ((n = 0; n < 3000; n++)); do \
                            eval \"$1\" && return; sleep 0.1; done; echo \"never: $1\" >&2; return 1; }";

/// Waits until something holds.
///
/// # Panics
/// With `what`, when it does not hold after five minutes.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONGEST, "{what}: not after {LONGEST:?}");
        std::thread::sleep(PAUSE);
    }
}
