//! What commands read when they start: notes that make a later start faster.
//! A lost or a wrong one costs time and nothing else.

use crate::files::read_limited;
use crate::{Result, Store};

/// The directory.
pub(crate) const PROFILES: &str = "profiles";
/// A longer note is none of ours.
const LONGEST: u64 = 4 << 20;
/// Notes of one image; those of more commands are not kept.
const MOST_OF_IMAGE: usize = 256;

/// `<image>.<command>`; neither has a dot.
fn name(image: &str, command: &str) -> Option<String> {
    let plain = |word: &str| {
        let byte = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !word.is_empty() && word.len() <= 128 && word.bytes().all(byte)
    };
    (plain(image) && plain(command)).then(|| format!("{image}.{command}"))
}

impl Store {
    /// What is noted about starts of a command from an image: in the user's
    /// store, else in a site store. `image` and `command` are of ASCII letters,
    /// digits, `-` and `_`.
    #[must_use]
    pub fn profile(&self, image: &str, command: &str) -> Option<Vec<u8>> {
        let name = name(image, command)?;
        self.roots().find_map(|(root, _)| {
            read_limited(&root.join(PROFILES).join(&name), LONGEST).ok().flatten()
        })
    }

    /// Notes it in the user's store.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_profile(&self, image: &str, command: &str, bytes: &[u8]) -> Result<()> {
        let Some(name) = name(image, command) else { return Ok(()) };
        if bytes.len() as u64 > LONGEST {
            return Ok(());
        }
        let dir = self.root.join(PROFILES);
        let others = crate::files::list(&dir)?;
        let of_image = |other: &str| other.split_once('.').is_some_and(|(of, _)| of == image);
        let there = others.iter().any(|(other, _)| *other == name);
        if !there && others.iter().filter(|(other, _)| of_image(other)).count() >= MOST_OF_IMAGE {
            return Ok(());
        }
        self.root.write(PROFILES, &name, bytes)
    }
}
