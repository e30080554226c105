//! srun: one step, its tasks and what they are given.

use std::io::Write;
use std::process::Stdio;

use harness::{Place, Ran, registry, wait_until};

use crate::cluster::{Cluster, NODES, image_flag};
use crate::many::nothing_is_left;

#[test]
fn every_node_runs_its_task_in_the_image() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let script = "echo $SLURMD_NODENAME; cat /etc/marker; echo $0 $*";
    let out = cluster.srun(&place, &["-N4", &image, "sh", "-c", script, "a", "b c", "-d"]).ok();
    let mut lines: Vec<&str> = out.lines().filter(|line| line.starts_with('n')).collect();
    lines.sort_unstable();
    assert_eq!(lines, NODES);
    assert_eq!(out.matches("from the image").count(), 4);
    assert_eq!(out.matches("a b c -d\n").count(), 4);
}

#[test]
fn an_image_comes_from_a_registry_once() {
    let (cluster, place) = (Cluster::get(), Place::new());
    // As pyxis writes it, with a user whom sampan does not need.
    let image = format!("--container-image=me@{}#busybox:latest", registry());
    let out = cluster.srun(&place, &["-N4", "-n8", &image, "sh", "-c", "echo $((6 * 7))"]).ok();
    assert_eq!(out, "42\n".repeat(8));
    let mut layout = harness::Layout::new(place.path("layout"));
    layout.busybox();
    let _ = layout.finish("one");
    let server = harness::Server::start(&place.path("layout"), harness::Fault::None);
    let image = format!("--container-image={}#x/image:v1", server.address);
    let srun = |nodes: &str, policy: &str| {
        let mut command = cluster.command(&place, "srun");
        command.args([nodes, "-n8", &image, "cat", "/etc/marker"]);
        command.env("SAMPAN_PULL", policy);
        assert_eq!(harness::run(&mut command).ok(), "from the image\n".repeat(8));
    };
    srun("-N4", "missing");
    // The configuration and the layer: four nodes share the download.
    assert_eq!(server.requests("/blobs/").len(), 2, "{:?}", server.requests(""));
    // Looking for a newer one is the node's business, not the task's.
    let before = server.requests("/manifests/").len();
    srun("-N2", "always");
    let asked = server.requests("/manifests/").len() - before;
    assert!((1..=4).contains(&asked), "{asked} requests for two nodes");
}

#[test]
fn the_exit_code_is_the_tasks_own() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let code = |script: &str| cluster.srun(&place, &[&image, "sh", "-c", script]).code;
    assert_eq!(code("exit 7"), 7);
    assert_eq!(code("kill -TERM $$"), 128 + 15);
    assert_eq!(code("kill -KILL $$"), 128 + 9);
    assert_eq!(cluster.srun(&place, &[&image, "no-such-program"]).code, 127);
    let script = "exit $SLURM_PROCID";
    assert_eq!(cluster.srun(&place, &["-n4", &image, "sh", "-c", script]).code, 3);
}

/// What a process has been given, apart from what a container changes.
const GIVEN: &str = "umask; ulimit -a; grep -E '^(Cpus_allowed_list|SigBlk|SigIgn|NoNewPrivs)' \
                     /proc/self/status; cat /proc/self/cgroup; cat /proc/self/oom_score_adj; \
                     echo $TMPDIR; id -u; id -g; pwd";

#[test]
fn pinning_limits_and_mask_are_the_tasks_own() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    // Node n4 is pinned to one processor.
    let srun = |flag: &str| {
        let shell = format!(
            "ulimit -n 333; ulimit -c 0; umask 027; srun -w n4 {flag} /bin/busybox sh -c \"{GIVEN}\""
        );
        cluster.shell(&place, &shell).ok()
    };
    let (bare, inside) = (srun(""), srun(&image));
    assert_eq!(
        bare.replace("NoNewPrivs:\t0", "NoNewPrivs:\t1"),
        inside.replace("NoNewPrivs:\t0", "NoNewPrivs:\t1")
    );
    assert!(inside.contains("0027\n") && inside.contains("333"), "{inside}");
    assert!(inside.contains("Cpus_allowed_list:\t0\n"), "{inside}");
}

#[test]
fn descriptors_are_as_slurm_leaves_them() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let list = "for fd in /proc/self/fd/*; do echo ${fd##*/}; done";
    let open = |flags: &[&str]| {
        cluster.srun(&place, &[flags, &["/bin/busybox", "sh", "-c", list]].concat()).ok()
    };
    assert_eq!(open(&[]), open(&[&image]));
    // PMI_FD keeps its number, and is still the socket that Slurm listens at.
    let script = "readlink /proc/self/fd/$PMI_FD | cut -c1-6; echo $PMI_RANK/$PMI_SIZE";
    let args = ["-n2", "--mpi=pmi2", &image, "/bin/busybox", "sh", "-c", script];
    let out = cluster.srun(&place, &args).ok();
    assert_eq!(out.matches("socket").count(), 2, "{out}");
    assert!(out.contains("0/2") && out.contains("1/2"), "{out}");
}

#[test]
fn standard_input_reaches_the_task() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let mut command = cluster.command(&place, "srun");
    command.args([&image, "sha256sum"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text, format!("{}  -\n", harness::sha256(&bytes)));
}

#[test]
fn what_slurm_does_before_the_task_still_happens() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let prolog = place.write("work/prolog", "#!/bin/sh\necho export ADDED=yes\necho print said\n");
    let status = std::process::Command::new("chmod").arg("755").arg(&prolog).status().unwrap();
    assert!(status.success());
    let flag = format!("--task-prolog={}", prolog.display());
    let out = cluster.srun(&place, &[&flag, &image, "sh", "-c", "echo $ADDED"]).ok();
    assert_eq!(out, "said\nyes\n");
}

#[test]
fn each_task_has_a_program_of_its_own_in_one_container() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    place.write("work/first", "cat /etc/marker; exit 3");
    let conf = "# the first one is another\n0 sh ./first\n\
                1-2  echo task \\\n%t %o\n3,4 readlink /proc/self/ns/user\n";
    let conf = place.write("work/multi", conf).display().to_string();
    let mut command = cluster.command(&place, "srun");
    command.args(["-N1", "-n5", &image, "--multi-prog", &conf]);
    // One task may have ended before another begins.
    let ran = harness::run(command.env("SAMPAN_LINGER", "60"));
    assert_eq!(ran.code, 3, "{ran:?}");
    let mut lines: Vec<&str> = ran.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines[..3], ["from the image", "task 1 0", "task 2 1"], "{ran:?}");
    assert!(lines[3].starts_with("user:") && lines[3] == lines[4], "{ran:?}");
    // Asked for by a variable, and over several nodes.
    let script = format!(
        "SAMPAN_CONTAINER_IMAGE={} srun -N4 -n5 --multi-prog {conf} | grep -c -e image -e task",
        place.image_file()
    );
    assert_eq!(cluster.shell(&place, &script).out, "3\n");
    // Without a container nothing of it is touched.
    let conf = place.write("work/plain", "* echo bare %t\n").display().to_string();
    let out = cluster.srun(&place, &["-n1", "--multi-prog", &conf]).ok();
    assert_eq!(out, "bare 0\n");
    // A program that the image lacks.
    place.write("work/plain", "* no-such-program\n");
    assert_eq!(cluster.srun(&place, &["-n2", &image, "--multi-prog", &conf]).code, 127);
}

#[track_caller]
fn refused(ran: &Ran, words: &[&str]) {
    assert_ne!(ran.code, 0, "{ran:?}");
    for word in words {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    assert!(!ran.out.contains("STARTED"), "{ran:?}");
}

#[test]
fn a_bad_image_fails_the_step_with_its_reason() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let start = |image: &str| {
        cluster.srun(&place, &["-N2", "-n4", &image_flag(image), "/bin/echo", "STARTED"])
    };
    let ran = start("/no/such/image.sqsh");
    refused(&ran, &["cannot open the image", "hint:"]);
    assert_eq!(ran.err.matches("cannot open the image").count(), 2, "once per node: {}", ran.err);
    assert_eq!(ran.code, 125);
    refused(&start("missing.sqsh"), &["cannot open the image", "missing.sqsh"]);
    let absent = format!("{}#no/such:tag", registry());
    refused(&start(&absent), &["no/such"]);
    let broken = place.write("work/broken.sqsh", "this is no image");
    refused(&start(broken.to_str().unwrap()), &["broken.sqsh"]);
    // Where srun sees it, no job is made.
    refused(&start("a#b#c"), &["srun: error", "two #"]);
    refused(&start("dockerd://ubuntu"), &["srun: error", "daemon"]);
}

#[test]
fn nodes_of_one_host_share_nothing_and_tasks_of_one_node_do() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    // No task ends before all are there.
    let script = "echo $SLURMD_NODENAME $(readlink /proc/self/ns/user); touch up.$SLURM_PROCID; \
                  n=0; until [ $(ls up.* | wc -l) = 6 ] || [ $n = 3000 ]; do \
                  sleep 0.1; n=$((n + 1)); done";
    let out = cluster.srun(&place, &["-N2", "-n6", &image, "sh", "-c", script]).ok();
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 2, "one namespace per node: {out}");
    assert_ne!(lines[0].split(' ').nth(1), lines[1].split(' ').nth(1), "{out}");
}

#[test]
fn a_cancelled_step_leaves_no_process() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let script = format!(
        "export -f wait_for; \
         salloc -N2 -n2 bash -c 'srun {image} sh -c \"echo up; sleep 1000\" >out & \
         wait_for \"grep -c up out | grep -qx 2\" && scancel $SLURM_JOB_ID.0; wait $!; echo $?'"
    );
    let ran = cluster.shell(&place, &script);
    assert!(ran.out.lines().last() != Some("0") && ran.err.contains("CANCELLED"), "{ran:?}");
    nothing_is_left(&place);
}

#[test]
fn a_job_is_cancelled_while_its_image_is_fetched() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let mut layout = harness::Layout::new(place.path("layout"));
    layout.busybox();
    let _ = layout.finish("one");
    let server = harness::Server::start(&place.path("layout"), harness::Fault::Stall);
    let mut command = cluster.command(&place, "srun");
    let image = format!("--container-image={}#x/image:v1", server.address);
    let job = ["--job-name=stalled", &image, "echo", "STARTED"];
    let child = command.args(job).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the image is asked for", || !server.requests("/blobs/").is_empty());
    let _ = cluster.run(&place, "scancel", &["--name=stalled"]).ok();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    nothing_is_left(&place);
}

/// What one writes the others see, also who comes when another has ended.
#[test]
fn the_tasks_of_a_node_are_one_container() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = place.image_file();
    place.write("work/e.toml", format!("image = \"{image}\"\n"));
    let script = "[ $SLURM_LOCALID = 0 ] || for i in $(seq 600); do [ ! -e /etc/0 ] || break; sleep 0.1; \
                  done; ls /etc/0 >/dev/null || exit 1; echo $SLURMD_NODENAME $(readlink /proc/self/ns/mnt)";
    let script = format!("[ $SLURM_LOCALID != 0 ] || touch /etc/0; {script}");
    let writes: [&[&str]; 2] =
        [&[&image_flag(&image), "--container-writable"], &["--edf=./e.toml"]];
    for flags in writes {
        let flags = [&["-N2", "--ntasks-per-node=4"], flags, &["sh", "-c", &script]].concat();
        let out = cluster.srun(&place, &flags).ok();
        let mut lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 8, "{out}");
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 2, "{out}");
    }
    nothing_is_left(&place);
}
