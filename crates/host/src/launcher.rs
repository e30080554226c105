//! What a batch system or a launcher of MPI has told this process, and what the
//! container needs of it.
//!
//! A rank reaches its launcher over PMI-1 or PMI-2, a descriptor or a port that
//! variables name, or over PMIx, whose server also has files. Descriptors stay
//! open as they are, since the caller's process becomes the application; the
//! variables and directories are contributed here. Variables are told apart by
//! their names alone: nothing is asked of a scheduler.
//!
//! Sources of the names: pmix_server(3) and Slurm's mpi_pmix plugin
//! (`TMPFS/spmix_appdir_UID_JOB.STEP`, slurm.conf(5)), flux-environment(7), the
//! environment variables of palsd(8) and pbs(1).

use std::ffi::{OsStr, OsString};
use std::fmt;
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

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slurm => "Slurm",
            Self::Pbs => "PBS",
            Self::Flux => "Flux",
            Self::Lsf => "LSF",
            Self::Pals => "PALS",
        })
    }
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

/// `of Slurm, rank 3 of 16`, as far as it is known.
impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheduler {
            Some(scheduler) => write!(f, "of {scheduler}")?,
            None => f.write_str("of the launcher")?,
        }
        match (self.rank, self.size) {
            (Some(rank), Some(size)) => write!(f, ", rank {rank} of {size}"),
            (Some(rank), None) => write!(f, ", rank {rank}"),
            _ => Ok(()),
        }
    }
}

/// What is known of this node beside the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The caller's user id.
    pub uid: u32,
    /// Slurm's `TmpFS`.
    pub tmp_fs: Option<PathBuf>,
}

impl Node {
    /// Looks at this node. Only a rank of Slurm's PMIx has its configuration read.
    #[must_use]
    pub fn probe(env: &Env) -> Self {
        let rank = get(env, "SLURM_JOB_ID").is_some() && detect(env).pmi.contains(&Pmi::Pmix);
        let file = get(env, "SLURM_CONF").unwrap_or("/etc/slurm/slurm.conf".as_ref());
        let text = rank.then(|| crate::small_file(file)).flatten().unwrap_or_default();
        let tmp_fs = tmp_fs(&String::from_utf8_lossy(&text), env);
        Self { uid: rustix::process::geteuid().as_raw(), tmp_fs }
    }
}

/// The directory that slurm.conf(5) names as `TmpFS`.
fn tmp_fs(text: &str, env: &Env) -> Option<PathBuf> {
    let value = |line: &str| {
        let (key, value) = line.trim().split_once('=')?;
        let value = value.split(['#', ' ', '\t']).next()?;
        key.trim().eq_ignore_ascii_case("tmpfs").then(|| value.to_owned())
    };
    let mut path = text.lines().find_map(value)?;
    if path.contains("%n") {
        path = path.replace("%n", get(env, "SLURMD_NODENAME")?.to_str()?);
    }
    if path.contains("%h") {
        let host = rustix::system::uname();
        path = path.replace("%h", host.nodename().to_str().ok()?.split('.').next()?);
    }
    Some(PathBuf::from(path)).filter(|path| path.is_absolute())
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
    let wires = ["PMI_FD", "PMI_PORT", "PMI_CONTROL_PORT", "PMI2_PMI_FD", "PALS_RANKID"];
    if wires.iter().any(|name| has(name)) {
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
/// How the names of variables begin that say where its server listens.
const PMIX_URI: &str = "PMIX_SERVER_URI";
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
pub fn contribution(env: &Env, node: &Node, contained: bool) -> Vec<Contribution> {
    let launcher = detect(env);
    let mut list = Vec::new();
    if launcher.pmi.is_empty() {
        return list;
    }
    let mut wire = Contribution::new(Rank::Host, &format!("the PMI {launcher}"));
    for (name, value) in env {
        if [&WIRE[..], &LAUNCHERS, &OF_JOB].iter().any(|all| begins(name, all)) {
            wire.env.push((name.clone(), Some(value.clone())));
        }
    }
    list.push(wire);
    if launcher.pmi.contains(&Pmi::Pmix) {
        list.push(pmix(env, node, contained));
    }
    if contained {
        let mut memory = Contribution::new(Rank::Host, "shared memory of the ranks");
        memory.mounts.push(directory("/dev/shm".into()));
        list.push(memory);
    }
    list
}

/// Files by which processes of a job reach its scheduler: PBS's file of nodes,
/// Flux's socket, what palsd wrote for Cray's PMI. Without a job it is nothing.
#[must_use]
pub fn job(env: &Env, contained: bool) -> Option<Contribution> {
    let scheduler = detect(env).scheduler;
    let name = scheduler.map_or_else(|| "the scheduler".to_owned(), |one| one.to_string());
    let mut all = Contribution::new(Rank::Host, &format!("files of {name} for its jobs"));
    let absolute = |name| get(env, name).map(PathBuf::from).filter(|path| path.is_absolute());
    let mut dirs: Vec<PathBuf> = absolute("PALS_SPOOL_DIR").into_iter().collect();
    dirs.extend(absolute("PALS_APINFO").and_then(|path| path.parent().map(Path::to_owned)));
    // local:///run/flux/local
    let uri = get(env, "FLUX_URI").and_then(OsStr::to_str);
    let socket = uri.and_then(|uri| uri.strip_prefix("local://")).map(PathBuf::from);
    let mut files: Vec<PathBuf> = absolute("PBS_NODEFILE").into_iter().collect();
    for socket in socket.into_iter().filter(|path| path.is_absolute()) {
        match socket.parent().filter(|dir| !whole(dir)) {
            Some(dir) => dirs.push(dir.to_owned()),
            None => files.push(socket),
        }
    }
    all.mounts = hidden(dirs, contained).into_iter().map(directory).collect();
    all.mounts.extend(
        hidden(files, contained)
            .into_iter()
            .map(|path| MountSpec { source: MountSource::File(path.clone()), ..directory(path) }),
    );
    (!all.mounts.is_empty()).then_some(all)
}

/// Whether a directory is no job's alone.
fn whole(dir: &Path) -> bool {
    ["/", "/tmp", "/var/tmp", "/run", "/var/run", "/dev/shm"]
        .iter()
        .any(|one| dir == Path::new(one))
}

/// Paths that a container does not have already, each once. A shared /tmp has its
/// files; directories that are not of a job alone are none of them.
fn hidden(paths: Vec<PathBuf>, contained: bool) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = Vec::new();
    for path in paths {
        let there = !contained && ["/tmp", "/var/tmp"].iter().any(|tmp| path.starts_with(tmp));
        if !there && !whole(&path) && !list.contains(&path) {
            list.push(path);
        }
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

fn pmix(env: &Env, node: &Node, contained: bool) -> Contribution {
    let mut pmix = Contribution::new(Rank::Host, "the launcher's PMIx server");
    let absolute = |name: &str| get(env, name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let mut dirs: Vec<PathBuf> =
        PMIX_DIRECTORIES.iter().filter_map(|name| absolute(name)).collect();
    dirs.extend(env.iter().filter(|(name, _)| begins(name, &[PMIX_URI])).filter_map(rendezvous));
    // Where Slurm has the ranks keep what they share.
    if let (Some(job), Some(step)) = (get(env, "SLURM_JOB_ID"), get(env, "SLURM_STEP_ID")) {
        let name = format!("spmix_appdir_{}_{}.{}", node.uid, job.display(), step.display());
        let bases = ["SLURM_PMIX_TMPDIR", "PMIX_SYSTEM_TMPDIR", "TMPDIR"].iter();
        let bases = bases.filter_map(|name| absolute(name)).chain(node.tmp_fs.clone());
        dirs.extend(bases.chain([PathBuf::from("/tmp")]).map(|base| base.join(&name)));
    }
    pmix.mounts.extend(hidden(dirs, contained).into_iter().map(directory));
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

/// The directory of a server's socket, of `SERVER;file:/path` and of what older
/// versions write, `pmix-server:PID:/path`.
fn rendezvous((_, value): &(OsString, OsString)) -> Option<PathBuf> {
    let path = value.to_str()?.rsplit_once(":/").map(|(_, rest)| Path::new("/").join(rest))?;
    // What two slashes follow is an address of the network.
    (!value.to_str()?.contains("://")).then(|| path.parent().map(Path::to_owned))?
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

    fn node() -> Node {
        Node { uid: 1000, tmp_fs: Some("/local".into()) }
    }

    fn targets(contribution: &Contribution) -> Vec<&str> {
        contribution.mounts.iter().map(|mount| mount.target.to_str().unwrap()).collect()
    }

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
        let list = contribution(&env(&SLURM_PMIX), &node(), false);
        let [wire, pmix] = &list[..] else { panic!("{list:?}") };
        assert!(wire.env.iter().any(|(name, _)| name == "PMIX_NAMESPACE"));
        assert!(wire.env.iter().any(|(name, _)| name == "SLURM_JOB_ID"));
        assert_eq!(wire.reason, "the PMI of Slurm, rank 3 of 4");
        assert_eq!(targets(pmix), ["/var/spool/slurmd/pmix.7.0/", "/run/munge"]);
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
        let list = contribution(&hydra, &node(), true);
        assert_eq!(list[1].mounts[0].target, Path::new("/dev/shm"));
        assert_eq!(list[0].env.len(), 1);
        assert_eq!(contribution(&hydra, &node(), false).len(), 1);
        assert!(contribution(&env(&[("SLURM_JOB_ID", "1")]), &node(), true).is_empty());
    }

    #[test]
    fn directories_of_pmix_are_those_that_the_container_lacks() {
        let mut all = SLURM_PMIX.to_vec();
        all.retain(|(name, _)| *name != "PMIX_SECURITY_MODE");
        all.extend([
            ("SLURM_STEP_ID", "2"),
            ("PMIX_SERVER_URI2", "pmix-server.9;tcp4://127.0.0.1:4711"),
            ("PMIX_SERVER_URI2USOCK", "pmix-server:9:/run/user/9/pmix/sock"),
            ("PMIX_SERVER_URI41", "prte.1;file:/var/spool/prte/uri"),
        ]);
        let server = ["/var/spool/slurmd/pmix.7.0/", "/run/user/9/pmix", "/var/spool/prte"];
        let open = contribution(&env(&all), &node(), false);
        assert_eq!(targets(&open[1]), [&server[..], &["/local/spmix_appdir_1000_7.2"]].concat());
        // /tmp is the container's own, and the host's not as a whole.
        let contained = contribution(&env(&all), &node(), true);
        let apps = ["/tmp/spmix_appdir_1000_7.2", "/local/spmix_appdir_1000_7.2"];
        assert_eq!(targets(&contained[1]), [&server[..], &apps].concat());
        assert!(contained[1].mounts.iter().all(|mount| mount.optional));
    }

    #[test]
    fn slurms_configuration_names_its_directory_for_files() {
        let env = env(&[("SLURMD_NODENAME", "n1")]);
        let of = |text: &str| tmp_fs(text, &env);
        assert_eq!(of("A=b\n tmpfs=/scratch/%n # local\n"), Some("/scratch/n1".into()));
        assert!(of("TmpFS=/x.%h").is_some_and(|path| !path.to_str().unwrap().contains('%')));
        for text in ["", "#TmpFS=/a", "TmpFS", "TmpFS=", "TmpFS=relative"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(tmp_fs("TmpFS=/%n", &[]), None);
    }

    #[test]
    fn a_job_has_its_schedulers_files() {
        let pals = env(&[
            ("PALS_APID", "x"),
            ("PALS_RANKID", "5"),
            ("PALS_SPOOL_DIR", "/var/run/palsd/x"),
            ("PALS_APINFO", "/var/run/palsd/x/apinfo"),
            ("PBS_NODEFILE", "/var/spool/pbs/aux/1.pbs"),
        ]);
        let files = job(&pals, false).unwrap();
        assert_eq!(files.reason, "files of PALS for its jobs");
        assert_eq!(targets(&files), ["/var/run/palsd/x", "/var/spool/pbs/aux/1.pbs"]);
        assert_eq!(contribution(&pals, &node(), false)[0].reason, "the PMI of PALS, rank 5");
        let flux = |uri| job(&env(&[("FLUX_JOB_ID", "f"), ("FLUX_URI", uri)]), true);
        assert_eq!(targets(&flux("local:///run/flux/local").unwrap()), ["/run/flux"]);
        assert_eq!(targets(&flux("local:///tmp/flux-x/local-0").unwrap()), ["/tmp/flux-x"]);
        assert_eq!(targets(&flux("local:///tmp/socket").unwrap()), ["/tmp/socket"]);
        assert_eq!(flux("ssh://host/run/flux/local"), None);
        let shared = env(&[("FLUX_URI", "local:///tmp/flux-x/local-0")]);
        assert_eq!(job(&shared, false), None);
        assert_eq!(job(&env(&[("SLURM_JOB_ID", "1")]), true), None);
    }

    #[test]
    fn an_inner_launcher_sees_no_outer_one() {
        let env = env(&[("PMI_FD", "3"), ("OMPI_X", "0"), ("SLURM_JOB_ID", "1"), ("HOME", "/h")]);
        assert_eq!(without(&env).env, [("PMI_FD".into(), None), ("OMPI_X".into(), None)]);
        assert_eq!(without(&env[1..]).env, []);
    }
}
