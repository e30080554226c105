//! What an ELF file asks for, and what it offers.
//!
//! Only 64-bit little-endian files are read; of others nothing is known.
//! Structures and constants are those of elf(5) and of the GNU extensions for
//! symbol versions (Linux Standard Base, "Symbol Versioning").

use std::cell::{Cell, RefCell};

use serde::Serialize;

/// Reads bytes at an offset, or fewer at the end.
pub type Read<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

/// A file that another one needs, and the versions of its symbols.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VersionNeed {
    /// The file's soname: `libc.so.6`.
    pub file: String,
    /// The versions: `GLIBC_2.34`.
    pub versions: Vec<String>,
}

/// What is known of a program or library.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Elf {
    /// `e_machine`: 62 is x86-64, 183 is arm64.
    pub machine: u16,
    /// `PT_INTERP`.
    pub interpreter: Option<String>,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<String>,
    /// The directories of `DT_RUNPATH`, or of `DT_RPATH` where there is none.
    pub runpath: Vec<String>,
    /// Versions of symbols that it needs.
    pub needs: Vec<VersionNeed>,
    /// Versions of symbols that it has.
    pub versions: Vec<String>,
}

impl Elf {
    /// About how many bytes of memory its texts take.
    pub(crate) fn weight(&self) -> usize {
        let versions = self.needs.iter().flat_map(|need| need.versions.iter().chain([&need.file]));
        let texts = self.needed.iter().chain(&self.runpath).chain(&self.versions).chain(versions);
        texts.map(|text| size_of::<String>() + text.len()).sum()
    }
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// More headers or entries than any linker writes are not read.
const MOST_HEADERS: usize = 64;
const MOST_DYNAMIC: usize = 16 << 10;
const MOST_NAME: usize = 4096;
const MOST_VERSIONS: usize = 1024;
/// More bytes of names, and of the lists that lead to them, than any library has.
/// Lists and names may lie in one another, so the file's size bounds nothing.
const MOST_TEXT: usize = 128 << 10;
/// Bytes read at once: names and versions lie close together.
const WINDOW: usize = 16 << 10;
/// What reading that counts as, of [`MOST_TEXT`].
const WINDOW_COST: usize = 256;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERNEED: u64 = 0x6fff_fffe;

struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    length: u64,
}

fn word(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The file, by windows.
struct File<'a> {
    read: Read<'a>,
    window: RefCell<(u64, Vec<u8>)>,
    /// What is left of [`MOST_TEXT`].
    left: Cell<usize>,
}

impl File<'_> {
    /// Bytes at an offset, at most [`WINDOW`], fewer at the end.
    fn get(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut window = self.window.borrow_mut();
        let inside = |(start, bytes): &(u64, Vec<u8>)| {
            let from = usize::try_from(offset.checked_sub(*start)?).ok()?;
            bytes.get(from..from.checked_add(len)?).map(<[u8]>::to_vec)
        };
        if let Some(bytes) = inside(&window) {
            return Some(bytes);
        }
        self.spend(WINDOW_COST)?;
        let bytes = (self.read)(offset, WINDOW.max(len))?;
        let wanted = bytes[..len.min(bytes.len())].to_vec();
        *window = (offset, bytes);
        Some(wanted)
    }

    /// Counts bytes; None when there have been too many.
    fn spend(&self, bytes: usize) -> Option<()> {
        self.left.set(self.left.get().checked_sub(bytes)?);
        Some(())
    }

    fn name(&self, offset: u64, most: usize) -> Option<String> {
        let bytes = self.get(offset, most)?;
        let bytes = bytes.split(|b| *b == 0).next()?;
        self.spend(bytes.len())?;
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// What a file says of itself; None when it is no such ELF file.
#[must_use]
pub fn read(read: Read<'_>) -> Option<Elf> {
    let (window, left) = (RefCell::new((0, Vec::new())), Cell::new(MOST_TEXT));
    let file = File { read, window, left };
    let header = file.get(0, HEADER)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    // Elf64_Ehdr: e_machine at 18, e_phoff at 32, e_phentsize at 54, e_phnum at 56.
    let machine = u16::try_from(word(&header, 18, 2)?).ok()?;
    let (table, size) = (word(&header, 32, 8)?, word(&header, 54, 2)? as usize);
    let count = (word(&header, 56, 2)? as usize).min(MOST_HEADERS);
    if !(PROGRAM_HEADER..=WINDOW / MOST_HEADERS).contains(&size) {
        return None;
    }
    let headers = file.get(table, size * count)?;
    // Elf64_Phdr: p_type at 0, p_offset at 8, p_vaddr at 16, p_filesz at 32.
    let segment = |bytes: &[u8]| -> Option<Segment> {
        Some(Segment {
            kind: word(bytes, 0, 4)?,
            offset: word(bytes, 8, 8)?,
            address: word(bytes, 16, 8)?,
            length: word(bytes, 32, 8)?,
        })
    };
    let segments: Vec<Segment> = headers.chunks_exact(size).filter_map(segment).collect();
    let of = |kind| segments.iter().find(|s| s.kind == kind);
    let interpreter = of(PT_INTERP)
        .and_then(|s| file.name(s.offset, usize::try_from(s.length).ok()?.min(MOST_NAME)));
    let mut elf = Elf { machine, interpreter, ..Elf::default() };
    if let Some(segment) = of(PT_DYNAMIC) {
        // What cannot be read of it is not known.
        let _ = dynamic(&file, segment, &segments, &mut elf);
    }
    Some(elf)
}

fn dynamic(file: &File<'_>, dynamic: &Segment, segments: &[Segment], elf: &mut Elf) -> Option<()> {
    let len = usize::try_from(dynamic.length).ok()?.min(MOST_DYNAMIC);
    let bytes = file.get(dynamic.offset, len)?;
    let entries: Vec<(u64, u64)> = bytes
        .chunks_exact(16)
        .filter_map(|entry| Some((word(entry, 0, 8)?, word(entry, 8, 8)?)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let offset_of = |address: u64| {
        segments.iter().find_map(|s| {
            let inside = address.checked_sub(s.address)?;
            (s.kind == PT_LOAD && inside < s.length).then(|| s.offset.checked_add(inside))?
        })
    };
    let first = |tag| entries.iter().find(|(t, _)| *t == tag).map(|(_, value)| *value);
    let strings = offset_of(first(DT_STRTAB)?)?;
    let text = |at: u64, most| file.name(strings.checked_add(at)?, most);
    let needed = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
    elf.needed = needed.filter_map(|(_, at)| text(*at, 256)).collect();
    elf.soname = first(DT_SONAME).and_then(|at| text(at, 256));
    let runpath = first(DT_RUNPATH).or_else(|| first(DT_RPATH));
    if let Some(list) = runpath.and_then(|at| text(at, MOST_NAME)) {
        elf.runpath = list.split(':').filter(|dir| !dir.is_empty()).map(str::to_owned).collect();
    }
    let name = |at: u64| text(at, 256);
    if let Some(at) = first(DT_VERNEED).and_then(offset_of) {
        elf.needs = version_needs(file, at, &name);
    }
    if let Some(at) = first(DT_VERDEF).and_then(offset_of) {
        elf.versions = version_definitions(file, at, &name);
    }
    Some(())
}

type Name<'a> = &'a dyn Fn(u64) -> Option<String>;

/// Walks a list whose entries say how far the next one is; 0 ends it.
fn walk<T>(
    file: &File<'_>,
    mut at: u64,
    size: usize,
    next: usize,
    mut each: impl FnMut(u64, &[u8]) -> Option<T>,
) -> Vec<T> {
    let mut list = Vec::new();
    for _ in 0..MOST_VERSIONS {
        let Some(()) = file.spend(size) else { break };
        let Some(entry) = file.get(at, size).filter(|entry| entry.len() == size) else { break };
        list.extend(each(at, &entry));
        let Some(step) = word(&entry, next, 4).filter(|step| *step != 0) else { break };
        let Some(sum) = at.checked_add(step) else { break };
        at = sum;
    }
    list
}

/// Elf64_Verneed: vn_file at 4, vn_aux at 8, vn_next at 12. Elf64_Vernaux:
/// vna_name at 8, vna_next at 12.
fn version_needs(file: &File<'_>, at: u64, name: Name<'_>) -> Vec<VersionNeed> {
    walk(file, at, 16, 12, |at, need| {
        let first = at.checked_add(word(need, 8, 4)?)?;
        let versions = walk(file, first, 16, 12, |_, entry| name(word(entry, 8, 4)?));
        Some(VersionNeed { file: name(word(need, 4, 4)?)?, versions })
    })
}

/// Elf64_Verdef: vd_flags at 2, vd_aux at 12, vd_next at 16. Elf64_Verdaux: vda_name at 0.
/// The first definition is the file's own name (VER_FLG_BASE), which nobody asks for.
fn version_definitions(file: &File<'_>, at: u64, name: Name<'_>) -> Vec<String> {
    walk(file, at, 20, 16, |at, definition| {
        if word(definition, 2, 2)? & 1 != 0 {
            return None;
        }
        let first = at.checked_add(word(definition, 12, 4)?)?;
        let entry = file.get(first, 8)?;
        name(word(&entry, 0, 4)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<Elf> {
        read(&|at, len| {
            let rest = bytes.get(usize::try_from(at).ok()?..)?;
            Some(rest[..len.min(rest.len())].to_vec())
        })
    }

    #[test]
    fn the_hosts_own_programs_are_understood() {
        let elf = of(&std::fs::read("/bin/true").unwrap()).unwrap();
        assert!(elf.interpreter.is_some_and(|path| path.contains("ld-linux")));
        assert!(elf.needed.iter().any(|name| name.starts_with("libc.so")));
        let libc = elf.needs.iter().find(|need| need.file.starts_with("libc.so")).unwrap();
        assert!(libc.versions.iter().any(|version| version.starts_with("GLIBC_2.")));
    }

    #[test]
    fn a_library_says_what_it_offers() {
        let dirs = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64"];
        let files = dirs.iter().map(|dir| format!("{dir}/libc.so.6"));
        let bytes = files.filter_map(|path| std::fs::read(path).ok()).next().unwrap();
        let elf = of(&bytes).unwrap();
        assert_eq!(elf.soname.as_deref(), Some("libc.so.6"));
        assert!(elf.versions.iter().any(|version| version == "GLIBC_2.17"), "{elf:?}");
    }

    #[test]
    fn a_file_that_says_too_much_is_read_in_part() {
        let long = "v".repeat(250);
        let needs: Vec<String> = (0..1000).map(|n| format!("lib{n}.so.1@{long}")).collect();
        let needs: Vec<&str> = needs.iter().map(String::as_str).collect();
        let bytes = crate::fixture::elf("libx.so.1", &needs, &[]);
        let reads = Cell::new(0);
        let elf = read(&|at, len| {
            reads.set(reads.get() + 1);
            let rest = bytes.get(usize::try_from(at).ok()?..)?;
            Some(rest[..len.min(rest.len())].to_vec())
        });
        let elf = elf.unwrap();
        assert_eq!(elf.soname.as_deref(), Some("libx.so.1"));
        assert!(elf.weight() < 2 * MOST_TEXT, "{}", elf.weight());
        assert!(reads.get() <= MOST_TEXT / WINDOW_COST, "{}", reads.get());
    }

    #[test]
    fn damage_is_no_panic() {
        let whole = std::fs::read("/bin/true").unwrap();
        let mut bytes = whole.clone();
        for at in (0..4096.min(bytes.len())).chain(bytes.len() * 9 / 10..bytes.len()) {
            for value in [0, 0xff, whole[at] ^ 0x80] {
                bytes[at] = value;
                // Whatever comes of it.
                let _ = of(&bytes);
            }
            bytes[at] = whole[at];
        }
        for end in 0..2000 {
            let _ = of(&whole[..end]);
        }
    }
}
