//! Promise: a person who types it is understood, or told what to type.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod modules;

use harness::Place;

#[test]
fn the_binary_is_static() {
    let output =
        std::process::Command::new("ldd").arg(harness::required("SAMPAN_BIN")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("statically linked") || text.contains("not a dynamic"), "{text}");
}

#[test]
fn completions_and_manual_pages_are_made() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.sampan(&["completions", shell]).ok().contains("sampan"));
    }
    assert!(place.sampan(&["man"]).ok().contains(".TH"));
    assert!(place.sampan(&["version"]).ok().contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn configuration_says_where_each_value_came_from() {
    let place = Place::new();
    place.write("home/.config/sampan/config.toml", "parallel_layers = 2\n");
    let site = place.write("site.toml", "parallel_layers = 7\npull = \"never\"\n");
    let mut command = place.sampan_command(&["config", "show"]);
    let output = command.env("SAMPAN_SITE_CONFIG", &site).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |key: &str| text.lines().find(|l| l.contains(key)).unwrap_or_default().to_owned();
    assert!(line("parallel_layers").contains("config.toml"), "{text}");
    assert!(line("pull").contains("site.toml") || text.contains("site.toml"), "{text}");
    assert!(line("store").contains("SAMPAN_STORE"), "{text}");
}

#[test]
fn a_malformed_configuration_names_file_and_line() {
    let place = Place::new();
    place.write("home/.config/sampan/config.toml", "\n\nparallel_layers = \"many\"\n");
    let ran = place.sampan(&["images"]);
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains("config.toml") && ran.err.contains('3'), "{}", ran.err);
    place.write("home/.config/sampan/config.toml", "no_such_key = 1\n");
    assert!(place.sampan(&["images"]).err.contains("no_such_key"));
}

#[test]
fn doctor_finds_this_machine_fit() {
    let place = Place::new();
    let text = place.sampan(&["doctor", "--json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(text.contains("user namespaces") || text.contains("user_namespace"), "{report}");
}

/// Subordinate ids are a matter of one mode; who has none is not warned.
#[test]
fn doctor_tells_of_subordinate_ids() {
    let find = |place: &Place, script: &str| {
        let report: serde_json::Value = serde_json::from_str(&place.shell(script).ok()).unwrap();
        let all = report["checks"].as_array().or(report.as_array()).unwrap().clone();
        let one = all.into_iter().find(|check| check["name"] == "subordinate ids").unwrap();
        (one["status"].as_str().unwrap().to_owned(), one["detail"].as_str().unwrap().to_owned())
    };
    let (status, detail) = find(&Place::new(), "$sampan doctor --json");
    assert_eq!(status, "ok");
    assert!(detail.contains("no range") && detail.contains("--root-emulation=subid"), "{detail}");
    let place = Place::of(&harness::required("SAMPAN_TEST_SUBID_USER"));
    let (status, detail) = find(&place, "$sampan doctor --json");
    assert_eq!(status, "ok");
    assert!(detail.contains("65536 user and 65536 group ids"), "{detail}");
    // The first one in PATH counts, and may not map.
    let script = "mkdir bin; cp /bin/true bin/newuidmap; PATH=$PWD/bin:$PATH $sampan doctor --json";
    let (status, detail) = find(&place, script);
    assert_eq!(status, "warn");
    assert!(detail.contains("bin/newuidmap is neither setuid root"), "{detail}");
    assert!(!detail.contains("newgidmap"), "{detail}");
}

#[test]
fn an_unwritable_home_does_not_stop_a_run() {
    let place = Place::new();
    let image = place.image_dir();
    let script = format!(
        "HOME=/proc/1 SAMPAN_STORE= ; unset SAMPAN_STORE; HOME=/nonexistent $sampan exec {image} echo ran"
    );
    assert_eq!(place.shell(&script).ok(), "ran\n");
}

#[test]
fn usage_errors_are_code_two() {
    let place = Place::new();
    assert_eq!(place.sampan(&["frobnicate"]).code, 2);
    assert_eq!(place.sampan(&["pull"]).code, 2);
    assert_eq!(place.sampan(&["images", "--help"]).code, 0);
    assert!(place.sampan(&["exec", "image"]).fails(125).contains("no command"));
}

/// Docker's code, which no command of a container has: also behind global flags.
#[test]
fn usage_errors_of_containers_are_the_engines() {
    let place = Place::new();
    for args in [&["run", "--frobnicate", "x"][..], &["--store", "/s", "-q", "exec"]] {
        assert!(place.sampan(args).fails(125).contains("Usage"), "{args:?}");
    }
}

#[test]
fn a_broken_pipe_is_no_panic() {
    let place = Place::new();
    let ran = place.shell("$sampan man | head -1 >/dev/null; echo ${PIPESTATUS[0]}");
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
}

#[test]
fn an_environment_definition_file_stands_for_flags() {
    let place = Place::new();
    let image = place.image_dir();
    place.write("home/.edf/base.toml", "workdir = '/opt'\n[env]\nA = 'base'\nGONE = ''\n");
    let text = format!("base_environment = 'base'\nimage = '{image}'\n[env]\nB = '${{A_SET}}'\n");
    place.write("home/.edf/mine.toml", text);
    let script = "export A_SET=set GONE=here A=host; $sampan run --edf mine sh -c \
                  'echo $A $B ${GONE-gone} $(pwd); touch /new && echo wrote'; \
                  $sampan exec --edf mine --env A=flag --workdir /etc sh -c 'echo $A $(pwd)'; \
                  $sampan run --edf mine --read-only touch /new 2>/dev/null || echo refused; \
                  echo 'echo from a shell' | $sampan shell --edf ~/.edf/mine.toml";
    let expected = "base set gone /opt\nwrote\nflag /etc\nrefused\nfrom a shell\n";
    assert_eq!(place.shell(script).ok(), expected);
    let said = place.sampan(&["run", "--edf", "mine", "true"]).fails(125);
    assert!(said.contains("mine.toml:4: $A_SET is not set"), "{said}");
    let said = place.sampan(&["run", "--edf", "other", "true"]).fails(125);
    assert!(said.contains("other.toml"), "{said}");
    place.write("home/.edf/none.toml", "workdir = '/'\n");
    let said = place.sampan(&["exec", "--edf", "none", "true"]).fails(125);
    assert!(said.contains("names no image"), "{said}");
}
