//! What was asked for, free of any command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use types::ImageConfig;

/// Where the root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum RootSource {
    /// A directory on the host.
    Directory {
        /// Its path, absolute.
        path: PathBuf,
    },
    /// Squashfs images in files.
    Squashfs {
        /// The images, bottom first. Those above the first one are layers in
        /// the form of overlayfs.
        parts: Vec<ImagePart>,
    },
}

impl RootSource {
    /// One squashfs image.
    #[must_use]
    pub fn squashfs(path: PathBuf, offset: u64) -> Self {
        Self::Squashfs { parts: vec![ImagePart { path, offset }] }
    }
}

/// A squashfs image in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImagePart {
    /// The file's path, absolute.
    pub path: PathBuf,
    /// Where in the file the image starts, in bytes.
    pub offset: u64,
}

impl fmt::Display for ImagePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            0 => write!(f, "{}", self.path.display()),
            offset => write!(f, "{} at byte {offset}", self.path.display()),
        }
    }
}

/// Which of the image's words make the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The image's process: entrypoint, then the words given or the image's
    /// default ones. Working directory and user of the image count.
    Run {
        /// Replaces the image's entrypoint; empty words remove it.
        entrypoint: Option<Vec<OsString>>,
        /// The words given.
        args: Vec<OsString>,
    },
    /// These words, whatever the image says.
    Exec {
        /// At least one word.
        args: Vec<OsString>,
    },
    /// The start script of an image that Apptainer made; without one, nothing.
    Start {
        /// Words for the script.
        args: Vec<OsString>,
    },
    /// The test script of an image that Apptainer made.
    Test {
        /// Words for the script.
        args: Vec<OsString>,
    },
    /// An interactive shell.
    Shell {
        /// The shell; None finds bash, else sh.
        shell: Option<OsString>,
        /// Words after the shell.
        args: Vec<OsString>,
    },
}

/// `user[:group]`, names or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpec {
    /// The user.
    pub user: String,
    /// The group.
    pub group: Option<String>,
}

/// Why a text is no user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a user: expected USER[:GROUP], names or numbers")]
pub struct UserSpecError(String);

impl FromStr for UserSpec {
    type Err = UserSpecError;

    fn from_str(text: &str) -> Result<Self, UserSpecError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group.to_owned())),
            None => (text, None),
        };
        if user.is_empty() || group.as_deref() == Some("") || text.contains(['\0', '\n']) {
            return Err(UserSpecError(text.to_owned()));
        }
        Ok(Self { user: user.to_owned(), group })
    }
}

/// Who the process is inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The caller, unless `run` meets an image that names another user.
    Default,
    /// uid 0, mapped to the caller.
    Root,
    /// Some user of the image, mapped to the caller.
    User(UserSpec),
}

/// How much of the host the container shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// A minimal `/dev`; `/tmp`, `/var/tmp` and home in memory; no working
    /// directory of the host.
    pub contain: bool,
    /// Nothing of the host's environment.
    pub clean_env: bool,
    /// A PID namespace.
    pub pid: bool,
    /// An IPC namespace.
    pub ipc: bool,
    /// A UTS namespace.
    pub uts: bool,
    /// A network namespace with loopback alone.
    pub no_net: bool,
    /// Masked paths, read-only `/sys`, few capabilities.
    pub protect: bool,
}

impl Isolation {
    /// `--contain`.
    #[must_use]
    pub fn contain() -> Self {
        Self { contain: true, ..Self::default() }
    }

    /// `--containall`.
    #[must_use]
    pub fn contain_all() -> Self {
        Self { clean_env: true, pid: true, ipc: true, ..Self::contain() }
    }

    /// `--isolate`.
    #[must_use]
    pub fn isolate() -> Self {
        Self { uts: true, no_net: true, protect: true, ..Self::contain_all() }
    }
}

/// How root is emulated for processes that have one user id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootEmulation {
    /// Not at all.
    #[default]
    None,
    /// Changes of owner and identity succeed and do nothing.
    Fast,
    /// They are recorded, and shown to who asks.
    Consistent,
    /// The kernel does them, with subordinate ids; devices alone are recorded.
    Subid,
}

impl RootEmulation {
    /// Whether a process answers for the kernel, which then has to outlive the
    /// command and to see every process.
    #[must_use]
    pub fn supervised(self) -> bool {
        matches!(self, Self::Consistent | Self::Subid)
    }
}

types::words!(RootEmulation { "consistent" => Consistent, "fast" => Fast, "subid" => Subid, "none" => None });

/// Whether a launcher of MPI inside may have processes started on other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OtherNodes {
    /// Nobody knows how.
    #[default]
    None,
    /// By this program and its words; the command follows.
    By(Vec<OsString>),
    /// This is what was started there, which looks for the means and uses none.
    Proxy,
}

/// What takes writes to the root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Writable {
    /// Nothing.
    #[default]
    No,
    /// Memory.
    Tmpfs,
    /// The image's own directory.
    InPlace,
}

/// Flags of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct MountFlags {
    /// Forbid writing.
    pub read_only: bool,
    /// Take the mounts below along.
    pub recursive: bool,
}

impl Default for MountFlags {
    fn default() -> Self {
        Self { read_only: false, recursive: true }
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A directory of the host, absolute.
    Directory(PathBuf),
    /// A file, socket or device of the host, absolute.
    File(PathBuf),
    /// Memory.
    Tmpfs {
        /// Size limit in bytes.
        size: Option<u64>,
        /// Permission bits.
        mode: u32,
    },
}

/// A mount that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// What.
    pub source: MountSource,
    /// Where in the container, absolute.
    pub target: PathBuf,
    /// How.
    pub flags: MountFlags,
    /// What was typed, for messages: `--bind /a:/b`.
    pub origin: String,
}

/// The home directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HomeChoice {
    /// The caller's, at its own path.
    #[default]
    Host,
    /// Another directory of the host, at another path; without a source the
    /// caller's own home is shown there.
    At {
        /// Directory on the host; None is the caller's home.
        source: Option<PathBuf>,
        /// Path in the container, absolute.
        target: PathBuf,
    },
    /// None.
    None,
}

/// Default mounts to leave out (`--no-mount`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skip {
    /// The host's /tmp and /var/tmp.
    pub tmp: bool,
    /// The caller's working directory.
    pub cwd: bool,
    /// /dev.
    pub dev: bool,
    /// /sys.
    pub sys: bool,
    /// /proc.
    pub proc: bool,
    /// resolv.conf and hosts.
    pub network_files: bool,
    /// localtime.
    pub localtime: bool,
    /// passwd and group.
    pub accounts: bool,
}

/// A validated request to start a container. It knows no command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRequest {
    /// What a person called the image, for the environment and messages.
    pub image_name: String,
    /// The root file system.
    pub root: RootSource,
    /// What the image says of its process.
    pub config: ImageConfig,
    /// What to run.
    pub command: Command,
    /// Who.
    pub identity: Identity,
    /// How root is emulated; the supervised ways make a PID namespace.
    pub root_emulation: RootEmulation,
    /// Who root then seems to be: user and group.
    pub emulated_user: Option<(u32, u32)>,
    /// How much is shared.
    pub isolation: Isolation,
    /// What takes writes.
    pub writable: Writable,
    /// Overlay directories, topmost first; the second value is read-only.
    pub overlays: Vec<(PathBuf, bool)>,
    /// Whether what is written to an overlay need not survive a crash of the
    /// machine: fsync(2) then does nothing, and the overlay cannot be used again.
    pub volatile: bool,
    /// Mounts.
    pub mounts: Vec<MountRequest>,
    /// `--env` and `--env-file`, in order; the last one wins.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, absolute.
    pub workdir: Option<PathBuf>,
    /// The home directory.
    pub home: HomeChoice,
    /// The host name; implies a UTS namespace.
    pub hostname: Option<String>,
    /// The servers that resolv.conf(5) names; the host's where there are none.
    pub name_servers: Vec<IpAddr>,
    /// Default mounts to leave out.
    pub skip: Skip,
    /// Whether the scripts that Apptainer puts into an image are honoured.
    pub scripts: bool,
    /// The app of such an image.
    pub app: Option<String>,
    /// The name of the instance that the container is, or is to be.
    pub instance: Option<String>,
    /// What hooks are told of the container.
    pub annotations: BTreeMap<String, String>,
    /// Whether nothing is run, not even hooks.
    pub dry_run: bool,
    /// How commands are started in containers like this one on other nodes.
    pub other_nodes: OtherNodes,
    /// Whether those that the same process starts at once, and that are alike, are one.
    pub one: bool,
}

impl RunRequest {
    /// A request with every default.
    #[must_use]
    pub fn new(image_name: &str, root: RootSource, config: ImageConfig, command: Command) -> Self {
        Self {
            image_name: image_name.to_owned(),
            root,
            config,
            command,
            identity: Identity::Default,
            root_emulation: RootEmulation::None,
            emulated_user: None,
            isolation: Isolation::default(),
            writable: Writable::No,
            overlays: Vec::new(),
            volatile: false,
            mounts: Vec::new(),
            env: Vec::new(),
            workdir: None,
            home: HomeChoice::Host,
            hostname: None,
            name_servers: Vec::new(),
            skip: Skip::default(),
            scripts: false,
            app: None,
            instance: None,
            annotations: BTreeMap::new(),
            dry_run: false,
            other_nodes: OtherNodes::None,
            one: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_parse() {
        let spec: UserSpec = "postgres:33".parse().unwrap();
        assert_eq!((spec.user.as_str(), spec.group.as_deref()), ("postgres", Some("33")));
        for bad in ["", ":1", "a:", "a\nb"] {
            assert!(bad.parse::<UserSpec>().is_err(), "{bad:?}");
        }
    }
}
