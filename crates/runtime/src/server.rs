//! The process that serves the image.
//!
//! It is forked twice, so that it is nobody's child but init's and no wait()
//! of the application sees it. It keeps the image's descriptor and the FUSE
//! connection, and nothing else of its parent: no terminal, no pipe, no
//! working directory, no limit, no pinning.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use plan::IdMap;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use squashfs::InodeRef;
use sys::process::{Fork, fork};

use crate::RuntimeError;
use crate::lookahead::Lookahead;

/// What lives as long as the image is served, in the server: a lease, say.
pub trait Keeper: Send {
    /// Called once the server has its connection.
    fn begin(&mut self);
    /// Called about once a minute.
    fn tick(&mut self);
    /// Called after the last process of the container has gone.
    fn end(&mut self);
}

/// An open squashfs image, and the descriptor that has to stay open for it.
pub struct ImageFile {
    /// The image.
    pub image: Arc<squashfs::Image>,
    fd: RawFd,
}

impl ImageFile {
    /// Opens the image that starts at byte `offset` of a file.
    ///
    /// # Errors
    /// When the file cannot be opened or is no sound squashfs image.
    pub fn open(path: &Path, offset: u64) -> Result<Self, RuntimeError> {
        let file = File::open(path)
            .map_err(|source| RuntimeError::OpenImage { path: path.to_owned(), source })?;
        let fd = file.as_raw_fd();
        let image = squashfs::Image::open(file, offset, squashfs::ReaderOptions::default())
            .map_err(|source| RuntimeError::Image { path: path.to_owned(), source })?;
        Ok(Self { image: Arc::new(image), fd })
    }
}

/// The parent's end of a server that waits for its connection.
pub(crate) struct Server {
    socket: OwnedFd,
    intermediate: Option<Pid>,
    /// What the container's process should look up first.
    pub(crate) ahead: Vec<PathBuf>,
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> RuntimeError {
    move |source| RuntimeError::Server { step, source }
}

pub(crate) fn start(
    image: &ImageFile,
    ids: IdMap,
    keeper: Option<Box<dyn Keeper>>,
    ahead: Lookahead,
) -> Result<Server, RuntimeError> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed("socket")(e.into()))?;
    match fork().map_err(failed("fork"))? {
        Fork::Parent(intermediate) => {
            Ok(Server { socket: ours, intermediate: Some(intermediate), ahead: ahead.paths })
        }
        Fork::Child => match fork() {
            Ok(Fork::Child) => {
                let code = i32::from(serve(image, ids, &theirs, keeper, &ahead.files).is_err());
                sys::process::exit_now(code)
            }
            Ok(Fork::Parent(_)) => sys::process::exit_now(0),
            Err(_) => sys::process::exit_now(1),
        },
    }
}

impl Server {
    /// Gives the server its connection and lets go of it.
    pub(crate) fn connect(mut self, connection: BorrowedFd<'_>) -> Result<(), RuntimeError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [connection];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.socket, &[io::IoSlice::new(b"f")], &mut control, SendFlags::NOSIGNAL)
            .map_err(|e| failed("send")(e.into()))?;
        self.reap()
    }

    /// Waits for the process between the two forks. It has nothing to do but
    /// to end, so this waits for no more than that; only its parent can.
    pub(crate) fn reap(&mut self) -> Result<(), RuntimeError> {
        let Some(pid) = self.intermediate.take() else { return Ok(()) };
        waitpid(Some(pid), WaitOptions::empty()).map_err(|e| failed("wait")(e.into()))?;
        Ok(())
    }
}

/// The server's whole life.
fn serve(
    image: &ImageFile,
    ids: IdMap,
    socket: &OwnedFd,
    keeper: Option<Box<dyn Keeper>>,
    ahead: &[InodeRef],
) -> Result<(), RuntimeError> {
    detach(&[image.fd, socket.as_raw_fd()]).map_err(failed("detach"))?;
    let preload = fuse::Preload::start(Arc::clone(&image.image), ahead);
    // As many as the cgroup's cpuset has, now that nothing is pinned; a quota
    // is left to the scheduler.
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
    let threads = std::num::NonZero::new(cpus as usize);
    let Some(device) = receive(socket).map_err(failed("receive"))? else {
        // The parent failed before it mounted anything.
        return Ok(());
    };
    let (stop, stopped) = mpsc::channel::<()>();
    let keeping = keeper.map(|keeper| std::thread::spawn(move || keep(keeper, &stopped)));
    // The namespace has one id, so every file is shown as the caller's: a
    // writable layer could not take over files of owners it cannot express.
    let owner = Some((ids.uid, ids.gid));
    let options = fuse::ServerOptions { owner, threads };
    let served = fuse::serve(device, Arc::clone(&image.image), options, preload);
    drop(stop);
    if let Some(thread) = keeping {
        // A keeper that panicked has nothing left to end.
        let _ = thread.join();
    }
    served.map_err(|e| failed("serve")(io::Error::other(e)))
}

fn keep(mut keeper: Box<dyn Keeper>, stopped: &mpsc::Receiver<()>) {
    keeper.begin();
    while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_secs(60)) {
        keeper.tick();
    }
    keeper.end();
}

/// Leaves everything of the parent behind but the descriptors in `keep`.
fn detach(keep: &[RawFd]) -> io::Result<()> {
    sys::process::close_others(keep);
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    sys::process::lift_limits();
    sys::signal::restore_defaults();
    Ok(())
}

/// The connection, or None when the other end closed without sending it.
fn receive(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    let mut slices = [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket.as_fd(), &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut messages = control.drain();
    Ok(messages.find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}
