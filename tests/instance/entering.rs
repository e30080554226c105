//! `instance://NAME` as the image.

use harness::wait_until;

use crate::Place;

#[test]
fn a_command_is_in_the_instance() {
    let place = Place::new();
    let image = place.scripted("echo there >/tmp/made; exec sleep 600");
    place.write("home/data", "data");
    let bind = format!("{}:/data", place.path("home").display());
    let start = ["instance", "start", "--contain", "-B", &bind, "--env", "GIVEN=g", &image, "a"];
    let _ = place.sampan(&start).ok();
    let exec = |args: &[&str]| place.sampan(&[&["exec"], args].concat());
    let sh = |script: &str| exec(&["instance://a", "sh", "-c", script]);
    wait_until("the script has not run", || sh("cat /tmp/made").out == "there\n");
    assert_eq!(sh("cat /data/data; cat /etc/marker").ok(), "datafrom the image\n");
    let ps = sh("ps").ok();
    assert!(ps.contains("sleep 600") && !ps.contains("systemd"), "{ps}");
    for namespace in ["pid", "mnt", "user"] {
        let both = sh(&format!("for p in 2 $$; do readlink /proc/$p/ns/{namespace}; done")).ok();
        let both: Vec<&str> = both.lines().collect();
        assert!(both.len() == 2 && both[0] == both[1], "{both:?}");
    }
    for (script, code) in [("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(sh(script).code, code, "{script}");
    }
    assert_eq!(exec(&["instance://a", "no-such"]).code, 127);
    // The variables are those of this command, not those of the instance's.
    let env = "echo $GIVEN,$OWN,$HOST,$FROM_IMAGE,$APPTAINER_INSTANCE,$HOME";
    let mut command =
        place.sampan_command(&["exec", "-e", "OWN=o", "instance://a", "sh", "-c", env]);
    let home = place.path("home").display().to_string();
    let expected = format!(",o,h,yes,a,{home}\n");
    assert_eq!(harness::run(command.env("HOST", "h")).ok(), expected);
    let args = ["--cleanenv", "--cwd", "/data", "instance://a", "sh", "-c", "pwd; echo $HOST"];
    assert_eq!(
        harness::run(place.sampan_command(&[&["exec"], &args[..]].concat()).env("HOST", "h")).ok(),
        "/data\n\n"
    );
    assert_eq!(place.sampan(&["run", "instance://a", "x"]).ok(), "runs x\n");
    let mut shell = place.command("/bin/bash");
    shell.args(["-c", "echo 'echo $0; cat /etc/marker' | $sampan shell instance://a"]);
    let out = harness::run(shell.env("sampan", harness::required("SAMPAN_BIN"))).ok();
    assert!(out.ends_with("from the image\n"), "{out}");
    let ran = place.sampan(&["test", "instance://a"]);
    assert!(ran.code == 0 && ran.err.contains("no test script"), "{ran:?}");
    let shown = place.sampan(&["inspect", "--runscript", "instance://a"]).ok();
    assert!(shown.contains("echo runs"), "{shown}");
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
    assert!(exec(&["instance://a", "true"]).fails(125).contains("no instance"));
}

/// What nothing is added to has an overlay all the same: the host looks into it.
#[test]
fn a_command_is_in_an_instance_without_additions() {
    let place = Place::new();
    let image = place.image_file();
    let less = ["--no-home", "--no-mount", "network-files,localtime,accounts,cwd,tmp,dev,sys,proc"];
    let start = [&["instance", "run"], &less[..], &[&image, "bare", "sleep", "600"]].concat();
    let _ = place.sampan(&start).ok();
    let out = place.sampan(&["exec", "instance://bare", "cat", "/etc/marker"]).ok();
    assert_eq!(out, "from the image\n");
}

#[test]
fn what_makes_a_container_is_refused() {
    let place = Place::new();
    let image = place.image_file();
    let _ = place.sampan(&["instance", "start", &image, "a"]).ok();
    assert!(place.sampan(&["exec", "instance://a", "no-such"]).fails(127).contains("no-such"));
    for flags in [&["-B", "/tmp:/x"][..], &["--root"], &["--contain"], &["--nv"], &["--dry-run"]] {
        let error =
            place.sampan(&[&["exec"], flags, &["instance://a", "true"]].concat()).fails(125);
        assert!(error.contains("instance start"), "{flags:?}: {error}");
    }
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
}

#[test]
fn a_command_ends_with_its_instance_aloud() {
    let place = Place::new();
    let image = place.image_file();
    let _ = place.sampan(&["instance", "start", &image, "a"]).ok();
    let deaf = "trap '' TERM; echo ready >ready; while :; do sleep 0.1; done";
    let script = format!(
        "$sampan exec instance://a sh -c \"{deaf}\" & \
         until test -e ready; do sleep 0.05; done; $sampan instance stop -t 1 a; wait $!; echo $?"
    );
    let ran = place.shell(&script);
    assert_eq!(ran.out, "137\n", "{ran:?}");
    assert!(
        ran.err.contains("instance a killed") && ran.err.contains("\"a\" has ended"),
        "{ran:?}"
    );
    // Whoever waits for a command can end it, and its death is the command's.
    let _ = place.sampan(&["instance", "start", &image, "a"]).ok();
    let script = "$sampan exec instance://a sh -c 'trap \"echo heard; exit 7\" TERM; echo up >up; \
                  while :; do sleep 0.1; done' & until test -e up; do sleep 0.05; done; \
                  kill -TERM $!; wait $!; echo $?; rm up; \
                  $sampan exec instance://a sh -c 'echo up >up; exec sleep 600' & \
                  until test -e up; do sleep 0.05; done; kill -9 $!";
    assert_eq!(place.shell(script).ok(), "heard\n7\n");
    let ps = || place.sampan(&["exec", "instance://a", "ps"]).ok();
    wait_until("a command outlives who waits for it", || !ps().contains("sleep 600"));
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
}

#[test]
fn who_enters_is_who_the_instance_is() {
    let place = Place::new();
    let image = place.image_file();
    let exec = |flags: &[&str], script: &str| {
        place.sampan(&[&["exec"], flags, &["instance://a", "sh", "-c", script]].concat()).ok()
    };
    let stop = || drop(place.sampan(&["instance", "stop", "a"]).ok());
    let _ = place.sampan(&["instance", "start", "--root", "--isolate", &image, "a"]).ok();
    // Every flag of the bounding set that the instance has not, a command has not.
    let bound = |pid: &str| {
        exec(&["--root"], &format!("grep CapBnd /proc/{pid}/status || cat /proc/{pid}/status"))
    };
    let line =
        |text: String| text.lines().find(|line| line.starts_with("CapBnd")).map(str::to_owned);
    assert!(line(bound("1")).is_some());
    assert_eq!(line(bound("1")), line(bound("self")));
    assert_eq!(exec(&[], "id -u; hostname"), "0\nsampan\n");
    stop();
    let how = ["--root", "--root-emulation=consistent", "--writable-tmpfs"];
    let _ = place.sampan(&[&["instance", "start"], &how[..], &[&image, "a"]].concat()).ok();
    let script = "touch /f && stat -c %u:%g /f";
    assert_eq!(exec(&[], script), "0:0\n");
    let busybox = "/bin/busybox chown 12:34 /f && stat -c %u:%g /f";
    assert_eq!(exec(&[], busybox), "12:34\n");
    assert_eq!(exec(&[], "stat -c %u:%g /f"), "12:34\n", "another command sees it");
    stop();
    let _ = place.sampan(&["instance", "start", "--user", "app", &image, "a"]).ok();
    assert_eq!(exec(&[], "id -u; id -g"), "999\n998\n");
    stop();
}
