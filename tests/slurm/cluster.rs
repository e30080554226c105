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
//! prints the logs in it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use harness::{Place, Ran, required, run};

/// The nodes' names.
pub const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];

/// Nothing waits longer for a command or a daemon.
const LONGEST: Duration = Duration::from_secs(180);

/// A running cluster, for all tests of this process.
pub struct Cluster {
    dir: PathBuf,
    /// The shell, which ends when its standard input does.
    _daemons: Child,
}

const DAEMONS: &str = r#"
cd "$1"; export SLURM_CONF=$PWD/etc/slurm.conf
end() {
  scancel --quiet --user="$2" 2>/dev/null
  for i in $(seq 200); do [ -n "$(squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
  # Ended in this order, the controller misses nobody.
  kill $nodes; wait $nodes; kill $controller; wait $controller; kill $munge; wait $munge
  cd /; rm -rf "$1"
}
trap '' INT TERM HUP
munged -F -S "$PWD/munge/socket" --key-file "$PWD/munge/key" --pid-file "$PWD/munge/pid" \
  --log-file "$PWD/munge/log" --seed-file "$PWD/munge/seed" >log/munged 2>&1 & munge=$!
for i in $(seq 100); do [ ! -S munge/socket ] || break; sleep 0.1; done
slurmctld -D -c >log/slurmctld.out 2>&1 & controller=$!
for n in n1 n2 n3; do slurmd -D -N $n >log/$n.out 2>&1 & nodes="$nodes $!"; done
taskset -c 0 slurmd -D -N n4 >log/n4.out 2>&1 & nodes="$nodes $!"
cat >/dev/null
end "$1" "$2"
"#;

impl Cluster {
    /// The cluster; started when first asked for.
    ///
    /// # Panics
    /// When a daemon is not installed, or the nodes do not come up.
    pub fn get() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(Self::start)
    }

    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-slurm-").tempdir_in("/var/tmp");
        let dir = dir.unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        for sub in ["etc", "munge", "log", "state", "spool", "tmp"] {
            fs::create_dir(dir.join(sub)).unwrap();
        }
        for node in NODES {
            fs::create_dir(dir.join("spool").join(node)).unwrap();
            let tmp = dir.join("tmp").join(node);
            fs::create_dir(&tmp).unwrap();
            fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).unwrap();
        }
        let mut key = [0; 128];
        rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()).unwrap();
        fs::write(dir.join("munge/key"), key).unwrap();
        fs::set_permissions(dir.join("munge/key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.join("etc/slurm.conf"), configuration(&dir)).unwrap();
        let (plugin, sampan) = (required("SAMPAN_SPANK"), required("SAMPAN_BIN"));
        let line = format!("required {plugin} sampan={sampan}\n");
        fs::write(dir.join("etc/plugstack.conf"), line).unwrap();
        let mut shell = Command::new("bash");
        shell.args(["-c", DAEMONS, "daemons"]).arg(&dir).arg(required("SAMPAN_TEST_USER"));
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let cluster = Self { dir, _daemons: shell.spawn().expect("bash starts") };
        cluster.wait();
        cluster
    }

    fn wait(&self) {
        let start = Instant::now();
        loop {
            let mut sinfo = Command::new("sinfo");
            sinfo.args(["-h", "-N", "-o", "%T"]).env("SLURM_CONF", self.dir.join("etc/slurm.conf"));
            let states = run(&mut sinfo);
            if states.out.lines().filter(|state| *state == "idle").count() == NODES.len() {
                return;
            }
            if start.elapsed() > LONGEST {
                let logs = ["munged", "slurmctld.out", "slurmctld", "n1.out", "n1", "n4.out"];
                let text = |name| fs::read_to_string(self.dir.join("log").join(name));
                let all = logs.map(|name| format!("== {name}\n{}", text(name).unwrap_or_default()));
                panic!("the cluster does not come up: {states:?}\n{}", all.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A command of Slurm as the ordinary user, in the place's working
    /// directory; ended when it hangs.
    #[must_use]
    pub fn command(&self, place: &Place, program: &str) -> Command {
        let mut command = place.command("timeout");
        command.args(["-k", "5", &LONGEST.as_secs().to_string(), program]);
        command.env("SLURM_CONF", self.dir.join("etc/slurm.conf"));
        command
    }

    /// Runs a command of Slurm.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, place: &Place, program: &str, args: &[&str]) -> Ran {
        run(self.command(place, program).args(args))
    }

    /// Runs srun.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn srun(&self, place: &Place, args: &[&str]) -> Ran {
        self.run(place, "srun", args)
    }

    /// Runs a shell script from which Slurm's commands can be called.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn shell(&self, place: &Place, script: &str) -> Ran {
        self.run(place, "bash", &["-c", script])
    }
}

/// What every test of a step begins with.
#[must_use]
pub fn image_flag(image: &str) -> String {
    format!("--container-image={image}")
}

/// Ports that were free a moment ago.
fn ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn configuration(dir: &Path) -> String {
    let [controller, nodes @ ..] = ports::<5>();
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
         SchedulerParameters=bf_interval=1,sched_min_interval=0\n",
        dir = dir.display()
    );
    for (node, port) in NODES.iter().zip(nodes) {
        text += &format!(
            "NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=64 \
             State=UNKNOWN\n"
        );
    }
    text + "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
}
