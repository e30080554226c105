//! File systems that mke2fs(8) makes, in all three generations.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use ext::{Error, FileSystem, Inode, Kind, ROOT};

/// A tree with whatever a file system stores in a way of its own.
fn tree(top: &Path) {
    std::fs::create_dir_all(top.join("dir/sub")).unwrap();
    std::fs::write(top.join("small"), "hello\n").unwrap();
    let large: Vec<u8> = (0..5_000_000_u32).map(|i| (i / 7 % 251) as u8).collect();
    std::fs::write(top.join("large"), large).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"first", 0).unwrap();
    sparse.write_all_at(b"last", 90_000_000).unwrap();
    symlink("small", top.join("short")).unwrap();
    symlink("x/".repeat(300), top.join("long")).unwrap();
    std::fs::hard_link(top.join("small"), top.join("dir/hard")).unwrap();
    for i in 0..3000 {
        std::fs::write(top.join(format!("dir/sub/a file with a long name {i}")), "").unwrap();
    }
    let mode = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(top.join("small"), mode).unwrap();
}

fn make(kind: &str, options: &[&str], from: &Path, to: &Path) {
    let (block, path) = (options.join(" "), to.to_str().unwrap());
    let made = Command::new("mke2fs")
        .args(["-q", "-t", kind, "-d", from.to_str().unwrap()])
        .args(options)
        .args([path, "40m"])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(made.status.success(), "{kind} {block}: {}", String::from_utf8_lossy(&made.stderr));
}

/// Runs commands of debugfs(8), which needs no mount.
fn debugfs(image: &Path, commands: &str) {
    let script = image.with_extension("cmd");
    std::fs::write(&script, commands).unwrap();
    let ran = Command::new("debugfs")
        .args(["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

fn open(path: &Path, start: u64) -> Result<FileSystem, Error> {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len() - start;
    FileSystem::open(file, start, len)
}

fn content(fs: &FileSystem, inode: &Inode) -> Vec<u8> {
    let mut bytes = vec![1; inode.size as usize + 10];
    let got = fs.read(inode, 0, &mut bytes).unwrap();
    bytes.truncate(got);
    bytes
}

fn walk(fs: &FileSystem) -> BTreeMap<PathBuf, Inode> {
    let mut all = BTreeMap::new();
    let mut todo = vec![(PathBuf::new(), fs.inode(ROOT).unwrap())];
    while let Some((path, dir)) = todo.pop() {
        for entry in fs.entries(&dir).unwrap() {
            let below = path.join(String::from_utf8(entry.name).unwrap());
            let inode = fs.inode(entry.inode).unwrap();
            if inode.kind == Kind::Directory {
                todo.push((below.clone(), inode.clone()));
            }
            all.insert(below, inode);
        }
    }
    all
}

#[test]
fn every_generation_reads_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("tree");
    tree(&from);
    let cases: [(&str, &[&str]); 7] = [
        ("ext2", &["-b", "1024"]),
        ("ext3", &["-b", "1024", "-I", "128"]),
        ("ext3", &["-b", "4096"]),
        ("ext4", &["-b", "1024"]),
        ("ext4", &["-b", "4096", "-O", "64bit,metadata_csum,flex_bg"]),
        ("ext4", &["-b", "2048", "-O", "^64bit,^metadata_csum,^flex_bg,^extents"]),
        ("ext4", &["-b", "4096", "-O", "^has_journal,bigalloc", "-N", "8192"]),
    ];
    for (index, (kind, options)) in cases.into_iter().enumerate() {
        let image = dir.path().join(format!("{index}.img"));
        make(kind, options, &from, &image);
        let set = "mknod null c 1 3\nmknod gone c 0 0\nset_inode_field small uid 70000\n\
                   set_inode_field small gid 70001\nea_set small user.note words\n\
                   ea_set small security.capability capcap\nea_set dir trusted.overlay.opaque y\n";
        debugfs(&image, set);
        let fs = open(&image, 0).unwrap();
        let all = walk(&fs);
        let what = format!("{kind} {options:?}");
        assert_eq!(all.len(), 3011, "{what}");
        for name in ["small", "large", "sparse", "dir/hard"] {
            let host = std::fs::read(from.join(name)).unwrap();
            assert!(content(&fs, &all[Path::new(name)]) == host, "{what}: {name}");
        }
        let mut end = [9; 8];
        let got = fs.read(&all[Path::new("sparse")], 89_999_998, &mut end).unwrap();
        assert_eq!((&end[..got], got), (&b"\0\0last"[..], 6), "{what}");
        let small = &all[Path::new("small")];
        assert_eq!((small.mode, small.uid, small.gid, small.nlink), (0o4755, 70000, 70001, 2));
        assert_eq!(small.mtime, std::fs::metadata(from.join("small")).unwrap().mtime());
        assert_eq!(small.number, all[Path::new("dir/hard")].number);
        let noted = [("security.capability", "capcap"), ("user.note", "words")];
        let noted = noted.map(|(name, value)| (name.into(), value.into()));
        assert_eq!(fs.xattrs(small).unwrap(), noted, "{what}");
        let opaque = [(b"trusted.overlay.opaque".to_vec(), b"y".to_vec())];
        assert_eq!(fs.xattrs(&all[Path::new("dir")]).unwrap(), opaque, "{what}");
        assert_eq!(fs.read_link(&all[Path::new("short")]).unwrap(), b"small", "{what}");
        assert_eq!(fs.read_link(&all[Path::new("long")]).unwrap(), "x/".repeat(300).as_bytes());
        assert_eq!(all[Path::new("null")].kind, Kind::CharDevice(1, 3));
        assert_eq!(all[Path::new("gone")].kind, Kind::CharDevice(0, 0));
    }
}

#[test]
fn a_file_system_may_begin_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (from, image) = (dir.path().join("tree"), dir.path().join("x.img"));
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("name"), "words").unwrap();
    make("ext3", &[], &from, &image);
    let mut shifted = vec![0xaa; 777];
    shifted.extend(std::fs::read(&image).unwrap());
    std::fs::write(&image, shifted).unwrap();
    let fs = open(&image, 777).unwrap();
    assert_eq!(content(&fs, &walk(&fs)[Path::new("name")]), b"words");
    assert!(matches!(open(&image, 0), Err(Error::NotExt)));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (from, image) = (dir.path().join("tree"), dir.path().join("x.img"));
    std::fs::create_dir(&from).unwrap();
    make("ext3", &[], &from, &image);
    debugfs(&image, "feature needs_recovery\nset_super_value journal_inum 0\n");
    assert!(matches!(open(&image, 0), Err(Error::Journal)));
    make("ext4", &["-O", "inline_data"], &from, &image);
    assert!(matches!(open(&image, 0), Err(Error::Unsupported { bits: 0x8000 })));
}

/// Fills five blocks of `name`, then logs: new blocks, one of them beginning with
/// the journal's magic number; a block that is revoked, before and behind; one
/// without a commit.
fn journalled(dir: &Path, kind: &str, options: &[&str], open_journal: &str) -> PathBuf {
    let (from, image) = (dir.join("tree"), dir.join("x.img"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::write(from.join("name"), [b'a'; 5 * 1024]).unwrap();
    make(kind, &[&["-b", "1024"], options].concat(), &from, &image);
    let (new, magic) = (dir.join("new"), dir.join("magic"));
    std::fs::write(&new, [b'n'; 1024]).unwrap();
    std::fs::write(&magic, [&[0xc0, 0x3b, 0x39, 0x98][..], &[b'm'; 1020]].concat()).unwrap();
    std::fs::write(dir.join("two"), [[b'1'; 1024], [b'2'; 1024]].concat()).unwrap();
    let blocks = Command::new("debugfs")
        .args(["-R", "blocks name", image.to_str().unwrap()])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    let blocks = String::from_utf8(blocks.stdout).unwrap();
    let blocks: Vec<&str> = blocks.split_whitespace().collect();
    let [a, b, c, d, e] = blocks[..] else { panic!("{blocks:?}") };
    let at = dir.display();
    let commands = format!(
        "{open_journal}\njw -b {b} {at}/new\njw -b {a} {at}/new\njw -b {b} {at}/magic\n\
         jw -b {c} {at}/new\njw -r {c}\njw -r {d},{e}\njw -b {d},{e} {at}/two\n\
         jw -b {a} -c {at}/two\njc\n"
    );
    debugfs(&image, &commands);
    image
}

#[test]
fn blocks_that_wait_in_the_journal_are_read_from_it() {
    let cases: [(&str, &[&str], &str); 3] = [
        ("ext3", &[], "jo"),
        ("ext4", &["-O", "64bit,metadata_csum"], "jo -c -v 3"),
        ("ext4", &["-O", "^64bit,metadata_csum"], "jo -c -v 2"),
    ];
    for (kind, options, open_journal) in cases {
        let dir = tempfile::tempdir().unwrap();
        let image = journalled(dir.path(), kind, options, open_journal);
        let fs = open(&image, 0).unwrap();
        let bytes = content(&fs, &walk(&fs)[Path::new("name")]);
        let starts: Vec<u8> = bytes.chunks(1024).map(|block| block[1023]).collect();
        assert_eq!(starts, b"nma12", "{kind} {options:?}");
        assert_eq!(bytes[1024..1029], [0xc0, 0x3b, 0x39, 0x98, b'm'], "{kind} {options:?}");
    }
}

#[test]
fn a_damaged_journal_is_an_error_or_data() {
    let dir = tempfile::tempdir().unwrap();
    let image = journalled(dir.path(), "ext3", &[], "jo");
    let bytes = std::fs::read(&image).unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    let magic = [0xc0, 0x3b, 0x39, 0x98];
    let own: Vec<usize> =
        (0..bytes.len()).step_by(1024).filter(|at| bytes[*at..].starts_with(&magic)).collect();
    assert!(own.len() > 10, "{own:?}");
    let mut refused = 0;
    for at in own.into_iter().flat_map(|at| at..at + 64) {
        for value in [0, 0xff, bytes[at] ^ 1] {
            file.write_all_at(&[value], at as u64).unwrap();
            let looked = open(&image, 0).and_then(|fs| fs.entries(&fs.inode(ROOT)?));
            refused += usize::from(looked.is_err());
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn access_lists_have_the_form_of_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let (from, image) = (dir.path().join("tree"), dir.path().join("x.img"));
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("name"), "words").unwrap();
    make("ext4", &[], &from, &image);
    // user::rw-, user:7:r--, group::r--, mask::r--, other::---
    let entry = |tag: u16, bits: u16, id: u32| {
        [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let list = [(1, 6, none), (2, 4, 7), (4, 4, none), (16, 4, none), (32, 0, none)];
    let list = list.map(|(tag, bits, id)| entry(tag, bits, id)).concat();
    let list = [&2_u32.to_le_bytes()[..], &list].concat();
    std::fs::write(dir.path().join("list"), &list).unwrap();
    let set = format!("ea_set -f {}/list name system.posix_acl_access\n", dir.path().display());
    debugfs(&image, &set);
    let fs = open(&image, 0).unwrap();
    let found = fs.xattrs(&walk(&fs)[Path::new("name")]).unwrap();
    assert_eq!(found, [(b"system.posix_acl_access".to_vec(), list)]);
}

/// Damage of every byte of the metadata, and cuts: an error or data, no panic.
#[test]
fn damage_is_an_error_or_data() {
    let dir = tempfile::tempdir().unwrap();
    let (from, image) = (dir.path().join("tree"), dir.path().join("x.img"));
    std::fs::create_dir_all(from.join("dir")).unwrap();
    std::fs::write(from.join("dir/file"), vec![7; 30_000]).unwrap();
    symlink("y/".repeat(60), from.join("link")).unwrap();
    make("ext4", &["-b", "1024", "-N", "32", "-O", "^has_journal"], &from, &image);
    let bytes = std::fs::read(&image).unwrap();
    let look = |path: &Path| -> Result<(), Error> {
        let fs = open(path, 0)?;
        let mut todo = vec![(fs.inode(ROOT)?, 0)];
        while let Some((dir, depth)) = todo.pop() {
            for entry in fs.entries(&dir)? {
                let inode = fs.inode(entry.inode)?;
                fs.xattrs(&inode)?;
                match inode.kind {
                    Kind::Directory if depth < 3 => todo.push((inode, depth + 1)),
                    Kind::File => {
                        let mut start = vec![0; 1 << 16];
                        fs.read(&inode, 0, &mut start)?;
                        fs.read(&inode, inode.size.saturating_sub(10), &mut start)?;
                    }
                    Kind::Symlink => drop(fs.read_link(&inode)?),
                    _ => {}
                }
            }
        }
        Ok(())
    };
    assert!(look(&image).is_ok());
    let mut refused = 0;
    // Superblock, descriptors, bitmaps and inodes come first; then directories.
    let used: Vec<usize> = (1024..bytes.len()).filter(|at| bytes[*at] != 0).take(4000).collect();
    let file = File::options().write(true).open(&image).unwrap();
    for at in used {
        for value in [0, 0xff, bytes[at] ^ 1] {
            file.write_all_at(&[value], at as u64).unwrap();
            refused += usize::from(look(&image).is_err());
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert!(refused > 100, "{refused}");
    for len in [0, 1024, 2047, 2048, 4096, 10_000] {
        file.set_len(len).unwrap();
        assert!(look(&image).is_err(), "{len}");
    }
}
