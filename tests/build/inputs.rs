//! What a build takes from elsewhere: mounts of other stages, repositories,
//! agents, archives; and what it leaves: commit, save, load, squash.

use harness::Place;

use crate::{build, id, unpacked};

#[test]
fn mounts_show_other_stages_and_the_context() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE AS tools\n\
        RUN mkdir -p /opt/t/sub && echo tool >/opt/t/sub/tool && busybox chown 5:6 /opt/t/sub/tool \
            && ln -s sub/tool /opt/t/link\n\
        FROM $BASE\n\
        RUN --mount=from=tools,source=/opt/t,target=/t stat -c %u:%g /t/sub/tool >/o && \
            cat /t/link >>/o && ! touch /t/x 2>/dev/null\n\
        RUN --mount=type=bind,from=tools,source=/opt/t/sub/tool,target=/one,rw \
            cat /one >>/o && echo changed >/one && cat /one >>/o\n\
        RUN --mount=target=/ctx cat /ctx/a.txt >>/o\n\
        RUN --mount=target=/ctx,rw echo new >/ctx/a.txt && cat /ctx/a.txt >>/o\n\
        RUN --mount=type=cache,id=warm,from=tools,source=/opt/t,target=/cache \
            cat /cache/sub/tool >>/o && echo kept >/cache/kept\n\
        RUN --mount=type=cache,id=warm,from=tools,source=/opt/t,target=/cache cat /cache/kept >>/o\n\
        RUN --mount=type=tmpfs,target=/mem,size=64k ! busybox dd if=/dev/zero of=/mem/x bs=128k count=1 2>/dev/null\n\
        RUN cat /o\n";
    let ran = build(&place, text, &["--progress", "plain"]);
    assert!(ran.err.contains("5:6\ntool\ntool\nchanged\na\nnew\ntool\nkept\n"), "{}", ran.err);
    let first = id(ran);
    assert_eq!(place.shell("cat ctx/a.txt").ok(), "a\n");
    // What a bind shows is an input, whatever its time.
    let again = |script: &str| {
        let _ = place.shell(script).ok();
        let ran = build(&place, text, &[]);
        let cached = ran.err.matches("(cached)").count();
        (id(ran), cached)
    };
    assert_eq!(again("touch ctx/a.txt"), (first.clone(), 9));
    let (other, cached) = again("echo b >ctx/a.txt");
    assert!(other != first && cached == 3, "{cached}");
}

#[test]
fn agents_and_secrets_are_only_there_while_a_command_runs() {
    let place = Place::new();
    let socket = place.path("work/agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    place.give(&socket);
    place.write("work/secret", "hush");
    let text = "ARG BASE\nFROM $BASE\n\
        RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK >/o\n\
        RUN --mount=type=secret,id=s,env=S test $S = hush && test ! -e /run/secrets/s\n\
        RUN test -z \"$SSH_AUTH_SOCK$S\" && cat /o\n";
    let agent = format!("default={}", socket.display());
    let ran = build(&place, text, &["--ssh", &agent, "--secret", "id=s,src=secret"]);
    assert!(ran.err.contains("/run/buildkit/ssh_agent.0\n"), "{}", ran.err);
    let _ = id(ran);
    let ran = build(&place, "ARG BASE\nFROM $BASE\nRUN --mount=type=ssh,required true\n", &[]);
    assert!(ran.fails(1).contains("--ssh default"));
}

#[test]
fn repositories_are_fetched_by_their_commit() {
    let place = Place::new();
    let script = "export GIT_CONFIG_GLOBAL=/dev/null; mkdir -p src/sub && cd src && git init -q -b main && \
        echo one >a && echo two >sub/b && git add . && \
        git -c user.name=a -c user.email=a@b commit -qm x && git tag v1 && \
        echo three >a && git -c user.name=a -c user.email=a@b commit -qam y && \
        git clone -q --bare . ../web/r.git && cd ../web/r.git && git update-server-info && \
        git rev-parse v1";
    let _ = place.shell("mkdir web").ok();
    let commit = place.shell(script).ok();
    let commit = commit.trim();
    let url = format!("{}/r.git", harness::serve(&place.path("work/web")));
    let text = format!(
        "ARG BASE\nFROM $BASE\nADD {url} /main\nADD --checksum={commit} {url}#v1:sub /sub/\n\
         ADD --keep-git-dir=true --chmod=a=rX {url}#main /kept\n\
         RUN cat /main/a /sub/b && ls -A /main /sub /kept && stat -c %a /kept/a\n"
    );
    let ran = build(&place, &text, &[]);
    let expected = "three\ntwo\n/kept:\n.git\na\nsub\n\n/main:\na\nsub\n\n/sub:\nb\n444\n";
    assert!(ran.err.contains(expected), "{}", ran.err);
    let _ = id(ran);
    let wrong = text.replace(&format!("--checksum={commit}"), "--checksum=0123");
    assert!(build(&place, &wrong, &[]).fails(1).contains(commit));
    let short =
        text.replace(&format!("--checksum={commit}"), &format!("--checksum={}", &commit[..3]));
    assert!(build(&place, &short, &[]).fails(1).contains(commit));
    let gone = text.replace("#v1:sub", "#v1:nosuch");
    assert!(build(&place, &gone, &[]).fails(1).contains("nosuch"));
    let gone = text.replace("#main", "#nosuchbranch");
    assert!(build(&place, &gone, &[]).fails(1).contains("nosuchbranch"));
}

#[test]
fn modes_are_changed_by_symbols() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nCOPY --chmod=u=rwX,go= a.txt exec.sh dir /d/\n\
        COPY --chmod=g+w <<E /doc\ntext\nE\n\
        RUN stat -c '%n %a' /d/a.txt /d/exec.sh /d/sub /d/b.txt /doc\n";
    let ran = build(&place, text, &[]);
    let expected = "/d/a.txt 600\n/d/exec.sh 700\n/d/sub 700\n/d/b.txt 600\n/doc 664\n";
    assert!(ran.err.contains(expected), "{}", ran.err);
    let _ = id(ran);
    let ran = build(&place, "ARG BASE\nFROM $BASE\nCOPY --chmod=u+q a.txt /\n", &[]);
    assert!(ran.fails(1).contains("--chmod"));
}

#[test]
fn a_failed_command_may_be_looked_at() {
    let place = Place::new();
    let _ = id(build(&place, "ARG BASE\nFROM $BASE\n", &[]));
    place.write("work/Dockerfile", "FROM made\nRUN echo here >/left; exit 3\n");
    let script = "echo 'cat /left; echo $$; echo more >/left' | \
                  $sampan build --shell-on-failure ctx -f Dockerfile 2>&1";
    let out = place.shell(script);
    assert_eq!(out.code, 3, "{}", out.out);
    assert!(out.out.contains("here\n") && out.out.contains("RUN echo here"), "{}", out.out);
}

#[test]
fn what_was_written_becomes_an_image_and_an_archive() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nRUN mkdir /d && echo 1 >/d/one && echo 2 >/d/two\n\
                RUN rm /d/one && busybox chown 3:4 /d/two\n";
    let _ = id(build(&place, text, &[]));
    let _ = place.shell("mkdir changes").ok();
    let script = "rm /d/two; echo 3 >/d/three; busybox chown 7:8 /d/three";
    let flags = ["exec", "--root", "--root-emulation=consistent", "--overlay", "changes", "made"];
    let _ = place.sampan(&[&flags[..], &["sh", "-c", script]].concat()).ok();
    let change = ["--change", "CMD [\"cat\", \"/d/three\"]", "-c", "ENV A=b", "-c", "WORKDIR /d"];
    let args = [&["commit"][..], &change, &["changes", "made", "kept:1"]].concat();
    let _ = id(place.sampan(&args));
    assert_eq!(place.sampan(&["run", "kept:1"]).ok(), "3\n");
    assert_eq!(place.sampan(&["exec", "kept:1", "sh", "-c", "echo $A; ls /d"]).ok(), "b\nthree\n");
    assert!(unpacked(&place, "kept:1").contains("d/three regular file 644 7:8"));
    assert!(place.sampan(&["commit", "nosuch", "made", "x"]).fails(1).contains("nosuch"));
    let wrong = place.sampan(&["commit", "-c", "RUN x", "changes", "made", "x"]);
    assert!(wrong.fails(1).contains("RUN x"));

    // As an archive, and back under its name.
    let archive = "$sampan save kept:1 >a.tar && $sampan rm kept:1 && $sampan load <a.tar && \
                   $sampan run kept:1 && $sampan save -o b.tar kept:1 && $sampan load -i b.tar --json";
    let out = place.shell(archive).ok();
    assert!(out.contains("localhost/kept:1\n3\n") && out.contains("\"reference\""), "{out}");
    let inspect = place.shell("skopeo inspect docker-archive:a.tar").ok();
    assert!(inspect.contains("A=b"), "{inspect}");
    assert!(place.shell("$sampan load </dev/null").code != 0);

    let squashed = build(&place, text, &["--squash", "--sandbox", "tree"]);
    let _ = id(squashed);
    assert_eq!(place.shell("ls tree/d; cat tree/d/two").ok(), "two\n2\n");
    let config = place.sampan(&["inspect", "--json", "made"]).ok();
    let all: serde_json::Value = serde_json::from_str(&config).unwrap();
    let layers = all[0]["record"]["layers"].as_array().map(Vec::len);
    assert_eq!(layers, Some(1), "{config}");
}

#[test]
fn archives_are_unpacked_where_that_is_asked_for() {
    let place = Place::new();
    let _ = build(&place, "ARG BASE\nFROM $BASE\n", &[]).ok();
    let url = harness::serve(&place.path("work/ctx"));
    let text = format!(
        "ARG BASE\nFROM $BASE\nADD --unpack=true {url}/archive.tar.gz /web/\n\
         ADD {url}/archive.tar.gz /whole/\nADD archive.tar.gz /own/\n\
         ADD --unpack=false archive.tar.gz /kept/\n\
         RUN cat /web/a.txt && stat -c %u:%g /web/a.txt /own/a.txt && ls /whole /kept\n"
    );
    let ran = build(&place, &text, &[]);
    let expected = "a\n7:8\n7:8\n/kept:\narchive.tar.gz\n\n/whole:\narchive.tar.gz\n";
    assert!(ran.err.contains(expected), "{}", ran.err);
    let _ = id(ran);
    // Every compression; what breaks off is an error, and no file.
    let make = "cd ctx && for c in gzip xz bzip2 zstd; do tar -c a.txt | $c >$c.tar; done && \
                busybox seq 99999 >many && tar -c many | gzip | head -c 9999 >broken.tar";
    let _ = place.shell(make).ok();
    for name in ["gzip", "xz", "bzip2", "zstd"] {
        let text = format!("ARG BASE\nFROM $BASE\nADD {name}.tar /own/\nRUN cat /own/a.txt\n");
        let _ = id(build(&place, &text, &[]));
    }
    let ran = build(&place, "ARG BASE\nFROM $BASE\nADD broken.tar /own/\n", &[]);
    assert!(ran.fails(1).contains("broken.tar"));
    // The same file, not unpacked, is another layer.
    let whole = format!("ARG BASE\nFROM $BASE\nADD {url}/archive.tar.gz /web/\nRUN ls /web\n");
    let ran = build(&place, &whole, &[]);
    assert!(ran.err.contains("archive.tar.gz\n") && !ran.err.contains("(cached)"), "{}", ran.err);
    let _ = id(ran);
}

#[test]
fn what_is_given_and_not_taken_is_told() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nRUN echo [$HTTP_PROXY] [$UNKNOWN]\n";
    let flags = ["--build-arg", "HTTP_PROXY=http://p.example", "--build-arg", "UNKNOWN=1"];
    let ran = build(&place, text, &flags);
    assert!(ran.err.contains("[http://p.example] []\n"), "{}", ran.err);
    assert!(ran.err.contains("--build-arg UNKNOWN: the Dockerfile has no ARG"), "{}", ran.err);
    assert!(!ran.err.contains("--build-arg HTTP_PROXY"), "{}", ran.err);
    let _ = id(ran);
    // Another proxy is no other layer.
    let ran = build(&place, text, &["--build-arg", "HTTP_PROXY=http://q.example"]);
    assert!(ran.err.contains("(cached)") && !ran.err.contains("UNKNOWN:"), "{}", ran.err);
    for (line, word) in [
        ("EXPOSE http", "http"),
        ("EXPOSE 80/icmp", "icmp"),
        ("RUN --mount=type=secret,id=a,uid=x true", "uid="),
        ("RUN --mount=type=cache,target=/c,sharing=own true", "sharing=own"),
    ] {
        let err = build(
            &place,
            &format!("ARG BASE\nFROM $BASE\n  {line}\n"),
            &["--secret", "id=a,src=Dockerfile"],
        );
        let err = err.fails(1);
        assert!(err.contains("line 3, column 3") && err.contains(word), "{line}: {err}");
    }
}

/// Commands of two builds that want a locked cache have it one after the other.
#[test]
fn a_locked_cache_is_had_by_one_at_a_time() {
    let place = Place::new();
    let step = "mkdir /c/busy && busybox sleep 1 && rmdir /c/busy";
    let stage = |name: &str| {
        format!(
            "FROM $BASE AS {name}\nRUN --mount=type=cache,target=/c,sharing=locked {step} && echo {name} >/{name}\n"
        )
    };
    let text = format!(
        "ARG BASE\n{}{}FROM $BASE\nCOPY --from=one /one /\nCOPY --from=two /two /\nCMD cat /one /two\n",
        stage("one"),
        stage("two")
    );
    let _ = id(build(&place, &text, &[]));
    assert_eq!(place.sampan(&["run", "made"]).ok(), "one\ntwo\n");
}

/// Commands that run at once have private caches of their own, and later ones find what
/// earlier ones left.
#[test]
fn a_private_cache_is_shared_with_nobody() {
    let place = Place::new();
    let stage = |name: &str| {
        format!(
            "FROM $BASE AS {name}\nRUN --mount=type=cache,target=/c,sharing=private \
             mkdir /c/busy && busybox sleep 1 && rmdir /c/busy && echo {name} >>/c/log && cp /c/log /{name}\n"
        )
    };
    let text = format!(
        "ARG BASE\n{}{}FROM $BASE\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        stage("one"),
        stage("two")
    );
    let last = ["exec", "made", "sh", "-c", "tail -n1 /one; tail -n1 /two"];
    let _ = id(build(&place, &text, &[]));
    assert_eq!(place.sampan(&last).ok(), "one\ntwo\n");
    let _ = id(build(&place, &text, &["--no-cache"]));
    assert_eq!(place.sampan(&last).ok(), "one\ntwo\n");
    let all = place.sampan(&["exec", "made", "cat", "/one", "/two"]).ok();
    assert!(all.lines().count() >= 4, "{all}");
}

/// What a copy, a mount or a file of rules cannot do is told, and nothing is dropped.
#[test]
fn what_a_context_cannot_give_is_told() {
    let place = Place::new();
    crate::context(&place);
    for (path, text) in [("x/n", "file"), ("y/n/f", "below")] {
        place.write(&format!("work/ctx/{path}"), text);
    }
    std::os::unix::fs::symlink("../../../../../etc/passwd", place.path("work/ctx/out")).unwrap();
    let of = |line: &str| build(&place, &format!("ARG BASE\nFROM $BASE\n{line}\n"), &[]);
    for (line, word) in [
        ("COPY x y /d/", "is no directory"),
        ("COPY y x /d/", "is a directory"),
        ("COPY out /p", "\"out\" is not there"),
        ("RUN --mount=type=bind,source=out,target=/m cat /m", "\"out\" is not there"),
        ("STOPSIGNAL ${S:-SIGNOPE}", "a signal cannot be \"SIGNOPE\""),
        ("FROM --platform=linux/$NONE $BASE", "--platform cannot be"),
    ] {
        let err = of(line).fails(1);
        assert!(err.contains("line 3, column 1") && err.contains(word), "{line}: {err}");
    }
    // What .dockerignore leaves out is not in a mount either.
    let ran =
        of("RUN --mount=type=bind,target=/m ls /m/dir/sub >/s && ls /m/ignored >>/s\nCMD cat /s");
    let _ = id(ran);
    assert_eq!(place.sampan(&["run", "made"]).ok(), "c.txt\nkeep.txt\n");
    place.write("work/ctx/.dockerignore", [0xff, 0xfe]);
    let err = of("COPY a.txt /").fails(1);
    assert!(err.contains(".dockerignore") && err.contains("UTF-8"), "{err}");
    let _ = place.shell("rm ctx/.dockerignore && mkfifo ctx/.dockerignore").ok();
    let err = of("COPY a.txt /").fails(1);
    assert!(err.contains(".dockerignore") && err.contains("no plain file"), "{err}");
    let err = place.sampan(&["build", "-f", "/dev/zero", "ctx"]).fails(1);
    assert!(err.contains("/dev/zero") && err.contains("more than"), "{err}");
    let script = "SOURCE_DATE_EPOCH=now $sampan build ctx -f Dockerfile";
    let err = place.shell(script).fails(2);
    assert!(err.contains("SOURCE_DATE_EPOCH") && err.contains("\"now\""), "{err}");
}

/// A stage of another platform than the image's, as cross compilers have it.
#[test]
fn a_stage_is_built_on_its_own_platform() {
    let place = Place::new();
    // An image of amd64 alone.
    let text = format!(
        "ARG BASE={}/busybox:latest\nFROM --platform=$BUILDPLATFORM $BASE AS compiler\n\
         ARG TARGETARCH\nRUN echo for $TARGETARCH >/t\nFROM scratch\nCOPY --from=compiler /t /\n",
        harness::registry()
    );
    place.write("work/Dockerfile", text);
    let flags = ["build", "--platform", "linux/arm64", "-o", "dir:cross", "."];
    let _ = id(place.sampan(&flags));
    let made = std::fs::read_to_string(place.path("work/cross/t")).unwrap();
    assert_eq!(made, "for arm64\n");
}

/// A source of a mount is a path, and no image writes outside of the copy that is made.
#[test]
fn a_mount_of_a_hostile_image_writes_nothing_elsewhere() {
    let place = Place::new();
    let out = place.path("work/out");
    std::fs::create_dir(&out).unwrap();
    place.give(&out);
    let tar = harness::layer(|tar| {
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        link.set_mode(0o777);
        tar.append_link(&mut link, "p1/x", &out).unwrap();
        let mut file = tar::Header::new_gnu();
        file.set_size(5);
        file.set_mode(0o644);
        tar.append_data(&mut file, "p2/x/autostart/new", &b"evil\n"[..]).unwrap();
        tar.append_data(&mut file, "p*/x/new", &b"star\n"[..]).unwrap();
    });
    let dir = place.path("evil");
    let evil = harness::Layout::new(dir).layer(&tar).finish("evil");
    let text = |source: &str, look: &str| {
        format!(
            "ARG BASE\nFROM {evil} AS evil\nFROM $BASE\n\
             RUN --mount=type=bind,from=evil,source={source},target=/m {look}\n"
        )
    };
    let ran = build(&place, &text("/p?", "true"), &[]);
    assert!(ran.fails(1).contains("\"/p?\" is not there"));
    let ran = build(&place, &text("/", "cat /m/p2/x/autostart/new && readlink /m/p1/x"), &[]);
    assert!(ran.err.contains("evil\n"), "{}", ran.err);
    let _ = id(ran);
    let ran = build(&place, &text("/p*", "cat /m/x/new && test ! -e /m/x/autostart"), &[]);
    assert!(ran.err.contains("star\n"), "{}", ran.err);
    let _ = id(ran);
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 0);
}

/// What a stage has is what a mount of it shows.
#[test]
fn a_mount_shows_links_devices_and_capabilities() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE AS tools\n\
        RUN mkdir /t && echo x >/t/a && ln /t/a /t/b && busybox mknod /t/null c 1 3 && \
            busybox chown 5:6 /t/null && busybox touch -d @1000 /t\n\
        FROM $BASE\n\
        RUN --mount=from=tools,source=/t,target=/m stat -c '%h %Y' /m/a /m && \
            stat -c '%F %t,%T %u:%g' /m/null && cp -a /m /copy\n\
        RUN stat -c '%F %u:%g' /copy/null\n";
    let ran = build(&place, text, &[]);
    let expected =
        ["2 ", " 1000\n", "character special file 1,3 5:6\n", "character special file 5:6\n"];
    for word in expected {
        assert!(ran.err.contains(word), "{word}: {}", ran.err);
    }
    let _ = id(ran);
}

#[test]
fn what_is_excluded_is_no_source() {
    let place = Place::new();
    crate::context(&place);
    for name in ["home.txt", "home.md", "homes/x.txt", "homes/y"] {
        place.write(&format!("work/ctx/{name}"), name);
    }
    let text = "ARG BASE\nFROM $BASE\nCOPY --exclude=*.txt hom* /d/\nCOPY --exclude=dir/b.* dir/b.txt a.txt /e/\n\
                CMD ls /d /e\n";
    let _ = id(build(&place, text, &[]));
    assert_eq!(place.sampan(&["run", "made"]).ok(), "/d:\nhome.md\ny\n\n/e:\na.txt\n");
}

/// An archive goes into a directory that is there, and becomes one that is not.
#[test]
fn where_an_archive_goes_is_an_input() {
    let place = Place::new();
    let of = |to: &str| {
        let text =
            format!("ARG BASE\nFROM $BASE\nRUN mkdir /d\nADD archive.tar.gz {to}\nCMD ls /d\n");
        let _ = id(build(&place, &text, &[]));
        place.sampan(&["run", "made"]).ok()
    };
    assert_eq!(of("/d"), "a.txt\ndir\n");
    assert_eq!(of("/d/archive.tar.gz"), "archive.tar.gz\n");
    // None is larger than the limit, however small it is in the context.
    let _ = place.shell("cd ctx && busybox dd if=/dev/zero of=zeros bs=1M count=64 && tar -cJf z.tar.xz zeros && rm zeros").ok();
    place.write("work/Dockerfile", "ARG BASE\nFROM $BASE\nADD z.tar.xz /z/\n");
    let script = format!(
        "SAMPAN_SIZE_LIMIT=32M $sampan build -f Dockerfile --build-arg BASE={} ctx",
        crate::base(&place)
    );
    assert!(place.shell(&script).fails(1).contains("size_limit"));
}

#[test]
fn binds_of_the_configuration_are_for_runs_alone() {
    let place = Place::new();
    place.write("home/.config/sampan/config.toml", "binds = [\"/etc/passwd:/host\"]\n");
    let text = "ARG BASE\nFROM $BASE\nRUN test ! -e /host\nCMD test -e /host\n";
    let _ = id(build(&place, text, &[]));
    let _ = place.sampan(&["run", "made"]).ok();
}
