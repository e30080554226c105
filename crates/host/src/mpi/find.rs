//! Where MPI libraries are, and which family they are of.

use std::path::{Path, PathBuf};

use plan::{EntryKind, SearchTree, resolve};

use super::{Family, Mpi, Role};
use crate::libraries::{Libraries, Library, Version, search_path};

/// How the names of MPI libraries begin.
const PREFIXES: [&str; 4] = ["libmpi", "libmpich", "liboshmem", "libfmpich"];

/// Directories below which packages of MPI are installed on their own.
const PACKAGES: [&str; 4] = ["/opt", "/usr/lib64", "/usr/lib", "/usr/local"];
/// Most packages that are looked at in each of them.
const MOST_PACKAGES: usize = 128;

/// The MPIs among the libraries of a root file system, in the order in which
/// programs find them: what a search path names comes before what the system
/// has, and last what only a run path leads to. The libraries of one lie in one
/// directory, or in one and the one below. Where directories are given, no other is looked at.
#[must_use]
pub fn discover(libraries: &Libraries<'_>, only: &[PathBuf]) -> Vec<Mpi> {
    let mut found: Vec<(PathBuf, Mpi)> = Vec::new();
    let mut names = libraries.names(&PREFIXES);
    // `libmpi.so.12` before `libmpi.so.12.2.0`, which is the same library.
    names.sort_by_key(|name| Version::of(name).0.len());
    for name in names.iter().filter(|name| Version::of(name).major().is_some()) {
        for library in libraries.find_all(name) {
            let inside = |dir: &PathBuf| library.path.starts_with(dir);
            if !only.is_empty() && !only.iter().any(inside) {
                continue;
            }
            let (Some((family, role)), Some(dir)) = (classify(&library), library.real.parent())
            else {
                continue;
            };
            let (dir, reach) = (dir.to_owned(), libraries.reach(&library));
            let one = (role, library);
            match found.iter_mut().find(|(other, mpi)| *other == dir && mpi.family == family) {
                Some((_, mpi)) => {
                    mpi.reach = mpi.reach.min(reach);
                    if !mpi.libraries.iter().any(|other| same(other, &one)) {
                        mpi.libraries.push(one);
                    }
                }
                None => found.push((dir, Mpi { family, libraries: vec![one], reach })),
            }
        }
    }
    let (mut whole, parts): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(_, mpi)| mpi.c().is_some());
    for (dir, part) in parts {
        // Intel's library for C is in a directory below that of the others.
        let near = |other: &Path| other.parent() == Some(&*dir) || dir.parent() == Some(other);
        let with = |(other, mpi): &&mut (PathBuf, Mpi)| mpi.family == part.family && near(other);
        if let Some((_, mpi)) = whole.iter_mut().find(with) {
            let lacks = |(role, _): &(Role, Library)| mpi.libraries.iter().all(|(r, _)| r != role);
            let more: Vec<_> = part.libraries.into_iter().filter(lacks).collect();
            mpi.libraries.extend(more);
        }
    }
    let mut found: Vec<Mpi> = whole.into_iter().map(|(_, mpi)| mpi).collect();
    found.sort_by_key(|mpi| mpi.reach);
    found
}

/// Whether two names are of one library: copies take the place of links where
/// a package format knows none.
fn same((_, a): &(Role, Library), (_, b): &(Role, Library)) -> bool {
    let linker = |library: &Library| library.name.split(".so").next().map(str::to_owned);
    let number = |library: &Library| library.version.major();
    a.real == b.real || (linker(a) == linker(b) && number(a) == number(b))
}

/// The family and part of a library, by its names and by what it needs.
fn classify(library: &Library) -> Option<(Family, Role)> {
    let (linker, _) = library.name.split_once(".so")?;
    let open = library.elf.needed.iter().any(|n| n.starts_with("libopen-"));
    let major = library.version.major()?;
    Some(match linker {
        "libmpi_abi" => (Family::Standard, Role::C),
        "libmpifort_abi" => (Family::Standard, Role::Fortran),
        "libmpich" => (Family::Mpich, Role::C),
        "libmpicxx" | "libmpichcxx" => (Family::Mpich, Role::Cxx),
        "libmpifort" | "libmpichfort" | "libmpichf90" | "libfmpich" => {
            (Family::Mpich, Role::Fortran)
        }
        "libmpi" if open || major >= 20 => (Family::OpenMpi, Role::C),
        "libmpi" if major == 12 => (Family::Mpich, Role::C),
        // Cray has one for each compiler.
        _ if linker.starts_with("libmpi_") && major == 12 && !open => (Family::Mpich, Role::C),
        _ if linker.starts_with("libmpifort_") && major == 12 => (Family::Mpich, Role::Fortran),
        _ if (linker.starts_with("libmpi_") || linker == "liboshmem") && major >= 20 => {
            (Family::OpenMpi, Role::other(linker))
        }
        _ => return None,
    })
}

/// Directories in which to look on the host before the system's: what the
/// configuration names alone, or the search path and where the launcher is.
#[must_use]
pub fn host_search(
    tree: &dyn SearchTree,
    configured: &[PathBuf],
    library_path: Option<&str>,
    path: Option<&str>,
) -> Vec<PathBuf> {
    if !configured.is_empty() {
        return configured_search(configured);
    }
    let mut dirs = library_path.map(search_path).unwrap_or_default();
    for dir in path.map(search_path).unwrap_or_default() {
        for program in ["mpirun", "mpicc", "mpiexec"] {
            let Ok((real, entry)) = resolve(tree, &dir.join(program)) else { continue };
            if entry.is_none_or(|entry| entry.kind != EntryKind::File) {
                continue;
            }
            // PREFIX/bin/mpirun
            let prefix = real.parent().and_then(Path::parent);
            for lib in prefix.iter().flat_map(|p| [p.join("lib"), p.join("lib64")]) {
                // The system's directories are searched anyway.
                if !lib.starts_with("/usr/lib") && lib != Path::new("/lib") && !dirs.contains(&lib)
                {
                    dirs.push(lib);
                }
            }
        }
    }
    dirs
}

/// Directories of libraries below those that the configuration names.
#[must_use]
pub fn configured_search(configured: &[PathBuf]) -> Vec<PathBuf> {
    let below = |dir: &PathBuf| [dir.join("lib"), dir.join("lib64"), dir.clone()];
    configured.iter().flat_map(below).collect()
}

/// Directories of an image in which packages of MPI install themselves, and
/// programs look only by a run path of their own.
#[must_use]
pub fn packages(tree: &dyn SearchTree) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for base in PACKAGES.map(Path::new) {
        let Ok((real, _)) = resolve(tree, base) else { continue };
        let names = tree.names(&real).unwrap_or_default();
        let mut names: Vec<_> = names.into_iter().filter_map(|n| n.into_string().ok()).collect();
        names.sort();
        let mpi = |name: &&String| {
            let name = name.to_ascii_lowercase();
            base == Path::new("/opt") || name.contains("mpi") || name.contains("mvapich")
        };
        for name in names.iter().filter(mpi).take(MOST_PACKAGES) {
            for lib in ["lib", "lib64"] {
                dirs.push(base.join(name).join(lib));
            }
        }
    }
    dirs
}
