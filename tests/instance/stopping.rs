//! `instance stop`.

use harness::{Layout, wait_until};

use crate::Place;

/// Starts an instance whose command writes down each signal, and ends by none of them
/// but those in `ends`.
fn listening(place: &Place, name: &str, ends: &str) {
    let image = place.image_file();
    let script = format!(
        "for s in TERM INT QUIT USR1 HUP; do trap \"echo $s >>{name}.heard; \
         case {ends} in *$s*) exit;; esac\" $s; done; echo up >{name}.up; while :; do sleep 0.05; done"
    );
    let _ = place.sampan(&["instance", "run", &image, name, "sh", "-c", &script]).ok();
    wait_until("the command is not up", || place.path(&format!("work/{name}.up")).exists());
}

fn heard(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.path(&format!("work/{name}.heard"))).unwrap_or_default()
}

#[test]
fn it_is_asked_to_end_and_then_killed() {
    let place = Place::new();
    listening(&place, "soft", "TERM");
    listening(&place, "own", "USR1");
    listening(&place, "hard", "none");
    listening(&place, "forced", "TERM");
    let stop = |args: &[&str]| {
        let ran = place.sampan(&[&["instance", "stop"], args].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.err
    };
    assert!(stop(&["soft"]).contains("soft stopped"));
    assert_eq!(heard(&place, "soft"), "TERM\n");
    assert!(stop(&["--signal", "SIGUSR1", "own"]).contains("own stopped"));
    assert_eq!(heard(&place, "own"), "USR1\n");
    assert!(stop(&["-s", "10", "-t", "1", "hard"]).contains("hard killed"));
    assert_eq!(heard(&place, "hard"), "USR1\n");
    assert!(stop(&["--force", "instance://forced"]).contains("forced killed"));
    assert_eq!(heard(&place, "forced"), "");
    wait_until("something is left", || place.processes().is_empty());
    assert!(place.sampan(&["instance", "stop", "soft"]).fails(3).contains("soft"));
    assert_eq!(place.sampan(&["instance", "stop", "--all"]).code, 0);
    for bad in [&["-s", "NOSUCH", "x"][..], &["[x"]] {
        let _ = place.sampan(&[&["instance", "stop"], bad].concat()).fails(2);
    }
}

#[test]
fn patterns_and_all() {
    let place = Place::new();
    let image = place.image_file();
    for name in ["db1", "db2", "web"] {
        let _ = place.sampan(&["instance", "start", &image, name]).ok();
    }
    let _ = place.sampan(&["instance", "stop", "db?"]).ok();
    assert_eq!(place.listed(), ["web"]);
    let _ = place.sampan(&["instance", "stop", "-a"]).ok();
    assert!(place.listed().is_empty());
}

#[test]
fn a_signal_by_hand_is_passed_on() {
    let place = Place::new();
    listening(&place, "a", "TERM");
    let kill =
        |signal: &str| drop(place.shell(&format!("kill -{signal} {}", place.init("a"))).ok());
    kill("HUP");
    wait_until("no signal", || heard(&place, "a") == "HUP\n");
    assert_eq!(place.listed(), ["a"], "a signal that asks for no end has ended it");
    kill("TERM");
    wait_until("the instance stays", || place.listed().is_empty());
    assert_eq!(heard(&place, "a"), "HUP\nTERM\n");
}

#[test]
fn the_images_own_signal_comes_first() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    layout.busybox().config = serde_json::json!({"StopSignal": "SIGQUIT"});
    let image = layout.finish("t");
    place.give(&place.path("layout"));
    let script = "trap 'echo quit; exit' QUIT; echo up >up; while :; do sleep 0.05; done";
    // What ignores signals itself, as a shell's background jobs do, passes that on to nobody.
    let start = format!("trap '' HUP INT QUIT; $sampan instance run {image} a sh -c \"{script}\"");
    let _ = place.shell(&start).ok();
    wait_until("the command is not up", || place.path("work/up").exists());
    let ran = place.sampan(&["instance", "stop", "a"]);
    assert!(ran.err.contains("a stopped"), "{ran:?}");
    assert_eq!(place.shell("cat $SAMPAN_SCRATCH/sampan-*/instances/*/a.out").ok(), "quit\n");
}
