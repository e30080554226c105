//! Why a container did not start.

use std::io;
use std::path::PathBuf;

/// Why a container did not start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A hook failed; what it said.
    #[error("{0}")]
    Hook(String),
    /// What runs the hooks failed.
    #[error("cannot run the container's hooks: {step}")]
    Hooks {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The helper that reaches other nodes could not be started.
    #[error("cannot start the helper that reaches other nodes: {step}")]
    Remote {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The image server could not be started.
    #[error("cannot start the image server: {step}")]
    Server {
        /// The step.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The plan asks for a server and there is no image to serve.
    #[error("no open image was given for a root file system that a FUSE server is to serve")]
    NoImage,
    /// An overlay that several processes were to write to as one container.
    #[error(
        "{path} is written to as one container, and that of another process, which was to be it, \
         differs from this one or does not answer", path = path.display()
    )]
    NotOne {
        /// The overlay directory.
        path: PathBuf,
    },
    /// Root cannot be emulated.
    #[error("cannot emulate root: {step}")]
    Emulation {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// More layers than can be stacked.
    #[error("the image has {count} layers, and at most {most} can be stacked")]
    Layers {
        /// How many it has.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// The image file could not be opened as squashfs.
    #[error("cannot read the image {path:?}")]
    Image {
        /// The image file.
        path: PathBuf,
        /// Why.
        source: squashfs::Error,
    },
    /// The image file could not be opened at all.
    #[error("cannot open the image {path:?}")]
    OpenImage {
        /// The image file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A container that runs cannot be entered.
    #[error("the container cannot be entered")]
    Join(#[source] crate::JoinError),
    /// The namespaces were refused.
    #[error("cannot make the container's namespaces ({which})")]
    Unshare {
        /// Which namespaces.
        which: String,
        /// Why.
        source: io::Error,
    },
    /// The identity could not be mapped.
    #[error("cannot map the user into the container: writing {file}")]
    IdMap {
        /// The file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Subordinate ids could not be mapped; what the helper said.
    #[error("cannot map subordinate ids: {0}")]
    SubIds(String),
    /// A step towards the root file system failed.
    #[error("cannot set up the root file system: {step}")]
    Root {
        /// The step.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// The source of a mount could not be opened.
    #[error("cannot open {path:?} ({reason})")]
    Source {
        /// The path on the host.
        path: PathBuf,
        /// Why the plan has it.
        reason: String,
        /// Why.
        source: io::Error,
    },
    /// A step of the plan failed.
    #[error("cannot {step} at {target:?} ({reason})")]
    Op {
        /// The step.
        step: &'static str,
        /// Path in the container.
        target: PathBuf,
        /// Why the plan has it.
        reason: String,
        /// Why.
        source: io::Error,
    },
    /// The identity could not be taken on.
    #[error("cannot become uid {uid} gid {gid}")]
    Identity {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Why.
        source: io::Error,
    },
    /// The working directory.
    #[error("cannot change to the working directory {path:?} in the container")]
    Chdir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A word of the command or environment holds a NUL.
    #[error("{0:?} holds a NUL character")]
    Nul(String),
    /// A process of the PID namespace could not be made or waited for.
    #[error("cannot supervise the PID namespace: {step}")]
    Supervise {
        /// The step.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The command.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

/// Why the command did not start.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No such file on the search path.
    #[error("{command:?} is not in the image (searched {path})")]
    NotFound {
        /// The command.
        command: String,
        /// The search path, or the path itself.
        path: String,
    },
    /// The file is there, what interprets it is not.
    #[error("{command:?} needs the interpreter {interpreter:?}, which the image does not have")]
    Interpreter {
        /// The command.
        command: String,
        /// From the `#!` line or the ELF program header.
        interpreter: String,
    },
    /// Permission.
    #[error("{command:?} is not executable")]
    NotExecutable {
        /// The command.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A program of another architecture.
    #[error("{command:?} is a program for {architecture}, this machine is {host}")]
    Architecture {
        /// The command.
        command: String,
        /// Its architecture.
        architecture: String,
        /// This machine's.
        host: &'static str,
    },
    /// Anything else.
    #[error("cannot execute {command:?}")]
    Other {
        /// The command.
        command: String,
        /// Why.
        source: io::Error,
    },
}

impl RuntimeError {
    /// Docker's exit code for it: 127 for a missing command, 126 for one that
    /// cannot be executed, 125 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exec(ExecError::NotFound { .. } | ExecError::Interpreter { .. }) => 127,
            Self::Exec(_) => 126,
            _ => 125,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        use rustix::io::Errno;
        let errno = |e: &io::Error| e.raw_os_error().map(Errno::from_raw_os_error);
        Some(match self {
            Self::Unshare { source, .. } if errno(source) == Some(Errno::NOSPC) => {
                "user.max_user_namespaces is 0 or used up: sampan doctor tells what to set"
            }
            Self::Unshare { .. } | Self::IdMap { .. } => {
                "this system restricts user namespaces: sampan doctor tells what to set"
            }
            Self::SubIds(_) => {
                "ask the administrator to make newuidmap and newgidmap setuid root (or give them \
                 the file capabilities cap_setuid and cap_setgid), and for ranges in /etc/subuid \
                 and /etc/subgid; --root-emulation=consistent needs neither"
            }
            Self::Root { step, source } if step.contains("/dev/fuse") => match errno(source) {
                Some(Errno::ACCESS) => "/dev/fuse should have mode 0666, as udev sets it",
                _ => "load the kernel module fuse, or use a directory image",
            },
            Self::Source { source, .. } if errno(source) == Some(Errno::NOENT) => {
                "the path to mount must exist on this host"
            }
            Self::NotOne { .. } => {
                "give all of them the same mounts and devices, or let one process write"
            }
            Self::Emulation { .. } => {
                "the kernel must allow seccomp filters with a listener: see sampan doctor"
            }
            Self::Layers { .. } => "make one layer of them with: sampan convert IMAGE NEW.sif",
            Self::Exec(ExecError::NotFound { .. }) => {
                "look into the image with: sampan exec IMAGE ls /usr/bin"
            }
            Self::Exec(ExecError::Interpreter { .. }) => {
                "a dynamic program needs its loader: use an image with the same C library"
            }
            Self::Exec(ExecError::NotExecutable { .. }) => {
                "set its execute permission, or start it through its interpreter"
            }
            Self::Exec(ExecError::Architecture { .. }) => {
                "pull the image for this machine: sampan pull --platform"
            }
            Self::Chdir { .. } => "name a directory that the container has: --workdir DIR",
            _ => return None,
        })
    }
}
