//! What reads bytes from outside here, for `fuzz/` alone.

use crate::profile::Profile;

/// Reads a profile; whether it was one.
///
/// # Panics
/// When what was read is another one after it was written.
#[must_use]
pub fn profile(input: &[u8]) -> bool {
    let Some(profile) = Profile::parse(input) else { return false };
    assert_eq!(Profile::parse(&profile.format()), Some(profile));
    true
}
