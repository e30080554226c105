//! `--mpi=container` over several nodes: the image's own mpirun, whose proxies are
//! started in containers on the other nodes.

use std::process::Command;

use harness::{Place, WAIT_FOR, registry, required, wait_until};

use crate::cluster::{Cluster, NODES};
use crate::many::nothing_is_left;

/// Both images and their launchers.
const MPIS: [(&str, &str, &str); 2] = [
    ("mpich", "mpirun", "MPICH Version:\t4.0.2"),
    // Its daemons are as many as processors, in its eyes.
    ("openmpi", "mpirun --oversubscribe", "Open MPI v4.1.4"),
];

/// A command of a job of four nodes with two tasks each, as of `ranks` in mpi.rs.
fn job(place: &Place, script: &str) -> Command {
    job_of(place, "-N4", script)
}

/// The same with other nodes.
fn job_of(place: &Place, nodes: &str, script: &str) -> Command {
    let mut command = Cluster::get().command(place, "salloc");
    command.args(["--quiet", nodes, "--ntasks-per-node=2", "bash", "-c"]);
    command.arg(format!("{WAIT_FOR}\n{script}"));
    command.env("sampan", required("SAMPAN_BIN")).env("registry", registry());
    command.env("UCX_TLS", "posix,sysv,self").env("UCX_POSIX_USE_PROC_LINK", "n");
    // What it warns of is no output of the ranks.
    command.env("UCX_LOG_FILE", "stderr");
    let open =
        [("btl", "tcp,self"), ("btl_tcp_if_include", "lo"), ("pml", "ob1"), ("osc", "pt2pt,rdma")];
    command.envs(open.map(|(name, value)| (format!("OMPI_MCA_{name}"), value)));
    command
}

/// sampan with an image's mpirun and `words` behind it. These nodes have one /tmp, in
/// which daemons of Open MPI make and remove the same directories: each has its own.
fn inside(image: &str, mpirun: &str, words: &str) -> String {
    let own = "--tmpfs /own --env TMPDIR=/own";
    format!("$sampan run --mpi=container {own} $registry/{image}:latest {mpirun} {words}")
}

#[test]
fn eight_ranks_over_four_nodes() {
    let place = Place::new();
    for (image, mpirun, version) in MPIS {
        let script = inside(image, mpirun, "-n 8 mpi_check check");
        let out = harness::run(&mut job(&place, &script)).ok();
        assert_eq!(out, format!("ok 8 {version}\n"), "{image}");
        // Two on each node, each in the image, as the host has no such program.
        let script =
            inside(image, mpirun, "-n 8 sh -c 'echo $SLURMD_NODENAME $(command -v mpi_check)'");
        let out = harness::run(&mut job(&place, &script)).ok();
        let mut lines: Vec<&str> = out.lines().collect();
        lines.sort_unstable();
        let expected: Vec<String> = NODES
            .iter()
            .flat_map(|node| [(); 2].map(|()| format!("{node} /usr/local/bin/mpi_check")))
            .collect();
        assert_eq!(lines, expected, "{image}");
    }
    nothing_is_left(&place);
}

/// A launcher that knows Slurm would call srun, which no image has.
#[test]
fn two_ranks_on_one_node() {
    let place = Place::new();
    for (image, mpirun, version) in MPIS {
        let script = inside(image, mpirun, "-n 2 mpi_check check");
        let out = harness::run(&mut job_of(&place, "-N1", &script)).ok();
        assert_eq!(out, format!("ok 2 {version}\n"), "{image}");
    }
    nothing_is_left(&place);
}

/// Intel's launcher and library and a program that was built with MPICH are brought in;
/// the image has libfabric, which Intel's network needs.
#[test]
fn eight_ranks_of_intel_mpi_over_four_nodes() {
    let place = Place::new();
    let hosts = required("SAMPAN_TEST_HOSTS");
    let intel = format!("{hosts}/impi-rt");
    // Its library under the name that Debian's MPICH has.
    let script = format!(
        "ln -s {intel}/lib/libmpi.so.12 libmpich.so.12; \
         $sampan run --mpi=container -B {hosts} --env LD_LIBRARY_PATH=$PWD:{intel}/lib \
         $registry/openmpi:latest {intel}/bin/mpiexec.hydra -n 8 -ppn 2 {hosts}/mpi_check.mpich check"
    );
    let mut command = job(&place, &script);
    // The nodes are one host, whose ranks share no memory.
    let network = [("I_MPI_FABRICS", "ofi"), ("FI_PROVIDER", "tcp"), ("FI_TCP_IFACE", "lo")];
    let out = harness::run(command.envs(network)).ok();
    assert!(out.starts_with("ok 8 Intel(R) MPI Library"), "{out}");
    nothing_is_left(&place);
}

#[test]
fn the_exit_code_of_a_rank_arrives() {
    let place = Place::new();
    for (image, mpirun, _) in MPIS {
        let words = "-n 8 sh -c 'test $SLURMD_NODENAME != n3 || exit 7'";
        let ran = harness::run(&mut job(&place, &inside(image, mpirun, words)));
        assert_eq!(ran.code, 7, "{image}: {ran:?}");
    }
    nothing_is_left(&place);
}

#[test]
fn a_killed_mpirun_leaves_nothing() {
    let place = Place::new();
    for (image, mpirun, _) in MPIS {
        // Nobody else on the machine sleeps so long.
        let sleep = format!("sleep 4242.{}", std::process::id());
        let words = format!("-n 8 sh -c 'touch {image}.$SLURMD_NODENAME.$$; exec {sleep}'");
        // The other tests' jobs have steps too.
        let script = format!(
            "{} & wait_for 'ls {image}.n* 2>/dev/null | wc -l | grep -qx 8' && kill -KILL $! && \
             wait_for '! squeue -h -s -o %i | grep \"^$SLURM_JOB_ID[.]\" | grep -qv extern'",
            inside(image, mpirun, &words)
        );
        let ran = harness::run(&mut job(&place, &script));
        assert_eq!(ran.code, 0, "{image}: {ran:?}");
        let sleeping = || {
            let ps = Command::new("pgrep").args(["-fx", &sleep]).status();
            ps.is_ok_and(|status| status.success())
        };
        wait_until("the ranks end with their launcher", || !sleeping());
    }
    nothing_is_left(&place);
}

/// The agent reaches the job's nodes alone.
#[test]
fn other_hosts_are_refused() {
    let place = Place::new();
    let agent = "/.sampan/bin/sampan-agent";
    let script = format!(
        "for host in n1 n4 'n[1-2]' -x; do \
           $sampan exec --mpi=container $registry/mpich:latest {agent} $host true; echo $?; done"
    );
    let mut command = Cluster::get().command(&place, "salloc");
    command.args(["--quiet", "-w", "n1,n2", "-N2", "bash", "-c", &script]);
    command.env("sampan", required("SAMPAN_BIN")).env("registry", registry());
    let ran = harness::run(&mut command);
    let codes: Vec<&str> = ran.out.lines().collect();
    assert!(codes.len() == 4 && codes[0] == "0" && codes[1] != "0", "{ran:?}");
    assert_eq!(codes[2..], ["255", "255"], "{ran:?}");
    assert!(ran.err.contains("is not the name of a host"), "{}", ran.err);
    // Without a job there is nothing to reach.
    let run = format!("exec --mpi=container {}/mpich:latest {agent} n1 true", registry());
    let words: Vec<&str> = run.split(' ').collect();
    let err = place.sampan(&words).fails(127);
    assert!(err.contains(agent), "{err}");
}
