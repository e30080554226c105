//! `ld.so.cache`, as glibc writes and reads it (ld.so(8), ldconfig(8)).
//!
//! ```text
//! [old format: "ld.so-1.7.0\0", u32 n, n × {u32 flags, u32 key, u32 value}, to a multiple of 8]
//! "glibc-ld.so.cache1.1", u32 n, u32 bytes of strings, u8 endianness, 3 × 0,
//! u32 offset of extensions, 3 × u32 0,                                    48 bytes
//! n × {u32 flags, u32 key, u32 value, u32 0, u64 hwcap},                  24 bytes each
//! strings: names and paths, each ended by a zero
//! ```
//!
//! Keys and values are offsets from the start of the new format. Entries are
//! in descending order of [`order`], as the dynamic linker searches by halving.
//! Numbers are in the machine's order; all machines here are little-endian.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

const OLD: &[u8] = b"ld.so-1.7.0\0";
const NEW: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// More entries than any system has.
const MOST: usize = 1 << 18;
/// Longest names and paths in bytes, `NAME_MAX` and `PATH_MAX` of Linux.
const LONGEST: [usize; 2] = [255, 4095];
/// More text than any cache has, in bytes. Entries may share theirs, so the size
/// of the file bounds nothing.
const MOST_TEXT: usize = 16 << 20;
/// Bits of the flags that say which format of libraries it is: those of
/// glibc 2 (`FLAG_ELF_LIBC6`) in the low byte, the machine above it.
const ELF_LIBC6: u32 = 3;
/// The header's byte that says little-endian.
const LITTLE_ENDIAN: u8 = 2;

/// A library that the cache names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its soname.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// Kind and machine.
    pub flags: u32,
    /// Features of the processor that it needs; 0 for the plain one.
    pub hwcap: u64,
}

/// Why bytes are no cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LdCacheError {
    /// Neither format.
    #[error("it does not begin as a cache of the dynamic linker does")]
    Magic,
    /// It ends too early.
    #[error("it ends within the entry at byte {0}")]
    Truncated(usize),
    /// Too many entries.
    #[error("it claims {0} entries, more than {MOST}")]
    TooMany(usize),
    /// A name outside of the file.
    #[error("the entry at byte {0} has its text outside of the file")]
    Text(usize),
    /// A name that no file can have.
    #[error("the entry at byte {0} has a text of more than {1} bytes")]
    Long(usize, usize),
    /// Entries that share long texts.
    #[error("the texts up to the entry at byte {0} have more than {MOST_TEXT} bytes")]
    Much(usize),
}

fn word(bytes: &[u8], at: usize) -> Result<usize, LdCacheError> {
    let end = at.checked_add(4).ok_or(LdCacheError::Truncated(at))?;
    let four = bytes.get(at..end).ok_or(LdCacheError::Truncated(at))?;
    Ok(four.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

/// Reads a cache.
///
/// # Errors
/// When it is none; see [`LdCacheError`].
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, LdCacheError> {
    let mut bytes = bytes;
    if bytes.starts_with(OLD) {
        let count = word(bytes, OLD.len())?;
        if count > MOST {
            return Err(LdCacheError::TooMany(count));
        }
        let start = (OLD.len() + 4 + count * 12).next_multiple_of(8);
        bytes = bytes.get(start..).ok_or(LdCacheError::Truncated(start))?;
    }
    if !bytes.starts_with(NEW) {
        return Err(LdCacheError::Magic);
    }
    let count = word(bytes, NEW.len())?;
    if count > MOST {
        return Err(LdCacheError::TooMany(count));
    }
    let mut list = Vec::new();
    let mut left = MOST_TEXT;
    for at in (0..count).map(|n| HEADER + n * ENTRY) {
        let mut text = |place: usize, longest: usize| {
            let rest = bytes.get(place..).ok_or(LdCacheError::Text(at))?;
            let rest = &rest[..rest.len().min(longest + 1)];
            let end = match rest.iter().position(|b| *b == 0) {
                Some(end) => end,
                None if rest.len() > longest => return Err(LdCacheError::Long(at, longest)),
                None => return Err(LdCacheError::Text(at)),
            };
            // What is no UTF-8 grows, and has to be readable once it is written.
            let text = String::from_utf8_lossy(&rest[..end]).into_owned();
            if text.len() > longest {
                return Err(LdCacheError::Long(at, longest));
            }
            left = left.checked_sub(text.len()).ok_or(LdCacheError::Much(at))?;
            Ok(text)
        };
        let hwcap = word(bytes, at + 16)? as u64 | (word(bytes, at + 20)? as u64) << 32;
        list.push(Entry {
            flags: word(bytes, at)? as u32,
            name: text(word(bytes, at + 4)?, LONGEST[0])?,
            path: text(word(bytes, at + 8)?, LONGEST[1])?,
            hwcap,
        });
    }
    Ok(list)
}

/// The flags of a library for a machine (`e_machine` of ELF); None for one
/// that this program does not know.
#[must_use]
pub fn flags(machine: u16) -> Option<u32> {
    let kind = match machine {
        62 => 0x0300,  // x86-64
        183 => 0x0a00, // arm64
        21 => 0x0500,  // ppc64le
        243 => 0x1000, // riscv64 with double floats
        _ => return None,
    };
    Some(kind | ELF_LIBC6)
}

/// Writes a cache.
#[must_use]
pub fn write(entries: &[Entry]) -> Vec<u8> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| {
        order(b.name.as_bytes(), a.name.as_bytes())
            .then(b.flags.cmp(&a.flags))
            .then(b.hwcap.cmp(&a.hwcap))
    });
    let start = HEADER + sorted.len() * ENTRY;
    let mut strings = Vec::new();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    let mut body = Vec::new();
    let number = |value: usize| (value as u32).to_le_bytes();
    for entry in sorted {
        let mut place = |text: &'_ str| -> usize {
            let at = start + strings.len();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let key = *known.entry(entry.name.as_str()).or_insert_with(|| place(&entry.name));
        let value = place(&entry.path);
        body.extend_from_slice(&entry.flags.to_le_bytes());
        body.extend_from_slice(&number(key));
        body.extend_from_slice(&number(value));
        body.extend_from_slice(&number(0));
        body.extend_from_slice(&entry.hwcap.to_le_bytes());
    }
    let mut out = NEW.to_vec();
    out.extend_from_slice(&number(entries.len()));
    out.extend_from_slice(&number(strings.len()));
    out.extend_from_slice(&[LITTLE_ENDIAN, 0, 0, 0]);
    out.resize(HEADER, 0);
    out.extend(body);
    out.extend(strings);
    out
}

/// The dynamic linker's order of names: numbers count as numbers, and come
/// after everything else.
#[must_use]
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                match digits(&mut a).cmp(&digits(&mut b)) {
                    Ordering::Equal => {}
                    other => return other,
                }
            }
            (Some(x), _) if x.is_ascii_digit() => return Ordering::Greater,
            (_, Some(y)) if y.is_ascii_digit() => return Ordering::Less,
            (Some(x), Some(y)) if x == y => (a, b) = (&a[1..], &b[1..]),
            (x, y) => return x.cmp(&y),
        }
    }
}

fn digits(text: &mut &[u8]) -> u64 {
    let mut value = 0u64;
    while let Some(digit) = text.first().filter(|b| b.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        *text = &text[1..];
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, path: &str) -> Entry {
        Entry { name: name.into(), path: path.into(), flags: 0x0303, hwcap: 0 }
    }

    #[test]
    fn what_is_written_is_read_in_the_linkers_order() {
        let list = [
            entry("libz.so.1", "/usr/lib/libz.so.1"),
            entry("libmpi.so.12", "/x/libmpi.so.12"),
            entry("libmpi.so.40", "/y/libmpi.so.40"),
            entry("libmpi_cxx.so.40", "/y/libmpi_cxx.so.40"),
        ];
        let names: Vec<_> = parse(&write(&list)).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["libz.so.1", "libmpi_cxx.so.40", "libmpi.so.40", "libmpi.so.12"]);
    }

    #[test]
    fn the_hosts_own_cache_is_in_that_order() {
        let list = parse(&std::fs::read("/etc/ld.so.cache").unwrap()).unwrap();
        assert!(list.iter().any(|e| e.name == "libc.so.6"), "{}", list.len());
        for pair in list.windows(2) {
            let falling = order(pair[0].name.as_bytes(), pair[1].name.as_bytes());
            assert_ne!(falling, Ordering::Less, "{} {}", pair[0].name, pair[1].name);
        }
        let again = parse(&write(&list)).unwrap();
        assert_eq!(again.len(), list.len());
        assert!(list.iter().all(|e| again.contains(e)));
    }

    #[test]
    fn the_old_format_before_it_is_passed_over() {
        let mut bytes = OLD.to_vec();
        bytes.extend_from_slice(&1u32.to_le_bytes());
        bytes.extend_from_slice(&[7; 12]);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(write(&[entry("a", "/a")]));
        assert_eq!(parse(&bytes).unwrap(), [entry("a", "/a")]);
    }

    /// A cache of `count` entries that all name one run of bytes.
    fn shared(count: usize, run: usize) -> Vec<u8> {
        let mut bytes = NEW.to_vec();
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
        bytes.resize(HEADER, 0);
        let text = (HEADER + count * ENTRY) as u32;
        for _ in 0..count {
            for value in [0x0303, text + run as u32 - 200, text, 0, 0, 0] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        bytes.resize(bytes.len() + run, b'a');
        bytes.push(0);
        bytes
    }

    #[test]
    fn entries_that_share_long_texts_take_no_memory_for_each() {
        assert_eq!(parse(&shared(2, 4095)).unwrap().len(), 2);
        assert_eq!(parse(&shared(2, 4096)), Err(LdCacheError::Long(HEADER, 4095)));
        assert!(matches!(parse(&shared(10_000, 4095)), Err(LdCacheError::Much(_))));
        let mut bytes = shared(1, 300);
        let name = bytes.len() - 201;
        bytes[name..name + 200].fill(0xff);
        assert_eq!(parse(&bytes), Err(LdCacheError::Long(HEADER, 255)));
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let whole = write(&[entry("libz.so.1", "/z"), entry("libm.so.6", "/m")]);
        for end in 0..whole.len() - 1 {
            assert!(parse(&whole[..end]).is_err(), "{end}");
        }
        let mut bytes = whole.clone();
        for at in 0..whole.len() {
            for value in [0, 0xff, whole[at] ^ 0x80] {
                bytes[at] = value;
                let _ = parse(&bytes);
            }
            bytes[at] = whole[at];
        }
        assert_eq!(parse(b"\x7fELF"), Err(LdCacheError::Magic));
    }
}
