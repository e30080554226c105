//! A container's name: a directory on the node that keeps what it writes.
//!
//! | file | what |
//! |---|---|
//! | `overlay/` | sampan's overlay directory |
//! | `image` | the image that it lies over, as sampan reads it; written last |
//! | `process` | the first process of the last step that started it: its number, and when it was started |
//! | `lock` | flock(2): exclusive for the step that may write, shared for readers |
//!
//! The lock is slurmstepd's, which outlives every task of its step; a crash
//! leaves it to nobody. Two overlays with one upper directory would be
//! undefined: the tasks of a step are one container, and of two steps one writes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::StepError;
use crate::flags::{ContainerName, Existence};
use crate::words::Overlay;

/// A named container, held for the step.
#[derive(Debug)]
pub struct Named {
    dir: PathBuf,
    /// Its image.
    pub image: String,
    writable: bool,
    /// Released when slurmstepd ends.
    _lock: File,
}

impl Named {
    /// Finds or makes it in its directory, which exists.
    ///
    /// # Errors
    /// When the name stands for something else than was asked for, another
    /// step writes to it, or its files cannot be used.
    pub fn open(
        dir: &Path,
        name: &ContainerName,
        image: Option<&str>,
        writable: bool,
    ) -> Result<Self, StepError> {
        let failed = |path: &Path| {
            let (name, path) = (name.name.clone(), path.to_owned());
            move |source| StepError::Named { name, path, source }
        };
        let path = dir.join("lock");
        let options = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let lock = options.map_err(failed(&path))?;
        let locked = if writable { lock.try_lock() } else { lock.try_lock_shared() };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StepError::Busy(name.name.clone())),
            Err(TryLockError::Error(source)) => return Err(failed(&path)(source)),
        }
        let path = dir.join("image");
        let old = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&path)(error)),
        };
        let image = match (old, image, name.existence) {
            (_, _, Existence::Running) => return Err(StepError::NotRunning(name.name.clone())),
            (Some(_), _, Existence::New) => return Err(StepError::Exists(name.name.clone())),
            (Some(old), Some(new), _) if old != new => {
                let (name, new) = (name.name.clone(), new.to_owned());
                return Err(StepError::OtherImage { name, old, new });
            }
            (Some(old), _, Existence::Any | Existence::Auto) => old,
            (None, Some(new), _) => new.to_owned(),
            (None, None, _) => return Err(StepError::Unknown(name.name.clone())),
        };
        let overlay = dir.join("overlay");
        match fs::create_dir(&overlay) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&overlay)(error));
            }
            _ => {}
        }
        Ok(Self { dir: dir.to_owned(), image, writable, _lock: lock })
    }

    /// Remembers the image: the container can be started from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(&self, name: &str) -> Result<(), StepError> {
        let path = self.dir.join("image");
        let failed = |path: PathBuf| {
            let name = name.to_owned();
            move |source| StepError::Named { name, path, source }
        };
        fs::write(&path, &self.image).map_err(failed(path))?;
        // This process becomes the container's.
        let path = self.dir.join("process");
        let start = started("self").unwrap_or_default();
        fs::write(&path, format!("{} {start}", std::process::id())).map_err(failed(path))
    }

    /// The first process of a container that runs, and when it was started; whether
    /// it still does is seen when it is entered.
    #[must_use]
    pub fn process(dir: &Path) -> Option<(String, String)> {
        let text = fs::read_to_string(dir.join("process")).ok()?;
        let (process, start) = text.split_once(' ')?;
        Some((process.to_owned(), start.to_owned()))
    }

    /// Whether the container in a directory runs now, and is of that image if one is
    /// named.
    #[must_use]
    pub fn runs(dir: &Path, image: Option<&str>) -> bool {
        let old = fs::read_to_string(dir.join("image"));
        Self::process(dir).is_some_and(|(process, start)| started(&process) == Some(start))
            && old.is_ok_and(|old| image.is_none_or(|image| image == old))
    }

    /// What sampan is to lay over the image; None before anything was written.
    #[must_use]
    pub fn overlay(&self) -> Option<Overlay> {
        let dir = self.directory();
        let there = self.writable || dir.join("upper").exists();
        there.then_some(Overlay { dir, writable: self.writable })
    }

    /// The overlay directory.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.dir.join("overlay")
    }
}

/// When a process was started: field 22 of /proc/PID/stat (proc(5)).
fn started(process: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name may hold anything, parentheses among it.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(existence: Existence) -> ContainerName {
        ContainerName { name: "tf".into(), existence }
    }

    #[test]
    fn a_name_is_made_once_and_keeps_its_image() {
        let dir = tempfile::tempdir().unwrap();
        let open = |existence, image| Named::open(dir.path(), &name(existence), image, true);
        let error = |result: Result<Named, StepError>| result.unwrap_err().to_string();
        assert!(error(open(Existence::Any, None)).contains("there is no container"));
        let made = open(Existence::New, Some("img")).unwrap();
        assert!(error(open(Existence::Any, None)).contains("in use"));
        made.keep("tf").unwrap();
        let (process, start) = Named::process(dir.path()).unwrap();
        assert_eq!(process, std::process::id().to_string());
        assert!(start.parse::<u64>().unwrap() > 0);
        assert!(Named::runs(dir.path(), None) && Named::runs(dir.path(), Some("img")));
        assert!(!Named::runs(dir.path(), Some("other")));
        fs::write(dir.path().join("process"), format!("{process} 1")).unwrap();
        assert!(!Named::runs(dir.path(), None), "another process has its number");
        drop(made);
        assert_eq!(open(Existence::Any, None).unwrap().image, "img");
        assert!(error(open(Existence::Any, Some("other"))).contains("made from img"));
        assert!(error(open(Existence::New, Some("img"))).contains("exists already"));
    }

    #[test]
    fn a_start_that_failed_leaves_no_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(Named::open(dir.path(), &name(Existence::Any), Some("bad"), true).unwrap());
        assert!(Named::open(dir.path(), &name(Existence::New), Some("good"), true).is_ok());
    }

    #[test]
    fn many_read_while_nobody_writes() {
        let dir = tempfile::tempdir().unwrap();
        let open = |writable| Named::open(dir.path(), &name(Existence::Any), Some("i"), writable);
        let (one, two) = (open(false).unwrap(), open(false).unwrap());
        assert_eq!(one.overlay(), None);
        assert!(matches!(open(true), Err(StepError::Busy(_))));
        drop((one, two));
        let writer = open(true).unwrap();
        assert!(writer.overlay().unwrap().writable);
        fs::create_dir(writer.directory().join("upper")).unwrap();
        drop(writer);
        assert!(!open(false).unwrap().overlay().unwrap().writable);
    }
}
