//! Against squashfs-tools, both ways: what mksquashfs writes we read, what we
//! write unsquashfs reads. The tools have to be installed.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, setxattr};
use squashfs::{
    Compression, Image, Inode, InodeKind, Meta, Node, NodeKind, ReaderOptions, Tree, Writer,
    WriterOptions,
};

/// A tree with one of everything an unprivileged user can make.
fn sample(root: &Path) {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for n in 0..3000 {
        fs::write(root.join(format!("many/file-{n:05}-{}", "x".repeat(n % 60))), format!("{n}"))
            .unwrap();
    }
    let noise: Vec<u8> =
        (0..1_000_003u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(root.join("noise"), &noise).unwrap();
    fs::write(root.join("a/same-as-noise"), &noise).unwrap();
    fs::write(root.join("text"), "squashfs ".repeat(40_000)).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("a/b/c/one"), "1").unwrap();
    fs::write(root.join("l".repeat(255)), "long").unwrap();
    fs::hard_link(root.join("text"), root.join("a/hard")).unwrap();
    symlink("../text", root.join("a/link")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    sparse.write_all_at(b"middle", 1_500_000).unwrap();
    fs::set_permissions(root.join("text"), fs::Permissions::from_mode(0o4751)).unwrap();
    // A long value that several have is stored once, away from their names.
    let long = "long ".repeat(300);
    for (name, own) in [("text", "1"), ("empty", "2"), ("a", "3"), ("many/file-00000-", "4")] {
        for (key, value) in [("user.own", own), ("user.long", &long), ("user.none", "")] {
            let flags = XattrFlags::empty();
            setxattr(root.join(name), key, value.as_bytes(), flags).unwrap();
        }
        // Root alone may have these.
        let _ = setxattr(root.join(name), "trusted.t", own.as_bytes(), XattrFlags::empty());
        let _ = setxattr(root.join(name), "security.s", b"\0\xff", XattrFlags::empty());
    }
    for (number, name) in (1..).zip(["noise", "a/b/c", "a/b/c/one", "sparse"]) {
        let time = UNIX_EPOCH + Duration::from_secs(number * 1_000_000_001);
        File::open(root.join(name)).unwrap().set_modified(time).unwrap();
    }
    assert!(Command::new("mkfifo").arg(root.join("fifo")).status().unwrap().success());
}

/// Owners and devices, which mksquashfs makes without being root.
const PSEUDO: [(&str, &str); 5] = [
    ("dev", "d 711 3 4"),
    ("dev/null", "c 666 1000000 5 1 3"),
    ("dev/large", "b 640 0 65534 259 70000"),
    ("dev/other", "c 600 6 4000000000 4095 255"),
    ("empty", "m 604 4294967295 8"),
];

/// What a name in a tree is, in a comparable form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    kind: String,
    mode: u32,
    /// Of anything but a directory.
    nlink: u64,
    sum: u64,
    owner: (u32, u32),
    mtime: i64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

type Listing = BTreeMap<String, Entry>;

fn xattrs_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let len = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    let known = |name: &&[u8]| {
        [&b"user."[..], b"trusted.", b"security."].iter().any(|prefix| name.starts_with(prefix))
    };
    names
        .filter(known)
        .map(|name| {
            let mut value = vec![0; 65_536];
            let len = lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

fn of_directory(root: &Path, at: &Path, out: &mut Listing) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let (kind, sum) = if meta.is_dir() {
            of_directory(root, &path, out);
            ("dir".to_owned(), 0)
        } else if meta.is_symlink() {
            (format!("link {}", fs::read_link(&path).unwrap().display()), 0)
        } else if meta.is_file() {
            ("file".to_owned(), sum(&fs::read(&path).unwrap()))
        } else {
            ("fifo".to_owned(), 0)
        };
        let entry = Entry {
            kind,
            mode: meta.mode() & 0o7777,
            nlink: if meta.is_dir() { 0 } else { meta.nlink() },
            sum,
            owner: (meta.uid(), meta.gid()),
            mtime: meta.mtime(),
            xattrs: xattrs_of(&path),
        };
        out.insert(name, entry);
    }
}

/// Adds to what a tree has what [`PSEUDO`] adds to its image.
fn with_pseudo(tree: &mut Listing) {
    for (name, words) in PSEUDO {
        let words: Vec<&str> = words.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().unwrap();
        let entry = tree.entry(name.to_owned()).or_default();
        match words[0] {
            "d" => "dir".clone_into(&mut entry.kind),
            "c" | "b" => entry.kind = format!("{} {}:{}", words[0], number(4), number(5)),
            _ => {}
        }
        entry.nlink = u64::from(words[0] != "d");
        entry.mode = u32::from_str_radix(words[1], 8).unwrap();
        entry.owner = (number(2), number(3));
    }
}

fn of_image(image: &Image, dir: &Inode, at: &str, out: &mut Listing) {
    let mut entries = image.read_dir(dir, 0).unwrap();
    loop {
        // Another reading goes on from here.
        let mut other = image.read_dir_at(&entries.position()).unwrap();
        let Some(entry) = entries.next() else {
            assert!(other.next().is_none());
            break;
        };
        let entry = entry.unwrap();
        assert_eq!(other.next().unwrap().unwrap(), entry);
        let text = String::from_utf8(entry.name.clone()).unwrap();
        let name = if at.is_empty() { text } else { format!("{at}/{text}") };
        let found = image.lookup(dir, &entry.name).unwrap().unwrap();
        assert_eq!(found, entry);
        let inode = image.inode(entry.inode).unwrap();
        assert_eq!(inode.number, entry.inode_number);
        let exported = image.superblock().export_table != squashfs::format::ABSENT;
        assert_eq!(image.by_number(inode.number).unwrap(), exported.then_some(entry.inode));
        let (kind, sum) = match &inode.kind {
            InodeKind::Directory { .. } => {
                of_image(image, &inode, &name, out);
                ("dir".to_owned(), 0)
            }
            InodeKind::Symlink { .. } => {
                let target = image.read_link(&inode).unwrap();
                (format!("link {}", String::from_utf8(target).unwrap()), 0)
            }
            InodeKind::File { size, .. } => {
                let mut bytes = vec![0; usize::try_from(*size).unwrap()];
                // Pieces of an odd size cross block borders everywhere.
                for (index, piece) in bytes.chunks_mut(77_777).enumerate() {
                    let len = piece.len();
                    assert_eq!(image.read(&inode, index as u64 * 77_777, piece).unwrap(), len);
                }
                ("file".to_owned(), sum(&bytes))
            }
            InodeKind::CharDevice { major, minor } => (format!("c {major}:{minor}"), 0),
            InodeKind::BlockDevice { major, minor } => (format!("b {major}:{minor}"), 0),
            InodeKind::Fifo => ("fifo".to_owned(), 0),
            InodeKind::Socket => ("socket".to_owned(), 0),
        };
        let xattrs: BTreeMap<_, _> = image.xattrs(&inode).unwrap().into_iter().collect();
        let names: Vec<Vec<u8>> = image.xattr_list(&inode).unwrap();
        assert_eq!(names.iter().collect::<BTreeSet<_>>(), xattrs.keys().collect());
        for (name, value) in &xattrs {
            assert_eq!(image.xattr(&inode, name).unwrap().as_ref(), Some(value));
        }
        let entry = Entry {
            nlink: if kind == "dir" { 0 } else { u64::from(inode.nlink) },
            kind,
            mode: u32::from(inode.mode),
            sum,
            owner: (inode.uid, inode.gid),
            mtime: i64::from(inode.mtime),
            xattrs,
        };
        out.insert(name, entry);
    }
    assert_eq!(image.lookup(dir, b"no such name").unwrap(), None);
    assert_eq!(image.lookup(dir, b"zzzz").unwrap(), None);
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(14_695_981_039_346_656_037, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(1_099_511_628_211)
    })
}

fn listing(image: &Image) -> Listing {
    let mut out = Listing::new();
    of_image(image, &image.inode(image.root()).unwrap(), "", &mut out);
    out
}

fn open(path: &Path) -> Image {
    Image::open(File::open(path).unwrap(), 0, ReaderOptions::default()).unwrap()
}

#[test]
fn what_mksquashfs_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample(&tree);
    let mut expected = Listing::new();
    of_directory(&tree, &tree, &mut expected);
    with_pseudo(&mut expected);
    assert!(expected["text"].xattrs.len() >= 3);
    let methods = [
        "-comp gzip",
        "-comp gzip -Xcompression-level 1 -Xwindow-size 8 -Xstrategy huffman_only",
        "-comp xz",
        "-comp xz -Xbcj x86 -Xdict-size 8K",
        "-comp lz4",
        "-comp lz4 -Xhc",
        "-comp lzo",
        "-comp lzo -Xalgorithm lzo1x_1",
        "-comp zstd",
        "-comp zstd -Xcompression-level 22",
    ];
    let shapes = [
        "",
        "-b 8192",
        "-b 4096",
        "-b 1M",
        "-b 1M -always-use-fragments",
        "-noI -noD -noF -noX",
        "-noI -noId",
        "-noD",
        "-noF",
        "-noX",
        "-b 4096 -tailends",
        "-no-fragments",
        "-always-use-fragments -b 65536",
        "-no-exports -no-xattrs",
        "-no-duplicates -nopad",
        "-all-root -no-hardlinks",
        "-reproducible -mkfs-time 1 -all-time 1",
        "-no-sparse -processors 1",
    ];
    let file = dir.path().join("image");
    for (tools, bin) in tools() {
        // Every method in one shape, every shape by one method, and some of the rest.
        let all = methods.iter().enumerate().flat_map(|(m, method)| {
            let some = move |s: &usize| *s == 0 || m == 0 || (s + m).is_multiple_of(4);
            (0..shapes.len()).filter(some).map(move |s| (method, shapes[s]))
        });
        for (method, shape) in all {
            let mut make = Command::new(bin.join("mksquashfs"));
            make.arg(&tree).arg(&file).args(["-noappend", "-quiet", "-no-progress"]);
            for (name, words) in PSEUDO {
                make.args(["-p", &format!("{name} {words}")]);
            }
            let words = method.split(' ').chain(shape.split(' ')).filter(|word| !word.is_empty());
            let output = make.args(words).output().expect("install squashfs-tools");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{tools}: {method} {shape}: {said}");
            let mut got = listing(&open(&file));
            let mut expected = expected.clone();
            for (name, entry) in &mut expected {
                if shape.contains("-no-hardlinks") && entry.kind != "dir" {
                    entry.nlink = 1;
                }
                if shape.contains("-all-root") {
                    entry.owner = (0, 0);
                }
                if shape.contains("-no-xattrs") {
                    entry.xattrs.clear();
                }
                if shape.contains("-all-time 1") {
                    entry.mtime = 1;
                } else if name.starts_with("dev") {
                    // Made when the image was.
                    entry.mtime = got[name].mtime;
                }
            }
            for (name, entry) in &expected {
                let got = got.remove(name);
                assert_eq!(got.as_ref(), Some(entry), "{tools}: {method} {shape}: {name}");
            }
            assert_eq!(got, Listing::new(), "{tools}: {method} {shape}");
        }
    }
}

/// squashfs-tools: the installed ones, and newer ones where the set-up has put
/// some.
fn tools() -> Vec<(&'static str, PathBuf)> {
    let newer = std::env::var_os("SAMPAN_TEST_TOOLS").map(|dir| ("newer", PathBuf::from(dir)));
    [("installed", PathBuf::new())].into_iter().chain(newer).collect()
}

#[test]
fn an_image_may_start_at_any_byte() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        write(dir.path(), "plain", &small(WriterOptions::default()), WriterOptions::default());
    let mut bytes = vec![7; 12_345];
    bytes.extend(fs::read(&file).unwrap());
    bytes.extend([9; 100]);
    let image = Image::open(bytes, 12_345, ReaderOptions::default()).unwrap();
    assert_eq!(listing(&image), listing(&open(&file)));
}

/// What to write: paths, with contents for files.
type Spec = Vec<(String, Option<Vec<u8>>)>;

fn small(options: WriterOptions) -> Spec {
    let block = options.block_size as usize;
    let pattern = |len: usize| (0..len).map(|n| (n / 3) as u8).collect::<Vec<u8>>();
    let mut spec: Spec = vec![("d".into(), None), ("d/e".into(), None), ("n".into(), None)];
    let sizes = [0, 1, block - 1, block, block + 1, 3 * block, 3 * block + 5];
    for (index, size) in sizes.into_iter().enumerate() {
        spec.push((format!("d/f{index}"), Some(pattern(size))));
        spec.push((format!("d/e/copy{index}"), Some(pattern(size))));
    }
    spec.push(("zero".into(), Some(vec![0; 2 * block + 9])));
    for n in 0..1500 {
        let name = format!("n/{n:04}-{}", "y".repeat(n % 50));
        spec.push((name, Some(format!("{n}").into_bytes())));
    }
    spec
}

/// A file that has attributes.
const NOTED: &str = "d/f3";

fn noted() -> Vec<(Vec<u8>, Vec<u8>)> {
    let large: Vec<u8> = (0..3000_u32).map(|n| (n / 5) as u8).collect();
    vec![(b"user.large".to_vec(), large), (b"user.empty".to_vec(), Vec::new())]
}

fn write(dir: &Path, name: &str, spec: &Spec, options: WriterOptions) -> PathBuf {
    let path = dir.join(name);
    let out = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut writer = Writer::new(out, options).unwrap();
    let meta = |mode| Meta { mode, uid: 1234, gid: 77, mtime: 1_600_000_000, xattrs: vec![] };
    let mut tree = Tree::new(meta(0o755));
    let mut dirs = BTreeMap::from([(String::new(), tree.root())]);
    for (path, contents) in spec {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = dirs[parent];
        let node = match contents {
            None => Node { meta: meta(0o750), kind: NodeKind::Directory(BTreeMap::new()) },
            Some(bytes) => {
                let len = bytes.len() as u64;
                let data = match path.len() % 3 {
                    0 => writer.file_stored(&mut &bytes[..], len),
                    _ => writer.file(&mut &bytes[..], len),
                };
                let data = data.unwrap();
                let xattrs = if path == NOTED { noted() } else { Vec::new() };
                Node { meta: Meta { xattrs, ..meta(0o640) }, kind: NodeKind::File(data) }
            }
        };
        let id = tree.add(node);
        tree.link(parent, name.as_bytes(), id);
        if contents.is_none() {
            dirs.insert(path.clone(), id);
        }
    }
    let special = [
        ("char", NodeKind::CharDevice { major: 1, minor: 3 }),
        ("fifo", NodeKind::Fifo),
        ("link", NodeKind::Symlink(b"d/f1".to_vec())),
        ("socket", NodeKind::Socket),
    ];
    for (name, kind) in special {
        let xattrs = vec![
            (b"user.note".to_vec(), name.as_bytes().to_vec()),
            (b"security.capability".to_vec(), vec![1, 0, 0, 2]),
        ];
        let id = tree.add(Node { meta: Meta { xattrs, ..meta(0o644) }, kind });
        tree.link(tree.root(), name.as_bytes(), id);
    }
    let hard = tree.child(dirs["d"], b"f1").unwrap();
    tree.link(tree.root(), b"hard", hard);
    writer.finish(&tree).unwrap();
    path
}

#[test]
fn what_we_write_is_read_by_us_and_by_unsquashfs() {
    let default = WriterOptions::default();
    for (index, options) in [
        default,
        WriterOptions { compression: Compression::Gzip(6), ..default },
        WriterOptions { compression: Compression::Xz, ..default },
        WriterOptions { compression: Compression::Lz4, ..default },
        WriterOptions { compression: Compression::None, ..default },
        WriterOptions { block_size: 4096, exportable: false, ..default },
        WriterOptions { block_size: 1 << 20, threads: 1, ..default },
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let spec = small(options);
        let file = write(dir.path(), "image", &spec, options);
        let ours = listing(&open(&file));
        for (path, contents) in &spec {
            let Entry { mode, sum: got, .. } = &ours[path];
            match contents {
                Some(bytes) => assert_eq!((*mode, *got), (0o640, sum(bytes)), "{path}"),
                None => assert_eq!(*mode, 0o750, "{path}"),
            }
        }
        assert_eq!(ours["hard"].nlink, 2);
        for (tools, bin) in tools() {
            unpacks(&format!("{index}, {tools}"), &bin.join("unsquashfs"), &file, &spec);
        }
    }
}

fn unpacks(what: &str, unsquashfs: &Path, file: &Path, spec: &Spec) {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    let mut unpack = Command::new(unsquashfs);
    unpack.args(["-no-progress", "-quiet", "-ignore-errors", "-d"]).arg(&out).arg(file);
    let output = unpack.output().expect("install squashfs-tools");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!message.contains("FATAL") && !message.contains("corrupt"), "{what}: {message}");
    for (path, contents) in spec {
        if let Some(bytes) = contents {
            assert!(fs::read(out.join(path)).unwrap() == *bytes, "{what}: {path}");
        }
    }
    let expected: BTreeMap<_, _> = noted().into_iter().collect();
    assert_eq!(xattrs_of(&out.join(NOTED)), expected, "{what}");
    let meta = |name: &str| out.join(name).metadata().unwrap();
    assert_eq!((meta("hard").ino(), meta("hard").nlink()), (meta("d/f1").ino(), 2), "{what}");
    let zero = meta("zero");
    assert!(zero.blocks() * 512 < zero.len(), "{what}: the hole has become data");
    assert_eq!(meta("d/e").mtime(), 1_600_000_000, "{what}");
    let list = Command::new(unsquashfs).args(["-lln"]).arg(file).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains("1234/77"), "{what}: {list}");
    let char_line = list.lines().find(|l| l.ends_with("/char")).unwrap();
    assert!(char_line.starts_with('c') && char_line.contains("1,"), "{what}: {char_line}");
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let make = |threads| {
        let options = WriterOptions { threads, ..WriterOptions::default() };
        fs::read(write(dir.path(), &threads.to_string(), &small(options), options)).unwrap()
    };
    let one = make(1);
    assert!(one == make(2) && one == make(7));
}

#[test]
fn duplicates_are_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> =
        (0..900_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let spec = |copies: usize| {
        (0..copies)
            .map(|n| (format!("f{n}"), Some(noise.clone())))
            .chain([("d".to_owned(), None), ("d/f1".to_owned(), Some(b"x".to_vec()))])
            .collect::<Spec>()
    };
    let size = |name: &str, copies| {
        fs::metadata(write(dir.path(), name, &spec(copies), WriterOptions::default()))
            .unwrap()
            .len()
    };
    assert!(size("many", 9) < size("one", 1) + 20_000);
}

#[test]
fn xattrs_survive() {
    let dir = tempfile::tempdir().unwrap();
    let options = WriterOptions::default();
    let image = open(&write(dir.path(), "image", &small(options), options));
    let root = image.inode(image.root()).unwrap();
    let entry = image.lookup(&root, b"fifo").unwrap().unwrap();
    let xattrs = image.xattrs(&image.inode(entry.inode).unwrap()).unwrap();
    assert!(xattrs.contains(&(b"user.note".to_vec(), b"fifo".to_vec())), "{xattrs:?}");
    assert!(xattrs.contains(&(b"security.capability".to_vec(), vec![1, 0, 0, 2])));
}
