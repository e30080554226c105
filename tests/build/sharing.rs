//! Layers that several builds and images share: each has its own, whatever others do.

use harness::{Place, Ran, wait_until};

use crate::{base, build, context, id};

fn cached(ran: &Ran) -> usize {
    ran.err.matches("(cached)").count()
}

/// A step that is another one each time.
const NOW: &str = "cat /proc/sys/kernel/random/uuid";

/// Names of files right in the directory of layers.
fn kept(place: &Place, ending: &str) -> usize {
    let list = std::fs::read_dir(place.path("store/build")).unwrap();
    let names = list.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(ending)).count()
}

/// What an image prints when it comes from a registry, to somebody who has nothing.
fn pushed(place: &Place, image: &str, name: &str, store: &str) -> String {
    let _ = place.sampan(&["push", image, &format!("docker://{name}")]).ok();
    place.sampan(&["--store", store, "run", name]).ok()
}

#[test]
fn an_image_keeps_its_layers_when_its_recipe_is_built_anew() {
    let place = Place::new();
    let text = format!("ARG BASE\nFROM $BASE\nRUN {NOW} >/t\nRUN cp /t /u\nCMD cat /t /u\n");
    let first = id(build(&place, &text, &["-t", "app:1"]));
    let said = place.sampan(&["run", "app:1"]).ok();
    let second = id(build(&place, &text, &["-t", "app:2", "--no-cache"]));
    assert_ne!(first, second);
    let newer = place.sampan(&["run", "app:2"]).ok();
    assert_ne!(said, newer);
    let name = format!("{}/older-{}", harness::registry(), std::process::id());
    assert_eq!(pushed(&place, "app:1", &format!("{name}:1"), "one"), said);
    assert_eq!(pushed(&place, "app:2", &format!("{name}:2"), "two"), newer);
    let list = place.sampan(&["--store", "one", "inspect", "--json", &format!("{name}:1")]).ok();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert!(list[0]["record"]["layers"].as_array().unwrap().len() >= 3, "{list}");
    // Layers that no image and no record names go; those of the older image stay. Once
    // that is gone the record of its second step, which lies over the first, still counts.
    let there = kept(&place, ".sqfs");
    let _ = place.sampan(&["prune"]).ok();
    assert_eq!(kept(&place, ".sqfs"), there);
    let _ = place.sampan(&["rm", "app:1"]).ok();
    let _ = place.sampan(&["prune"]).ok();
    assert_eq!(kept(&place, ".sqfs"), there - 1);
    assert_eq!(pushed(&place, "app:2", &format!("{name}:3"), "three"), newer);
    // A file with another content than its name says is not pushed.
    let damage =
        "cd $SAMPAN_STORE/build; set -- *.sqfs; for f; do cat $1 >new; cat new >$f; done; rm new";
    let _ = place.shell(damage).ok();
    let ran = place.sampan(&["push", "app:2", &format!("docker://{name}:4")]);
    assert!(ran.fails(1).contains("is damaged"));
}

#[test]
fn the_latest_time_of_files_is_an_input() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nCOPY dir /d\nADD archive.tar.gz /x/\nRUN echo x >/f\n\
                WORKDIR /w\n";
    let flags = ["--timestamp", "1000000"];
    let _ = id(build(&place, text, &[]));
    let warm = build(&place, text, &flags);
    assert_eq!(cached(&warm), 0, "{}", warm.err);
    let warm = id(warm);
    let again = build(&place, text, &flags);
    assert_eq!(cached(&again), 4, "{}", again.err);
    let clean = build(&place, text, &[&flags[..], &["--no-cache"]].concat());
    assert_eq!(id(clean), warm);
    // BuildKit's way to say it.
    let by_argument = build(&place, text, &["--build-arg", "SOURCE_DATE_EPOCH=1000000"]);
    assert_eq!(id(by_argument), warm);
    let squashed = id(build(&place, text, &[&flags[..], &["--squash"]].concat()));
    let clean = build(&place, text, &[&flags[..], &["--squash", "--no-cache"]].concat());
    assert_eq!(id(clean), squashed);
    let look = ["exec", "made", "stat", "-c", "%Y", "/d/b.txt", "/f", "/w"];
    assert_eq!(place.sampan(&look).ok(), "1000000\n1000000\n1000000\n");
}

#[test]
fn one_layer_is_made_of_what_is_built_now() {
    let place = Place::new();
    let text = format!("ARG BASE\nFROM $BASE\nRUN {NOW} >/t\nCMD cat /t\n");
    let mut all = Vec::new();
    for flags in [&["--squash"][..], &["--squash", "--no-cache"], &["--squash"]] {
        let _ = id(build(&place, &text, flags));
        all.push(place.sampan(&["run", "made"]).ok());
    }
    assert!(all[0] != all[1] && all[1] == all[2], "{all:?}");
}

#[test]
fn stages_with_the_same_first_step_have_the_same_layer() {
    let place = Place::new();
    let stage = |name: &str| {
        format!(
            "FROM $BASE AS {name}\nRUN {NOW} >/t && echo once >>/dev/stderr\nRUN cp /t /{name}\n"
        )
    };
    let text = format!(
        "ARG BASE\n{}{}FROM $BASE\nCOPY --from=one /t /one /\nCOPY --from=two /two /\n\
         CMD cat /t /one /two\n",
        stage("one"),
        stage("two")
    );
    for flags in [&[][..], &["--no-cache"]] {
        let ran = build(&place, &text, flags);
        assert_eq!(ran.err.matches("] once\n").count(), 1, "{}", ran.err);
        let _ = id(ran);
        let said = place.sampan(&["run", "made"]).ok();
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines.len() == 3 && lines.iter().all(|line| *line == lines[0]), "{said}");
    }
}

#[test]
fn builds_of_one_recipe_at_once_make_one_image() {
    let place = Place::new();
    context(&place);
    let text = format!("ARG BASE\nFROM $BASE\nRUN {NOW} >/t && busybox sleep 1\nRUN cp /t /u\n");
    place.write("work/Dockerfile", text);
    let script = format!(
        "for i in 1 2 3 4; do $sampan build -t at-once:$i -f Dockerfile --timestamp 1000 \
         --build-arg BASE={} ctx >id$i 2>err$i & done; wait; cat id1 id2 id3 id4 | sort -u",
        base(&place)
    );
    let ids = place.shell(&script).ok();
    assert_eq!(ids.lines().count(), 1, "{ids} {}", place.shell("cat err?").out);
    assert_eq!(place.shell("cat err? | grep -c '(cached)'").out, "6\n");
    // With everything anew each has its own, and none is mixed.
    let _ = place.shell(&script.replace("-t at-once", "--no-cache -t at-once")).ok();
    for number in 1..=4 {
        let ran =
            place.sampan(&["exec", &format!("at-once:{number}"), "busybox", "cmp", "/t", "/u"]);
        let _ = ran.ok();
    }
}

#[test]
fn what_a_build_needs_is_not_pruned() {
    let place = Place::new();
    context(&place);
    let text = "ARG BASE\nFROM $BASE\nRUN echo 1 >/one\n\
                RUN --mount=type=cache,target=/c touch /c/here; \
                for i in $(busybox seq 3000); do test -e /c/go && break; busybox sleep 0.1; done\n\
                CMD cat /one\n";
    place.write("work/Dockerfile", text);
    let base = format!("BASE={}", base(&place));
    let args = ["build", "-t", "made", "-f", "Dockerfile", "--build-arg", &base, "ctx"];
    let mut running = place.sampan_command(&args).spawn().unwrap();
    let here = || place.shell("ls $SAMPAN_STORE/build/*.cache/here 2>/dev/null").code == 0;
    wait_until("the second step runs", here);
    // Also not the base, which nobody has named for a year.
    let images = "ls $SAMPAN_STORE/images";
    let before = place.shell(images).ok();
    let age = "rm $SAMPAN_STORE/refs/*; touch -d '1 year ago' $SAMPAN_STORE/images/*.json";
    let _ = place.shell(age).ok();
    for args in [&["prune", "--dry-run"][..], &["prune"], &["prune", "--all"]] {
        let ran = place.sampan(args);
        assert!(ran.err.contains("a build runs"), "{}", ran.err);
        assert!(!ran.out.lines().any(|line| line.starts_with("image ")), "{}", ran.out);
        assert_eq!(place.shell(images).ok(), before);
    }
    let _ = place.shell("cd $SAMPAN_STORE/build/*.cache && touch go").ok();
    assert!(running.wait().unwrap().success());
    assert_eq!(place.sampan(&["run", "made"]).ok(), "1\n");
    let ran = place.sampan(&["prune", "--all"]);
    assert!(!ran.err.contains("a build runs"), "{}", ran.err);
    assert_eq!((kept(&place, ".sqfs"), kept(&place, ".json")), (0, 0));
}

#[test]
fn a_layer_of_another_cache_is_checked_before_it_is_kept() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nRUN echo x >/x\nRUN echo y >/y\n";
    let _ = id(build(&place, text, &["--cache-to", "./shared", "--timestamp", "1000"]));
    // Every file is a layer, but another one than its name says.
    let _ =
        place.shell("cd shared; set -- *.sqfs; cp $1 new; for f; do cp new $f; done; rm new").ok();
    let base = format!("BASE={}", base(&place));
    let args = ["--timestamp", "1000", "--build-arg", &base, "--cache-from", "./shared", "ctx"];
    let ran =
        place.sampan(&[&["--store", "other", "build", "-f", "Dockerfile"][..], &args].concat());
    // The one whose content was taken is right; the other one is made, and is the same.
    assert_eq!(cached(&ran), 1, "{}", ran.err);
    let script = "for f in other/build/*.sqfs; do sha256sum <$f; done | sort | uniq -d";
    assert_eq!(place.shell(script).ok(), "");
}
