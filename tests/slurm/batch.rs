//! sbatch, salloc and arrays.

use harness::Place;

use crate::cluster::{Cluster, image_flag};
use crate::many::nothing_is_left;

fn output(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.path("work").join(name)).unwrap_or_default()
}

#[test]
fn the_script_of_sbatch_runs_in_the_image() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    place.write("work/job", "#!/bin/sh\ncat /etc/marker\necho $1\nexit 5\n");
    let ran = cluster.run(&place, "sbatch", &["-W", "-o", "out", &image, "job", "word"]);
    assert_eq!((ran.code, output(&place, "out").as_str()), (5, "from the image\nword\n"));
    let ran = cluster.run(
        &place,
        "sbatch",
        &["-W", "-o", "bad", "--container-image=/no/such.sqsh", "job"],
    );
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(output(&place, "bad").contains("cannot open the image"));
    // Nothing is held or drained for it.
    assert_eq!(cluster.run(&place, "sinfo", &["-h", "-t", "drain,down", "-o", "%N"]).ok(), "");
}

#[test]
fn a_script_on_the_node_starts_steps_in_the_image() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = place.image_file();
    let flag = image_flag(&image);
    let job = format!("#!/bin/bash\n[ ! -e /etc/marker ] || exit 9\nsrun {flag} cat /etc/marker\n");
    place.write("work/job", job);
    let sbatch = ["-W", "-N2", "-o", "out", "job"];
    let _ = cluster.run(&place, "sbatch", &sbatch).ok();
    assert_eq!(output(&place, "out"), "from the image\n".repeat(2));
    // A variable means the steps: the script must be able to start some.
    place.write("work/job", "#!/bin/bash\n[ ! -e /etc/marker ] || exit 9\nsrun cat /etc/marker\n");
    let mut command = cluster.command(&place, "sbatch");
    let _ = harness::run(command.args(sbatch).env("SAMPAN_CONTAINER_IMAGE", &image)).ok();
    assert_eq!(output(&place, "out"), "from the image\n".repeat(2));
}

#[test]
fn salloc_hands_its_flags_to_the_steps() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let args = ["-N2", &image, "bash", "-c", "[ ! -e /etc/marker ] && srun cat /etc/marker"];
    assert_eq!(cluster.run(&place, "salloc", &args).ok(), "from the image\n".repeat(2));
    let args = ["-N2", "srun", &image, "cat", "/etc/marker"];
    assert_eq!(cluster.run(&place, "salloc", &args).ok(), "from the image\n".repeat(2));
}

#[test]
fn an_array_of_sixty_four() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let job = "#!/bin/sh\necho $SLURM_ARRAY_TASK_ID $(cat /etc/marker)\n\
               exit $((SLURM_ARRAY_TASK_ID % 5))\n";
    place.write("work/job", job);
    let args = ["-W", "--parsable", "--array=0-63", "-o", "array.%a", &image, "job"];
    let ran = cluster.run(&place, "sbatch", &args);
    assert_eq!(ran.code, 4, "the highest code: {ran:?}");
    let shown = cluster.run(&place, "scontrol", &["-o", "show", "job", ran.out.trim()]).ok();
    let mut codes: Vec<(u32, &str)> = shown
        .lines()
        .map(|line| {
            let value = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
            (value("ArrayTaskId=").unwrap().parse().unwrap(), value("ExitCode=").unwrap())
        })
        .collect();
    codes.sort_unstable();
    let expected = ["0:0", "1:0", "2:0", "3:0", "4:0"].into_iter().cycle();
    assert_eq!(codes, (0..64).zip(expected).collect::<Vec<_>>());
    for index in 0..64 {
        assert_eq!(output(&place, &format!("array.{index}")), format!("{index} from the image\n"));
    }
    nothing_is_left(&place);
}
