//! What a batch system or a launcher of MPI has told this process, and what the
//! container needs of it.
//!
//! A rank reaches its launcher over PMI-1 or PMI-2, a descriptor or a port that
//! variables name, or over PMIx, whose server also has files. Descriptors stay
//! open as they are, since the caller's process becomes the application; the
//! variables and directories are contributed here. Variables are told apart by
//! their names alone: nothing is asked of a scheduler.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use plan::{Contribution, MountFlags, MountSource, MountSpec, Rank};
use serde::Serialize;

/// What tells jobs, their steps and the daemons of one host apart, of Slurm,
/// PBS, Flux, LSF and PALS.
pub const JOB: [&str; 9] = [
    "SLURM_CLUSTER_NAME",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURMD_NODENAME",
    "PBS_JOBID",
    "FLUX_JOB_ID",
    "LSB_JOBID",
    "LSB_JOBINDEX",
    "PALS_APID",
];

/// Who runs the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Slurm.
    Slurm,
    /// PBS Professional and its kin.
    Pbs,
    /// Flux.
    Flux,
    /// IBM LSF.
    Lsf,
    /// The launcher of Cray's systems.
    Pals,
}

/// The variable that says which scheduler it is.
const SCHEDULERS: [(&str, Scheduler); 5] = [
    ("PALS_APID", Scheduler::Pals),
    ("FLUX_JOB_ID", Scheduler::Flux),
    ("SLURM_JOB_ID", Scheduler::Slurm),
    ("PBS_JOBID", Scheduler::Pbs),
    ("LSB_JOBID", Scheduler::Lsf),
];

/// How a rank reaches its launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pmi {
    /// PMI-1 or PMI-2, over a descriptor, a port or a file.
    Pmi,
    /// PMIx.
    Pmix,
}

/// What this process has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Launcher {
    /// Who runs the job.
    pub scheduler: Option<Scheduler>,
    /// How the launcher is reached.
    pub pmi: Vec<Pmi>,
    /// This process's number among the ranks.
    pub rank: Option<u32>,
    /// The number of ranks.
    pub size: Option<u32>,
}

type Env = [(OsString, OsString)];

pub(crate) fn get<'a>(env: &'a Env, name: &str) -> Option<&'a OsStr> {
    env.iter().find(|(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_os_str())
}

pub(crate) fn number(env: &Env, names: &[&str]) -> Option<u32> {
    names.iter().find_map(|name| get(env, name)?.to_str()?.parse().ok())
}

/// What an environment says.
#[must_use]
pub fn detect(env: &Env) -> Launcher {
    let has = |name: &str| get(env, name).is_some();
    let mut pmi = Vec::new();
    if ["PMI_FD", "PMI_PORT", "PMI_CONTROL_PORT", "PMI2_PMI_FD"].iter().any(|name| has(name)) {
        pmi.push(Pmi::Pmi);
    }
    if has("PMIX_RANK") && has("PMIX_NAMESPACE") {
        pmi.push(Pmi::Pmix);
    }
    let ranks = [
        "PMI_RANK",
        "PMIX_RANK",
        "OMPI_COMM_WORLD_RANK",
        "PALS_RANKID",
        "FLUX_TASK_RANK",
        "SLURM_PROCID",
    ];
    let sizes = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "FLUX_JOB_SIZE", "SLURM_NTASKS"];
    Launcher {
        scheduler: SCHEDULERS.iter().find(|(name, _)| has(name)).map(|(_, which)| *which),
        pmi,
        rank: number(env, &ranks),
        size: number(env, &sizes),
    }
}

/// Variables by which ranks reach their launcher: the image's own must not stand
/// in their way.
const WIRE: [&str; 3] = ["PMI_", "PMIX_", "PMI2_"];
/// Variables that say what the job has; they pass into a clean environment too.
const OF_JOB: [&str; 5] = ["SLURM_", "PBS_", "FLUX_", "LSB_", "PALS_"];
/// Variables by which launchers of MPI know their own processes.
const LAUNCHERS: [&str; 3] = ["OMPI_", "PRTE_", "HYDI_"];
/// PMIx's variables that name directories of its server.
const PMIX_DIRECTORIES: [&str; 2] = ["PMIX_SERVER_TMPDIR", "PMIX_SYSTEM_TMPDIR"];
/// Slurm's names of PMIx's components, and PMIx's own names.
const PMIX_COMPONENTS: [(&str, &str); 3] = [
    ("PMIX_PTL_MODULE", "PMIX_MCA_ptl"),
    ("PMIX_SECURITY_MODE", "PMIX_MCA_psec"),
    ("PMIX_GDS_MODULE", "PMIX_MCA_gds"),
];

/// What a rank needs in its container.
///
/// `contained` says that /tmp and /dev/shm are the container's own, so that the
/// host's have to be named. Nothing is contributed where there is no launcher.
#[must_use]
pub fn contribution(env: &Env, contained: bool) -> Vec<Contribution> {
    let launcher = detect(env);
    let mut list = Vec::new();
    if launcher.pmi.is_empty() {
        return list;
    }
    let mut wire = Contribution::new(Rank::Host, "the launcher's PMI");
    for (name, value) in env {
        if [&WIRE[..], &LAUNCHERS, &OF_JOB].iter().any(|all| begins(name, all)) {
            wire.env.push((name.clone(), Some(value.clone())));
        }
    }
    list.push(wire);
    if launcher.pmi.contains(&Pmi::Pmix) {
        list.push(pmix(env, contained));
    }
    if contained {
        let mut memory = Contribution::new(Rank::Host, "shared memory of the ranks");
        memory.mounts.push(directory("/dev/shm".into()));
        list.push(memory);
    }
    list
}

/// What keeps an outer launcher from a launcher inside, which would take itself
/// for a rank. Where there is none, parameters of MPI are the user's own.
#[must_use]
pub fn without(env: &Env) -> Contribution {
    let mut all = Contribution::new(Rank::Host, "--mpi=container: the launcher is the image's");
    let rank = !detect(env).pmi.is_empty();
    let of_rank = |name: &OsStr| begins(name, &WIRE) || (rank && begins(name, &LAUNCHERS));
    let wires = env.iter().filter(|(name, _)| of_rank(name));
    all.env = wires.map(|(name, _)| (name.clone(), None)).collect();
    all
}

pub(crate) fn begins(name: &OsStr, all: &[&str]) -> bool {
    name.to_str().is_some_and(|name| all.iter().any(|start| name.starts_with(start)))
}

fn pmix(env: &Env, contained: bool) -> Contribution {
    let mut pmix = Contribution::new(Rank::Host, "the launcher's PMIx server");
    let mut dirs: Vec<PathBuf> = Vec::new();
    for name in PMIX_DIRECTORIES {
        let Some(dir) = get(env, name).map(PathBuf::from).filter(|dir| dir.is_absolute()) else {
            continue;
        };
        // A shared /tmp has it already.
        let there = !contained && ["/tmp", "/var/tmp"].iter().any(|tmp| dir.starts_with(tmp));
        let whole = ["/tmp", "/var/tmp", "/"].iter().any(|tmp| dir == Path::new(tmp));
        if !there && !whole && !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    pmix.mounts.extend(dirs.into_iter().map(directory));
    for (slurm, own) in PMIX_COMPONENTS {
        if let (Some(value), None) = (get(env, slurm), get(env, own)) {
            pmix.env.push((own.into(), Some(value.to_owned())));
        }
    }
    let munge = get(env, "PMIX_SECURITY_MODE")
        .and_then(OsStr::to_str)
        .is_some_and(|modes| modes.split(',').any(|mode| mode == "munge"));
    if munge {
        pmix.mounts.push(directory("/run/munge".into()));
    }
    pmix
}

fn directory(path: PathBuf) -> MountSpec {
    MountSpec {
        source: MountSource::Directory(path.clone()),
        target: path,
        flags: MountFlags::default(),
        optional: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    const SLURM_PMIX: [(&str, &str); 8] = [
        ("SLURM_JOB_ID", "7"),
        ("SLURM_NTASKS", "4"),
        ("PMIX_RANK", "3"),
        ("PMIX_NAMESPACE", "slurm.pmix.7.0"),
        ("PMIX_SERVER_TMPDIR", "/var/spool/slurmd/pmix.7.0/"),
        ("PMIX_SYSTEM_TMPDIR", "/tmp"),
        ("PMIX_SECURITY_MODE", "munge,native"),
        ("PMIX_GDS_MODULE", "ds21,hash"),
    ];

    #[test]
    fn launchers_are_told_apart() {
        let slurm = detect(&env(&SLURM_PMIX));
        assert_eq!(slurm.scheduler, Some(Scheduler::Slurm));
        assert_eq!((slurm.pmi, slurm.rank, slurm.size), (vec![Pmi::Pmix], Some(3), Some(4)));
        let hydra = detect(&env(&[("PMI_FD", "7"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")]));
        assert_eq!((hydra.scheduler, hydra.pmi), (None, vec![Pmi::Pmi]));
        let pals =
            detect(&env(&[("PALS_APID", "x"), ("PBS_JOBID", "1.pbs"), ("PALS_RANKID", "5")]));
        assert_eq!((pals.scheduler, pals.rank), (Some(Scheduler::Pals), Some(5)));
        assert_eq!(detect(&env(&[("FLUX_JOB_ID", "f")])).scheduler, Some(Scheduler::Flux));
        assert_eq!(detect(&env(&[("LSB_JOBID", "9")])).scheduler, Some(Scheduler::Lsf));
        assert_eq!(detect(&env(&[("PMI_FD", "")])), Launcher::default());
    }

    #[test]
    fn a_rank_of_slurm_gets_its_pmix_server() {
        let list = contribution(&env(&SLURM_PMIX), false);
        let [wire, pmix] = &list[..] else { panic!("{list:?}") };
        assert!(wire.env.iter().any(|(name, _)| name == "PMIX_NAMESPACE"));
        assert!(wire.env.iter().any(|(name, _)| name == "SLURM_JOB_ID"));
        let targets: Vec<_> = pmix.mounts.iter().map(|mount| mount.target.clone()).collect();
        assert_eq!(targets, [Path::new("/var/spool/slurmd/pmix.7.0/"), Path::new("/run/munge")]);
        assert_eq!(
            pmix.env,
            [
                ("PMIX_MCA_psec".into(), Some("munge,native".into())),
                ("PMIX_MCA_gds".into(), Some("ds21,hash".into())),
            ]
        );
    }

    #[test]
    fn a_contained_rank_shares_memory_with_the_others() {
        let hydra = env(&[("PMI_FD", "7"), ("OTHER", "x")]);
        let list = contribution(&hydra, true);
        assert_eq!(list[1].mounts[0].target, Path::new("/dev/shm"));
        assert_eq!(list[0].env.len(), 1);
        assert_eq!(contribution(&hydra, false).len(), 1);
        assert!(contribution(&env(&[("SLURM_JOB_ID", "1")]), true).is_empty());
    }

    #[test]
    fn an_inner_launcher_sees_no_outer_one() {
        let env = env(&[("PMI_FD", "3"), ("OMPI_X", "0"), ("SLURM_JOB_ID", "1"), ("HOME", "/h")]);
        assert_eq!(without(&env).env, [("PMI_FD".into(), None), ("OMPI_X".into(), None)]);
        assert_eq!(without(&env[1..]).env, []);
    }
}
