//! Layers by what they were made from, and builds that end badly.

use harness::Place;

use crate::{build, id};

const STEPS: &str = "ARG BASE\nFROM $BASE\nRUN echo one >/one\nCOPY dir /d\nRUN echo two >/two\n";

fn cached(ran: &harness::Ran) -> usize {
    ran.err.matches("(cached)").count()
}

#[test]
fn another_checkout_of_the_same_files_hits() {
    let place = Place::new();
    let first = build(&place, STEPS, &[]);
    assert_eq!(cached(&first), 0, "{}", first.err);
    let first = id(first);
    let again = build(&place, STEPS, &[]);
    assert_eq!(cached(&again), 3, "{}", again.err);
    assert_eq!(id(again), first);
    // Elsewhere, with other times.
    let copy = "cp -r ctx other && touch other/dir/b.txt && rm other/dir/hard && cp other/dir/b.txt other/dir/hard";
    let _ = place.shell(copy).ok();
    let base = format!("BASE={}", crate::base(&place));
    let flags = ["build", "-t", "made", "-f", "Dockerfile", "--build-arg", &base, "other"];
    let moved = place.sampan(&flags);
    assert_eq!(cached(&moved), 3, "{}", moved.err);
    // One changed file: misses from there on.
    let _ = place.shell("echo changed >ctx/dir/b.txt").ok();
    let changed = build(&place, STEPS, &[]);
    assert_eq!(cached(&changed), 1, "{}", changed.err);
    let line = STEPS.replace("echo one", "echo uno");
    assert_eq!(cached(&build(&place, &line, &[])), 0);
    assert_eq!(cached(&build(&place, STEPS, &["--no-cache"])), 0);
    // Without the cache the image is still there.
    let _ = place.sampan(&["prune", "--all"]).ok();
    assert_eq!(cached(&build(&place, STEPS, &[])), 0);
}

#[test]
fn what_stands_on_a_step_that_was_made_anew_is_made_anew() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE AS one\nRUN echo $(busybox date +%N) >/one\n\
                FROM one\nRUN busybox cp /one /two\nCMD busybox cmp /one /two && echo same\n";
    assert_eq!(cached(&build(&place, text, &[])), 0);
    // The first stage's layer is lost; the second one's was made from it.
    let lose = "ls -tr $SAMPAN_STORE/build/*.json | head -1 | xargs rm";
    let _ = place.shell(lose).ok();
    let again = build(&place, text, &[]);
    assert_eq!(cached(&again), 0, "{}", again.err);
    assert_eq!(place.sampan(&["run", "made"]).ok(), "same\n");
}

#[test]
fn the_same_files_give_the_same_image() {
    let place = Place::new();
    let text =
        "ARG BASE\nFROM $BASE\nCOPY dir /d\nRUN mkdir /new && echo x >/new/file\nWORKDIR /w\n";
    let flags = ["--timestamp", "1000000", "--no-cache"];
    let first = id(build(&place, text, &flags));
    let _ = place.shell("sleep 1; touch ctx/dir/sub/c.txt").ok();
    assert_eq!(id(build(&place, text, &flags)), first);
}

#[test]
fn a_killed_build_leaves_nothing() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nRUN touch /before && busybox sleep 4711\n";
    let _ = build(&place, "ARG BASE\nFROM $BASE\n", &[]).ok();
    let file = place.write("work/Dockerfile", text);
    place.give(&file);
    let script = format!(
        "$sampan build -f Dockerfile --build-arg BASE={} ctx >/dev/null 2>&1 & \
         while ! pgrep -u $(id -u) -xf 'busybox sleep 4711' >/dev/null; do sleep 0.05; done; \
         kill -9 $!; for i in $(seq 200); do pgrep -u $(id -u) -xf 'busybox sleep 4711' >/dev/null || break; sleep 0.05; done; \
         pgrep -u $(id -u) -xf 'busybox sleep 4711'; \
         ls $SAMPAN_SCRATCH/sampan-*/build | wc -l",
        crate::base(&place)
    );
    assert_eq!(place.shell(&script).out, "1\n", "the command outlived its build");
    let ran = build(&place, "ARG BASE\nFROM $BASE\nRUN test ! -e /before\n", &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(place.shell("ls $SAMPAN_SCRATCH/sampan-*/build | wc -l").ok(), "0\n");
}

#[test]
fn a_failed_step_leaves_the_ones_before() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nRUN echo one >/one\nRUN echo said; exit 3\n";
    let ran = build(&place, text, &[]);
    assert!(ran.code == 3 && ran.err.contains("said"), "{}", ran.err);
    let ran = build(&place, text, &["--progress=quiet"]);
    assert!(ran.code == 3 && ran.err.contains("said"), "{}", ran.err);
    assert_eq!(cached(&build(&place, &text.replace("exit 3", "true"), &[])), 1);
}

#[test]
fn an_image_is_pushed_with_the_layers_that_it_was_built_of() {
    let place = Place::new();
    let name = format!("{}/pushed-{}", harness::registry(), std::process::id());
    let source = format!("{}/busybox:latest", harness::registry());
    let text =
        format!("FROM {source}\nCOPY a.txt /\nRUN rm /bin/cat && mkdir -p /new\nCMD ls /new\n");
    let _ = build(&place, &text, &["-t", &format!("{name}:1")]).ok();
    let out = place.sampan(&["push", "--json", &format!("{name}:1")]).ok();
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    let again = place.sampan(&["push", "--json", "made", &format!("docker://{name}:2")]).ok();
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(said["digest"], again["digest"], "a second push gave other layers");
    let manifest = |image: &str| {
        let mut skopeo = std::process::Command::new("skopeo");
        let flags = ["inspect", "--raw", "--tls-verify=false", &format!("docker://{image}")];
        let raw = harness::run(skopeo.args(flags)).ok();
        serde_json::from_str::<serde_json::Value>(&raw).unwrap()
    };
    let (base, pushed) = (manifest(&source), manifest(&format!("{name}:1")));
    let layers = |m: &serde_json::Value| m["layers"].as_array().unwrap().clone();
    assert_eq!(layers(&pushed).len(), layers(&base).len() + 2);
    assert_eq!(layers(&pushed)[0], layers(&base)[0], "the base's layer is another one");
    // Another user of the registry has what was built.
    let look = "ls -d /bin/cat /a.txt /new 2>/dev/null";
    let ran = place.sampan(&["--store", "other", "exec", &format!("{name}:2"), "sh", "-c", look]);
    assert_eq!(ran.out, "/a.txt\n/new\n");
    let _ = place.sampan(&["tag", "made", "renamed:3"]).ok();
    let steps = place.sampan(&["history", "renamed:3"]).ok();
    assert!(steps.contains("COPY a.txt /") && steps.contains("CMD ls /new"), "{steps}");
    assert!(place.sampan(&["tag", "nosuch", "x"]).fails(3).contains("nosuch"));
}
