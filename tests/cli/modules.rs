//! Modules of images, loaded by Lmod, which reads both languages.

use harness::{Place, Ran};

/// Runs a script in a shell that has Lmod and the tree of a place.
fn with_lmod(place: &Place, script: &str) -> Ran {
    let init = "for f in /usr/share/lmod/*/init/bash /usr/share/lmod/lmod/init/bash; do \
                [ ! -r $f ] || { . $f; break; }; done; module use $PWD/mods";
    place.shell(&format!("{init}; {script}"))
}

#[test]
fn a_loaded_module_runs_commands_of_its_image() {
    let place = Place::new();
    let _ = place.image_dir();
    // The module is used in another directory than that in which it was made.
    let image = "../rootfs";
    let there = "--name solver --version 1.2 --modules mods --prefix 'wr ap'";
    let make = format!("$sampan site module {image} --command cat,sh {there}");
    let made = place.shell(&make).ok();
    assert!(made.contains("mods/solver/1.2.lua (2 commands)"), "{made}");
    let script = "module load solver/1.2 && cd / && cat /etc/marker && sh -c 'echo \"$1|$2\"' x 'a b' '*'; \
                  module unload solver; cat /etc/marker 2>/dev/null || echo gone";
    let expected = "from the image\na b|*\ngone\n";
    assert_eq!(with_lmod(&place, script).ok(), expected);
    let _ = place.shell("mv mods/solver/1.2.lua .").ok();
    assert_eq!(with_lmod(&place, script).ok(), expected, "the modulefile in Tcl");
    let _ = place.shell("mv 1.2.lua mods/solver").ok();

    assert!(place.shell(&make).fails(1).contains("--force"));
    let _ = place.shell(&format!("{make} --force")).ok();
    let _ = place.shell("touch 'wr ap/solver/1.2/bin/mine'").ok();
    let removed = place.shell(&format!("$sampan site module --remove {there}"));
    assert!(removed.err.contains("mine: left"), "{removed:?}");
    assert_eq!(place.shell("find mods 'wr ap' -type f").ok(), "wr ap/solver/1.2/bin/mine\n");
    let script = "module load solver/1.2 2>&1 | grep -c solver";
    assert_ne!(with_lmod(&place, script).ok(), "0\n");
}

#[test]
fn a_module_that_makes_no_sense_is_refused() {
    let place = Place::new();
    let image = place.image_dir();
    for (words, code, word) in [
        ("--command cat --name ../x --version 1 --modules m --prefix p", 1, "plain name"),
        ("--command no-such --name x --version 1 --modules m --prefix p", 1, "no command"),
        // busybox lies in the system's directories.
        ("--all --name x --version 1 --modules m --prefix p", 1, "--command"),
        ("--command cat --name x --modules m --prefix p", 2, "--version"),
        ("--all", 2, "--modules"),
    ] {
        let ran = place.shell(&format!("$sampan site module {image} {words}"));
        assert!(ran.code == code && ran.err.contains(word), "{words}: {ran:?}");
    }
    assert_eq!(place.shell("ls").ok(), "", "nothing was written");
    // As before, one modulefile is printed.
    let text = place.shell("$sampan site module --command solve /apps/s.sqsh --format tcl").ok();
    assert!(text.starts_with("#%Module") && text.contains("'/apps/s.sqsh' solve"), "{text}");
}
