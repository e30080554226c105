//! A real registry on loopback.

use harness::{Place, registry};

#[test]
fn pull_then_run_without_the_registry() {
    let place = Place::new();
    let image = format!("docker://{}/busybox:latest", registry());
    let _ = place.sampan(&["pull", &image]).ok();
    let out = place.sampan(&["run", "--pull", "never", &image, "echo", "hello"]).ok();
    assert_eq!(out, "hello\n");
    let bare = image.trim_start_matches("docker://");
    assert_eq!(place.sampan(&["run", bare, "echo", "again"]).ok(), "again\n");
    let listed = place.sampan(&["images", "--json"]).ok();
    let list: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{listed}");
}

#[test]
fn by_digest_as_by_tag() {
    let place = Place::new();
    let name = format!("{}/busybox", registry());
    let digest = place
        .shell(&format!(
            "echo {{}} >none.json; skopeo inspect --authfile none.json --tls-verify=false --format '{{{{.Digest}}}}' docker://{name}:latest"
        ))
        .ok();
    let image = format!("docker://{name}@{}", digest.trim());
    assert_eq!(place.sampan(&["run", &image, "echo", "x"]).ok(), "x\n");
    let wrong = format!("docker://{name}@sha256:{}", "0".repeat(64));
    let ran = place.sampan(&["pull", &wrong]);
    assert_ne!(ran.code, 0);
}

#[test]
fn what_is_not_there_is_said_plainly() {
    let place = Place::new();
    for (image, word) in [
        (format!("docker://{}/nosuchimage:latest", registry()), "nosuchimage"),
        (format!("docker://{}/busybox:nosuchtag", registry()), "nosuchtag"),
        ("docker://127.0.0.1:1/x:y".to_owned(), "127.0.0.1:1"),
    ] {
        let ran = place.sampan(&["run", &image, "true"]);
        assert!(ran.fails(125).contains(word), "{word}");
    }
    // A directory of that name is not looked at, and not kept quiet about.
    std::fs::create_dir_all(place.path("work/127.0.0.1:1/dir")).unwrap();
    let ran = place.sampan(&["run", "127.0.0.1:1/dir", "true"]);
    assert!(ran.fails(125).contains("./127.0.0.1:1/dir"));
    let image = format!("docker://{}/busybox:latest", registry());
    let ran = place.sampan(&["pull", "--platform", "linux/s390x", &image]);
    assert!(ran.code != 0 && ran.err.contains("s390x"), "{}", ran.err);
}

#[test]
fn numpy_from_one_file() {
    let place = Place::new();
    let image = format!("docker://{}/numpy:latest", registry());
    let _ = place.sampan(&["pull", "--quiet", &image]).ok();
    let script = "import numpy; print(int(numpy.arange(10).sum()))";
    assert_eq!(place.sampan(&["run", &image, "python3", "-c", script]).ok(), "45\n");
    // Owners, set-id bits and capabilities of the image are what dpkg says.
    let out =
        place.sampan(&["exec", "--root", &image, "stat", "-c", "%u:%g %a", "/etc/shadow"]).ok();
    assert!(out.trim_end().ends_with(" 640"), "{out}");
    let out = place.sampan(&["exec", &image, "sh", "-c", "find / -xdev 2>/dev/null | wc -l"]).ok();
    assert!(out.trim().parse::<u32>().unwrap() > 15_000, "{out}");
}
