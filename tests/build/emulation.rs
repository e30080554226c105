//! What programs see of root, and what stays of it.

use harness::Place;

use crate::{build, unpacked};

/// Runs a script as root in the busybox image, in both modes.
fn script(place: &Place, mode: &str, script: &str) -> harness::Ran {
    let image = place.image_file();
    let flags = ["exec", "--root", "--root-emulation", mode, "--writable-tmpfs", "--contain"];
    place.sampan(&[&flags[..], &[&image, "sh", "-c", script]].concat())
}

#[test]
fn what_is_recorded_is_shown() {
    let place = Place::new();
    let owners = "cd /tmp; touch f; busybox chown 5:7 f; stat -c '%u:%g' f; busybox chown :9 f; \
                  stat -c '%u:%g' f; busybox chmod 6755 f; busybox chown 1 f; stat -c '%a %u' f; \
                  busybox ln f hard; busybox mv f moved; stat -c '%u:%g' hard moved; \
                  mkdir d; busybox chown -R 42 d; cd d; stat -c %u . ../d /tmp/d; \
                  busybox chown 0:0 .; stat -c %u .; busybox cp -a ../moved copy; stat -c '%u:%g %a' copy";
    let expected = "5:7\n5:9\n755 1\n1:9\n1:9\n42\n42\n42\n0\n1:9 755\n";
    assert_eq!(script(&place, "consistent", owners).ok(), expected);
    let devices = "cd /tmp; busybox mknod c c 1 3; busybox mknod b b 8 1; busybox mknod p p; \
                   stat -c '%F %t,%T' c b p; busybox chown 3 c; stat -c '%F %u' c; rm c b p; ls";
    let expected = "character special file 1,3\nblock special file 8,1\nfifo 0,0\n\
                    character special file 3\n";
    assert_eq!(script(&place, "consistent", devices).ok(), expected);
    let identity = "busybox su app -c 'id -u; id -g; cd /tmp; echo x >mine; mkdir dir; \
                    stat -c %u:%g mine dir; busybox su root -c true 2>&1 | wc -l'";
    let expected = "999\n998\n999:998\n999:998\n1\n";
    assert_eq!(script(&place, "consistent", identity).ok(), expected);
    // Another root directory.
    let chroot = "mkdir -p /tmp/r/bin; busybox cp /bin/busybox /tmp/r/bin/; \
                  busybox chroot /tmp/r /bin/busybox sh -c 'busybox touch /f; busybox chown 3:4 /f; \
                  busybox stat -c %u:%g /f'; stat -c %u:%g /tmp/r/f";
    assert_eq!(script(&place, "consistent", chroot).ok(), "3:4\n3:4\n");
    // Absolute links there lead on there.
    let links = "mkdir -p /tmp/r/bin /tmp/r/in /in; busybox cp /bin/busybox /tmp/r/bin/; \
                 touch /in/f /tmp/r/in/f; ln -s /in /tmp/r/link; cd /tmp; \
                 busybox chroot r /bin/busybox sh -c 'busybox chown 3:4 /link/f; \
                 busybox chown :5 link/f; busybox stat -c %u:%g /link/f; cd /in; \
                 busybox chown 6 ../link/f; busybox mknod /link/null c 1 3; \
                 busybox chown 1 /link/none 2>/said'; \
                 stat -c '%n %u:%g %F' /in/f r/in/* r/said; ls /in";
    let expected = "3:5\n/in/f 0:0 regular empty file\nr/in/f 6:5 regular empty file\n\
                    r/in/null 0:0 character special file\nr/said 0:0 regular file\nf\n";
    assert_eq!(script(&place, "consistent", links).ok(), expected);
    // Another mount namespace, with the same root directory.
    let mounts = "cd /tmp; mkdir a b; touch a/f b/f; busybox unshare -m sh -c \
                  'busybox mount --bind a b; busybox chown 3:4 /tmp/b/f; stat -c %u:%g /tmp/b/f'; \
                  stat -c %u:%g a/f b/f";
    assert_eq!(script(&place, "consistent", mounts).ok(), "3:4\n3:4\n0:0\n");
    // Errors are the kernel's own.
    let errors = "busybox chown 1 /nosuch 2>&1; busybox mknod /tmp c 1 3 2>&1; \
                  busybox chown 1 /proc/self/status 2>&1 | wc -l";
    let said = script(&place, "consistent", errors).ok();
    assert!(said.contains("No such file") && said.contains("File exists"), "{said}");
}

#[test]
fn the_fast_mode_says_yes_and_does_nothing() {
    let place = Place::new();
    let all = "cd /tmp; touch f; busybox chown 5:7 f && stat -c '%u:%g' f; \
               busybox mknod c c 1 3 && test ! -e c && busybox mknod p p && stat -c %F p; id -u";
    assert_eq!(script(&place, "fast", all).ok(), "0:0\nfifo\n0\n");
    let ran = script(&place, "none", "touch /tmp/f; busybox chown 5:7 /tmp/f");
    assert!(ran.code != 0 && ran.err.contains("Invalid argument"), "{}", ran.err);
}

#[test]
fn a_build_keeps_all_of_it() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\n\
        RUN busybox chown 5:7 /etc/marker && busybox mknod /dev-null c 1 3 && busybox mknod /pipe p \
         && mkdir -m 1777 /sticky && busybox chown 9:9 /sticky && busybox chmod 0 /etc/group\n\
        RUN stat -c '%u:%g %a' /etc/marker /sticky && test -c /dev-null && rm /bin/wc\n\
        USER app\nRUN mkdir /tmp/own && echo x >/tmp/own/file\n";
    let _ = build(&place, text, &[]).ok();
    let all = unpacked(&place, "made");
    for line in [
        "./etc/marker regular file 644 5:7 0,0",
        "./dev-null character special file 644 0:0 1,3",
        "./pipe fifo 644 0:0 0,0",
        "./sticky directory 1777 9:9 0,0",
        "./etc/group regular file 0 0:0 0,0",
        "./tmp/own directory 755 999:998 0,0",
        "./tmp/own/file regular file 644 999:998 0,0",
    ] {
        assert!(all.lines().any(|found| found == line), "{line}\n{all}");
    }
    assert!(!all.contains("./bin/wc") && all.contains("./bin/ls"), "{all}");
    assert!(!all.contains("override_stat"));
}

/// Links, FIFOs and devices take no attribute of their own; directories of an
/// earlier step must be copied up whole.
#[test]
fn owners_of_special_files_outlive_their_step() {
    let place = Place::new();
    let list = "busybox stat -c '%n %u:%g %F' /d/* /etc/marker-link";
    let text = format!(
        "FROM {0}/busybox:latest\nRUN ln -s marker /etc/marker-link\n\
         RUN mkdir /d && cd /d && ln -s a one && ln -s a two && busybox mkfifo fifo && \
         busybox mknod null c 1 3 && busybox chown -h 5:6 one && busybox chown 7:8 fifo && \
         busybox chgrp 9 null && mv one three && busybox chown -h 1:2 /etc/marker-link && {list}\n\
         RUN {list} && touch /d/new && busybox chown 3 /d/null && busybox chown -h 10 /d/three \
         && {list}\n\
         RUN {list}\n",
        harness::registry()
    );
    place.write("work/Dockerfile", text);
    let ran = place.sampan(&["build", "--progress", "json", "-t", "special", "."]);
    let outputs: Vec<String> = ran
        .err
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|value| value["output"].as_str().map(str::to_owned))
        .collect();
    let _ = ran.ok();
    let before = "/d/fifo 7:8 fifo\n/d/null 0:9 character special file\n\
                  /d/three 5:6 symbolic link\n/d/two 0:0 symbolic link\n\
                  /etc/marker-link 1:2 symbolic link\n";
    let after = before
        .replace("/d/null 0:9", "/d/new 0:0 regular empty file\n/d/null 3:9")
        .replace("three 5:6", "three 10:6");
    let all = outputs.concat();
    assert_eq!(all, [before, before, &after, &after].concat());
    let files = unpacked(&place, "special");
    for line in ["d/three symbolic link 777 10:6", "d/null character special file 644 3:9"] {
        assert!(files.contains(line), "{line}: {files}");
    }
}

/// Compiles a program of this directory into the context; the words before it
/// are the compiler's.
pub(crate) fn compiled(place: &Place, compiler: &str, source: &str, name: &str) {
    if !place.path("work/ctx").exists() {
        crate::context(place);
    }
    let mut words = compiler.split(' ');
    let mut command = std::process::Command::new(words.next().unwrap());
    command.args(words).args(["-static", "-O1", "-o"]).arg(place.path("work/ctx").join(name));
    let source = format!("{}/build/{source}", env!("CARGO_MANIFEST_DIR"));
    let _ = harness::run(command.arg(source)).ok();
}

/// Files of every kind that a process makes, as `making.c` shows them.
fn made(owner: &str, directory: &str) -> String {
    let kinds = [
        ("symlink", "120777"),
        ("symlinkat", "120777"),
        ("fifo", "10640"),
        ("sock", "140750"),
        ("file", "100640"),
        ("bound", "140750"),
        ("how", "100640"),
        ("nameless", "100640"),
        ("directory", directory),
    ];
    kinds.map(|(name, mode)| format!("{name} {owner} {mode}\n")).concat()
}

/// Who somebody is does not depend on who his parent was, and decides on what he may
/// give away; programs may give him other ids.
#[test]
fn somebody_else_stays_so() {
    let place = Place::new();
    compiled(&place, "gcc", "somebody.c", "somebody");
    let text = "ARG BASE\nFROM $BASE\nCOPY somebody /\n\
                RUN busybox cp /somebody /set && busybox chown 11:12 /set && \
                    busybox chmod 6755 /set && busybox cp /set /root-set && \
                    busybox chmod 4755 /root-set\n\
                RUN mkdir -m 777 /own && cd /own && /somebody\n\
                USER app\nRUN cd /own && /set app && ! busybox chown app /own/roots\n";
    let ran = build(&place, text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let seen = "daemon 7 7 7, 8 8 8\ndaemon 7:8 644\nfs 5:6 644\nhis 7:9 644\nroots 0:0 644\n7\n\
                plain 7 7 7, 8 8 8\nplain 7:8 644\nset 7 11 11, 8 12 12\nset 11:12 644\n\
                root-set 7 0 0, 8 8 8\nroot-set 0:8 644\nend 0 0 0, 0 0 0\ndone\n";
    assert!(ran.err.contains(seen), "{}", ran.err);
    let app = "app 999 11 11, 998 12 12\napp 11:12 644\n";
    assert!(ran.err.contains(app), "{}", ran.err);
    let all = unpacked(&place, "made");
    assert!(all.contains("./own/daemon regular empty file 644 7:8"), "{all}");
}

/// After setuid(2) files are somebody else's, and a directory may give its group.
#[test]
fn what_somebody_else_makes_is_his() {
    let place = Place::new();
    compiled(&place, "gcc", "making.c", "making");
    let list = "busybox stat -c '%n %u:%g %a' * >/said";
    let text = format!(
        "ARG BASE\nFROM $BASE\nCOPY making /\n\
         RUN mkdir -m 777 /own && cd /own && /making other\n\
         RUN mkdir /group && busybox chown :9 /group && busybox chmod 2777 /group && cd /group && \
             /making >/shared\n\
         RUN cd /own && busybox mv symlink moved && busybox mv fifo pipe && busybox mv sock socket \
          && busybox touch -h symlinkat && busybox chmod 600 bound && busybox ln pipe hard && \
          {list} && cat /said\n\
         RUN cd /own && busybox chown :77 pipe bound && rm hard\n\
         RUN cd /own && busybox stat -c 'later %n %u:%g' bound socket\n"
    );
    let ran = build(&place, &text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains(&made("7:8", "40750")), "{}", ran.err);
    let later =
        "moved 7:8 777\nnameless 7:8 640\npipe 7:8 640\nsocket 7:8 750\nsymlinkat 7:8 777\n";
    assert!(ran.err.contains(later) && ran.err.contains("bound 7:8 600\n"), "{}", ran.err);
    // Archives have no sockets, the build's own layers have.
    assert!(ran.err.contains("later bound 7:77\nlater socket 7:8\n"), "{}", ran.err);
    let all = unpacked(&place, "made");
    for line in [
        "./own/moved symbolic link 777 7:8",
        "./own/pipe fifo 640 7:77",
        "./own/symlinkat symbolic link 777 7:8",
        "./own/nameless regular empty file 640 7:8",
        "./own/directory directory 750 7:8",
        "./group/how regular file 640 0:9",
        "./group/fifo fifo 640 0:9",
        "./group/symlink symbolic link 777 0:9",
        "./group/directory directory 2750 0:9",
    ] {
        assert!(all.lines().any(|found| found.starts_with(line)), "{line}\n{all}");
    }
}
