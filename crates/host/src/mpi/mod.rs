//! The host's MPI in the container, where the two fit.
//!
//! An MPI library is known by its family, whose programs work with each other's
//! libraries, and by its version, the numbers of its file's name: sonames lie
//! (Cray's `libmpi.so.12` calls itself `libmpich_gnu_71.so.3`), and Debian's
//! MPICH is `libmpich.so.12`. [`check`] finds what host and image have,
//! compares, and says which libraries would be taken; nothing is started for
//! it, so a job need not be queued to learn that it cannot work.

mod find;

use std::fmt;
use std::path::PathBuf;

use plan::MountSpec;
use serde::Serialize;

use crate::companions::{Companions, with_companions};
use crate::inject::{InjectError, Injection, Wanted};
use crate::libraries::{Libc, Libraries, Library};

pub use find::{discover, host_search, image_search};

/// MPI libraries whose programs work with each other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// MPICH's ABI: MPICH, Intel MPI, Cray MPICH, MVAPICH2.
    Mpich,
    /// Open MPI's.
    OpenMpi,
    /// The standard ABI of MPI 5.
    Standard,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mpich => "MPICH ABI",
            Self::OpenMpi => "Open MPI",
            Self::Standard => "MPI standard ABI",
        })
    }
}

/// Which part of MPI a library holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The functions for C.
    C,
    /// Those for C++.
    Cxx,
    /// Those for Fortran, of families that have them in one library.
    Fortran,
    /// Another one, by its linker name.
    Other(String),
}

/// The libraries of one MPI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mpi {
    /// Its family.
    pub family: Family,
    /// Its libraries, that for C among them.
    pub libraries: Vec<(Role, Library)>,
    /// How it was found.
    pub origin: String,
}

impl Mpi {
    /// The library for C, which every program uses.
    #[must_use]
    pub fn c(&self) -> Option<&Library> {
        self.libraries.iter().find(|(role, _)| *role == Role::C).map(|(_, library)| library)
    }
}

impl fmt::Display for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let library = self.c();
        let version = library.map(|l| l.version.to_string()).unwrap_or_default();
        let path = library.map(|l| l.path.display().to_string()).unwrap_or_default();
        write!(f, "{} {version} ({path}, {})", self.family, self.origin)
    }
}

/// How well the host's MPI has to fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The first number of the versions is the same; that the image's second one
    /// is newer is a warning.
    #[default]
    Major,
    /// And the host's second number is not smaller.
    Full,
    /// The first two numbers are the same.
    Strict,
}

types::words!(Policy { "major" => Major, "full" => Full, "strict" => Strict });

/// Why the host's MPI cannot stand in for the image's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MpiError {
    /// None on the host.
    #[error("no MPI library was found {}", place(named))]
    NoHost {
        /// Where the configuration says that it is.
        named: Vec<PathBuf>,
    },
    /// None in the image.
    #[error("no MPI library was found in the image; the host has {host}")]
    NoImage {
        /// The host's.
        host: String,
    },
    /// musl.
    #[error(
        "the image's C library is {has}: no MPI of the host can ever be loaded there; the host has {host}"
    )]
    Libc {
        /// The image's.
        has: Libc,
        /// The host's MPI.
        host: String,
    },
    /// Different families.
    #[error(
        "the image has {image}, and the host has {host}: programs of one family cannot use another's library"
    )]
    Family {
        /// What the image has.
        image: String,
        /// What the host has.
        host: String,
    },
    /// Different first numbers.
    #[error(
        "the image's {image} and the host's {host} differ in the first number of their versions"
    )]
    Major {
        /// The image's library.
        image: String,
        /// The host's.
        host: String,
    },
    /// The image's is newer.
    #[error(
        "the image's {image} is newer than the host's {host}, which --mpi-policy=full does not allow"
    )]
    Minor {
        /// The image's library.
        image: String,
        /// The host's.
        host: String,
    },
    /// Not the same.
    #[error(
        "the image's {image} and the host's {host} are not of the same version, which --mpi-policy=strict asks for"
    )]
    Strict {
        /// The image's library.
        image: String,
        /// The host's.
        host: String,
    },
    /// A library that does not work in the image.
    #[error(transparent)]
    Inject(#[from] InjectError),
}

fn place(named: &[PathBuf]) -> String {
    if named.is_empty() {
        return "on the host".to_owned();
    }
    let all: Vec<String> = named.iter().map(|path| path.display().to_string()).collect();
    format!("in {} (mpi_path)", all.join(", "))
}

impl MpiError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoHost { .. } => {
                "load the MPI's module, or name its directory in the configuration: mpi_path"
            }
            Self::NoImage { .. } => {
                "sampan looks where the image's dynamic linker does, and in LD_LIBRARY_PATH of the image: run without --mpi=host if the program is linked statically"
            }
            Self::Libc { .. } => {
                "build the image on a distribution with glibc, or run its own MPI: --mpi=container"
            }
            Self::Family { .. } | Self::Major { .. } => {
                "build the image with an MPI of the host's family, or run its own MPI with the host's launcher: --mpi=auto"
            }
            Self::Minor { .. } | Self::Strict { .. } => {
                "--mpi-policy=major allows it; sampan mpi check IMAGE shows the versions"
            }
            Self::Inject(error) => error.hint(),
        }
    }
}

/// What is to be known of host and image, and what would be done.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What the host has, best first.
    pub host: Vec<Mpi>,
    /// What the image has.
    pub image: Vec<Mpi>,
    /// The image's C library.
    pub libc: Libc,
    /// The policy.
    pub policy: Policy,
    /// The host's MPI that was chosen.
    pub chosen: Option<Family>,
    /// What should be known.
    pub warnings: Vec<String>,
    /// The libraries that are taken.
    pub injection: Injection,
    /// Directories that they need beside them.
    #[serde(skip)]
    pub companions: Companions,
    /// Why it cannot be done.
    #[serde(serialize_with = "as_text")]
    pub error: Option<MpiError>,
}

fn as_text<S: serde::Serializer>(error: &Option<MpiError>, s: S) -> Result<S::Ok, S::Error> {
    match error {
        Some(error) => s.collect_str(error),
        None => s.serialize_none(),
    }
}

impl Check {
    /// The number of the image's MPI libraries that are replaced.
    #[must_use]
    pub fn replaced(&self) -> usize {
        self.injection.taken.iter().filter(|taken| !taken.replaces.is_empty()).count()
    }

    /// Mounts of directories beside the libraries.
    #[must_use]
    pub fn mounts(&self) -> &[MountSpec] {
        &self.companions.mounts
    }
}

/// Compares the MPI of host and image, and works out what would be taken.
/// `configured` are the directories in which the host's is, where somebody has
/// said so.
#[must_use]
pub fn check(
    host: &Libraries<'_>,
    image: &Libraries<'_>,
    configured: &[PathBuf],
    policy: Policy,
) -> Check {
    let mut check = Check {
        host: discover(host, configured),
        image: discover(image, &[]),
        libc: image.libc(),
        policy,
        chosen: None,
        warnings: Vec::new(),
        injection: Injection::default(),
        companions: Companions::default(),
        error: None,
    };
    check.error = decide(&mut check, host, image, configured).err();
    check
}

fn decide(
    check: &mut Check,
    host: &Libraries<'_>,
    image: &Libraries<'_>,
    configured: &[PathBuf],
) -> Result<(), MpiError> {
    let list = |all: &[Mpi]| all.iter().map(Mpi::to_string).collect::<Vec<_>>().join(" and ");
    if check.host.is_empty() {
        return Err(MpiError::NoHost { named: configured.to_vec() });
    }
    if check.libc == Libc::Musl {
        let (has, host) = (check.libc.clone(), list(&check.host));
        return Err(MpiError::Libc { has, host });
    }
    if check.image.is_empty() {
        return Err(MpiError::NoImage { host: list(&check.host) });
    }
    let same = |host: &&Mpi| check.image.iter().any(|image| image.family == host.family);
    let Some(ours) = check.host.iter().find(same).cloned() else {
        return Err(MpiError::Family { image: list(&check.image), host: list(&check.host) });
    };
    check.chosen = Some(ours.family);
    let theirs = check.image.iter().filter(|image| image.family == ours.family);
    let theirs: Vec<&(Role, Library)> = theirs.flat_map(|image| &image.libraries).collect();
    let mut wanted = Vec::new();
    let mut warnings = Vec::new();
    for (role, library) in &ours.libraries {
        let counterparts: Vec<&Library> =
            theirs.iter().filter(|(r, _)| r == role).map(|(_, l)| l).collect();
        for other in &counterparts {
            warnings.extend(compare(library, other, check.policy)?);
        }
        if counterparts.is_empty() && *role != Role::C {
            continue;
        }
        let names = counterparts.iter().map(|other| other.name.clone());
        let aliases = names.filter(|name| name != library.soname()).collect();
        let replaces = replaced(image, &counterparts);
        let reason = format!("{} of the host", ours.family);
        let one = Wanted::new(library.clone(), true, reason);
        wanted.push(Wanted { replaces, aliases, ..one });
    }
    check.warnings = warnings;
    (check.injection, check.companions) = with_companions(host, image, wanted)?;
    check.warnings.extend(check.injection.warnings.iter().cloned());
    Ok(())
}

/// The files of the image that stand behind its libraries' names.
fn replaced(image: &Libraries<'_>, counterparts: &[&Library]) -> Vec<PathBuf> {
    let all = counterparts.iter().flat_map(|library| image.find_all(&library.name));
    all.map(|library| library.real).collect()
}

/// Whether a library of the host may stand for one of the image; what comes
/// back is a warning.
fn compare(host: &Library, image: &Library, policy: Policy) -> Result<Option<String>, MpiError> {
    let text = |library: &Library| format!("{} {}", library.name, library.version);
    let (image_text, host_text) = (text(image), text(host));
    if host.version.major() != image.version.major() {
        return Err(MpiError::Major { image: image_text, host: host_text });
    }
    let minors = host.version.minor().zip(image.version.minor());
    match (policy, minors) {
        (_, None) => Ok(None),
        (Policy::Strict, Some((host, image))) if host != image => {
            Err(MpiError::Strict { image: image_text, host: host_text })
        }
        (Policy::Full, Some((host, image))) if host < image => {
            Err(MpiError::Minor { image: image_text, host: host_text })
        }
        (Policy::Major, Some((host, image))) if host < image => Ok(Some(format!(
            "the image's {image_text} is newer than the host's {host_text}: \
             a program that uses what was added will not start"
        ))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
