//! `--root-emulation=subid`: the kernel gives the owners, with ranges of the
//! caller's and the setuid helpers.

use std::process::Command;

use harness::{Place, Ran, run};

use crate::{base, build, unpacked};

/// Everything that changes owners, in Debian's own tools.
const RECIPE: &str = "ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends \\
    openssh-client iputils-ping libcap2-bin acl attr >/dev/null 2>&1
RUN mkdir /d && cd /d && touch plain && ln -s plain link && mkfifo fifo && mknod null c 1 3 && \\
    mknod disk b 8 1 && mkdir -m 2770 shared && mkdir -m 1777 sticky && touch shut && chmod 0 shut && \\
    chown 5:6 plain && chown -h 7:8 link && chown 9 fifo && chgrp 10 null && chown 65534:65534 shared \\
    && chown -R 11:12 sticky && cp /usr/bin/id suid && chown 13:14 suid && chmod 6755 suid && \\
    ln plain hard && cp /usr/bin/id cap && setcap cap_net_raw,cap_chown=ep cap && \\
    stat -c '%n %u:%g %a %F %t,%T' * && getcap cap
RUN cd /d && touch shared/within && chown 15 null && mv fifo moved && chown -h 16 link && \\
    cp -a plain link copies-of 2>/dev/null || mkdir copies-of && cp -a plain link null copies-of && \\
    stat -c '%n %u:%g %a %F %t,%T' * copies-of/* && setcap -r cap
RUN useradd -m -u 1234 ann && su ann -c 'touch ~/mine; id -u; mkdir ~/dir; ln -s x ~/link; mkfifo ~/fifo' \\
    && chown -R :100 /home/ann/dir && passwd -d ann >/dev/null && stat -c '%n %u:%g %a' /home/ann/*
RUN mkdir /t && cd /t && mkdir in && touch in/a in/b && chown 1234:5 in/a && chown 77:88 in/b in && \\
    tar -cf all.tar in && rm -r in && tar -xpf all.tar && stat -c '%n %u:%g' in in/*
RUN mkdir /acl && cd /acl && touch f plain && setfacl -m u:1234:rwx,g:adm:r-x f && \\
    setfacl -m u::rwx,g::r,o::- plain && cp -a f copy && chmod 640 copy && cp -a f gone && \\
    setfacl -b gone && mkdir d && setfacl -m d:u:77:rx,u:78:rwx d && getfacl -n * && ls -l
RUN cd /acl && getfacl -n * && chown 5 f && mv copy moved && setfacl -x u:1234 moved && \\
    cp -a d e && setfacl -k e && getfattr -d -m - f moved && getfacl -n *
USER ann
RUN touch ~/later && mkfifo /tmp/pipe && echo said >/dev/stderr && test \"$(id -u)\" = 1234
USER root
";

fn subordinate() -> Place {
    Place::of(&harness::required("SAMPAN_TEST_SUBID_USER"))
}

/// Runs a command of the user where a script of root has changed what the
/// machine looks like.
fn where_(script: &str, command: &Command) -> Ran {
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]);
    outer.arg(command.get_program()).args(command.get_args()).env_clear();
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(outer.current_dir(command.get_current_dir().unwrap()))
}

/// Ranges as `/etc/subuid` and `/etc/subgid` have them.
fn ranges(users: &str, groups: &str) -> String {
    let file = |name: &str, text: &str| {
        format!("printf '%s' '{text}' >{name}; mount --bind {name} /etc/{name};")
    };
    file("subuid", users) + &file("subgid", groups)
}

fn identity(place: &Place, script: &str) -> Command {
    let image = place.image_file();
    let mut command = place.sampan_command(&["exec", "--root", "--root-emulation=subid"]);
    command.args(["--writable-tmpfs", "--contain", &image, "sh", "-c", script]);
    command
}

#[test]
fn it_builds_what_the_consistent_mode_builds() {
    let text = format!("FROM {}/base:latest\n{RECIPE}", harness::registry());
    let tree = |mode| {
        let place = subordinate();
        let ran = build(&place, &text, &[&format!("--root-emulation={mode}")]);
        assert_eq!(ran.code, 0, "{mode}: {}", ran.err);
        assert_eq!(place.shell("ls $SAMPAN_SCRATCH/sampan-*/build | wc -l").ok(), "0\n", "{mode}");
        unpacked(&place, "made")
    };
    let trees = std::thread::scope(|scope| {
        let both = ["subid", "consistent"].map(|mode| scope.spawn(move || tree(mode)));
        both.map(|one| one.join().unwrap())
    });
    for line in [
        "./d/null character special file 644 15:10 1,3",
        "./d/moved fifo 644 9:0 0,0",
        "./d/link symbolic link 777 16:8 0,0",
        "./d/shared directory 2770 65534:65534 0,0",
        "./d/suid regular file 6755 13:14 0,0",
        "./usr/bin/ping cap_net_raw=ep",
        "./usr/bin/ssh-agent regular file 2755 0:101 0,0",
        "./home/ann/fifo fifo 644 1234:1234 0,0",
        "./t/in/b regular empty file 644 77:88 0,0",
        "./tmp/pipe fifo 644 1234:1234 0,0",
        "user:1234:rwx",
        "default:user:77:r-x",
    ] {
        assert!(trees[0].lines().any(|found| found == line), "{line}\n{}", trees[0]);
    }
    let lines = trees.each_ref().map(|tree| tree.lines().collect::<Vec<_>>());
    let only = |one: &[&str], other: &[&str]| {
        let only = one.iter().filter(|line| !other.contains(line));
        only.map(|line| (*line).to_owned()).collect::<Vec<_>>()
    };
    let (first, second) = (only(&lines[0], &lines[1]), only(&lines[1], &lines[0]));
    assert!(first.is_empty() && second.is_empty(), "subid: {first:#?}\nconsistent: {second:#?}");
}

/// A setuid program gives the root of the namespace; who has become somebody
/// else may no longer make devices, nor read what is not his.
#[test]
fn identities_are_real() {
    let place = subordinate();
    let script = "cd /srv; cp /usr/bin/id suid; chown 13:14 suid; chmod 4755 suid; echo secret >shut; \
                  chmod 600 shut; chmod 777 .; su -s /bin/sh daemon -c './suid -u; mknod c c 1 3 2>&1; \
                  cat shut 2>&1; id -u; touch mine; stat -c %u:%g mine'";
    let image = format!("docker://{}/base:latest", harness::registry());
    let mut flags = vec!["exec", "--root", "--root-emulation=subid", "--writable-tmpfs"];
    flags.extend(["--contain", &image, "sh", "-c", script]);
    let out = place.sampan(&flags).out;
    let expected = "13\nmknod: c: Operation not permitted\ncat: shut: Permission denied\n1\n1:1\n";
    assert_eq!(out, expected);
}

#[test]
fn every_form_of_range_serves() {
    let place = subordinate();
    let user = harness::required("SAMPAN_TEST_SUBID_USER");
    let uid = place.shell("id -u").ok();
    let uid = uid.trim();
    let map = "cat /proc/self/uid_map | busybox tr -s ' '; cd /tmp; touch f; busybox chown 11:1 f && stat -c %u:%g f";
    let two = format!("other:1:5\n{user}:300000:10\n{user}:400000:70000\nnonsense\n");
    let own = format!(" 0 {uid} 1\n");
    let both = format!("{own} 1 300000 10\n 11 400000 70000\n11:1\n");
    let by_number = two.replace(&user, uid);
    for (users, groups) in [(&two, &two), (&by_number, &two)] {
        let ran = where_(&ranges(users, groups), &identity(&place, map));
        assert_eq!((ran.out.as_str(), ran.err.as_str()), (both.as_str(), ""), "{users}");
    }
    // Too few: told before, and refused by the kernel.
    let few = format!("{user}:300000:10\n");
    let ran = where_(&ranges(&few, &few), &identity(&place, map));
    assert!(ran.code != 0 && ran.out == format!("{own} 1 300000 10\n"), "{}", ran.out);
    for words in ["for 11 users and 11 groups", "/etc/subuid", "Invalid argument"] {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
    // The image has a file of user 11.
    let _ = build(&place, "ARG BASE\nFROM $BASE\nRUN busybox chown 11 /etc/marker\n", &[]).ok();
    let flags = ["exec", "--root", "--root-emulation=subid", "made", "true"];
    let ran = where_(&ranges(&few, &few), &place.sampan_command(&flags));
    let said = ran.fails(125);
    assert!(said.contains("user or group 999") || said.contains("user or group 11"), "{said}");
    assert!(said.contains("up to 10 only") && said.contains("larger ranges"), "{said}");
}

#[test]
fn what_is_missing_is_told() {
    let place = subordinate();
    let user = harness::required("SAMPAN_TEST_SUBID_USER");
    let none = "other:1:5\n";
    let some = format!("{user}:300000:10\n");
    let copy = place.path("unprivileged");
    std::fs::copy("/usr/bin/newuidmap", &copy).unwrap();
    let plain = format!(
        "chmod 755 {0}; chown root {0}; mount --bind {0} /usr/bin/newuidmap",
        copy.display()
    );
    for (before, words) in [
        (ranges(none, &some), format!("\"/etc/subuid\" gives {user} (user id ")),
        (ranges(&some, none), "\"/etc/subgid\" gives".to_owned()),
        ("mount --bind /dev/null /usr/bin/newgidmap".to_owned(), "newgidmap is not installed".to_owned()),
        (plain, "neither setuid root nor has a file capability".to_owned()),
        ("mount -t tmpfs none /mnt; cp -p /usr/bin/newuidmap /mnt; mount -o remount,nosuid /mnt; mount --bind /mnt/newuidmap /usr/bin/newuidmap".to_owned(), "mounted nosuid".to_owned()),
    ] {
        let ran = where_(&before, &identity(&place, "true"));
        let said = ran.fails(125);
        assert!(said.contains(&words), "{before}: {said}");
        assert!(said.contains("ask the administrator") && said.contains("=consistent"), "{said}");
    }
    // The user of all other tests has none.
    let place = Place::new();
    let said = build(&place, "ARG BASE\nFROM $BASE\nRUN true\n", &["--root-emulation=subid"]);
    let said = said.fails(1);
    assert!(
        said.contains("no range of subordinate ids") && said.contains("--add-subuids"),
        "{said}"
    );
}

#[test]
fn what_a_killed_build_left_of_others_is_removed() {
    let place = subordinate();
    // Nobody else on the machine sleeps so long.
    let sleep = format!("busybox sleep 4712.{}", std::process::id());
    let text = format!(
        "ARG BASE\nFROM $BASE\nRUN mkdir -m 700 /d && touch /d/x && \
         busybox chown -R 5:6 /d && {sleep}\n"
    );
    let _ = build(&place, "ARG BASE\nFROM $BASE\n", &[]).ok();
    place.give(&place.write("work/Dockerfile", text));
    let script = format!(
        "$sampan build --root-emulation=subid -f Dockerfile --build-arg BASE={} ctx >/dev/null 2>&1 & \
         there=\"pgrep -xf '{sleep}' >/dev/null\"; wait_for \"$there\" && kill -9 $! && \
         wait_for \"! $there\"; \
         stat -c %U:%a $SAMPAN_SCRATCH/sampan-*/build/*/overlay/upper/d",
        base(&place)
    );
    assert_eq!(place.shell(&script).ok(), "UNKNOWN:700\n");
    // In a mode that has no other ids itself.
    let _ = build(&place, "ARG BASE\nFROM $BASE\nRUN test ! -e /d\n", &[]).ok();
    assert_eq!(place.shell("ls $SAMPAN_SCRATCH/sampan-*/build | wc -l").ok(), "0\n");
}

#[test]
fn an_overlay_with_real_owners_is_committed() {
    let place = subordinate();
    let script = "busybox chown 5:6 /etc/marker; busybox mknod /null c 1 3; ls -ln /null";
    let name = base(&place);
    let mut flags = vec!["exec", "--root", "--root-emulation=subid", "--overlay", "ov"];
    flags.extend([&name, "sh", "-c", script]);
    let _ = place.shell("mkdir ov").ok();
    let _ = place.sampan(&flags).ok();
    let _ = place.sampan(&["commit", "ov", &name, "made"]).ok();
    let all = unpacked(&place, "made");
    for line in
        ["./etc/marker regular file 644 5:6 0,0", "./null character special file 644 0:0 1,3"]
    {
        assert!(all.lines().any(|found| found == line), "{line}\n{all}");
    }
}
