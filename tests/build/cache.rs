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
    let copy = "cp -r ctx other && touch other/dir/b.txt && ln -f other/dir/b.txt other/dir/hard";
    let _ = place.shell(copy).ok();
    let base = format!("BASE={}", crate::base(&place));
    let flags = ["build", "-t", "made", "-f", "Dockerfile", "--build-arg", &base, "other"];
    let moved = place.sampan(&flags);
    assert_eq!(cached(&moved), 3, "{}", moved.err);
    // A file of one name less is another layer.
    let _ = place.shell("rm other/dir/hard && cp other/dir/b.txt other/dir/hard").ok();
    assert_eq!(cached(&place.sampan(&flags)), 1);
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
    let text = "ARG BASE\nFROM $BASE AS one\nRUN cat /proc/sys/kernel/random/uuid >/one\n\
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
    // In another store, another checkout, and by the variable that others know.
    let base = format!("BASE={}", crate::base(&place));
    let script = format!(
        "cp -r ctx elsewhere && rm elsewhere/dir/hard && ln elsewhere/dir/b.txt elsewhere/dir/hard && \
         SOURCE_DATE_EPOCH=1000000 $sampan --store other build -f Dockerfile --build-arg {base} elsewhere"
    );
    assert_eq!(id(place.shell(&script)), first);
    let later = id(build(&place, text, &["--timestamp", "1000001", "--no-cache"]));
    assert_ne!(later, first, "the time does not count");
}

#[test]
fn a_killed_build_leaves_nothing() {
    let place = Place::new();
    // Nobody else on the machine sleeps so long.
    let sleep = format!("busybox sleep 4711.{}", std::process::id());
    let text = format!("ARG BASE\nFROM $BASE\nRUN touch /before && {sleep}\n");
    let _ = build(&place, "ARG BASE\nFROM $BASE\n", &[]).ok();
    let file = place.write("work/Dockerfile", text);
    place.give(&file);
    let script = format!(
        "$sampan build -f Dockerfile --build-arg BASE={} ctx >/dev/null 2>&1 & \
         there=\"pgrep -xf '{sleep}' >/dev/null\"; wait_for \"$there\" && kill -9 $! && \
         wait_for \"! $there\" && ls $SAMPAN_SCRATCH/sampan-*/build | wc -l",
        crate::base(&place)
    );
    assert_eq!(place.shell(&script).ok(), "1\n");
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

#[test]
fn odd_files_survive_the_cache() {
    let place = Place::new();
    let _ = build(&place, "ARG BASE\nFROM $BASE\n", &[]).ok();
    let _ = place
        .shell(
            "cd ctx/dir && mkfifo fifo && chmod 4755 b.o && mkdir -p .git/objects && echo x >.git/HEAD \
             && touch -d @1000000000 b.txt .git && ln b.o also",
        )
        .ok();
    let text = "ARG BASE\nFROM $BASE\nCOPY dir /d\nRUN cd /d && stat -c '%n %F %a %Y %h' fifo b.o \
                b.txt empty .git .git/HEAD also | busybox sed 's/ [0-9]* 1$/ 1/'\n";
    let first = build(&place, text, &["--no-cache"]);
    for line in [
        "fifo fifo 644",
        "b.o regular file 4755",
        "b.txt regular file 644 1000000000 2",
        "empty directory 755",
        ".git directory 755 1000000000",
        "also regular file 4755",
    ] {
        assert!(first.err.contains(line), "{line}: {}", first.err);
    }
    let listing = crate::unpacked(&place, "made");
    // Times and links too, as another engine unpacks them.
    let more = || {
        let dir = place.path("bundle/rootfs/d");
        let script = "stat -c '%n %F %Y %h' . .git .git/HEAD b.txt hard b.o also fifo empty";
        let mut command = std::process::Command::new("sh");
        harness::run(command.args(["-c", script]).current_dir(dir)).ok()
    };
    let times = more();
    for line in
        ["b.txt regular file 1000000000 2\n", ".git directory 1000000000", "b.o regular file"]
    {
        assert!(times.contains(line), "{line}: {times}");
    }
    let _ =
        place.shell("cp -a ctx other && chmod u+s other/dir/b.o && rm -r ctx && mv other ctx").ok();
    let again = build(&place, text, &[]);
    assert_eq!(cached(&again), 2, "{}", again.err);
    assert_eq!(crate::unpacked(&place, "made"), listing);
    assert_eq!(more(), times);
}

#[test]
fn layers_are_shared_by_directories_and_registries() {
    let place = Place::new();
    let name = format!("{}/cache-{}", harness::registry(), std::process::id());
    let first = build(&place, STEPS, &["--cache-to", "./shared", "--cache-to", &name]);
    let first = id(first);
    let base = format!("BASE={}", crate::base(&place));
    let elsewhere = |store: &str, from: &str| {
        let flags =
            ["build", "-f", "Dockerfile", "--build-arg", &base, "--cache-from", from, "ctx"];
        place.sampan(&[&["--store", store][..], &flags].concat())
    };
    for (store, from) in [("one", "./shared"), ("two", &name), ("three", "type=local,src=shared")] {
        let ran = elsewhere(store, from);
        assert_eq!(cached(&ran), 3, "{from}: {}", ran.err);
        assert_eq!(id(ran), first, "{from}");
    }
    // A layer that is not what its record says, and a cache that is not there.
    let _ = place.shell("for f in shared/*.sqfs; do echo x >$f; done").ok();
    let ran = elsewhere("four", "./shared");
    assert_eq!(cached(&ran), 0, "{}", ran.err);
    assert_eq!(place.shell("ls four/build | grep -c '^[.]'").out, "0\n");
    let ran = elsewhere("five", "127.0.0.1:1/nothing");
    assert!(ran.code == 0 && ran.err.contains("left out"), "{}", ran.err);
    assert_eq!(cached(&elsewhere("six", &format!("{name}-none"))), 0);
}

#[test]
fn stages_that_do_not_need_each_other_are_built_at_once() {
    let place = Place::new();
    // Each waits for the other one, five minutes at most.
    let text = "ARG BASE\nFROM $BASE AS base\nRUN echo base >/base\n\
        FROM base AS one\nRUN --mount=type=cache,target=/c \
            touch /c/one; for i in $(busybox seq 3000); do test -e /c/two && break; busybox sleep 0.1; done; \
            test -e /c/two && echo 1 >/one && echo from one\n\
        FROM base AS two\nRUN --mount=type=cache,target=/c \
            touch /c/two; for i in $(busybox seq 3000); do test -e /c/one && break; busybox sleep 0.1; done; \
            test -e /c/one && echo 2 >/two\n\
        FROM base AS unneeded\nRUN false\n\
        FROM base\nCOPY --from=one /one /\nCOPY --from=two /two /\nCMD cat /one /two\n";
    let ran = build(&place, text, &[]);
    assert!(ran.err.contains("[one] from one\n") && cached(&ran) == 0, "{}", ran.err);
    let first = id(ran);
    assert_eq!(place.sampan(&["run", "made"]).ok(), "1\n2\n");
    let again = build(&place, text, &[]);
    assert_eq!(cached(&again), 5, "{}", again.err);
    assert_eq!(id(again), first);
    let anew = build(&place, text, &["--no-cache"]);
    assert_eq!(cached(&anew), 0, "{}", anew.err);
    // A failure is told once, with its place and its code.
    let broken = text.replace("echo 2 >/two", "echo broken; exit 9");
    let ran = build(&place, &broken, &["--progress=quiet"]);
    assert_eq!(ran.code, 9, "{}", ran.err);
    for word in ["line 7, column 1", "exit code 9", "broken"] {
        assert_eq!(
            ran.err.matches(word).count().min(2),
            if word == "broken" { 2 } else { 1 },
            "{word}: {}",
            ran.err
        );
    }
}

/// A recipe with a step of every kind, stages at once among them.
const EVERY_STEP: &str = "ARG BASE\nFROM $BASE AS one\nRUN echo 1 >/one && busybox chown 5:6 /one\n\
    FROM $BASE AS two\nCOPY dir /two\nRUN busybox chown -R 7:8 /two\n\
    FROM $BASE\nADD archive.tar.gz /x/\nCOPY --from=one /one /\nCOPY --from=two /two /two\n\
    WORKDIR /new/dir\nRUN --mount=type=cache,target=/c echo c >>/c/c && busybox mknod /null c 1 3\n\
    COPY <<E /doc\ntext\nE\nUSER app\nRUN touch /tmp/mine\n";

/// Killed as soon as it has told of each of its steps in turn.
#[test]
fn a_build_that_is_killed_in_any_step_leaves_nothing() {
    use std::io::{BufRead, BufReader};
    let place = Place::new();
    let flags = ["--timestamp", "1000000"];
    let first = id(build(&place, EVERY_STEP, &flags));
    let listing = crate::unpacked(&place, "made");
    let base = format!("BASE={}", crate::base(&place));
    let args = ["build", "-t", "made", "-f", "Dockerfile", "--build-arg", &base, "--no-cache"];
    let args = [&args[..], &flags, &["ctx"]].concat();
    let mut killed = 0;
    for steps in 1.. {
        let mut command = place.sampan_command(&args);
        let piped = std::process::Stdio::piped;
        let mut child = command.stdout(piped()).stderr(piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let told = lines.filter(|line| line.starts_with('[')).take(steps).count();
        let over = told < steps;
        if !over {
            child.kill().unwrap();
            killed += 1;
        }
        let status = child.wait().unwrap();
        assert!(!over || status.success(), "{status}");
        // What is there now is what an undisturbed build makes, and whole.
        let ran = build(&place, EVERY_STEP, &flags);
        assert_eq!(id(ran), first, "after {steps} steps");
        if over {
            break;
        }
    }
    assert!(killed >= 9, "{killed}");
    assert_eq!(crate::unpacked(&place, "made"), listing);
    let left =
        "ls $SAMPAN_SCRATCH/sampan-*/build | wc -l; ls -A $SAMPAN_STORE/build | grep -c '^[.]'";
    assert_eq!(place.shell(left).out, "0\n0\n");
}
