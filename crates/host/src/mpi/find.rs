//! Where MPI libraries are, and which family they are of.

use std::path::{Path, PathBuf};

use plan::{EntryKind, SearchTree, resolve};

use super::{Family, Mpi, Role};
use crate::libraries::{Libraries, Library, Version, search_path};

/// How the names of MPI libraries begin.
const PREFIXES: [&str; 4] = ["libmpi", "libmpich", "liboshmem", "libfmpich"];

/// Directories below which packages of MPI are installed on their own.
const PACKAGES: [&str; 4] = ["/opt", "/usr/lib64", "/usr/lib", "/usr/local"];

/// The MPIs among the libraries of a root file system, one of a family, in the
/// order in which they are found.
#[must_use]
pub fn discover(libraries: &Libraries<'_>) -> Vec<Mpi> {
    let mut found: Vec<Mpi> = Vec::new();
    let mut names = libraries.names(&PREFIXES);
    // `libmpi.so.12` before `libmpi.so.12.2.0`, which is the same file.
    names.sort_by_key(|name| Version::of(name).0.len());
    for name in names.iter().filter(|name| Version::of(name).major().is_some()) {
        let Some(library) = libraries.find(name) else { continue };
        let Some((family, role)) = classify(&library) else { continue };
        let origin = if library.path.starts_with("/usr") || library.path.starts_with("/lib") {
            "the system's"
        } else {
            "from the search path"
        };
        match found.iter_mut().find(|mpi| mpi.family == family) {
            Some(mpi) => {
                let known = mpi.libraries.iter().any(|(_, other)| other.real == library.real);
                if !known {
                    mpi.libraries.push((role, library));
                }
            }
            None => found.push(Mpi {
                family,
                libraries: vec![(role, library)],
                origin: origin.to_owned(),
            }),
        }
    }
    found.retain(|mpi| mpi.c().is_some());
    // What a search path names comes before what the system has.
    found.sort_by_key(|mpi| mpi.origin == "the system's");
    found
}

/// The family and part of a library, by its names and by what it needs.
fn classify(library: &Library) -> Option<(Family, Role)> {
    let (linker, _) = library.name.split_once(".so")?;
    let open = library.elf.needed.iter().any(|n| n.starts_with("libopen-"));
    let major = library.version.major()?;
    Some(match linker {
        "libmpi_abi" => (Family::Standard, Role::C),
        "libmpich" => (Family::Mpich, Role::C),
        "libmpicxx" | "libmpichcxx" => (Family::Mpich, Role::Cxx),
        "libmpifort" | "libmpichfort" | "libmpichf90" | "libfmpich" => {
            (Family::Mpich, Role::Fortran)
        }
        "libmpi" if open || major >= 20 => (Family::OpenMpi, Role::C),
        "libmpi" if major == 12 => (Family::Mpich, Role::C),
        // Cray has one for each compiler.
        _ if linker.starts_with("libmpi_") && major == 12 && !open => (Family::Mpich, Role::C),
        _ if linker.starts_with("libmpi_") || linker == "liboshmem" => {
            (Family::OpenMpi, Role::Other(linker.to_owned()))
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
        let below = |dir: &PathBuf| [dir.join("lib"), dir.join("lib64"), dir.clone()];
        return configured.iter().flat_map(below).collect();
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

/// Directories in which to look in an image before the system's: its search
/// path, and where packages of MPI install themselves.
#[must_use]
pub fn image_search(tree: &dyn SearchTree, library_path: Option<&str>) -> Vec<PathBuf> {
    let mut dirs = library_path.map(search_path).unwrap_or_default();
    for base in PACKAGES.map(Path::new) {
        let Ok((real, _)) = resolve(tree, base) else { continue };
        let names = tree.names(&real).unwrap_or_default();
        let mut names: Vec<_> = names.into_iter().filter_map(|n| n.into_string().ok()).collect();
        names.sort();
        let mpi = |name: &String| {
            let name = name.to_ascii_lowercase();
            base == Path::new("/opt") || name.contains("mpi") || name.contains("mvapich")
        };
        for name in names.iter().filter(|name| mpi(name)) {
            for lib in ["lib", "lib64"] {
                dirs.push(base.join(name).join(lib));
            }
        }
    }
    dirs
}
