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
    assert!(module.contains("sampan exec /apps/s.sqsh solve"), "{module}");
    // A module is used in any directory.
    let module = place.sampan(&["site", "module", "--command", "solve", "./s.sqsh"]).ok();
    let path = place.path("work/s.sqsh").display().to_string();
    assert!(module.contains(&format!("sampan exec {path} solve")), "{module}");
    let error = place.sampan(&["site", "module", "--command", "solve", "oci:lay:x"]).fails(1);
    assert!(error.contains("not absolute"), "{error}");
}
