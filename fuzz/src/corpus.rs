//! Small valid inputs: some made on the spot, so that they follow our writers,
//! some that other tools wrote, in `fuzz/corpus`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sif::{Arch, CreateOptions, FsKind, Kind, NewObject, PartKind, Partition};
use squashfs::{Compression, Meta, Node, NodeKind, Tree, Writer, WriterOptions};

fn bytes_of(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    read.expect("a temporary file is read");
    bytes
}

fn image(compression: Compression, files: usize) -> Vec<u8> {
    let out = tempfile::tempfile().expect("a temporary file");
    let options =
        WriterOptions { compression, block_size: 4096, threads: 1, ..WriterOptions::default() };
    let kept = out.try_clone().expect("a descriptor");
    let mut writer = Writer::new(out, options).expect("a writer");
    let meta = |mode| Meta {
        mode,
        uid: 5,
        gid: 7,
        mtime: 9,
        xattrs: vec![(b"user.a".to_vec(), b"value".to_vec())],
    };
    let mut tree = Tree::new(meta(0o755));
    let root = tree.root();
    let sub = tree.add(Node { meta: meta(0o700), kind: NodeKind::Directory(BTreeMap::new()) });
    tree.link(root, b"sub", sub);
    for index in 0..files {
        let len = [0, 10, 4096, 9000][index % 4];
        let data = vec![(index * 7) as u8 | 1; len];
        let data = writer.file(&mut &data[..], len as u64).expect("data");
        let node = tree.add(Node { meta: meta(0o644), kind: NodeKind::File(data) });
        let name = format!("file-{index:03}");
        tree.link(if index % 3 == 0 { sub } else { root }, name.as_bytes(), node);
    }
    for (name, kind) in [
        ("link", NodeKind::Symlink(b"sub/file-000".to_vec())),
        ("pipe", NodeKind::Fifo),
        ("tty", NodeKind::CharDevice { major: 5, minor: 0 }),
    ] {
        let node = tree.add(Node { meta: meta(0o600), kind });
        tree.link(root, name.as_bytes(), node);
    }
    writer.finish(&tree).expect("an image");
    bytes_of(kept)
}

/// Images of every compression; without compression, damage reaches the
/// structures themselves.
pub(crate) fn squashfs() -> Vec<Vec<u8>> {
    let mut all = files("squashfs");
    all.extend([
        image(Compression::None, 3),
        image(Compression::None, 12),
        image(Compression::None, 300),
        image(Compression::Zstd(1), 12),
        image(Compression::Gzip(6), 12),
        image(Compression::Lz4, 12),
        image(Compression::Xz, 5),
    ]);
    all
}

/// SIF files with one and with several objects; those of `corpus` are laid out as
/// Apptainer, Singularity 3 (data at 32,768) and SingularityCE 4 (OCI-SIF) do it.
pub(crate) fn sif() -> Vec<Vec<u8>> {
    let make = |count: usize| {
        let out = tempfile::NamedTempFile::new().expect("a temporary file");
        let file = out.reopen().expect("a descriptor");
        let arch = Arch::from_name("amd64");
        let options = CreateOptions { arch, time: Some(1), uuid: [1; 16], launch: true };
        let mut sif = sif::create(file, out.path(), &options).expect("a SIF file");
        for index in 0..count {
            let system = Partition { fs: FsKind::Squashfs, part: PartKind::Primary, arch };
            let partition = (index == 0).then_some(system);
            let kind = if index == 0 { Kind::Partition } else { Kind::OciBlob };
            let name = format!("object {index}");
            let digest = Some("sha256:00".to_owned());
            let new = NewObject { kind, name, group: 1, link: 0, partition, digest };
            sif.add(new, &mut &b"some data"[..]).expect("an object");
        }
        std::fs::read(out.path()).expect("a SIF file")
    };
    let mut all = files("sif");
    all.extend([make(1), make(5)]);
    all
}

/// Layers with every kind of entry and header.
pub(crate) fn tar() -> Vec<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header
    };
    let long = "d/".repeat(80) + "name";
    for (path, kind, data) in [
        ("dir", tar::EntryType::Directory, &b""[..]),
        ("dir/file", tar::EntryType::Regular, b"data"),
        (long.as_str(), tar::EntryType::Regular, b"long"),
        ("dir/.wh.gone", tar::EntryType::Regular, b""),
        ("pipe", tar::EntryType::Fifo, b""),
    ] {
        let mut header = header(kind, data.len() as u64);
        builder.append_data(&mut header, path, data).expect("an entry");
    }
    for (path, kind, to) in
        [("link", tar::EntryType::Symlink, "dir/file"), ("hard", tar::EntryType::Link, "dir/file")]
    {
        builder.append_link(&mut header(kind, 0), path, to).expect("a link");
    }
    let records = [("SCHILY.xattr.user.a", &b"b"[..]), ("uid", b"77"), ("mtime", b"1.5")];
    builder.append_pax_extensions(records).expect("records");
    builder.append_data(&mut header(tar::EntryType::Regular, 1), "pax", &b"x"[..]).expect("entry");
    let sparse = [("GNU.sparse.map", &b"0,2,5,2"[..]), ("GNU.sparse.size", b"8")];
    builder.append_pax_extensions(sparse).expect("records");
    builder
        .append_data(&mut header(tar::EntryType::Regular, 4), "holes", &b"abcd"[..])
        .expect("entry");
    let mut all = files("tar");
    all.push(builder.into_inner().expect("an archive"));
    all
}

/// The files of `fuzz/corpus/NAME`: what other tools wrote (mksquashfs 4.5, GNU tar
/// 1.34, mke2fs 1.47, binutils 2.40, the vendors' CDI tools), and small ones by hand.
///
/// # Panics
/// When there are none.
pub(crate) fn files(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = files.flatten().map(|entry| entry.path()).collect();
    // The same order everywhere, so that a seed means the same.
    paths.sort();
    let all = paths.iter().map(|path| std::fs::read(path).expect("a file of the corpus"));
    all.collect()
}
