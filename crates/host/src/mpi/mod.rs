//! The host's MPI in the container, where the two fit.
//!
//! An MPI library is known by its family, whose programs work with each other's
//! libraries, and by its version, the numbers of its file's name: sonames lie
//! (Cray's `libmpi.so.12` calls itself `libmpich_gnu_71.so.3`), and Debian's
//! MPICH is `libmpich.so.12`. [`check`] finds what host and image have,
//! compares, and says which libraries would be taken; nothing is started for
//! it, so a job need not be queued to learn that it cannot work.

mod find;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use plan::MountSpec;
use serde::Serialize;

use crate::companions::{Companions, with_companions};
use crate::inject::{InjectError, Injection, Wanted};
use crate::libraries::{Libc, Libraries, Library, Reach};

pub use find::{discover, host_search, packages};

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

impl Role {
    fn other(linker: &str) -> Self {
        Self::Other(linker.to_owned())
    }
}

/// The libraries of one MPI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mpi {
    /// Its family.
    pub family: Family,
    /// Its libraries, that for C among them.
    pub libraries: Vec<(Role, Library)>,
    /// How programs come to it.
    #[serde(rename = "origin")]
    pub reach: Reach,
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
        write!(f, "{} {version} ({path}, {})", self.family, self.reach)
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
    /// Nothing says how new one of them is.
    #[error(
        "the files of the image's {image} and the host's {host} do not both have a second number of the version in their names, which --mpi-policy={policy} compares"
    )]
    Unnumbered {
        /// The image's library.
        image: String,
        /// The host's.
        host: String,
        /// What was asked for.
        policy: Policy,
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
            Self::Minor { .. } | Self::Strict { .. } | Self::Unnumbered { .. } => {
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
/// said so; `env` is the host's environment.
#[must_use]
pub fn check(
    host: &Libraries<'_>,
    image: &Libraries<'_>,
    env: &[(OsString, OsString)],
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
    check.error = decide(&mut check, host, image, env, configured).err();
    check
}

fn decide(
    check: &mut Check,
    host: &Libraries<'_>,
    image: &Libraries<'_>,
    env: &[(OsString, OsString)],
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
    let mut first = None;
    for (ours, theirs) in pairs(&check.host, &check.image) {
        let others = check.image.iter().filter(|other| !std::ptr::eq(*other, theirs));
        let others: Vec<&Mpi> = others.filter(|other| other.family == ours.family).collect();
        let family = ours.family;
        let found =
            fit(ours, theirs, &others, image, check.policy).and_then(|(wanted, warnings)| {
                Ok((with_companions(host, image, env, wanted)?, warnings))
            });
        match found {
            Ok(((injection, companions), warnings)) => {
                check.chosen = Some(family);
                check.warnings = warnings;
                check.warnings.extend(injection.warnings.iter().cloned());
                (check.injection, check.companions) = (injection, companions);
                return Ok(());
            }
            Err(error) => {
                first.get_or_insert((family, error));
            }
        }
    }
    let Some((family, error)) = first else {
        return Err(MpiError::Family { image: list(&check.image), host: list(&check.host) });
    };
    check.chosen = Some(family);
    Err(error)
}

/// MPIs of the host and the image's of the same family, in the order in which they
/// are tried. Of each family the image's that programs find first is the one that
/// counts. Where only run paths lead to a family, nobody knows which of them a
/// program has: one that fits is enough.
fn pairs<'a>(host: &'a [Mpi], image: &'a [Mpi]) -> Vec<(&'a Mpi, &'a Mpi)> {
    let best = |family| image.iter().find(|mpi| mpi.family == family);
    let found = |mpi: &&Mpi| mpi.reach != Reach::Apart;
    let first = |mpi: &&Mpi| best(mpi.family).is_some_and(|best| std::ptr::eq(best, *mpi));
    let known: Vec<&Mpi> = image.iter().filter(found).filter(first).collect();
    let lost = |mpi: &&Mpi| best(mpi.family).is_some_and(|best| !found(&best));
    let unknown: Vec<&Mpi> = image.iter().filter(lost).collect();
    let with = |ours: &'a Mpi, all: &[&'a Mpi]| -> Vec<(&'a Mpi, &'a Mpi)> {
        let same = all.iter().filter(|theirs| theirs.family == ours.family);
        same.map(|theirs| (ours, *theirs)).collect()
    };
    [known, unknown].iter().flat_map(|all| host.iter().flat_map(|ours| with(ours, all))).collect()
}

/// What is wanted so that one of the host's MPIs stands for one of the image's, and
/// what should be known. The image's others of the family become it too where it
/// may stand for them, and stay else.
fn fit(
    ours: &Mpi,
    theirs: &Mpi,
    others: &[&Mpi],
    image: &Libraries<'_>,
    policy: Policy,
) -> Result<(Vec<Wanted>, Vec<String>), MpiError> {
    let mut warnings = compare_all(ours, theirs, policy)?;
    let mut replaced = vec![theirs];
    let mut spared = Vec::new();
    for other in others {
        match compare_all(ours, other, policy) {
            Ok(more) => {
                warnings.extend(more);
                replaced.push(other);
            }
            Err(error) => {
                warnings.push(format!("{other} of the image stays: {error}"));
                spared.extend(other.libraries.iter().map(|(_, library)| library.real.clone()));
            }
        }
    }
    // OpenSHMEM is another interface, of programs that know no MPI.
    let lacks = |(role, _): &&(Role, Library)| {
        ours.libraries.iter().all(|(own, _)| own != role) && *role != Role::other("liboshmem")
    };
    let lacking = theirs.libraries.iter().filter(lacks);
    let lacking: Vec<&str> = lacking.map(|(_, library)| library.name.as_str()).collect();
    if !lacking.is_empty() {
        let (names, family) = (lacking.join(", "), ours.family);
        warnings.push(format!("the host's {family} has no {names}: the image's stays beside it"));
    }
    let mut wanted = Vec::new();
    let mut roles: Vec<&Role> = Vec::new();
    for (role, library) in &ours.libraries {
        // Cray's have one for each compiler.
        if roles.contains(&role) {
            continue;
        }
        roles.push(role);
        let counterparts = replaced.iter().flat_map(|mpi| &mpi.libraries);
        let counterparts: Vec<&Library> =
            counterparts.filter(|(r, _)| r == role).map(|(_, library)| library).collect();
        if counterparts.is_empty() {
            continue;
        }
        let names = counterparts.iter().map(|other| other.name.clone());
        let aliases = names.filter(|name| name != library.soname()).collect();
        let files = counterparts.iter().flat_map(|other| image.find_all(&other.name));
        let replaces = files.map(|library| library.real).collect();
        let plain = Wanted::new(library.clone(), true, format!("{} of the host", ours.family));
        wanted.push(Wanted { replaces, aliases, spared: spared.clone(), ..plain });
    }
    Ok((wanted, warnings))
}

/// Compares the libraries that two MPIs both have; what comes back are warnings.
fn compare_all(ours: &Mpi, theirs: &Mpi, policy: Policy) -> Result<Vec<String>, MpiError> {
    let mut warnings = Vec::new();
    for (role, library) in &ours.libraries {
        for (_, other) in theirs.libraries.iter().filter(|(r, _)| r == role) {
            warnings.extend(compare(library, other, policy)?);
        }
    }
    Ok(warnings)
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
        (Policy::Full | Policy::Strict, None) => {
            Err(MpiError::Unnumbered { image: image_text, host: host_text, policy })
        }
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
