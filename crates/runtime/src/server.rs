//! The process that serves the image.
//!
//! It is forked twice, so that it is nobody's child but init's and no wait()
//! of the application sees it. It keeps the image's descriptor and the FUSE
//! connection, and nothing else of its parent: no terminal, no pipe, no
//! working directory, no limit, no pinning.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuse::{Added, Noted, Recorder, View};
use plan::{ImagePart, Plan, RootEmulation, SkeletonKind};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use squashfs::{Image, InodeRef};
use sys::process::{Fork, fork};

use crate::lookahead::Lookahead;
use crate::profile::{self, Profile, Profiling, Toucher};
use crate::share::{Common, Host, Listener, Over};
use crate::tree::ImageTree;
use crate::{RuntimeError, pass, share};

/// What lives as long as containers of the image do, in the server: a lease,
/// say. It is the server's way to what outlives it.
pub trait Keeper: Send {
    /// Called when the first container comes, and again when one comes after
    /// the end.
    fn begin(&mut self);
    /// Called about once a minute between the two.
    fn tick(&mut self);
    /// Called after the last container has gone.
    fn end(&mut self);
    /// What was kept under a name about starts from this image.
    fn profile(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }
    /// Keeps that, as far as it can.
    fn keep_profile(&self, _name: &str, _bytes: &[u8]) {}
}

/// Keeps nothing.
pub(crate) struct NoKeeper;

impl Keeper for NoKeeper {
    fn begin(&mut self) {}
    fn tick(&mut self) {}
    fn end(&mut self) {}
}

/// Most images that are stacked: their descriptors travel in one message, of
/// at most 253 (unix(7)).
pub const MOST_PARTS: usize = 100;

/// The open squashfs images of a root file system, bottom first.
pub struct ImageFile {
    parts: Vec<OpenPart>,
}

/// An open image, and the descriptor that has to stay open for it.
struct OpenPart {
    image: Arc<squashfs::Image>,
    fd: RawFd,
    path: PathBuf,
}

impl ImageFile {
    /// Opens the images.
    ///
    /// # Errors
    /// When a file cannot be opened or is no sound squashfs image, or there
    /// are more than [`MOST_PARTS`].
    pub fn open(parts: &[ImagePart]) -> Result<Self, RuntimeError> {
        if parts.len() > MOST_PARTS {
            return Err(RuntimeError::Layers { count: parts.len(), most: MOST_PARTS });
        }
        let options = squashfs::ReaderOptions::default().divided(parts.len());
        let open = |part: &ImagePart| {
            let path = &part.path;
            let file = File::open(path)
                .map_err(|source| RuntimeError::OpenImage { path: path.clone(), source })?;
            let fd = file.as_raw_fd();
            let image = Image::open(file, part.offset, options)
                .map_err(|source| RuntimeError::Image { path: path.clone(), source })?;
            Ok::<_, RuntimeError>(OpenPart { image: Arc::new(image), fd, path: path.clone() })
        };
        Ok(Self { parts: parts.iter().map(open).collect::<Result<_, _>>()? })
    }

    /// How many there are.
    pub(crate) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The largest id of an owner in the images.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn largest_id(&self) -> Result<u32, RuntimeError> {
        let largest = |part: &OpenPart| {
            let unread = |source| RuntimeError::Image { path: part.path.clone(), source };
            part.image.largest_id().map_err(unread)
        };
        self.parts.iter().map(largest).try_fold(0, |most, id| Ok(most.max(id?)))
    }

    /// What the plan adds, for the image server to show; None where it cannot.
    fn view(&self, plan: &Plan) -> Option<Arc<View>> {
        let (true, [part]) = (plan.view(), &self.parts[..]) else { return None };
        let additions = plan.rootfs.skeleton.iter().map(|entry| {
            let path = entry.path.strip_prefix("/").unwrap_or(&entry.path);
            let what = match &entry.kind {
                SkeletonKind::Directory => Added::Directory,
                SkeletonKind::File(bytes) => Added::File(bytes.clone()),
                SkeletonKind::Symlink(to) => Added::Symlink(to.as_os_str().as_bytes().to_vec()),
            };
            (path.as_os_str().as_bytes(), entry.mode as u16, what)
        });
        let view = View::new(&part.image, (plan.id_map.uid, plan.id_map.gid), additions);
        let view = view.inspect_err(|error| tracing::debug!("an overlay is needed: {error}"));
        view.ok().map(Arc::new)
    }

    /// What the images hold together.
    #[must_use]
    pub fn tree(&self) -> ImageTree {
        ImageTree::new(self.parts.iter().map(|part| Arc::clone(&part.image)).collect())
    }
}

/// The parent's end of a server that waits for its connection.
pub(crate) struct Server {
    socket: OwnedFd,
    intermediate: Option<Pid>,
    /// What the container's process should look up first.
    pub(crate) ahead: Vec<PathBuf>,
    /// Whether it shows what the plan adds: the name [`fuse::VIEW`] of the image.
    pub(crate) view: bool,
    /// Whether others may join.
    shared: bool,
    /// Whether they get clones of the mounts: not every kernel makes them.
    pub(crate) cloned: bool,
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> RuntimeError {
    move |source| RuntimeError::Server { step, source }
}

/// Forks the server of an image; with a listener, others may join it. Without an
/// image it has nothing but the user namespace for them.
pub(crate) fn start(
    image: Option<&ImageFile>,
    plan: &Plan,
    keeper: Option<Box<dyn Keeper>>,
    ahead: Lookahead,
    listener: Option<Listener>,
    log: Option<PathBuf>,
    common: Common,
) -> Result<Server, RuntimeError> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed("socket")(e.into()))?;
    let container = rustix::process::getpid();
    let parent = common.parent();
    let shared = listener.is_some();
    let view = image.and_then(|image| image.view(plan));
    match fork().map_err(failed("fork"))? {
        Fork::Parent(intermediate) => Ok(Server {
            socket: ours,
            intermediate: Some(intermediate),
            ahead: ahead.paths,
            view: view.is_some(),
            shared,
            cloned: false,
        }),
        Fork::Child => match fork() {
            Ok(Fork::Child) => {
                let keeper = keeper.unwrap_or_else(|| Box::new(NoKeeper));
                // A namespace that has one id shows every file as the caller's: a
                // writable layer could not take over files of owners that it
                // cannot express.
                let ids = plan.id_map;
                let owner = plan.sub_ids.is_none().then_some((ids.uid, ids.gid));
                let noted = match plan.root_emulation {
                    RootEmulation::None | RootEmulation::Fast => Noted::Nothing,
                    RootEmulation::Consistent => Noted::Owners,
                    RootEmulation::Subid => Noted::Devices,
                };
                let argv = plan.process.argv.iter().map(|word| word.as_bytes());
                let name = profile::key(&argv.collect::<Vec<_>>());
                let socket = theirs;
                let first = First { container, parent, number: common.number() };
                let life = Life { owner, noted, view, socket, keeper, name, listener, log, first };
                sys::process::exit_now(i32::from(life.run(image, &ahead.files).is_err()))
            }
            Ok(Fork::Parent(_)) => sys::process::exit_now(0),
            Err(_) => sys::process::exit_now(1),
        },
    }
}

impl Server {
    /// Gives the server its connections, one for each image, and what others
    /// need to join.
    pub(crate) fn connect(
        &mut self,
        connections: &[OwnedFd],
        mounts: &[OwnedFd],
    ) -> Result<(), RuntimeError> {
        let mut fds: Vec<BorrowedFd<'_>> = connections.iter().map(AsFd::as_fd).collect();
        let namespace = self.shared.then(|| File::open("/proc/self/ns/user").ok()).flatten();
        // Where a mount cannot be cloned, others share the namespace alone.
        let copies = mounts.iter().filter(|_| namespace.is_some()).map(share::clone);
        let copies = copies.collect::<Result<Vec<_>, _>>().unwrap_or_default();
        fds.extend(namespace.iter().map(AsFd::as_fd));
        fds.extend(copies.iter().map(AsFd::as_fd));
        self.shared = namespace.is_some();
        self.cloned = self.shared && copies.len() == mounts.len();
        pass::send(&self.socket, 0, &fds).map_err(failed("send"))?;
        self.reap()
    }

    /// Gives the server what those who join can have.
    pub(crate) fn offer(&self, common: Common, fd: BorrowedFd<'_>) {
        if self.shared {
            // A server that is gone has nobody join.
            let _ = pass::send(&self.socket, common.number(), &[fd]);
        }
    }

    /// Waits for the process between the two forks. It has nothing to do but
    /// to end, so this waits for no more than that; only its parent can.
    pub(crate) fn reap(&mut self) -> Result<(), RuntimeError> {
        let Some(pid) = self.intermediate.take() else { return Ok(()) };
        waitpid(Some(pid), WaitOptions::empty()).map_err(|e| failed("wait")(e.into()))?;
        Ok(())
    }
}

/// What the server lives with.
struct Life {
    /// Whose all files are shown to be.
    owner: Option<(u32, u32)>,
    /// What is shown as an attribute.
    noted: Noted,
    view: Option<Arc<View>>,
    socket: OwnedFd,
    keeper: Box<dyn Keeper>,
    /// What tells its command from others.
    name: String,
    listener: Option<Listener>,
    log: Option<PathBuf>,
    first: First,
}

/// The first container.
struct First {
    /// Its process.
    container: Pid,
    /// The process that starts others, where it stays as long as that.
    parent: Option<Pid>,
    /// What others may ask for of it.
    number: u64,
}

impl Life {
    fn run(mut self, image: Option<&ImageFile>, ahead: &[InodeRef]) -> Result<(), RuntimeError> {
        let parts = image.map_or(&[][..], |image| &image.parts);
        let mut keep = vec![self.socket.as_raw_fd()];
        keep.extend(parts.iter().map(|part| part.fd));
        keep.extend(self.listener.iter().flat_map(Listener::fds));
        detach(&keep).map_err(failed("detach"))?;
        let one = match parts {
            [part] => Some(Arc::clone(&part.image)),
            _ => None,
        };
        let before = one.as_ref().and_then(|_| self.keeper.profile(&self.name));
        let before = before.and_then(|bytes| Profile::parse(&bytes));
        // Before there is a second thread.
        let toucher = before.as_ref().filter(|_| self.listener.is_some());
        let toucher = toucher.and_then(|profile| Toucher::start(profile, self.view.is_some()));
        let recorder = one.map(|image| {
            let ignored = toucher.as_ref().map(|toucher| toucher.pid.as_raw_pid().cast_unsigned());
            let recorder = Arc::new(Recorder::new(ignored));
            let keeper = std::mem::replace(&mut self.keeper, Box::new(NoKeeper));
            let (name, both) = (std::mem::take(&mut self.name), Arc::clone(&recorder));
            self.keeper = Box::new(Profiling { keeper, name, before, recorder: both, image });
            recorder
        });
        let preload = match parts {
            [part] => fuse::Preload::start(Arc::clone(&part.image), ahead),
            _ => fuse::Preload::default(),
        };
        // As many as the cgroup's cpuset has, now that nothing is pinned; a
        // quota is left to the scheduler.
        let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
        let threads = std::num::NonZero::new(threads(cpus as usize, parts.len()));
        let (_, fds) = pass::receive(&self.socket).map_err(failed("receive"))?;
        let mut fds = fds.into_iter();
        let devices: Vec<OwnedFd> = fds.by_ref().take(parts.len()).collect();
        let host = match (self.listener, fds.next()) {
            (Some(listener), Some(user_namespace)) => {
                let First { container, parent, number } = self.first;
                let open = |pid| pidfd_open(pid, PidfdFlags::empty()).ok();
                let mounts: Vec<OwnedFd> = fds.collect();
                if let (Some(toucher), [mount]) = (toucher, &mounts[..]) {
                    toucher.go(&user_namespace, mount);
                }
                // Those that are to be one with it have no other way.
                let patience = if parent.is_some() { share::MAKING / 2 } else { share::PATIENCE };
                let mut host = Host::new(listener, mounts, user_namespace, patience);
                host.makers.push((number, self.socket));
                host.members
                    .extend([Some(container), parent].into_iter().flatten().filter_map(open));
                Some(host)
            }
            (listener, _) => {
                listener.into_iter().for_each(Listener::close);
                None
            }
        };
        let end =
            Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| failed("event")(e.into()))?);
        let mut all = parts.iter().zip(devices);
        let Some((bottom, device)) = all.next() else {
            // There is no image, or the parent failed before it mounted anything.
            if let (Some(mut host), true) = (host, parts.is_empty()) {
                host.run(&mut NoKeeper, end.as_fd());
                host.listener.close();
            }
            return Ok(());
        };
        let (told, keeper) = (Arc::clone(&end), self.keeper);
        let keeping = std::thread::spawn(move || keep_while_served(host, keeper, told.as_fd()));
        let (owner, noted, view) = (self.owner, self.noted, self.view);
        let options = &fuse::ServerOptions { owner, threads, noted, view };
        let log = &self.log;
        let serve = move |part: &OpenPart, device, preload, recorder| {
            let report = report(log.clone(), part.path.clone());
            let (image, options) = (Arc::clone(&part.image), options.clone());
            fuse::serve(device, image, options, preload, recorder, report)
        };
        let served = std::thread::scope(|scope| {
            for (part, device) in all {
                scope.spawn(move || serve(part, device, fuse::Preload::default(), None));
            }
            serve(bottom, device, preload, recorder)
        });
        // The other thread ends by it, and has nothing left to do if it panicked.
        let _ = rustix::io::write(&*end, &1_u64.to_ne_bytes());
        let _ = keeping.join();
        served.map_err(|e| failed("serve")(io::Error::other(e)))
    }
}

/// Most threads of all connections together; each has one at least.
const MOST_THREADS: usize = 64;

/// How many threads may serve each of several images. Usually few of them are asked
/// for much at once, so they get more than a part of the processors.
fn threads(processors: usize, parts: usize) -> usize {
    processors.min(MOST_THREADS / parts.max(1)).max(1)
}

/// A log that is longer than this is put aside, as `errors.log.old`, in place of the
/// one before it.
const LONGEST_LOG: u64 = 1 << 20;

/// Appends to the log what the server has to say.
fn report(log: Option<PathBuf>, image: PathBuf) -> fuse::Report {
    Box::new(move |message| {
        let Some(path) = &log else { return };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs());
        // Without a log there is nobody else to tell.
        let _ = append(path, &format!("{seconds} {}: {message}\n", image.display()));
    })
}

/// Appends a line to a log. Two servers may put it aside at once: then the older of
/// its lines are lost a little earlier.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let open = || {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
        options.append(true).create(true).open(path)
    };
    let mut file = open()?;
    if file.metadata()?.len() >= LONGEST_LOG {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        std::fs::rename(path, old)?;
        file = open()?;
    }
    io::Write::write_all(&mut file, line.as_bytes())
}

/// Keeps the image while it is served, and lets others join while that is
/// wanted.
fn keep_while_served(host: Option<Host>, mut keeper: Box<dyn Keeper>, end: BorrowedFd<'_>) {
    keeper.begin();
    if let Some(mut host) = host {
        let over = host.run(&mut *keeper, end);
        host.listener.close();
        // What was held is let go of: without containers the kernel unmounts
        // the image now, and the connection dies.
        drop((host.mounts, host.user_namespace, host.offers, host.makers));
        if over == Over::Dead || share::dead(end, std::time::Duration::from_millis(100)) {
            keeper.end();
            return;
        }
        // A container's first process has ended, others of it go on.
        keeper.begin();
    }
    while !share::dead(end, share::TICK) {
        keeper.tick();
    }
    keeper.end();
}

/// Leaves everything of the parent behind but the descriptors in `keep`.
fn detach(keep: &[RawFd]) -> io::Result<()> {
    // For ps(1); a refusal changes nothing.
    let _ = rustix::thread::set_name(c"sampan-serve");
    sys::process::close_others(keep);
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    sys::process::lift_limits();
    sys::signal::restore_defaults();
    sys::signal::reap_children();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_what_is_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("errors.log");
        let report = report(Some(path.clone()), PathBuf::from("image"));
        let length = |path: &Path| std::fs::metadata(path).unwrap().len();
        let long = "x".repeat(100_000);
        for number in 0..40 {
            report(&format!("{number} {long}"));
            assert!(length(&path) < LONGEST_LOG + 200_000);
        }
        let old = dir.path().join("errors.log.old");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(" image: 39 x"), "the newest line is missing");
        let before = std::fs::read_to_string(&old).unwrap();
        let first = text.lines().next().unwrap().split(' ').nth(2).unwrap();
        let last = before.lines().last().unwrap().split(' ').nth(2).unwrap();
        assert_eq!(last.parse::<u32>().unwrap() + 1, first.parse::<u32>().unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn threads_are_divided_over_the_images() {
        assert_eq!([1, 2, 8].map(|cpus| threads(cpus, 1)), [1, 2, 8]);
        for parts in 1..=MOST_PARTS {
            let each = threads(256, parts);
            assert!(each >= 1 && each * parts <= MOST_THREADS.max(parts));
        }
    }
}
