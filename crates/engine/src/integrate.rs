//! What the host adds to a container: the launcher's wires, its MPI, its
//! libraries.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use host::DirectoryTree;
use host::libraries::Libraries;
use host::mpi::{self, Policy};
use plan::{Contribution, HostFacts, Rank, RunRequest, SearchTree, Writable};

use crate::{Config, Engine, Error, Resolved, Result};

/// Whose MPI a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MpiMode {
    /// The image's, wired to the launcher that started this process.
    #[default]
    Auto,
    /// The host's, in place of the image's.
    Host,
    /// The image's, with a launcher of the image's: nothing of an outer launcher
    /// is passed on.
    Container,
    /// Nothing is done.
    None,
}

impl FromStr for MpiMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "host" => Ok(Self::Host),
            "container" => Ok(Self::Container),
            "none" => Ok(Self::None),
            _ => Err(format!("{text:?} is none of auto, host, container and none")),
        }
    }
}

impl fmt::Display for MpiMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Container => "container",
            Self::None => "none",
        })
    }
}

/// Variables of an outer launcher, by how they begin; an inner one would take
/// itself for a rank.
const WIRES: [&str; 6] = ["PMI_", "PMIX_", "PMI2_", "OMPI_", "PRTE_", "HYDI_"];

/// What the host adds.
pub(crate) fn contributions(
    config: &Config,
    request: &RunRequest,
    facts: &HostFacts,
    image: &dyn SearchTree,
    warnings: &mut Vec<String>,
) -> Result<Vec<Contribution>> {
    let mode = config.mpi.value;
    let mut list = match mode {
        MpiMode::None => Vec::new(),
        MpiMode::Container => vec![without_launcher(&facts.env)],
        MpiMode::Auto | MpiMode::Host => {
            host::launcher::contribution(&facts.env, request.isolation.contain)
        }
    };
    if mode == MpiMode::Host {
        if request.writable == Writable::InPlace {
            return Err(Error::MpiInPlace);
        }
        let library_path = library_path(request);
        let open = DirectoryTree::open(Path::new("/")).map_err(Error::HostRoot)?;
        let host = host_libraries(config, &open, &facts.env);
        let image = image_libraries(image, library_path.as_deref());
        let check = mpi::check(&host, &image, &config.mpi_path.value, config.mpi_policy.value);
        if let Some(error) = check.error {
            return Err(Error::Mpi(error));
        }
        warnings.extend(check.warnings);
        let mut libraries = check.injection.contribution(&image, &[], library_path.as_deref());
        libraries.reason = format!(
            "--mpi=host: {} of the image's libraries replaced, {} taken in all",
            check.injection.taken.iter().filter(|taken| !taken.replaces.is_empty()).count(),
            check.injection.taken.len(),
        );
        list.push(libraries);
        let mut beside = Contribution::new(Rank::Host, "what the host's MPI needs beside it");
        beside.mounts = check.companions.mounts;
        beside.env = check.companions.env;
        list.push(beside);
    }
    Ok(list)
}

fn without_launcher(env: &[(OsString, OsString)]) -> Contribution {
    let mut all = Contribution::new(Rank::Host, "--mpi=container: the launcher is the image's");
    let wire = |name: &OsStr| {
        name.to_str().is_some_and(|name| WIRES.iter().any(|start| name.starts_with(start)))
    };
    let names = env.iter().map(|(name, _)| name).filter(|name| wire(name));
    all.env = names.map(|name| (name.clone(), None)).collect();
    all
}

/// `LD_LIBRARY_PATH` as the container's programs will have it.
fn library_path(request: &RunRequest) -> Option<String> {
    let user = request.env.iter().rev().find(|(name, _)| name == "LD_LIBRARY_PATH");
    let user = user.and_then(|(_, value)| value.to_str()).map(str::to_owned);
    user.or_else(|| {
        let pair = |pair: &String| pair.strip_prefix("LD_LIBRARY_PATH=").map(str::to_owned);
        request.config.env.iter().filter_map(pair).next_back()
    })
}

fn host_libraries<'a>(
    config: &Config,
    tree: &'a DirectoryTree,
    env: &[(OsString, OsString)],
) -> Libraries<'a> {
    let get =
        |name: &str| env.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.to_str());
    let configured = &config.mpi_path.value;
    let search = mpi::host_search(tree, configured, get("LD_LIBRARY_PATH"), get("PATH"));
    Libraries::new(tree, search)
}

fn image_libraries<'a>(tree: &'a dyn SearchTree, library_path: Option<&str>) -> Libraries<'a> {
    Libraries::new(tree, mpi::image_search(tree, library_path))
}

impl Engine {
    /// Compares the MPI of this host with that of an image: whether the host's
    /// could stand in for it, and what would be taken.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn check_mpi(&self, resolved: &Resolved, policy: Option<Policy>) -> Result<mpi::Check> {
        let policy = policy.unwrap_or(self.config().mpi_policy.value);
        let env: Vec<_> = std::env::vars_os().collect();
        let open = DirectoryTree::open(Path::new("/")).map_err(Error::HostRoot)?;
        let host = host_libraries(self.config(), &open, &env);
        let pair = |pair: &String| pair.strip_prefix("LD_LIBRARY_PATH=").map(str::to_owned);
        let library_path = resolved.config.env.iter().filter_map(pair).next_back();
        self.with_tree(resolved, |tree| {
            let image = image_libraries(tree, library_path.as_deref());
            mpi::check(&host, &image, &self.config().mpi_path.value, policy)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inner_launcher_sees_no_outer_one() {
        let env = [("PMI_FD", "3"), ("PMIX_RANK", "0"), ("SLURM_JOB_ID", "1"), ("HOME", "/h")];
        let env: Vec<_> = env.iter().map(|(n, v)| (n.into(), v.into())).collect();
        let names: Vec<_> = without_launcher(&env).env.into_iter().collect();
        assert_eq!(names, [("PMI_FD".into(), None), ("PMIX_RANK".into(), None)]);
    }
}
