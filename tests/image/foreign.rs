//! Files as other programs write them, put together byte by byte, and archives of
//! theirs; images for another architecture.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Layout, Place, layer};
use serde_json::{Value, json};

use crate::sif_files::apptainer_tree;

/// An object of a SIF file.
struct Raw {
    kind: u32,
    name: &'static str,
    extra: Vec<u8>,
    align: usize,
    data: Vec<u8>,
}

const DEFINITION: u32 = 0x4001;
const PARTITION: u32 = 0x4004;
const JSON: u32 = 0x4006;
const ROOT_INDEX: u32 = 0x400a;
const BLOB: u32 = 0x400b;

fn raw(kind: u32, name: &'static str, data: &[u8]) -> Raw {
    Raw { kind, name, extra: Vec::new(), align: 1, data: data.to_vec() }
}

/// The primary partition, a squashfs image, for an architecture of this code.
fn primary(arch: &[u8; 2], data: Vec<u8>) -> Raw {
    let extra = [&1_u32.to_le_bytes()[..], &2_u32.to_le_bytes(), arch, &[0]].concat();
    Raw { extra, align: 4096, data, ..raw(PARTITION, "rootfs", b"") }
}

/// A SIF file: a header, 48 descriptors at 4096, and data from a place on. Neither
/// name nor offset is that of sampan's own writer.
fn sif(
    place: &Place,
    name: &str,
    launch: &[u8],
    arch: &[u8; 2],
    from: u64,
    all: Vec<Raw>,
) -> String {
    let (mut data, mut table) = (Vec::new(), Vec::new());
    let free = 48 - all.len() as u64;
    for (id, object) in (1_u32..).zip(all) {
        while !(from as usize + data.len()).is_multiple_of(object.align) {
            data.push(0);
        }
        let offset = from + data.len() as u64;
        let mut d = vec![0; 585];
        let mut put = |at: usize, bytes: &[u8]| d[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &object.kind.to_le_bytes());
        put(4, &[1]);
        put(5, &id.to_le_bytes());
        put(9, &0xf000_0001_u32.to_le_bytes());
        put(17, &offset.to_le_bytes());
        put(25, &(object.data.len() as u64).to_le_bytes());
        put(33, &(object.data.len() as u64).to_le_bytes());
        put(41, &1_600_000_000_u64.to_le_bytes());
        put(49, &1_600_000_000_u64.to_le_bytes());
        put(57, &1000_u64.to_le_bytes());
        put(65, &1000_u64.to_le_bytes());
        put(73, object.name.as_bytes());
        put(201, &object.extra);
        table.extend(d);
        data.extend(object.data);
    }
    let mut file = vec![0; from as usize];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, launch);
    put(32, b"SIF_MAGIC\0");
    put(42, b"01\0");
    put(45, arch);
    put(48, &[9; 16]);
    let numbers = [1_600_000_000, 1_600_000_000, free, 48, 4096, 48 * 585, from, data.len() as u64];
    for (index, number) in numbers.into_iter().enumerate() {
        put(64 + 8 * index, &number.to_le_bytes());
    }
    put(4096, &table);
    file.extend(data);
    let path = place.write(name, file);
    place.give(&path);
    path.to_str().unwrap().to_owned()
}

/// What mksquashfs(1) makes of a tree.
fn mksquashfs(place: &Place, tree: &Path, compression: &str) -> Vec<u8> {
    let to = place.path("made.sqfs");
    let _ = std::fs::remove_file(&to);
    let mut command = Command::new("mksquashfs");
    command.arg(tree).arg(&to).args([
        "-comp",
        compression,
        "-noappend",
        "-no-progress",
        "-all-root",
    ]);
    let _ = harness::run(&mut command).ok();
    std::fs::read(to).unwrap()
}

const LAUNCH: &[u8] = b"#!/usr/bin/env run-singularity\n";

/// As Singularity 3 has it, with the configuration that Apptainer adds.
fn singularity(place: &Place, arch: &[u8; 2]) -> String {
    let tree = apptainer_tree(place);
    let squashfs = mksquashfs(place, Path::new(&tree), "gzip");
    let said = json!({
        "Env": ["PATH=/bin", "A=oci"], "User": "7:8", "WorkingDir": "/etc", "Cmd": ["ls"],
        "Labels": {"who": "somebody"}, "ExposedPorts": {"80/tcp": {}},
    });
    let objects = vec![
        raw(DEFINITION, "deffile", b"Bootstrap: library\nFrom: busybox\n"),
        raw(JSON, "oci-config.json", said.to_string().as_bytes()),
        primary(arch, squashfs),
    ];
    sif(place, "old.sif", LAUNCH, arch, 32_768, objects)
}

#[test]
fn a_file_of_singularity_3_runs_and_is_converted() {
    let place = Place::new();
    let old = &singularity(&place, b"02");
    let run = place.sampan(&["run", old, "x"]).ok();
    assert_eq!(run, "run: image, made by old.sif, x\n");
    assert!(place.sampan(&["sif", "dump", "1", old]).ok().starts_with("Bootstrap: library"));
    let listed: Value =
        serde_json::from_str(&place.sampan(&["sif", "list", "--json", old]).ok()).unwrap();
    assert_eq!(listed[0]["offset"], 32_768);
    // Nothing is compressed again, as long as nobody asks for it.
    let _ = place
        .shell(&format!("$sampan convert {old} new.sif && $sampan convert {old} new.sqfs"))
        .ok();
    let _ = place.shell(&format!("$sampan convert --compression zstd {old} zstd.sqfs")).ok();
    let source = std::fs::read(place.path("made.sqfs")).unwrap();
    let bytes = |name: &str| std::fs::read(place.path("work").join(name)).unwrap();
    assert!(bytes("new.sqfs").starts_with(&source), "the image was written anew");
    assert!(bytes("new.sif").windows(96).any(|part| *part == source[..96]));
    assert_eq!(bytes("zstd.sqfs")[20], 6);
    let new = place.path("work/new.sif");
    let run = place.sampan(&["run", new.to_str().unwrap(), "x"]).ok();
    assert_eq!(run, "run: image, made by new.sif, x\n");
    assert!(place.shell("$sampan sif list new.sif").ok().contains("oci-config.json"));
    // What may be changed takes the change.
    let added = format!("$sampan sif add --type generic {old} new.sqfs && $sampan sif del 2 {old}");
    let _ = place.shell(&added).ok();
    assert!(place.sampan(&["run", old]).ok().starts_with("run: image"));
}

fn config_of(place: &Place, image: &str) -> Value {
    let image = format!("oci:{}/{image}", place.path("work").display());
    let text = harness::run(Command::new("skopeo").args(["inspect", "--config", &image])).ok();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_a_sif_file_keeps_of_an_oci_image_comes_back() {
    let place = Place::new();
    let old = singularity(&place, b"02");
    let _ = place.sampan(&["convert", &old, "oci:lay:one"]).ok();
    let process = config_of(&place, "lay:one")["config"].clone();
    assert_eq!((&process["User"], &process["WorkingDir"]), (&json!("7:8"), &json!("/etc")));
    assert_eq!(process["Env"], json!(["PATH=/bin", "A=oci"]));
    assert_eq!(process["Labels"]["who"], "somebody");
    // The definition file gave it a script of its own.
    assert_eq!(process["Entrypoint"], json!(["/.singularity.d/actions/run"]));
    assert!(process.get("Cmd").is_none(), "{process}");
    // One of sampan's own: the words of the image, through SIF and back.
    let mut layout = Layout::new(place.path("layout"));
    layout.config =
        json!({"Entrypoint": ["/bin/echo"], "Cmd": ["a b"], "User": "5", "Env": ["X=y"]});
    let source = layout.busybox().finish("v1");
    place.give(&place.path("layout"));
    let script = format!(
        "$sampan convert {source} a.sif && $sampan convert a.sif b.sif && \\
         $sampan convert b.sif oci:lay:two && $sampan convert b.sif c.oci.sif && \\
         $sampan run c.oci.sif"
    );
    assert!(place.shell(&script).ok().ends_with("a b\n"));
    assert_eq!(config_of(&place, "lay:two")["config"], layout.config);
    // Whatever it is, it is looked at.
    for text in ["{", "[]", r#"{"Env": 7}"#] {
        let tree = mksquashfs(&place, Path::new(&place.image_dir()), "gzip");
        let objects = vec![raw(JSON, "oci-config.json", text.as_bytes()), primary(b"02", tree)];
        let odd = sif(&place, "odd.sif", LAUNCH, b"02", 32_768, objects);
        let said = place.sampan(&["convert", &odd, "oci:lay:odd"]).fails(6);
        assert!(said.contains("oci-config.json"), "{text}: {said}");
        assert_eq!(place.sampan(&["exec", &odd, "cat", "/etc/marker"]).ok(), "from the image\n");
    }
}

/// As SingularityCE 4 writes it: nothing aligned, the index last, and what cosign
/// says of the image beside it.
fn oci_sif(place: &Place, architecture: &str) -> String {
    let base = mksquashfs(place, Path::new(&place.image_dir()), "gzip");
    let upper = place.path("upper");
    std::fs::create_dir_all(upper.join("etc")).unwrap();
    std::fs::create_dir_all(upper.join("bin")).unwrap();
    std::fs::write(upper.join("etc/marker"), "from the layer\n").unwrap();
    let _ =
        harness::run(Command::new("mknod").arg(upper.join("bin/ls")).args(["c", "0", "0"])).ok();
    let layers = [base, mksquashfs(place, &upper, "gzip")];
    let digest = |bytes: &[u8]| format!("sha256:{}", harness::sha256(bytes));
    let described = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": digest(bytes), "size": bytes.len()});
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["cat", "/etc/marker"]},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| digest(l)).collect::<Vec<_>>()},
    })
    .to_string()
    .into_bytes();
    let layer_type = "application/vnd.sylabs.image.layer.v1.squashfs";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|l| described(layer_type, l)).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    let signed = b"{\"critical\":{}}".to_vec();
    let signature = json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": described("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": [described("application/vnd.dev.cosign.simplesigning.v1+json", &signed)],
    })
    .to_string()
    .into_bytes();
    let mut entry = described(manifest_type, &signature);
    let name = format!("_cosign:{}.sig", digest(&manifest).replace(':', "-"));
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let manifests = [described(manifest_type, &manifest), entry];
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes();
    let [base, upper] = layers;
    let blobs = [base, upper, config, manifest, signed, b"{}".to_vec(), signature, index];
    let last = blobs.len() - 1;
    let objects = blobs.into_iter().enumerate().map(|(at, data)| {
        let kind = if at == last { ROOT_INDEX } else { BLOB };
        Raw { extra: digest(&data).into_bytes(), ..raw(kind, "", &data) }
    });
    let arch = if architecture == "amd64" { b"02" } else { b"04" };
    sif(place, "ce.oci.sif", b"", arch, 32_179, objects.collect())
}

#[test]
fn a_file_of_singularityce_4_is_served_in_place() {
    let place = Place::new();
    let ce = &oci_sif(&place, "amd64");
    assert_eq!(place.sampan(&["run", ce]).ok(), "from the layer\n");
    let look = "test -e /bin/ls || echo no ls";
    assert_eq!(place.sampan(&["exec", ce, "sh", "-c", look]).ok(), "no ls\n");
    let _ = place.sampan(&["convert", ce, "oci:lay:ce"]).ok();
    assert_eq!(config_of(&place, "lay:ce")["config"]["Cmd"], json!(["cat", "/etc/marker"]));
}

#[test]
fn an_image_for_another_architecture_is_only_not_run() {
    let place = Place::new();
    for image in [singularity(&place, b"04"), oci_sif(&place, "arm64")] {
        for verb in ["run", "exec", "shell"] {
            let said = place.sampan(&[verb, &image, "true"]).fails(125);
            assert!(said.contains("another architecture"), "{verb} {image}: {said}");
        }
        assert!(place.sampan(&["inspect", "--json", &image]).code == 0, "{image}");
        let script = format!(
            "$sampan convert --force {image} out.sif && $sampan sif header out.sif && \\
             $sampan convert --force {image} out.oci.sif && $sampan sif header out.oci.sif"
        );
        let headers = place.shell(&script).ok();
        assert_eq!(headers.matches("arm64").count(), 2, "{headers}");
        let tag = format!("oci:lay:{}", image.len());
        let _ = place.sampan(&["convert", &image, &tag]).ok();
        let config = config_of(&place, &format!("lay:{}", image.len()));
        assert_eq!(config["architecture"], "arm64");
    }
    // The same of an image that is fetched.
    let mut layout = Layout::new(place.path("layout"));
    layout.architecture = "arm64";
    let source = layout.busybox().finish("v1");
    place.give(&place.path("layout"));
    let script = format!(
        "$sampan convert --platform linux/arm64 {source} arm.sif && $sampan sif header arm.sif"
    );
    assert!(place.shell(&script).ok().contains("arm64"));
}

#[test]
fn nothing_is_younger_than_the_epoch() {
    let place = Place::new();
    let mut layout = Layout::new(place.path("layout"));
    let mut add = |time: u64| {
        layout.layer(&layer(|builder| {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.set_mtime(time);
            builder.append_data(&mut header, format!("at{time}"), &b"x"[..]).unwrap();
        }));
    };
    add(5);
    add(2_000_000_000);
    let source = layout.finish("v1");
    place.give(&place.path("layout"));
    let times = "stat -c '%n %Y' t/at*";
    let script = format!(
        "export SOURCE_DATE_EPOCH=1000; $sampan convert {source} a.sqfs && sleep 1 && \\
         $sampan convert {source} b.sqfs && cmp a.sqfs b.sqfs && $sampan convert {source} t/ && {times}"
    );
    let out = place.shell(&script).ok();
    assert!(out.ends_with("t/at2000000000 1000\nt/at5 5\n"), "{out}");
    let bytes = std::fs::read(place.path("work/a.sqfs")).unwrap();
    assert_eq!(bytes[8..12], 1000_u32.to_le_bytes());
    let said =
        place.shell(&format!("SOURCE_DATE_EPOCH=now $sampan convert {source} c.sif")).fails(2);
    assert!(said.contains("SOURCE_DATE_EPOCH") && said.contains("\"now\""), "{said}");
}

/// An archive of Docker before 25, whose second layer is the first one again.
fn saved(place: &Place) -> PathBuf {
    let base = {
        let root = place.path("root");
        harness::busybox_root(&root);
        layer(|builder| builder.append_dir_all(".", &root).unwrap())
    };
    let diff_id = format!("sha256:{}", harness::sha256(&base));
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["cat", "/etc/marker"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id, diff_id]},
    });
    let manifest = json!([{
        "Config": "config.json", "RepoTags": ["a/b:1"], "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    let archive = layer(|builder| {
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add("one/layer.tar", &base);
        add("config.json", config.to_string().as_bytes());
        add("manifest.json", manifest.to_string().as_bytes());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "two/layer.tar", "../one/layer.tar").unwrap();
    });
    let path = place.write("work/saved.tar", archive);
    place.give(&path);
    path
}

#[test]
fn archives_have_links_and_are_compressed() {
    let place = Place::new();
    let _ = saved(&place);
    let run = |name: &str| place.sampan(&["run", &format!("docker-archive:{name}")]);
    assert_eq!(run("saved.tar").ok(), "from the image\n");
    let _ = place
        .shell("gzip -k saved.tar; xz -k0 saved.tar; zstd -q saved.tar; bzip2 -k saved.tar")
        .ok();
    for ending in ["gz", "xz", "zst"] {
        assert_eq!(run(&format!("saved.tar.{ending}")).ok(), "from the image\n", "{ending}");
    }
    assert!(run("saved.tar.bz2").fails(125).contains("bunzip2"));
    assert!(place.shell("$sampan load -i saved.tar.gz").ok().contains("a/b:1"));
    let bomb = "SAMPAN_SIZE_LIMIT=100K $sampan run docker-archive:saved.tar.gz";
    assert!(place.shell(bomb).fails(125).contains("size limit"));
    assert_eq!(place.shell("find $TMPDIR /tmp -name '.archive*' 2>/dev/null | wc -l").ok(), "0\n");
}

#[test]
fn an_image_without_a_test_passes() {
    let place = Place::new();
    let ran = place.sampan(&["test", &place.image_file()]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert!(ran.err.contains("no test script"), "{}", ran.err);
}
