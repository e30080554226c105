//! Many steps at once, and what is left of them: nothing.

use harness::{Place, wait_until};

use crate::cluster::Cluster;

/// Processes whose environment names the place: tasks, and image servers,
/// whose command line says only `slurm-task`.
fn processes(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        // One that has just ended has no files any more.
        let Ok(environ) = std::fs::read(path.join("environ")) else { continue };
        if String::from_utf8_lossy(&environ).contains(dir) {
            let words = std::fs::read(path.join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&words).replace('\0', " "));
        }
    }
    found
}

/// No process, no mount of an image, no socket.
pub fn nothing_is_left(place: &Place) {
    let dir = place.path("").display().to_string();
    let dir = dir.trim_end_matches('/');
    wait_until("the last process goes", || processes(dir).is_empty());
    let sockets = || place.shell("ls $SAMPAN_SCRATCH/sampan-*/run 2>/dev/null || true").ok();
    wait_until("the last socket goes", || sockets().is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(dir), "a mount is left: {mounts}");
}

#[test]
fn fifty_steps_over_five_images() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = place.image_file();
    for number in 0..5 {
        std::fs::copy(&image, place.path(&format!("image{number}.sqfs"))).unwrap();
    }
    let dir = place.path("").display().to_string();
    // Each ends with its own code, which srun must report.
    let script = format!(
        "export SAMPAN_LINGER=1; salloc -N4 -n128 bash -c 'for i in $(seq 50); do \
           srun -N1 -n2 --exact --container-image={dir}/image$((i % 5)).sqfs \
             sh -c \"sleep 0.$((i % 7)); cat /etc/marker; exit $i\" >out.$i 2>/dev/null & \
           pids[$i]=$!; sleep 0.05; done; \
         for i in $(seq 50); do wait ${{pids[$i]}}; echo $i $?; done'"
    );
    let out = cluster.shell(&place, &script).ok();
    let expected: String = (1..=50).map(|i| format!("{i} {i}\n")).collect();
    assert_eq!(out, expected);
    for i in 1..=50 {
        let text = std::fs::read_to_string(place.path(&format!("work/out.{i}"))).unwrap();
        assert_eq!(text, "from the image\n".repeat(2), "step {i}");
    }
    nothing_is_left(&place);
}
