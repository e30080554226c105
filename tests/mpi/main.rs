//! MPI programs of images under launchers of the host.
//!
//! The images have Debian's MPICH and Open MPI; hosts are Debian's own MPIs and
//! those of Python's packages (`cargo xtask fixtures`). Every image has
//! `mpi_check`, built with its own MPI.

use std::path::{Path, PathBuf};

use harness::{Place, registry, required, wait_until};
use serde_json::Value;

/// A directory of other MPIs, as a host might have them.
fn host(name: &str) -> PathBuf {
    Path::new(&required("SAMPAN_TEST_HOSTS")).join(name)
}

/// A place whose store has an image.
fn place(image: &str) -> (Place, String) {
    let (place, name) = (Place::new(), format!("{}/{image}:latest", registry()));
    let _ = place.sampan(&["pull", "--quiet", &name]).ok();
    (place, name)
}

/// MPICH's launcher; the kill is for a launcher that waits for ever.
const HYDRA: &str = "timeout -k 5 600 mpiexec.hydra";
/// Open MPI's, on a machine with fewer processors than ranks.
const ORTE: &str = "timeout -k 5 600 mpirun.openmpi --oversubscribe";

#[test]
fn ranks_of_debians_mpich_run_unmodified() {
    let (place, image) = place("mpich");
    for mode in ["check", "peer"] {
        let out = place.shell(&format!("{HYDRA} -n 4 $sampan run {image} mpi_check {mode}")).ok();
        let expected =
            if mode == "check" { "ok 4 MPICH Version:\t4.0.2\n" } else { "peers ok 4\n" };
        assert_eq!(out, expected);
    }
}

/// The number of mount namespaces that four ranks have, which all see at the same time.
fn namespaces(place: &Place, start: &str, image: &str) -> String {
    let script = format!(
        "rm -f here.*; {start} -B $PWD:/all {image} sh -c 'touch /all/here.$PMI_RANK; \
         for i in $(seq 600); do [ $(ls /all/here.* | wc -l) != 4 ] || break; sleep 0.1; done; \
         readlink /proc/self/ns/mnt' | sort -u | wc -l"
    );
    place.shell(&script).ok()
}

/// Those that cannot write are one, the others have changes of their own.
#[test]
fn ranks_of_a_node_are_one_container() {
    let (place, image) = place("mpich");
    for (how, expected) in [("", "1\n"), ("--writable-tmpfs", "4\n"), ("--contain", "4\n")] {
        let start = format!("{HYDRA} -n 4 $sampan run {how}");
        assert_eq!(namespaces(&place, &start, &image), expected, "{how}");
    }
}

#[test]
fn ranks_run_from_a_directory_and_contained() {
    let (place, image) = place("mpich");
    let _ = place.sampan(&["convert", "--quiet", &image, "tree/"]).ok();
    for how in ["./tree", &format!("--contain {image}"), &format!("--containall {image}")] {
        let script = format!("{HYDRA} -n 4 $sampan run {how} mpi_check check");
        assert!(place.shell(&script).ok().starts_with("ok 4 "), "{how}");
    }
}

/// As on a kernel before 6.15, where a detached mount cannot be cloned.
#[test]
fn ranks_share_a_user_namespace_on_older_kernels() {
    let (place, image) = place("mpich");
    let source = place.write("old.c", include_str!("old_kernel.c"));
    let tool = place.path("old");
    let cc = std::process::Command::new("cc").arg("-o").arg(&tool).arg(source).status();
    assert!(cc.expect("a C compiler").success());
    let old = tool.display();
    let one = format!("{old} $sampan exec {image} readlink /proc/self/ns/user");
    let same = format!("export SAMPAN_LINGER=100; {one}; {one}");
    let out = place.shell(&same).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{out}");
    let script = format!("{old} {HYDRA} -n 4 $sampan run {image} mpi_check peer");
    assert_eq!(place.shell(&script).ok(), "peers ok 4\n");
    let start = format!("{old} {HYDRA} -n 4 $sampan run");
    assert_eq!(namespaces(&place, &start, &image), "1\n");
    let one = format!("{old} $sampan exec --sharens --writable-tmpfs {image}");
    let out = place.shell(&format!("{one} touch /etc/here; {one} ls /etc/here; exit $?")).ok();
    assert_eq!(out, "/etc/here\n");
}

#[test]
fn ranks_of_open_mpi_find_their_pmix_server() {
    let (place, image) = place("openmpi");
    for how in ["", "--contain", "--cleanenv", "--env PMIX_GDS_MODULE=hash"] {
        let script = format!("{ORTE} -n 4 $sampan run {how} {image} mpi_check check");
        assert_eq!(place.shell(&script).ok(), "ok 4 Open MPI v4.1.4\n", "{how}");
    }
}

/// The libraries are mounted over those of a directory that is written to, which stay as
/// they are.
#[test]
fn the_hosts_mpi_runs_in_a_writable_directory() {
    let (place, image) = place("mpich");
    let _ = place.sampan(&["convert", "--quiet", &image, "tree/"]).ok();
    let sums = "cd tree && find . -name '*.so*' -type f -exec cksum {} + | sort";
    let before = place.shell(sums).ok();
    let path = format!("SAMPAN_MPI_PATH={}", host("mpich").display());
    let script = format!(
        "{path} timeout -k 5 600 {}/bin/mpiexec -n 2 $sampan run --mpi=host --writable ./tree \
         mpi_check check",
        host("mpich").display()
    );
    assert_eq!(place.shell(&script).ok(), "ok 2 MPICH Version:      5.0.2\n");
    let script = "$sampan exec --mpi=host --writable ./tree sh -c 'echo x >/srv/written'";
    let _ = place.shell(&format!("{path} {script}")).ok();
    assert_eq!(place.shell("cat tree/srv/written").ok(), "x\n");
    assert_eq!(place.shell(sums).ok(), before);
}

/// Programs built with one MPI run with another of its family.
#[test]
fn the_hosts_mpi_stands_in_for_the_images() {
    let (place, image) = place("mpich");
    let hosts = [
        (None, "MPICH Version:\t4.0.2"),
        (Some("mpich"), "MPICH Version:      5.0.2"),
        (Some("impi-rt"), "Intel(R) MPI Library"),
    ];
    for (name, version) in hosts {
        let (path, launcher) = match name {
            Some(name) => {
                let dir = host(name).display().to_string();
                (format!("export SAMPAN_MPI_PATH={dir}; "), format!("{dir}/bin/mpiexec"))
            }
            None => (String::new(), "mpiexec.hydra".to_owned()),
        };
        let script = format!(
            "{path}timeout -k 5 600 {launcher} -n 4 $sampan run --mpi=host {image} mpi_check check"
        );
        let out = place.shell(&script).ok();
        assert!(out.starts_with(&format!("ok 4 {version}")), "{name:?}: {out}");
    }
}

#[test]
fn the_hosts_open_mpi_5_runs_a_program_of_open_mpi_4() {
    let (place, image) = place("openmpi");
    let dir = host("openmpi").display().to_string();
    let script = format!(
        "export SAMPAN_MPI_PATH={dir}; timeout -k 5 600 {dir}/bin/mpirun --map-by :OVERSUBSCRIBE -n 4 \
         $sampan run --mpi=host {image} mpi_check check"
    );
    assert_eq!(place.shell(&script).ok(), "ok 4 Open MPI v5.0.11\n");
    let own = format!("{ORTE} -n 4 $sampan run --mpi=host {image} mpi_check check");
    assert_eq!(place.shell(&own).ok(), "ok 4 Open MPI v4.1.4\n");
}

/// The image's MPI stays, what it talks through is the host's.
#[test]
fn the_hosts_network_serves_the_images_mpi() {
    let (place, image) = place("mpich");
    let libraries = "grep -o '/[^ ]*lib\\(ucp\\|mpich\\)[^ ]*' /proc/self/maps | sort -u";
    let preload = "LD_PRELOAD='libucp.so.0 libmpich.so.12'";
    let script = format!("$sampan exec --fabric=host {image} sh -c \"{preload} {libraries}\"");
    let out = place.shell(&script).ok();
    assert!(
        out.contains("/.sampan/lib/libucp.so.0") && !out.contains("/.sampan/lib/libmpich"),
        "{out}"
    );
    let script = format!("{HYDRA} -n 4 $sampan run --fabric=host {image} mpi_check check");
    assert!(place.shell(&script).ok().starts_with("ok 4 "));
}

#[test]
fn a_check_tells_before_anything_is_started() {
    let (place, image) = place("mpich");
    let check = |path: &str, image: &str| {
        let script = format!("SAMPAN_MPI_PATH={path} $sampan mpi check --json {image}");
        let ran = place.shell(&script);
        let value: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}", ran.err));
        (ran.code, value)
    };
    let mpich = host("mpich").display().to_string();
    let (code, good) = check(&mpich, &image);
    assert_eq!((code, &good["error"]), (0, &Value::Null));
    assert_eq!(good["chosen"], "mpich");
    let taken = good["injection"]["taken"].as_array().unwrap();
    let main = taken.iter().find(|one| one["name"] == "libmpi.so.12").unwrap();
    assert!(main["replaces"].to_string().contains("libmpich.so.12"), "{main}");

    let (code, other) = check(&host("openmpi").display().to_string(), &image);
    let error = other["error"].as_str().unwrap();
    assert_eq!(code, 1);
    assert!(error.contains("Open MPI 40") && error.contains("MPICH ABI 12"), "{error}");
    let refused = place.shell(&format!(
        "SAMPAN_MPI_PATH={} $sampan run --mpi=host {image} true",
        host("openmpi").display()
    ));
    assert!(refused.fails(125).contains("family"));

    let (code, none) = check("/no/such/mpi", &image);
    let error = none["error"].as_str().unwrap();
    assert!(code == 1 && error.contains("in /no/such/mpi (mpi_path)"), "{error}");

    let base = format!("{}/base:latest", registry());
    let (code, none) = check(&mpich, &base);
    assert!(
        code == 1
            && none["error"].as_str().unwrap().contains("no MPI library was found in the image")
    );

    // musl as Debian packages it.
    let musl = place.image_dir();
    std::fs::create_dir_all(format!("{musl}/lib")).unwrap();
    std::fs::copy("/lib/ld-musl-x86_64.so.1", format!("{musl}/lib/ld-musl-x86_64.so.1")).unwrap();
    let (code, musl) = check(&mpich, &musl);
    assert!(code == 1 && musl["error"].as_str().unwrap().contains("musl"), "{musl}");

    let text = place.shell(&format!("SAMPAN_MPI_PATH={mpich} $sampan mpi check {image}")).ok();
    assert!(
        text.contains("verdict  --mpi=host can be used: ") && text.contains("are replaced"),
        "{text}"
    );
}

/// The image has libmpich 12.2.2, the host a library of an older second number.
#[test]
fn the_policy_of_the_command_line_decides() {
    let (place, image) = place("mpich");
    let older = "mkdir site && cp -a \"$1/lib\" site/lib && cd site/lib && \
                 cp --remove-destination \"$(readlink -f libmpi.so.12)\" libmpi.so.12.1.8 && \
                 ln -sf libmpi.so.12.1.8 libmpi.so.12";
    let script = format!("set -- {}; {older}", host("mpich").display());
    let _ = place.shell(&script).ok();
    let path = format!("SAMPAN_MPI_PATH={}", place.path("work/site").display());
    let refusals = [
        ("major", None),
        ("full", Some("--mpi-policy=full")),
        ("strict", Some("--mpi-policy=strict")),
    ];
    for (policy, refusal) in refusals {
        let check = place.shell(&format!("{path} $sampan mpi check --policy {policy} {image}"));
        let run = format!("{path} $sampan exec --mpi=host --mpi-policy={policy} {image} true");
        let run = place.shell(&run);
        match refusal {
            None => {
                assert!(check.ok().contains("is newer than the host's"));
                let _ = run.ok();
            }
            Some(text) => {
                assert!(check.code == 1 && check.out.contains(text), "{}", check.out);
                let said = run.fails(125);
                assert!(said.contains(text), "{said}");
            }
        }
    }
    let wrong = place.shell(&format!("$sampan mpi check --policy some {image}"));
    assert!(wrong.fails(2).contains("strict"));
    // One library of the image is exchanged, and both say so.
    let text = place.shell(&format!("{path} $sampan mpi check {image}")).ok();
    let plan = place.shell(&format!("{path} $sampan exec --mpi=host --explain {image} true")).ok();
    let count = |text: &str, words: &str| -> Option<u32> {
        let (before, _) = text.split_once(words)?;
        before.rsplit([' ', ',']).find_map(|word| word.parse().ok())
    };
    let counted = count(&plan, " of the image's replaced");
    assert!(counted > Some(0), "{plan}");
    assert_eq!(count(&text, " of the image's"), counted, "{text}");
}

#[test]
fn a_killed_rank_leaves_nothing() {
    let (place, image) = place("mpich");
    let script = format!("SAMPAN_LINGER=1 {HYDRA} -n 4 $sampan run {image} mpi_check die");
    assert_ne!(place.shell(&script).code, 0);
    let left = |what: &str| {
        // The suite's other tests have places of their own.
        let here = place.path("");
        place.shell(&format!("{what} | grep -F '{}' || true", here.display())).ok()
    };
    // A server holds its image open.
    let open = "for fd in /proc/[0-9]*/fd/*; do readlink $fd; done 2>/dev/null";
    wait_until("the image is let go", || left(open).is_empty());
    wait_until("the last mount goes", || left("cat /proc/self/mounts").is_empty());
    let sockets = || place.shell("ls $SAMPAN_SCRATCH/sampan-*/run").ok();
    wait_until("the last socket goes", || sockets().is_empty());
}

#[test]
fn an_inner_launcher_does_not_meet_the_outer_one() {
    let (place, image) = place("mpich");
    let inner = "mpiexec.hydra -launcher fork -n 2 mpi_check check";
    let script = format!("{HYDRA} -n 1 $sampan run --mpi=container {image} {inner}");
    assert!(place.shell(&script).ok().starts_with("ok 2 "), "{script}");
}

/// What one rank finds out about libraries the others of the node use, as long as
/// it holds.
/// Hosts of PBS, and of the configuration: stood in for by a program that takes the words of
/// pbs_tmrsh and ssh, and starts the command here.
#[test]
fn a_launcher_inside_reaches_hosts_by_a_remote_shell() {
    let (place, image) = place("mpich");
    let shell = "#!/bin/sh\necho $1 >>hosts\nshift\ncd /\nexec sh -c \"$*\"\n";
    place.write("work/nodes", "alpha\nalpha\nbeta\nbeta\n");
    let script = format!(
        "chmod 755 pbs_tmrsh; export UCX_TLS=posix,sysv,self UCX_POSIX_USE_PROC_LINK=n; \
         run() {{ timeout -k 5 600 $sampan run --mpi=container {image} mpirun \"$@\"; }}; \
         export SAMPAN_MPI_SHELL=$PWD/pbs_tmrsh; \
         SAMPAN_MPI_HOSTS=alpha,beta run -hosts alpha,beta -n 4 mpi_check check; sort -u hosts; rm hosts; \
         SAMPAN_MPI_HOSTS=alpha,beta $sampan run --mpi=container {image} \
           /.sampan/bin/sampan-agent gamma true 2>/dev/null || echo refused $?; \
         export PATH=$PWD:$PATH PBS_JOBID=1.server PBS_NODEFILE=$PWD/nodes; \
         run -n 4 mpi_check check; sort -u hosts; run -n 2 sh -c 'exit 7'; echo $?; \
         pwd >here; run -n 1 cat here"
    );
    place.write("work/pbs_tmrsh", shell);
    let ran = place.shell(&script);
    let here = place.path("work").display().to_string();
    let once = "ok 4 MPICH Version:\t4.0.2\nalpha\nbeta\n";
    assert_eq!(ran.out, format!("{once}refused 255\n{once}7\n{here}\n"), "{ran:?}");
}

#[test]
fn libraries_are_looked_at_once() {
    let (place, image) = place("mpich");
    let run = |env: &str| place.shell(&format!("{env} $sampan exec --mpi=host {image} true"));
    let note = "$SAMPAN_SCRATCH/sampan-*/run/libraries-*";
    let state = || place.shell(&format!("stat -c '%i %n' {note} | sort -k2")).ok();
    let _ = run("").ok();
    let first = state();
    assert_eq!(first.lines().count(), 1, "{first}");
    let script = format!("{HYDRA} -n 8 $sampan run --mpi=host {image} mpi_check check");
    assert!(place.shell(&script).ok().starts_with("ok 8 "));
    assert_eq!(state(), first, "it was used, not made again");
    // Another configuration is another question.
    let _ = run(&format!("SAMPAN_MPI_PATH={}", host("mpich").display())).ok();
    assert_eq!(state().lines().count(), 2, "{}", state());
    let _ = place.shell(&format!("for f in {note}; do head -c 1000 $f >x; cat x >$f; done")).ok();
    assert!(place.shell(&script).ok().starts_with("ok 8 "));
    let sizes = place.shell(&format!("stat -c %s {note}")).ok();
    let sizes: Vec<u32> = sizes.lines().map(|size| size.parse().unwrap()).collect();
    assert!(sizes.contains(&1000) && sizes.iter().any(|size| *size > 1000), "{sizes:?}");
}
