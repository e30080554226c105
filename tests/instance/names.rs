//! Who has a name.

use crate::Place;

#[test]
fn of_many_that_start_at_once_one_has_the_name() {
    let place = Place::new();
    let image = place.image_file();
    for round in 0..5 {
        let script = format!(
            "for i in $(seq 12); do $sampan instance run {image} same sleep 600 2>err-$i & done; \
             for job in $(jobs -p); do wait $job && echo started; done; true"
        );
        assert_eq!(place.shell(&script).ok(), "started\n", "round {round}");
        let errors = place.shell("cat err-* | grep -c -e 'is starting' -e 'already'").out;
        assert_eq!(errors, "11\n", "{}", place.shell("cat err-*").out);
        assert_eq!(place.listed(), ["same"]);
        let _ = place.sampan(&["exec", "instance://same", "true"]).ok();
        let _ = place.sampan(&["instance", "stop", "-F", "same"]).ok();
    }
}

#[test]
fn a_name_is_one_word_and_no_path() {
    let place = Place::new();
    let image = place.image_file();
    for name in ["", "..", "../a", "a/b", "a b", "a\nb"] {
        let error = place.sampan(&["instance", "start", &image, name]).fails(125);
        assert!(error.contains("is no name"), "{error}");
        let target = format!("instance://{name}");
        assert!(place.sampan(&["exec", &target, "true"]).fails(125).contains("no instance"));
    }
    let _ = place.sampan(&["instance", "start", &image, "a.b_c-1"]).ok();
    let again = place.sampan(&["instance", "start", &image, "a.b_c-1"]).fails(125);
    assert!(again.contains("already") && again.contains("stop a.b_c-1"), "{again}");
    let _ = place.sampan(&["instance", "stop", "a.b_c-1"]).ok();
}

#[test]
fn another_nodes_instance_is_shown_and_not_touched() {
    let place = Place::new();
    let image = place.image_file();
    let _ = place.sampan(&["instance", "start", &image, "a"]).ok();
    let _ = place.sampan(&["instance", "start", &image, "b"]).ok();
    // As if the other node had written it, which knows its own processes.
    let script = "cd $SAMPAN_SCRATCH/sampan-*/instances; mkdir -m 700 other; \
                  sed 's/\"host\":\"[^\"]*\"/\"host\":\"other\"/' */a.*.json >other/a.1-1.json";
    let _ = place.shell(script).ok();
    let list = place.sampan(&["instance", "list", "a"]).ok();
    assert!(list.lines().nth(2).is_some_and(|line| line.contains(" other ")), "{list}");
    let ran = place.sampan(&["instance", "stop", "--all"]);
    assert!(ran.code == 0 && ran.err.contains("on node other"), "{ran:?}");
    assert_eq!(place.listed(), ["a"], "it is another node's");
    let error = place.sampan(&["exec", "instance://a", "true"]).fails(125);
    assert!(error.contains("other"), "{error}");
    let ran = place.sampan(&["instance", "stop", "a"]);
    assert!(ran.code != 0 && place.listed() == ["a"], "{ran:?}");
    // A name is one of a node.
    let _ = place.sampan(&["instance", "start", &image, "a"]).ok();
    assert_eq!(place.listed(), ["a", "a"]);
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
    assert_eq!(place.listed(), ["a"]);
}

#[test]
fn a_damaged_record_is_named() {
    let place = Place::new();
    let image = place.image_file();
    let _ = place.sampan(&["instance", "start", &image, "a"]).ok();
    let _ = place.shell("cd $SAMPAN_SCRATCH/sampan-*/instances/*; echo '{' >b.1-2.json").ok();
    let error = place.sampan(&["instance", "list"]).fails(1);
    assert!(error.contains("b.1-2.json") && error.contains("remove the file"), "{error}");
    let _ = place.shell("rm $SAMPAN_SCRATCH/sampan-*/instances/*/b.1-2.json").ok();
    let _ = place.sampan(&["instance", "stop", "a"]).ok();
}
