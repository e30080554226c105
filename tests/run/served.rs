//! The file system that serves an image file.

use std::path::Path;

use harness::Place;

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

#[test]
fn a_damaged_block_is_an_io_error_and_the_rest_is_served_on() {
    let place = Place::new();
    // Every byte of this file is in blocks of its own, stored as they are.
    let pattern = b"sampan damaged block ".repeat(20_000);
    let file = image(
        &place,
        |root| {
            std::fs::write(root.join("bad"), &pattern).unwrap();
            std::fs::write(root.join("good"), "good").unwrap();
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
    let log = place.shell("cat $SAMPAN_SCRATCH/sampan-*/run/errors.log").ok();
    assert!(log.contains("filled.sqfs") && log.contains("offset"), "{log}");
    assert!(place.sampan(&["doctor"]).out.contains("errors.log"));
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
