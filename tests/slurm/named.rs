//! What a container has written: kept under a name for the job, or in a file.

use harness::{Place, wait_until};

use crate::cluster::{Cluster, image_flag};

#[test]
fn a_name_lasts_for_the_job_and_no_longer() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    // The epilog knows the site's settings, not the job's variables.
    let script = format!(
        "unset SAMPAN_SCRATCH; salloc -N1 -n4 bash -c 'echo $SLURM_JOB_ID; \
         srun -n1 {image} --container-name=kept sh -c \"echo x >/etc/new\"; \
         srun -n1 --container-name=kept:no_exec sh -c \"cat /etc/new; echo y >>/etc/new\"; \
         srun -n4 --container-name=kept sh -c \"test $(wc -l </etc/new) = 2 && echo reads\"; \
         srun -n4 --container-name=kept sh -c \"echo z >/etc/z\" 2>/dev/null || echo refused; \
         srun -n4 --container-name=kept --container-writable sh -c \"echo z >>/etc/new\"; \
         srun -n1 --container-name=kept busybox grep -c z /etc/new; \
         srun -n1 {image} --container-name=kept:create true; echo $?; \
         srun -n1 --container-name=other true; echo $?; \
         srun -n1 --container-image=/no/such --container-name=kept true; echo $?'"
    );
    // The inner shell is the one that expands.
    let script = script.replace("\"test $(", "\"test \\$(");
    let ran = cluster.shell(&place, &script);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines[1..],
        ["x", "reads", "reads", "reads", "reads", "refused", "4", "125", "125", "125"],
        "{ran:?}"
    );
    for reason in ["exists already", "there is no container \"other\"", "was made from"] {
        assert!(ran.err.contains(reason), "no {reason:?} in {}", ran.err);
    }
    let left = || place.shell(&format!("ls -d /tmp/sampan-*/named/*/{} 2>/dev/null", lines[0])).out;
    wait_until("the epilog removes the names of a job", || left().is_empty());
}

#[test]
fn one_step_writes_at_a_time() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let script = format!(
        "export -f wait_for; salloc -N1 -n2 bash -c 'srun -n1 --exact {image} --container-name=a sh -c \
           \"echo up; until test -e end; do sleep 0.1; done\" >out & \
         wait_for \"grep -q up out\"; \
         srun -n1 --exact --container-name=a:no_exec {image} true; echo $?; \
         srun -n1 --exact --container-name=a --container-writable true; echo $?; touch end; wait $!; echo $?'"
    );
    let ran = cluster.shell(&place, &script);
    assert_eq!(ran.out, "125\n125\n0\n", "{ran:?}");
    assert!(ran.err.contains("in use by another step"), "{}", ran.err);
}

#[test]
fn a_container_is_saved_to_a_file() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let args = [&image, "--container-save=saved.sqsh", "sh", "-c", "echo x >/etc/new; exit 3"];
    assert_eq!(cluster.srun(&place, &args).code, 3);
    let args = ["--container-image=./saved.sqsh", "cat", "/etc/new", "/etc/marker"];
    assert_eq!(cluster.srun(&place, &args).ok(), "x\nfrom the image\n");
    assert_eq!(place.shell("$sampan images -q; ls $SAMPAN_SCRATCH/sampan-*/named").ok(), "");
    let ran = cluster.srun(&place, &["-N2", &image, "--container-save=two.sqsh", "true"]);
    assert!(ran.code == 125 && ran.err.contains("on one node"), "{ran:?}");
    // What all tasks have written, also who ends last.
    let script = "[ $SLURM_PROCID = 0 ] || sleep 1; echo $SLURM_PROCID >/etc/new.$SLURM_PROCID";
    let args = ["-N1", "-n3", &image, "--container-save=two.sqsh", "sh", "-c", script];
    let _ = cluster.srun(&place, &args).ok();
    let args = ["--container-image=./two.sqsh", "sh", "-c", "cat /etc/new.*"];
    assert_eq!(cluster.srun(&place, &args).ok(), "0\n1\n2\n");
    let ran = cluster.srun(&place, &[&image, "--container-save=/no/such/dir/x.sqsh", "true"]);
    assert!(ran.code == 0 && ran.err.contains("/no/such/dir"), "{ran:?}");
}

/// As pyxis documents it: another step enters the container of one that runs.
#[test]
fn a_running_container_is_entered() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let script = format!(
        "export -f wait_for; salloc --quiet -N1 -n2 bash -c 'srun -n1 --overlap {image} --container-name=a \
           --container-env=HOME sh -c \"echo here >/etc/here; export IN=1; touch up; \
             until test -e end; do sleep 0.1; done; cat /etc/there\" >out & \
         wait_for \"test -e up\"; \
         srun -n1 --overlap --container-name=a:exec sh -c \
           \"cat /etc/here /etc/marker; echo there >/etc/there; pwd; readlink /proc/self/ns/mnt >ns; exit 5\"; \
         echo $?; srun -n1 --overlap --container-name=a:exec no-such-program; echo $?; \
         srun -n1 --overlap --container-name=b:exec true; echo $?; \
         srun -n1 --overlap {image} --container-name=a:exec true; echo $?; \
         srun -n1 --overlap {image} --container-name=a cat /etc/here; \
         srun -n1 --overlap --container-name=a:auto cat /etc/here; \
         srun -n1 --overlap --container-image=other --container-name=a true; echo $?; \
         touch end; wait; srun -n1 --overlap --container-name=a:exec true; echo $?'; cat out"
    );
    let ran = cluster.shell(&place, &script);
    let work = place.path("work").display().to_string();
    let expected = [
        "here",
        "from the image",
        &work,
        "5",
        "127",
        "125",
        "125",
        "here",
        "here",
        "125",
        "125",
        "there",
    ];
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected, "{ran:?}");
    for word in ["no container \"b\"", "--container-image changes nothing", "has ended"] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    assert!(std::fs::read_to_string(place.path("work/ns")).unwrap().starts_with("mnt:"));
}
