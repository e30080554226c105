//! What a container will be, as plain data.
//!
//! [`build`] is a pure function from a [`RunRequest`] (what was asked for),
//! [`HostFacts`] (what this host is), a [`RootTree`] (what the image holds)
//! and [`Contribution`]s (what site and host integrations add) to a [`Plan`].
//! The plan lists every operation with its reason; `--dry-run` prints the very
//! value that the runtime executes. Nothing in this crate touches the system,
//! so a Cray or a Slurm node is a test fixture.
//!
//! ```text
//! RunRequest ─┐
//! HostFacts  ─┤
//! RootTree   ─┼─ build ─→ Plan {rootfs, namespaces, ops, env, process} ─→ runtime
//! Contribution┘
//! ```
#![forbid(unsafe_code)]

mod build;
mod contribution;
mod env;
mod error;
mod facts;
mod files;
mod hook;
mod mounts;
mod process;
mod remote;
mod render;
mod request;
mod scripts;
mod tree;

pub use build::{Exec, build, exec};
pub use contribution::{Contribution, FileSpec, Merged, MountSpec, Rank, merge};
pub use env::DEFAULT_PATH;
pub use error::PlanError;
pub use facts::{HostFacts, IdRange, KernelCaps, NamedUser, SubIds};
pub use hook::{Hook, Stage, StageError};
pub use mounts::{DeviceNode, MINIMAL_DEVICES};
pub use remote::{Remote, RemoteShell};
pub use render::render_text;
pub use request::{
    Command, HomeChoice, Identity, ImagePart, Isolation, MountFlags, MountRequest, MountSource,
    OtherNodes, RootEmulation, RootSource, RunRequest, Skip, UserSpec, UserSpecError, Writable,
};
pub use scripts::SCRIPTS;
pub use tree::{Entry, EntryKind, RootTree, SearchTree, TreeError, resolve};

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};

/// How the image becomes a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageMount {
    /// The in-process FUSE server serves the file.
    Fuse,
    /// The kernel's own squashfs over a loop device; needs real root.
    KernelSquashfs,
    /// A directory is bound.
    Bind,
}

/// The layer that takes writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Upper {
    /// None: the root file system is read-only.
    None,
    /// Memory, lost when the container ends.
    Tmpfs,
    /// `DIR/upper` and `DIR/work` of an overlay directory.
    Directory {
        /// The overlay directory on the host.
        path: PathBuf,
        /// Whether what is written need not survive a crash of the machine.
        volatile: bool,
    },
}

/// A file or directory that the engine adds over the image, in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Skeleton {
    /// Path inside the container, absolute, free of symbolic links.
    pub path: PathBuf,
    /// What it is.
    pub kind: SkeletonKind,
    /// Permission bits.
    pub mode: u32,
    /// Why it is there.
    pub reason: String,
}

/// What a [`Skeleton`] entry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkeletonKind {
    /// A directory, often a mount point that the image lacks.
    Directory,
    /// A file with these bytes; empty for a mount point.
    File(#[serde(serialize_with = "lossy_bytes")] Vec<u8>),
    /// A symbolic link and what it says.
    Symlink(PathBuf),
}

/// The root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rootfs {
    /// What the image is.
    pub source: RootSource,
    /// How it is mounted.
    pub mount: ImageMount,
    /// What lies over it in memory.
    pub skeleton: Vec<Skeleton>,
    /// Read-only directories between the skeleton and the image, topmost
    /// first.
    pub lowers: Vec<PathBuf>,
    /// What takes writes.
    pub upper: Upper,
    /// Whether the image's own directory is writable.
    pub in_place: bool,
    /// Whether an overlay serves better where there is a choice.
    pub overlaid: bool,
}

impl Rootfs {
    /// Whether anything lies over the image, which takes an overlay or
    /// [`Plan::view`].
    #[must_use]
    pub fn overlay(&self) -> bool {
        let layered = matches!(&self.source, RootSource::Squashfs { parts } if parts.len() > 1);
        !self.in_place
            && (layered
                || !self.skeleton.is_empty()
                || self.overlaid && self.mount == ImageMount::Fuse
                || !self.lowers.is_empty()
                || self.upper != Upper::None)
    }
}

/// The namespaces that the container does not share with the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Namespaces {
    /// User: false only for real root, which needs none.
    pub user: bool,
    /// Process ids.
    pub pid: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Network; private means loopback alone.
    pub net: bool,
}

/// Who the process is, inside and outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMap {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// User id outside.
    pub host_uid: u32,
    /// Group id outside.
    pub host_gid: u32,
}

/// One step towards the container, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PlanOp {
    /// The step.
    #[serde(flatten)]
    pub op: Op,
    /// Why.
    pub reason: String,
}

/// What a step does. Targets are paths inside the container, absolute and
/// free of symbolic links.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum Op {
    /// Bind a file or directory of the host.
    Bind {
        /// Path on the host.
        source: PathBuf,
        /// Path in the container.
        target: PathBuf,
        /// Flags.
        flags: MountFlags,
        /// Make the mount point when it is absent, because it lies in
        /// another mount and the skeleton cannot hold it.
        create: bool,
        /// Pass over a source that is absent or refused.
        optional: bool,
    },
    /// Mount a file system in memory.
    Tmpfs {
        /// Path in the container.
        target: PathBuf,
        /// Size limit in bytes; None is the kernel's half of memory.
        size: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
        /// Make the mount point when it is absent.
        create: bool,
    },
    /// Mount a new procfs, for a new PID namespace.
    Proc {
        /// Path in the container.
        target: PathBuf,
    },
    /// Mount a new sysfs, for a new network namespace.
    Sysfs {
        /// Path in the container.
        target: PathBuf,
    },
    /// Mount a POSIX message queue file system, for a new IPC namespace.
    Mqueue {
        /// Path in the container.
        target: PathBuf,
    },
    /// Mount a new pseudo-terminal file system.
    Devpts {
        /// Path in the container.
        target: PathBuf,
    },
    /// Make a directory in a mount made before.
    Mkdir {
        /// Path in the container.
        target: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Make a symbolic link in a mount made before.
    Symlink {
        /// What the link says.
        to: PathBuf,
        /// Path of the link in the container.
        target: PathBuf,
    },
    /// Hide a file or directory behind an empty one.
    Mask {
        /// Path in the container; absent ones are passed over.
        target: PathBuf,
    },
    /// Make a mount point of a subtree and forbid writing to it.
    Protect {
        /// Path in the container; absent ones are passed over.
        target: PathBuf,
    },
    /// Set the host name of a new UTS namespace.
    Hostname {
        /// The name.
        name: String,
    },
    /// Bring up `lo` in a new network namespace.
    LoopbackUp,
    /// Drop capabilities that a container has no use for.
    DropCapabilities,
}

/// A variable of the container's environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnvVar {
    /// Its name.
    #[serde(serialize_with = "lossy")]
    pub name: OsString,
    /// Its value, literal.
    #[serde(serialize_with = "lossy")]
    pub value: OsString,
    /// Who set it.
    pub reason: String,
}

/// The process to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The words; the first is looked up in the container's PATH when it has
    /// no slash.
    #[serde(serialize_with = "lossy_list")]
    pub argv: Vec<OsString>,
    /// Where it starts; when that fails, the next one, and so on.
    pub cwd: Vec<PathBuf>,
    /// Why it starts there.
    pub cwd_reason: String,
    /// The signal that asks the process to end, where a supervisor passes it on.
    pub stop_signal: Option<String>,
}

/// A container, decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The root file system.
    pub rootfs: Rootfs,
    /// The namespaces.
    pub namespaces: Namespaces,
    /// The identity.
    pub id_map: IdMap,
    /// The other ids that the container has, where it has any.
    pub sub_ids: Option<SubIds>,
    /// How root is emulated.
    pub root_emulation: RootEmulation,
    /// Who root then seems to be: user and group.
    pub emulated_user: Option<(u32, u32)>,
    /// The steps, in order.
    pub ops: Vec<PlanOp>,
    /// The environment, in the order of names.
    pub env: Vec<EnvVar>,
    /// The process.
    pub process: Process,
    /// Programs to run on the way, in order within a stage.
    pub hooks: Vec<Hook>,
    /// How a launcher inside reaches other nodes.
    pub remote: Option<Remote>,
    /// What hooks are told of the container.
    pub annotations: BTreeMap<String, String>,
    /// Whether those that the same process starts at once, and that are alike, are one:
    /// they have one mount namespace.
    pub one: bool,
    /// What a person should know but need not stop for.
    pub warnings: Vec<String>,
}

/// What binds a process that enters the container later, beside its namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The identity.
    pub id_map: IdMap,
    /// Whether there is a user namespace, which makes that identity.
    pub user_namespace: bool,
    /// Whether it has subordinate ids, and setuid programs with them.
    pub sub_ids: bool,
    /// How root is emulated.
    pub root_emulation: RootEmulation,
    /// The host's directory that takes writes, where there is one.
    pub upper: Option<PathBuf>,
    /// Whether capabilities are dropped.
    pub drops_capabilities: bool,
}

impl Plan {
    /// Whether the image server shows what lies over the image itself, so that there
    /// is no overlay to go through. It answers only processes of the container's user
    /// namespace, which hooks are not in.
    #[must_use]
    pub fn view(&self) -> bool {
        let root = &self.rootfs;
        let one = matches!(&root.source, RootSource::Squashfs { parts } if parts.len() == 1);
        let additions = root.overlay() && root.lowers.is_empty() && root.upper == Upper::None;
        let emulated = self.root_emulation != RootEmulation::None;
        let free = !root.overlaid && !emulated && self.hooks.is_empty();
        one && root.mount == ImageMount::Fuse && additions && free
    }

    /// Whether others can be one with it: nothing but mounts makes it, and those are made
    /// once.
    #[must_use]
    pub fn may_be_one(&self) -> bool {
        let Namespaces { pid, ipc, uts, net, .. } = self.namespaces;
        !(pid || ipc || uts || net) && self.hooks.is_empty() && self.remote.is_none()
    }

    /// Whether it has something that takes writes and is its own.
    #[must_use]
    pub fn keeps_writes(&self) -> bool {
        let memory = |step: &PlanOp| matches!(step.op, Op::Tmpfs { .. });
        self.rootfs.upper != Upper::None || self.ops.iter().any(memory)
    }

    /// What binds those who enter later.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds {
            id_map: self.id_map,
            user_namespace: self.namespaces.user,
            sub_ids: self.sub_ids.is_some(),
            root_emulation: self.root_emulation,
            upper: match &self.rootfs.upper {
                Upper::Directory { path, .. } => Some(path.clone()),
                Upper::None | Upper::Tmpfs => None,
            },
            drops_capabilities: self.ops.iter().any(|op| op.op == Op::DropCapabilities),
        }
    }
}

fn lossy<S: Serializer>(text: &OsString, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&text.to_string_lossy())
}

fn lossy_list<S: Serializer>(list: &[OsString], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(list.iter().map(|t| t.to_string_lossy().into_owned()))
}

/// As text for people; a binary format has the bytes as they are.
fn lossy_bytes<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    match s.is_human_readable() {
        true => s.serialize_str(&String::from_utf8_lossy(bytes)),
        false => bytes.serialize(s),
    }
}
