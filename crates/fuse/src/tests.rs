//! Requests to a server that has no kernel.

use std::collections::BTreeMap;
use std::fs::File;

use squashfs::{Compression, Meta, Node, NodeKind, ReaderOptions, Tree, Writer, WriterOptions};

use super::*;
use protocol::IN_HEADER;

/// The bytes of an uncompressed image: `/d/NAME`, empty files.
fn image(names: &[String], exportable: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let out = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let options =
        WriterOptions { compression: Compression::None, exportable, ..WriterOptions::default() };
    let mut writer = Writer::new(out, options).unwrap();
    let meta = Meta { mode: 0o755, ..Meta::default() };
    let mut tree = Tree::new(meta.clone());
    let kind = NodeKind::Directory(BTreeMap::new());
    let many = tree.add(Node { meta: meta.clone(), kind });
    tree.link(tree.root(), b"d", many);
    for name in names {
        let data = writer.file(&mut &b""[..], 0).unwrap();
        let node = tree.add(Node { meta: meta.clone(), kind: NodeKind::File(data) });
        tree.link(many, name.as_bytes(), node);
    }
    writer.finish(&tree).unwrap();
    std::fs::read(path).unwrap()
}

fn server(bytes: Vec<u8>) -> Server {
    let image = Arc::new(Image::open(bytes, 0, ReaderOptions::default()).unwrap());
    let device = Arc::new(File::open("/dev/null").unwrap().into());
    let report = Box::new(|_: &str| {});
    Server::new(device, image, ServerOptions::default(), Preload::default(), None, report)
}

/// Asks; the answer's body, or its error.
fn ask(server: &Server, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut bytes = ((IN_HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(opcode.to_ne_bytes());
    bytes.extend(1_u64.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    bytes.resize(IN_HEADER, 0);
    bytes.extend(body);
    let mut answer = Answer::new();
    match server.answer(&Request::decode(&bytes).unwrap(), &mut answer) {
        Reply::Data => Ok(answer.0.split_off(OUT_HEADER)),
        Reply::Errno(errno) => Err(errno),
        Reply::Pieces(_) | Reply::Silence => panic!("another kind of answer"),
    }
}

/// The node that a LOOKUP finds, 0 for none.
fn lookup(server: &Server, dir: u64, name: &str) -> u64 {
    let found = ask(server, op::LOOKUP, dir, &[name.as_bytes(), b"\0"].concat()).unwrap();
    u64::from_ne_bytes(found[..8].try_into().unwrap())
}

/// The entries from an offset on that fit a size: offset after each, name, node.
fn list(server: &Server, dir: u64, offset: u64, size: u32, plus: bool) -> Vec<(u64, String, u64)> {
    let mut body = vec![0; 8];
    body.extend(offset.to_ne_bytes());
    body.extend(size.to_ne_bytes());
    body.resize(40, 0);
    let opcode = if plus { op::READDIRPLUS } else { op::READDIR };
    let bytes = ask(server, opcode, dir, &body).unwrap();
    assert!(bytes.len() <= size as usize);
    let (mut rest, mut out) = (&bytes[..], Vec::new());
    let u64_at =
        |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    while !rest.is_empty() {
        let node = if plus { u64_at(rest, 0) } else { 0 };
        rest = &rest[if plus { 128 } else { 0 }..];
        let len = u32::from_ne_bytes(rest[16..20].try_into().unwrap()) as usize;
        let name = String::from_utf8(rest[24..24 + len].to_vec()).unwrap();
        out.push((u64_at(rest, 8), name, node));
        rest = &rest[(24 + len).next_multiple_of(8)..];
    }
    out
}

/// A server whose view has these additions.
fn with_view(bytes: Vec<u8>, additions: &[(&str, u16, Added)]) -> Server {
    let mut server = server(bytes);
    let all = additions.iter().map(|(path, mode, what)| (path.as_bytes(), *mode, what.clone()));
    server.view = Some(Arc::new(View::new(&server.image, (7, 8), all).unwrap()));
    server
}

/// Mode, number of links, owner and group of a node.
fn attributes(server: &Server, node: u64) -> [u32; 4] {
    let bytes = ask(server, op::GETATTR, node, &[]).unwrap();
    [76, 80, 84, 88].map(|at| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()))
}

fn read(server: &Server, node: u64, offset: u64, size: u32) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend(offset.to_ne_bytes());
    body.extend(size.to_ne_bytes());
    body.resize(40, 0);
    ask(server, op::READ, node, &body).unwrap()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("name-{n:05}{}", "x".repeat(n % 40))).collect()
}

#[test]
fn a_directory_is_read_in_pieces_and_not_held() {
    let names = names(3000);
    let server = server(image(&names, true));
    let dir = lookup(&server, 1, "d");
    let all = |plus: bool, size: u32| {
        let (mut offset, mut all) = (0, Vec::new());
        loop {
            let piece = list(&server, dir, offset, size, plus);
            let Some((last, ..)) = piece.last() else { break };
            offset = *last;
            all.extend(piece.into_iter().map(|(_, name, _)| name));
            // One reader has one place.
            assert!(server.positions.lock().unwrap().len() <= 1 + usize::from(plus));
        }
        all
    };
    let with_dots: Vec<String> = [".", ".."].map(str::to_owned).into_iter().chain(names).collect();
    assert_eq!(all(false, 4096), with_dots);
    assert_eq!(all(true, 4096), with_dots);
    server.positions.lock().unwrap().clear();
    assert_eq!(all(true, 131_072), with_dots);
    // Two in step, and one that jumps.
    server.positions.lock().unwrap().clear();
    let mut offset = 0;
    for _ in 0..20 {
        let one = list(&server, dir, offset, 1000, false);
        assert_eq!(list(&server, dir, offset, 1000, false), one);
        offset = one.last().unwrap().0;
    }
    assert_eq!(server.positions.lock().unwrap().len(), 2);
    for at in [2999, 17, 1500] {
        assert_eq!(list(&server, dir, at as u64, 200, false)[0].1, with_dots[at]);
    }
    // As many readers as there may be, and more.
    for _ in 0..600 {
        assert!(!list(&server, dir, 0, 200, false).is_empty());
    }
    assert_eq!(server.positions.lock().unwrap().len(), POSITIONS);
}

#[test]
fn an_entry_whose_inode_is_damaged_is_shown_without_a_node() {
    let mut bytes = image(&names(40), true);
    let (at, dir) = {
        let server = server(bytes.clone());
        let dir = lookup(&server, 1, "d");
        let reference = lookup(&server, dir, "name-00007xxxxxxx") - 2;
        // The table is stored: a header of two bytes, then the inodes.
        (server.image.superblock().inode_table + 2 + (reference & 0xffff), dir)
    };
    bytes[at as usize] = 99;
    let server = server(bytes);
    let all = list(&server, dir, 0, 1 << 20, true);
    assert_eq!(all.len(), 42);
    let without: Vec<&str> =
        all[2..].iter().filter(|(_, _, node)| *node == 0).map(|(_, name, _)| &name[..]).collect();
    assert_eq!(without, ["name-00007xxxxxxx"]);
    let name = [without[0].as_bytes(), b"\0"].concat();
    assert_eq!(ask(&server, op::LOOKUP, dir, &name), Err(Errno::IO));
}

#[test]
fn file_handles_are_resolved_where_there_is_an_export_table() {
    let exported = server(image(&names(3), true));
    let dir = lookup(&exported, 1, "d");
    let file = lookup(&exported, dir, "name-00001x");
    assert!(dir > 1 && file > 1);
    for node in [1, dir, file] {
        assert_eq!(lookup(&exported, node, "."), node);
    }
    assert_eq!((lookup(&exported, dir, ".."), lookup(&exported, 1, "..")), (1, 1));
    assert_eq!(lookup(&exported, file, ".."), 0);
    // One that was made up, into the middle of an inode.
    let made_up = ask(&exported, op::LOOKUP, file + 16, b".\0");
    assert!(made_up.is_err() || made_up.unwrap()[..8] == [0; 8]);
    assert_ne!(exported.wanted() & flag::EXPORT_SUPPORT, 0);
    let plain = server(image(&names(3), false));
    let dir = lookup(&plain, 1, "d");
    assert_eq!(lookup(&plain, dir, "."), 0);
    assert_eq!(plain.wanted() & flag::EXPORT_SUPPORT, 0);
}

#[test]
fn a_view_has_the_additions_and_the_image_has_not() {
    let file = |text: &str| Added::File(text.into());
    let server = with_view(
        image(&names(3), true),
        &[
            ("d", 0o711, Added::Directory),
            ("d/name-00001x", 0o600, file("in place of it")),
            ("d/new", 0o644, file("new")),
            ("home", 0o755, Added::Directory),
            ("home/user", 0o700, Added::Directory),
            ("home/user/link", 0o777, Added::Symlink(b"/d/new".to_vec())),
        ],
    );
    let root = lookup(&server, 1, VIEW);
    let shown = |dir, plus| -> Vec<String> {
        list(&server, dir, 2, 4096, plus).into_iter().map(|(_, name, _)| name).collect()
    };
    for plus in [false, true] {
        assert_eq!(shown(1, plus), ["d"]);
        assert_eq!(shown(root, plus), ["d", "home"]);
    }
    // Directories are other nodes, with other attributes; files are the same ones.
    let (plain, dir) = (lookup(&server, 1, "d"), lookup(&server, root, "d"));
    assert_ne!(plain, dir);
    assert_eq!(attributes(&server, plain), [0o40755, 2, 0, 0]);
    assert_eq!(attributes(&server, dir), [0o40711, 2, 0, 0]);
    assert_eq!(attributes(&server, 1)[1] + 1, attributes(&server, root)[1]);
    assert_eq!(lookup(&server, plain, "name-00000"), lookup(&server, dir, "name-00000"));
    let (old, new) = ("name-00001x", lookup(&server, dir, "name-00001x"));
    assert_ne!(lookup(&server, plain, old), new);
    assert_eq!(read(&server, new, 3, 5), b"place");
    assert_eq!(read(&server, new, 14, 5), b"");
    assert_eq!(read(&server, new, u64::MAX, 5), b"");
    assert_eq!(attributes(&server, new), [0o100_600, 1, 7, 8]);
    assert_eq!(lookup(&server, plain, "new"), 0);
    assert_eq!(shown(dir, false), ["name-00000", "name-00002xx", old, "new"]);
    let home = lookup(&server, root, "home");
    let user = lookup(&server, home, "user");
    assert_eq!(attributes(&server, home), [0o40755, 3, 7, 8]);
    assert_eq!(attributes(&server, user), [0o40700, 2, 7, 8]);
    assert_eq!(lookup(&server, home, "none"), 0);
    let link = lookup(&server, user, "link");
    assert_eq!(ask(&server, op::READLINK, link, &[]).unwrap(), b"/d/new");
    assert_eq!(ask(&server, op::READDIR, link, &[0; 40]), Err(Errno::NOTDIR));
    // What a handle of a directory of the view means cannot be told.
    assert_eq!([lookup(&server, dir, ".."), lookup(&server, user, ".")], [0, 0]);
    assert_eq!(lookup(&server, 1, "home"), 0);
    // Nodes that nobody was told of.
    for node in [root | 1 << 61 | 99, root | 99, 1 << 62] {
        assert!(ask(&server, op::GETATTR, node, &[]).is_err() || attributes(&server, node)[1] > 0);
    }
}

#[test]
fn a_view_is_listed_in_pieces() {
    let names = names(50);
    let added: Vec<String> = (0..50).map(|n| format!("added-{n:03}")).collect();
    let mut all: Vec<_> =
        added.iter().map(|name| (format!("d/{name}"), 0o644, Added::File(Vec::new()))).collect();
    all.push((format!("d/{}", names[7]), 0o644, Added::File(Vec::new())));
    let all: Vec<_> =
        all.iter().map(|(path, mode, what)| (&path[..], *mode, what.clone())).collect();
    let server = with_view(image(&names, true), &all);
    let dir = lookup(&server, lookup(&server, 1, VIEW), "d");
    let mut wanted = [".", ".."].map(str::to_owned).to_vec();
    wanted.extend(names.iter().filter(|name| **name != names[7]).cloned());
    wanted.extend(added.iter().cloned());
    wanted.push(names[7].clone());
    for (size, plus) in [(200, false), (400, true), (1000, false), (100_000, true)] {
        let (mut offset, mut found) = (0, Vec::new());
        loop {
            let piece = list(&server, dir, offset, size, plus);
            let Some((last, ..)) = piece.last() else { break };
            offset = *last;
            found.extend(piece.into_iter().map(|(_, name, _)| name));
        }
        assert_eq!(found, wanted, "{size}");
    }
}

#[test]
fn an_addition_needs_a_directory() {
    let server = server(image(&names(3), true));
    for path in ["none/x", "d/name-00000/x", "d/new/x"] {
        let all = [
            (&b"d/new"[..], 0o644, Added::File(Vec::new())),
            (path.as_bytes(), 0, Added::Directory),
        ];
        let view = View::new(&server.image, (0, 0), all);
        assert!(matches!(view, Err(ViewError::Parent(at)) if at == path.as_bytes()), "{path}");
    }
}

#[test]
fn a_message_has_its_cause() {
    let source = Arc::new(io::Error::from_raw_os_error(Errno::STALE.raw_os_error()));
    let error = squashfs::Error::Read { offset: 7, len: 3, source };
    let text = with_causes(&error);
    assert!(text.starts_with("cannot read 3 bytes at offset 7: Stale file handle"), "{text}");
}
