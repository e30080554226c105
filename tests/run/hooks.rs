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
            "hook": {"path": program, "args": ["log.sh", stage], "timeout": 20},
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
         for i in $(seq 100); do grep -q poststop {log} && break; sleep 0.1; done",
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
    assert_eq!(
        place.shell("ls -d $SAMPAN_SCRATCH/sampan-*/run/bundle-* 2>/dev/null; true").ok(),
        ""
    );
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
}
