//! Control groups, as a scheduler makes one for a job.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Place, Ran, run};

/// A control group of its own that is killed with everything in it at the end,
/// as a scheduler does with a job's.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one.
    ///
    /// # Panics
    /// When there are no control groups of version 2.
    #[must_use]
    pub fn new(place: &Place) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut unified = mounts.lines().filter(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let root = unified.next().expect("a cgroup2 hierarchy").split(' ').nth(1).unwrap();
        let name = place.path("").file_name().unwrap().to_owned();
        let path = Path::new(root).join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Runs a command that begins in the group.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn hold(&self, command: &mut Command) -> Ran {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ >\"$0\"; exec \"$@\""]).arg(self.0.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args()).env_clear();
        for (name, value) in command.get_envs() {
            inside.env(name, value.unwrap_or_default());
        }
        run(inside.current_dir(command.get_current_dir().unwrap()))
    }

    /// How many processes are in it.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn members(&self) -> usize {
        fs::read_to_string(self.0.join("cgroup.procs")).unwrap().lines().count()
    }

    /// Kills every process in it.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn kill(&self) {
        fs::write(self.0.join("cgroup.kill"), "1").unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let _ = fs::remove_dir(&self.0);
    }
}
