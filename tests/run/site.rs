//! What a site forces, forbids, allows and keeps on its nodes.

use harness::{Place, Ran};

/// Runs sampan with a site's configuration.
fn with_site(place: &Place, site: &str, script: &str) -> Ran {
    let file = place.write("site.toml", site);
    place.shell(&format!("export SAMPAN_SITE_CONFIG={}; {script}", file.display()))
}

#[test]
fn a_site_forces_and_forbids() {
    let place = Place::new();
    let image = place.image_dir();
    let banner = place.write("banner", "the site's\n");
    let secret = place.write("secret/key", "hidden");
    let secret = secret.parent().unwrap().display().to_string();
    let site = format!(
        "forced_binds = [\"{}:/opt/banner:ro\"]\nforbidden_binds = [\"{secret}\"]\n",
        banner.display()
    );
    let run = |flags: &str| {
        with_site(&place, &site, &format!("$sampan exec {flags} {image} cat /opt/banner"))
    };
    let own = run("-B /etc/hostname:/opt/banner");
    assert!(own.err.contains("left out") && own.out == "the site's\n", "{own:?}");
    let above = place.path("").display().to_string();
    for bad in [&secret, &format!("{secret}/key"), &above] {
        let error = run(&format!("-B {bad}:/x")).fails(125);
        assert!(error.contains("site.toml:2") && error.contains("forbids"), "{error}");
    }
    // A user cannot take it back.
    let user = place.write("home/.config/sampan/config.toml", "forbidden_binds = []\n");
    let error = run("").fails(125);
    assert!(error.contains(user.to_str().unwrap()) && error.contains("site's"), "{error}");
}

/// Whatever way leads there.
#[test]
fn what_a_site_forbids_is_not_shown() {
    let place = Place::new();
    let image = place.image_file();
    let secret = place.write("secret/key", "hidden").parent().unwrap().display().to_string();
    let rootfs = place.image_dir();
    std::os::unix::fs::symlink(&secret, place.path("work/link")).unwrap();
    let spec = format!(
        "cdiVersion: 0.7.0\nkind: x.io/y\ndevices:\n- name: z\n  containerEdits:\n    \
         mounts:\n    - {{hostPath: {secret}, containerPath: /x}}\n"
    );
    place.write("cdi/x.yaml", spec);
    place.write("work/e.toml", format!("image = '{image}'\ndevices = ['x.io/y=z']\n"));
    place.write("user.toml", format!("binds = ['{secret}:/x']\n"));
    let dir = place.path("").display().to_string();
    let site = format!("cdi_dirs = ['{dir}/cdi']\nforbidden_binds = ['{secret}', '{rootfs}']\n");
    let show = "cat /x/key";
    for script in [
        format!("SAMPAN_BINDS={secret}:/x $sampan exec {image} {show}"),
        format!("SAMPAN_CONFIG={dir}/user.toml $sampan exec {image} {show}"),
        format!("$sampan exec -B link:/x {image} {show}"),
        format!("$sampan exec --device x.io/y=z {image} {show}"),
        format!("$sampan exec --edf ./e.toml {show}"),
        format!("HOME={secret} $sampan exec --home /x {image} {show}"),
        format!("$sampan exec {rootfs} cat /etc/marker"),
    ] {
        let error = with_site(&place, &site, &script).fails(125);
        assert!(error.contains("site.toml:2") && error.contains("forbids"), "{script}: {error}");
    }
    // Only devices are devices.
    let error = with_site(&place, "", &format!("$sampan exec --device {secret}:/x {image} {show}"));
    assert!(error.fails(125).contains("no device"));
    // What nobody has asked for is left out: here also /var/tmp, which holds it all.
    for script in [
        format!("cd {secret}; $sampan exec {image} sh -c 'ls {secret}/key; echo'"),
        format!("HOME={secret} $sampan exec {image} sh -c 'ls ~/key; ls {secret}/key; echo'"),
    ] {
        let ran = with_site(&place, &site, &script);
        assert!(ran.err.contains("left out") && ran.err.contains("site.toml:2"), "{ran:?}");
        assert_eq!(ran.ok(), "\n", "{script}");
    }
    // The site's own are as the site wants them.
    let own = format!("{site}binds = ['{secret}:/x']\n");
    assert_eq!(with_site(&place, &own, &format!("$sampan exec {image} {show}")).ok(), "hidden");
}

#[test]
fn a_site_says_where_images_come_from() {
    let place = Place::new();
    let registry = harness::registry();
    let site = format!("allowed_registries = [\"{registry}/busybox\"]\n");
    let pull = |name: &str| with_site(&place, &site, &format!("$sampan pull -q {registry}/{name}"));
    let _ = pull("busybox:latest").ok();
    let error = pull("base:latest").fails(1);
    assert!(error.contains("allows") && error.contains("site.toml:1"), "{error}");
}

#[test]
fn an_image_is_copied_to_the_node_once_and_makes_room() {
    let place = Place::new();
    let name = format!("{}/busybox:latest", harness::registry());
    let cache = place.path("scratch/node");
    std::fs::create_dir(&cache).unwrap();
    place.give(&cache);
    let site = format!("node_cache = \"{}\"\nnode_cache_size = \"1G\"\n", cache.display());
    let both = format!(
        "$sampan exec {name} echo one; ls {cache}/sampan-*; rm -r $SAMPAN_STORE/images/*.sqfs; \
         $sampan exec {name} echo two",
        cache = cache.display()
    );
    let out = with_site(&place, &site, &both).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 3 && lines[1].ends_with(".sqfs"), "{out}");
    assert_eq!((lines[0], lines[2]), ("one", "two"));

    let small = site.replace("1G", "1k").replace("/node\"", "/other\"");
    let other = place.path("scratch/other");
    std::fs::create_dir(&other).unwrap();
    place.give(&other);
    let _ = place.sampan(&["pull", "--quiet", &name]).ok();
    let ran = with_site(&place, &small, &format!("$sampan exec {name} echo three"));
    assert!(ran.out == "three\n" && ran.err.contains("node_cache_size"), "{ran:?}");
}

/// A file system of a kind that is not known to be this node's alone, with an image file.
struct Far(std::path::PathBuf);

impl Far {
    fn new(place: &Place) -> Self {
        let dir = place.path("far");
        std::fs::create_dir(&dir).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "ramfs", "-o", "mode=0755", "none"])
            .arg(&dir)
            .status();
        assert!(mounted.unwrap().success());
        let far = Self(dir);
        let _ = std::fs::copy(place.image_file(), far.0.join("image.sqfs")).unwrap();
        far
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn image_files_that_nodes_share_are_copied_make_room_and_mend() {
    let place = Place::new();
    let far = Far::new(&place);
    let image = far.0.join("image.sqfs");
    let size = std::fs::metadata(&image).unwrap().len();
    for other in ["b", "c"] {
        let _ = std::fs::copy(&image, far.0.join(other)).unwrap();
    }
    let cache = place.path("scratch/node");
    std::fs::create_dir(&cache).unwrap();
    place.give(&cache);
    // Room for two.
    let limit = 2 * size + 1;
    let site = format!("node_cache = '{}'\nnode_cache_size = '{limit}'\n", cache.display());
    let run = |name: &str| {
        let script = format!("$sampan exec {}/{name} cat /etc/marker", far.0.display());
        let ran = with_site(&place, &site, &script);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), ("from the image\n", ""), "{name}");
    };
    let copies = || {
        let own = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        let all = std::fs::read_dir(own).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> =
            all.filter(|path| path.extension() == Some("sqfs".as_ref())).collect();
        all.sort();
        all
    };
    run("image.sqfs");
    let first = copies();
    assert_eq!(first.len(), 1);
    run("b");
    run("image.sqfs");
    run("c");
    let left = copies();
    assert!(left.len() == 2 && left.contains(&first[0]), "the longest unused goes: {left:?}");
    // One whose head is gone, and one that is cut.
    std::fs::write(&first[0], vec![0; usize::try_from(size).unwrap()]).unwrap();
    let ran =
        with_site(&place, &site, &format!("$sampan exec {} cat /etc/marker", image.display()));
    assert!(ran.out == "from the image\n" && ran.err.contains("not copied"), "{ran:?}");
    run("image.sqfs");
    std::fs::File::options().write(true).open(&first[0]).unwrap().set_len(100).unwrap();
    run("image.sqfs");
    assert_eq!(std::fs::metadata(&first[0]).unwrap().len(), size);
    // Containers of a copy share a server, as others do.
    let script = format!(
        "export SAMPAN_LINGER=100; for n in 1 2; do \
           $sampan exec {} readlink /proc/self/ns/user; done | uniq | wc -l",
        image.display()
    );
    assert_eq!(with_site(&place, &site, &script).ok(), "1\n");
    // An image on a disk of this node stays where it is.
    let script = format!("$sampan exec {} cat /etc/marker", place.image_file());
    let _ = with_site(&place, &site, &script).ok();
    assert_eq!(copies().len(), 2);
}

#[test]
fn environments_are_looked_for_where_the_site_says() {
    let place = Place::new();
    let image = place.image_file();
    let edf = |dir: &str, name: &str, value: &str| {
        let text = format!("image = '{image}'\nenv.FROM = '{value}'\n");
        place.write(&format!("{dir}/{name}.toml"), text);
    };
    edf("site-edf", "a", "site");
    edf("site-edf", "b", "site");
    edf("home/.edf", "b", "home");
    edf("other", "a", "path");
    let dir = place.path("").display().to_string();
    let site = format!("edf_dirs = ['~/.edf', '{dir}site-edf']\n");
    let from = |name: &str| format!("$sampan run --edf {name} sh -c 'echo $FROM'");
    let script = format!("{}; {}; EDF_PATH={dir}other {}", from("a"), from("b"), from("a"));
    assert_eq!(with_site(&place, &site, &script).ok(), "site\nhome\npath\n");
    let error = with_site(&place, &site, &from("none")).fails(125);
    assert!(error.contains("site-edf/none.toml") && error.contains(".edf/none.toml"), "{error}");
}

#[test]
fn a_configuration_is_written_and_checked() {
    let place = Place::new();
    let script = "$sampan site init -o site.toml && $sampan config check site.toml; \
                  $sampan site init -o site.toml; echo $?";
    let ran = place.shell(script);
    assert!(ran.out.contains("site.toml: good") && ran.out.ends_with("1\n"), "{ran:?}");
    assert!(ran.err.contains("--force"), "{ran:?}");
    place.write("work/bad.toml", "linger = \"x\"\n[mpi]\nmode = \"hots\"\ntypo = 1\nbinds = []\n");
    let bad = place.shell("$sampan config check --json bad.toml");
    assert_eq!(bad.code, 1);
    let report: serde_json::Value = serde_json::from_str(&bad.out).unwrap();
    let problems: Vec<&str> =
        report[0]["problems"].as_array().unwrap().iter().filter_map(|p| p.as_str()).collect();
    for (line, word) in [(1, "linger"), (3, "mpi"), (4, "mpi_typo"), (5, "mpi_binds")] {
        let start = format!("bad.toml:{line}:");
        assert!(problems.iter().any(|p| p.starts_with(&start) && p.contains(word)), "{problems:?}");
    }
    let absent = place.write("work/absent.toml", "site_stores = [\"/no/such/store\"]\n");
    let ran = place.sampan(&["config", "check", absent.to_str().unwrap()]);
    assert!(ran.code == 1 && ran.out.contains("/no/such/store"), "{ran:?}");
    let module = place.sampan(&["site", "module", "--command", "solve", "/apps/s.sqsh"]).ok();
    assert!(module.contains("sampan exec -- '/apps/s.sqsh' solve"), "{module}");
    // A module is used in any directory.
    let module = place.sampan(&["site", "module", "--command", "solve", "./s.sqsh"]).ok();
    let path = place.path("work/s.sqsh").display().to_string();
    assert!(module.contains(&format!("sampan exec -- '{path}' solve")), "{module}");
    let template = place.write("template", "{command} is in {image}\n").display().to_string();
    let site = format!("module_template = '{template}'\n");
    let print = "$sampan site module --command solve /a.sqsh";
    assert_eq!(with_site(&place, &site, print).ok(), "solve is in /a.sqsh\n");
    let lua = with_site(&place, &site, &format!("{print} --format lua")).ok();
    assert!(lua.contains("set_shell_function"), "{lua}");
    let error = place.sampan(&["site", "module", "--command", "solve", "oci:lay:x"]).fails(1);
    assert!(error.contains("not absolute"), "{error}");
}
