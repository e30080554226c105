//! Access control lists (acl(5)), which name users and groups that the
//! namespace does not have.
//!
//! A list is noted beside the file's owner, and shown where it is asked for;
//! its permission bits are real. What is made in a directory inherits its default
//! list, as the supervisor makes it ([`crate::making`]).

use std::ffi::CString;

use rustix::fs::{Mode as FsMode, XattrFlags};
use sys::seccomp::{self, Answer, Notification, Stat};
use types::{ACL_NOTES, OVERRIDE_STAT, SPECIAL_STAT};

use crate::calls::{Lookup, lookup};
use crate::supervisor::{
    AT_FDCWD, DIRECTORY, MOST_PLAIN, NOFOLLOW, REGULAR, Refusal, Result, Supervisor, TYPES, Target,
    descriptor, string,
};

/// XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h.
const LONGEST: usize = 65_536;
const ENODATA: i32 = 61;
const ERANGE: i32 = 34;
const EEXIST: i32 = 17;
/// XATTR_CREATE and XATTR_REPLACE of linux/xattr.h.
const CREATE: u64 = 1;
const REPLACE: u64 = 2;

/// struct posix_acl_xattr_header and posix_acl_xattr_entry of
/// linux/posix_acl_xattr.h.
const HEAD: usize = 4;
const ENTRY: usize = 8;
/// Tags of entries.
const OWNER: u16 = 0x01;
const GROUP: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The list of a name, and where it is noted.
struct List {
    note: &'static str,
    access: bool,
}

impl List {
    fn named(name: &[u8]) -> Option<Self> {
        let (index, (_, note)) =
            ACL_NOTES.iter().enumerate().find(|(_, (shown, _))| shown.as_bytes() == name)?;
        Some(Self { note, access: index == 0 })
    }
}

impl Supervisor<'_> {
    /// The file of a call of the xattr(7) family, and the list that it is about;
    /// other attributes are the kernel's.
    fn list_of(&self, call: &Notification) -> Result<(Target, List)> {
        let name = call.args[if is_at(call) { 3 } else { 1 }];
        let list = List::named(&string(call.pid, name)?).ok_or(Refusal::Pass)?;
        Ok((self.attributed(call)?, list))
    }

    fn attributed(&self, call: &Notification) -> Result<Target> {
        let [what, path, flags, ..] = call.args;
        match lookup(call.arch, call.number) {
            Lookup::Descriptor => Ok(descriptor(call.pid, what)),
            Lookup::Link => self.target(call.pid, AT_FDCWD, what, NOFOLLOW),
            Lookup::Path => self.target(call.pid, AT_FDCWD, what, 0),
            Lookup::At => self.target(call.pid, what as i32, path, flags),
        }
    }

    /// The default list of a directory.
    pub(crate) fn default_list(&mut self, directory: &Target, stat: &Stat) -> Option<Vec<u8>> {
        let (file, _) = stat.version();
        if self.listless.contains(&file) {
            return None;
        }
        let list = directory.attribute(ACL_NOTES[1].1).filter(|list| parse(list).is_some());
        if list.is_none() {
            if self.listless.len() > MOST_PLAIN {
                self.listless.clear();
            }
            self.listless.insert(file);
        }
        list
    }

    pub(crate) fn setxattr(&mut self, call: &Notification) -> Result<Answer> {
        let (target, list) = self.list_of(call)?;
        let Value { place: value, size, flags } = Value::of(call)?;
        let mut bytes = vec![0; (size as usize).min(LONGEST)];
        let got = seccomp::read_memory(call.pid, value, &mut bytes)?;
        bytes.truncate(got);
        let Some(parsed) = parse(&bytes) else {
            // One without entries, or what is none.
            return Err(Refusal::Pass);
        };
        self.waits(call)?;
        let noted = target.attribute(list.note).is_some();
        if flags & CREATE != 0 && noted {
            return Err(Refusal::Errno(EEXIST));
        }
        if flags & REPLACE != 0 && !noted {
            return Err(Refusal::Errno(ENODATA));
        }
        if !parsed.names {
            // Its consequences are real.
            let name = ACL_NOTES[usize::from(!list.access)].0;
            set(&target, name, &bytes)?;
        }
        if list.access {
            let bits = target.stat()?.mode() & 0o7000 | parsed.mode;
            rustix::fs::chmod(&target.path, FsMode::from_raw_mode(bits))?;
            self.plain.remove(&target.stat()?.version().0);
        }
        if parsed.names || parsed.mask || !list.access {
            set(&target, list.note, &bytes)?;
            self.listless.clear();
        } else if noted {
            remove(&target, list.note)?;
        }
        Ok(Answer::Value(0))
    }

    /// Of the fast mode: a list or a capability that the kernel refuses is no failure.
    /// The package's scripts go on, and the image has none.
    pub(crate) fn grant(&self, call: &Notification) -> Result<Answer> {
        use rustix::io::Errno;
        let name = string(call.pid, call.args[if is_at(call) { 3 } else { 1 }])?;
        let known = List::named(&name).is_some() || name == b"security.capability";
        let name = CString::new(name).map_err(|_| Refusal::Pass)?;
        let Value { place, size, flags } = Value::of(call)?;
        if !known || size as usize > LONGEST {
            return Err(Refusal::Pass);
        }
        let target = self.attributed(call)?;
        let mut bytes = vec![0; size as usize];
        let got = seccomp::read_memory(call.pid, place, &mut bytes)?;
        self.waits(call)?;
        let write = if target.follow { rustix::fs::setxattr } else { rustix::fs::lsetxattr };
        let flags = XattrFlags::from_bits_retain(flags as u32);
        match write(&target.path, &name, &bytes[..got], flags) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::NOTSUP) => Ok(Answer::Value(0)),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn getxattr(&self, call: &Notification) -> Result<Answer> {
        let (target, list) = self.list_of(call)?;
        let Some(mut value) = target.attribute(list.note) else {
            // The image's server has none for the kernel; programs would take that for
            // a file system without lists, and not copy the other one.
            let kind = target.stat()?.mode() & TYPES;
            let real = ACL_NOTES[usize::from(!list.access)].0;
            let none = matches!(kind, REGULAR | DIRECTORY) && target.attribute(real).is_none();
            return Err(if none { Refusal::Errno(ENODATA) } else { Refusal::Pass });
        };
        if list.access {
            show_mode(&mut value, target.stat()?.mode());
        }
        let Value { place, size: room, .. } = Value::of(call)?;
        self.told(call, place, room, &value)
    }

    /// Notes are not the caller's business, what they say is.
    pub(crate) fn listxattr(&self, call: &Notification) -> Result<Answer> {
        let at = if is_at(call) { 3 } else { 1 };
        let (place, room) = (call.args[at], call.args[at + 1]);
        let target = self.attributed(call)?;
        let mut buffer = vec![0; LONGEST];
        let read = if target.follow { rustix::fs::listxattr } else { rustix::fs::llistxattr };
        let len = read(&target.path, &mut buffer[..]).map_err(|_| Refusal::Pass)?;
        let hidden = [OVERRIDE_STAT, SPECIAL_STAT];
        let mut all: Vec<&[u8]> = Vec::new();
        for name in buffer[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
            let shown = ACL_NOTES.iter().find(|(_, note)| note.as_bytes() == name);
            let name = shown.map_or(name, |(shown, _)| shown.as_bytes());
            if !all.contains(&name) && !hidden.iter().any(|note| note.as_bytes() == name) {
                all.push(name);
            }
        }
        let list: Vec<u8> = all.iter().flat_map(|name| name.iter().copied().chain([0])).collect();
        self.told(call, place, room, &list)
    }

    pub(crate) fn removexattr(&self, call: &Notification) -> Result<Answer> {
        let (target, list) = self.list_of(call)?;
        if target.attribute(list.note).is_none() {
            return Err(Refusal::Pass);
        }
        self.waits(call)?;
        remove(&target, list.note)?;
        // One without names is there itself, too.
        let _ = remove(&target, ACL_NOTES[usize::from(!list.access)].0);
        Ok(Answer::Value(0))
    }

    /// Gives a value to a caller, or its size (getxattr(2)).
    fn told(&self, call: &Notification, place: u64, room: u64, value: &[u8]) -> Result<Answer> {
        if room != 0 {
            if (room as usize) < value.len() {
                return Err(Refusal::Errno(ERANGE));
            }
            self.tell(call, place, value)?;
        }
        Ok(Answer::Value(value.len() as i64))
    }
}

/// Whether it is one of the calls with a directory, a path and flags.
fn is_at(call: &Notification) -> bool {
    lookup(call.arch, call.number) == Lookup::At
}

/// Where a caller has a value, or room for one.
struct Value {
    place: u64,
    size: u64,
    flags: u64,
}

impl Value {
    fn of(call: &Notification) -> Result<Self> {
        let [_, _, place, size, flags, last] = call.args;
        if !is_at(call) {
            return Ok(Self { place, size, flags });
        }
        // struct xattr_args of linux/xattr.h: 64, 32 and 32 bits. Another size, or
        // memory that is not there, is the kernel's business.
        let mut raw = [0; 16];
        if last != raw.len() as u64 || seccomp::read_memory(call.pid, flags, &mut raw)? < raw.len()
        {
            return Err(Refusal::Pass);
        }
        let [low, high, size, flags] = [0, 4, 8, 12].map(|at| {
            u64::from(u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]))
        });
        let place = if cfg!(target_endian = "big") { low << 32 | high } else { high << 32 | low };
        Ok(Self { place, size, flags })
    }
}

pub(crate) fn set(target: &Target, name: &str, value: &[u8]) -> Result<()> {
    let write = if target.follow { rustix::fs::setxattr } else { rustix::fs::lsetxattr };
    Ok(write(&target.path, name, value, XattrFlags::empty())?)
}

pub(crate) fn remove(target: &Target, name: &str) -> Result<()> {
    let remove = if target.follow { rustix::fs::removexattr } else { rustix::fs::lremovexattr };
    Ok(remove(&target.path, name)?)
}

/// What a list amounts to.
struct Parsed {
    /// Whether it names users or groups.
    names: bool,
    mask: bool,
    /// Permission bits.
    mode: u32,
}

/// None for what is no list, or an empty one.
fn parse(list: &[u8]) -> Option<Parsed> {
    let entries = list.get(HEAD..)?;
    if list[..HEAD] != 2_u32.to_le_bytes() || entries.is_empty() || entries.len() % ENTRY != 0 {
        return None;
    }
    let mut parsed = Parsed { names: false, mask: false, mode: 0 };
    let mut mask = 0;
    for entry in entries.chunks_exact(ENTRY) {
        let bits = u32::from(u16::from_le_bytes([entry[2], entry[3]])) & 7;
        match u16::from_le_bytes([entry[0], entry[1]]) {
            OWNER => parsed.mode |= bits << 6,
            GROUP => parsed.mode |= bits << 3,
            OTHER => parsed.mode |= bits,
            MASK => (parsed.mask, mask) = (true, bits),
            _ => parsed.names = true,
        }
    }
    if parsed.mask {
        // The group's bits show the mask (acl(5)).
        parsed.mode = parsed.mode & 0o707 | mask << 3;
    }
    Some(parsed)
}

/// Puts permission bits into a list, as chmod(2) does.
fn show_mode(list: &mut [u8], mode: u32) {
    let Some(parsed) = parse(list) else { return };
    for entry in list[HEAD..].chunks_exact_mut(ENTRY) {
        let bits = match u16::from_le_bytes([entry[0], entry[1]]) {
            OWNER => mode >> 6,
            GROUP if !parsed.mask => mode >> 3,
            MASK => mode >> 3,
            OTHER => mode,
            _ => continue,
        };
        entry[2] = (bits & 7) as u8;
    }
}

/// What a file that is made with a mode has of the default list of its directory
/// (acl(5)): its own list, where that says more than permission bits, and the bits.
pub(crate) fn inherited(default: &[u8], mode: u32) -> (Option<Vec<u8>>, u32) {
    let mut list = default.to_vec();
    let Some(parsed) = parse(&list) else { return (None, mode) };
    let both = parsed.mode & mode & 0o777;
    show_mode(&mut list, both);
    ((parsed.names || parsed.mask).then_some(list), mode & 0o7000 | both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, bits, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(bits.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn lists_amount_to_bits_and_show_them() {
        let plain = parse(&list(&[(1, 6, 0), (4, 4, 0), (0x20, 0, 0)])).unwrap();
        assert_eq!((plain.names, plain.mask, plain.mode), (false, false, 0o640));
        let mut named = list(&[(1, 7, 0), (4, 7, 0), (8, 5, 4), (0x10, 5, 0), (0x20, 0, 0)]);
        let parsed = parse(&named).unwrap();
        assert_eq!((parsed.names, parsed.mask, parsed.mode), (true, true, 0o750));
        show_mode(&mut named, 0o100_615);
        let changed = list(&[(1, 6, 0), (4, 7, 0), (8, 5, 4), (0x10, 1, 0), (0x20, 5, 0)]);
        assert_eq!(named, changed);
        let (inherited_list, mode) = inherited(&named, 0o2666);
        let expected = list(&[(1, 6, 0), (4, 7, 0), (8, 5, 4), (0x10, 0, 0), (0x20, 4, 0)]);
        assert_eq!((inherited_list, mode), (Some(expected), 0o2604));
        let bits = list(&[(1, 7, 0), (4, 5, 0), (0x20, 1, 0)]);
        assert_eq!(inherited(&bits, 0o666), (None, 0o640));
        for bad in [&b""[..], &2_u32.to_le_bytes(), &changed[..9], &[1; 12]] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
