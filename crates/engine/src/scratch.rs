//! Where builds write: a directory that takes the upper directory of an overlay.
//!
//! What is configured comes first. Where it lies on a file system that overlayfs does
//! not write to, or that keeps no attributes for a file's owner, another node-local
//! place is taken, and both are named.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, XattrFlags};

use crate::{Config, Result, doctor, unpack};

/// What a directory is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// No upper directory.
    Nothing,
    /// Files, but no extended attributes of a user.
    Files,
    All,
}

impl Takes {
    fn lack(self) -> &'static str {
        match self {
            Self::Nothing => "takes no upper directory of an overlay",
            Self::Files | Self::All => "takes no extended attributes of users (user_xattr)",
        }
    }
}

/// Tries a directory of the caller's.
pub(crate) fn takes(dir: &Path) -> Takes {
    if !dir.is_dir() || !takes_upper(dir) {
        return Takes::Nothing;
    }
    const NAME: &str = "user.sampan.probe";
    match rustix::fs::setxattr(dir, NAME, b"1", XattrFlags::empty()) {
        Ok(()) => {
            // It says nothing to anybody.
            let _ = rustix::fs::removexattr(dir, NAME);
            Takes::All
        }
        Err(_) => Takes::Files,
    }
}

fn takes_upper(dir: &Path) -> bool {
    if doctor::holds_overlays(dir) {
        return true;
    }
    let stage = dir.join(format!(".upper-{}", std::process::id()));
    if std::fs::create_dir(&stage).is_err() {
        return false;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, &stage, flags, Mode::empty());
    let takes = opened.is_ok_and(|opened| runtime::takes_upper(opened.as_fd()));
    // What stays is empty, and removed by the next try of the same number.
    let _ = unpack::remove(&stage);
    takes
}

/// The directory for builds, and what to say about it.
pub(crate) fn for_builds(config: &Config) -> Result<(PathBuf, Option<String>)> {
    let given = std::env::var_os("TMPDIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let mut places = vec![config.scratch.value.clone()];
    places.extend(given);
    places.extend(["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from));
    let own = |place: &Path| {
        unpack::own_directory(&unpack::own_directory(&unpack::cache(place))?.join(unpack::BUILD))
    };
    let (at, said) = choose(&places, &|place| own(place).map_or(Takes::Nothing, |dir| takes(&dir)));
    Ok((own(&places[at])?, said))
}

/// The first of the places that takes all, or at least files, and what to say of the
/// first one if it does not.
fn choose(places: &[PathBuf], takes: &dyn Fn(&Path) -> Takes) -> (usize, Option<String>) {
    let first = takes(&places[0]);
    if first == Takes::All {
        return (0, None);
    }
    let shown = places[0].display();
    let other = |wanted| (1..places.len()).find(|at| takes(&places[*at]) == wanted);
    let found = other(Takes::All).or_else(|| match first {
        Takes::Nothing => other(Takes::Files),
        _ => None,
    });
    let lack = first.lack();
    match (found, first) {
        (Some(at), _) => {
            let taken = places[at].display();
            (at, Some(format!("{shown} {lack}: the build writes to {taken} (see scratch)")))
        }
        (None, Takes::Files) => {
            (0, Some(format!("{shown} {lack}: owners of an image's files that change are lost")))
        }
        // What the mount says is the better message.
        (None, _) => (0, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_place_is_taken_and_both_are_named() {
        use Takes::{All, Files, Nothing};
        let places: Vec<PathBuf> = ["/0", "/1", "/2"].map(PathBuf::from).into();
        let chosen = |is: [Takes; 3]| {
            let takes = |place: &Path| is[places.iter().position(|one| one == place).unwrap()];
            choose(&places, &takes)
        };
        assert_eq!(chosen([All, All, All]), (0, None));
        for (is, expected, words) in [
            ([Nothing, Files, All], 2, ["/0 takes no upper", "writes to /2"]),
            ([Nothing, Nothing, Files], 2, ["/0 takes no upper", "writes to /2"]),
            ([Files, Nothing, All], 2, ["/0 takes no extended", "writes to /2"]),
            ([Files, Files, Nothing], 0, ["/0 takes no extended", "lost"]),
        ] {
            let (at, said) = chosen(is);
            let said = said.unwrap();
            assert_eq!(at, expected, "{is:?}");
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        }
        assert_eq!(chosen([Nothing, Nothing, Nothing]), (0, None));
    }

    #[test]
    fn a_disk_takes_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_ne!(takes(dir.path()), Takes::Nothing);
        assert_eq!(takes(&dir.path().join("none")), Takes::Nothing);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
