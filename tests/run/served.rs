//! The file system that serves an image file.

use std::path::Path;
use std::process::Stdio;

use harness::{Place, wait_until};

use crate::sharing::{end_servers, servers_of};

/// A squashfs file of a tree that a closure fills.
fn image(place: &Place, fill: impl FnOnce(&Path), options: &[&str]) -> String {
    let root = place.image_dir();
    fill(Path::new(&root));
    place.give(Path::new(&root));
    let file = place.path("filled.sqfs");
    let mut make = std::process::Command::new("mksquashfs");
    make.arg(&root).arg(&file).args(["-noappend", "-quiet", "-no-progress"]).args(options);
    assert!(make.status().unwrap().success());
    place.give(&file);
    file.to_str().unwrap().to_owned()
}

/// An image whose `/bad` cannot be read.
fn damaged(place: &Place) -> String {
    // Every byte of this file is in blocks of its own, stored as they are.
    let pattern = b"sampan damaged block ".repeat(20_000);
    let file = image(
        place,
        |root| {
            std::fs::write(root.join("bad"), &pattern).unwrap();
            std::fs::write(root.join("good"), "good").unwrap();
            std::fs::create_dir(root.join("many")).unwrap();
            for n in 0..60 {
                std::fs::write(root.join(format!("many/{n}")), n.to_string()).unwrap();
            }
        },
        &["-comp", "zstd", "-no-fragments", "-no-duplicates"],
    );
    // The first compressed block begins right behind the superblock's options.
    let mut bytes = std::fs::read(&file).unwrap();
    let frames: Vec<usize> = (96..bytes.len() - 4)
        .filter(|at| bytes[*at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
        .collect();
    let out = place.sampan(&["exec", &file, "sha256sum", "/bad"]).ok();
    assert!(out.starts_with(&harness::sha256(&pattern)));
    // Damage each block that is not needed to start a shell.
    let whole = bytes.clone();
    let mut hit = false;
    for at in frames {
        bytes.copy_from_slice(&whole);
        bytes[at..at + 12].fill(0xff);
        std::fs::write(&file, &bytes).unwrap();
        let script = "cat /bad >/dev/null 2>&1; echo bad $?; cat /good; cat /etc/marker";
        let ran = place.sampan(&["exec", &file, "sh", "-c", script]);
        if ran.out.starts_with("bad 1\n") {
            assert_eq!(ran.out, "bad 1\ngoodfrom the image\n", "the server did not serve on");
            hit = true;
            break;
        }
    }
    assert!(hit, "no block of the file was hit");
    file
}

#[test]
fn a_damaged_block_is_an_io_error_and_the_rest_is_served_on() {
    let place = Place::new();
    damaged(&place);
    let log = place.shell("cat $SAMPAN_SCRATCH/sampan-*/run/errors.log").ok();
    assert!(log.contains("filled.sqfs") && log.contains("offset"), "{log}");
    assert!(log.contains(" does not inflate: Zstd"), "the cause is missing: {log}");
    assert!(place.sampan(&["doctor"]).out.contains("errors.log"));
}

#[test]
fn additions_are_shown_by_the_server_to_those_who_need_them() {
    let place = Place::new();
    let image = place.image_file();
    let look = "grep -c ' / fuse' /proc/self/mounts; cat /etc/hosts | wc -l; ls -d /added /home/* 2>/dev/null; \
                stat -c %d / /etc | sort -u | wc -l; echo x 2>/dev/null >/etc/hosts || echo refused";
    let at = |target: &str| format!("{}:{target}", place.path("").display());
    let (added, other) = (at("/added"), at("/other/place"));
    let run = |args: &[&str]| {
        let end = [&image[..], "sh", "-c", look];
        let args = [&["exec", "--no-home", "--no-mount", "cwd"], args, &end].concat();
        harness::run(place.sampan_command(&args).env("SAMPAN_LINGER", "300")).ok()
    };
    let of_server = |out: &str| out.starts_with("1\n");
    let first = run(&["-B", &added]);
    assert!(of_server(&first), "{first}");
    assert!(first.contains("/added\n1\nrefused\n"), "{first}");
    // The same again, by the same server; then with other additions, and with none of the
    // generated files: what the first one needed is not seen there.
    assert_eq!(run(&["-B", &added]), first);
    let second = run(&["-B", &other]);
    assert!(!of_server(&second) && !second.contains("/added"), "{second}");
    let without = run(&["--no-mount", "cwd,network-files,accounts,localtime"]);
    assert_ne!(without.lines().nth(1), first.lines().nth(1), "{without}");
    assert!(!without.contains("/added"), "{without}");
    // An interpreter's overlay, which the next one shares.
    let look_again = format!("{look}; : python; stat -c 'device %d' /");
    let interpreter = || {
        let args = ["exec", "--no-home", "--no-mount", "cwd", "-B", &added, &image, "sh", "-c"];
        let args = [&args[..], &[&look_again]].concat();
        harness::run(place.sampan_command(&args).env("SAMPAN_LINGER", "300")).ok()
    };
    let third = interpreter();
    assert!(!of_server(&third) && third.contains("/added\n1\nrefused\n"), "{third}");
    assert_eq!(interpreter(), third, "an overlay of its own");
    assert_eq!(run(&["-B", &added]), first);
    let writer = run(&["-B", &added, "--writable-tmpfs"]);
    assert!(!of_server(&writer) && !writer.contains("refused"), "{writer}");
    assert_eq!(servers_of(&place, &image), 1);
    end_servers(&place);
}

#[test]
fn large_directories_and_many_readers() {
    let place = Place::new();
    let file = image(
        &place,
        |root| {
            std::fs::create_dir(root.join("many")).unwrap();
            for index in 0..20_000 {
                let name = format!("many/entry-{index:05}-{}", "x".repeat(index % 40));
                std::fs::write(root.join(name), index.to_string()).unwrap();
            }
            let big: Vec<u8> = (0..6_000_000_u32).flat_map(u32::to_le_bytes).collect();
            std::fs::write(root.join("big"), big).unwrap();
        },
        &["-comp", "zstd"],
    );
    let exec = |script: &str| place.sampan(&["exec", &file, "sh", "-c", script]).ok();
    assert_eq!(exec("ls /many | wc -l; ls /many | wc -l").trim(), "20000\n20000");
    assert_eq!(exec("find /many -type f | wc -l").trim(), "20000");
    // One inode number, one link count, whoever asks.
    let out = exec("stat -c '%h %s' /big; stat -c %i /big; stat -L -c %i /big");
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!((words[0], words[1], words[2]), ("1", "24000000", words[3]));
    let readers = "for i in 1 2 3 4 5 6 7 8; do sha256sum /big & done; wait";
    let sums = exec(readers);
    assert_eq!(sums.lines().count(), 8);
    assert!(sums.lines().all(|line| Some(line) == sums.lines().next()), "{sums}");
    // busybox itself is executed from a mapping of the file.
    assert_eq!(
        exec("for i in $(seq 20 2>/dev/null || echo 1 2 3); do /bin/true || echo no; done"),
        ""
    );
}

#[test]
fn attributes_names_and_links_are_the_images() {
    let place = Place::new();
    let file = image(
        &place,
        |root| {
            std::fs::write(root.join("one"), "same").unwrap();
            std::fs::hard_link(root.join("one"), root.join("two")).unwrap();
            std::os::unix::fs::symlink("one", root.join("three")).unwrap();
        },
        &["-comp", "gzip"],
    );
    let out = place
        .sampan(&[
            "exec",
            &file,
            "sh",
            "-c",
            "stat -c '%h %i' /one /two; readlink /three; cat /three",
        ])
        .ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("2 ") && lines[0] == lines[1], "{out}");
    assert_eq!(lines[2..], ["one", "same"]);
    let refused = place.sampan(&["exec", &file, "sh", "-c", "echo x >/one"]);
    assert!(refused.code != 0 && refused.err.contains("Read-only"), "{}", refused.err);
}

#[test]
fn what_a_start_read_is_asked_for_before_the_next() {
    let place = Place::new();
    let file = damaged(&place);
    let log = |place: &Place| place.shell("cat $SAMPAN_SCRATCH/sampan-*/run/errors.log").out;
    let shell = |script: &str| drop(place.shell(script).ok());
    let command = "cat /many/*; until [ -e go ]; do sleep 0.1; done";
    // Who joins the last start's server follows no profile, and that server may still
    // write one.
    let served = || wait_until("the server goes", || servers_of(&place, &file) == 0);
    let start = |place: &Place| {
        shell("touch go");
        let out = place.sampan(&["exec", &file, "sh", "-c", command]).ok();
        served();
        out
    };
    served();
    shell("rm -f $SAMPAN_SCRATCH/sampan-*/run/errors.log; rm -rf $SAMPAN_STORE/profiles");
    let expected: String = (0..60).map(|n| n.to_string()).collect();
    let sorted = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.sort_unstable();
        bytes
    };
    assert_eq!(sorted(&start(&place)), sorted(&expected));
    let kept = |place: &Place| place.shell("cat $SAMPAN_STORE/profiles/*").out;
    let profile = kept(&place);
    assert!(profile.starts_with("sampan-profile 1\n"), "{profile}");
    assert!(profile.contains("\nd many\n") && profile.contains(" many/59\n"), "{profile}");
    assert!(!profile.contains(" bad"), "{profile}");
    assert_eq!(log(&place), "");
    // Only who follows the profile reads this file now.
    shell("echo 'f 0+131072 bad' >>$(ls $SAMPAN_STORE/profiles/*)");
    shell("rm go");
    let mut waits = place.sampan_command(&["exec", &file, "sh", "-c", command]);
    let mut waits = waits.stdout(Stdio::null()).spawn().unwrap();
    wait_until("the profile is followed", || log(&place).contains("filled.sqfs"));
    shell("touch go");
    assert!(waits.wait().unwrap().success());
    served();
    // One that is no profile, or leads out of the image, is not followed.
    for line in ["f 0+1 ../bad", "f 1+18446744073709551615 bad", "\u{1}"] {
        let text = format!("sampan-profile 1\n{line}\n");
        shell("rm -f $SAMPAN_SCRATCH/sampan-*/run/errors.log");
        shell(&format!("printf '{text}' >$(ls $SAMPAN_STORE/profiles/*)"));
        assert_eq!(sorted(&start(&place)), sorted(&expected));
        assert!(kept(&place).contains(" many/59\n"), "no other is kept");
        assert_eq!(log(&place), "");
    }
}
