//! Containers of one image, user and node share a server and a user namespace.
//!
//! The first start makes both and listens at a socket in a directory of its
//! user; later ones join: they get the user namespace and the image's mount
//! as descriptors, enter the one, and clone the other into a mount namespace
//! of their own. So the kernel's caches stay warm over thousands of short
//! tasks, and the ranks of a node may read each other's memory.
//!
//! ```text
//! first   lock, bind, listen ─ fork the server ─ make namespaces, mount ─→ server {mount, user ns}
//! later   connect ── pidfd ─→ server        ←─ {mount, user ns} ── setns, clone the mount
//! ```
//!
//! Who has to make an overlay gives the server a copy of the finished root file system,
//! for those that join later and need the same additions. Nobody joins before the first
//! one has, with all mounts in their places: two that look a name up for the first time
//! at once may each find it gone, and so may what was mounted there (since Linux 6.16,
//! `fuse_dentry_revalidate`).
//!
//! The server holds a pidfd of each container's first process. When all have
//! ended it waits for `linger`, then lets go of mount and namespace. What
//! still runs in a container keeps its own mounts, and the server serves on
//! until the kernel has unmounted the last one.
//!
//! The lock is held until the server answers, so that who waits for it tells one that
//! is being made from one that hangs. The latter is replaced, and those that come later
//! meet at the new one.
//!
//! Nothing here is needed for a container to start: whatever fails leads to a
//! server of its own. A kernel before 6.15 cannot clone a detached mount, so
//! there each container has one, in the first one's user namespace. So has the
//! first rank of an image that is a directory a server that serves nothing and
//! keeps the namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::unlinkat;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat, renameat, statat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use rustix::process::{Pid, PidfdFlags, getpid, getuid, pidfd_open};

use crate::{Keeper, pass};

/// Where the containers that may share find each other.
#[derive(Clone, Debug)]
pub struct Share {
    /// A directory of this user alone, on this node.
    pub dir: PathBuf,
    /// What they have in common: image, job, node, identity.
    pub key: String,
    /// How long the server waits for another one.
    pub linger: Duration,
}

impl Share {
    /// Where servers write what they have to say.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }
}

/// The name of the servers' log in their directory.
pub const LOG: &str = "errors.log";

/// How a container comes by its image.
pub(crate) enum Way {
    /// A server is there.
    Joined(Joined),
    /// It makes a server that others may join.
    First(Listener),
    /// It makes a server of its own.
    Alone,
}

/// What a server gives to those who join.
pub(crate) struct Joined {
    mounts: Vec<OwnedFd>,
    /// The finished root file system of a container with the same additions.
    root: Option<OwnedFd>,
    pub(crate) user_namespace: OwnedFd,
    /// The way to the server.
    socket: OwnedFd,
}

impl Joined {
    /// Whether it has mounts of so many images.
    pub(crate) fn has(&self, parts: usize) -> bool {
        self.mounts.len() == parts
    }

    /// The images as detached mounts of one's own. The caller is in the user
    /// namespace by now.
    pub(crate) fn mounts(&self) -> rustix::io::Result<Vec<OwnedFd>> {
        self.mounts.iter().map(clone).collect()
    }

    /// The root file system of a container with the same additions, if there is one.
    pub(crate) fn root(&self) -> Option<OwnedFd> {
        // Without it an overlay of its own is as good.
        self.root.as_ref().and_then(|root| clone(root).ok())
    }

    /// Gives the server the finished root file system for others.
    pub(crate) fn offer(&self, additions: u64, root: &OwnedFd) {
        // Without it they make their own.
        if let (None, Ok(copy)) = (&self.root, clone(root)) {
            let _ = pass::send(&self.socket, additions, &[copy.as_fd()]);
        }
    }
}

/// A detached copy of a detached mount.
pub(crate) fn clone(mount: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, "", flags)
}

/// How long a start waits for a server that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits for another start that is making one: longer, as that one lives,
/// and all that wait on a busy node keep it from going on.
const MAKING: Duration = Duration::from_secs(60);
/// Connections that wait for the server's accept.
const BACKLOG: i32 = 4096;

/// Finds a server of so many images, or a place for one; `additions` tells those of the
/// container from others, 0 where nobody else can have its root file system.
pub(crate) fn find(share: &Share, parts: usize, additions: u64) -> Way {
    match search(share, parts, additions) {
        Ok(way) => way,
        Err(error) => {
            tracing::debug!("no shared image server: {error}");
            Way::Alone
        }
    }
}

/// Tells the server that is there of a container's process other than the one that
/// started it.
pub(crate) fn announce(share: &Share, member: Pid) -> io::Result<()> {
    // What it answers is let go of.
    Place::open(share)?.join(0, 0, member, None).map(drop)
}

fn search(share: &Share, parts: usize, additions: u64) -> io::Result<Way> {
    let place = Place::open(share)?;
    let start = Instant::now();
    let mut silent = None;
    while start.elapsed() < MAKING {
        match place.join(parts, additions, getpid(), silent)? {
            Answer::Joined(joined) => return Ok(Way::Joined(joined)),
            Answer::Silent(socket) => silent = Some(socket),
            Answer::Nobody => {}
        }
        let Some(lock) = place.take_lock()? else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        // Somebody may have been faster.
        if let Answer::Joined(joined) = place.join(parts, additions, getpid(), silent)? {
            return Ok(Way::Joined(joined));
        }
        return place.listen(lock, share.linger).map(Way::First);
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// What becomes of one who wants to join.
enum Answer {
    Joined(Joined),
    /// There is no server.
    Nobody,
    /// There is one that does not answer, at a socket with this inode.
    Silent(u64),
}

/// A socket's name in its directory.
struct Place {
    dir: OwnedFd,
    name: String,
    /// How long to wait for a server that does not answer.
    patience: Duration,
}

impl Place {
    fn open(share: &Share) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(CWD, &share.dir, flags, Mode::empty())?;
        Ok(Self { dir, name: format!("{}.sock", share.key), patience: PATIENCE })
    }

    /// By the descriptor, so that no length of the directory's path matters.
    fn address(&self, name: &str) -> io::Result<SocketAddrUnix> {
        Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))?)
    }

    /// The name of the lock under which a server is made.
    fn lock(&self) -> String {
        format!("{}.lock", self.name)
    }

    /// Takes that lock, unless somebody else has it.
    fn take_lock(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = openat(&self.dir, self.lock(), flags, Mode::RUSR | Mode::WUSR)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The inode of the socket that has the name.
    fn inode(&self, name: &str) -> io::Result<u64> {
        Ok(statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
    }

    /// Joins the server that listens here, for a process. One at a socket that is known
    /// to be `silent` is not asked again.
    fn join(
        &self,
        parts: usize,
        additions: u64,
        member: Pid,
        silent: Option<u64>,
    ) -> io::Result<Answer> {
        let Ok(inode) = self.inode(&self.name) else { return Ok(Answer::Nobody) };
        if silent == Some(inode) {
            return Ok(Answer::Silent(inode));
        }
        let socket = socket()?;
        match connect(&socket, &self.address(&self.name)?) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(Answer::Nobody),
            Err(e) => return Err(e.into()),
        }
        if socket_peercred(&socket)?.uid != getuid() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let member = pidfd_open(member, PidfdFlags::empty())?;
        let ask = || {
            pass::send(&socket, additions, &[member.as_fd()])?;
            if self.silent(&socket)? { Ok(None) } else { pass::receive(&socket).map(Some) }
        };
        let mut fds = match ask() {
            Ok(Some((_, fds))) => fds.into_iter(),
            Ok(None) => return Ok(Answer::Silent(inode)),
            // It ended meanwhile.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::CONNRESET) => {
                return Ok(Answer::Nobody);
            }
            Err(e) if Errno::from_io_error(&e) == Some(Errno::PIPE) => return Ok(Answer::Nobody),
            Err(e) => return Err(e),
        };
        let Some(user_namespace) = fds.next() else { return Ok(Answer::Nobody) };
        let mounts: Vec<OwnedFd> = fds.by_ref().take(parts).collect();
        let root = fds.next();
        Ok(Answer::Joined(Joined { mounts, root, user_namespace, socket }))
    }

    /// Waits for a server's answer; whether there is none. Somebody who holds the lock is
    /// still making the server.
    fn silent(&self, socket: &OwnedFd) -> io::Result<bool> {
        let start = Instant::now();
        let patience = Timespec::try_from(self.patience).ok();
        loop {
            match poll(&mut [PollFd::new(socket, PollFlags::IN)], patience.as_ref()) {
                Ok(0) if start.elapsed() < MAKING && self.take_lock()?.is_none() => {}
                Ok(0) => return Ok(true),
                Ok(_) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Listens here; whatever has the name is replaced.
    fn listen(self, lock: OwnedFd, linger: Duration) -> io::Result<Listener> {
        let socket = socket()?;
        let temporary = format!(".{}.{}", self.name, getpid());
        // What a dead process of the same number left.
        let _ = unlinkat(&self.dir, &temporary, AtFlags::empty());
        bind(&socket, &self.address(&temporary)?)?;
        listen(&socket, BACKLOG)?;
        let inode = self.inode(&temporary)?;
        renameat(&self.dir, &temporary, &self.dir, &self.name)?;
        Ok(Listener { socket, lock: Some(lock), place: self, inode, linger })
    }
}

fn socket() -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    Ok(socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// The socket of a server.
pub(crate) struct Listener {
    socket: OwnedFd,
    /// Held until the server answers.
    lock: Option<OwnedFd>,
    place: Place,
    inode: u64,
    linger: Duration,
}

impl Listener {
    /// The descriptors that the server keeps.
    pub(crate) fn fds(&self) -> Vec<RawFd> {
        let always = [&self.socket, &self.place.dir].into_iter();
        always.chain(&self.lock).map(AsRawFd::as_raw_fd).collect()
    }

    /// From now on who is not answered waits for a server that hangs.
    fn answers(&mut self) {
        if let Some(lock) = self.lock.take() {
            // Whoever else was forked with the descriptor holds nothing either. A refusal
            // makes them wait longer, no more.
            let _ = flock(&lock, FlockOperation::Unlock);
        }
    }

    /// Takes the names away, unless another server has them by now. Two starts
    /// that hold the lock and its successor make two servers, and no harm.
    pub(crate) fn close(self) {
        let (dir, name) = (&self.place.dir, &self.place.name);
        if self.place.inode(name).is_ok_and(|inode| inode == self.inode) {
            for name in [name, &self.place.lock()] {
                // Gone already is as good.
                let _ = unlinkat(dir, name, AtFlags::empty());
            }
        }
    }
}

/// A server that others may join.
pub(crate) struct Host {
    pub(crate) listener: Listener,
    /// Of the images, bottom first.
    pub(crate) mounts: Vec<OwnedFd>,
    pub(crate) user_namespace: OwnedFd,
    /// Finished root file systems, with what tells their additions from others.
    pub(crate) roots: Vec<(u64, OwnedFd)>,
    /// Containers that make one and may send it.
    pub(crate) makers: Vec<OwnedFd>,
    /// pidfds of the containers' first processes.
    pub(crate) members: Vec<OwnedFd>,
}

/// Why [`Host::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Nobody has come for a while.
    Lonely,
    /// The connection to the kernel is dead.
    Dead,
}

/// Most root file systems that are kept for others. Tasks of a job need one or two.
const MOST_ROOTS: usize = 8;

/// How often a keeper is called.
pub(crate) const TICK: Duration = Duration::from_secs(60);

impl Host {
    /// Lets others join until nobody does any more. The keeper keeps while
    /// there are containers.
    pub(crate) fn run(&mut self, keeper: &mut dyn Keeper, end: BorrowedFd<'_>) -> Over {
        self.await_first(end);
        self.listener.answers();
        let mut since: Option<Instant> = None;
        let mut ticked = Instant::now();
        loop {
            let wait = match since {
                Some(since) => self.listener.linger.saturating_sub(since.elapsed()),
                None => TICK,
            };
            let (dead, joins) = self.wait(end, wait);
            if dead {
                return Over::Dead;
            }
            self.hear();
            if joins && let Some(member) = self.admit() {
                self.members.push(member);
            }
            match (self.members.is_empty(), since) {
                (true, None) => {
                    keeper.end();
                    since = Some(Instant::now());
                }
                (true, Some(since)) if since.elapsed() >= self.listener.linger => {
                    return Over::Lonely;
                }
                (false, Some(_)) => {
                    keeper.begin();
                    since = None;
                }
                _ => {}
            }
            if since.is_none() && ticked.elapsed() >= TICK {
                keeper.tick();
                ticked = Instant::now();
            }
        }
    }

    /// Waits until the first container has a root file system, or ends.
    fn await_first(&mut self, end: BorrowedFd<'_>) {
        let Some(first) = self.makers.first() else { return };
        let patience = Timespec::try_from(PATIENCE).ok();
        let end = PollFd::from_borrowed_fd(end, PollFlags::IN);
        // What fails here is met again.
        let _ = poll(&mut [end, PollFd::new(first, PollFlags::IN)], patience.as_ref());
        self.hear();
    }

    /// Waits for something to happen; whether the connection is dead, and
    /// whether somebody wants to join. Members that have ended are dropped.
    fn wait(&mut self, end: BorrowedFd<'_>, wait: Duration) -> (bool, bool) {
        let timeout = Timespec::try_from(wait).ok();
        let members = self.members.iter().map(AsFd::as_fd);
        let all = [self.listener.socket.as_fd()].into_iter().chain(members);
        let mut fds: Vec<PollFd<'_>> =
            all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // Who shares the namespace alone cares for no connection.
        let cared = if self.mounts.is_empty() { PollFlags::empty() } else { PollFlags::IN };
        fds.insert(0, PollFd::from_borrowed_fd(end, cared));
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return (false, false);
        }
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut ended = happened[2..].iter();
        self.members.retain(|_| ended.next() != Some(&true));
        (happened[0], happened[1])
    }

    /// Takes what containers have sent that made a root file system. The end of such a
    /// container's socket closes when it becomes the application.
    fn hear(&mut self) {
        let mut fds: Vec<PollFd<'_>> =
            self.makers.iter().map(|maker| PollFd::new(maker, PollFlags::IN)).collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if fds.is_empty() || poll(&mut fds, Some(&now)).is_err() {
            return;
        }
        let said: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (said, silent): (Vec<_>, Vec<_>) =
            self.makers.drain(..).zip(said).partition(|(_, said)| *said);
        self.makers = silent.into_iter().map(|(maker, _)| maker).collect();
        for (maker, _) in said {
            let Ok((additions, fds)) = pass::receive(&maker) else { continue };
            if self.root(additions).is_none() && self.roots.len() < MOST_ROOTS {
                self.roots.extend(fds.into_iter().next().map(|root| (additions, root)));
            }
        }
    }

    /// The root file system of a container with these additions.
    fn root(&self, additions: u64) -> Option<&OwnedFd> {
        self.roots.iter().find(|(theirs, _)| *theirs == additions).map(|(_, root)| root)
    }

    /// Answers one who wants to join; its pidfd.
    fn admit(&mut self) -> Option<OwnedFd> {
        let client = accept_with(&self.listener.socket, SocketFlags::CLOEXEC).ok()?;
        // A client that says nothing keeps the others waiting no longer.
        set_socket_timeout(&client, Timeout::Recv, Some(Duration::from_secs(1))).ok()?;
        if socket_peercred(&client).ok()?.uid != getuid() {
            return None;
        }
        let (additions, fds) = pass::receive(&client).ok()?;
        let member = fds.into_iter().next()?;
        let root = self.root(additions);
        let mut fds = vec![self.user_namespace.as_fd()];
        fds.extend(self.mounts.iter().map(AsFd::as_fd));
        fds.extend(root.map(AsFd::as_fd));
        pass::send(&client, 0, &fds).ok()?;
        if additions != 0 && root.is_none() {
            self.makers.push(client);
        }
        Some(member)
    }
}

/// Waits until the connection is dead, at most so long; whether it is.
pub(crate) fn dead(end: BorrowedFd<'_>, wait: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(end, PollFlags::IN)];
    let timeout = Timespec::try_from(wait).ok();
    poll(&mut fds, timeout.as_ref()).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::NoKeeper;

    fn place(dir: &tempfile::TempDir) -> Place {
        let share =
            Share { dir: dir.path().to_owned(), key: "k".to_owned(), linger: Duration::ZERO };
        Place { patience: Duration::from_millis(20), ..Place::open(&share).unwrap() }
    }

    /// Listens at the place; the server may be made later.
    fn listener(dir: &tempfile::TempDir) -> Listener {
        let lock = place(dir).take_lock().unwrap().expect("nobody has the lock");
        place(dir).listen(lock, Duration::ZERO).unwrap()
    }

    fn serve(listener: Listener) {
        let nothing = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (mounts, user_namespace, members) = (Vec::new(), nothing(), Vec::new());
        let (roots, makers) = (Vec::new(), Vec::new());
        let mut host = Host { listener, mounts, user_namespace, roots, makers, members };
        host.listener.linger = Duration::from_secs(600);
        let end = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        std::thread::spawn(move || host.run(&mut NoKeeper, end.as_fd()));
    }

    #[test]
    fn a_server_that_is_slow_to_be_made_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = listener(&dir);
        let second = place(&dir);
        let patience = second.patience;
        let joining = std::thread::spawn(move || second.join(0, 0, getpid(), None));
        std::thread::sleep(10 * patience);
        assert!(place(&dir).take_lock().unwrap().is_none(), "the lock is gone before its time");
        serve(first);
        assert!(matches!(joining.join().unwrap(), Ok(Answer::Joined(_))));
        assert!(place(&dir).take_lock().unwrap().is_some(), "the lock stays");
    }

    #[test]
    fn a_server_that_hangs_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut hangs = listener(&dir);
        hangs.answers();
        let inode = hangs.inode;
        let join = |silent| place(&dir).join(0, 0, getpid(), silent).unwrap();
        assert!(matches!(join(None), Answer::Silent(socket) if socket == inode));
        let second = listener(&dir);
        assert_ne!(second.inode, inode);
        serve(second);
        assert!(matches!(join(Some(inode)), Answer::Joined(_)));
        // It takes no name away that is another's by now.
        hangs.close();
        assert!(matches!(join(None), Answer::Joined(_)));
    }
}
