//! Other nodes of a job for a launcher that is the image's (`--mpi=container`).
//!
//! An mpirun starts a proxy on each node through a remote shell. An image has no
//! scheduler's commands, and a shell on the node would find no image. So the
//! container has [`AGENT`], sampan under another name, which takes the words of
//! ssh(1); what it is asked for a helper outside starts by the scheduler's own
//! launcher, in a container of the same image and with the same options:
//!
//! ```text
//! mpirun ─ agent HOST TEXT ─socket→ helper ─ srun -w HOST sampan … IMAGE sh -c TEXT
//!   inside                         outside
//! ```

use std::ffi::{OsStr, OsString};
use std::path::Path;

use plan::{Contribution, MountFlags, MountSource, MountSpec, Rank, Remote, RemoteShell};

use crate::launcher::{begins, get};

/// Where the container has the agent.
pub const AGENT: &str = "/.sampan/bin/sampan-agent";
/// The variable that tells the agent its socket.
pub const SOCKET: &str = "SAMPAN_AGENT";
/// The word by which sampan is told that a launcher's proxy is started.
pub const PROXY: &str = "mpi-proxy";

/// Variables of a batch job that srun would take for flags, and those by which
/// the Slurm plugin would put the proxy's start into a container of its own.
const NOT_FOR_SRUN: [&str; 12] = [
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "SLURM_NTASKS_PER_",
    "SLURM_CPUS_PER_TASK",
    "SLURM_DISTRIBUTION",
    "SLURM_CPU_BIND",
    "SLURM_EXACT",
    "SLURM_EXCLUSIVE",
    "SLURM_MPI_TYPE",
    "SAMPAN_CONTAINER_",
    "SAMPAN_EDF",
    "PYXIS_CONTAINER_",
];

type Env = [(OsString, OsString)];

/// What the agent was asked for and cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// A word that is no name of a host.
    #[error("{0:?} is not the name of a host")]
    Host(String),
    /// A host that is not among those allowed.
    #[error("{host:?} is not a host of this job, which has {}", known.join(", "))]
    Unknown {
        /// The host.
        host: String,
        /// Those of the job.
        known: Vec<String>,
    },
}

/// How nodes of the job are reached; None where there is no job and no other host.
/// A job of one node has a way too: a launcher that knows the scheduler would call
/// commands of it that the image lacks. `hosts` are those of PBS's file of nodes, or
/// of the configuration.
#[must_use]
pub fn find(env: &Env, hosts: &[String], program: &[String]) -> Option<RemoteShell> {
    if get(env, "SLURM_JOB_ID").is_some() {
        return Some(RemoteShell::Srun);
    }
    let mut hosts = hosts.to_vec();
    hosts.sort();
    hosts.dedup();
    match get(env, "PBS_JOBID") {
        Some(_) => Some(RemoteShell::Tmrsh),
        None if hosts.len() < 2 => None,
        None => Some(RemoteShell::Shell { program: program.to_vec(), hosts }),
    }
}

fn file(source: &Path, target: &Path) -> MountSpec {
    MountSpec {
        source: MountSource::File(source.to_owned()),
        target: target.to_owned(),
        flags: MountFlags { read_only: true, recursive: false },
        optional: false,
    }
}

/// What every container has for it, those of proxies too: the agent. `sampan` is
/// the running program. Open MPI's daemons do not start without their agent, though
/// they need none.
#[must_use]
pub fn agent(sampan: &Path) -> Contribution {
    let mut all = Contribution::new(Rank::Host, "--mpi=container: other nodes of the job");
    all.mounts.push(file(sampan, Path::new(AGENT)));
    all
}

/// What the launcher's container has beside it: the variables by which launchers
/// of MPI find the agent, and it its socket.
#[must_use]
pub fn contribution(env: &Env, remote: &Remote) -> Contribution {
    let mut all = Contribution::new(Rank::Host, "--mpi=container: other nodes of the job");
    let mut set = |name: &str, value: &OsStr| {
        all.env.push((name.into(), Some(value.to_owned())));
    };
    set(SOCKET, remote.socket.as_ref());
    for (name, value) in VARIABLES {
        set(name, value.as_ref());
    }
    // A clean environment has them too.
    for (name, value) in env.iter().filter(|(name, _)| begins(name, &["SLURM_", "PBS_"])) {
        all.env.push((name.clone(), Some(value.clone())));
    }
    if remote.shell != RemoteShell::Srun
        && let Some(nodes) = get(env, "PBS_NODEFILE")
    {
        all.mounts.push(file(Path::new(nodes), Path::new(nodes)));
        for name in HOST_FILES {
            all.env.push((name.into(), Some(nodes.to_owned())));
        }
    }
    all
}

/// How launchers are told of a remote shell: Hydra (MPICH, MVAPICH2, Intel MPI),
/// and those of Open MPI 4 (ORTE) and 5 (PRRTE). A proxy that leaves its session
/// would end with the scheduler's step, and one that starts others itself has no
/// helper on its node.
const VARIABLES: [(&str, &str); 14] = [
    ("HYDRA_LAUNCHER", "rsh"),
    ("HYDRA_LAUNCHER_EXEC", AGENT),
    ("I_MPI_HYDRA_BOOTSTRAP", "rsh"),
    ("I_MPI_HYDRA_BOOTSTRAP_EXEC", AGENT),
    ("OMPI_MCA_plm", "rsh"),
    ("OMPI_MCA_plm_rsh_agent", AGENT),
    ("OMPI_MCA_plm_rsh_no_tree_spawn", "1"),
    ("OMPI_MCA_plm_rsh_num_concurrent", "10000"),
    ("OMPI_MCA_orte_leave_session_attached", "1"),
    ("PRTE_MCA_plm", "ssh"),
    ("PRTE_MCA_plm_ssh_agent", AGENT),
    ("PRTE_MCA_plm_ssh_no_tree_spawn", "1"),
    ("PRTE_MCA_plm_ssh_num_concurrent", "10000"),
    ("PRTE_MCA_prte_leave_session_attached", "1"),
];

/// Their variables that name a file of hosts.
const HOST_FILES: [&str; 4] = [
    "HYDRA_HOST_FILE",
    "I_MPI_HYDRA_HOST_FILE",
    "OMPI_MCA_orte_default_hostfile",
    "PRTE_MCA_prte_default_hostfile",
];

/// Whether a variable of the caller stays out of the environment in which the
/// remote shell is started.
#[must_use]
pub fn dropped(name: &OsStr) -> bool {
    begins(name, &NOT_FOR_SRUN)
}

/// The words that start a text of the shell on a host. `env` and `cwd` are those
/// of the helper, for shells that take neither along.
///
/// # Errors
/// When the host is none, or not one of the job's. Slurm and PBS know by
/// themselves which are.
pub fn command(
    remote: &Remote,
    host: &str,
    text: &OsStr,
    cwd: &Path,
    env: &Env,
) -> Result<Vec<OsString>, RemoteError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.starts_with('-') || !host.chars().all(good) {
        return Err(RemoteError::Host(host.to_owned()));
    }
    let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
    let tail = [&remote.again[..], &words(&["/bin/sh", "-c"]), &[text.to_owned()]].concat();
    let start = match &remote.shell {
        RemoteShell::Srun => {
            // All of the node's share, beside other steps; the first signal ends it.
            let flags = [
                "srun",
                "--quiet",
                "--nodes=1",
                "--ntasks=1",
                "--overlap",
                "--cpu-bind=none",
                "--mpi=none",
                "--quit-on-interrupt",
                "--nodelist",
                host,
                "--",
            ];
            return Ok([words(&flags), tail].concat());
        }
        RemoteShell::Tmrsh => words(&["pbs_tmrsh", host]),
        RemoteShell::Shell { program, hosts } => {
            if !hosts.iter().any(|known| known == host) {
                let (host, known) = (host.to_owned(), hosts.clone());
                return Err(RemoteError::Unknown { host, known });
            }
            program.iter().map(OsString::from).chain([host.into()]).collect()
        }
    };
    // Whether a shell reads them there or not, these are three plain words.
    let sampan = remote.again.first().cloned().unwrap_or_default();
    let kept = env.iter().filter(|(name, _)| begins(name, &["SAMPAN_"]) && !dropped(name));
    let kept: Vec<(OsString, OsString)> = kept.cloned().collect();
    let packed = Packed { cwd: cwd.as_os_str().to_owned(), env: kept, words: tail };
    Ok([start, vec![sampan, PROXY.into(), packed.to_word().into()]].concat())
}

/// A start of sampan in one word of letters and digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Where.
    pub cwd: OsString,
    /// Variables beside those that are there.
    pub env: Vec<(OsString, OsString)>,
    /// The program and its words.
    pub words: Vec<OsString>,
}

impl Packed {
    /// As a word: the hexadecimal form of texts that end with a zero, which are
    /// the directory, `NAME=VALUE` for each variable, an empty one, and the words.
    #[must_use]
    pub fn to_word(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        let pairs =
            self.env.iter().map(|(name, value)| [name, value].map(|s| s.as_bytes()).join(&b'='));
        let words = self.words.iter().map(|word| word.as_bytes().to_vec());
        let texts = [self.cwd.as_bytes().to_vec()]
            .into_iter()
            .chain(pairs)
            .chain([Vec::new()])
            .chain(words);
        let bytes = texts.flat_map(|text| [text, vec![0]].concat());
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// From a word; None where it is none.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt;
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let (pairs, []) = word.as_bytes().as_chunks::<2>() else { return None };
        let bytes: Option<Vec<u8>> =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        let bytes = bytes?;
        let mut texts = bytes.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let cwd = text(texts.next()?);
        let mut env = Vec::new();
        loop {
            let pair = texts.next()?;
            if pair.is_empty() {
                break;
            }
            let at = pair.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
            env.push((text(&pair[..at]), text(&pair[at + 1..])));
        }
        let words: Vec<OsString> = texts.map(text).collect();
        (!words.is_empty()).then_some(Self { cwd, env, words })
    }
}

/// What the agent is asked for, in the words of ssh(1) and rsh(1): options, a
/// host, and the words of a text for the shell. None where there is no host or no
/// text.
#[must_use]
pub fn read_words(words: &[OsString]) -> Option<(String, OsString)> {
    let mut words = words.iter();
    let host = loop {
        let word = words.next()?.to_str()?;
        match word.strip_prefix('-') {
            None => break word.to_owned(),
            // An option of one letter with its value as the next word.
            Some(letter) if letter.len() == 1 && "FJLRSWbceilmopDEIQw".contains(letter) => {
                let _ = words.next()?;
            }
            Some(_) => {}
        }
    };
    let text: Vec<&OsStr> = words.map(OsString::as_os_str).collect();
    (!text.is_empty()).then(|| (host, text.join(OsStr::new(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn remote(shell: RemoteShell) -> Remote {
        let again = ["/bin/sampan", PROXY, "--", "run", "--bind", "/a b", "image"];
        Remote { shell, socket: "s".into(), again: again.map(OsString::from).to_vec() }
    }

    #[test]
    fn nodes_are_those_of_the_allocation() {
        let ssh = ["ssh".to_owned()];
        let hosts = ["b", "a", "b"].map(str::to_owned);
        let slurm = |nodes| env(&[("SLURM_JOB_ID", "1"), ("SLURM_JOB_NUM_NODES", nodes)]);
        assert_eq!(find(&slurm("4"), &[], &ssh), Some(RemoteShell::Srun));
        assert_eq!(find(&slurm("1"), &hosts, &ssh), Some(RemoteShell::Srun));
        let pbs = env(&[("PBS_JOBID", "1.s")]);
        assert_eq!(find(&pbs, &hosts, &ssh), Some(RemoteShell::Tmrsh));
        assert_eq!(find(&pbs, &hosts[..1], &ssh), Some(RemoteShell::Tmrsh));
        let own = RemoteShell::Shell { program: ssh.to_vec(), hosts: vec!["a".into(), "b".into()] };
        assert_eq!(find(&[], &hosts, &ssh), Some(own));
        assert_eq!(find(&[], &hosts[..1], &ssh), None);
    }

    #[test]
    fn a_proxy_is_started_by_the_scheduler() {
        let slurm = remote(RemoteShell::Srun);
        let words = command(&slurm, "n2", OsStr::new("a 'b c'"), Path::new("/w"), &[]).unwrap();
        assert_eq!(words[0], "srun");
        let tail = &words[words.len() - 10..];
        let expected = ["/bin/sampan", PROXY, "--", "run", "--bind", "/a b", "image"];
        assert_eq!(tail[..7], expected);
        assert_eq!(tail[7..], ["/bin/sh", "-c", "a 'b c'"]);
        for bad in ["", "-n4", "n[1-3]", "a b", "/etc/hosts", "n1,n2", "n1;x"] {
            let said = command(&slurm, bad, OsStr::new("x"), Path::new("/"), &[]);
            assert_eq!(said, Err(RemoteError::Host(bad.to_owned())));
        }
    }

    #[test]
    fn a_shell_gets_plain_words_and_hosts_that_are_known() {
        let hosts = vec!["a".to_owned(), "b".to_owned()];
        let program = ["ssh", "-oBatchMode=yes"].map(str::to_owned).to_vec();
        let ssh = remote(RemoteShell::Shell { program, hosts });
        let env = env(&[("SAMPAN_STORE", "/a b"), ("HOME", "/h"), ("SAMPAN_EDF", "x")]);
        let words = command(&ssh, "a", OsStr::new("x"), Path::new("/w d"), &env).unwrap();
        assert_eq!(words[..5], ["ssh", "-oBatchMode=yes", "a", "/bin/sampan", PROXY]);
        let packed = Packed::from_word(words[5].to_str().unwrap()).unwrap();
        assert_eq!((packed.cwd.to_str(), packed.words.len()), (Some("/w d"), 10));
        assert_eq!(packed.env, [("SAMPAN_STORE".into(), "/a b".into())]);
        let other = command(&ssh, "c", OsStr::new("x"), Path::new("/"), &[]);
        assert!(other.unwrap_err().to_string().contains("a, b"));
    }

    #[test]
    fn packed_words_come_back_and_others_are_refused() {
        let plain = Packed { cwd: "/".into(), env: vec![], words: vec!["p".into(), "".into()] };
        assert_eq!(Packed::from_word(&plain.to_word()), Some(plain));
        for bad in ["", "0", "00", "zz", "2f00", "2f0000", "2f0078000000", "é0"] {
            assert_eq!(Packed::from_word(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_agent_takes_the_words_of_ssh() {
        let read = |text: &str| {
            let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            read_words(&words).map(|(host, text)| (host, text.into_string().unwrap()))
        };
        let expected = Some(("n1".to_owned(), "proxy --port 5".to_owned()));
        assert_eq!(read("n1 proxy --port 5"), expected);
        assert_eq!(read("-x -q -o X=y n1 proxy --port 5"), expected);
        assert_eq!(read("n1"), None);
        assert_eq!(read("-o X n1"), None);
    }
}
