//! Answers the calls that the filter notifies of.
//!
//! The supervisor lives in the namespaces and the root directory of the
//! processes that it answers, so their absolute paths are its own; others are
//! reached through `/proc/PID`. It decides nothing about security: whoever
//! changes a path between the look and the answer deceives himself.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode as FsMode, OFlags, XattrFlags};
use rustix::thread::UnshareFlags;
use sys::seccomp::{self, Answer, Notification, Stat, Statx};
use types::{Device, OVERRIDE_STAT, Owner, SPECIAL_STAT};

use crate::Mode;
use crate::acl;
use crate::calls::{Call, I386, meaning, narrow};
use crate::identity::{Identities, Identity, Which};
use crate::paths::{RootPlace, in_root, place};
use crate::specials::{Beside, Specials};

const KEEP: u32 = u32::MAX;
const EPERM: i32 = 1;
const EINTR: i32 = 4;
const EMFILE: i32 = 24;
const EOPNOTSUPP: i32 = 95;
/// fchmodat2, the same number everywhere.
const FCHMODAT2: i32 = 452;
/// DEFAULT_OVERFLOWUID of linux/highuid.h.
const OVERFLOW: u16 = 65_534;
/// AT_FDCWD, AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH of linux/fcntl.h.
pub(crate) const AT_FDCWD: i32 = -100;
pub(crate) const NOFOLLOW: u64 = 0x100;
const EMPTY_PATH: u64 = 0x1000;
/// XATTR_SIZE_MAX of linux/limits.h.
const LONGEST_ATTRIBUTE: usize = 65_536;
/// PATH_MAX of linux/limits.h.
const LONGEST_PATH: usize = 4096;
const PAGE: u64 = 4096;
/// linux/stat.h.
const STATX_TYPE: u32 = 1;
/// So many files without a record are remembered.
pub(crate) const MOST_PLAIN: usize = 1 << 16;
/// NGROUPS_MAX of linux/limits.h.
const MOST_GROUPS: u64 = 65_536;

pub(crate) const TYPES: u32 = 0o170_000;
pub(crate) const REGULAR: u32 = 0o100_000;
pub(crate) const SYMLINK: u32 = 0o120_000;
pub(crate) const DIRECTORY: u32 = 0o040_000;
pub(crate) const BLOCK: u32 = 0o060_000;
pub(crate) const CHARACTER: u32 = 0o020_000;

/// Answers until nobody is left who could ask. The caller has a umask of 0.
/// `beside` keeps whose the links, FIFOs and sockets of an upper directory are
/// ([`types::SPECIAL_OWNERS`]).
///
/// # Errors
/// When the listener cannot be read, or the thread gets no working directory of its own.
pub fn supervise(listener: &OwnedFd, mode: Mode, beside: Option<Beside>) -> io::Result<()> {
    // Without it all is right, and slower.
    let _ = seccomp::set_sync_wake_up(listener);
    // Its working directory and umask are its own.
    sys::process::unshare(UnshareFlags::FS)?;
    let specials = Specials::new(beside);
    let mut supervisor = Supervisor {
        listener,
        mode,
        specials,
        identities: Identities::default(),
        plain: HashMap::new(),
        listless: HashSet::new(),
        root: place("/"),
        rooted: false,
    };
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
pub(crate) enum Refusal {
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

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// A file that a call is about.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) path: CString,
    pub(crate) follow: bool,
    /// What the path begins at, if it names a descriptor of ours.
    pub(crate) held: Option<Rc<OwnedFd>>,
}

pub(crate) struct Supervisor<'a> {
    pub(crate) listener: &'a OwnedFd,
    pub(crate) mode: Mode,
    pub(crate) identities: Identities,
    pub(crate) specials: Specials,
    /// Files without a record, and when each was last changed. To ask for the
    /// attribute of an image's file is a question to its server.
    pub(crate) plain: HashMap<(u64, u64), (i64, i64)>,
    /// Directories without a default access control list.
    pub(crate) listless: HashSet<(u64, u64)>,
    /// Our root directory.
    root: Option<RootPlace>,
    /// Whether somebody has changed a root directory, or mounts.
    rooted: bool,
}

impl Supervisor<'_> {
    /// Before something is changed in the name of a caller: whether it still waits.
    /// What was said of a number that is another process's by now is not done.
    pub(crate) fn waits(&self, call: &Notification) -> Result<()> {
        match seccomp::waits(self.listener, call.id) {
            true => Ok(()),
            false => Err(Refusal::Errno(EINTR)),
        }
    }

    /// Whether a process's absolute paths are others than ours.
    pub(crate) fn elsewhere(&self, pid: u32) -> bool {
        self.rooted && place(&format!("/proc/{pid}/root")) != self.root
    }

    /// What a path leads to.
    pub(crate) fn target(&self, pid: u32, dirfd: i32, place: u64, flags: u64) -> Result<Target> {
        let path = match string(pid, place) {
            Ok(path) => path,
            // A null path with AT_EMPTY_PATH is an empty one since 6.11.
            Err(_) if flags & EMPTY_PATH != 0 && place == 0 => Vec::new(),
            Err(refusal) => return Err(refusal),
        };
        self.path(pid, dirfd, path, flags)
    }

    /// The same of a path that is known.
    pub(crate) fn path(
        &self,
        pid: u32,
        dirfd: i32,
        mut path: Vec<u8>,
        flags: u64,
    ) -> Result<Target> {
        let follow = flags & NOFOLLOW == 0;
        if path.is_empty() {
            if flags & EMPTY_PATH == 0 {
                return Err(Refusal::Errno(2));
            }
            if dirfd != AT_FDCWD {
                return Ok(descriptor(pid, dirfd as u64));
            }
            let path = c_string(format!("/proc/{pid}/cwd").into_bytes())?;
            return Ok(Target { path, follow: true, held: None });
        }
        let elsewhere = self.elsewhere(pid);
        if elsewhere && let Some(target) = in_root(pid, dirfd, &path, follow)? {
            return Ok(target);
        }
        let mut full = if path[0] == b'/' {
            if let Some(rest) = path.strip_prefix(b"/proc/self/") {
                // There it depends on who asks.
                path = [format!("/proc/{pid}/").as_bytes(), rest].concat();
            }
            if elsewhere { format!("/proc/{pid}/root").into_bytes() } else { Vec::new() }
        } else if dirfd == AT_FDCWD {
            format!("/proc/{pid}/cwd/").into_bytes()
        } else {
            format!("/proc/{pid}/fd/{dirfd}/").into_bytes()
        };
        full.extend(path);
        Ok(Target { path: c_string(full)?, follow, held: None })
    }

    fn answer(&mut self, call: &Notification) -> Result<Answer> {
        let what = meaning(call.arch, call.number).ok_or(Refusal::Pass)?;
        let [a, b, c, d, e, _] = call.args;
        let wide = |id| if narrow(call.arch, call.number) { widened(id) } else { id };
        let pid = call.pid;
        if self.mode == Mode::Fast {
            return self.grant(call);
        }
        match what {
            Call::Chown => self.chown(call, &self.target(pid, AT_FDCWD, a, 0)?, wide(b), wide(c)),
            Call::Lchown => {
                let target = self.target(pid, AT_FDCWD, a, NOFOLLOW)?;
                self.chown(call, &target, wide(b), wide(c))
            }
            Call::Fchown => self.chown(call, &descriptor(pid, a), wide(b), wide(c)),
            Call::Fchownat => self.chown(call, &self.target(pid, a as i32, b, e)?, c, d),
            Call::Mknod => {
                let target = self.target(pid, AT_FDCWD, a, NOFOLLOW)?;
                self.mknod(call, &target, b, c)
            }
            Call::Mknodat => {
                let target = self.target(pid, a as i32, b, NOFOLLOW)?;
                self.mknod(call, &target, c, d)
            }
            Call::Symlink => {
                let target = self.target(pid, AT_FDCWD, b, NOFOLLOW)?;
                self.symlink(call, a, &target)
            }
            Call::Symlinkat => {
                let target = self.target(pid, b as i32, c, NOFOLLOW)?;
                self.symlink(call, a, &target)
            }
            Call::Bind => self.bind(call),
            Call::Rename => self.keep(call, &self.target(pid, AT_FDCWD, a, NOFOLLOW)?),
            Call::Renameat => self.keep(call, &self.target(pid, a as i32, b, NOFOLLOW)?),
            Call::Chmod => self.keep(call, &self.target(pid, AT_FDCWD, a, 0)?),
            // fchmodat(2) of before has no flags, what stands there means nothing.
            Call::Fchmodat => {
                let flags = if call.number & 0xfff == FCHMODAT2 { d } else { 0 };
                self.keep(call, &self.target(pid, a as i32, b, flags)?)
            }
            Call::Utimensat => {
                let target = self.target(pid, a as i32, b, d);
                self.keep(call, &target.map_err(|_| Refusal::Pass)?)
            }
            Call::Stat => self.stat(&self.target(pid, AT_FDCWD, a, 0)?, call, b),
            Call::Lstat => self.stat(&self.target(pid, AT_FDCWD, a, NOFOLLOW)?, call, b),
            Call::Fstat => self.stat(&descriptor(pid, a), call, b),
            Call::Fstatat => self.stat(&self.target(pid, a as i32, b, d)?, call, c),
            Call::Statx => self.statx(&self.target(pid, a as i32, b, c)?, call, d as u32, e),
            Call::Setxattr => self.setxattr(call),
            Call::Getxattr => self.getxattr(call),
            Call::Listxattr => self.listxattr(call),
            Call::Removexattr => self.removexattr(call),
            Call::Chroot => {
                self.rooted = true;
                Err(Refusal::Pass)
            }
            Call::Prctl => {
                self.waits(call)?;
                let keep = |id: &mut Identity| {
                    id.keep_capabilities(b != 0);
                    Ok(())
                };
                // Where there is no room for it, it has none.
                let _ = self.identities.change(pid, keep);
                Err(Refusal::Pass)
            }
            Call::Execve => self.execute(call, self.target(pid, AT_FDCWD, a, 0)),
            Call::Execveat => self.execute(call, self.target(pid, a as i32, b, e)),
            Call::Mkdir => {
                let target = self.target(pid, AT_FDCWD, a, NOFOLLOW)?;
                self.mkdir(call, &target, b)
            }
            Call::Mkdirat => {
                let target = self.target(pid, a as i32, b, NOFOLLOW)?;
                self.mkdir(call, &target, c)
            }
            _ => self.identity(what, call),
        }
    }

    /// What is recorded of a file of this mode.
    pub(crate) fn recorded(&self, target: &Target, mode: u32) -> Option<Owner> {
        match mode & TYPES {
            REGULAR | DIRECTORY => {
                target.owner(OVERRIDE_STAT).or_else(|| self.specials.get_file(target, self.root))
            }
            _ => self.specials.get(target).or_else(|| target.owner(SPECIAL_STAT)),
        }
    }

    /// The same for a file that shows this, remembered where there is nothing.
    fn owner(&mut self, target: &Target, stat: &Stat) -> Option<Owner> {
        if self.mode == Mode::Devices {
            // An empty file may stand for a device, whose owner is the file's.
            let candidate = stat.mode() & TYPES == REGULAR && stat.size() == 0;
            let noted = candidate.then(|| target.owner(OVERRIDE_STAT)).flatten();
            let (uid, gid) = stat.owner();
            return noted.filter(|o| o.device.is_some()).map(|o| Owner { uid, gid, ..o });
        }
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

    /// Before a program begins: the ids that its file gives (execve(2)). The kernel
    /// gives none, for no_new_privs and for want of ids.
    fn execute(&mut self, call: &Notification, target: Result<Target>) -> Result<Answer> {
        const SET_USER: u32 = 0o4000;
        const SET_GROUP: u32 = 0o2010;
        let target = target.map_err(|_| Refusal::Pass)?;
        let stat = target.stat().map_err(|_| Refusal::Pass)?;
        let mode = stat.mode();
        if mode & TYPES != REGULAR || mode & 0o111 == 0 {
            return Err(Refusal::Pass);
        }
        let user = mode & SET_USER != 0;
        let group = mode & SET_GROUP == SET_GROUP;
        let given = (user || group) && !target.is_script();
        if !given && self.identities.only_root() {
            return Err(Refusal::Pass);
        }
        let owner = if given { self.owner(&target, &stat) } else { None };
        let (uid, gid) = owner.map_or((0, 0), |owner| (owner.uid, owner.gid));
        self.waits(call)?;
        let become_it = |id: &mut Identity| {
            id.execute((given && user).then_some(uid), (given && group).then_some(gid));
            Ok(())
        };
        self.identities.change(call.pid, become_it).map_err(Refusal::Errno)?;
        Err(Refusal::Pass)
    }

    /// Records a file's owner: in its attribute, or beside the upper directory.
    pub(crate) fn record(&mut self, target: &Target, owner: Owner) -> Result<()> {
        match target.record(owner) {
            Err(Refusal::Errno(EOPNOTSUPP)) => self.specials.put_file(target, owner, self.root),
            done => done,
        }
    }

    fn chown(
        &mut self,
        call: &Notification,
        target: &Target,
        uid: u64,
        gid: u64,
    ) -> Result<Answer> {
        let (uid, gid) = (uid as u32, gid as u32);
        let stat = target.stat()?;
        let mode = stat.mode();
        // The time of its change may be too coarse to tell.
        self.plain.remove(&stat.version().0);
        let known = self.recorded(target, mode);
        let old = known.unwrap_or(Owner { uid: 0, gid: 0, mode: mode & 0o7777, device: None });
        let pick = |new, old| if new == KEEP { old } else { new };
        let mut new = Owner { uid: pick(uid, old.uid), gid: pick(gid, old.gid), ..old };
        let identity = self.identities.get(call.pid);
        if !identity.may_give((old.uid, old.gid), (uid, gid)) {
            return Err(Refusal::Errno(EPERM));
        }
        self.waits(call)?;
        if mode & TYPES == REGULAR && mode & 0o6000 != 0 && old.device.is_none() {
            // As the kernel has it, even for root (chown(2)); a group bit without
            // the right to execute is a lock.
            let lock = mode & 0o010 == 0 && identity.is_in(old.gid);
            let cleared = if lock { 0o4000 } else { 0o6000 };
            let kept = mode & 0o7777 & !cleared;
            rustix::fs::chmod(&target.path, FsMode::from_raw_mode(kept))?;
            new.mode = kept;
        }
        // What belongs to root by itself needs no record.
        let plain = known.is_none() && (new.uid, new.gid) == (0, 0);
        if mode & TYPES == REGULAR && old.device.is_none() {
            // So do capabilities; most files have none.
            let _ = acl::remove(target, "security.capability");
        }
        match mode & TYPES {
            _ if plain => {}
            REGULAR | DIRECTORY => self.record(target, new)?,
            kind => {
                if (kind != SYMLINK || !target.follow) && Specials::of_image(target) {
                    target.renew()?;
                }
                self.specials.put(target, (new.uid, new.gid));
            }
        }
        Ok(Answer::Value(0))
    }

    fn stat(&mut self, target: &Target, call: &Notification, place: u64) -> Result<Answer> {
        let mut stat = target.stat().map_err(|_| Refusal::Pass)?;
        let owner = self.owner(target, &stat).ok_or(Refusal::Pass)?;
        let (mode, device) = shown(owner, stat.mode());
        stat.change(owner.uid, owner.gid, mode, device);
        match call.arch {
            I386 if narrow(call.arch, call.number) => self.tell(call, place, &stat.i386_narrow()),
            I386 => self.tell(call, place, &stat.i386()),
            _ => self.tell(call, place, stat.bytes()),
        }?;
        Ok(Answer::Value(0))
    }

    /// Writes into the caller's memory.
    pub(crate) fn tell(&self, call: &Notification, place: u64, bytes: &[u8]) -> Result<()> {
        Ok(seccomp::write_memory(self.listener, call, place, bytes)?)
    }

    fn statx(
        &mut self,
        target: &Target,
        call: &Notification,
        mask: u32,
        place: u64,
    ) -> Result<Answer> {
        let shown_to_us = target.stat().map_err(|_| Refusal::Pass)?;
        let owner = self.owner(target, &shown_to_us).ok_or(Refusal::Pass)?;
        let mut stat = Statx::of(&target.path, target.follow, mask | STATX_TYPE)?;
        let (mode, device) = shown(owner, stat.mode());
        stat.change(owner.uid, owner.gid, mode, device);
        self.tell(call, place, stat.bytes())?;
        Ok(Answer::Value(0))
    }

    fn identity(&mut self, what: Call, call: &Notification) -> Result<Answer> {
        use Which::{Group, User};
        let narrow = narrow(call.arch, call.number);
        let [a, b, c] = match call.args {
            [a, b, c, ..] if narrow && what.takes_ids() => [a, b, c].map(widened),
            [a, b, c, ..] => [a, b, c],
        };
        let pid = call.pid;
        let three = [a as u32, b as u32, c as u32];
        let mut change = |change: &dyn Fn(&mut Identity) -> std::result::Result<(), i32>| {
            self.waits(call)?;
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
                let groups = groups(pid, a, b, narrow)?;
                return change(&|id| id.set_groups(groups.clone()));
            }
            _ => {}
        }
        let mut identity = self.identities.get(pid);
        let value = |id: u32| {
            let id = if narrow { u32::from(narrowed(id)) } else { id };
            Ok(Answer::Value(i64::from(id)))
        };
        match what {
            Call::Getuid => value(identity.user.real),
            Call::Geteuid => value(identity.user.effective),
            Call::Getgid => value(identity.group.real),
            Call::Getegid => value(identity.group.effective),
            Call::Setfsuid | Call::Setfsgid => {
                let which = if what == Call::Setfsuid { User } else { Group };
                self.waits(call)?;
                let set = |id: &mut Identity| {
                    id.set_files(which, a as u32);
                    Ok(())
                };
                // The answer is what was before, whatever became of it.
                let _ = self.identities.change(pid, set);
                value(identity.of(which).files)
            }
            Call::Getresuid | Call::Getresgid => {
                let which = if what == Call::Getresuid { User } else { Group };
                let ids = *identity.of(which);
                for (place, id) in [(a, ids.real), (b, ids.effective), (c, ids.saved)] {
                    self.tell(call, place, &bytes(&[id], narrow))?;
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
                    self.tell(call, b, &bytes(&groups, narrow))?;
                }
                Ok(Answer::Value(groups.len() as i64))
            }
            _ => Err(Refusal::Pass),
        }
    }
}

/// An id of 16 bits as all others see it, and the other way round: what does not
/// fit is the kernel's overflow id (linux/highuid.h).
fn widened(id: u64) -> u64 {
    match id as u16 {
        u16::MAX => u64::from(KEEP),
        id => u64::from(id),
    }
}

fn narrowed(id: u32) -> u16 {
    u16::try_from(id).unwrap_or(OVERFLOW)
}

/// Ids as a caller expects them.
fn bytes(ids: &[u32], narrow: bool) -> Vec<u8> {
    match narrow {
        true => ids.iter().flat_map(|id| narrowed(*id).to_ne_bytes()).collect(),
        false => ids.iter().flat_map(|id| id.to_ne_bytes()).collect(),
    }
}

/// The list of setgroups(2).
fn groups(pid: u32, count: u64, place: u64, narrow: bool) -> Result<Vec<u32>> {
    if count > MOST_GROUPS {
        return Err(Refusal::Errno(22));
    }
    let size = if narrow { 2 } else { 4 };
    let mut bytes = vec![0; count as usize * size];
    if !bytes.is_empty() && seccomp::read_memory(pid, place, &mut bytes)? < bytes.len() {
        return Err(Refusal::Errno(14));
    }
    let number = |b: &[u8]| match *b {
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
        _ => widened(u64::from(u16::from_ne_bytes([b[0], b[1]]))) as u32,
    };
    Ok(bytes.chunks_exact(size).map(number).collect())
}

/// A string of the caller, page by page, as what lies behind it may not exist.
pub(crate) fn string(pid: u32, mut place: u64) -> Result<Vec<u8>> {
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

pub(crate) fn c_string(bytes: Vec<u8>) -> Result<CString> {
    CString::new(bytes).map_err(|_| Refusal::Errno(22))
}

/// What an open descriptor leads to.
pub(crate) fn descriptor(pid: u32, fd: u64) -> Target {
    let path = CString::new(format!("/proc/{pid}/fd/{}", fd as i32)).unwrap_or_default();
    Target { path, follow: true, held: None }
}

impl Target {
    /// What an attribute says of it.
    pub(crate) fn owner(&self, attribute: &str) -> Option<Owner> {
        let mut value = [0; 128];
        let read = if self.follow { rustix::fs::getxattr } else { rustix::fs::lgetxattr };
        let len = read(&self.path, attribute, &mut value[..]).ok()?;
        Owner::parse(&value[..len])
    }

    /// A whole attribute.
    pub(crate) fn attribute(&self, name: &str) -> Option<Vec<u8>> {
        let read = if self.follow { rustix::fs::getxattr } else { rustix::fs::lgetxattr };
        let mut short = [0; 256];
        match read(&self.path, name, &mut short[..]) {
            Ok(len) => Some(short[..len].to_vec()),
            Err(rustix::io::Errno::RANGE) => {
                let mut value = vec![0; LONGEST_ATTRIBUTE];
                let len = read(&self.path, name, &mut value[..]).ok()?;
                value.truncate(len);
                Some(value)
            }
            Err(_) => None,
        }
    }

    /// Whether the kernel hands it to an interpreter, with no ids of its own.
    fn is_script(&self) -> bool {
        let mut head = [0; 2];
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, FsMode::empty());
        file.is_ok_and(|file| rustix::io::read(&file, &mut head) == Ok(2)) && head == *b"#!"
    }

    fn record(&self, owner: Owner) -> Result<()> {
        let value = owner.to_string();
        let write = if self.follow { rustix::fs::setxattr } else { rustix::fs::lsetxattr };
        Ok(write(&self.path, OVERRIDE_STAT, value.as_bytes(), XattrFlags::empty())?)
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        Ok(Stat::of(&self.path, self.follow)?)
    }
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
