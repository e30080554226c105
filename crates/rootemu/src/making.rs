//! Files that a process makes after it has become somebody else, which belong
//! to him, and names of the image's files that change.
//!
//! The supervisor makes such a file itself, and hands over a descriptor where
//! one was asked for. Everything else the kernel does.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode as FsMode, OFlags, ResolveFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use sys::seccomp::{self, Answer, Notification};
use types::{ACL_NOTES, Device, Owner};

use crate::Mode;
use crate::acl;
use crate::calls::{Call, meaning};
use crate::specials::Specials;
use crate::supervisor::{
    AT_FDCWD, BLOCK, CHARACTER, DIRECTORY, NOFOLLOW, REGULAR, Refusal, Result, SYMLINK, Supervisor,
    TYPES, Target, c_string, string,
};

const EPERM: i32 = 1;
const EINVAL: i32 = 22;
/// sockaddr_un of unix(7).
const FAMILY_UNIX: u16 = 1;
const LONGEST_ADDRESS: usize = 110;
/// struct open_how of linux/openat2.h.
const OPEN_HOW: usize = 24;

impl Supervisor<'_> {
    /// What open(2) and its like have made for a caller that is somebody else, and
    /// whether the descriptor is closed on execve(2); None for everything else,
    /// which the kernel opens.
    pub(crate) fn opened(&mut self, call: &Notification) -> Option<(OwnedFd, bool)> {
        const TRUNCATE: u64 = 0o1101;
        let [a, b, c, d, ..] = call.args;
        let what = meaning(call.arch, call.number)?;
        let (dirfd, place, flags, mode) = match what {
            Call::Open => (AT_FDCWD, a, b, c),
            Call::Openat => (a as i32, b, c, d),
            Call::Creat => (AT_FDCWD, a, TRUNCATE, b),
            Call::Openat2 => return self.opened_by_how(call),
            _ => return None,
        };
        let flags = OFlags::from_bits_retain(flags as u32);
        // A file that is there already is the kernel's business, and so is a link.
        let last = if flags.contains(OFlags::TMPFILE) { 0 } else { NOFOLLOW };
        let target = self.target(call.pid, dirfd, place, last).ok()?;
        let heritage = self.heritage(call.pid, directory(target.clone(), flags))?;
        self.waits(call).ok()?;
        let bits = heritage.mode(call.pid, mode);
        let file = rustix::fs::open(&target.path, wanted(flags), FsMode::from_raw_mode(bits));
        Some((self.owned(file.ok()?, &heritage, bits), flags.contains(OFlags::CLOEXEC)))
    }

    /// The same of openat2(2), whose rules for paths begin at a directory.
    fn opened_by_how(&mut self, call: &Notification) -> Option<(OwnedFd, bool)> {
        let [dirfd, place, how, size, ..] = call.args;
        let pid = call.pid;
        let mut words = [0; OPEN_HOW];
        let whole =
            size >= OPEN_HOW as u64 && seccomp::read_memory(pid, how, &mut words).ok()? == OPEN_HOW;
        let mut words =
            words.chunks_exact(8).map(|w| u64::from_ne_bytes(w.try_into().unwrap_or_default()));
        let (flags, mode, resolve) = (words.next()?, words.next()?, words.next()?);
        let flags = OFlags::from_bits_retain(flags as u32);
        if !whole || !flags.intersects(OFlags::CREATE | OFlags::TMPFILE) {
            return None;
        }
        let last = if flags.contains(OFlags::TMPFILE) { 0 } else { NOFOLLOW };
        let target = self.target(pid, dirfd as i32, place, last).ok()?;
        let heritage = self.heritage(pid, directory(target, flags))?;
        let path = string(pid, place).ok()?;
        self.waits(call).ok()?;
        let mut resolve = ResolveFlags::from_bits_retain(resolve);
        let absolute = path.starts_with(b"/") && !resolve.contains(ResolveFlags::IN_ROOT);
        if absolute && self.elsewhere(pid) {
            // Where absolute links lead on, too.
            resolve |= ResolveFlags::IN_ROOT;
        }
        let (from, path) = match dirfd as i32 {
            _ if absolute => ("root".to_owned(), path.strip_prefix(b"/")?),
            AT_FDCWD => ("cwd".to_owned(), &path[..]),
            fd => (format!("fd/{fd}"), &path[..]),
        };
        let from = rustix::fs::open(
            format!("/proc/{pid}/{from}"),
            OFlags::PATH | OFlags::CLOEXEC,
            FsMode::empty(),
        );
        let bits = heritage.mode(pid, mode);
        let mode = FsMode::from_raw_mode(bits);
        let file = rustix::fs::openat2(from.ok()?, path, wanted(flags), mode, resolve).ok()?;
        Some((self.owned(file, &heritage, bits), flags.contains(OFlags::CLOEXEC)))
    }

    /// Notes whose a new file is, and its list.
    fn owned(&mut self, file: OwnedFd, heritage: &Heritage, mode: u32) -> OwnedFd {
        self.made();
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        // Where there are no attributes the file is root's.
        let _ = self.note(heritage, &Target { path, follow: true, held: None }, mode);
        file
    }

    /// Notes what a file or directory has that was made with these bits.
    fn note(&mut self, heritage: &Heritage, target: &Target, mode: u32) -> Result<()> {
        if let Some((uid, gid)) = heritage.owner() {
            self.record(target, Owner { uid, gid, mode, device: None })?;
        }
        // What they were cut to is what was asked for as far as the list goes.
        match heritage.list.as_ref().and_then(|list| acl::inherited(list, mode).0) {
            Some(list) => acl::set(target, ACL_NOTES[0].1, &list),
            None => Ok(()),
        }
    }

    /// What is made in a directory has of it and of who makes it; None for root's in
    /// one without a default list.
    fn heritage(&mut self, pid: u32, directory: Option<Target>) -> Option<Heritage> {
        const SET_GROUP: u32 = 0o2000;
        let identity = self.identities.get(pid);
        let directory = directory.and_then(|at| at.stat().ok().map(|stat| (at, stat)));
        let mut heritage =
            Heritage { uid: identity.user.files, gid: identity.group.files, list: None };
        if let Some((directory, stat)) = directory {
            if stat.mode() & SET_GROUP != 0 {
                // It gives its group to what is made in it.
                heritage.gid = self.recorded(&directory, DIRECTORY).map_or(0, |owner| owner.gid);
            }
            heritage.list = self.default_list(&directory, &stat);
        }
        let plain = (heritage.uid, heritage.gid) == (0, 0) && heritage.list.is_none();
        (!plain).then_some(heritage)
    }

    pub(crate) fn mkdir(
        &mut self,
        call: &Notification,
        target: &Target,
        mode: u64,
    ) -> Result<Answer> {
        let heritage = self.heritage(call.pid, parent(target)).ok_or(Refusal::Pass)?;
        let bits = heritage.mode(call.pid, mode);
        self.waits(call)?;
        rustix::fs::mkdir(&target.path, FsMode::from_raw_mode(bits))?;
        self.made();
        self.note(&heritage, target, bits)?;
        if let Some(list) = &heritage.list {
            acl::set(target, ACL_NOTES[1].1, list)?;
        }
        Ok(Answer::Value(0))
    }

    /// A link that says `to`, the caller's string.
    pub(crate) fn symlink(
        &mut self,
        call: &Notification,
        to: u64,
        target: &Target,
    ) -> Result<Answer> {
        let owner = self.heritage(call.pid, parent(target)).and_then(|h| h.owner());
        let owner = owner.ok_or(Refusal::Pass)?;
        let to = c_string(string(call.pid, to)?)?;
        self.waits(call)?;
        rustix::fs::symlink(to, &target.path)?;
        self.made();
        self.specials.put(target, owner);
        Ok(Answer::Value(0))
    }

    /// A device is an empty file with a note, and root alone makes it; everything
    /// else is real.
    pub(crate) fn mknod(
        &mut self,
        call: &Notification,
        target: &Target,
        mode: u64,
        device: u64,
    ) -> Result<Answer> {
        let pid = call.pid;
        let heritage = self.heritage(pid, parent(target));
        let bits = match &heritage {
            Some(heritage) => heritage.mode(pid, mode),
            None => mode as u32 & 0o7777 & !umask(pid),
        };
        let mode = mode as u32;
        let device = match mode & TYPES {
            // A whiteout of overlayfs, which anybody may make.
            CHARACTER if device == 0 => return Err(Refusal::Pass),
            CHARACTER | BLOCK => {
                let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
                Device { block: mode & TYPES == BLOCK, major, minor }
            }
            kind => {
                let heritage = heritage.ok_or(Refusal::Pass)?;
                self.waits(call)?;
                let kind = FileType::from_raw_mode(if kind == 0 { REGULAR } else { kind });
                let mode = FsMode::from_raw_mode(bits);
                rustix::fs::mknodat(CWD, &target.path, kind, mode, 0)?;
                self.made();
                if kind == FileType::RegularFile {
                    self.note(&heritage, target, bits)?;
                } else if let Some(owner) = heritage.owner() {
                    self.specials.put(target, owner);
                }
                return Ok(Answer::Value(0));
            }
        };
        let root = match self.mode {
            Mode::Devices => real_root(pid),
            _ => self.identities.get(pid).user.effective == 0,
        };
        if !root {
            return Err(Refusal::Errno(EPERM));
        }
        self.waits(call)?;
        self.made();
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&target.path, flags, FsMode::from_raw_mode(bits))?;
        let path = c_string(format!("/proc/self/fd/{}", file.as_raw_fd()).into_bytes())?;
        let made = Target { path, follow: true, held: Some(Rc::new(file)) };
        self.record(&made, Owner { uid: 0, gid: 0, mode: bits, device: Some(device) })?;
        Ok(Answer::Value(0))
    }

    /// The file of a socket that is bound to a path (unix(7)). The supervisor binds
    /// the caller's socket, to the same words, as getsockname(2) tells them.
    pub(crate) fn bind(&mut self, call: &Notification) -> Result<Answer> {
        let Notification { pid, args: [fd, address, len, ..], .. } = *call;
        if self.identities.get(pid).is_root() {
            return Err(Refusal::Pass);
        }
        let mut bytes = [0; LONGEST_ADDRESS];
        let len = usize::try_from(len).map_or(LONGEST_ADDRESS, |len| len.min(LONGEST_ADDRESS));
        let got = seccomp::read_memory(pid, address, &mut bytes[..len])?;
        let (family, path) = bytes[..got].split_first_chunk().ok_or(Refusal::Pass)?;
        let path = path.split(|b| *b == 0).next().unwrap_or_default();
        if u16::from_ne_bytes(*family) != FAMILY_UNIX || path.is_empty() {
            return Err(Refusal::Pass);
        }
        let target = self.path(pid, AT_FDCWD, path.to_vec(), NOFOLLOW)?;
        let owner = self.heritage(pid, parent(&target)).and_then(|h| h.owner());
        let owner = owner.ok_or(Refusal::Pass)?;
        let (from, name) = if path.starts_with(b"/") && self.elsewhere(pid) {
            ("root", path.strip_prefix(b"/").unwrap_or(path))
        } else {
            ("cwd", path)
        };
        let leader = leader(pid).ok_or(Refusal::Errno(EINVAL))?;
        let process = rustix::process::pidfd_open(leader, PidfdFlags::empty())?;
        let socket = rustix::process::pidfd_getfd(process, fd as i32, PidfdGetfdFlags::empty())?;
        self.waits(call)?;
        bound(&socket, &format!("/proc/{pid}/{from}"), name, umask(pid))?;
        self.made();
        self.specials.put(&target, owner);
        Ok(Answer::Value(0))
    }

    /// Before a name, the permission bits or the times of the image's link, FIFO or
    /// socket change: overlayfs is about to copy it, and its owner would stay behind.
    /// Times are looked at where they are of a link itself, as files' are set too often.
    pub(crate) fn keep(&mut self, call: &Notification, target: &Target) -> Result<Answer> {
        let kind = target.stat().map_err(|_| Refusal::Pass)?.mode() & TYPES;
        if !matches!(kind, REGULAR | DIRECTORY)
            && Specials::of_image(target)
            && let Some(owner) = self.recorded(target, kind)
        {
            self.waits(call)?;
            target.renew()?;
            self.made();
            self.specials.put(target, (owner.uid, owner.gid));
        }
        Err(Refusal::Pass)
    }

    /// A file with a record is new. It may have the number of one that was removed
    /// a moment ago, too short for the clock to tell.
    fn made(&mut self) {
        self.plain.clear();
    }
}

/// What a new file has of who makes it and of the directory that it is made in.
struct Heritage {
    uid: u32,
    gid: u32,
    /// The directory's default access control list.
    list: Option<Vec<u8>>,
}

impl Heritage {
    /// The bits of what is asked for with a mode: a list counts, or the umask
    /// (umask(2)).
    fn mode(&self, pid: u32, mode: u64) -> u32 {
        let mode = mode as u32 & 0o7777;
        match &self.list {
            Some(list) => acl::inherited(list, mode).1,
            None => mode & !umask(pid),
        }
    }

    /// Whose it is; None for root's.
    fn owner(&self) -> Option<(u32, u32)> {
        Some((self.uid, self.gid)).filter(|owner| *owner != (0, 0))
    }
}

/// The directory that what is made at a path is made in; of a file without a name
/// it is the path.
fn directory(target: Target, flags: OFlags) -> Option<Target> {
    if flags.contains(OFlags::TMPFILE) { Some(target) } else { parent(&target) }
}

impl Target {
    /// Makes a link, FIFO or socket of the image anew: what overlayfs copies up
    /// keeps the number that it had, which says nothing of the upper directory's
    /// inode.
    pub(crate) fn renew(&self) -> Result<()> {
        use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
        let stat = rustix::fs::lstat(&self.path)?;
        let beside = c_string([self.path.as_bytes(), b".sampan-new"].concat())?;
        let mode = FsMode::from_raw_mode(stat.st_mode);
        if stat.st_mode & TYPES == SYMLINK {
            let to = rustix::fs::readlink(&self.path, Vec::new())?;
            rustix::fs::symlink(&to, &beside)?;
        } else {
            let kind = FileType::from_raw_mode(stat.st_mode);
            rustix::fs::mknodat(CWD, &beside, kind, mode, 0)?;
        }
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
}

/// Flags that open nothing that is there already. Of a file without a name the
/// flag means something else.
fn wanted(flags: OFlags) -> OFlags {
    let more = if flags.contains(OFlags::TMPFILE) { OFlags::empty() } else { OFlags::EXCL };
    flags | more | OFlags::CLOEXEC
}

/// The directory that a path's last word is in.
fn parent(target: &Target) -> Option<Target> {
    let path = target.path.as_bytes();
    let end = path.iter().rposition(|b| *b != b'/')?;
    let slash = path[..=end].iter().rposition(|b| *b == b'/')?;
    let path = CString::new(&path[..slash.max(1)]).ok()?;
    Some(Target { path, follow: true, held: target.held.clone() })
}

/// Binds a socket to a path from a directory. This thread has a working directory
/// and a umask of its own.
fn bound(socket: &OwnedFd, from: &str, name: &[u8], mask: u32) -> io::Result<()> {
    let address = rustix::net::SocketAddrUnix::new(name)?;
    rustix::process::chdir(from)?;
    rustix::process::umask(FsMode::from_raw_mode(mask));
    let done = rustix::net::bind(socket.as_fd(), &address);
    rustix::process::umask(FsMode::empty());
    rustix::process::chdir(Path::new("/"))?;
    Ok(done?)
}

/// Whether a process is root by its own effective id.
fn real_root(pid: u32) -> bool {
    status(pid, "Uid:").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}

fn umask(pid: u32) -> u32 {
    let mask = status(pid, "Umask:");
    mask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o022)
}

/// The process that a thread belongs to.
fn leader(pid: u32) -> Option<Pid> {
    status(pid, "Tgid:").and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw)
}

/// A line of proc_pid_status(5).
fn status(pid: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}
