//! SIF files, of Apptainer's form and of SingularityCE's OCI form, and what
//! `convert` and `sif` make of them.

use std::fs::File;
use std::path::Path;

use harness::Place;
use serde_json::Value;
use sif::{Arch, CreateOptions, FsKind, Kind, NewObject, PartKind, Partition};

/// A tree with the scripts of an image that a definition file made.
pub(crate) fn apptainer_tree(place: &Place) -> String {
    let root = place.image_dir();
    for (path, text) in [
        (".singularity.d/env/10-docker2singularity.sh", "export PATH=/bin\nexport A=image\n"),
        (
            ".singularity.d/env/90-environment.sh",
            "export B=\"$(echo made) by $SINGULARITY_NAME\"\n",
        ),
        (
            ".singularity.d/env/95-apps.sh",
            "if [ -n \"$SINGULARITY_APPNAME\" ]; then export APP=$SINGULARITY_APPNAME; fi\n",
        ),
        (".singularity.d/runscript", "#!/bin/sh\necho \"run: $A, $B, $*\"\n"),
        (".singularity.d/test", "#!/bin/sh\necho tested \"$@\"; exit 3\n"),
        ("scif/apps/solve/scif/runscript", "#!/bin/sh\necho \"app $APP: $*\"\n"),
    ] {
        let path = Path::new(&root).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    place.give(Path::new(&root));
    root
}

fn sif_of(place: &Place) -> String {
    let tree = apptainer_tree(place);
    let sif = place.path("work/image.sif").to_str().unwrap().to_owned();
    let _ = place.sampan(&["convert", &tree, &sif]).ok();
    sif
}

#[test]
fn scripts_of_the_image_are_honoured() {
    let place = Place::new();
    let sif = sif_of(&place);
    let run = |args: &[&str]| place.sampan(args);
    assert_eq!(run(&["run", &sif, "x", "y z"]).ok(), "run: image, made by image.sif, x y z\n");
    let out = run(&["exec", "--env", "A=$(id) 'q'", &sif, "sh", "-c", "echo \"$A|$B\""]).ok();
    assert_eq!(out, "$(id) 'q'|made by image.sif\n");
    let ran = run(&["test", &sif, "all"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, "tested all\n"));
    assert_eq!(run(&["run", "--app", "solve", &sif, "2"]).ok(), "app solve: 2\n");
    assert!(run(&["run", "--app", "nosuch", &sif]).fails(125).contains("nosuch"));
    assert_eq!(run(&["exec", &sif, "nosuchcommand"]).code, 127);
    assert!(run(&["inspect", "--test", &sif]).ok().contains("exit 3"));
    assert!(run(&["inspect", "--json", &sif]).ok().contains("runscript"));
    assert_eq!(run(&["inspect", "--list-apps", &sif]).ok(), "solve\n");
    let about: Value = serde_json::from_str(&run(&["inspect", "--all", &sif]).ok()).unwrap();
    let app = &about["data"]["attributes"]["apps"]["solve"];
    assert!(app["runscript"].as_str().unwrap().contains("app $APP"), "{about}");
    let of_app = run(&["inspect", "--app", "solve", "--runscript", &sif]).ok();
    assert_eq!(of_app.trim_end(), app["runscript"].as_str().unwrap());
    assert!(run(&["inspect", "--app", "nosuch", &sif]).fails(1).contains("list-apps"));
    assert!(run(&["run-help", &sif]).fails(1).contains("no help"));
    // Where Apptainer looks for it.
    let kept = place.shell("$sampan sif dump 1 image.sif").ok();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), about);
    // The directory that it was made from is the same image.
    let tree = place.image_dir();
    assert!(run(&["run", &tree]).ok().starts_with("run: image, made by rootfs"));
}

#[test]
fn objects_are_listed_added_and_removed() {
    let place = Place::new();
    let sif = sif_of(&place);
    let note = place.write("work/note.txt", "a note");
    let note = note.to_str().unwrap();
    let _ = place.sampan(&["sif", "add", "--type", "generic", &sif, note]).ok();
    let listed = place.sampan(&["sif", "list", "--json", &sif]).ok();
    let list: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let last = list.as_array().unwrap().last().unwrap();
    assert_eq!((last["name"].as_str(), last["size"].as_u64()), (Some("note.txt"), Some(6)));
    let id = last["id"].to_string();
    assert_eq!(place.sampan(&["sif", "dump", &id, &sif]).ok(), "a note");
    assert!(place.sampan(&["sif", "header", &sif]).ok().contains("amd64"));
    // The file itself, as long as it was.
    let size = std::fs::metadata(&sif).unwrap().len();
    let _ = place.sampan(&["sif", "add", "--type", "generic", "--name", "self", &sif, &sif]).ok();
    let listed = place.sampan(&["sif", "list", "--json", &sif]).ok();
    let list: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(list.as_array().unwrap().last().unwrap()["size"].as_u64(), Some(size));
    // Another system partition becomes the one that is run, and back.
    let other = place.image_file();
    let add = ["sif", "add", "--type", "partition", "--part", "system", &sif, &other];
    let _ = place.sampan(&add).ok();
    let found = place.sampan(&["sif", "list", "--json", &sif]).ok();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let ids: Vec<String> = found
        .as_array()
        .unwrap()
        .iter()
        .filter(|object| object["kind"] == "partition")
        .map(|object| object["id"].to_string())
        .collect();
    let _ = place.sampan(&["sif", "setprim", &ids[1], &sif]).ok();
    assert_eq!(place.sampan(&["exec", &sif, "cat", "/etc/marker"]).ok(), "from the image\n");
    let _ = place.sampan(&["sif", "setprim", &ids[0], &sif]).ok();
    let _ = place.sampan(&["sif", "del", &ids[1], &sif]).ok();
    let _ = place.sampan(&["sif", "del", &id, &sif]).ok();
    assert!(
        place.sampan(&["sif", "dump", &id, &sif]).fails(1).contains(&format!("no object {id}"))
    );
    assert!(place.sampan(&["run", &sif]).ok().starts_with("run: image"));
}

pub(crate) fn object(kind: Kind) -> NewObject {
    NewObject { kind, name: String::new(), group: 1, link: 0, partition: None, digest: None }
}

/// Writes a SIF file of these objects.
pub(crate) fn written(path: &Path, objects: Vec<(NewObject, Vec<u8>)>) {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let options =
        CreateOptions { arch: Arch::from_name("amd64"), time: None, uuid: [0; 16], launch: true };
    let mut sif = sif::create(file.unwrap(), path, &options).unwrap();
    for (object, bytes) in objects {
        sif.add(object, &mut &bytes[..]).unwrap();
    }
}

/// An OCI-SIF of layers, bottom first, each with the last word of its type.
pub(crate) fn oci_sif(place: &Place, layers: &[(&str, Vec<u8>)]) -> String {
    let digest = |bytes: &[u8]| format!("sha256:{}", harness::sha256(bytes));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/bin/echo", "entry"], "Cmd": ["default"], "Env": ["V=oci"]},
        "rootfs": {"type": "layers", "diff_ids": []},
    })
    .to_string()
    .into_bytes();
    let listed = layers.iter().map(|(form, bytes)| {
        let media = format!("application/vnd.sylabs.image.layer.v1.{form}");
        serde_json::json!({"digest": digest(bytes), "mediaType": media})
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "config": {"digest": digest(&config)},
        "layers": listed.collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let index = serde_json::json!({"manifests": [{"digest": digest(&manifest)}]}).to_string();
    let blob = |bytes: &[u8]| {
        let object = NewObject { digest: Some(digest(bytes)), ..object(Kind::OciBlob) };
        (object, bytes.to_vec())
    };
    // The odd bytes put the layers where no file system's block begins.
    let mut objects = vec![(object(Kind::Generic), b"odd".to_vec())];
    objects.extend(layers.iter().map(|(_, bytes)| blob(bytes)));
    objects.extend([blob(&config), blob(&manifest)]);
    objects.push((object(Kind::OciRootIndex), index.into_bytes()));
    let path = place.path("oci.sif");
    written(&path, objects);
    place.give(&path);
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_oci_image_with_a_squashfs_layer_is_served_in_place() {
    let place = Place::new();
    let layer = std::fs::read(place.image_file()).unwrap();
    let sif = &oci_sif(&place, &[("squashfs", layer)]);
    assert_eq!(place.sampan(&["run", sif]).ok(), "entry default\n");
    assert_eq!(place.sampan(&["run", sif, "other"]).ok(), "entry other\n");
    assert_eq!(place.sampan(&["exec", sif, "sh", "-c", "echo $V"]).ok(), "oci\n");
}

#[test]
fn what_cannot_be_run_says_why() {
    let place = Place::new();
    let path = place.path("odd.sif");
    let partition = |fs, arch: &str| {
        let system = Partition { fs, part: PartKind::Primary, arch: Arch::from_name(arch) };
        let object = NewObject { partition: Some(system), ..object(Kind::Partition) };
        vec![(object, vec![0; 4096])]
    };
    for (objects, word) in [
        (vec![], "no primary"),
        (partition(FsKind::EncryptedSquashfs, "amd64"), "encrypted"),
        (partition(FsKind::Gocryptfs, "amd64"), "encrypted"),
        (partition(FsKind::Ext3, "amd64"), "no ext2, ext3"),
        (partition(FsKind::Raw, "amd64"), "neither squashfs nor ext3"),
        (partition(FsKind::Squashfs, "s390x"), "architecture"),
        (partition(FsKind::Squashfs, "amd64"), "image"),
        (vec![(object(Kind::OciRootIndex), b"{}".to_vec())], "OCI"),
    ] {
        written(&path, objects);
        place.give(&path);
        let message = place.sampan(&["run", path.to_str().unwrap()]).fails(125);
        assert!(message.contains(word), "{word}: {message}");
    }
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[88] = 0xff;
    bytes[95] = 0x7f;
    std::fs::write(&path, &bytes).unwrap();
    assert!(place.sampan(&["run", path.to_str().unwrap()]).fails(125).contains("corrupt"));

    // Neither waited for nor taken for anything else.
    assert!(place.shell("mkfifo fifo; $sampan sif list ./fifo").fails(6).contains("no SIF file"));
    assert!(place.shell("$sampan sif list .").fails(6).contains("no SIF file"));
    let archive = place.shell("tar -cf some.tar fifo; $sampan run ./some.tar").fails(125);
    assert!(archive.contains("neither a SIF file nor squashfs"), "{archive}");
    assert!(archive.contains("docker-archive:FILE"), "{archive}");
}

#[test]
fn conversion_keeps_what_the_image_says() {
    let place = Place::new();
    let image = format!("docker://{}/base:latest", harness::registry());
    let owners = "stat -c '%u:%g %a %n' /etc/shadow /usr/bin/passwd /var/mail /usr/bin/chage";
    let of = |image: &str| {
        // The kernel's own mount shows true owners; only root may ask for it.
        let mut command = std::process::Command::new(harness::required("SAMPAN_BIN"));
        command.args(["exec", image, "sh", "-c", owners]).env("SAMPAN_STORE", place.path("store"));
        harness::run(&mut command).ok()
    };
    let _ = place.sampan(&["pull", "--quiet", &image]).ok();
    let script = format!(
        "export SOURCE_DATE_EPOCH=7; $sampan convert {image} one.sif && $sampan convert {image} two.sif \\
         && cmp one.sif two.sif && $sampan convert one.sif tree/ && $sampan convert ./tree three.sqfs \\
         && $sampan convert --compression gzip one.sif four.sqfs && ls -A"
    );
    let out = place.shell(&script).ok();
    assert_eq!(out.lines().last(), Some("two.sif"), "{out}");
    let files = ["one.sif", "three.sqfs", "four.sqfs"].map(|name| place.path("work").join(name));
    let all: Vec<String> = files.iter().map(|path| of(path.to_str().unwrap())).collect();
    assert!(all[0].contains("0:42 640 /etc/shadow") && all[0].contains("4755"), "{}", all[0]);
    assert_eq!(all[0], all[1], "a directory lost what the image says");
    assert_eq!(all[0], all[2]);
    // A bare squashfs file of an OCI image still knows its command.
    let _ = place.sampan(&["convert", &image, "five.sqfs"]).ok();
    let five = place.path("work/five.sqfs");
    assert_eq!(place.sampan(&["run", five.to_str().unwrap()]).code, 0);
    let ran = place.sampan(&["convert", &image, "one.sif"]);
    assert!(ran.fails(1).contains("one.sif"));
    assert!(place.sampan(&["convert", &image, "image.xyz"]).fails(1).contains("image.xyz"));
}
