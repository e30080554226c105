//! What the end-to-end tests share: an ordinary user with a home of its own,
//! and images made on the spot.
//!
//! `cargo xtask test` prepares the machine and sets:
//!
//! | variable | meaning |
//! |---|---|
//! | `SAMPAN_BIN` | the static release binary, where the user can reach it |
//! | `SAMPAN_SPANK` | the Slurm plugin, where slurmd can reach it |
//! | `SAMPAN_TEST_USER` | the ordinary user's name; no subuid range |
//! | `SAMPAN_TEST_SUBID_USER` | a user that has a range of subordinate ids |
//! | `SAMPAN_TEST_REGISTRY` | `host:port` of a real registry with the fixture images |
//! | `SAMPAN_TEST_APPTAINER` | what tells nsenter(1) where Apptainer is; `cargo xtask compat` sets it |
//! | `SAMPAN_TEST_HOSTS` | directory of MPIs that a host might have, one below another |
//!
//! A missing variable fails the test: nothing passes without having run.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test helper fails by panicking"
)]

mod cgroup;
mod files;
mod images;
mod server;
mod wait;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

pub use cgroup::Cgroup;
pub use files::serve;
pub use images::{Layout, busybox_root, layer, sha256};
pub use server::{Fault, Server};
pub use wait::{WAIT_FOR, wait_until};

/// A variable that `cargo xtask test` sets.
///
/// # Panics
/// When it is not set.
#[must_use]
pub fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the end-to-end tests by `cargo xtask test`")
    })
}

/// The registry that holds the fixture images.
#[must_use]
pub fn registry() -> String {
    required("SAMPAN_TEST_REGISTRY")
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128+n for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    fn new(output: &Output) -> Self {
        Self {
            code: exit_code(output.status),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output of a command that succeeded.
    ///
    /// # Panics
    /// When it failed.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// The messages of a command that failed as it should.
    ///
    /// # Panics
    /// When it ended with another code, or without a message, or with a panic.
    #[must_use]
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        let said = self.err.lines().any(|line| line.starts_with("error: "));
        assert!(said, "no message: {:?}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run(command: &mut Command) -> Ran {
    Ran::new(&command.output().expect("the command starts"))
}

/// The exit code as a shell shows it.
#[must_use]
pub fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(-1)
}

/// A test's own place: a home directory and a store that belong to the
/// ordinary user, removed at the end.
pub struct Place {
    dir: tempfile::TempDir,
    user: String,
}

impl Place {
    /// Makes a place of the ordinary user.
    ///
    /// # Panics
    /// As [`Place::of`].
    #[must_use]
    pub fn new() -> Self {
        Self::of(&required("SAMPAN_TEST_USER"))
    }

    /// Makes a place of a user.
    ///
    /// # Panics
    /// When the suite does not run as root, which it needs to become the user.
    #[must_use]
    pub fn of(user: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the suite starts as root to drop to a user");
        let dir = tempfile::Builder::new().prefix("sampan-e2e-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self { dir, user: user.to_owned() };
        for sub in ["home", "work", "store", "scratch"] {
            fs::create_dir(place.path(sub)).unwrap();
            place.give(&place.path(sub));
        }
        place
    }

    /// A path in the place.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives a path and all below it to the user.
    ///
    /// # Panics
    /// When chown fails.
    pub fn give(&self, path: &Path) {
        let status =
            Command::new("chown").args(["-hR", &self.user]).arg(path).status().expect("chown");
        assert!(status.success());
    }

    /// Writes a file that belongs to the user.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        self.give(&path);
        path
    }

    /// Any command as the user, in the place's home, with a clean environment.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={}", self.user))
            .arg(format!("--regid={}", self.user))
            .args(["--init-groups", "--"])
            .arg(program)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path("home"))
            .env("SAMPAN_STORE", self.path("store"))
            .env("SAMPAN_SCRATCH", self.path("scratch"))
            // No server waits for another container unless a test is about it.
            .env("SAMPAN_LINGER", "0")
            .env("LANG", "C.UTF-8")
            .current_dir(self.path("work"))
            .stdin(Stdio::null());
        command
    }

    /// sampan as the user.
    #[must_use]
    pub fn sampan_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(required("SAMPAN_BIN"));
        command.args(args);
        command
    }

    /// Runs sampan as the user.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn sampan(&self, args: &[&str]) -> Ran {
        run(&mut self.sampan_command(args))
    }

    /// Runs a shell script as the user, with `$sampan` set and [`WAIT_FOR`].
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn shell(&self, script: &str) -> Ran {
        let mut command = self.command("/bin/bash");
        command.arg("-c").arg(format!("{WAIT_FOR}\n{script}"));
        command.env("sampan", required("SAMPAN_BIN"));
        run(&mut command)
    }

    /// A directory image of busybox, as text for the command line.
    ///
    /// # Panics
    /// When busybox-static is not installed.
    #[must_use]
    pub fn image_dir(&self) -> String {
        let root = self.path("rootfs");
        if !root.exists() {
            busybox_root(&root);
            self.give(&root);
        }
        root.to_str().unwrap().to_owned()
    }

    /// The same as a squashfs file, made by mksquashfs.
    ///
    /// # Panics
    /// When squashfs-tools is not installed.
    #[must_use]
    pub fn image_file(&self) -> String {
        let file = self.path("image.sqfs");
        if !file.exists() {
            let mut make = Command::new("mksquashfs");
            make.arg(self.image_dir()).arg(&file);
            make.args(["-all-root", "-noappend", "-quiet", "-no-progress", "-comp", "zstd"]);
            assert!(make.status().expect("mksquashfs starts").success());
        }
        file.to_str().unwrap().to_owned()
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}
