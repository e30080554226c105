//! What can go wrong, what to do about it, and the exit code for it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use types::{ImageRefError, Platform};

use crate::config::ConfigError;

/// Exit codes, as `sampan help` documents them. `run`, `exec` and `shell` use
/// Docker's: 125 for an error of the engine, 126 for a command that cannot be
/// executed, 127 for a missing one, 128+n for signal n, and else the
/// command's own.
pub mod exit {
    /// Anything that has no code of its own.
    pub const FAILURE: i32 = 1;
    /// The command line or the configuration is wrong.
    pub const USAGE: i32 = 2;
    /// There is no such image, tag or platform.
    pub const NOT_FOUND: i32 = 3;
    /// The registry wants other credentials, or none may read the image.
    pub const UNAUTHORIZED: i32 = 4;
    /// The registry cannot be reached, is overloaded or does not answer as one.
    pub const UNREACHABLE: i32 = 5;
    /// An image is damaged, hostile, or not what its digest says.
    pub const INTEGRITY: i32 = 6;
    /// No space or quota left.
    pub const NO_SPACE: i32 = 7;
    /// The image is in use.
    pub const IN_USE: i32 = 8;
    /// An error of the engine, from a command that runs a container.
    pub const ENGINE: i32 = 125;

    /// Every code with its meaning, for help and manual.
    pub const TABLE: [(i32, &str); 12] = [
        (0, "success"),
        (FAILURE, "failure that has no code of its own"),
        (USAGE, "wrong command line or configuration"),
        (NOT_FOUND, "no such image, tag or platform"),
        (UNAUTHORIZED, "wrong or missing credentials"),
        (UNREACHABLE, "registry unreachable, overloaded or no registry"),
        (INTEGRITY, "image damaged, hostile or of another digest"),
        (NO_SPACE, "no space or quota left"),
        (IN_USE, "image in use"),
        (ENGINE, "run, exec, shell: any error of sampan itself"),
        (126, "run, exec, shell: the command cannot be executed"),
        (127, "run, exec, shell: the command is not in the image"),
    ];
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host's MPI cannot be used.
    #[error("the host's MPI cannot be used with this image: {0}")]
    Mpi(#[source] host::mpi::MpiError),
    /// The host's own root directory.
    #[error("cannot open the host's root directory")]
    HostRoot(#[source] io::Error),
    /// Sampan's own program file.
    #[error("cannot find sampan's own program file, which a container needs to reach other nodes")]
    Program(#[source] io::Error),
    /// PBS's list of the job's nodes.
    #[error("cannot read {path:?}, the list of the job's nodes (PBS_NODEFILE)")]
    NodeFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's random numbers.
    #[error("cannot get random numbers from the kernel")]
    Random(#[source] io::Error),
    /// A hook that changes the container wrongly.
    #[error("the {hook} cannot be followed: {reason}")]
    Precreate {
        /// The hook, or several.
        hook: String,
        /// What is wrong.
        reason: String,
    },
    /// The directory that hooks are told of.
    #[error("cannot write {path:?}, which hooks read")]
    Bundle {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An overlay that several processes are to write to, and that cannot be one container.
    #[error(
        "{path:?} cannot be written to by all that are started together (--sharens): the container has hooks, or namespaces beside that of its mounts"
    )]
    NotOne {
        /// The overlay directory.
        path: PathBuf,
    },
    /// A bind that the site forbids.
    #[error("{origin} shows {place:?}, which the site forbids ({by})")]
    ForbiddenBind {
        /// Who asked for it.
        origin: String,
        /// What is forbidden.
        place: PathBuf,
        /// Where that is written.
        by: String,
    },
    /// A registry that the site does not allow.
    #[error("{name} may not be fetched: the site allows {allowed} ({by})")]
    ForbiddenRegistry {
        /// The image.
        name: String,
        /// What is allowed.
        allowed: String,
        /// Where that is written.
        by: String,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// registries.conf.
    #[error(transparent)]
    Registries(#[from] registry::ConfigError),
    /// A request that makes no plan.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// A plan that could not be applied.
    #[error(transparent)]
    Runtime(#[from] runtime::RuntimeError),
    /// A text that names no image.
    #[error(transparent)]
    Name(#[from] ImageRefError),
    /// There is no home directory, and nothing says where images go.
    #[error("there is no place for images: neither HOME nor SAMPAN_STORE is set")]
    NoStore,
    /// The image is not in the store and must not be fetched.
    #[error("{name} is not in the store, and the pull policy is never ({origin})")]
    NotPulled {
        /// The image.
        name: String,
        /// Who says so.
        origin: String,
    },
    /// The image is not in the store.
    #[error("{name} is not in the store")]
    UnknownImage {
        /// The image.
        name: String,
    },
    /// Nobody says which library is meant.
    #[error("no library is configured, which {name} needs")]
    NoLibrary {
        /// The image.
        name: String,
    },
    /// A library's answer that makes no sense.
    #[error("{url} is no answer of a library: {reason}")]
    LibraryAnswer {
        /// Its address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of the web is another one than its digest says.
    #[error("{name} has the digest {found}, not {expected}")]
    FileDigest {
        /// The image.
        name: String,
        /// What somebody vouches for.
        expected: String,
        /// What came.
        found: String,
    },
    /// A file of the web is no image.
    #[error("{name} gives no image file")]
    NoImageFile {
        /// Its name.
        name: String,
        /// Why.
        source: Box<Error>,
    },
    /// A name of a registry that leads to no SIF file.
    #[error("{name} is no SIF file of a registry")]
    NoSifArtifact {
        /// The name.
        name: String,
    },
    /// A directory or a squashfs file cannot be pulled.
    #[error("{path:?} is an image as it is: there is nothing to pull")]
    NothingToPull {
        /// Its path.
        path: PathBuf,
    },
    /// The image exists, but not for this platform.
    #[error("{name} has nothing for {wanted}: it is made for {}", list(offered))]
    Platform {
        /// The image.
        name: String,
        /// What was wanted.
        wanted: Box<Platform>,
        /// What there is.
        offered: Vec<Platform>,
    },
    /// A manifest that is none.
    #[error("{name} has a manifest that cannot be used")]
    Document {
        /// The image.
        name: String,
        /// Why.
        source: types::DocumentError,
    },
    /// An index whose entry is another index.
    #[error("{name} has an index inside an index, which no specification allows")]
    NestedIndex {
        /// The image.
        name: String,
    },
    /// An image configuration that is none.
    #[error("{name} has a configuration that cannot be used")]
    ImageConfig {
        /// The image.
        name: String,
        /// Why.
        source: types::ImageConfigError,
    },
    /// The image configuration could not be transferred.
    #[error("cannot read the configuration of {name}")]
    ReadConfig {
        /// The image.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The configuration's descriptor announces too much.
    #[error("the configuration of {name} is said to have {size} bytes, more than {limit}")]
    LargeConfig {
        /// The image.
        name: String,
        /// Bytes announced.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The layers could not be made into an image.
    #[error("cannot convert {name}")]
    Convert {
        /// The image.
        name: String,
        /// Why.
        source: image::ConvertError,
    },
    /// An OCI layout or archive could not be read.
    #[error("cannot read {name}")]
    Archive {
        /// The image.
        name: String,
        /// Why.
        source: Box<image::ArchiveError>,
    },
    /// A path that should be an image cannot be looked at.
    #[error("cannot open the image {path:?}")]
    OpenImage {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A SIF file that cannot be read.
    #[error(transparent)]
    SifFile(#[from] sif::Error),
    /// An image file that cannot be used.
    #[error("{path:?} cannot be used: {reason}")]
    Sif {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A time of the environment that is none.
    #[error("SOURCE_DATE_EPOCH cannot be {text:?}: it is seconds since 1970")]
    Epoch {
        /// What it is.
        text: String,
    },
    /// A destination whose form is not told.
    #[error("{text:?} does not say what to write")]
    Destination {
        /// What was typed.
        text: String,
    },
    /// An image that cannot be written in a form of OCI.
    #[error("cannot write the image to {to}")]
    Put {
        /// Where to.
        to: String,
        /// Why.
        source: image::PutError,
    },
    /// Something is there already.
    #[error("{path:?} is there already")]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// A directory that is to become a directory.
    #[error("{path:?} is a directory already")]
    NothingToConvert {
        /// The directory.
        path: PathBuf,
    },
    /// A file that cannot be written.
    #[error("cannot write {path:?}")]
    Export {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file system of ext2, ext3 or ext4 that cannot be read.
    #[error("cannot read the ext file system at byte {offset} of {path:?}")]
    ReadExt {
        /// The file.
        path: PathBuf,
        /// Where it starts.
        offset: u64,
        /// Why.
        source: ext::Error,
    },
    /// Something of the web that cannot be fetched whole.
    #[error("cannot fetch {url}")]
    Download {
        /// Its address.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// An image that cannot be copied.
    #[error("cannot write the image to {path:?}")]
    Copy {
        /// The new file.
        path: PathBuf,
        /// Why.
        source: image::CopyError,
    },
    /// A path that is neither a directory nor a file.
    #[error("{path:?} is no image: neither a directory nor a regular file")]
    NotAnImage {
        /// Its path.
        path: PathBuf,
    },
    /// The source of a mount.
    #[error("cannot mount {path:?} ({origin})")]
    MountSource {
        /// The path on the host.
        path: PathBuf,
        /// What was typed.
        origin: String,
        /// Why.
        source: io::Error,
    },
    /// An image that has to be unpacked could not be.
    #[error("cannot unpack the image into {path:?}")]
    Unpack {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image that has to be unpacked could not be read.
    #[error("cannot read {path:?} of the image while unpacking it")]
    UnpackRead {
        /// Path in the image.
        path: PathBuf,
        /// Why.
        source: squashfs::Error,
    },
    /// An image cannot be unpacked.
    #[error("cannot unpack the image into {path:?}")]
    UnpackImage {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: image::UnpackError,
    },
    /// Layers of builds cannot be kept, looked at or removed.
    #[error("cannot keep layers of builds at {path:?}")]
    BuildCache {
        /// What cannot be written or read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of a layer has another content than its name says.
    #[error("{path:?} is damaged: it is the layer {found}")]
    LayerChanged {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: types::Digest,
    },
    /// The directory for unpacked images belongs to somebody else.
    #[error("{path:?} is not a directory of this user alone: images are not unpacked there")]
    ScratchOwner {
        /// The directory.
        path: PathBuf,
    },
    /// A name that is no part of a path.
    #[error("{name:?} is no name for a container")]
    NoContainerName {
        /// The name.
        name: String,
    },
    /// An instance that is not there.
    #[error("there is no instance {name:?} on this node")]
    NoInstance {
        /// The name.
        name: String,
    },
    /// An instance that has the name.
    #[error("there is an instance {name:?} already, process {pid}")]
    InstanceExists {
        /// The name.
        name: String,
        /// Its init.
        pid: u32,
    },
    /// Another process that starts an instance of the name.
    #[error("process {pid} is starting an instance {name:?}")]
    InstanceStarts {
        /// The name.
        name: String,
        /// The process.
        pid: u32,
    },
    /// An instance that cannot be reached from here.
    #[error("the instance {name:?} is on node {node:?}, in a PID namespace that is not this one")]
    InstanceElsewhere {
        /// The name.
        name: String,
        /// Its node.
        node: String,
    },
    /// An instance that is there no more.
    #[error("the instance {name:?} has ended")]
    InstanceEnded {
        /// The name.
        name: String,
    },
    /// A command that was killed with its instance.
    #[error("the instance {name:?} has ended, and the command in it was killed")]
    InstanceKilled {
        /// The name.
        name: String,
    },
    /// An instance that does not end.
    #[error(
        "the instance {name:?} was killed and is still there, process {pid}: a process that \
             entered it has not been waited for, or hangs in a file system"
    )]
    InstanceStays {
        /// The name.
        name: String,
        /// Its init.
        pid: u32,
    },
    /// An instance that cannot be signalled.
    #[error("cannot signal the instance {name:?}")]
    InstanceSignal {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The root directory of an instance.
    #[error("cannot look at the files of the instance {name:?}")]
    InstanceRoot {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A file of an instance.
    #[error("cannot use {path:?}, which an instance needs")]
    InstanceFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is written down of an instance.
    #[error("{path:?} is no record of an instance")]
    InstanceRecord {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An environment definition file.
    #[error(transparent)]
    Edf(#[from] crate::edf::EdfError),
    /// A CDI device that cannot be had.
    #[error(transparent)]
    Cdi(#[from] host::cdi::CdiError),
    /// A hook.
    #[error(transparent)]
    Hook(#[from] host::hooks::HookError),
    /// A device that is named by a path and cannot be had.
    #[error("--device {text:?}: {reason}")]
    Device {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A device whose place in the container cannot be made.
    #[error("{reason}: the host's /dev, which is shown, has no {path:?} to put the device at")]
    DevicePlace {
        /// Who wants it.
        reason: String,
        /// Path in the container.
        path: PathBuf,
    },
    /// Subordinate ids.
    #[error(transparent)]
    SubIds(#[from] host::subid::SubIdError),
    /// An image that is unpacked loses the owners that they are for.
    #[error("--root-emulation=subid needs /dev/fuse, which cannot be used")]
    SubIdsWithoutFuse(#[source] io::Error),
    /// The image has owners that the container has no ids for.
    #[error("{name} has files of user or group {largest}, and there are ids up to {} only", count - 1)]
    FewSubIds {
        /// What it is called.
        name: String,
        /// The largest id in it.
        largest: u32,
        /// How many ids there are, from 0 on.
        count: u64,
    },
    /// No child process to try things in.
    #[error("cannot probe the kernel")]
    Probe(#[source] io::Error),
}

fn list(platforms: &[Platform]) -> String {
    match platforms {
        [] => "no platform that it names".to_owned(),
        _ => platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The first error in a chain, including what an `io::Error` wraps, for which
/// `find` has an answer.
fn search<T>(
    error: &(dyn StdError + 'static),
    find: impl Fn(&(dyn StdError + 'static)) -> Option<T>,
) -> Option<T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = find(error) {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let full = |e: &io::Error| {
        matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    };
    search(error, |e| e.downcast_ref::<io::Error>().filter(|e| full(e)).map(|_| ())).is_some()
        || search(error, |e| {
            e.downcast_ref().filter(|e| matches!(e, store::Error::NoSpace { .. })).map(|_| ())
        })
        .is_some()
}

fn registry_code(error: &registry::Error) -> i32 {
    use registry::Error as E;
    match error.root() {
        E::NotFound { .. } => exit::NOT_FOUND,
        E::Unauthorized { .. } | E::Denied { .. } | E::Credentials(_) => exit::UNAUTHORIZED,
        E::DigestMismatch { .. } | E::SizeMismatch { .. } | E::TooLarge { .. } => exit::INTEGRITY,
        E::Config(_) | E::ShortName { .. } | E::Blocked { .. } | E::ProxyVariable { .. } => {
            exit::USAGE
        }
        _ => exit::UNREACHABLE,
    }
}

fn store_code(error: &store::Error) -> i32 {
    use store::Error as E;
    match error {
        E::NoImage { .. } | E::NoReference { .. } => exit::NOT_FOUND,
        E::Leased { .. } => exit::IN_USE,
        E::Ambiguous { .. } => exit::USAGE,
        _ => exit::FAILURE,
    }
}

impl Error {
    /// The exit code of a command that runs no container.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        use image::UnpackError as E;
        if is_full(self) {
            return exit::NO_SPACE;
        }
        match self {
            Self::Config(_)
            | Self::Registries(_)
            | Self::Name(_)
            | Self::NoContainerName { .. }
            | Self::Edf(_)
            | Self::Epoch { .. }
            | Self::Cdi(host::cdi::CdiError::Name(_))
            | Self::Device { .. }
            | Self::NoLibrary { .. }
            | Self::NothingToPull { .. } => exit::USAGE,
            Self::Cdi(host::cdi::CdiError::Unknown { .. }) => exit::NOT_FOUND,
            Self::Registry(error) => registry_code(error),
            Self::Store(error) => store_code(error),
            Self::InstanceExists { .. } | Self::InstanceStarts { .. } => exit::IN_USE,
            Self::Platform { .. }
            | Self::NotPulled { .. }
            | Self::UnknownImage { .. }
            | Self::NoInstance { .. }
            | Self::InstanceEnded { .. }
            | Self::InstanceElsewhere { .. } => exit::NOT_FOUND,
            Self::OpenImage { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                exit::NOT_FOUND
            }
            Self::SifFile(sif::Error::Corrupt { .. } | sif::Error::NotSif(_))
            | Self::Document { .. }
            | Self::NestedIndex { .. }
            | Self::ImageConfig { .. }
            | Self::LargeConfig { .. }
            | Self::FileDigest { .. }
            | Self::UnpackRead { .. } => exit::INTEGRITY,
            Self::UnpackImage {
                source: E::Read { .. } | E::Twice(_) | E::TooLarge { .. }, ..
            } => exit::INTEGRITY,
            Self::ReadConfig { .. } | Self::Convert { .. } | Self::Archive { .. } => {
                let from_registry =
                    search(self, |e| e.downcast_ref::<registry::Error>().map(registry_code));
                from_registry.unwrap_or(match self {
                    Self::Archive { .. } if self.is_absent() => exit::NOT_FOUND,
                    _ => exit::INTEGRITY,
                })
            }
            _ => exit::FAILURE,
        }
    }

    fn is_absent(&self) -> bool {
        let absent = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        search(self, |e| e.downcast_ref::<io::Error>().filter(|e| absent(e)).map(|_| ())).is_some()
    }

    /// The exit code of a command that runs a container.
    #[must_use]
    pub fn container_exit_code(&self) -> i32 {
        match self {
            Self::Runtime(error) => error.exit_code(),
            // Its processes were killed with it.
            Self::InstanceKilled { .. } => 137,
            _ => exit::ENGINE,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let own = match self {
            Self::Config(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Registries(error) => error.hint(),
            Self::Plan(error) => error.hint().map(str::to_owned),
            Self::Runtime(error) => error.hint().map(str::to_owned),
            Self::Cdi(error) => error.hint().map(str::to_owned),
            Self::SubIds(error) => Some(error.hint().to_owned()),
            Self::NotOne { .. } => {
                Some("let one process write, or leave out the hooks and namespaces".to_owned())
            }
            Self::SubIdsWithoutFuse(_) => Some(
                "/dev/fuse should have mode 0666, as udev sets it; --root-emulation=consistent \
                 does without"
                    .to_owned(),
            ),
            Self::FewSubIds { .. } => Some(
                "ask the administrator for larger ranges in /etc/subuid and /etc/subgid; \
                 --root-emulation=consistent needs none"
                    .to_owned(),
            ),
            Self::DevicePlace { .. } => {
                Some("give --contain, which makes a /dev of the container's own".to_owned())
            }
            Self::Device { .. } => Some(
                "a device is VENDOR/CLASS=NAME, or a path of this host's /dev: PATH[:PATH INSIDE]"
                    .to_owned(),
            ),
            Self::Destination { .. } => Some(
                "end it in .sif, .oci.sif, .sqfs or /, or say what it is: sif:, oci-sif:, \
                 squashfs:, dir:, oci:, oci-archive:, docker-archive: or docker://"
                    .to_owned(),
            ),
            Self::Mpi(error) => Some(error.hint().to_owned()),
            Self::Exists { .. } => Some("remove it, or replace a file with --force".to_owned()),
            Self::NothingToConvert { .. } => {
                Some("copy it with cp -a, or convert it to a .sif or .sqfs file".to_owned())
            }
            Self::Sif { hint, .. } => Some((*hint).to_owned()),
            Self::NoInstance { .. } => Some("sampan instance list shows those that run".to_owned()),
            Self::InstanceExists { name, .. } => {
                Some(format!("choose another name, or end it: sampan instance stop {name}"))
            }
            Self::InstanceStarts { .. } => Some("try again when it has started".to_owned()),
            Self::InstanceElsewhere { node, .. } => {
                Some(format!("work with it on {node}; its record is not touched here"))
            }
            Self::InstanceRecord { .. } => Some(
                "remove the file: another version of sampan has written it, or it is damaged"
                    .to_owned(),
            ),
            Self::NoStore => Some("set SAMPAN_STORE to a directory of yours".to_owned()),
            Self::NotPulled { name, .. } => Some(format!("fetch it first: sampan pull {name}")),
            Self::UnknownImage { .. } | Self::Store(store::Error::NoReference { .. }) => {
                Some("sampan images lists what is there".to_owned())
            }
            Self::NoLibrary { .. } => Some(
                "name one: library in the configuration, SAMPAN_LIBRARY or --library URL; or \
                 write its host, library://HOST/ENTITY/COLLECTION/CONTAINER"
                    .to_owned(),
            ),
            Self::NoSifArtifact { .. } => Some(
                "images of layers are named docker://, in definition files Bootstrap: docker"
                    .to_owned(),
            ),
            Self::NothingToPull { path } => Some(format!("run it: sampan run {}", path.display())),
            Self::Platform { offered, .. } => {
                offered.first().map(|one| format!("choose one of them: --platform {one}"))
            }
            Self::OpenImage { source, .. } if source.kind() == io::ErrorKind::NotFound => Some(
                "a name that starts with / or . or ends in .sqsh, .sqfs or .squashfs is a path; \
                 write docker:// before a registry's name"
                    .to_owned(),
            ),
            Self::MountSource { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("the path to mount must exist on this host".to_owned())
            }
            Self::LayerChanged { .. } => {
                Some("remove the file; the image's layers are then written as one".to_owned())
            }
            Self::ScratchOwner { .. } => {
                Some("set SAMPAN_SCRATCH to a directory of yours on a local disk".to_owned())
            }
            _ => None,
        };
        let inner = || search(self, |e| e.downcast_ref().and_then(registry::Error::hint));
        let full = || {
            is_full(self).then(|| {
                "free some space (sampan prune removes unused images), or set SAMPAN_STORE to a \
                 directory with more"
                    .to_owned()
            })
        };
        own.or_else(inner).or_else(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_found_however_deep() {
        let inner = io::Error::from(io::ErrorKind::StorageFull);
        let error = Error::ReadConfig { name: "x".into(), source: io::Error::other(inner) };
        assert_eq!(error.exit_code(), exit::NO_SPACE);
        assert!(error.hint().unwrap().contains("sampan prune"));
        let error = Error::Store(store::Error::NoSpace {
            path: "/s".into(),
            source: io::Error::from(io::ErrorKind::StorageFull),
        });
        assert_eq!(error.exit_code(), exit::NO_SPACE);
    }

    #[test]
    fn a_registrys_error_inside_a_stream_keeps_code_and_hint() {
        let denied = registry::Error::Unauthorized {
            registry: "r.example".into(),
            url: "https://r.example/v2/".into(),
            detail: "no".into(),
            with_credentials: false,
        };
        let error = Error::ReadConfig { name: "x".into(), source: io::Error::other(denied) };
        assert_eq!(error.exit_code(), exit::UNAUTHORIZED);
        assert!(error.hint().unwrap().contains("sampan login r.example"));
        assert_eq!(error.container_exit_code(), 125);
    }

    #[test]
    fn what_is_missing_says_what_there_is() {
        let error = Error::Platform {
            name: "a/b".into(),
            wanted: Box::new("linux/s390x".parse().unwrap()),
            offered: vec!["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()],
        };
        assert!(error.to_string().ends_with("made for linux/amd64, linux/arm64"));
        assert_eq!(error.exit_code(), exit::NOT_FOUND);
        assert_eq!(error.hint().unwrap(), "choose one of them: --platform linux/amd64");
    }
}
