//! The same words through sampan and Apptainer: same output, same exit code.
//!
//! Each test is left out of `cargo xtask test`, as Apptainer is in Debian sid alone;
//! `cargo xtask compat` installs it and runs them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use harness::{Place, Ran, registry, required, run};

/// Every section that says something of the finished image.
const DEFINITION: &str = r#"Bootstrap: docker
From: {{ BASE }}

%labels
    Author Somebody
    Version v1.2.3
%arguments
    BASE=nowhere
    WHO=world
%environment
    export GREETING="hello {{ WHO }}"
    export ODD='$HOME "q" `x`'
%post
    echo built > /built
    mkdir -p /opt/app
    echo "export POSTVAR=frompost" >> $APPTAINER_ENVIRONMENT
%runscript
    echo "run: $GREETING $# <$*> $APPTAINER_NAME $APPTAINER_CONTAINER $POSTVAR"
    for word in "$@"; do echo "[$word]"; done
    exit 7
%startscript
    echo "start: $*"
%test
    echo "test: $(cat /built) $*"
    [ "$1" != fail ]
%help
    This is the help.
    Second line.
%appinstall foo
    touch installed
%apprun foo
    echo "foo runs $SCIF_APPNAME $FOOVAR $SCIF_APPROOT $*"
%appenv foo
    export FOOVAR=fooval
%apphelp foo
    Help of foo
%applabels foo
    Tool foo
%apptest foo
    echo testing foo; test -e $SCIF_APPROOT/installed
%appstart foo
    echo app started
"#;

// Apptainer takes the home directory from passwd(5), not from HOME: no test prints it.

/// Words, with the image's file in place of IMG. Messages differ, outputs do not.
const WORDS: [&[&str]; 43] = [
    &["run", "IMG", "a", "b c", "$(id)", "*"],
    &["run", "IMG"],
    &["run", "--app", "foo", "IMG", "x", "y z"],
    &["exec", "IMG", "sh", "-c", "echo \"$GREETING|$ODD|$POSTVAR|$APPTAINER_NAME\""],
    &["exec", "IMG", "sh", "-c", "echo $SINGULARITY_NAME $SINGULARITY_CONTAINER"],
    &["exec", "--app", "foo", "IMG", "sh", "-c", "echo $FOOVAR $SCIF_APPNAME $SCIF_APPROOT"],
    &["exec", "--app", "foo", "IMG", "sh", "-c", "echo $SCIF_DATA $SCIF_APPDATA $SCIF_APPMETA"],
    &["test", "IMG"],
    &["test", "IMG", "fail"],
    &["test", "--app", "foo", "IMG"],
    &["run-help", "IMG"],
    &["run-help", "--app", "foo", "IMG"],
    &["inspect", "--labels", "IMG"],
    &["inspect", "--helpfile", "IMG"],
    &["inspect", "--runscript", "IMG"],
    &["inspect", "--startscript", "IMG"],
    &["inspect", "--test", "IMG"],
    &["inspect", "--environment", "IMG"],
    &["inspect", "--deffile", "IMG"],
    &["inspect", "--list-apps", "IMG"],
    &["inspect", "-lrdeHst", "IMG"],
    &["inspect", "--app", "foo", "--labels", "IMG"],
    &["inspect", "--app", "foo", "--runscript", "IMG"],
    &["inspect", "--app", "foo", "--helpfile", "IMG"],
    &["exec", "--env", "A=b c", "IMG", "sh", "-c", "echo \"$A\""],
    &["exec", "--contain", "IMG", "sh", "-c", "ls /tmp"],
    &["exec", "--containall", "IMG", "sh", "-c", "ls /tmp; echo $$ | wc -l"],
    &["exec", "--cleanenv", "IMG", "sh", "-c", "echo $PATH $GREETING"],
    &["exec", "--pwd", "/opt", "IMG", "pwd"],
    &["exec", "--cwd", "/opt", "IMG", "pwd"],
    &["exec", "--no-home", "IMG", "pwd"],
    &["exec", "-B", "/etc/hostname:/mnt/h:ro", "IMG", "cat", "/mnt/h"],
    &["exec", "--mount", "type=bind,src=/etc/hostname,dst=/mnt/h", "IMG", "cat", "/mnt/h"],
    &["exec", "--hostname", "boat", "IMG", "hostname"],
    &["exec", "--dns", "192.0.2.1", "IMG", "cat", "/etc/resolv.conf"],
    &["exec", "--writable-tmpfs", "IMG", "sh", "-c", "touch /x && ls /x"],
    &["exec", "--fakeroot", "IMG", "id", "-u"],
    &["exec", "--scratch", "/scratch", "IMG", "sh", "-c", "touch /scratch/x && ls /scratch"],
    &["exec", "--no-mount", "tmp", "IMG", "ls", "/tmp"],
    &["exec", "--compat", "IMG", "sh", "-c", "touch /x; ls /x; ls /tmp"],
    &["exec", "IMG", "touch", "/x"],
    &["exec", "IMG", "sh", "-c", "kill -9 $$"],
    &["exec", "IMG", "sh", "-c", "exit 3"],
];

/// Apptainer as the user, in the place.
fn apptainer(place: &Place, args: &[&str]) -> Ran {
    let user = required("SAMPAN_TEST_USER");
    let home = format!("HOME={}", place.path("home").display());
    let mut command = Command::new("nsenter");
    command
        .arg(required("SAMPAN_TEST_APPTAINER"))
        .args(["sh", "-c", "cd \"$0\"; exec \"$@\""])
        .arg(place.path("work"))
        .args(["setpriv", "--reuid", &user, "--regid", &user, "--init-groups", "env", "-i"])
        .args([&home, "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "apptainer"])
        .args(args)
        // The namespace has another root.
        .current_dir("/");
    run(&mut command)
}

/// Builds the definition with both; the files' names.
fn images(place: &Place) -> [&'static str; 2] {
    let base = format!("BASE={}/busybox:latest", registry());
    place.write("work/image.def", DEFINITION);
    let argument = ["--build-arg", &base];
    let build = ["build", "-F", "--no-https"];
    let words = [&build[..], &argument, &["theirs.sif", "image.def"]].concat();
    let _ = apptainer(place, &words).ok();
    let words = [&["build", "-o", "ours.sif", "-f", "image.def"][..], &argument, &["."]].concat();
    let _ = place.sampan(&words).ok();
    ["theirs.sif", "ours.sif"]
}

#[test]
#[ignore = "needs Apptainer: cargo xtask compat"]
fn the_same_words_mean_the_same() {
    let place = Place::new();
    for image in images(&place) {
        for words in WORDS {
            let words: Vec<&str> =
                words.iter().map(|word| if *word == "IMG" { image } else { word }).collect();
            let (theirs, ours) = (apptainer(&place, &words), place.sampan(&words));
            assert_eq!((ours.code, ours.out), (theirs.code, theirs.out), "{words:?}: {}", ours.err);
        }
    }
}

#[test]
#[ignore = "needs Apptainer: cargo xtask compat"]
fn metadata_has_the_same_form() {
    let place = Place::new();
    for image in images(&place) {
        let json = |ran: Ran| serde_json::from_str::<serde_json::Value>(&ran.ok()).unwrap();
        for words in [&["inspect", "--all", image][..], &["inspect", "--json", "-l", image]] {
            let (mut ours, mut theirs) =
                (json(place.sampan(words)), json(apptainer(&place, words)));
            for all in [&mut ours, &mut theirs] {
                // Whose scripts begin with an interpreter's name differs.
                let attributes = all["data"]["attributes"].as_object_mut().unwrap();
                attributes.remove("environment");
                if let Some(app) = attributes.get_mut("apps") {
                    app["foo"].as_object_mut().unwrap().remove("environment");
                }
            }
            assert_eq!(ours, theirs, "{words:?}");
        }
    }
}

#[test]
#[ignore = "needs Apptainer: cargo xtask compat"]
fn images_of_registries_and_files_changed_by_either() {
    let place = Place::new();
    let image = format!("docker://{}/numpy:latest", registry());
    let _ = place.sampan(&["convert", &image, "numpy.sif"]).ok();
    let _ = apptainer(&place, &["pull", "--no-https", "theirs.sif", &image]).ok();
    let version = ["exec", "IMG", "python3", "-c", "import numpy; print(numpy.__version__)"];
    let mut said = Vec::new();
    for file in ["numpy.sif", "theirs.sif"] {
        let words: Vec<&str> = version.iter().map(|w| if *w == "IMG" { file } else { w }).collect();
        said.extend([place.sampan(&words).ok(), apptainer(&place, &words).ok()]);
    }
    assert!(said.iter().all(|version| *version == said[0]), "{said:?}");

    // An object that one adds the other finds, and takes out again.
    place.write("work/note", "a note\n");
    let add = ["sif", "add", "--datatype", "6", "--filename", "note.txt"];
    let _ = apptainer(&place, &[&add[..], &["numpy.sif", "note"]].concat()).ok();
    let listed = place.sampan(&["sif", "list", "--json", "numpy.sif"]).ok();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let objects = listed.as_array().or_else(|| listed["objects"].as_array()).unwrap();
    let note = objects.iter().find(|object| object["name"] == "note.txt").unwrap();
    let id = note["id"].to_string();
    let dump = ["sif", "dump", &id, "numpy.sif"];
    assert_eq!(place.sampan(&dump).ok(), "a note\n");
    assert_eq!(apptainer(&place, &dump).ok(), "a note\n");
    let _ = place.sampan(&["sif", "del", &id, "numpy.sif"]).ok();
    assert!(!apptainer(&place, &["sif", "list", "numpy.sif"]).ok().contains("note"));
    assert!(apptainer(&place, &["exec", "numpy.sif", "true"]).code == 0);
}

#[test]
#[ignore = "needs Apptainer: cargo xtask compat"]
fn directories_of_either() {
    let place = Place::new();
    let _ = images(&place);
    let _ = apptainer(&place, &["build", "theirs-dir", "ours.sif"]).ok();
    let _ = place.sampan(&["convert", "./theirs.sif", "./ours-dir/"]).ok();
    for dir in ["./theirs-dir", "./ours-dir"] {
        for words in [&["run", dir, "a"][..], &["test", dir], &["exec", dir, "cat", "/built"]] {
            let (theirs, ours) = (apptainer(&place, words), place.sampan(words));
            assert_eq!((ours.code, ours.out), (theirs.code, theirs.out), "{words:?}: {}", ours.err);
        }
    }
}

#[test]
#[ignore = "needs Apptainer: cargo xtask compat"]
fn instances_are_used_the_same_way() {
    let place = Place::new();
    let _ = images(&place);
    let all = |tool: fn(&Place, &[&str]) -> Ran, name: &str| -> Vec<(i32, String)> {
        let at = format!("instance://{name}");
        let words: [&[&str]; 6] = [
            &["instance", "start", "./theirs.sif", name, "a", "b c"],
            &["instance", "start", "./theirs.sif", name],
            &["exec", &at, "sh", "-c", "cat /built; echo $GREETING; touch /tmp/here"],
            &["run", &at, "x"],
            &["instance", "stop", name],
            &["instance", "list", name],
        ];
        words.iter().map(|words| tool(&place, words)).map(|ran| (ran.code, ran.out)).collect()
    };
    let (theirs, ours) = (all(apptainer, "one"), all(Place::sampan, "two"));
    for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        // What is listed and what an error's number is are each tool's own.
        let (same, listed) = (ours.1 == theirs.1, step == 5);
        assert!(same || listed, "step {step}: {ours:?}, {theirs:?}");
        assert_eq!(ours.0 == 0, theirs.0 == 0, "step {step}: {ours:?}, {theirs:?}");
    }
}
