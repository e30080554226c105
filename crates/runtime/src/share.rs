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
//! One of those that are to be one ([`plan::Plan::one`]) gives the server its mount namespace
//! instead, which the others enter: they see what each of them writes. Where they can
//! write, it stays as long as the process that starts them does, which the server counts
//! among them; who asks for one that is being made waits.
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
use rustix::process::{Pid, PidfdFlags, getpid, getppid, getuid, pidfd_open};

use crate::{Keeper, pass};

/// What start and server speak; another number for each change of it, so that none meets one
/// that it does not understand.
pub const PROTOCOL: u32 = 2;

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
    /// It cannot be: another one writes to its overlay directory.
    Refused,
}

/// What a server gives to those who join.
pub(crate) struct Joined {
    mounts: Vec<OwnedFd>,
    /// What was asked for.
    common: Common,
    /// That, where another container has it.
    found: Option<OwnedFd>,
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
        let root = self.found.as_ref().filter(|_| matches!(self.common, Common::Root(_)));
        // Without it an overlay of its own is as good.
        root.and_then(|root| clone(root).ok())
    }

    /// The mount namespace of the container that this one is to be, if there is one.
    pub(crate) fn namespace(&self) -> Option<&OwnedFd> {
        self.found.as_ref().filter(|_| matches!(self.common, Common::Namespace { .. }))
    }

    /// Has nothing of the other's.
    pub(crate) fn forget(&mut self) {
        self.found = None;
    }

    /// Gives the server what others can have; without it they make their own.
    pub(crate) fn offer(&self, fd: BorrowedFd<'_>) {
        if self.found.is_none() {
            let _ = pass::send(&self.socket, self.common.number(), &[fd]);
        }
    }
}

/// What a container may have in common with others beside image and user namespace, and
/// what tells theirs from that of more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Common {
    /// Nothing: it has its root file system for itself.
    #[default]
    Nothing,
    /// A copy of the root file system.
    Root(u64),
    /// The mount namespace.
    Namespace {
        /// What tells it from others.
        number: u32,
        /// What tells its overlay directory from others', in 31 bits; 0 without one. Of
        /// those that have the same one, all are one container.
        upper: u32,
        /// Whether it stays until the process that starts them ends.
        lasting: bool,
    },
}

impl Common {
    /// The process that starts those that are one: the parent of this.
    pub(crate) fn parent(self) -> Option<Pid> {
        matches!(self, Self::Namespace { lasting: true, .. }).then(getppid)?
    }

    /// The bit that tells namespaces from root file systems.
    const NAMESPACE: u64 = 1 << 63;
    /// Where a namespace's number has that of its overlay directory.
    const UPPER: u64 = 0x7fff_ffff << 32;

    fn is_namespace(number: u64) -> bool {
        number & Self::NAMESPACE != 0
    }

    /// Whether two numbers mean containers with one overlay directory that are not one.
    fn exclude(one: u64, other: u64) -> bool {
        let namespaces = Self::is_namespace(one) && Self::is_namespace(other);
        let upper = one & Self::UPPER;
        namespaces && upper != 0 && upper == other & Self::UPPER && one != other
    }

    /// What a server is asked for.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Root(number) => (number & !Self::NAMESPACE).max(1),
            Self::Namespace { number, upper, .. } => {
                Self::NAMESPACE | u64::from(upper) << 32 | u64::from(number)
            }
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
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits for another start that is making one: longer, as that one lives,
/// and all that wait on a busy node keep it from going on.
pub(crate) const MAKING: Duration = Duration::from_secs(60);
/// The answer that another one makes what was asked for, and that one more follows.
const LATER: u64 = u64::MAX;
/// The answer that another one excludes it.
const REFUSED: u64 = u64::MAX - 1;
/// Connections that wait for the server's accept.
const BACKLOG: i32 = 4096;

/// Finds a server, or a place for one.
pub(crate) fn find(share: &Share, common: Common) -> Way {
    match search(share, common) {
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
    Place::open(share)?.join(Common::Nothing, member, None).map(drop)
}

fn search(share: &Share, common: Common) -> io::Result<Way> {
    let place = Place::open(share)?;
    let start = Instant::now();
    let mut silent = None;
    while start.elapsed() < MAKING {
        match place.join(common, getpid(), silent)? {
            Answer::Joined(joined) => return Ok(Way::Joined(joined)),
            Answer::Refused => return Ok(Way::Refused),
            Answer::Silent(socket) => silent = Some(socket),
            Answer::Nobody => {}
        }
        let Some(lock) = place.take_lock()? else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        // Somebody may have been faster.
        match place.join(common, getpid(), silent)? {
            Answer::Joined(joined) => return Ok(Way::Joined(joined)),
            Answer::Refused => return Ok(Way::Refused),
            Answer::Silent(_) | Answer::Nobody => {}
        }
        return place.listen(lock, share.linger).map(Way::First);
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// What becomes of one who wants to join.
enum Answer {
    Joined(Joined),
    /// Another one excludes it.
    Refused,
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
    fn join(&self, common: Common, member: Pid, silent: Option<u64>) -> io::Result<Answer> {
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
        let parent = common.parent().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let ask = || -> io::Result<Option<_>> {
            let fds = [Some(&member), parent.as_ref()].into_iter().flatten().map(AsFd::as_fd);
            pass::send(&socket, common.number(), &fds.collect::<Vec<_>>())?;
            let mut patience = self.patience;
            while !self.silent(&socket, patience)? {
                let answer = pass::receive(&socket)?;
                if answer.0 != LATER {
                    return Ok(Some(answer));
                }
                patience = MAKING;
            }
            Ok(None)
        };
        let (mounts, fds) = match ask() {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(Answer::Silent(inode)),
            // It ended meanwhile.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::CONNRESET) => {
                return Ok(Answer::Nobody);
            }
            Err(e) if Errno::from_io_error(&e) == Some(Errno::PIPE) => return Ok(Answer::Nobody),
            Err(e) => return Err(e),
        };
        if mounts == REFUSED {
            return Ok(Answer::Refused);
        }
        let mut fds = fds.into_iter();
        let Some(user_namespace) = fds.next() else { return Ok(Answer::Nobody) };
        let mounts = fds.by_ref().take(usize::try_from(mounts).unwrap_or(0)).collect();
        let found = fds.next();
        Ok(Answer::Joined(Joined { mounts, common, found, user_namespace, socket }))
    }

    /// Waits for a server's answer; whether there is none. Somebody who holds the lock is
    /// still making the server.
    fn silent(&self, socket: &OwnedFd, patience: Duration) -> io::Result<bool> {
        let start = Instant::now();
        let patience = Timespec::try_from(patience).ok();
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
    /// Finished root file systems and mount namespaces, by [`Common::number`].
    pub(crate) offers: Vec<(u64, OwnedFd)>,
    /// Containers that make one and may send it.
    pub(crate) makers: Vec<(u64, OwnedFd)>,
    /// Containers that wait for another one's mount namespace.
    pub(crate) waiting: Vec<(u64, OwnedFd)>,
    /// pidfds of the containers' first processes, and of those that have several of them
    /// be one.
    pub(crate) members: Vec<OwnedFd>,
    /// How long the others wait for the first container.
    pub(crate) patience: Duration,
}

/// Why [`Host::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Nobody has come for a while.
    Lonely,
    /// The connection to the kernel is dead.
    Dead,
}

/// Most of them that are kept, apart from namespaces, which others count on. Tasks of a
/// job need one or two.
const MOST_OFFERS: usize = 8;

/// How often a keeper is called.
pub(crate) const TICK: Duration = Duration::from_secs(60);

impl Host {
    /// One that nobody has joined; others wait so long for the first container.
    pub(crate) fn new(
        listener: Listener,
        mounts: Vec<OwnedFd>,
        user_namespace: OwnedFd,
        patience: Duration,
    ) -> Self {
        let (offers, makers, waiting, members) = (vec![], vec![], vec![], vec![]);
        Self { listener, mounts, user_namespace, offers, makers, waiting, members, patience }
    }

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
            if joins && let Some(new) = self.admit() {
                self.members.extend(new);
            }
            match (self.members.is_empty(), since) {
                (true, None) => {
                    self.offers.retain(|(number, _)| !Common::is_namespace(*number));
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

    /// Waits until the first container is made, or ends.
    fn await_first(&mut self, end: BorrowedFd<'_>) {
        let Some((_, first)) = self.makers.first() else { return };
        let patience = Timespec::try_from(self.patience).ok();
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
        // Who joins has them heard in any case.
        let makers = self.makers.iter().filter(|_| !self.waiting.is_empty());
        let makers = makers.map(|(_, maker)| maker.as_fd());
        let all = [self.listener.socket.as_fd()].into_iter().chain(members).chain(makers);
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

    /// Takes what containers have sent. The end of such a container's socket closes when
    /// it becomes the application.
    fn hear(&mut self) {
        let mut fds: Vec<PollFd<'_>> =
            self.makers.iter().map(|(_, maker)| PollFd::new(maker, PollFlags::IN)).collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if fds.is_empty() || poll(&mut fds, Some(&now)).is_err() {
            return;
        }
        let said: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (said, silent): (Vec<_>, Vec<_>) =
            self.makers.drain(..).zip(said).partition(|(_, said)| *said);
        self.makers = silent.into_iter().map(|(maker, _)| maker).collect();
        for ((_, maker), _) in said {
            let Ok((number, fds)) = pass::receive(&maker) else { continue };
            let room = self.offers.len() < MOST_OFFERS || Common::is_namespace(number);
            if self.offer(number).is_none() && room {
                self.offers.extend(fds.into_iter().next().map(|fd| (number, fd)));
            }
        }
        for (number, client) in std::mem::take(&mut self.waiting) {
            self.answer(number, client);
        }
    }

    /// What was offered under a number.
    fn offer(&self, number: u64) -> Option<&OwnedFd> {
        self.offers.iter().find(|(theirs, _)| *theirs == number).map(|(_, fd)| fd)
    }

    /// Answers one who wants to join; its pidfd, and that of its parent where it makes
    /// what its parent's other children are to enter.
    fn admit(&mut self) -> Option<Vec<OwnedFd>> {
        let client = accept_with(&self.listener.socket, SocketFlags::CLOEXEC).ok()?;
        // A client that says nothing keeps the others waiting no longer.
        set_socket_timeout(&client, Timeout::Recv, Some(Duration::from_secs(1))).ok()?;
        if socket_peercred(&client).ok()?.uid != getuid() {
            return None;
        }
        let (number, mut new) = pass::receive(&client).ok().filter(|(_, fds)| !fds.is_empty())?;
        if self.offer(number).is_some() {
            new.truncate(1);
        }
        let makers = self.makers.iter().map(|(number, _)| number);
        let mut others = self.offers.iter().map(|(number, _)| number).chain(makers);
        if others.any(|other| Common::exclude(*other, number)) {
            pass::send(&client, REFUSED, &[]).ok()?;
            return None;
        }
        if self.made(number) {
            pass::send(&client, LATER, &[]).ok()?;
        }
        self.answer(number, client);
        Some(new)
    }

    /// Whether somebody makes the namespace of that number just now.
    fn made(&self, number: u64) -> bool {
        Common::is_namespace(number) && self.makers.iter().any(|(theirs, _)| *theirs == number)
    }

    /// Gives one who joins what there is, or has it wait.
    fn answer(&mut self, number: u64, client: OwnedFd) {
        if self.made(number) {
            self.waiting.push((number, client));
            return;
        }
        let offer = self.offer(number);
        let mut fds = vec![self.user_namespace.as_fd()];
        fds.extend(self.mounts.iter().map(AsFd::as_fd));
        fds.extend(offer.map(AsFd::as_fd));
        let sent = pass::send(&client, self.mounts.len() as u64, &fds);
        // Who has gone makes nothing.
        if sent.is_ok() && number != 0 && offer.is_none() {
            self.makers.push((number, client));
        }
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
        let (dir, key) = (dir.path().to_owned(), "k".to_owned());
        let share = Share { dir, key, linger: Duration::ZERO };
        Place { patience: Duration::from_millis(20), ..Place::open(&share).unwrap() }
    }

    /// Listens at the place; the server may be made later.
    fn listener(dir: &tempfile::TempDir) -> Listener {
        let lock = place(dir).take_lock().unwrap().expect("nobody has the lock");
        place(dir).listen(lock, Duration::ZERO).unwrap()
    }

    fn serve(listener: Listener) {
        let nothing = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (mounts, user_namespace) = (Vec::new(), nothing());
        let mut host = Host::new(listener, mounts, user_namespace, PATIENCE);
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
        let joining = std::thread::spawn(move || second.join(Common::Nothing, getpid(), None));
        std::thread::sleep(10 * patience);
        assert!(place(&dir).take_lock().unwrap().is_none(), "the lock is gone before its time");
        serve(first);
        assert!(matches!(joining.join().unwrap(), Ok(Answer::Joined(_))));
        assert!(place(&dir).take_lock().unwrap().is_some(), "the lock stays");
    }

    #[test]
    fn who_asks_for_what_is_being_made_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        serve(listener(&dir));
        let join = |number| {
            let common = Common::Namespace { number, upper: 0, lasting: true };
            match place(&dir).join(common, getpid(), None) {
                Ok(Answer::Joined(joined)) => joined,
                _ => panic!("the server does not answer"),
            }
        };
        let nothing = std::fs::File::open("/dev/null").unwrap();
        for fails in [false, true] {
            let number = u32::from(fails);
            let maker = join(number);
            assert!(maker.namespace().is_none());
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| join(number).namespace().is_some());
                // Others are answered meanwhile.
                assert!(join(7 + number).namespace().is_none());
                std::thread::sleep(5 * place(&dir).patience);
                assert!(!waits.is_finished(), "it does not wait");
                if !fails {
                    maker.offer(nothing.as_fd());
                }
                drop(maker);
                // Where the one that was to make it has ended, another one is.
                assert_eq!(waits.join().unwrap(), !fails);
            });
            assert_eq!(join(number).namespace().is_some(), !fails);
        }
    }

    #[test]
    fn an_overlay_directory_is_one_containers() {
        let dir = tempfile::tempdir().unwrap();
        serve(listener(&dir));
        let join = |number, upper| {
            let common = Common::Namespace { number, upper, lasting: true };
            place(&dir).join(common, getpid(), None).unwrap()
        };
        let joined = |answer| matches!(answer, Answer::Joined(_));
        let Answer::Joined(first) = join(1, 7) else { panic!("the server does not answer") };
        // While it is made, and when it is.
        assert!(matches!(join(2, 7), Answer::Refused));
        assert!(joined(join(2, 8)) && joined(join(2, 0)) && joined(join(3, 0)));
        first.offer(std::fs::File::open("/dev/null").unwrap().as_fd());
        assert!(matches!(join(2, 7), Answer::Refused));
        assert!(joined(join(1, 7)));
    }

    #[test]
    fn a_server_that_hangs_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut hangs = listener(&dir);
        hangs.answers();
        let inode = hangs.inode;
        let join = |silent| place(&dir).join(Common::Nothing, getpid(), silent).unwrap();
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
