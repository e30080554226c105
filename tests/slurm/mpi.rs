//! MPI over several nodes: the scheduler's PMI, the image's MPI or the host's.

use std::path::Path;

use harness::{Place, Ran, registry, required};

use crate::cluster::Cluster;
use crate::many::nothing_is_left;

/// Runs `mpi_check` of an image as 16 ranks on four nodes. With `plugin` the
/// container is asked for by a flag, else sampan is the step's command.
fn ranks(place: &Place, mpi: &str, image: &str, plugin: bool, env: &[(&str, &str)]) -> Ran {
    let (sampan, name) = (required("SAMPAN_BIN"), format!("{}/{image}", registry()));
    let flag = format!("--container-image={}#{image}", registry());
    let mut command = Cluster::get().command(place, "srun");
    command.args(["-N4", "--ntasks-per-node=4", mpi]);
    if plugin {
        command.arg(flag);
    } else {
        command.args([&sampan, "run", &name]);
    }
    // The nodes are one host with one name and one /dev/shm, and their ranks are
    // in user namespaces of their own. So MPICH talks through files in it, as
    // over UCX's tcp Debian's hangs in MPI_Finalize, bare too; and Open MPI talks
    // over loopback, as it takes ranks of other nodes for its own.
    command.args(["mpi_check", "check"]);
    command.env("UCX_TLS", "posix,sysv,self").env("UCX_POSIX_USE_PROC_LINK", "n");
    // What it warns of is no output of the ranks.
    command.env("UCX_LOG_FILE", "stderr");
    let open =
        [("btl", "tcp,self"), ("btl_tcp_if_include", "lo"), ("pml", "ob1"), ("osc", "pt2pt,rdma")];
    command.envs(open.map(|(name, value)| (format!("OMPI_MCA_{name}"), value)));
    harness::run(command.envs(env.iter().copied()))
}

/// On one node nothing is said of how ranks talk: shared memory and
/// process_vm_readv(2), as they come.
#[test]
fn four_ranks_of_a_node_as_they_are() {
    let place = Place::new();
    for (mpi, image) in [("--mpi=pmi2", "mpich"), ("--mpi=pmix", "openmpi")] {
        let flag = format!("--container-image={}#{image}", registry());
        for mode in ["check", "peer"] {
            let args = ["-N1", "-n4", mpi, &flag, "mpi_check", mode];
            let out = Cluster::get().srun(&place, &args).ok();
            assert!(out.starts_with("ok 4 ") || out == "peers ok 4\n", "{image}: {out}");
        }
    }
}

#[test]
fn sixteen_ranks_of_mpich_over_pmi2() {
    let place = Place::new();
    for plugin in [true, false] {
        let out = ranks(&place, "--mpi=pmi2", "mpich", plugin, &[]).ok();
        assert_eq!(out, "ok 16 MPICH Version:\t4.0.2\n", "plugin: {plugin}");
    }
    nothing_is_left(&place);
}

#[test]
fn sixteen_ranks_of_open_mpi_over_pmix() {
    let place = Place::new();
    for plugin in [true, false] {
        let out = ranks(&place, "--mpi=pmix", "openmpi", plugin, &[]).ok();
        assert_eq!(out, "ok 16 Open MPI v4.1.4\n", "plugin: {plugin}");
    }
    nothing_is_left(&place);
}

/// In a container of its own /tmp and /dev: PMIx's server and what ranks share is the
/// node's all the same.
#[test]
fn contained_ranks_reach_their_pmix_server() {
    let (place, sampan) = (Place::new(), required("SAMPAN_BIN"));
    let image = format!("{}/openmpi", registry());
    let flags = ["-N1", "-n4", "--mpi=pmix", &sampan, "run", "--contain", &image, "mpi_check"];
    for (mode, expected) in [("check", "ok 4 Open MPI v4.1.4\n"), ("peer", "peers ok 4\n")] {
        let args: Vec<&str> = flags.iter().copied().chain([mode]).collect();
        assert_eq!(Cluster::get().srun(&place, &args).ok(), expected);
    }
    // The directory in which Slurm has the ranks of a step keep what they share.
    let script = "cat /proc/mounts";
    let args =
        ["-N1", "-n1", "--mpi=pmix", &sampan, "run", "--contain", &image, "sh", "-c", script];
    let mounts = Cluster::get().srun(&place, &args).ok();
    assert!(mounts.contains("/spmix_appdir_"), "{mounts}");
}

/// The hosts' libraries in place of the images', and how many they are.
#[test]
fn sixteen_ranks_with_the_hosts_mpi() {
    let place = Place::new();
    let hosts = required("SAMPAN_TEST_HOSTS");
    let newer = Path::new(&hosts).join("mpich").display().to_string();
    let host = ("SAMPAN_MPI", "host");
    let cases = [
        ("--mpi=pmi2", "mpich", vec![host], "MPICH Version:\t4.0.2"),
        (
            "--mpi=pmi2",
            "mpich",
            vec![host, ("SAMPAN_MPI_PATH", newer.as_str())],
            "MPICH Version:      5.0.2",
        ),
        ("--mpi=pmix", "openmpi", vec![host], "Open MPI v4.1.4"),
    ];
    for (mpi, image, env, version) in cases {
        let out = ranks(&place, mpi, image, true, &env).ok();
        assert_eq!(out, format!("ok 16 {version}\n"), "{env:?}");
        let name = format!("{}/{image}", registry());
        let mut plan = place.sampan_command(&["run", "--explain", &name]);
        let text = harness::run(plan.envs(env.clone())).ok();
        let counted = text.lines().find(|line| line.contains("of the image's replaced"));
        assert!(counted.is_some_and(|line| !line.contains(" 0 of the image's")), "{text}");
    }
}
