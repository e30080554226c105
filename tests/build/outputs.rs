//! Arguments of `build`: where an image goes, what is found by itself, what is given.

use harness::Place;

use crate::{base, build, context, id};

/// What BuildKit writes `type=…,dest=…`.
#[test]
fn an_image_is_written_in_every_form() {
    let place = Place::new();
    let name = format!("{}/output-{}:1", harness::registry(), std::process::id());
    let text = "ARG BASE\nFROM $BASE\nRUN echo written >/f\nCMD cat /f\n";
    let registry = format!("type=registry,name={name}");
    let outputs = [
        "type=oci,dest=o.tar",
        "type=docker,dest=d.tar",
        "type=sif,dest=s.sif",
        "type=squashfs,dest=q.sqfs",
        "type=dir,dest=tree",
        "type=local,dest=local",
        &registry,
    ];
    let flags: Vec<&str> = outputs.iter().flat_map(|output| ["--output", output]).collect();
    let _ = id(build(&place, text, &flags));
    for image in ["oci-archive:o.tar", "docker-archive:d.tar", "./s.sif", "./q.sqfs", &name] {
        let ran = place.sampan(&["--store", "other", "exec", image, "cat", "/f"]);
        assert_eq!(ran.ok(), "written\n", "{image}");
    }
    assert_eq!(place.shell("cat tree/f local/f").ok(), "written\nwritten\n");
    // As others read them.
    for (form, file) in [("oci-archive", "o.tar"), ("docker-archive", "d.tar")] {
        let image = format!("{form}:{}", place.path("work").join(file).display());
        let mut skopeo = std::process::Command::new("skopeo");
        assert!(harness::run(skopeo.args(["inspect", &image])).ok().contains("\"Layers\""));
    }
    assert!(place.shell("unsquashfs -cat q.sqfs f").ok().contains("written"));
    for wrong in ["type=tape,dest=x", "type=oci", "type"] {
        let ran = build(&place, text, &["--output", wrong]);
        assert_ne!(ran.code, 0, "{wrong}");
    }
}

#[test]
fn arguments_come_from_files_and_the_environment() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE\nARG ONE TWO THREE TARGETSTAGE\n\
                RUN echo $ONE $TWO $THREE $TARGETSTAGE >/f\nCMD cat /f\n";
    context(&place);
    place.write("work/args", "# a comment\nONE=1\n\nTWO=of the file\n");
    place.write("work/Dockerfile", text);
    let script = format!(
        "THREE=3 $sampan build -t made -f Dockerfile --build-arg BASE={} --build-arg-file args \
         --build-arg TWO=2 --build-arg THREE --build-arg BUILDKIT_INLINE_CACHE=1 ctx",
        base(&place)
    );
    let ran = place.shell(&script);
    assert!(ran.err.contains("--build-arg BUILDKIT_INLINE_CACHE: it is BuildKit's"), "{}", ran.err);
    let _ = ran.ok();
    assert_eq!(place.sampan(&["run", "made"]).ok(), "1 2 3 default\n");
}

#[test]
fn a_stage_is_the_target() {
    let place = Place::new();
    let text = "ARG BASE\nFROM $BASE AS first\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE >/f\n\
                CMD cat /f\nFROM first AS last\nRUN false\n";
    let _ = id(build(&place, text, &["--target", "first"]));
    assert_eq!(place.sampan(&["run", "made"]).ok(), "first\n");
    let _ = id(build(&place, text, &["--target", "0"]));
    assert_eq!(build(&place, text, &["--target", "last"]).code, 1);
}

#[test]
fn a_secret_is_a_variable_of_the_caller() {
    let place = Place::new();
    context(&place);
    let text = "ARG BASE\nFROM $BASE\n\
                RUN --mount=type=secret,id=tok test \"$(cat /run/secrets/tok)\" = 'hush hush'\n\
                RUN test ! -e /run/secrets/tok\n";
    place.write("work/Dockerfile", text);
    let script = |secret: &str| {
        let base = base(&place);
        format!("WORD='hush hush' $sampan build -f Dockerfile --build-arg BASE={base} {secret} ctx")
    };
    let _ = id(place.shell(&script("--secret id=tok,env=WORD")));
    let ran = place.shell(&script("--secret id=tok,env=NOWORD"));
    assert!(ran.fails(2).contains("--secret"));
    // A key is no agent.
    place.write("work/key", "a key");
    let ran = place.shell(&script("--ssh default=key"));
    let err = ran.fails(2);
    assert!(err.contains("no socket of an agent") && err.contains("ssh-add"), "{err}");
}

#[test]
fn recipes_are_found_by_their_names() {
    let place = Place::new();
    let base = base(&place);
    place.write("work/c/Containerfile", format!("FROM {base}\nCMD echo container\n"));
    let _ = id(place.sampan(&["build", "-t", "one", "c"]));
    assert_eq!(place.sampan(&["run", "one"]).ok(), "container\n");
    let (kind, from) = base.split_once(':').unwrap();
    place.write(
        "work/d/Apptainer.def",
        format!("Bootstrap: {kind}\nFrom: {from}\n%runscript\n    echo definition\n"),
    );
    let _ = id(place.sampan(&["build", "-t", "two", "d"]));
    assert_eq!(place.sampan(&["run", "two"]).ok(), "definition\n");
    place.write("work/c/Dockerfile", format!("FROM {base}\nCMD echo docker\n"));
    let _ = id(place.sampan(&["build", "-t", "one", "c"]));
    assert_eq!(place.sampan(&["run", "one"]).ok(), "docker\n");
}

/// A directory and image files of the caller's own: what is in them counts, not which
/// file or when.
#[test]
fn bases_of_the_callers_own_count_by_their_content() {
    let place = Place::new();
    let cached = |ran: &harness::Ran| ran.err.matches("(cached)").count();
    let _ = id(build(&place, "ARG BASE\nFROM $BASE\nRUN busybox chown 5:6 /etc/marker\n", &[]));
    for form in ["dir:tree", "sif:base.sif", "squashfs:base.sqfs"] {
        let _ = place.sampan(&["convert", "made", form]).ok();
    }
    let of = |from: &str, tag: &str| {
        let text = "%post\n    stat -c %u:%g /etc/marker >/owner\n%runscript\n    cat /owner\n";
        place.write("work/a.def", format!("Bootstrap: localimage\nFrom: {from}\n{text}"));
        place.sampan(&["build", "-t", tag, "-f", "a.def", "."])
    };
    for from in ["tree", "base.sif", "base.sqfs"] {
        let first = of(from, "first");
        assert_eq!(cached(&first), 0, "{from}: {}", first.err);
        let _ = id(first);
        assert_eq!(place.sampan(&["run", "first"]).ok(), "5:6\n", "{from}");
        let _ = place.shell(&format!("cp -a {from} new && rm -r {from} && mv new {from}")).ok();
        let again = of(from, "again");
        assert_eq!(cached(&again), 2, "{from}: {}", again.err);
        let _ = id(again);
    }
    let _ = place.shell("echo more >tree/more").ok();
    assert_eq!(cached(&of("tree", "other")), 0);
    // By its path in a Dockerfile too, with layers of its own.
    let name = format!("{}/tree-{}:1", harness::registry(), std::process::id());
    place.write("work/Dockerfile", "FROM ./tree\nCMD cat /more\n");
    let _ = id(place.sampan(&["build", "-t", "tree", "-o", &format!("docker://{name}"), "."]));
    assert_eq!(place.sampan(&["--store", "other", "run", &name]).ok(), "more\n");
}
