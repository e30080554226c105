//! Who the process is.

use std::os::unix::fs::MetadataExt;

use harness::Place;

#[test]
fn the_caller_is_itself_inside() {
    let place = Place::new();
    let outside = place.shell("id -u; id -g; id -un").ok();
    for image in [place.image_dir(), place.image_file()] {
        let inside = place.sampan(&["exec", &image, "sh", "-c", "id -u; id -g; id -un"]).ok();
        assert_eq!(inside, outside);
    }
}

#[test]
fn root_inside_is_the_caller_outside() {
    let place = Place::new();
    let image = place.image_dir();
    for flag in ["--root", "--fakeroot"] {
        let script = "id -u; touch made; ls -ln made | { read _ _ uid gid _; echo $uid $gid; }";
        let out = place.sampan(&["exec", flag, &image, "sh", "-c", script]).ok();
        assert_eq!(out, "0\n0 0\n");
        let made = std::fs::metadata(place.path("work/made")).unwrap();
        let home = std::fs::metadata(place.path("home")).unwrap();
        assert_eq!(made.uid(), home.uid());
    }
}

#[test]
fn a_user_of_the_image_maps_to_the_caller() {
    let place = Place::new();
    let image = place.image_dir();
    let id =
        |user: &str| place.sampan(&["exec", "--user", user, &image, "sh", "-c", "id -u; id -g"]);
    assert_eq!(id("app").ok(), "999\n998\n");
    assert_eq!(id("7:8").ok(), "7\n8\n");
    assert!(id("nobodyhere").fails(125).contains("nobodyhere"));
}

#[test]
fn it_works_inside_another_user_namespace() {
    let place = Place::new();
    let script = format!("unshare -Ur $sampan exec {} id -u", place.image_file());
    assert_eq!(place.shell(&script).ok(), "0\n");
}

#[test]
fn it_works_inside_itself() {
    let place = Place::new();
    let image = place.image_dir();
    let bin = harness::required("SAMPAN_BIN");
    let bind = format!("{bin}:/sampan");
    let inner = place.path("rootfs");
    let inner = inner.to_str().unwrap();
    let out = place.sampan(&["exec", "-B", &bind, &image, "/sampan", "exec", inner, "id", "-u"]);
    assert_eq!(out.ok(), place.shell("id -u").ok());
}

#[test]
fn real_root_is_root() {
    let place = Place::new();
    let bin = harness::required("SAMPAN_BIN");
    let run = |image: &str, args: &[&str]| {
        let mut command = std::process::Command::new(&bin);
        command.arg("exec").args(args).arg(image).args(["sh", "-c", "id -u; cat /etc/marker"]);
        let output = command.env("SAMPAN_STORE", place.path("store")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    assert_eq!(run(&place.image_dir(), &[]), "0\nfrom the image\n");
    assert_eq!(run(&place.image_file(), &[]), "0\nfrom the image\n");
    assert_eq!(run(&place.image_file(), &["--user", "999"]), "999\nfrom the image\n");
}

#[test]
fn a_setuid_sampan_refuses() {
    let place = Place::new();
    let copy = place.path("setuid-sampan");
    std::fs::copy(harness::required("SAMPAN_BIN"), &copy).unwrap();
    let chmod = std::process::Command::new("chmod").arg("4755").arg(&copy).status().unwrap();
    assert!(chmod.success());
    let output = place.command(&copy).arg("version").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("setuid"));
}

#[test]
fn a_user_of_a_directory_service_has_its_name_and_home() {
    let place = Place::new();
    let image = place.image_dir();
    // getent(1) is where every directory service is asked.
    let home = place.path("home");
    let line = format!("ann:x:54321:54321:Ann:{}:/bin/sh", home.display());
    let script = format!(
        "#!/bin/sh\ncase $1 in passwd) echo '{line}';; group) echo 'physics:x:54321:';; esac\n"
    );
    let getent = place.write("bin/getent", script);
    std::fs::set_permissions(&getent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid=54321", "--regid=54321", "--clear-groups", "--"])
        .arg(harness::required("SAMPAN_BIN"))
        .args(["exec", &image, "sh", "-c", "id -un; id -gn; grep ^ann: /etc/passwd"])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", place.path("bin").display()))
        .current_dir("/");
    let out = harness::run(&mut command).ok();
    assert_eq!(out, format!("ann\nphysics\n{line}\n"));
}
