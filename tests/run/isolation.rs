//! What is private, and what is not.

use harness::Place;

#[test]
fn the_default_shares_the_host() {
    let place = Place::new();
    let image = place.image_dir();
    place.write("home/mine", "my file");
    place.write("work/here", "x");
    let script = "cat ~/mine; ls; [ -e /dev/null ] && [ -d /proc/1 ] && echo; pwd";
    let out = place.sampan(&["exec", &image, "sh", "-c", script]).ok();
    assert_eq!(out, format!("my filehere\n\n{}\n", place.path("work").display()));
    for name in ["pid", "net", "ipc", "uts"] {
        let link = format!("/proc/self/ns/{name}");
        let inside = place.sampan(&["exec", &image, "readlink", &link]).ok();
        assert_eq!(inside, place.shell(&format!("readlink {link}")).ok(), "{name}");
    }
}

#[test]
fn single_namespaces_can_be_private() {
    let place = Place::new();
    let image = place.image_dir();
    for (flags, name) in [
        (&["--pid"][..], "pid"),
        (&["--ipc"], "ipc"),
        (&["--uts"], "uts"),
        (&["--net", "none"], "net"),
    ] {
        let link = format!("/proc/self/ns/{name}");
        let args: Vec<&str> = ["exec"]
            .iter()
            .chain(flags)
            .chain(&[image.as_str(), "readlink", &link])
            .copied()
            .collect();
        assert_ne!(
            place.sampan(&args).ok(),
            place.shell(&format!("readlink {link}")).ok(),
            "{name}"
        );
    }
}

#[test]
fn isolate_hides_the_host() {
    let place = Place::new();
    place.write("home/secret", "x");
    for image in [place.image_dir(), place.image_file()] {
        let script = "ps | wc -l; hostname; ls ~; ip link | grep -c '^[0-9]*:'; ls /tmp; \
                      cat /proc/keys; echo x >/proc/sys/kernel/domainname; echo rc=$?";
        let ran = place.sampan(&["exec", "--isolate", &image, "sh", "-c", script]);
        let lines: Vec<&str> = ran.out.lines().collect();
        assert!(lines[0].trim().parse::<u32>().unwrap() <= 6, "{}", ran.out);
        assert_eq!(lines[1], "sampan");
        assert_eq!(*lines.last().unwrap(), "rc=1", "{}", ran.out);
        assert!(!ran.out.contains("secret"));
    }
}

#[test]
fn contain_gives_empty_directories_and_few_devices() {
    let place = Place::new();
    place.write("home/secret", "x");
    let image = place.image_dir();
    let script = "ls ~; ls /tmp; ls /dev; echo x >/tmp/x && echo x >~/x && echo wrote";
    let out = place.sampan(&["exec", "--contain", &image, "sh", "-c", script]).ok();
    assert!(!out.contains("secret") && out.contains("wrote"), "{out}");
    assert!(out.contains("null") && !out.contains("fuse"), "{out}");
    assert!(!place.path("home/x").exists());
}

#[test]
fn the_host_name_is_set_in_a_namespace_of_its_own() {
    let place = Place::new();
    let before = place.shell("hostname").ok();
    let out = place.sampan(&["exec", "--hostname", "boat", &place.image_dir(), "hostname"]).ok();
    assert_eq!(out, "boat\n");
    assert_eq!(place.shell("hostname").ok(), before);
}

#[test]
fn flags_of_apptainer_mean_what_they_do_there() {
    let place = Place::new();
    let image = place.image_dir();
    let names = "$sampan exec --dns 192.0.2.1,192.0.2.2";
    let script = format!("{names} {image} cat /etc/resolv.conf");
    assert_eq!(place.shell(&script).ok(), "nameserver 192.0.2.1\nnameserver 192.0.2.2\n");
    assert!(
        place.shell(&format!("$sampan exec --dns x {image} true")).fails(125).contains("--dns")
    );
    // A process of its own, nothing of the caller's, and changes that are lost.
    let script =
        format!("echo x >x; $sampan exec --compat {image} sh -c 'echo $$; ls; echo >/new'");
    let out = place.shell(&script).ok();
    assert!(out.trim().parse::<u32>().is_ok_and(|pid| pid < 10), "{out}");
    let script =
        format!("$sampan exec -S /scratch {image} sh -c 'echo 1 >/scratch/x && cat /scratch/x'");
    assert_eq!(place.shell(&script).ok(), "1\n");
    let same = "--userns --no-eval --no-privs --disable-cache";
    assert_eq!(place.shell(&format!("$sampan exec {same} {image} echo 1")).ok(), "1\n");
}
