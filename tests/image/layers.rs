//! What layers mean.

use harness::{Layout, Place, layer};

fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, text: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_uid(1234);
    header.set_gid(5678);
    header.set_mtime(1_700_000_000);
    builder.append_data(&mut header, path, text.as_bytes()).unwrap();
}

fn special(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, link: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o755);
    if link.is_empty() {
        builder.append_data(&mut header, path, std::io::empty()).unwrap();
    } else {
        builder.append_link(&mut header, path, link).unwrap();
    }
}

#[test]
fn whiteouts_and_opaque_directories_hide_what_is_below() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    layout.busybox();
    layout.layer(&layer(|b| {
        for path in ["d/gone", "d/stays", "o/old", "link-target"] {
            file(b, path, path);
        }
        special(b, "hard", tar::EntryType::Link, "link-target");
    }));
    layout.layer(&layer(|b| {
        file(b, "d/.wh.gone", "");
        file(b, ".wh.link-target", "");
        file(b, "o/new", "new");
        file(b, "o/.wh..wh..opq", "");
    }));
    let image = layout.finish("v1");
    place.give(&place.path("layout"));
    let script = "ls /d /o; cat /hard; test -e /link-target || echo; stat -c '%u %g %Y' /d/stays";
    let out = place.sampan(&["exec", "--root", &image, "sh", "-c", script]).ok();
    assert!(out.starts_with("/d:\nstays\n\n/o:\nnew\nlink-target\n"), "{out}");
    assert!(out.trim_end().ends_with("1700000000"), "{out}");
}

#[test]
fn the_images_configuration_is_honoured() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    layout.busybox();
    layout.config = serde_json::json!({
        "Env": ["GREETING=ahoy $HOME", "PATH=/bin"], "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo $GREETING; pwd; id -u"], "WorkingDir": "/opt/app", "User": "app",
        "StopSignal": "SIGUSR1",
    });
    let image = layout.finish("v1");
    place.give(&place.path("layout"));
    assert_eq!(place.sampan(&["run", &image]).ok(), "ahoy $HOME\n/opt/app\n999\n");
    assert_eq!(place.sampan(&["run", &image, "echo given"]).ok(), "given\n");
    assert_eq!(place.sampan(&["run", "--entrypoint", "/bin/echo", &image, "a"]).ok(), "a\n");
    assert_eq!(place.sampan(&["exec", &image, "echo", "b"]).ok(), "b\n");
    let shown = place.sampan(&["inspect", "--json", &image]).ok();
    assert!(shown.contains("SIGUSR1"), "{shown}");
}

#[test]
fn odd_names_links_and_devices_survive() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    layout.busybox();
    layout.layer(&layer(|b| {
        file(b, &long, "long");
        special(b, "fifo", tar::EntryType::Fifo, "");
        special(b, "sym", tar::EntryType::Symlink, "/etc/marker");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Char);
        header.set_size(0);
        header.set_mode(0o666);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        b.append_data(&mut header, "node", std::io::empty()).unwrap();
    }));
    let image = layout.finish("v1");
    place.give(&place.path("layout"));
    let script = format!("cat '/{long}'; test -p /fifo && cat /sym; stat -c '%F %t %T' /node");
    let out = place.sampan(&["exec", &image, "sh", "-c", &script]).ok();
    assert_eq!(out, "longfrom the image\ncharacter special file 1 3\n");
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let sum = |threads: &str| {
        let place = Place::new();
        let mut layout = Layout::new(place.path("layout"));
        layout.layer(&layer(|b| {
            for n in 0..200 {
                file(b, &format!("dir/{n}"), &format!("{n}").repeat(n * 37));
            }
        }));
        let image = layout.finish("v1");
        place.give(&place.path("layout"));
        let pull = format!("taskset -c {threads} $sampan pull --quiet {image} >/dev/null");
        let _ = place.shell(&pull).ok();
        place.shell("sha256sum <$(find $SAMPAN_STORE -name '*.sqfs')").ok()
    };
    assert_eq!(sum("0"), sum("0-1"));
}

#[test]
fn archives_of_both_kinds_run() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    layout.busybox();
    let image = layout.finish("v1");
    place.give(&place.path("layout"));
    for (kind, name) in [("oci-archive", "a.tar"), ("docker-archive", "b.tar")] {
        let copy = format!(
            "skopeo --insecure-policy copy -q {image} {kind}:{}:lab/x:v1",
            place.path("work").join(name).display()
        );
        let _ = place.shell(&copy).ok();
        let reference = format!("{kind}:{}", place.path("work").join(name).display());
        let out = place.sampan(&["exec", &reference, "cat", "/etc/marker"]).ok();
        assert_eq!(out, "from the image\n", "{kind}");
    }
}

#[test]
fn sparse_files_of_every_format_of_tar() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    layout.busybox();
    let tree = place.path("tree");
    std::fs::create_dir(&tree).unwrap();
    let formats = ["gnu", "0.0", "0.1", "1.0"];
    for format in formats {
        let script = format!(
            "cd {}; f=sparse-{format}; truncate -s 3M $f; printf start | dd of=$f conv=notrunc \
             status=none; printf middle | dd of=$f bs=1 seek=1500000 conv=notrunc status=none; \
             case {format} in gnu) tar --format=gnu -S -cf layer.tar $f;; \
             *) tar --format=pax --sparse-version={format} -S -cf layer.tar $f;; esac",
            tree.display()
        );
        let status = std::process::Command::new("bash").args(["-c", &script]).status().unwrap();
        assert!(status.success());
        let tar = std::fs::read(tree.join("layer.tar")).unwrap();
        assert!(tar.len() < 1 << 20, "tar made no sparse archive");
        layout.layer(&tar);
    }
    let image = layout.finish("v1");
    place.give(&place.path("layout"));
    let mut whole = vec![0; 3 << 20];
    whole[..5].copy_from_slice(b"start");
    whole[1_500_000..1_500_006].copy_from_slice(b"middle");
    for format in formats {
        let path = format!("/sparse-{format}");
        let out = place.sampan(&["exec", &image, "sha256sum", &path]).ok();
        assert!(out.starts_with(&harness::sha256(&whole)), "{format}: {out}");
    }
}
