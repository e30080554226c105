//! A machine that lacks what sampan prefers.

use harness::Place;

/// A script as the user, in a mount namespace that root has changed first.
fn on_a_machine(place: &Place, change: &str, script: &str) -> harness::Ran {
    let user = harness::required("SAMPAN_TEST_USER");
    let drop = format!("setpriv --reuid={user} --regid={user} --init-groups");
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "bash", "-euc"])
        .arg(format!("{change}\nexec {drop} bash -c \"$0\""))
        .arg(script)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", place.path("home"))
        .env("SAMPAN_STORE", place.path("store"))
        .env("SAMPAN_SCRATCH", place.path("scratch"))
        .env("sampan", harness::required("SAMPAN_BIN"))
        .current_dir(place.path("work"));
    harness::run(&mut command)
}

#[test]
fn without_dev_fuse_the_image_is_unpacked_with_a_warning() {
    let place = Place::new();
    let image = place.image_file();
    for change in ["mount --bind /dev/null /dev/fuse", "mount -t tmpfs none /dev"] {
        let change = format!("{change}; [ -e /dev/null ] || mknod -m 666 /dev/null c 1 3");
        let script = format!("$sampan exec {image} cat /etc/marker");
        let ran = on_a_machine(&place, &change, &script);
        assert!(ran.err.contains("/dev/fuse") && ran.err.contains("unpacked"), "{}", ran.err);
        assert_eq!(ran.ok(), "from the image\n");
    }
}

#[test]
fn without_dev_fuse_builds_are_made_with_a_warning() {
    let place = Place::new();
    let image = place.image_file();
    place.write("work/Dockerfile", format!("FROM {image}\nRUN echo built >/new\nRUN cat /new\n"));
    let ran = on_a_machine(&place, "mount --bind /dev/null /dev/fuse", "$sampan build -t made .");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("/dev/fuse") && ran.err.contains("unpacked"), "{}", ran.err);
    assert_eq!(place.sampan(&["exec", "made", "cat", "/new"]).ok(), "built\n");
}

#[test]
fn without_user_namespaces_the_message_says_what_to_ask_for() {
    let place = Place::new();
    let image = place.image_file();
    // No more of them for this machine: what a site's sysctl does.
    let script = format!(
        "unshare -Ur sh -c 'echo 0 >/proc/sys/user/max_user_namespaces; exec $sampan exec {image} true'"
    );
    let ran = place.shell(&script);
    let message = ran.fails(125);
    assert!(
        message.contains("user namespace") || message.contains("max_user_namespaces"),
        "{message}"
    );
    assert!(message.contains("hint:"), "{message}");
}
