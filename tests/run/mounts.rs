//! Mounts, and what takes writes.

use harness::Place;

#[test]
fn binds_of_files_and_directories() {
    let place = Place::new();
    let dir = place.path("a dir");
    std::fs::create_dir(&dir).unwrap();
    place.give(&dir);
    place.write("a dir/file", "content");
    let d = dir.to_str().unwrap();
    for image in [place.image_dir(), place.image_file()] {
        let deep = format!("{d}:/new/deep/dir");
        let file = format!("{d}/file:/etc/marker:ro");
        let args = [
            "exec",
            "-B",
            &deep,
            "--bind",
            &file,
            &image,
            "sh",
            "-c",
            "cat /new/deep/dir/file /etc/marker; echo more >/new/deep/dir/out; echo x >/etc/marker || echo refused",
        ];
        let out = place.sampan(&args).ok();
        assert_eq!(out, "contentcontentrefused\n");
        assert_eq!(std::fs::read_to_string(dir.join("out")).unwrap(), "more\n");
    }
}

#[test]
fn parents_are_mounted_before_children() {
    let place = Place::new();
    for name in ["outer", "inner"] {
        std::fs::create_dir(place.path(name)).unwrap();
        place.give(&place.path(name));
        place.write(&format!("{name}/{name}"), "");
    }
    let inner = format!("{}:/data/sub", place.path("inner").display());
    let outer = format!("{}:/data", place.path("outer").display());
    let args =
        ["exec", "-B", &inner, "-B", &outer, &place.image_dir(), "sh", "-c", "ls /data /data/sub"];
    let out = place.sampan(&args).ok();
    assert!(out.contains("outer\n") && out.contains("inner\n"), "{out}");
}

#[test]
fn a_missing_source_is_named() {
    let place = Place::new();
    let ran = place.sampan(&["exec", "-B", "/no/such/path:/x", &place.image_dir(), "true"]);
    assert!(ran.fails(125).contains("/no/such/path"));
}

#[test]
fn an_image_is_read_only_by_default() {
    let place = Place::new();
    for image in [place.image_dir(), place.image_file()] {
        let ran = place.sampan(&["exec", &image, "sh", "-c", "echo x >/etc/new"]);
        assert_ne!(ran.code, 0);
        assert!(ran.err.contains("Read-only"), "{}", ran.err);
    }
}

#[test]
fn writes_go_where_they_are_told() {
    let place = Place::new();
    let (dir, file) = (place.image_dir(), place.image_file());
    for image in [&dir, &file] {
        let script = "echo x >/etc/new && rm /etc/marker && cat /etc/new && ls /etc";
        let out = place.sampan(&["exec", "--writable-tmpfs", image, "sh", "-c", script]).ok();
        assert!(out.starts_with("x\n") && !out.contains("marker"), "{out}");
        let overlay = place.path(if image.ends_with("sqfs") { "over-file" } else { "over-dir" });
        std::fs::create_dir(&overlay).unwrap();
        place.give(&overlay);
        let overlay = overlay.to_str().unwrap();
        let _ = place.sampan(&["exec", "--overlay", overlay, image, "rm", "/etc/marker"]).ok();
        let again = ["exec", "--overlay", overlay, image, "test", "!", "-e", "/etc/marker"];
        assert_eq!(place.sampan(&again).code, 0);
        let read_only = format!("{overlay}:ro");
        let args = ["exec", "--overlay", &read_only, image, "sh", "-c", "ls /etc; echo x >/etc/y"];
        let ran = place.sampan(&args);
        assert!(ran.code != 0 && !ran.out.contains("marker"), "{} {}", ran.out, ran.err);
    }
    assert_eq!(place.sampan(&["exec", "--writable", &dir, "touch", "/etc/kept"]).code, 0);
    assert!(place.path("rootfs/etc/kept").exists());
    let _ = place.sampan(&["exec", "--writable", &file, "true"]).fails(125);
}

#[test]
fn tmpfs_and_mount_options() {
    let place = Place::new();
    let image = place.image_dir();
    let script = "echo x >/scratch/x && cat /scratch/x";
    assert_eq!(
        place.sampan(&["exec", "--tmpfs", "/scratch", &image, "sh", "-c", script]).ok(),
        "x\n"
    );
    let source = place.path("home");
    let mount = format!("type=bind,source={},target=/mnt/h,readonly", source.display());
    let script = "touch /mnt/h/x || echo refused";
    assert_eq!(
        place.sampan(&["exec", "--mount", &mount, &image, "sh", "-c", script]).ok(),
        "refused\n"
    );
}

#[test]
fn a_link_in_the_image_does_not_lead_out() {
    let place = Place::new();
    let image = place.image_dir();
    std::os::unix::fs::symlink("/../../../../../../home", place.path("rootfs/out")).unwrap();
    let source = place.path("work");
    let bind = format!("{}:/out/deep", source.display());
    place.write("work/seen", "");
    let out = place.sampan(&["exec", "--no-home", "-B", &bind, &image, "ls", "/home/deep"]).ok();
    assert_eq!(out, "seen\n");
}

#[test]
fn dry_run_runs_nothing_and_explains() {
    let place = Place::new();
    let image = place.image_dir();
    let marker = place.path("work/ran");
    let touch = marker.to_str().unwrap();
    let text = place.sampan(&["exec", "--dry-run", &image, "touch", touch]).ok();
    assert!(text.contains("touch") && !marker.exists());
    let json = place.sampan(&["exec", "--dry-run=json", &image, "touch", touch]).ok();
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(plan["ops"].as_array().unwrap().iter().all(|op| op["reason"].is_string()), "{json}");
    let explained = place.sampan(&["exec", "--dry-run", "--explain", &image, "true"]).ok();
    assert!(explained.contains("# "), "{explained}");
}
