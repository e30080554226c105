//! Images of several file systems, stacked where they are: layers of OCI-SIF
//! files, overlay partitions, ext3.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::Place;
use sif::{Arch, FsKind, Kind, NewObject, PartKind, Partition};
use squashfs::{Meta, Node, NodeKind, Tree, Writer, WriterOptions};

use crate::sif_files::{object, oci_sif, written};

/// A layer in the form of overlayfs: it replaces `/etc/marker`, removes
/// `/bin/ls`, and hides all of `/opt` but one file.
fn upper_layer(place: &Place) -> Vec<u8> {
    let path = place.path("layer.sqfs");
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path);
    let mut writer = Writer::new(file.unwrap(), WriterOptions::default()).unwrap();
    let meta = |mode| Meta { mode, ..Meta::default() };
    let mut tree = Tree::new(meta(0o755));
    let root = tree.root();
    let directory = |meta| Node { meta, kind: NodeKind::Directory(Default::default()) };
    let etc = tree.add(directory(meta(0o755)));
    let bin = tree.add(directory(meta(0o755)));
    let mark = (b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
    let opt = tree.add(directory(Meta { xattrs: vec![mark], ..meta(0o750) }));
    for (name, dir) in [(&b"etc"[..], etc), (b"bin", bin), (b"opt", opt)] {
        tree.link(root, name, dir);
    }
    let data = writer.file(&mut &b"from the layer\n"[..], 15).unwrap();
    let marker = tree.add(Node { meta: meta(0o644), kind: NodeKind::File(data) });
    tree.link(etc, b"marker", marker);
    tree.link(opt, b"only", marker);
    let kind = NodeKind::CharDevice { major: 0, minor: 0 };
    let gone = tree.add(Node { meta: meta(0), kind });
    tree.link(bin, b"ls", gone);
    writer.finish(&tree).unwrap();
    std::fs::read(path).unwrap()
}

/// An overlay that Apptainer would have written to: ext3 with `upper` and
/// `work`.
fn ext3_overlay(place: &Place) -> Vec<u8> {
    let (tree, image) = (place.path("overlay"), place.path("overlay.img"));
    std::fs::create_dir_all(tree.join("upper/etc")).unwrap();
    std::fs::create_dir_all(tree.join("work/work")).unwrap();
    std::fs::write(tree.join("upper/etc/third"), "from ext3\n").unwrap();
    ext3(&tree, &image, "cd upper/etc\nmknod passwd c 0 0\n");
    std::fs::read(image).unwrap()
}

/// A file system of a tree, changed by commands of debugfs(8).
fn ext3(tree: &Path, image: &Path, commands: &str) {
    let [tree, image] = [tree, image].map(|path| path.to_str().unwrap());
    let make = Command::new("mke2fs").args(["-q", "-t", "ext3", "-d", tree, image, "16m"]).output();
    assert!(make.unwrap().status.success());
    let script = format!("{image}.cmd");
    std::fs::write(&script, commands).unwrap();
    let ran = Command::new("debugfs").args(["-w", "-f", &script, image]).output();
    assert!(ran.unwrap().status.success());
}

const LOOK: &str =
    "cat /etc/marker; test -e /bin/ls || echo no ls; echo /opt/*; stat -c %a /opt; cat /etc/third";

#[test]
fn layers_are_stacked_where_they_are() {
    let place = Place::new();
    let base = std::fs::read(place.image_file()).unwrap();
    let layers =
        [("squashfs", base), ("squashfs", upper_layer(&place)), ("ext3", ext3_overlay(&place))];
    let sif = oci_sif(&place, &layers);
    let expected = "from the layer\nno ls\n/opt/only\n750\nfrom ext3\n";
    // The second start joins the first one's server.
    for _ in 0..2 {
        assert_eq!(place.sampan(&["exec", &sif, "sh", "-c", LOOK]).ok(), expected);
    }
    let alone = ["exec", "--env", "X=y", "--writable-tmpfs", &sif, "sh", "-c", LOOK];
    assert_eq!(place.sampan(&alone).ok(), expected);
    assert_eq!(place.sampan(&["run", &sif]).ok(), "entry default\n");
    let plan = place.sampan(&["exec", "--dry-run", &sif, "true"]).ok();
    assert_eq!(plan.matches("squashfs /").count(), 3, "{plan}");
    // Of one piece it is the same image.
    let script = format!(
        "$sampan convert {sif} flat.sif && $sampan convert {sif} flat.sqfs && $sampan convert {sif} tree/"
    );
    let _ = place.shell(&script).ok();
    for name in ["flat.sif", "flat.sqfs", "tree"] {
        let image = place.path("work").join(name);
        let image = image.to_str().unwrap();
        assert_eq!(place.sampan(&["exec", image, "sh", "-c", LOOK]).ok(), expected, "{name}");
    }
    let flat = place.path("work/flat.sqfs");
    let listed = Command::new("unsquashfs").args(["-ll", flat.to_str().unwrap()]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("only") && !listed.contains("bin/ls"), "{listed}");
    // Without /dev/fuse it is unpacked, as one tree.
    let mut hidden = Command::new("unshare");
    hidden.args(["-m", "bash", "-c", "mount --bind /dev/null /dev/fuse; exec \"$@\"", "-"]);
    let inner = place.sampan_command(&["exec", &sif, "sh", "-c", LOOK]);
    hidden
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(inner.get_envs().filter_map(|(name, value)| value.map(|value| (name, value))));
    assert_eq!(harness::run(&mut hidden).ok(), expected);
}

fn partition(fs: FsKind, part: PartKind, bytes: Vec<u8>) -> (NewObject, Vec<u8>) {
    let partition = Partition { fs, part, arch: Arch::from_name("amd64") };
    (NewObject { partition: Some(partition), ..object(Kind::Partition) }, bytes)
}

fn sif_of(place: &Place, objects: Vec<(NewObject, Vec<u8>)>) -> PathBuf {
    let path = place.path("stack.sif");
    written(&path, objects);
    place.give(&path);
    path
}

#[test]
fn overlay_partitions_lie_over_the_image() {
    let place = Place::new();
    let base = std::fs::read(place.image_file()).unwrap();
    let overlay = ext3_overlay(&place);
    let sif = sif_of(
        &place,
        vec![
            partition(FsKind::Squashfs, PartKind::Primary, base),
            partition(FsKind::Squashfs, PartKind::Overlay, upper_layer(&place)),
            partition(FsKind::Ext3, PartKind::Overlay, overlay.clone()),
        ],
    );
    let sif = sif.to_str().unwrap();
    let expected = "from the layer\nno ls\n/opt/only\n750\nfrom ext3\n";
    assert_eq!(place.sampan(&["exec", sif, "sh", "-c", LOOK]).ok(), expected);
    // The tools of a system partition are its own, and it may be ext3.
    let (tree, image) = (PathBuf::from(place.image_dir()), place.path("root.img"));
    ext3(&tree, &image, "set_inode_field /etc/marker uid 42\n");
    let root = std::fs::read(&image).unwrap();
    let objects = vec![
        partition(FsKind::Ext3, PartKind::Primary, root),
        partition(FsKind::Ext3, PartKind::Overlay, overlay),
    ];
    let sif = sif_of(&place, objects);
    let look = "cat /etc/marker /etc/third";
    let out = place.sampan(&["exec", sif.to_str().unwrap(), "sh", "-c", look]).ok();
    assert_eq!(out, "from the image\nfrom ext3\n");
    // A file system as Singularity 2 had it, and one behind its launcher.
    place.give(&image);
    let exec = |path: &Path| place.sampan(&["exec", path.to_str().unwrap(), "cat", "/etc/marker"]);
    assert_eq!(exec(&image).ok(), "from the image\n");
    let launcher = b"#!/usr/bin/env run-singularity\n".to_vec();
    for (index, bytes) in
        [std::fs::read(&image), std::fs::read(place.image_file())].into_iter().enumerate()
    {
        let path = place.path(&format!("old{index}.img"));
        std::fs::write(&path, [launcher.clone(), bytes.unwrap()].concat()).unwrap();
        place.give(&path);
        assert_eq!(exec(&path).ok(), "from the image\n");
    }
}
