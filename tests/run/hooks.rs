//! Hooks of a site run at their stages.

use harness::{Place, required};
use serde_json::{Value, json};

/// A hook that appends its stage, its namespace and what it was told to a log.
fn write_hook(place: &Place, stages: &[&str], script: &str) {
    let program = place.write("hooks/log.sh", format!("#!/bin/sh\n{script}\n"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    for stage in stages {
        let hook = json!({
            "version": "1.0.0",
            "hook": {"path": program, "args": ["log.sh", stage], "timeout": 300},
            "when": {"annotations": {"^log$": "^yes$"}},
            "stages": [stage],
        });
        place.write(&format!("hooks/{stage}.json"), hook.to_string());
    }
}

#[test]
fn hooks_run_at_their_stages_and_are_told_of_the_container() {
    let place = Place::new();
    let image = place.image_file();
    let log = place.path("work/log");
    let stages = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let line = format!(
        "read state; echo \"$1 $(readlink /proc/self/ns/mnt) $state\" >>{}; \
         [ -z \"$2\" ] || exit 1",
        log.display()
    );
    write_hook(&place, &stages, &line);
    let hooks = place.path("hooks");
    let script = format!(
        "export SAMPAN_HOOKS_DIRS={}; $sampan exec {image} true; [ ! -e {log} ] || exit 9; \
         $sampan exec --annotation log=yes {image} sh -c 'readlink /proc/self/ns/mnt'; \
         wait_for '! ls -d $SAMPAN_SCRATCH/sampan-*/run/bundle-* >/dev/null 2>&1'",
        hooks.display(),
        log = log.display()
    );
    let inner = place.shell(&script).ok();
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.splitn(3, ' ').collect()).collect();
    let order: Vec<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(order, stages, "{text}");
    let host = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let status = ["creating", "creating", "creating", "running", "stopped"];
    for (line, status) in lines.iter().zip(status) {
        let own = line[0] == "createContainer";
        let expected = if own { inner.trim() } else { host.to_str().unwrap() };
        assert_eq!(line[1], expected, "{}", line[0]);
        let state: Value = serde_json::from_str(line[2]).unwrap();
        assert_eq!(
            (&state["status"], &state["annotations"]["log"]),
            (&json!(status), &json!("yes"))
        );
        assert_eq!(state["pid"].is_null(), status == "stopped");
    }
}

#[test]
fn annotations_of_an_edf_file_choose_hooks() {
    let place = Place::new();
    let (image, log) = (place.image_file(), place.path("work/log"));
    write_hook(&place, &["prestart"], &format!("cat >>{}", log.display()));
    for (name, value) in [("no", "no"), ("yes", "yes")] {
        let text = format!("image = '{image}'\n[annotations]\nlog = '{value}'\n");
        let file = place.write(&format!("{name}.toml"), text);
        let hooks = place.path("hooks");
        let (hooks, file) = (hooks.display(), file.display());
        let script = format!("SAMPAN_HOOKS_DIRS={hooks} $sampan exec --edf {file} true");
        let _ = place.shell(&script).ok();
        assert_eq!(log.exists(), value == "yes", "{value}");
    }
    let state: Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).unwrap();
    assert_eq!(state["annotations"]["log"], "yes");
}

#[test]
fn the_last_stage_runs_inside_and_a_failing_hook_stops_the_start() {
    let place = Place::new();
    let image = place.image_dir();
    write_hook(&place, &["startContainer"], "exit 0");
    let env = format!("SAMPAN_HOOKS_DIRS={}", place.path("hooks").display());
    // The program is looked for in the container.
    let inside = place.shell(&format!("{env} $sampan exec --annotation log=yes {image} true"));
    assert_eq!(inside.code, 0, "{}", inside.err);
    let outside = format!(
        "{env} $sampan exec --contain --no-mount tmp,cwd --annotation log=yes {image} true"
    );
    assert!(place.shell(&outside).fails(125).contains("log.sh"));

    write_hook(&place, &["createRuntime"], "echo no licence >&2; exit 3");
    for pid in ["", "--pid"] {
        let script = format!("{env} $sampan exec {pid} --annotation log=yes {image} echo started");
        let error = place.shell(&script).fails(125);
        assert!(error.contains("no licence") && error.contains("createRuntime"), "{error}");
    }
    let plan = format!("{env} $sampan exec --dry-run --annotation log=yes {image} true");
    assert!(place.shell(&plan).ok().contains("createRuntime"), "{}", required("SAMPAN_BIN"));
    std::fs::remove_file(place.path("hooks/log.sh")).unwrap();
    let script = format!("{env} $sampan exec --annotation log=yes {image} echo started");
    let error = place.shell(&script).fails(125);
    assert!(error.contains("log.sh") && error.contains("No such file"), "{error}");
    place.write("hooks/createRuntime.json", "{");
    let error = place.shell(&script).fails(125);
    assert!(error.contains("createRuntime.json: EOF"), "{error}");
}

#[test]
fn a_hook_before_all_others_changes_the_container() {
    let place = Place::new();
    let image = place.image_dir();
    place.write("data/word", "from the hook");
    let filter = format!(
        "jq '.process.env += [\"ADDED=yes\"] | .process.args += [\"three\"] | \
         .mounts += [{{destination: \"/added\", source: \"{}\", options: [\"rbind\", \"ro\"]}}]'",
        place.path("data").display()
    );
    write_hook(&place, &["precreate"], &format!("PATH=/usr/bin:/bin {filter}"));
    let env = format!("SAMPAN_HOOKS_DIRS={}", place.path("hooks").display());
    let words = "sh -c 'cat /added/word; echo \" $ADDED $*\"; touch /added/x' one two";
    let script = format!("{env} $sampan exec --annotation log=yes {image} {words}");
    let ran = place.shell(&script);
    assert_eq!(ran.out, "from the hook yes two three\n", "{ran:?}");
    assert_ne!(ran.code, 0, "the mount is read-only");
    // A plan is made without running anything.
    let plan =
        place.shell(&format!("{env} $sampan exec --dry-run --annotation log=yes {image} true"));
    assert!(!plan.ok().contains("ADDED"));
    for (filter, word) in [
        ("jq '.root.path = \"/\"'", "changes root"),
        ("echo {", "no configuration"),
        ("echo no licence >&2; exit 3", "no licence"),
    ] {
        write_hook(&place, &["precreate"], &format!("PATH=/usr/bin:/bin; {filter}"));
        let script = format!("{env} $sampan exec --annotation log=yes {image} echo started");
        let ran = place.shell(&script);
        assert!(!ran.out.contains("started"));
        let error = ran.fails(125);
        assert!(error.contains(word) && error.contains("precreate"), "{word}: {error}");
    }
}

/// OCI Runtime Specification, runtime.md "State": a hook in the container's
/// namespaces is told the pid as it is seen there, one outside as it is seen there.
#[test]
fn pids_are_those_of_the_hooks_namespace() {
    let place = Place::new();
    let image = place.image_dir();
    let log = place.path("work/log");
    let stages = ["createRuntime", "createContainer"];
    let line = format!("echo \"$1 $(grep -o 'pid\":[0-9]*')\" >>{}", log.display());
    write_hook(&place, &stages, &line);
    for (namespace, same) in [("", true), ("--pid", false)] {
        let script = format!(
            "rm -f log; SAMPAN_HOOKS_DIRS={} $sampan exec {namespace} --annotation log=yes {image} \
             sh -c 'echo $$'",
            place.path("hooks").display()
        );
        let pid = place.shell(&script).ok();
        let text = std::fs::read_to_string(&log).unwrap();
        let told = |stage: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(stage));
            line.and_then(|line| line.strip_prefix(" pid\":")).expect("a pid").to_owned()
        };
        // In a PID namespace it is the init's, which becomes nothing else.
        let inside = if same { pid.trim() } else { "1" };
        assert_eq!(told("createContainer"), inside, "{text}");
        assert_eq!(told("createRuntime") == inside, same, "{text}");
    }
}
