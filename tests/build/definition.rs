//! Apptainer's definition files.

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
    let help = place.sampan(&["inspect", "--show", "help", "./defined.sif"]).ok();
    assert!(help.contains("Some help."), "{help}");
    // All of it is in the cache.
    let again = place.sampan(&flags);
    assert!(again.err.matches("(cached)").count() >= 6, "{}", again.err);
}

#[test]
fn what_cannot_be_honoured_is_told() {
    let place = Place::new();
    context(&place);
    let base = crate::base(&place);
    let base = base.trim_start_matches("oci:");
    for (text, flags, words) in [
        (format!("Bootstrap: oci\nFrom: {base}\n%setup\n exit 2\n"), &[][..], "%setup|exit code 2"),
        ("Bootstrap: arch\nFrom: x\n".to_owned(), &[], "Bootstrap: arch|not supported"),
        (format!("Bootstrap: oci\nFrom: {base}\n%post\n exit 9\n"), &[], "%post|exit code 9"),
        (format!("Bootstrap: oci\nFrom: {base}\n%test\n exit 4\n"), &[], "%test|exit code 4"),
        (format!("Bootstrap: oci\nFrom: {base}\n%pots\n x\n"), &[], "line 3|%pots"),
        (format!("Bootstrap: oci\nFrom: {base}\n"), &["--build-arg", "X=1"], "X"),
        ("Bootstrap: oci\nFrom: {{ X }}\n".to_owned(), &[], "line 2|X is needed"),
        ("Bootstrap: docker\nFrom: x\nFingerprints: 12\n".to_owned(), &[], "Fingerprints"),
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
