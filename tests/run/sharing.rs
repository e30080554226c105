//! Containers of one image on one node share a server and a user namespace.

use std::process::Stdio;

use harness::{Cgroup, Place, wait_until};

const NAMESPACE: &str = "readlink /proc/self/ns/user";

/// The processes that serve an image.
pub(crate) fn servers_of(place: &Place, image: &str) -> usize {
    let script = format!("pgrep -f -- '^[^ ]*sampan exec .*{image}' | wc -l");
    place.shell(&script).ok().trim().parse().unwrap()
}

/// The processes that serve the place's image.
fn servers(place: &Place) -> usize {
    servers_of(place, &place.image_file())
}

/// Ends the servers of a place's image, which would wait for others.
pub(crate) fn end_servers(place: &Place) {
    // The shell's own command line has the image too.
    let _ = place.shell(&format!("pkill -KILL -f -- '{}'", place.image_file()));
}

#[test]
fn later_containers_join_the_first() {
    let place = Place::new();
    let image = place.image_file();
    let script = format!(
        "export SAMPAN_LINGER=300; $sampan exec {image} {NAMESPACE}; $sampan exec {image} {NAMESPACE}; \
         $sampan run --isolate {image} {NAMESPACE}; $sampan exec --root {image} {NAMESPACE}; \
         SLURM_JOB_ID=7 $sampan exec {image} {NAMESPACE}"
    );
    let out = place.shell(&script).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 5, "{out}");
    assert_eq!(lines[0], lines[1], "the second container did not join");
    assert_eq!(lines[0], lines[2], "an isolated container did not join");
    assert_ne!(lines[0], lines[3], "another identity joined");
    assert_ne!(lines[0], lines[4], "another job joined");
    assert_eq!(servers(&place), 3);
    end_servers(&place);
}

#[test]
fn the_server_waits_and_then_goes() {
    let place = Place::new();
    let image = place.image_file();
    let start = |linger: u32| {
        let _ = place.shell(&format!("SAMPAN_LINGER={linger} $sampan exec {image} true")).ok();
    };
    start(1);
    wait_until("the server goes", || servers(&place) == 0);
    assert_eq!(place.shell("ls $SAMPAN_SCRATCH/sampan-*/run").ok(), "");
    start(300);
    assert_eq!(servers(&place), 1);
    end_servers(&place);
}

#[test]
fn a_server_ends_with_its_jobs_control_group() {
    let place = Place::new();
    let image = place.image_file();
    let job = Cgroup::new(&place);
    let mut start = place.sampan_command(&["exec", &image, "cat", "/etc/marker"]);
    assert_eq!(job.hold(start.env("SAMPAN_LINGER", "600")).ok(), "from the image\n");
    assert_eq!(servers(&place), 1, "the server is gone before its time");
    assert_eq!(job.members(), 1, "the server has left its job");
    job.kill();
    wait_until("the server outlives its job", || servers(&place) == 0);
    // What it left stops nobody.
    assert_eq!(place.sampan(&["exec", &image, "cat", "/etc/marker"]).ok(), "from the image\n");
}

#[test]
fn what_a_container_leaves_running_is_served_on() {
    let place = Place::new();
    let image = place.image_file();
    let script = format!(
        "$sampan exec {image} sh -c '(until test -e go; do sleep 0.1; done; \
           cat /etc/marker >orphan 2>&1; touch done) >/dev/null 2>&1 &'; \
         sleep 0.5; pgrep -c -f -- '^[^ ]*sampan exec .*{image}'; touch go; \
         wait_for 'test -e done'; cat orphan"
    );
    assert_eq!(place.shell(&script).ok(), "1\nfrom the image\n");
    wait_until("the server goes", || servers(&place) == 0);
}

#[test]
fn two_hundred_starts_at_once() {
    let place = Place::new();
    let image = place.image_file();
    let script = format!(
        "export SAMPAN_LINGER=300; for i in $(seq 200); do $sampan exec {image} {NAMESPACE} & done; wait"
    );
    let out = place.shell(&script).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 200, "{out}");
    assert!(lines.iter().all(|line| *line == lines[0]), "not all share one namespace: {out}");
    end_servers(&place);
}

#[test]
fn a_killed_server_is_replaced() {
    let place = Place::new();
    let image = place.image_file();
    let run = |word: &str| {
        place.shell(&format!("SAMPAN_LINGER=300 $sampan exec {image} echo {word}")).ok()
    };
    assert_eq!(run("one"), "one\n");
    let _ = place.shell(&format!("pkill -KILL -f -- '^[^ ]*sampan exec .*{image}'")).ok();
    wait_until("the server is killed", || servers(&place) == 0);
    assert_eq!(run("two"), "two\n");
    end_servers(&place);
}

#[test]
fn the_first_container_may_be_killed_while_others_go_on() {
    let place = Place::new();
    let image = place.image_file();
    // The server was forked by the first; what the second reads last nobody has read.
    let script = format!(
        "export SAMPAN_LINGER=300; \
         $sampan exec {image} sh -c 'touch one; exec sleep 600' & first=$!; \
         wait_for 'test -e one'; \
         $sampan exec {image} sh -c '{NAMESPACE}; touch two; \
           until test -e go; do sleep 0.1; done; cat /etc/marker; ls /opt' >second & second=$!; \
         wait_for 'test -e two'; kill -9 $first; wait $first; echo $?; \
         $sampan exec {image} {NAMESPACE} >third; touch go; wait $second; echo $?; \
         cat third second"
    );
    let out = place.shell(&script).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["137", "0"], "{out}");
    assert_eq!(lines[2], lines[3], "the third did not join: {out}");
    assert_eq!(lines[4..], ["from the image", "app"], "{out}");
    assert_eq!(servers(&place), 1);
    end_servers(&place);
}

#[test]
fn a_server_that_does_not_answer_is_replaced() {
    let place = Place::new();
    let image = place.image_file();
    let start = || place.shell(&format!("SAMPAN_LINGER=300 $sampan exec {image} {NAMESPACE}")).ok();
    let first = start();
    let _ = place.shell(&format!("pkill -STOP -f -- '^[^ ]*sampan exec .*{image}'")).ok();
    let second = start();
    assert_ne!(first, second);
    assert_eq!(second, start(), "the new server was not joined");
    end_servers(&place);
}

#[test]
fn ranks_of_a_node_may_look_into_each_other() {
    let place = Place::new();
    let image = place.image_file();
    let mut first = place
        .sampan_command(&["exec", "--env", "SECRET=shared", &image, "sleep", "600"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let look = format!("cat /proc/{}/environ", first.id());
    wait_until("the other's environment is seen", || {
        place.sampan(&["exec", &image, "sh", "-c", &look]).out.contains("SECRET=shared")
    });
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn what_one_container_adds_another_does_not_see() {
    let place = Place::new();
    let image = place.image_file();
    place.write("home/here", "here");
    let script = format!(
        "export SAMPAN_LINGER=300; set -e; $sampan exec {image} test ! -e /added; \
         $sampan exec -B $HOME:/added {image} cat /added/here; \
         $sampan exec {image} test ! -e /added; \
         $sampan exec --writable-tmpfs {image} sh -c 'echo x >/written; cat /written'; \
         $sampan exec {image} test ! -e /written; \
         $sampan exec {image} sh -c 'echo x >/etc/passwd' 2>/dev/null || echo refused"
    );
    assert_eq!(place.shell(&script).ok(), "herex\nrefused\n");
    assert_eq!(servers(&place), 1);
    end_servers(&place);
}

/// Each of four writes, and waits until it sees what all have written.
const FOUR: &str = "one() { echo >/etc/is.$1; readlink /proc/self/ns/mnt; for i in $(seq 600); do \
                    [ $(ls /etc/is.* | wc -l) != 4 ] || exit 0; sleep 0.1; done; exit 1; }; one";

#[test]
fn containers_of_one_process_are_one_where_they_are_to_be() {
    let place = Place::new();
    let (file, dir) = (place.image_file(), place.image_dir());
    for (image, how) in [
        (&file, "--writable-tmpfs"),
        (&dir, "--writable-tmpfs"),
        (&file, "--contain --writable-tmpfs"),
        (&file, "--overlay over"),
    ] {
        let script = format!(
            "export SAMPAN_LINGER=300; mkdir -p over; one=\"$sampan exec --sharens {how} {image}\"; \
             for n in 1 2 3 4; do $one sh -c '{FOUR} '$n & pids[$n]=$!; done >ns; \
             for n in 1 2 3 4; do wait ${{pids[$n]}} || echo \"$n: $?\"; done; sort -u ns | wc -l; \
             $one ls /etc/is.4; $one sh -c 'readlink /proc/self/ns/mnt' >>ns; sort -u ns | wc -l"
        );
        let ran = place.shell(&script);
        assert_eq!(ran.out, "1\n/etc/is.4\n1\n", "{how} {image}: {}", ran.err);
    }
    assert_eq!(place.shell("ls over/upper/etc").ok(), "is.1\nis.2\nis.3\nis.4\n");
    let script = format!(
        "one=\"$sampan exec --sharens --overlay over\"; $one {file} true; \
         $one -B /usr:/added {file} true; echo $?; $one {file} ls /etc/is.1; true"
    );
    let ran = place.shell(&script);
    assert_eq!(ran.out, "125\n/etc/is.1\n", "{}", ran.err);
    assert!(ran.err.contains("is written to as one container"), "{}", ran.err);
    // Another process has its own, as have those that are not alike.
    let script = format!(
        "one=\"$sampan exec --sharens --writable-tmpfs\"; $one {file} sh -c 'echo >/etc/here'; \
         $one {file} ls /etc/here; $one -B /usr:/added {file} ls /etc/here; \
         $sampan exec --writable-tmpfs {file} ls /etc/here; bash -c \"$one {file} ls /etc/here; :\"; true"
    );
    let ran = place.shell(&script);
    assert_eq!(ran.out, "/etc/here\n", "{}", ran.err);
    assert_eq!(ran.err.matches("No such file").count(), 3, "{}", ran.err);
    let plan = format!("$sampan exec --sharens --explain {file} true");
    assert!(place.shell(&plan).ok().contains("one with those that the same process"));
    let lonely =
        |how: &str| place.shell(&format!("$sampan exec --sharens --pid {how} {file} true"));
    assert!(lonely("--overlay over").fails(125).contains("cannot be written to by all"));
    assert!(lonely("--writable-tmpfs").err.contains("by one process alone"));
    assert_eq!(lonely("").err, "");
    end_servers(&place);
}
