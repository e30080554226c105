#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use squashfs::{Meta, Node, NodeId, NodeKind, ReaderOptions, Tree, Writer, WriterOptions};

use super::*;
use crate::{ConvertOptions, TreeSource, copy};

const NOTED: UnpackOptions = UnpackOptions { noted: true, size_limit: 1 << 30 };
const PLAIN: UnpackOptions = UnpackOptions { noted: false, size_limit: 1 << 30 };

fn meta(mode: u16) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }
}

fn new_file(path: &Path) -> File {
    File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

fn open(path: &Path) -> Image {
    Image::open(File::open(path).unwrap(), 0, ReaderOptions::default()).unwrap()
}

/// An image that `fill` has filled.
fn image(path: &Path, fill: impl FnOnce(&mut Writer, &mut Tree)) -> Image {
    let mut writer = Writer::new(new_file(path), WriterOptions::default()).unwrap();
    let mut tree = Tree::new(meta(0o755));
    fill(&mut writer, &mut tree);
    writer.finish(&tree).unwrap();
    open(path)
}

fn directory(tree: &mut Tree, mode: u16) -> NodeId {
    tree.add(Node { meta: meta(mode), kind: NodeKind::Directory(BTreeMap::new()) })
}

fn empty(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

/// What there is to keep: owners, modes, attributes, times, names, holes.
fn full(path: &Path) -> Image {
    image(path, |writer, tree| {
        let root = tree.root();
        let capability = [&[1, 0, 0, 2][..], &[0, 4, 0, 0], &[0; 12]].concat();
        let xattrs = vec![
            (b"security.capability".to_vec(), capability),
            (b"user.note".to_vec(), b"kept".to_vec()),
        ];
        let owned = Meta { mode: 0o4750, uid: 7, gid: 8, mtime: 1_000_000_000, xattrs };
        let data = writer.file(&mut &b"hello"[..], 5).unwrap();
        let file = tree.add(Node { meta: owned, kind: NodeKind::File(data) });
        let sub = directory(tree, 0o2555);
        tree.get_mut(sub).meta.mtime = 77;
        tree.link(root, b"sub", sub);
        tree.link(sub, b"file", file);
        tree.link(root, b"hard", file);
        let zeroes = 8 << 20;
        let mut sparse = io::Read::chain(io::Read::take(io::repeat(0), zeroes), &b"end"[..]);
        let data = writer.file(&mut sparse, zeroes + 3).unwrap();
        let closed = Meta { mtime: 5, ..meta(0) };
        let holes = tree.add(Node { meta: closed, kind: NodeKind::File(data) });
        tree.link(root, b"holes", holes);
        for (name, kind) in [
            (&b"char"[..], NodeKind::CharDevice { major: 1, minor: 3 }),
            (b"block", NodeKind::BlockDevice { major: 8, minor: 1 }),
            (b"fifo", NodeKind::Fifo),
            (b"socket", NodeKind::Socket),
            (b"link", NodeKind::Symlink(b"/etc/nowhere".to_vec())),
        ] {
            let mode = if name == b"link" { 0o777 } else { 0o600 };
            let node = tree.add(Node { meta: Meta { mtime: 9, ..meta(mode) }, kind });
            tree.link(root, name, node);
        }
    })
}

#[test]
fn a_directory_keeps_what_the_image_says() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let tree = empty(dir.path(), "tree");
    let lost = unpack(&full(&first), &tree, &NOTED).unwrap();
    assert!(lost.is_none(), "{lost:?}");
    let stat = |name: &str| std::fs::symlink_metadata(tree.join(name)).unwrap();
    assert_eq!(stat("hard").ino(), stat("sub/file").ino());
    assert_eq!((stat("hard").nlink(), stat("hard").mtime()), (2, 1_000_000_000));
    assert_eq!((stat("sub").mtime(), stat("link").mtime(), stat("fifo").mtime()), (77, 9, 9));
    let owner = |name: &str| attribute(&tree.join(name), OVERRIDE_STAT).unwrap();
    assert_eq!(owner("hard"), b"7:8:04750");
    assert_eq!(owner("sub"), b"0:0:02555");
    assert_eq!(owner("char"), b"0:0:0600:char-1-3");
    assert_eq!(owner("block"), b"0:0:0600:block-8-1");
    assert_eq!(attribute(&tree.join("hard"), "user.note").unwrap(), b"kept");
    // The mode 0 of the image is noted; the owner can read the file.
    assert_eq!((stat("holes").mode() & 0o777, &owner("holes")[..]), (0o400, &b"0:0:00"[..]));
    assert_eq!(stat("holes").size(), (8 << 20) + 3);
    assert!(stat("holes").blocks() * 512 < 1 << 20, "the holes were written");

    // And all of it comes back.
    let second = dir.path().join("second");
    let options =
        ConvertOptions { compression: squashfs::Compression::Zstd(3), ..Default::default() };
    copy(TreeSource::Directory(&tree), new_file(&second), &options, &[]).unwrap();
    let again = dir.path().join("again");
    let before = open(&first);
    copy(TreeSource::Images(&[before]), new_file(&again), &options, &[]).unwrap();
    assert!(std::fs::read(&second).unwrap() == std::fs::read(&again).unwrap(), "they differ");
}

#[test]
fn a_tree_to_run_has_times_links_and_no_notes() {
    let dir = tempfile::tempdir().unwrap();
    let tree = empty(dir.path(), "tree");
    unpack(&full(&dir.path().join("image")), &tree, &PLAIN).unwrap();
    let stat = |name: &str| std::fs::symlink_metadata(tree.join(name)).unwrap();
    assert_eq!((stat("hard").nlink(), stat("hard").mtime()), (2, 1_000_000_000));
    assert_eq!((stat("hard").mode() & 0o7777, stat("sub").mode() & 0o7777), (0o750, 0o555));
    assert_eq!(attribute(&tree.join("hard"), OVERRIDE_STAT), None);
    assert!(!tree.join("char").exists());
}

/// Each directory twice in the one above it: 2 to the 40 names.
#[test]
fn a_directory_with_two_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(&dir.path().join("image"), |_, tree| {
        let mut above = tree.root();
        for _ in 0..40 {
            let below = directory(tree, 0o755);
            tree.link(above, b"a", below);
            tree.link(above, b"b", below);
            above = below;
        }
    });
    let refused = unpack(&image, &empty(dir.path(), "tree"), &PLAIN);
    assert!(matches!(refused, Err(UnpackError::Twice(_))), "{refused:?}");
}

#[test]
fn files_count_towards_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let image = full(&dir.path().join("image"));
    let small = UnpackOptions { size_limit: 1 << 20, ..PLAIN };
    let refused = unpack(&image, &empty(dir.path(), "tree"), &small);
    assert!(matches!(refused, Err(UnpackError::TooLarge { .. })), "{refused:?}");
}

/// Directories one in the other, more than a process may have open.
#[test]
fn depth_costs_no_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let deep = |name: &str, levels: usize| {
        image(&dir.path().join(name), |_, tree| {
            let mut above = tree.root();
            for _ in 0..levels {
                let below = directory(tree, 0o755);
                tree.link(above, b"d", below);
                above = below;
            }
        })
    };
    let open = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(256), maximum: open.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    unpack(&deep("deep", 1000), &empty(dir.path(), "tree"), &NOTED).unwrap();
    let far = unpack(&deep("deeper", 1200), &empty(dir.path(), "other"), &PLAIN);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, open).unwrap();
    assert!(matches!(far, Err(UnpackError::Make { .. })), "{far:?}");
}
