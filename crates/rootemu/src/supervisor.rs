//! Answers the calls that the filter notifies of.
//!
//! The supervisor lives in the namespaces and the root directory of the
//! processes that it answers, so their absolute paths are its own; others are
//! reached through `/proc/PID`. It decides nothing about security: whoever
//! changes a path between the look and the answer deceives himself.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode as FsMode, OFlags, XattrFlags};
use sys::seccomp::{self, Answer, Notification, Stat, Statx};
use types::{Device, OVERRIDE_STAT, Owner, SPECIAL_STAT};

use crate::calls::{Call, Lookup, NATIVE, lookup, native};
use crate::identity::{Identities, Which};
use crate::specials::Specials;

const KEEP: u32 = u32::MAX;
const EMFILE: i32 = 24;
/// AT_FDCWD, AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH of linux/fcntl.h.
const AT_FDCWD: i32 = -100;
const NOFOLLOW: u64 = 0x100;
const EMPTY_PATH: u64 = 0x1000;
/// PATH_MAX of linux/limits.h.
const LONGEST_PATH: usize = 4096;
const PAGE: u64 = 4096;
/// linux/stat.h.
const STATX_TYPE: u32 = 1;
/// NGROUPS_MAX of linux/limits.h.
/// So many files without a record are remembered.
const MOST_PLAIN: usize = 1 << 16;
const MOST_GROUPS: u64 = 65_536;

const TYPES: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const DIRECTORY: u32 = 0o040_000;
const BLOCK: u32 = 0o060_000;
const CHARACTER: u32 = 0o020_000;

/// Answers until nobody is left who could ask. The caller has a umask of 0.
/// `owners` keeps whose the links, FIFOs and sockets of an upper directory are
/// ([`types::SPECIAL_OWNERS`]).
///
/// # Errors
/// When the listener cannot be read.
pub fn supervise(listener: &OwnedFd, owners: Option<File>) -> io::Result<()> {
    // Without it all is right, and slower.
    let _ = seccomp::set_sync_wake_up(listener);
    let specials = Specials::new(owners);
    let mut supervisor = Supervisor { specials, ..Supervisor::default() };
    loop {
        let Ok(call) = seccomp::receive(listener.as_fd()) else {
            // The caller was killed, this thread was interrupted, or (since Linux
            // 6.11) nobody is left. Before that this thread ends with its process.
            let mut fds = [PollFd::new(listener, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default()))?;
            if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(());
            }
            continue;
        };
        // A caller that has gone needs no answer.
        let _ = match supervisor.opened(&call) {
            Some((file, close_on_exec)) => {
                match seccomp::answer_with_descriptor(listener, call.id, &file, close_on_exec) {
                    // Its table is full, as it would be without us.
                    Err(e) if e.raw_os_error() == Some(EMFILE) => {
                        seccomp::answer(listener, call.id, Answer::Errno(EMFILE))
                    }
                    // A kernel that passes no descriptors opens what is there by now.
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        seccomp::answer(listener, call.id, Answer::Continue)
                    }
                    other => other,
                }
            }
            None => {
                let answer = supervisor.answer(&call).unwrap_or_else(|error| error.answer());
                seccomp::answer(listener, call.id, answer)
            }
        };
    }
}

/// Why there is no answer of ours.
enum Refusal {
    /// The kernel's own answer is the right one.
    Pass,
    Errno(i32),
}

impl Refusal {
    fn answer(&self) -> Answer {
        match self {
            Self::Pass => Answer::Continue,
            Self::Errno(number) => Answer::Errno(*number),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Errno(error.raw_os_error().unwrap_or(5))
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Errno(error.raw_os_error())
    }
}

type Result<T> = std::result::Result<T, Refusal>;

/// A file that a call is about.
pub(crate) struct Target {
    pub(crate) path: CString,
    pub(crate) follow: bool,
}

#[derive(Default)]
struct Supervisor {
    identities: Identities,
    specials: Specials,
    /// Files without a record, and when each was last changed. To ask for the
    /// attribute of an image's file is a question to its server.
    plain: HashMap<(u64, u64), (i64, i64)>,
    /// Whether somebody has changed a root directory.
    rooted: bool,
}

impl Supervisor {
    /// The new file of a caller that is not root, which belongs to it; None for
    /// everything else, which the kernel opens.
    fn opened(&mut self, call: &Notification) -> Option<(OwnedFd, bool)> {
        const TRUNCATE: u64 = 0o1101;
        let [a, b, c, d, ..] = call.args;
        let what = native(call.number).filter(|_| call.arch == NATIVE)?;
        let (dirfd, place, flags, mode) = match what {
            Call::Open => (AT_FDCWD, a, b, c),
            Call::Openat => (a as i32, b, c, d),
            Call::Creat => (AT_FDCWD, a, TRUNCATE, b),
            _ => return None,
        };
        let flags = OFlags::from_bits_retain(flags as u32);
        let owner = self.owner_of_new(call.pid).filter(|_| !flags.contains(OFlags::TMPFILE))?;
        let target = self.target(call.pid, dirfd, place, 0).ok()?;
        let bits = mode as u32 & 0o7777 & !umask(call.pid);
        let wanted = flags | OFlags::EXCL | OFlags::CLOEXEC;
        // A file that is there already is the kernel's business.
        let file = rustix::fs::open(&target.path, wanted, FsMode::from_raw_mode(bits)).ok()?;
        let value = Owner { mode: bits, ..owner }.to_string();
        self.made();
        // Where there are no attributes the file is root's.
        let _ = rustix::fs::fsetxattr(&file, OVERRIDE_STAT, value.as_bytes(), XattrFlags::empty());
        if !flags.contains(OFlags::EXCL) {
            // The caller's own flags do not say so.
            let plain = rustix::fs::fcntl_getfl(&file).ok()? - OFlags::EXCL;
            let _ = rustix::fs::fcntl_setfl(&file, plain);
        }
        Some((file, flags.contains(OFlags::CLOEXEC)))
    }

    /// What a path leads to.
    fn target(&self, pid: u32, dirfd: i32, place: u64, flags: u64) -> Result<Target> {
        let follow = flags & NOFOLLOW == 0;
        let mut path = match string(pid, place) {
            Ok(path) => path,
            // A null path with AT_EMPTY_PATH is an empty one since 6.11.
            Err(_) if flags & EMPTY_PATH != 0 && place == 0 => Vec::new(),
            Err(refusal) => return Err(refusal),
        };
        if path.is_empty() {
            if flags & EMPTY_PATH == 0 {
                return Err(Refusal::Errno(2));
            }
            if dirfd != AT_FDCWD {
                return Ok(descriptor(pid, dirfd as u64));
            }
            let path = c_string(format!("/proc/{pid}/cwd").into_bytes())?;
            return Ok(Target { path, follow: true });
        }
        let mut full = if path[0] == b'/' {
            if let Some(rest) = path.strip_prefix(b"/proc/self/") {
                // There it depends on who asks.
                path = [format!("/proc/{pid}/").as_bytes(), rest].concat();
            }
            if self.rooted && other_root(pid) {
                format!("/proc/{pid}/root").into_bytes()
            } else {
                Vec::new()
            }
        } else if dirfd == AT_FDCWD {
            format!("/proc/{pid}/cwd/").into_bytes()
        } else {
            format!("/proc/{pid}/fd/{dirfd}/").into_bytes()
        };
        full.extend(path);
        Ok(Target { path: c_string(full)?, follow })
    }

    /// Who a caller that is not root makes files for.
    fn owner_of_new(&mut self, pid: u32) -> Option<Owner> {
        let identity = self.identities.get(pid);
        let (uid, gid) = (identity.user.effective, identity.group.effective);
        ((uid, gid) != (0, 0)).then_some(Owner { uid, gid, mode: 0, device: None })
    }

    fn mkdir(&mut self, pid: u32, dirfd: i32, place: u64, mode: u64) -> Result<Answer> {
        let owner = self.owner_of_new(pid).ok_or(Refusal::Pass)?;
        let target = self.target(pid, dirfd, place, NOFOLLOW)?;
        let bits = mode as u32 & 0o7777 & !umask(pid);
        rustix::fs::mkdir(&target.path, FsMode::from_raw_mode(bits))?;
        self.made();
        target.record(Owner { mode: bits, ..owner })?;
        Ok(Answer::Value(0))
    }

    /// A file with a record is new. It may have the number of one that was removed
    /// a moment ago, too short for the clock to tell.
    fn made(&mut self) {
        self.plain.clear();
    }

    fn answer(&mut self, call: &Notification) -> Result<Answer> {
        let what = native(call.number).filter(|_| call.arch == NATIVE).ok_or(Refusal::Pass)?;
        let [a, b, c, d, e, _] = call.args;
        let pid = call.pid;
        match what {
            Call::Chown => self.chown(&self.target(pid, AT_FDCWD, a, 0)?, b, c),
            Call::Lchown => self.chown(&self.target(pid, AT_FDCWD, a, NOFOLLOW)?, b, c),
            Call::Fchown => self.chown(&descriptor(pid, a), b, c),
            Call::Fchownat => self.chown(&self.target(pid, a as i32, b, e)?, c, d),
            Call::Mknod => {
                self.made();
                mknod(&self.target(pid, AT_FDCWD, a, NOFOLLOW)?, pid, b, c)
            }
            Call::Mknodat => {
                self.made();
                mknod(&self.target(pid, a as i32, b, NOFOLLOW)?, pid, c, d)
            }
            Call::Stat => self.stat(&self.target(pid, AT_FDCWD, a, 0)?, pid, b),
            Call::Lstat => self.stat(&self.target(pid, AT_FDCWD, a, NOFOLLOW)?, pid, b),
            Call::Fstat => self.stat(&descriptor(pid, a), pid, b),
            Call::Fstatat => self.stat(&self.target(pid, a as i32, b, d)?, pid, c),
            Call::Statx => self.statx(&self.target(pid, a as i32, b, c)?, pid, d as u32, e),
            Call::Setxattr => self.setxattr(call),
            Call::Chroot => {
                self.rooted = true;
                Err(Refusal::Pass)
            }
            Call::Mkdir => self.mkdir(pid, AT_FDCWD, a, b),
            Call::Mkdirat => self.mkdir(pid, a as i32, b, c),
            _ => self.identity(what, call),
        }
    }

    /// What is recorded of a file of this mode.
    fn recorded(&self, target: &Target, mode: u32) -> Option<Owner> {
        match mode & TYPES {
            REGULAR | DIRECTORY => target.owner(OVERRIDE_STAT),
            _ => self.specials.get(target).or_else(|| target.owner(SPECIAL_STAT)),
        }
    }

    /// The same for a file that shows this, remembered where there is nothing.
    fn owner(&mut self, target: &Target, stat: &Stat) -> Option<Owner> {
        let (file, changed) = stat.version();
        if self.plain.get(&file) == Some(&changed) {
            return None;
        }
        let owner = self.recorded(target, stat.mode());
        if owner.is_none() {
            if self.plain.len() > MOST_PLAIN {
                self.plain.clear();
            }
            self.plain.insert(file, changed);
        }
        owner
    }

    fn chown(&mut self, target: &Target, uid: u64, gid: u64) -> Result<Answer> {
        let (uid, gid) = (uid as u32, gid as u32);
        let stat = target.stat()?;
        let mode = stat.mode();
        // The time of its change may be too coarse to tell.
        self.plain.remove(&stat.version().0);
        let known = self.recorded(target, mode);
        let old = known.unwrap_or(Owner { uid: 0, gid: 0, mode: mode & 0o7777, device: None });
        let pick = |new, old| if new == KEEP { old } else { new };
        let mut new = Owner { uid: pick(uid, old.uid), gid: pick(gid, old.gid), ..old };
        if mode & TYPES == REGULAR && mode & 0o6000 != 0 && old.device.is_none() {
            // As the kernel has it, even for root (chown(2)); a group bit without
            // the right to execute is a lock.
            let cleared = if mode & 0o010 == 0 { 0o4000 } else { 0o6000 };
            let kept = mode & 0o7777 & !cleared;
            rustix::fs::chmod(&target.path, FsMode::from_raw_mode(kept))?;
            new.mode = kept;
        }
        // What belongs to root by itself needs no record.
        let plain = known.is_none() && (new.uid, new.gid) == (0, 0);
        match mode & TYPES {
            _ if plain => {}
            REGULAR | DIRECTORY => target.record(new)?,
            kind => {
                if kind == SYMLINK && !target.follow && Specials::of_image(target) {
                    target.renew()?;
                }
                self.specials.put(target, (new.uid, new.gid));
            }
        }
        Ok(Answer::Value(0))
    }

    fn stat(&mut self, target: &Target, pid: u32, place: u64) -> Result<Answer> {
        let mut stat = target.stat().map_err(|_| Refusal::Pass)?;
        let owner = self.owner(target, &stat).ok_or(Refusal::Pass)?;
        let (mode, device) = shown(owner, stat.mode());
        stat.change(owner.uid, owner.gid, mode, device);
        seccomp::write_memory(pid, place, stat.bytes())?;
        Ok(Answer::Value(0))
    }

    fn statx(&mut self, target: &Target, pid: u32, mask: u32, place: u64) -> Result<Answer> {
        let shown_to_us = target.stat().map_err(|_| Refusal::Pass)?;
        let owner = self.owner(target, &shown_to_us).ok_or(Refusal::Pass)?;
        let mut stat = Statx::of(&target.path, target.follow, mask | STATX_TYPE)?;
        let (mode, device) = shown(owner, stat.mode());
        stat.change(owner.uid, owner.gid, mode, device);
        seccomp::write_memory(pid, place, stat.bytes())?;
        Ok(Answer::Value(0))
    }

    /// An access control list that names ids which the namespace does not have is
    /// taken for the permission bits that it amounts to; everything else is real.
    fn setxattr(&self, call: &Notification) -> Result<Answer> {
        let Notification { pid, number, args: [what, name, value, size, ..], .. } = *call;
        let name = string(pid, name)?;
        let access = name == b"system.posix_acl_access";
        if !access && name != b"system.posix_acl_default" {
            return Err(Refusal::Pass);
        }
        let mut list = vec![0; (size as usize).min(LONGEST_LIST)];
        let got = seccomp::read_memory(pid, value, &mut list)?;
        let Some(mode) = acl_mode(&list[..got]) else { return Err(Refusal::Pass) };
        if access {
            let target = match lookup(number) {
                Lookup::Descriptor => descriptor(pid, what),
                Lookup::Link => self.target(pid, AT_FDCWD, what, NOFOLLOW)?,
                Lookup::Path => self.target(pid, AT_FDCWD, what, 0)?,
            };
            let bits = target.stat()?.mode() & 0o7000 | mode;
            rustix::fs::chmod(&target.path, FsMode::from_raw_mode(bits))?;
        }
        Ok(Answer::Value(0))
    }

    fn identity(&mut self, what: Call, call: &Notification) -> Result<Answer> {
        use Which::{Group, User};
        let [a, b, c, ..] = call.args;
        let pid = call.pid;
        let three = [a as u32, b as u32, c as u32];
        let mut change =
            |change: &dyn Fn(&mut crate::identity::Identity) -> std::result::Result<(), i32>| {
                match self.identities.change(pid, change) {
                    Ok(()) => Ok(Answer::Value(0)),
                    Err(number) => Err(Refusal::Errno(number)),
                }
            };
        match what {
            Call::Setuid => return change(&|id| id.set(User, a as u32)),
            Call::Setgid => return change(&|id| id.set(Group, a as u32)),
            Call::Setreuid => return change(&|id| id.set_two(User, a as u32, b as u32)),
            Call::Setregid => return change(&|id| id.set_two(Group, a as u32, b as u32)),
            Call::Setresuid => return change(&|id| id.set_three(User, three)),
            Call::Setresgid => return change(&|id| id.set_three(Group, three)),
            Call::Setgroups => {
                let groups = groups(pid, a, b)?;
                return change(&|id| id.set_groups(groups.clone()));
            }
            _ => {}
        }
        let mut identity = self.identities.get(pid);
        let value = |id: u32| Ok(Answer::Value(i64::from(id)));
        match what {
            Call::Getuid => value(identity.user.real),
            Call::Geteuid | Call::Setfsuid => value(identity.user.effective),
            Call::Getgid => value(identity.group.real),
            Call::Getegid | Call::Setfsgid => value(identity.group.effective),
            Call::Getresuid | Call::Getresgid => {
                let which = if what == Call::Getresuid { User } else { Group };
                let ids = *identity.of(which);
                for (place, id) in [(a, ids.real), (b, ids.effective), (c, ids.saved)] {
                    seccomp::write_memory(pid, place, &id.to_ne_bytes())?;
                }
                Ok(Answer::Value(0))
            }
            Call::Getgroups => {
                let groups = identity.groups.ok_or(Refusal::Pass)?;
                let room = a as usize;
                if room > 0 && room < groups.len() {
                    return Err(Refusal::Errno(22));
                }
                if room > 0 {
                    let bytes: Vec<u8> = groups.iter().flat_map(|id| id.to_ne_bytes()).collect();
                    seccomp::write_memory(pid, b, &bytes)?;
                }
                Ok(Answer::Value(groups.len() as i64))
            }
            _ => Err(Refusal::Pass),
        }
    }
}

/// The list of setgroups(2).
fn groups(pid: u32, count: u64, place: u64) -> Result<Vec<u32>> {
    if count > MOST_GROUPS {
        return Err(Refusal::Errno(22));
    }
    let mut bytes = vec![0; count as usize * 4];
    if !bytes.is_empty() && seccomp::read_memory(pid, place, &mut bytes)? < bytes.len() {
        return Err(Refusal::Errno(14));
    }
    let number = |b: &[u8]| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    Ok(bytes.chunks_exact(4).map(number).collect())
}

/// A string of the caller, page by page, as what lies behind it may not exist.
fn string(pid: u32, mut place: u64) -> Result<Vec<u8>> {
    if place == 0 {
        return Err(Refusal::Errno(14));
    }
    let mut all = Vec::new();
    while all.len() < LONGEST_PATH {
        let mut chunk = [0; 256];
        let len = (PAGE - place % PAGE).min(chunk.len() as u64) as usize;
        let got = seccomp::read_memory(pid, place, &mut chunk[..len])?;
        if let Some(end) = chunk[..got].iter().position(|b| *b == 0) {
            all.extend_from_slice(&chunk[..end]);
            return Ok(all);
        }
        if got == 0 {
            return Err(Refusal::Errno(14));
        }
        all.extend_from_slice(&chunk[..got]);
        place += got as u64;
    }
    Err(Refusal::Errno(36))
}

fn c_string(bytes: Vec<u8>) -> Result<CString> {
    CString::new(bytes).map_err(|_| Refusal::Errno(22))
}

/// What an open descriptor leads to.
fn descriptor(pid: u32, fd: u64) -> Target {
    let path = CString::new(format!("/proc/{pid}/fd/{}", fd as i32)).unwrap_or_default();
    Target { path, follow: true }
}

/// Whether a process has changed its root directory.
fn other_root(pid: u32) -> bool {
    let link = rustix::fs::readlink(format!("/proc/{pid}/root"), Vec::with_capacity(64));
    link.is_ok_and(|root| root.as_bytes() != b"/")
}

impl Target {
    /// What an attribute says of it.
    fn owner(&self, attribute: &str) -> Option<Owner> {
        let mut value = [0; 128];
        let read = if self.follow { rustix::fs::getxattr } else { rustix::fs::lgetxattr };
        let len = read(&self.path, attribute, &mut value[..]).ok()?;
        Owner::parse(&value[..len])
    }

    fn record(&self, owner: Owner) -> Result<()> {
        let value = owner.to_string();
        let write = if self.follow { rustix::fs::setxattr } else { rustix::fs::lsetxattr };
        Ok(write(&self.path, OVERRIDE_STAT, value.as_bytes(), XattrFlags::empty())?)
    }

    /// Makes a link of the image anew: what overlayfs copies up keeps the number
    /// that it had, which says nothing of the upper directory's inode.
    fn renew(&self) -> Result<()> {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
        let to = rustix::fs::readlink(&self.path, Vec::new())?;
        let stat = rustix::fs::lstat(&self.path)?;
        let beside = c_string([self.path.as_bytes(), b".sampan-new"].concat())?;
        rustix::fs::symlink(&to, &beside)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec {
                tv_sec: stat.st_mtime as _,
                tv_nsec: stat.st_mtime_nsec as _,
            },
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let done = rustix::fs::utimensat(CWD, &beside, &times, flags)
            .and_then(|()| rustix::fs::rename(&beside, &self.path));
        done.inspect_err(|_| {
            // The one that is told of is the first failure.
            let _ = rustix::fs::unlink(&beside);
        })?;
        Ok(())
    }

    fn stat(&self) -> Result<Stat> {
        Ok(Stat::of(&self.path, self.follow)?)
    }
}

/// Devices only: an empty file in their place.
fn mknod(target: &Target, pid: u32, mode: u64, device: u64) -> Result<Answer> {
    let mode = mode as u32;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let block = mode & TYPES == BLOCK;
    if !block && (major, minor) == (0, 0) {
        // A whiteout of overlayfs, which anybody may make.
        return Err(Refusal::Pass);
    }
    let bits = mode & 0o7777 & !umask(pid);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&target.path, flags, FsMode::from_raw_mode(bits))?;
    let device = Some(Device { block, major, minor });
    let value = Owner { uid: 0, gid: 0, mode: bits, device }.to_string();
    rustix::fs::fsetxattr(&file, OVERRIDE_STAT, value.as_bytes(), XattrFlags::empty())?;
    Ok(Answer::Value(0))
}

fn umask(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o022)
}

/// What a file shows: type and permission bits, and the device's numbers.
fn shown(owner: Owner, mode: u32) -> (u32, Option<(u32, u32)>) {
    match owner.device {
        Some(Device { block, major, minor }) => {
            let kind = if block { BLOCK } else { CHARACTER };
            (kind | mode & 0o7777, Some((major, minor)))
        }
        None => (mode, None),
    }
}

/// XATTR_SIZE_MAX of linux/limits.h.
const LONGEST_LIST: usize = 65_536;

/// The permission bits of a list (linux/posix_acl_xattr.h) that names users or
/// groups; None for another one, which is the kernel's business.
fn acl_mode(list: &[u8]) -> Option<u32> {
    const HEAD: usize = 4;
    const ENTRY: usize = 8;
    let mut mode = 0;
    let (mut names, mut mask) = (false, None);
    for entry in list.get(HEAD..)?.chunks_exact(ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let bits = u32::from(u16::from_le_bytes([entry[2], entry[3]])) & 7;
        match tag {
            0x01 => mode |= bits << 6,
            0x04 => mode |= bits << 3,
            0x20 => mode |= bits,
            0x10 => mask = Some(bits),
            _ => names = true,
        }
    }
    if let Some(mask) = mask {
        // The group's bits show the mask (acl(5)).
        mode = mode & 0o707 | mask << 3;
    }
    names.then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_with_names_amount_to_bits() {
        let list = |entries: &[(u16, u16, u32)]| {
            let mut bytes = 2_u32.to_le_bytes().to_vec();
            for (tag, bits, id) in entries {
                bytes.extend(tag.to_le_bytes());
                bytes.extend(bits.to_le_bytes());
                bytes.extend(id.to_le_bytes());
            }
            bytes
        };
        let plain = [(1, 6, 0), (4, 4, 0), (0x20, 0, 0)];
        assert_eq!(acl_mode(&list(&plain)), None);
        let named = [(1, 7, 0), (4, 5, 0), (8, 5, 4), (0x10, 5, 0), (0x20, 0, 0)];
        assert_eq!(acl_mode(&list(&named)), Some(0o750));
        assert_eq!(acl_mode(b""), None);
    }
}
