//! Images that nobody writes: sizes that lie, lists without end, damage of every
//! bit, files that cannot be read for a while. An error or correct data, in memory
//! that stays below what the reader's documentation states.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use squashfs::codec::Compressor;
use squashfs::format::{ABSENT, BLOCK_STORED, METADATA_STORED, SUPERBLOCK_LEN, Superblock};
use squashfs::{
    Compression, Error, Image, Inode, InodeKind, InodeRef, Meta, Node, NodeKind, ReadAt,
    ReaderOptions, Tree, Writer, WriterOptions,
};

/// Small caches, so that what is not bounded by them shows.
const OPTIONS: ReaderOptions = ReaderOptions {
    data_cache: 1 << 20,
    metadata_cache: 1 << 20,
    inode_cache: 1024,
    list_cache: 1 << 20,
};
/// What [`OPTIONS`] allow (3 MiB, 1 KiB for each inode), and for a block, its decoder,
/// a set of attributes and the allocator three times as much.
const BOUND_KIB: u64 = 16 << 10;

/// Metadata blocks, each compressed by zstd if that pays.
fn metadata(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(Compression::Zstd(3));
    let (mut out, mut packed, mut last) = (Vec::new(), Vec::new(), &[][..]);
    let mut shrunk = false;
    for block in bytes.chunks(8192) {
        // Most of a long list is the same.
        if block != last {
            shrunk = compressor.compress(block, &mut packed);
            last = block;
        }
        let (bytes, bit) = if shrunk { (&packed[..], 0) } else { (block, METADATA_STORED) };
        out.extend((bytes.len() as u16 | bit).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out
}

/// Metadata blocks that are not compressed.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let block = |block: &[u8]| {
        let mut out = (block.len() as u16 | METADATA_STORED).to_le_bytes().to_vec();
        out.extend_from_slice(block);
        out
    };
    bytes.chunks(8192).flat_map(block).collect()
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Tables by hand: a root directory and one file, `f`.
struct Craft {
    block_size: u32,
    /// What follows the superblock.
    data: Vec<u8>,
    /// What a directory's inode says its listing has.
    listing: u32,
    /// Bytes between the two inodes.
    gap: u16,
    /// The file's inode behind its common part, and its type.
    file: (u16, Vec<u8>),
    /// Names and values of attributes, how many the one set has.
    xattrs: Option<(Vec<u8>, u32)>,
}

impl Craft {
    fn new(code: u16, file: Vec<u8>) -> Self {
        let (block_size, data, listing, gap) = (128 << 10, Vec::new(), 21, 0);
        Self { block_size, data, listing, gap, file: (code, file), xattrs: None }
    }

    /// An extended regular file.
    fn file(size: u64, xattr: u32, list: &[u8]) -> Self {
        let mut inode = Vec::new();
        for long in [SUPERBLOCK_LEN as u64, size, 0] {
            inode.extend(long.to_le_bytes());
        }
        inode.extend(words(&[1, u32::MAX, 0, xattr]));
        inode.extend(list);
        Self::new(9, inode)
    }

    fn image(&self) -> Vec<u8> {
        let head = |code: u16, number: u32| {
            let mut head = Vec::new();
            for half in [code, 0o755, 0, 0] {
                head.extend(half.to_le_bytes());
            }
            head.extend(words(&[7, number]));
            head
        };
        // The root is an extended directory of 40 bytes.
        let mut inodes = head(8, 1);
        inodes.extend(words(&[2, self.listing + 3, 0, 3, 0, u32::MAX]));
        inodes.resize(inodes.len() + usize::from(self.gap), 0);
        inodes.extend(head(self.file.0, 2));
        inodes.extend(&self.file.1);
        let basic = if self.file.0 > 7 { self.file.0 - 7 } else { self.file.0 };
        let mut listing = words(&[0, 0, 2]);
        for half in [40 + self.gap, 0, basic, 0] {
            listing.extend(half.to_le_bytes());
        }
        listing.push(b'f');

        let mut out = vec![0; SUPERBLOCK_LEN];
        out.extend(&self.data);
        let mut sb = Superblock {
            inodes: 2,
            block_size: self.block_size,
            block_log: self.block_size.trailing_zeros() as u16,
            compression: 6,
            ids: 1,
            inode_table: out.len() as u64,
            fragment_table: ABSENT,
            export_table: ABSENT,
            xattr_table: ABSENT,
            ..Superblock::default()
        };
        out.extend(metadata(&inodes));
        sb.directory_table = out.len() as u64;
        out.extend(metadata(&listing));
        let ids = out.len() as u64;
        out.extend(metadata(&[0; 4]));
        sb.id_table = out.len() as u64;
        out.extend(ids.to_le_bytes());
        if let Some((pairs, count)) = &self.xattrs {
            let start = out.len() as u64;
            out.extend(stored(pairs));
            let sets = out.len() as u64;
            out.extend(metadata(&words(&[0, 0, *count, 0])));
            sb.xattr_table = out.len() as u64;
            out.extend(start.to_le_bytes());
            out.extend(words(&[1, 0]));
            out.extend(sets.to_le_bytes());
        }
        sb.bytes_used = out.len() as u64;
        out[..SUPERBLOCK_LEN].copy_from_slice(&sb.encode());
        out
    }

    fn open(&self) -> Image {
        Image::open(self.image(), 0, OPTIONS).unwrap()
    }
}

fn the_file(image: &Image) -> Result<Arc<Inode>, Error> {
    let root = image.inode(image.root())?;
    image.inode(image.lookup(&root, b"f")?.unwrap().inode)
}

fn corrupt<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str) {
    match result {
        Err(Error::Corrupt { what, offset }) => {
            assert!(what == expected && offset > 0, "{what} at {offset}");
        }
        other => panic!("not {expected}: {other:?}"),
    }
}

/// A field of /proc/self/status, in KiB.
fn status(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs a test in a process of its own, whose memory is not that of other tests.
fn in_bounded_memory(test: &str, body: impl FnOnce()) {
    if std::env::var_os("SAMPAN_TEST_ALONE").is_none() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", test, "--test-threads=1"]).env("SAMPAN_TEST_ALONE", "1");
        // An arena for each thread is address space that nobody uses.
        let output = again.env("MALLOC_ARENA_MAX", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    body();
}

/// Reads under a limit of address space: an allocation beyond the bound ends the
/// process.
fn bounded<T>(read: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::As);
    let bound = Some((status("VmSize") + BOUND_KIB) << 10);
    setrlimit(Resource::As, Rlimit { current: bound, ..before }).unwrap();
    let got = read();
    setrlimit(Resource::As, before).unwrap();
    got
}

/// `count` attributes `user.N`, all with one value of 64 KiB that is elsewhere.
fn pairs_of_one_value(count: usize) -> Vec<u8> {
    let entry = 4 + 5 + 4 + 8;
    let at = count * entry;
    // The blocks are stored.
    let place = ((at / 8192 * 8194) as u64) << 16 | (at % 8192) as u64;
    let mut pairs = Vec::new();
    for number in 0..count {
        pairs.extend(0x100_u16.to_le_bytes());
        pairs.extend(5_u16.to_le_bytes());
        pairs.extend(format!("{number:05}").bytes());
        pairs.extend(8_u32.to_le_bytes());
        pairs.extend(place.to_le_bytes());
    }
    pairs.extend(65_536_u32.to_le_bytes());
    pairs.resize(pairs.len() + 65_536, b'v');
    pairs
}

#[test]
fn attributes_are_bounded_and_values_read_when_asked_for() {
    in_bounded_memory("attributes_are_bounded_and_values_read_when_asked_for", || {
        let with = |count: usize| {
            let mut craft = Craft::file(0, 0, &[]);
            craft.xattrs = Some((pairs_of_one_value(count), count as u32));
            craft.open()
        };
        let values = "the length of an inode's xattr values";
        // Sixteen values of 64 KiB are the most that there may be.
        let image = with(16);
        let all = image.xattrs(&the_file(&image).unwrap()).unwrap();
        assert_eq!(all.len(), 16);
        assert!(all.iter().all(|(_, value)| *value == vec![b'v'; 65_536]));
        let image = with(1000);
        bounded(|| {
            let file = the_file(&image).unwrap();
            corrupt(image.xattrs(&file), values);
            let names = image.xattr_list(&file).unwrap();
            assert_eq!((names.len(), &names[999][..]), (1000, &b"user.00999"[..]));
            assert_eq!(image.xattr(&file, b"user.00999").unwrap().unwrap().len(), 65_536);
            assert_eq!(image.xattr(&file, b"user.none").unwrap(), None);
            assert_eq!(image.xattr_names(1).unwrap(), None, "1,000 in one set are many");
        });
        let image = with(32_768);
        bounded(|| {
            let file = the_file(&image).unwrap();
            corrupt(image.xattrs(&file), values);
            corrupt(image.xattr_list(&file), "the length of an inode's xattr names");
            corrupt(image.xattr_names(1 << 20), "the length of an inode's xattr names");
        });
    });
}

#[test]
fn a_directory_cannot_be_longer_than_its_table() {
    let mut craft = Craft::file(0, u32::MAX, &[]);
    assert!(the_file(&craft.open()).is_ok());
    craft.listing = u32::MAX - 3;
    let image = craft.open();
    let root = image.inode(image.root()).unwrap();
    corrupt(image.read_dir(&root, 0).map(|_| ()), "the length of a directory");
    corrupt(image.lookup(&root, b"f"), "the length of a directory");
}

#[test]
fn a_file_of_many_tebibytes_is_read_at_both_ends() {
    in_bounded_memory("a_file_of_many_tebibytes_is_read_at_both_ends", || {
        // 2 TiB and a bit in blocks of 128 KiB, 260 GiB in blocks of 4 KiB: the
        // second block and the last are data, all others zeroes.
        for (block, size) in [(128 << 10, (2 << 40) + 5), (4096, (260_u64 << 30) + 5)] {
            let count = size.div_ceil(u64::from(block)) as usize;
            let mut list = vec![0; count * 4];
            list[4..8].copy_from_slice(&(BLOCK_STORED | block).to_le_bytes());
            list[count * 4 - 4..].copy_from_slice(&(BLOCK_STORED | 5).to_le_bytes());
            let mut craft = Craft::file(size, u32::MAX, &list);
            craft.block_size = block;
            craft.data = b"s".repeat(block as usize);
            craft.data.extend(b"at--z");
            let bytes = craft.image();
            drop((list, craft));
            let image = Image::open(bytes, 0, OPTIONS).unwrap();
            bounded(|| {
                let file = the_file(&image).unwrap();
                assert_eq!(file.size(), size);
                let mut buffer = [1; 5];
                let mut at = |offset| {
                    let got = image.read(&file, offset, &mut buffer).unwrap();
                    buffer[..got].to_vec()
                };
                assert_eq!(at(0), [0; 5]);
                assert_eq!(at(u64::from(block) - 2), b"\0\0sss");
                assert_eq!(at(size - 5), b"at--z");
                assert_eq!(at(size - 7), b"\0\0at-");
                assert_eq!(at(size), b"");
                for part in [3, 2, 7, 5] {
                    assert_eq!(at(size / part), [0; 5]);
                }
            });
        }
    });
}

#[test]
fn blocks_lie_beyond_four_gibibytes() {
    let at = (5_u64 << 30) + 77;
    let mut craft = Craft::file(300, u32::MAX, &words(&[BLOCK_STORED | 300]));
    craft.file.1[..8].copy_from_slice(&at.to_le_bytes());
    let mut bytes = craft.image();
    bytes[40..48].copy_from_slice(&(at + 300).to_le_bytes());
    // The image itself starts as far into its file, at an odd byte.
    let out = tempfile::tempfile().unwrap();
    out.write_all_at(&bytes, at).unwrap();
    out.write_all_at(&[b'x'; 300], at + at).unwrap();
    let image = Image::open(out, at, OPTIONS).unwrap();
    let mut buffer = [0; 400];
    assert_eq!(image.read(&the_file(&image).unwrap(), 0, &mut buffer).unwrap(), 300);
    assert_eq!(buffer[..300], [b'x'; 300]);
}

#[test]
fn a_size_that_no_list_can_have_is_refused_at_once() {
    let image = Craft::file(1 << 62, u32::MAX, &[0; 16_000]).open();
    let file = the_file(&image).unwrap();
    corrupt(image.read(&file, 1 << 61, &mut [0; 10]), "the size of a file");
    corrupt(image.read(&file, 0, &mut [0; 10]), "the size of a file");
}

#[test]
fn a_link_is_as_long_as_linux_can_have_it() {
    let link = |len: u32| {
        let mut inode = words(&[1, len]);
        inode.resize(inode.len() + len as usize, b't');
        Craft::new(3, inode).open()
    };
    let image = link(4095);
    assert_eq!(image.read_link(&the_file(&image).unwrap()).unwrap(), vec![b't'; 4095]);
    corrupt(the_file(&link(4096)), "the length of a link");
}

/// An image on a file system that fails for a while.
struct Failing {
    bytes: Vec<u8>,
    fails: Arc<AtomicBool>,
}

impl ReadAt for Failing {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.fails.load(Ordering::SeqCst) {
            // ESTALE
            return Err(io::Error::from_raw_os_error(116));
        }
        self.bytes.read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.bytes.size()
    }
}

#[test]
fn what_could_not_be_read_once_is_read_again() {
    // Short lists are kept with the inode, long ones are not. Either begins in a
    // metadata block of its own.
    for blocks in [40_u32, 3000] {
        let size = u64::from(blocks) * 4096;
        let mut list = vec![0; blocks as usize];
        list[0] = BLOCK_STORED | 4096;
        let mut craft = Craft::file(size, u32::MAX, &words(&list));
        craft.block_size = 4096;
        craft.data = b"d".repeat(4096);
        craft.gap = 8192 - 40 - 56;
        let fails = Arc::new(AtomicBool::new(false));
        let source = Failing { bytes: craft.image(), fails: Arc::clone(&fails) };
        let image = Image::open(source, 0, OPTIONS).unwrap();
        let file = the_file(&image).unwrap();
        for offset in [0, size - 10] {
            fails.store(true, Ordering::SeqCst);
            let mut buffer = [0; 10];
            let failed = image.read(&file, offset, &mut buffer);
            fails.store(false, Ordering::SeqCst);
            if blocks == 3000 || offset == 0 {
                assert!(matches!(failed, Err(Error::Read { .. })), "{blocks} {offset}: {failed:?}");
            }
            assert_eq!(image.read(&file, offset, &mut buffer).unwrap(), 10);
            assert_eq!(buffer, if offset == 0 { [b'd'; 10] } else { [0; 10] });
        }
    }
}

/// A small image by our writer, or a file of the fuzzers' corpus.
fn ours(compression: Compression, files: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let out = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let options = WriterOptions { compression, block_size: 4096, ..WriterOptions::default() };
    let mut writer = Writer::new(out, options).unwrap();
    let xattrs = vec![(b"user.note".to_vec(), b"noted ".repeat(20))];
    let meta = |mode| Meta { mode, uid: 5, gid: 7, mtime: 9, xattrs: xattrs.clone() };
    let mut tree = Tree::new(meta(0o755));
    let dir = tree.add(Node { meta: meta(0o700), kind: NodeKind::Directory(BTreeMap::new()) });
    tree.link(tree.root(), b"d", dir);
    for number in 0..files {
        let len = [10_000, 300, 0, 4096][number % 4];
        let bytes: Vec<u8> = (0..len).map(|at| (at / 9 + number * 3) as u8).collect();
        let data = writer.file(&mut &bytes[..], len as u64).unwrap();
        let node = tree.add(Node { meta: meta(0o644), kind: NodeKind::File(data) });
        tree.link(dir, format!("file-{number:04}").as_bytes(), node);
    }
    let link = Node { meta: meta(0o777), kind: NodeKind::Symlink(b"d/file-0000".to_vec()) };
    let link = tree.add(link);
    tree.link(tree.root(), b"link", link);
    writer.finish(&tree).unwrap();
    cut(fs::read(&path).unwrap())
}

fn theirs(name: &str) -> Vec<u8> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/squashfs");
    cut(fs::read(corpus.join(format!("mksquashfs-{name}.sqfs"))).unwrap())
}

/// Without the padding, so that the last byte is one of a table.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(superblock(&bytes).bytes_used as usize);
    bytes
}

fn superblock(bytes: &[u8]) -> Superblock {
    Superblock::decode(bytes[..SUPERBLOCK_LEN].try_into().unwrap()).unwrap()
}

/// What could be read: by path and kind of question.
type Seen = BTreeMap<(Vec<u8>, &'static str), Vec<u8>>;

/// Asks everything, until so many inodes have been seen: a damaged image may be endless.
fn seen(image: &Image) -> Seen {
    let mut seen = Seen::new();
    let mut todo: Vec<(Vec<u8>, InodeRef)> = vec![(Vec::new(), image.root())];
    let mut budget = 200;
    while let Some((path, reference)) = todo.pop() {
        let Ok(inode) = image.inode(reference) else { continue };
        let mut note = |what, answer: Vec<u8>| drop(seen.insert((path.clone(), what), answer));
        let Inode { number, mode, uid, gid, mtime, nlink, .. } = *inode;
        let meta = (number, mode, uid, gid, mtime, nlink, inode.size());
        note("meta", format!("{meta:?}").into_bytes());
        if let Ok(xattrs) = image.xattrs(&inode) {
            note("xattrs", format!("{xattrs:?}").into_bytes());
        }
        let _ = (image.xattr_list(&inode), image.is_opaque(&inode));
        match inode.kind {
            InodeKind::Directory { .. } => {
                let Ok(entries) = image.read_dir(&inode, 0) else { continue };
                for entry in entries.map_while(Result::ok) {
                    if budget % 8 == 0 {
                        let _ = image.lookup(&inode, &entry.name);
                    }
                    budget -= 1;
                    if budget > 0 {
                        todo.push(([&path, &b"/"[..], &entry.name].concat(), entry.inode));
                    }
                }
            }
            InodeKind::Symlink { .. } => drop(image.read_link(&inode).map(|to| note("link", to))),
            InodeKind::File { size, .. } => {
                let mut bytes = vec![0; size.min(32 << 10) as usize];
                if image.read(&inode, 0, &mut bytes).is_ok() {
                    note("data", bytes);
                }
                let _ = image.read(&inode, size / 2, &mut [0; 100]);
                let _ = image.read(&inode, size.saturating_sub(50), &mut [0; 100]);
            }
            _ => {}
        }
    }
    let _ = (image.xattr_names(100), image.largest_id(), image.by_number(2));
    seen
}

/// A file that ends before it says it does, as one that was cut while it was open.
struct Cut(Vec<u8>, u64);

impl ReadAt for Cut {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.1)
    }
}

#[test]
fn a_truncated_image_is_an_error_or_correct_data() {
    in_bounded_memory("a_truncated_image_is_an_error_or_correct_data", || {
        let methods = [
            Compression::None,
            Compression::Gzip(6),
            Compression::Zstd(3),
            Compression::Lz4,
            Compression::Xz,
        ];
        let small = methods.map(|method| (ours(method, 6), true));
        // Tables of several blocks; cut at their borders.
        let large = methods.map(|method| (ours(method, 150), false));
        let all = small.into_iter().chain(large).chain([(theirs("lzo"), false)]);
        bounded(|| all.for_each(|(bytes, everywhere)| truncate(&bytes, everywhere)));
    });
}

/// Cuts an image at every byte, or near the borders of its tables.
fn truncate(bytes: &[u8], everywhere: bool) {
    let sb = superblock(bytes);
    let tables = [
        SUPERBLOCK_LEN as u64,
        sb.inode_table,
        sb.directory_table,
        sb.fragment_table,
        sb.export_table,
        sb.id_table,
        sb.xattr_table,
        sb.bytes_used,
    ];
    let near = |len: &usize| tables.iter().any(|table| table.abs_diff(*len as u64) <= 5);
    let whole = seen(&Image::open(bytes.to_vec(), 0, OPTIONS).unwrap());
    assert!(whole.len() > 15);
    let (mut opened, mut less) = (0, 0);
    for len in (SUPERBLOCK_LEN..bytes.len()).filter(|len| everywhere || near(len)) {
        let short = bytes[..len].to_vec();
        let refused = Image::open(short.clone(), 0, OPTIONS);
        assert!(matches!(refused, Err(Error::Truncated { .. })), "{len}");
        let mut says_so = short.clone();
        says_so[40..48].copy_from_slice(&(len as u64).to_le_bytes());
        let says_so = Image::open(says_so, 0, OPTIONS);
        let was_cut = Image::open(Cut(short, bytes.len() as u64), 0, OPTIONS).unwrap();
        for image in says_so.into_iter().chain([was_cut]) {
            let part = seen(&image);
            for (what, got) in &part {
                assert_eq!(whole.get(what), Some(got), "{what:?}, cut at {len}");
            }
            opened += 1;
            less += usize::from(part.len() < whole.len());
        }
    }
    assert!(opened > 50 && less > opened / 2, "{less} of {opened} lacked something");
}

#[test]
fn a_flipped_bit_is_an_error_or_data() {
    in_bounded_memory("a_flipped_bit_is_an_error_or_data", || {
        let methods = [
            Compression::None,
            Compression::Gzip(6),
            Compression::Zstd(3),
            Compression::Lz4,
            Compression::Xz,
        ];
        let small = methods.map(|method| (ours(method, 3), 1));
        // Of larger ones not every bit; the step comes to all bits of a byte.
        let large = [theirs("lzo"), theirs("stored")].map(|bytes| (bytes, 61));
        bounded(|| {
            for (bytes, step) in small.iter().chain(&large) {
                (0..bytes.len() * 8).step_by(*step).for_each(|bit| flip(bytes, bit));
            }
        });
    });
}

fn flip(bytes: &[u8], bit: usize) {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    if let Ok(image) = Image::open(flipped, 0, OPTIONS) {
        seen(&image);
    }
}
