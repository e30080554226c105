//! Apptainer's definition files.

use std::io::{Read, Write};

use harness::Place;

use crate::context;

/// The host takes part only where the file says so.
#[test]
fn sections_for_the_host_and_systems_of_it() {
    let place = Place::new();
    let web = place.path("work/web");
    std::fs::create_dir_all(&web).unwrap();
    std::fs::copy("/bin/busybox", web.join("busybox")).unwrap();
    let url = harness::serve(&web);
    let text = format!(
        "Bootstrap: busybox\nMirrorURL: {url}/busybox\n\n%pre\n    echo made >made-on-host\n\n\
         %setup\n    mkdir -p $APPTAINER_ROOTFS/opt\n    cp made-on-host $SINGULARITY_ROOTFS/opt/it\n\n\
         %post\n    cat /opt/it && ls -l /bin/ls && id -un\n"
    );
    place.write("work/a.def", text);
    let ran = place.sampan(&["build", "-t", "tiny", "-f", "a.def", "."]);
    assert!(ran.err.contains("made\n") && ran.err.contains("root\n"), "{}", ran.err);
    let _ = ran.ok();
    assert_eq!(place.sampan(&["exec", "tiny", "cat", "/opt/it"]).ok(), "made\n");
    place.write("work/b.def", "Bootstrap: busybox\nMirrorURL: x\n%pre\n    exit 5\n");
    let ran = place.sampan(&["build", "-f", "b.def", "."]);
    assert!(ran.fails(5).contains("%pre"));
    // The live system without its bulk: a static program and its configuration.
    let kept = ["/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/usr/sbin"];
    let listed = ["/", "/usr"].map(|dir| std::fs::read_dir(dir).unwrap().flatten());
    let paths = listed.into_iter().flatten().map(|entry| entry.path().display().to_string());
    let exclude: Vec<String> = paths.filter(|path| !kept.contains(&path.as_str())).collect();
    let text = format!("Bootstrap: host\nExclude: /usr/bin {}\n", exclude.join(" "));
    let busybox = place.path("work/busybox");
    std::fs::copy("/bin/busybox", busybox).unwrap();
    place.write("work/c.def", text + "\n%files\n    busybox /usr/bin/sh\n");
    let ran = place.sampan(&["build", "-t", "live", "-f", "c.def", "--compression", "lz4", "."]);
    assert!(ran.err.contains("may not read"), "{}", ran.err);
    let _ = ran.ok();
    let look = "busybox() { /usr/bin/sh \"$@\"; }; test ! -e /usr/share && grep -c ^root: /etc/passwd; ls -ld /bin /proc /root/.ssh 2>/dev/null | cut -c1";
    let out = place.sampan(&["exec", "--contain", "live", "sh", "-c", look]).ok();
    assert_eq!(out, "1\nl\nd\n");
}

const TEXT: &str = r#"Bootstrap: oci
From: {{ BASE }}
Stage: tools

%post
    echo tool >/tool
    busybox chown 5:6 /tool

Bootstrap: oci
From: {{ BASE }}

%arguments
    WHO=world

%files from tools
    /tool /opt/tool

%files
    dir /opt
    a.txt /opt/renamed
    *.txt /texts/

%environment
    export GREETING="hello {{ WHO }}"

%post
    test "$(id -u)" = 0
    stat -c '%u:%g' /opt/tool >/owner
    echo 'export WRITTEN="by post"' >>$APPTAINER_ENVIRONMENT
    false || true

%runscript
    echo "$GREETING, $WRITTEN: $*"

%startscript
    echo started

%test
    test -f /opt/tool && echo tested

%labels
    Author me
    Version 1.0

%help
    Some help.

%appinstall solve
    echo data >data
%appenv solve
    export SOLVER=fast
%apprun solve
    echo "solve $SOLVER $(cat /scif/apps/solve/data)"
"#;

#[test]
fn sections_become_the_image() {
    let place = Place::new();
    context(&place);
    let base = crate::base(&place);
    let base = base.trim_start_matches("oci:");
    let file = place.write("work/image.def", TEXT);
    place.give(&file);
    let arg = format!("BASE={base}");
    let flags = [
        "build",
        "-t",
        "defined",
        "-o",
        "defined.sif",
        "-f",
        "image.def",
        "--build-arg",
        &arg,
        "ctx",
    ];
    let ran = place.sampan(&flags);
    assert!(ran.code == 0 && ran.err.contains("tested"), "{}", ran.err);
    for image in ["defined", "./defined.sif"] {
        let run = |args: &[&str]| place.sampan(args).ok();
        assert_eq!(run(&["run", image, "a", "b"]), "hello world, by post: a b\n", "{image}");
        assert_eq!(run(&["exec", image, "sh", "-c", "echo $WRITTEN"]), "by post\n");
        assert_eq!(run(&["exec", image, "cat", "/owner", "/opt/renamed"]), "5:6\na\n");
        let listed = run(&["exec", image, "ls", "/opt/dir", "/texts"]);
        assert_eq!(
            listed,
            "/opt/dir:\nb.o\nb.txt\nempty\nhard\ninner\nsub\n\n/texts:\na.txt\nsp ace.txt\n"
        );
        assert_eq!(run(&["test", image]), "tested\n");
        assert_eq!(run(&["run", "--app", "solve", image]), "solve fast data\n");
    }
    let shown = place.sampan(&["inspect", "./defined.sif"]).ok();
    assert!(shown.contains("Author=me") && shown.contains("Version=1.0"), "{shown}");
    let help = place.sampan(&["run-help", "./defined.sif"]).ok();
    assert!(help.contains("Some help."), "{help}");
    // All of it is in the cache.
    let again = place.sampan(&flags);
    assert!(again.err.matches("(cached)").count() >= 6, "{}", again.err);
}

/// What Apptainer reads beside the sections that everybody writes.
#[test]
fn headers_and_sections_are_read_as_apptainer_reads_them() {
    let place = Place::new();
    context(&place);
    let registry = harness::registry();
    let text = format!(
        "Bootstrap: docker # the base\nRegistry: http://{registry}\nFrom: busybox:latest # c\n\n\
         %pre -c /bin/bash\n    [[ a == a ]] && echo pre >made-on-host\n\n\
         %environment\n    export ONE=1\n%environment\n    export TWO=$ONE\n\n\
         %post\n    said=here\n    echo 'Built by hand' >>$APPTAINER_LABELS\n    echo 'By me' >>$SINGULARITY_LABELS\n\n\
         %labels\n    By you\n    Own label\n\n\
         %post\n    echo $said >/said\n\n\
         %appfiles solve\n    a.txt\n    dir/b.txt data/renamed\n\n\
         %appenv solve\n    export A=1\n%appenv other\n    export A=2\n\n\
         %apprun solve\n    cat $SCIF_APPROOT/a.txt $SCIF_APPROOT/data/renamed; echo $A\n\
         %apprun other\n    echo $A\n\n\
         %runscript -c /bin/cat\n    its own text\n"
    );
    place.write("work/ctx/a.def", text);
    place.give(&place.path("work"));
    let _ = place.sampan(&["build", "-t", "made", "-f", "ctx/a.def", "ctx"]).ok();
    let run = |args: &[&str]| place.sampan(&[&["run"][..], args].concat()).ok();
    assert_eq!(run(&["--app", "solve", "made"]), "a\nb\n1\n");
    assert_eq!(run(&["--app", "other", "made"]), "2\n");
    assert!(run(&["made"]).contains("#!/bin/cat\n"), "the shell of %runscript");
    let shell = ["exec", "made", "sh", "-c", "echo $TWO; cat /said"];
    assert_eq!(place.sampan(&shell).ok(), "1\nhere\n");
    assert_eq!(place.shell("cat ctx/made-on-host").ok(), "pre\n");
    let shown = place.sampan(&["inspect", "made"]).ok();
    for label in ["Built=by hand", "By=me", "Own=label"] {
        assert!(shown.contains(label), "{label}: {shown}");
    }
}

/// %setup reads, changes and removes files of the base, and the rest keeps its owners.
#[test]
fn setup_changes_the_base() {
    let place = Place::new();
    let base = crate::base(&place);
    let made = "RUN mkdir -p /srv/d && cd /srv/d && echo one >a && echo two >b && ln b c && echo x >gone \
                && mkdir closed && echo in >closed/it && chown 7:8 . a closed && chmod 2750 . \
                && chmod 0555 closed && mknod dev c 1 3\n";
    place.write("work/Dockerfile", format!("FROM {base}\n{made}"));
    let _ = place.sampan(&["build", "-t", "base", "-o", "oci:lay:x", "."]).ok();
    let def = "Bootstrap: oci\nFrom: lay:x\n\
               %setup\n    cd $APPTAINER_ROOTFS/srv/d; cat a closed/it >seen; echo more >>a; rm gone b; \
               mkdir -p new/deep; echo 1 >new/deep/file\n\
               %post\n    cd /srv/d; stat -c '%n %u:%g %a' . closed new; stat -c '%n %u:%g %a %h' a c new/deep/file; \
               stat -c '%F %t,%T' dev; cat seen a c closed/it; ls\n";
    place.write("work/a.def", def);
    place.give(&place.path("work"));
    let build = || place.sampan(&["build", "-t", "made", "-f", "a.def", "."]);
    let first = build();
    assert_eq!(first.code, 0, "{}", first.err);
    let expected = ". 7:8 2750\nclosed 7:8 555\nnew 0:0 755\na 7:8 644 1\nc 0:0 644 1\n\
                    new/deep/file 0:0 644 1\ncharacter special file 1,3\n";
    assert!(first.err.contains(expected), "{}", first.err);
    let files = "one\nin\none\nmore\ntwo\nin\na\nc\nclosed\ndev\nnew\nseen\n";
    assert!(first.err.contains(files), "{}", first.err);
    // What is made anew of the same files is found in the cache, with what follows.
    let again = build();
    assert!(again.err.matches("(cached)").count() >= 2, "{}", again.err);
    assert!(!again.err.contains(files), "{}", again.err);
}

#[test]
fn what_cannot_be_honoured_is_told() {
    let place = Place::new();
    context(&place);
    let base = crate::base(&place);
    let base = base.trim_start_matches("oci:");
    for (text, flags, words) in [
        (format!("Bootstrap: oci\nFrom: {base}\n%setup\n exit 2\n"), &[][..], "%setup|exit code 2"),
        ("Bootstrap: nosuch\nFrom: x\n".to_owned(), &[], "Bootstrap: nosuch|not supported"),
        (format!("Bootstrap: oci\nFrom: {base}\n%post\n exit 9\n"), &[], "%post|exit code 9"),
        (format!("Bootstrap: oci\nFrom: {base}\n%test\n exit 4\n"), &[], "%test|exit code 4"),
        (format!("Bootstrap: oci\nFrom: {base}\n%pots\n x\n"), &[], "line 3|%pots"),
        (format!("Bootstrap: oci\nFrom: {base}\n"), &["--build-arg", "X=1"], "X"),
        ("Bootstrap: oci\nFrom: {{ X }}\n".to_owned(), &[], "line 2|X is needed"),
        ("Bootstrap: docker\nFrom: x\nFingerprints: 12\n".to_owned(), &[], "Fingerprints"),
        ("Bootstrap: docker\nFrm: x\n".to_owned(), &[], "line 2|key of the header|Frm: x"),
        ("Bootstrap: zypper\nRegCode: x\n".to_owned(), &[], "line 2|RegCode: x|not supported"),
        ("Bootstrap: docker\nFrom: x\n%files to y\n".to_owned(), &[], "line 3|%files|from STAGE"),
        ("Bootstrap: docker-daemon\nFrom: x\n".to_owned(), &[], "docker-daemon|not supported"),
        ("Bootstrap: shub\nFrom: a/b\n".to_owned(), &[], "Singularity Hub has closed"),
        ("Bootstrap: library\nFrom: a/b/c\n".to_owned(), &[], "no library is configured"),
    ] {
        let file = place.write("work/image.def", &text);
        place.give(&file);
        let ran = place.sampan(&[&["build", "-f", "image.def"][..], flags, &["ctx"]].concat());
        assert!(ran.code != 0 && !ran.err.contains("panicked"), "{text}: {}", ran.err);
        for word in words.split('|') {
            assert!(ran.err.contains(word), "{text}: {word}: {}", ran.err);
        }
    }
    let text = format!("Bootstrap: oci\nFrom: {base}\n%test\n exit 4\n");
    let file = place.write("work/image.def", &text);
    place.give(&file);
    assert_eq!(place.sampan(&["build", "--no-test", "-f", "image.def", "ctx"]).code, 0);
}

/// As `apptainer push` puts a SIF file into a registry.
const PUSH: &str = r#"set -e
blob() {
    where=$(curl -sS -i -X POST http://$1/v2/$2/blobs/uploads/ | tr -d '\r' | sed -n 's/^Location: //Ip')
    sum=$(sha256sum <$3 | cut -d' ' -f1)
    curl -sSf -X PUT -H 'Content-Type: application/octet-stream' --data-binary @$3 "$where&digest=sha256:$sum"
    echo "\"digest\":\"sha256:$sum\",\"size\":$(stat -c %s $3)"
}
printf '{}' >config
config=$(blob $1 $2 config); layer=$(blob $1 $2 $3)
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.sylabs.sif.config.v1+json",%s},"layers":[{"mediaType":"application/vnd.sylabs.sif.layer.v1.sif",%s}]}' "$config" "$layer" >manifest
curl -sSf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary @manifest http://$1/v2/$2/manifests/1
"#;

#[test]
fn a_sif_file_of_a_registry_is_a_base() {
    let place = Place::new();
    let (registry, name) = (harness::registry(), format!("sif-{}", std::process::id()));
    let _ = place.sampan(&["convert", &place.image_file(), "base.sif"]).ok();
    place.write("work/push", PUSH);
    let _ = place.shell(&format!("bash push {registry} {name} base.sif")).ok();
    let text = format!("Bootstrap: oras\nFrom: {registry}/{name}:1\n\n%post\n    echo in >/in\n");
    place.write("work/a.def", &text);
    let _ = place.sampan(&["build", "-t", "sif", "-f", "a.def", "."]).ok();
    assert_eq!(place.sampan(&["exec", "sif", "cat", "/in"]).ok(), "in\n");
    let again = place.sampan(&["build", "-t", "sif", "-f", "a.def", "."]);
    assert_eq!(again.err.matches("(cached)").count(), 2, "{}", again.err);
    place.write("work/b.def", text.replace(&format!("{name}:1"), "base:latest"));
    let ran = place.sampan(&["build", "-f", "b.def", "."]);
    assert!(ran.fails(1).contains("Bootstrap: docker"));
}

/// Answers two addresses with a program, once both were asked for.
fn both_or_none() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut waiting = std::collections::BTreeMap::new();
        for mut client in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let got = client.read(&mut head).unwrap_or(0);
            let text = String::from_utf8_lossy(&head[..got]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            waiting.insert(path, client);
            if waiting.len() < 2 {
                continue;
            }
            let body = std::fs::read("/bin/busybox").unwrap();
            for (_, mut client) in std::mem::take(&mut waiting) {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                // A client that is gone is no failure of the others.
                let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(&body));
            }
        }
    });
    format!("http://{address}")
}

#[test]
fn stages_that_do_not_need_each_other_are_bootstrapped_at_once() {
    let place = Place::new();
    let url = both_or_none();
    let stage = |name: &str, more: &str| {
        format!("Bootstrap: busybox\nMirrorURL: {url}/{name}\nStage: {name}\n{more}\n")
    };
    let post = |name: &str| format!("%post\n    echo hello {name}; echo {name} >/{name}\n");
    let base = place.image_file();
    let last = format!(
        "Bootstrap: localimage\nFrom: {base}\n%files from one\n    /one\n%files from two\n    \
         /two\n%runscript\n    cat /one /two\n"
    );
    let text = stage("one", &post("one")) + &stage("two", &post("two")) + &last;
    place.write("work/a.def", text);
    let args = ["build", "-t", "made", "-f", "a.def", "."];
    let build = || {
        let mut command = place.sampan_command(&args);
        harness::run(command.env("SAMPAN_STALL_TIMEOUT", "300"))
    };
    let ran = build();
    for line in ["[one] hello one\n", "[two] hello two\n", "[one] Bootstrap: busybox from http"] {
        assert_eq!(ran.err.matches(line).count(), 1, "{line}: {}", ran.err);
    }
    let first = crate::id(ran);
    assert_eq!(place.sampan(&["run", "made"]).ok(), "one\ntwo\n");
    // All of it is in the cache, and told once.
    let again = build();
    assert!(again.err.matches("(cached)").count() >= 6, "{}", again.err);
    assert!(!again.err.contains("hello"), "{}", again.err);
    assert_eq!(crate::id(again), first);
    // A failure is told once, with its place and code.
    let broken = stage("one", "%post\n    echo broken; exit 9\n") + &stage("two", "") + &last;
    place.write("work/a.def", broken);
    let ran = build();
    assert_eq!(ran.code, 9, "{}", ran.err);
    assert_eq!(ran.err.matches("exit code 9").count(), 1, "{}", ran.err);

    // Where the host takes part, it does so once, and in the order of the file.
    let host = |name: &str| {
        format!(
            "Bootstrap: localimage\nFrom: {base}\nStage: {name}\n%pre\n    echo {name} >>order\n\n"
        )
    };
    let plain =
        format!("Bootstrap: localimage\nFrom: {base}\nStage: plain\n%files\n    order /order\n\n");
    place.write("work/a.def", host("a") + &plain + &host("b") + &plain.replace("plain", "last"));
    let _ = build().ok();
    assert_eq!(place.shell("cat order").ok(), "a\nb\n");
    assert_eq!(place.sampan(&["exec", "made", "cat", "/order"]).ok(), "a\nb\n");
}
