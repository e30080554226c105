//! A Slurm cluster of four nodes on this machine, from Debian's packages.
//!
//! A shell starts the daemons as its children and then reads its standard
//! input, whose other end is this process. So whatever becomes of the tests,
//! the shell gets to the end of it, and ends the jobs and the daemons.
//!
//! To UCX the nodes are one host, while their tasks are in several user
//! namespaces, as tasks of several nodes are: across nodes an MPI on UCX needs
//! `UCX_POSIX_USE_PROC_LINK=n` here. PMIx has a TmpFS for each node.
//!
//! The daemons run as root, as on a real cluster; jobs are the ordinary user's.
//! Node n4 is pinned to one processor, so that a test sees whose pinning a
//! task has. Its directory is `/var/tmp/sampan-slurm-…`; a start that fails
//! says what the logs in it say.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The nodes' names.
pub const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

/// No start takes longer.
const LONGEST: Duration = Duration::from_secs(600);

/// No daemon of another kind listens above this port, usually.
const LOWEST: u16 = 20_000;

/// A running cluster, which ends with the value, or with this process.
pub struct Cluster {
    dir: PathBuf,
    /// The shell, which ends when its standard input does.
    _daemons: Child,
}

const DAEMONS: &str = r#"
cd "$1"; export SLURM_CONF=$PWD/etc/slurm.conf
end() {
  scancel --quiet --user="$2" 2>/dev/null
  for i in $(seq 600); do [ -n "$(squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
  # Ended in this order, the controller misses nobody.
  kill $nodes; wait $nodes; kill $controller; wait $controller; kill $munge; wait $munge
  cd /; rm -rf "$1"
}
trap '' INT TERM HUP
munged -F -S "$PWD/munge/socket" --key-file "$PWD/munge/key" --pid-file "$PWD/munge/pid" \
  --log-file "$PWD/munge/log" --seed-file "$PWD/munge/seed" >log/munged 2>&1 & munge=$!
for i in $(seq 3000); do [ ! -S munge/socket ] || break; sleep 0.1; done
slurmctld -D -c >log/slurmctld.out 2>&1 & controller=$!
for n in n1 n2 n3; do slurmd -D -N $n >log/$n.out 2>&1 & nodes="$nodes $!"; done
taskset -c 0 slurmd -D -N n4 >log/n4.out 2>&1 & nodes="$nodes $!"
cat >/dev/null
end "$1" "$2"
"#;

impl Cluster {
    /// Starts one with the plugin and the binary of sampan; jobs are those of
    /// `user`, an ordinary one.
    ///
    /// # Errors
    /// When a file cannot be written, a daemon is not installed, or the nodes do
    /// not come up.
    pub fn start(plugin: &Path, sampan: &Path, user: &str) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("sampan-slurm-").tempdir_in("/var/tmp")?.keep();
        let mode = fs::Permissions::from_mode;
        fs::set_permissions(&dir, mode(0o755))?;
        for sub in ["etc", "munge", "log", "state", "spool", "tmp"] {
            fs::create_dir(dir.join(sub))?;
        }
        for node in NODES {
            fs::create_dir(dir.join("spool").join(node))?;
            let tmp = dir.join("tmp").join(node);
            fs::create_dir(&tmp)?;
            fs::set_permissions(&tmp, mode(0o1777))?;
        }
        let mut key = [0; 128];
        rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
        fs::write(dir.join("munge/key"), key)?;
        fs::set_permissions(dir.join("munge/key"), mode(0o600))?;
        fs::write(dir.join("etc/slurm.conf"), configuration(&dir)?)?;
        let line = format!("required {} sampan={}\n", plugin.display(), sampan.display());
        fs::write(dir.join("etc/plugstack.conf"), line)?;
        let mut shell = Command::new("bash");
        shell.args(["-c", DAEMONS, "daemons"]).arg(&dir).arg(user);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let cluster = Self { dir, _daemons: shell.spawn()? };
        cluster.wait()?;
        Ok(cluster)
    }

    fn wait(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            let mut sinfo = Command::new("sinfo");
            sinfo.args(["-h", "-N", "-o", "%T"]).env("SLURM_CONF", self.conf());
            let states = sinfo.output()?.stdout;
            let states = String::from_utf8_lossy(&states);
            if states.lines().filter(|state| *state == "idle").count() == NODES.len() {
                return Ok(());
            }
            if start.elapsed() > LONGEST {
                let logs = ["munged", "slurmctld.out", "slurmctld", "n1.out", "n1", "n4.out"];
                let text = |name| fs::read_to_string(self.dir.join("log").join(name));
                let all = logs.map(|name| format!("== {name}\n{}", text(name).unwrap_or_default()));
                let text = format!("the cluster does not come up: {states}\n{}", all.join("\n"));
                return Err(io::Error::other(text));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its slurm.conf, which Slurm's commands are told of by `SLURM_CONF`.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.dir.join("etc/slurm.conf")
    }
}

/// Ports at which nobody listens, none of those that the kernel gives to connections: one
/// of these could be taken before its daemon listens.
fn ports(count: usize) -> io::Result<Vec<u16>> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let first = range.split_whitespace().next().and_then(|number| number.parse::<u16>().ok());
    let below = LOWEST..first.filter(|first| *first > LOWEST).unwrap_or(u16::MAX);
    let mut random = [0; 2];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    // Another cluster begins to look elsewhere.
    let start = usize::from(u16::from_ne_bytes(random)) % below.len();
    let all = below.clone().cycle().skip(start).take(below.len());
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    let found: Vec<u16> = all.filter(free).take(count).collect();
    if found.len() == count { Ok(found) } else { Err(io::Error::other("no port is free")) }
}

fn configuration(dir: &Path) -> io::Result<String> {
    let all = ports(1 + NODES.len())?;
    let (controller, nodes) = (all[0], &all[1..]);
    let mut text = format!(
        "ClusterName=sampan-test\nSlurmctldHost=localhost\nSlurmctldPort={controller}\n\
         SlurmUser=root\nAuthType=auth/munge\nAuthInfo=socket={dir}/munge/socket\n\
         CredType=cred/munge\nStateSaveLocation={dir}/state\nSlurmdSpoolDir={dir}/spool/%n\n\
         SlurmctldPidFile={dir}/log/slurmctld.pid\nSlurmdPidFile={dir}/log/%n.pid\n\
         SlurmctldLogFile={dir}/log/slurmctld\nSlurmdLogFile={dir}/log/%n\n\
         PlugStackConfig={dir}/etc/plugstack.conf\nTmpFS={dir}/tmp/%n\n\
         ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSwitchType=switch/none\n\
         SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nMpiDefault=none\n\
         AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n\
         SlurmdParameters=config_overrides\nReturnToService=2\nKillWait=5\nMailProg=/bin/true\n\
         MessageTimeout=100\nTCPTimeout=60\nBatchStartTimeout=300\nUnkillableStepTimeout=600\n\
         MinJobAge=86400\n\
         SchedulerParameters=bf_interval=1,sched_min_interval=0\n",
        dir = dir.display()
    );
    for (node, port) in NODES.iter().zip(nodes) {
        text += &format!(
            "NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=64 \
             State=UNKNOWN\n"
        );
    }
    Ok(text + "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n")
}
