//! Devices: CDI specs, paths, GPUs that are not there.

use harness::{Place, Ran, run};

const SPEC: &str = "cdiVersion: 0.7.0
kind: test.io/dev
devices:
- name: '0'
  containerEdits:
    env: [FROM_SPEC=yes]
    deviceNodes:
    - path: /dev/sub/zero
      hostPath: /dev/zero
      type: c
      major: 1
      minor: 5
    hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args: [nvidia-cdi-hook, create-symlinks, --link, libx.so.1.2::/usr/lib/libx.so]
- name: shared
  containerEdits:
    env: [SHARED=yes]
    additionalGids: [54321]
containerEdits:
  mounts:
  - hostPath: LIBRARY
    containerPath: /usr/lib/libx.so.1.2
    options: [ro, nosuid, nodev, bind]
";

/// A place with a directory of specs.
fn place(spec: &str) -> Place {
    let place = Place::new();
    let library = place.write("libx", "the host's");
    place.write("cdi/test.yaml", spec.replace("LIBRARY", library.to_str().unwrap()));
    place
}

fn sampan(place: &Place, args: &[&str]) -> Ran {
    run(place.sampan_command(args).env("SAMPAN_CDI_DIRS", place.path("cdi")))
}

#[test]
fn a_device_brings_all_that_its_spec_asks_for() {
    let place = place(SPEC);
    let script = "cat /usr/lib/libx.so; echo; echo $FROM_SPEC; head -c 3 /dev/sub/zero | wc -c; \
                  echo x >/usr/lib/libx.so || echo refused";
    for image in [place.image_dir(), place.image_file()] {
        let args = ["exec", "-c", "--device", "test.io/dev=0", &image, "sh", "-c", script];
        assert_eq!(sampan(&place, &args).ok(), "the host's\nyes\n3\nrefused\n");
    }
    let args = ["exec", "--device=test.io/dev=0", &place.image_dir(), "true"];
    let text = sampan(&place, &args).fails(125);
    assert!(text.contains("/dev/sub/zero") && text.contains("--contain"), "{text}");
}

/// Links beside nodes, in a /dev of the container's own, and directories with modes.
#[test]
fn what_the_toolkits_hooks_do_is_done() {
    let spec = "cdiVersion: 0.7.0
kind: test.io/dev
devices:
- name: '0'
  containerEdits:
    deviceNodes:
    - path: /dev/sub/zero
      hostPath: /dev/zero
    mounts:
    - hostPath: LIBRARY
      containerPath: /opt/deep/libx
    hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args: [nvidia-cdi-hook, create-symlinks, --link, '../zero::/dev/sub/by-path/zero']
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args: [nvidia-cdi-hook, chmod, --mode, '711', --path, /opt/deep]
";
    let place = place(spec);
    let script = "readlink /dev/sub/by-path/zero; head -c 2 /dev/sub/by-path/zero | wc -c; \
                  ls -ld /opt/deep | cut -c1-10";
    for image in [place.image_dir(), place.image_file()] {
        let args = ["exec", "-c", "--device", "test.io/dev=0", &image, "sh", "-c", script];
        assert_eq!(sampan(&place, &args).ok(), "../zero\n2\ndrwx--x--x\n");
    }
}

#[test]
fn groups_of_others_are_refused_aloud_and_all_is_every_device() {
    let place = place(SPEC);
    let image = place.image_dir();
    let args = [
        "exec",
        "-c",
        "--device",
        "test.io/dev=all",
        &image,
        "sh",
        "-c",
        "echo $SHARED $FROM_SPEC",
    ];
    let ran = sampan(&place, &args);
    assert!(ran.err.contains("group 54321"), "{}", ran.err);
    assert_eq!(ran.ok(), "yes yes\n");
}

#[test]
fn what_is_there_is_listed_and_what_is_not_is_named() {
    let place = place(SPEC);
    let list = sampan(&place, &["cdi", "list"]).ok();
    assert!(list.contains("test.io/dev=0 ") && list.contains("test.yaml"), "{list}");
    let json: serde_json::Value =
        serde_json::from_str(&sampan(&place, &["cdi", "list", "--json"]).ok()).unwrap();
    assert_eq!(json[1]["name"], "test.io/dev=shared");
    let args = ["exec", "--device", "test.io/dev=7", &place.image_dir(), "true"];
    let text = sampan(&place, &args).fails(125);
    assert!(text.contains("test.io/dev=7") && text.contains("test.io/dev=shared"), "{text}");
    // A driver that was removed leaves its spec behind.
    std::fs::remove_file(place.path("libx")).unwrap();
    let args = ["exec", "-c", "--device", "test.io/dev=0", &place.image_dir(), "true"];
    let text = sampan(&place, &args).fails(125);
    assert!(text.contains("test.yaml: containerEdits.mounts[0].hostPath"), "{text}");
}

#[test]
fn validate_names_every_field() {
    let place = place(SPEC);
    assert!(sampan(&place, &["cdi", "validate"]).ok().contains("good, 2 devices"));
    let mut none = place.sampan_command(&["cdi", "validate"]);
    let said = run(none.env("SAMPAN_CDI_DIRS", place.path("work"))).ok();
    assert!(said.contains("no CDI spec in") && said.contains("/work"), "{said}");
    let bad = SPEC.replace("0.7.0", "0.3.0").replace("FROM_SPEC=yes", "FROM_SPEC");
    place.write("bad.yaml", bad);
    let ran = sampan(&place, &["cdi", "validate", place.path("bad.yaml").to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    for field in [
        "devices[0].name",
        "env[0]",
        "deviceNodes[0].hostPath",
        "devices[1].containerEdits.additionalGids",
    ] {
        assert!(ran.out.contains(field), "{field}: {}", ran.out);
    }
}

#[test]
fn devices_by_path_and_gpus_that_are_not_there() {
    let place = place(SPEC);
    let image = place.image_dir();
    let script = "test -c /dev/fuse && echo fuse";
    let args = ["exec", "-c", "--device", "/dev/fuse", &image, "sh", "-c", script];
    assert_eq!(sampan(&place, &args).ok(), "fuse\n");
    let text = sampan(&place, &["exec", "--device", "/etc/passwd", &image, "true"]).fails(125);
    assert!(text.contains("no device"), "{text}");
    if !std::path::Path::new("/dev/kfd").exists() {
        let ran = sampan(&place, &["exec", "--rocm", &image, "echo", "runs"]);
        assert!(ran.err.contains("no GPU of AMD"), "{}", ran.err);
        assert_eq!(ran.ok(), "runs\n");
    }
}

/// A library that only a mount brings is found by the container's own linker.
#[test]
fn a_mounted_library_is_known_to_the_dynamic_linker() {
    let place = place(SPEC);
    let (source, library) =
        (place.write("x.c", "int sampan_x(void) { return 42; }"), place.path("libx"));
    let mut cc = std::process::Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wl,-soname,libdevice.so.1", "-o"]).arg(&library).arg(source);
    assert!(cc.status().expect("a C compiler").success());
    let spec = format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "test.io/lib", "devices": [{{"name": "0", "containerEdits": {{
            "mounts": [{{"hostPath": {library:?}, "containerPath": "/opt/device/libdevice.so.1.2", "options": ["ro"]}}],
            "hooks": [{{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook",
                       "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", "/opt/device"]}}]}}}}]}}"#
    );
    place.write("cdi/library.json", spec);
    let image = format!("{}/base:latest", harness::registry());
    let script = "ldconfig -p | grep libdevice; readlink /opt/device/libdevice.so.1; \
                  LD_PRELOAD=libdevice.so.1 LD_TRACE_LOADED_OBJECTS=1 cat | grep libdevice";
    let ran = sampan(&place, &["exec", "--device", "test.io/lib=0", &image, "sh", "-c", script]);
    let out = ran.ok();
    let lines: Vec<&str> = out.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[0].ends_with("=> /opt/device/libdevice.so.1.2"), "{out}");
    assert_eq!(lines[1], "libdevice.so.1.2");
    assert!(lines[2].contains("/opt/device/libdevice.so.1"), "{out}");

    // An image without glibc says why it cannot have it.
    let image = place.image_file();
    let ran = sampan(&place, &["exec", "--device", "test.io/lib=0", &image, "true"]);
    assert!(ran.code == 0 && ran.err.contains("no C library"), "{}", ran.err);
}
