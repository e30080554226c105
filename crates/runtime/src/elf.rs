//! What an ELF program asks for before it runs: an interpreter, libraries.
//!
//! Only 64-bit little-endian files are read; of others nothing is known.
//! Structures and constants are those of elf(5).

/// Reads bytes at an offset, or fewer at the end.
pub(crate) type Read<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

/// What a program asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// `PT_INTERP`.
    pub(crate) interpreter: Option<String>,
    /// `DT_NEEDED`, in order.
    pub(crate) libraries: Vec<String>,
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// More headers or entries than any linker writes are not read.
const MOST_HEADERS: usize = 64;
const MOST_DYNAMIC: usize = 16 << 10;
const MOST_NAME: usize = 4096;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

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

fn name(read: Read<'_>, offset: u64, most: usize) -> Option<String> {
    let bytes = read(offset, most)?;
    let bytes = bytes.split(|b| *b == 0).next()?;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// What the program needs; None when it is no such ELF file.
pub(crate) fn needs(read: Read<'_>) -> Option<Needs> {
    let header = read(0, HEADER)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    // Elf64_Ehdr: e_phoff at 32, e_phentsize at 54, e_phnum at 56.
    let (table, size) = (word(&header, 32, 8)?, word(&header, 54, 2)? as usize);
    let count = (word(&header, 56, 2)? as usize).min(MOST_HEADERS);
    if size < PROGRAM_HEADER {
        return None;
    }
    let headers = read(table, size * count)?;
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
        .and_then(|s| name(read, s.offset, usize::try_from(s.length).ok()?.min(MOST_NAME)));
    let libraries = of(PT_DYNAMIC).and_then(|s| libraries(read, s, &segments)).unwrap_or_default();
    Some(Needs { interpreter, libraries })
}

fn libraries(read: Read<'_>, dynamic: &Segment, segments: &[Segment]) -> Option<Vec<String>> {
    let len = usize::try_from(dynamic.length).ok()?.min(MOST_DYNAMIC);
    let bytes = read(dynamic.offset, len)?;
    let entries: Vec<(u64, u64)> = bytes
        .chunks_exact(16)
        .filter_map(|entry| Some((word(entry, 0, 8)?, word(entry, 8, 8)?)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let (_, table) = *entries.iter().find(|(tag, _)| *tag == DT_STRTAB)?;
    let strings = segments.iter().find_map(|s| {
        let inside = table.checked_sub(s.address)?;
        (s.kind == PT_LOAD && inside < s.length).then(|| s.offset.checked_add(inside))?
    })?;
    let needed = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
    Some(needed.filter_map(|(_, at)| name(read, strings.checked_add(*at)?, 256)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_programs_are_understood() {
        let bytes = std::fs::read("/bin/true").unwrap();
        let whole = |bytes: &[u8], at: u64, len: usize| {
            let rest = bytes.get(usize::try_from(at).ok()?..)?;
            Some(rest[..len.min(rest.len())].to_vec())
        };
        let read = |at, len| whole(&bytes, at, len);
        let needs = needs(&read).unwrap();
        assert!(needs.interpreter.is_some_and(|path| path.contains("ld-linux")));
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")));
    }

    #[test]
    fn damage_is_no_panic() {
        let mut bytes = std::fs::read("/bin/true").unwrap();
        for at in 0..4096.min(bytes.len()) {
            let before = bytes[at];
            for value in [0, 0xff, before ^ 0x80] {
                bytes[at] = value;
                let read = |from: u64, len: usize| {
                    let rest = bytes.get(usize::try_from(from).ok()?..)?;
                    Some(rest[..len.min(rest.len())].to_vec())
                };
                // Whatever comes of it.
                let _ = needs(&read);
            }
            bytes[at] = before;
        }
        for end in 0..400 {
            let read = |from: u64, len: usize| {
                let rest = bytes[..end].get(usize::try_from(from).ok()?..)?;
                Some(rest[..len.min(rest.len())].to_vec())
            };
            let _ = needs(&read);
        }
    }
}
