//! From start to end.

use harness::{Cgroup, wait_until};

use crate::Place;

#[test]
fn the_start_script_runs_and_the_instance_stays() {
    let place = Place::new();
    let image = place.scripted(
        "echo \"$1 $FROM_IMAGE $APPTAINER_INSTANCE $GIVEN\"; echo wrong >&2; cat; exec >&-",
    );
    let args = ["--env", "GIVEN=g", "--pid-file", "pid", &image, "web", "word"];
    let _ = place.sampan(&[&["instance", "start"], &args[..]].concat()).ok();
    let text = place.sampan(&["instance", "list", "--json", "w*"]).ok();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let one = &list["instances"][0];
    assert_eq!((one["instance"].as_str(), one["img"].as_str()), (Some("web"), Some(&*image)));
    let written = std::fs::read_to_string(place.path("work/pid")).unwrap();
    assert_eq!(written.trim(), one["pid"].to_string());
    let log = |key: &str| std::fs::read_to_string(one[key].as_str().unwrap()).unwrap();
    wait_until("no output", || log("logOutPath") == "word yes web g\n");
    assert_eq!(log("logErrPath"), "wrong\n");
    let ps = || place.sampan(&["exec", "instance://web", "ps"]).ok();
    wait_until("the script goes on", || !ps().contains("startscript"));
    assert!(ps().contains("1 "), "the instance is there no more");
    assert_eq!(place.listed(), ["web"]);
    let _ = place.sampan(&["instance", "stop", "web"]).ok();
    assert!(place.listed().is_empty());
    wait_until("something is left", || place.processes().is_empty());
    assert_eq!(log("logErrPath"), "wrong\n", "what it wrote is gone with it");
}

#[test]
fn run_is_the_images_process_and_may_end_with_it() {
    let place = Place::new();
    let image = place.scripted("true");
    let _ = place.sampan(&["instance", "run", &image, "a", "word"]).ok();
    let log = || place.shell("cat $SAMPAN_SCRATCH/sampan-*/instances/*/a.out").out;
    wait_until("no output", || log() == "runs word\n");
    assert_eq!(place.listed(), ["a"]);
    let plain = place.image_dir();
    let _ = place.shell(&format!("rm -r {plain}/.singularity.d")).ok();
    let args =
        ["instance", "run", "--no-init", &plain, "b", "sh", "-c", "until test -e end; do :; done"];
    let _ = place.sampan(&args).ok();
    assert_eq!(place.listed(), ["a", "b"]);
    // It may be killed with what it ends.
    let _ = place.sampan(&["exec", "instance://b", "touch", "end"]);
    wait_until("the instance outlives its command", || place.listed() == ["a"]);
    // An image without a start script has nothing to run, and stays.
    let _ = place.sampan(&["instance", "start", &plain, "c"]).ok();
    assert_eq!(place.listed(), ["a", "c"]);
    let _ = place.sampan(&["instance", "stop", "--all"]).ok();
    wait_until("something is left", || place.processes().is_empty());
}

#[test]
fn what_cannot_start_says_why_and_leaves_nothing() {
    let place = Place::new();
    let image = place.image_file();
    let start =
        |args: &[&str], code| place.sampan(&[&["instance", "run"], args].concat()).fails(code);
    assert!(start(&[&image, "a", "no-such-program"], 127).contains("no-such-program"));
    assert!(start(&[&image, "a", "/etc/marker"], 126).contains("not executable"));
    assert!(start(&["/no/such.sif", "a"], 125).contains("/no/such.sif"));
    assert!(start(&["--cwd", "/no/such", &image, "a", "true"], 125).contains("/no/such"));
    assert!(start(&["--bind", "/no/such", &image, "a", "true"], 125).contains("/no/such"));
    assert!(start(&["--pid-file", "/no/such/file", &image, "a", "true"], 125).contains("/no/such"));
    assert!(start(&["instance://x", "a"], 125).contains("an instance"));
    assert!(start(&[&image], 125).contains("no name"));
    assert!(place.listed().is_empty());
    let records = place.shell("ls $SAMPAN_SCRATCH/sampan-*/instances/*/ | grep json").out;
    assert_eq!(records, "");
    wait_until("something is left", || place.processes().is_empty());
}

#[test]
fn nothing_of_the_caller_is_held() {
    let place = Place::new();
    let image = place.image_file();
    // A pipe or a directory that it held would keep the reader waiting; `timeout`
    // turns a hang into a failure.
    let script = format!(
        "exec 7>seven; timeout 20 bash -c '$sampan instance run {image} a sleep 600 2>&1 | cat'; \
         $sampan exec instance://a sh -c 'ls -l /proc/1/fd /proc/2/fd | grep -c -e seven -e pipe; \
         readlink /proc/2/fd/0; cat /proc/1/stat /proc/2/stat' | sed 's/(.*)/x/' | cut -d' ' -f1,6"
    );
    let out = place.shell(&script).ok();
    let lines: Vec<&str> = out.lines().collect();
    // A session of its own, whose leader is init.
    assert_eq!(lines, ["instance a started", "0", "/dev/null", "1 1", "2 1"], "{out}");
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
}

#[test]
fn a_killed_instance_is_gone_and_its_name_free() {
    let place = Place::new();
    let image = place.image_file();
    let start = || place.sampan(&["instance", "run", &image, "a", "sleep", "600"]).ok();
    for _ in 0..2 {
        let _ = start();
        let _ = place.shell(&format!("kill -9 {}", place.init("a"))).ok();
        wait_until("a dead one is listed", || place.listed().is_empty());
    }
    let _ = start();
    // The image's server: what it served is lost, and the instance can be stopped.
    let servers = place.servers();
    assert_eq!(servers.len(), 1);
    let _ = place.shell(&format!("kill -9 {}", servers[0])).ok();
    wait_until("the server survives SIGKILL", || place.servers().is_empty());
    assert_eq!(place.listed(), ["a"]);
    assert_ne!(place.sampan(&["exec", "instance://a", "cat", "/etc/marker"]).code, 0);
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
    wait_until("something is left", || place.processes().is_empty());
}

#[test]
fn a_start_that_is_killed_leaves_an_instance_or_nothing() {
    let place = Place::new();
    let image = place.image_file();
    let (mut made, mut not) = (0, 0);
    let start = || place.sampan_command(&["instance", "run", &image, "a", "sleep", "600"]);
    let begun = std::time::Instant::now();
    let _ = harness::run(&mut start()).ok();
    let whole = begun.elapsed();
    let _ = place.sampan(&["instance", "stop", "-F", "a"]).ok();
    for turn in 0..40_u32 {
        // From before the claim to after the end.
        let mut start = start().stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * turn / 20);
        start.kill().unwrap();
        start.wait().unwrap();
        if place.listed() == ["a"] {
            let ran = place.sampan(&["exec", "instance://a", "true"]);
            if ran.code == 0 {
                made += 1;
                let _ = place.sampan(&["instance", "stop", "-F", "a"]).ok();
            } else {
                // Between its record and the word to stay: it was there for an instant.
                let code = ran.code;
                let err = ran.fails(code);
                let said = ["has ended", "no instance"].iter().any(|words| err.contains(words));
                assert!([125, 137].contains(&code) && said, "{code}: {err}");
            }
        } else {
            not += 1;
        }
        wait_until("processes without a record", || place.processes().is_empty());
        assert!(place.listed().is_empty());
    }
    assert!(made > 0 && not > 0, "{made} were made and {not} were not: the steps are wrong");
}

#[test]
fn the_image_is_served_as_long_as_the_instance_stays() {
    let place = Place::new();
    let image = place.image_file();
    // No server waits for another container, so this one is kept by the instance.
    let _ = place.sampan(&["instance", "run", &image, "a", "sleep", "600"]).ok();
    let servers = || place.servers().len();
    assert_eq!(servers(), 1);
    let namespace = "readlink /proc/self/ns/user";
    let inside = place.sampan(&["exec", "instance://a", "sh", "-c", namespace]).ok();
    let beside = place.sampan(&["exec", &image, "sh", "-c", namespace]).ok();
    assert_eq!(inside, beside, "another container of the image did not join");
    assert_eq!(servers(), 1);
    assert_eq!(
        place.sampan(&["exec", "instance://a", "cat", "/etc/marker"]).ok(),
        "from the image\n"
    );
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
    wait_until("the server stays", || place.processes().is_empty());
    assert_eq!(place.shell("ls $SAMPAN_SCRATCH/sampan-*/run").ok(), "");
}

#[test]
fn an_instance_ends_with_its_jobs_control_group() {
    let place = Place::new();
    let image = place.image_file();
    let job = Cgroup::new(&place);
    let mut start = place.sampan_command(&["instance", "run", &image, "a", "sleep", "600"]);
    let _ = job.hold(&mut start).ok();
    // Server, init and command.
    assert_eq!(job.members(), 3, "something has left the job");
    job.kill();
    wait_until("the instance outlives its job", || place.listed().is_empty());
    wait_until("something is left", || place.processes().is_empty());
}

#[test]
fn what_it_uses_is_shown() {
    let place = Place::new();
    let image = place.image_file();
    let busy = "while :; do :; done & sleep 600; true";
    let _ = place.sampan(&["instance", "run", &image, "a", "sh", "-c", busy]).ok();
    let stats = || -> serde_json::Value {
        let text = place.sampan(&["instance", "stats", "--json", "--no-stream", "a"]).ok();
        serde_json::from_str(&text).unwrap()
    };
    wait_until("the loop is not seen", || stats()["cpu_percent"].as_f64().unwrap() > 1.0);
    let one = stats();
    assert_eq!((&one["processes"], &one["instance"]), (&4.into(), &"a".into()), "{one}");
    assert!(one["memory"].as_u64().unwrap() > 100_000, "{one}");
    assert!(one["memory_limit"].as_u64() > one["memory"].as_u64(), "{one}");
    let table = place.sampan(&["instance", "stats", "--no-stream", "a"]).ok();
    assert!(table.starts_with("INSTANCE NAME") && table.lines().count() == 2, "{table}");
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
    assert!(place.sampan(&["instance", "stats", "a"]).fails(3).contains("no instance"));
}
