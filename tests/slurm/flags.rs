//! The flags that users of pyxis know, their variables, and EDF files.

use harness::Place;

use crate::cluster::{Cluster, image_flag};

#[test]
fn variables_stand_for_flags_and_flags_win() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = place.image_file();
    let script = format!(
        "export SAMPAN_CONTAINER_IMAGE={image} PYXIS_CONTAINER_WORKDIR=/etc; \
         srun sh -c 'cat marker; pwd'; srun --container-workdir=/opt pwd; \
         PYXIS_CONTAINER_IMAGE=/no/such srun pwd; \
         SAMPAN_CONTAINER_IMAGE=/no/such srun --container-image={image} pwd"
    );
    let out = cluster.shell(&place, &script).ok();
    assert_eq!(out, "from the image\n/etc\n/opt\n/etc\n/etc\n");
    let script = format!("SAMPAN_CONTAINER_WRITABLE=maybe srun {} pwd", image_flag(&image));
    let ran = cluster.shell(&place, &script);
    assert!(ran.code != 0 && ran.err.contains("SAMPAN_CONTAINER_WRITABLE"), "{ran:?}");
}

#[test]
fn mounts_home_and_working_directory() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    place.write("home/at-home", "home");
    let one = place.write("data/one", "1");
    let data = one.parent().unwrap().display().to_string();
    let mounts =
        format!("--container-mounts={data}:/data:ro+rprivate,{data}/one:/opt/x,tmpfs:/mem");
    let script = "cat /data/one /opt/x; touch /data/two 2>/dev/null || echo refused; \
                  touch /mem/x && echo empty; pwd; cat ~/at-home";
    let args = [&image, &mounts, "--container-workdir=/mem", "sh", "-c", script];
    assert_eq!(cluster.srun(&place, &args).ok(), "11refused\nempty\n/mem\nhome");
    let args = [&image, "--no-container-mount-home", "sh", "-c", "cat ~/at-home || echo none"];
    assert_eq!(cluster.srun(&place, &args).ok(), "none\n");
    // What does not exist is found before a task starts.
    let ran = cluster.srun(&place, &[&image, "--container-mounts=/no/such:/x", "pwd"]);
    assert!(ran.code == 125 && ran.err.contains("/no/such"), "{ran:?}");
    let ran = cluster.srun(&place, &["--container-mounts=/tmp:/x", "pwd"]);
    assert!(ran.code != 0 && ran.err.contains("needs --container-image"), "{ran:?}");
}

#[test]
fn root_and_writes() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = image_flag(&place.image_file());
    let start = |flags: &[&str], script: &str| {
        cluster.srun(&place, &[&[image.as_str()], flags, &["sh", "-c", script]].concat()).out
    };
    assert_eq!(start(&["--container-remap-root"], "id -u"), "0\n");
    let write = "{ echo x >/etc/new; } 2>/dev/null && cat /etc/new || echo refused";
    assert_eq!(start(&[], write), "refused\n");
    assert_eq!(start(&["--container-writable"], write), "x\n");
    assert_eq!(start(&["--container-readonly"], write), "refused\n");
    let ran =
        cluster.srun(&place, &[&image, "--container-writable", "--container-readonly", "pwd"]);
    assert!(ran.code != 0 && ran.err.contains("contradict"), "{ran:?}");
}

#[test]
fn entrypoint_and_environment_of_the_image() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let mut layout = harness::Layout::new(place.path("layout"));
    layout.busybox();
    layout.config = serde_json::json!({
        "Entrypoint": ["/bin/echo", "entry"], "Env": ["PATH=/bin", "WHO=image", "ONLY=image"],
    });
    let image = image_flag(&layout.finish("one"));
    place.give(&place.path("layout"));
    let start = |flags: &[&str], words: &[&str]| {
        let mut command = cluster.command(&place, "srun");
        command.arg(&image).args(flags).args(words).env("WHO", "job").env("JOB", "yes");
        harness::run(&mut command).ok()
    };
    assert_eq!(start(&["--container-entrypoint"], &["word"]), "entry word\n");
    let who = ["sh", "-c", "echo $WHO $ONLY $JOB"];
    assert_eq!(start(&["--no-container-entrypoint"], &who), "image image yes\n");
    assert_eq!(start(&["--container-env=WHO,ABSENT"], &who), "job image yes\n");
}

#[test]
fn environment_definition_files() {
    let (cluster, place) = (Cluster::get(), Place::new());
    let image = place.image_file();
    let data = place.write("data/one", "1");
    let base = format!("image = '{image}'\nworkdir = '/opt'\n[env]\nA = 'base'\nB = 'base'\n");
    place.write("home/.edf/base.toml", base);
    let data = data.parent().unwrap().display();
    let edf = format!(
        "base_environment = 'base'\nmounts = ['{data}:/data']\n\
         [env]\nA = '${{SLURM_JOB_ID:-none}}'\nGONE = ''\n"
    );
    place.write("home/.edf/mine.toml", edf);
    let script =
        "cat /data/one /etc/marker; pwd; echo $A $B ${GONE-gone}; touch /new && echo wrote";
    let mut command = cluster.command(&place, "srun");
    command.args(["--edf=mine", "sh", "-c", script]).env("GONE", "here");
    let out = harness::run(&mut command).ok();
    assert!(out.starts_with("1from the image\n/opt\n"), "{out}");
    assert!(out.ends_with(" base gone\nwrote\n") && !out.contains("none base"), "{out}");
    // Without Slurm it is the same file.
    let out = place.sampan(&["run", "--edf", "mine", "sh", "-c", "echo $A $(pwd)"]).ok();
    assert_eq!(out, "none /opt\n");
    let script = "SAMPAN_EDF=mine srun --container-workdir=/etc --container-readonly sh -c \
                  'pwd; touch /new 2>/dev/null || echo refused'";
    assert_eq!(cluster.shell(&place, script).ok(), "/etc\nrefused\n");
    place.write("home/.edf/bad.toml", "image = 'x'\n\nimagine = 'y'\n");
    let ran = cluster.srun(&place, &["--edf=bad", "pwd"]);
    assert!(ran.code == 125 && ran.err.contains("bad.toml:3: \"imagine\""), "{ran:?}");
    let ran = cluster.srun(&place, &["--edf=absent", "pwd"]);
    assert!(ran.code == 125 && ran.err.contains(".edf/absent.toml"), "{ran:?}");
}
