//! An instance: a container that stays when its caller goes.
//!
//! ```text
//! caller ─ launcher ─ init, pid 1 of a PID namespace ─ application
//!    │ ←── its id ─┘      │
//!    │ ←───── it runs ────┤   until then each ends with the one that forked it
//!    │ ────── stay ─────→ │
//!    │ ←─ (closed) ───────┘   from here on init is nobody's
//! ```
//!
//! The caller stays in the host's namespaces, so that between the second and the
//! third message it can write down what there is, by paths of the host. Whoever is
//! killed before that takes the others along; afterwards the namespace lasts until
//! init ends, and every process in it ends with init.
//!
//! Init waits for no application: it reaps what others leave, and passes signals on.
//! A signal that asks for the end (SIGTERM, SIGINT, or any that is queued with
//! [`STOP`]) goes to every process of the namespace, and init ends after the last.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use plan::Plan;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, set_parent_process_death_signal, setsid,
    waitpid,
};
use sys::process::{Fork, exit_now, fork};
use sys::signal;

use crate::emulation::Emulation;
use crate::server::{ImageFile, Keeper};
use crate::share::{self, Share};
use crate::supervise::{failed, reap, shell_code};
use crate::{Ready, RuntimeError, exec, namespace, root};

/// The value of a queued signal that asks for the end.
pub const STOP: usize = 0x5341_4d50;

/// What init says when the application has started, and what the caller answers.
/// Other numbers are the process id of init.
const RUNS: u64 = u64::MAX;
const STAY: u64 = 1;

/// How often init looks whether the last one has gone: those that entered the
/// namespace are no children of it.
const TICK: Duration = Duration::from_millis(20);

/// What an instance has in place of its caller's things.
pub struct Detached {
    /// Standard input, and what init has in place of all three: [`null`].
    pub input: OwnedFd,
    /// Standard output.
    pub output: OwnedFd,
    /// Standard error.
    pub error: OwnedFd,
    /// Whether it stays when its application has ended.
    pub stays: bool,
}

impl Detached {
    fn take(&self) -> io::Result<()> {
        signal::ignore_none();
        rustix::stdio::dup2_stdin(&self.input)?;
        rustix::stdio::dup2_stdout(&self.output)?;
        Ok(rustix::stdio::dup2_stderr(&self.error)?)
    }
}

/// An instance that runs, and does not stay yet: it ends when this is dropped.
pub struct Started {
    socket: Option<OwnedFd>,
    launcher: Pid,
    init: Pid,
    share: Option<Share>,
}

/// Starts an instance: a plan with a PID namespace. What fails in its own processes
/// they `report`, and end with the exit code that it gives; that is what comes back in
/// place of the instance. Must be called while the process has one thread; the other
/// arguments are those of [`crate::launch`].
///
/// # Errors
/// The step that failed in this process.
pub fn start(
    plan: &Plan,
    image: Option<&ImageFile>,
    keeper: Option<Box<dyn Keeper>>,
    share: Option<&Share>,
    bundle: Option<&Path>,
    detached: &Detached,
    report: &dyn Fn(RuntimeError) -> i32,
) -> Result<Result<Started, i32>, RuntimeError> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed("socket"))?;
    match fork().map_err(failed("fork"))? {
        Fork::Parent(launcher) => {
            drop(theirs);
            match hear(&ours, launcher).map_err(failed("hear"))? {
                Some(init) => {
                    let (socket, share) = (Some(ours), share.cloned());
                    Ok(Ok(Started { socket, launcher, init, share }))
                }
                None => {
                    drop(ours);
                    // None of them ends in success.
                    Ok(Err(code(launcher).max(1)))
                }
            }
        }
        Fork::Child => {
            drop(ours);
            let launch = || {
                end_with_parent(true)?;
                let ready = Ready::new(plan, image, keeper, share, bundle)?;
                launcher(plan, ready, theirs, detached)
            };
            match launch() {
                Ok(never) => match never {},
                // The launcher, init or the application.
                Err(error) => exit_now(report(error)),
            }
        }
    }
}

/// Waits until init says that it runs; None when they have failed.
fn hear(socket: &OwnedFd, launcher: Pid) -> io::Result<Option<Pid>> {
    let process = pidfd_open(launcher, PidfdFlags::empty())?;
    let (mut init, mut runs) = (None, false);
    while init.is_none() || !runs {
        // A launcher that somebody has killed may leave an init that waits.
        let mut fds = [socket, &process].map(|fd| PollFd::new(fd, PollFlags::IN));
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready?,
        };
        if fds[0].revents().is_empty() {
            return Ok(None);
        }
        match crate::pass::receive(socket)?.0 {
            // Closed.
            0 => return Ok(None),
            RUNS => runs = true,
            id => init = i32::try_from(id).ok().and_then(Pid::from_raw),
        }
    }
    Ok(init)
}

/// Whether the kernel kills this process when its parent ends.
pub(crate) fn end_with_parent(on: bool) -> Result<(), RuntimeError> {
    set_parent_process_death_signal(on.then_some(Signal::KILL))
        .map_err(failed("parent death signal"))
}

/// Waits for a child; its exit code in shell form.
fn code(child: Pid) -> i32 {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return shell_code(status).unwrap_or(1),
            Err(rustix::io::Errno::INTR) => {}
            _ => return 1,
        }
    }
}

/// Makes the namespaces and init, and waits to be killed, or for init's failure.
fn launcher(
    plan: &Plan,
    mut ready: Ready,
    socket: OwnedFd,
    detached: &Detached,
) -> Result<Infallible, RuntimeError> {
    namespace::enter(plan, &mut ready.served)?;
    if let Some(server) = &mut ready.served.server {
        server.reap()?;
    }
    signal::block_all().map_err(failed("signals"))?;
    match fork().map_err(failed("fork"))? {
        Fork::Parent(init) => {
            let id = u64::from(init.as_raw_pid().unsigned_abs());
            let told = crate::pass::send(&socket, id, &[]);
            drop((ready, socket));
            told.map_err(failed("tell"))?;
            exit_now(code(init))
        }
        Fork::Child => {
            end_with_parent(true)?;
            init(plan, ready, socket, detached)
        }
    }
}

/// Pid 1: makes the root file system and the application, and then stays.
fn init(
    plan: &Plan,
    ready: Ready,
    socket: OwnedFd,
    detached: &Detached,
) -> Result<Infallible, RuntimeError> {
    let Ready { program, hooks, served } = ready;
    let emulation = Emulation::prepare(plan)?;
    let attended = emulation.attended();
    root::enter(plan, served, &hooks)?;
    // For ps(1); a refusal changes nothing.
    let _ = rustix::thread::set_name(c"sampan-init");
    setsid().map_err(failed("session"))?;
    let application = if program.command().is_empty() {
        hooks.starting()?;
        drop(hooks);
        None
    } else {
        let (started, starting) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe"))?;
        match fork().map_err(failed("fork"))? {
            Fork::Child => {
                let become_it = || {
                    hooks.starting()?;
                    emulation.install()?;
                    exec::run(plan, &program).inspect_err(|_| hooks.not_started())
                };
                return heard(detached, starting.as_fd(), become_it);
            }
            Fork::Parent(application) => {
                // The connection of the hooks ends with the application's start.
                drop((hooks, starting));
                emulation.supervise()?;
                if rustix::io::read(&started, &mut [0; 1]).map_err(failed("hear"))? > 0 {
                    exit_now(code(application));
                }
                Some(application)
            }
        }
    };
    rustix::stdio::dup2_stdin(&detached.input).map_err(failed("standard input"))?;
    rustix::stdio::dup2_stdout(&detached.input).map_err(failed("standard output"))?;
    crate::pass::send(&socket, RUNS, &[]).map_err(failed("tell"))?;
    if crate::pass::receive(&socket).map_err(failed("hear"))?.0 != STAY {
        // The caller has failed, and says why.
        exit_now(1);
    }
    rustix::stdio::dup2_stderr(&detached.input).map_err(failed("standard error"))?;
    end_with_parent(false)?;
    drop(socket);
    if !attended {
        // Whoever answers for the kernel has descriptors; nothing else is of use.
        sys::process::close_others(&[]);
    }
    exit_now(stay(application, detached.stays))
}

/// Becomes the application with an output of its own. Who reports that it could not
/// is heard by the caller, and init knows by the pipe.
fn heard(
    detached: &Detached,
    starting: BorrowedFd<'_>,
    become_it: impl FnOnce() -> Result<Infallible, RuntimeError>,
) -> Result<Infallible, RuntimeError> {
    let report = fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map_err(failed("report"))?;
    let become_it = || {
        detached.take().map_err(failed("redirect"))?;
        become_it()
    };
    become_it().inspect_err(|_| {
        // Without them the caller has the exit code.
        let _ = rustix::io::write(starting, b"x");
        let _ = rustix::stdio::dup2_stderr(&report);
    })
}

/// Reaps and passes signals on until the end; the exit code.
fn stay(mut application: Option<Pid>, stays: bool) -> i32 {
    let mut stopping = false;
    loop {
        // Whatever fails here leaves nothing to wait with.
        let Ok(ended) = reap(application) else { return 1 };
        if let Some(code) = ended {
            application = None;
            if !stays {
                return code;
            }
        }
        let received = if stopping {
            if !signal::send_all(0).unwrap_or(false) {
                return 0;
            }
            signal::wait_for(TICK)
        } else {
            signal::wait().map(Some)
        };
        let Ok(received) = received else { return 1 };
        let Some(received) = received.filter(|one| !one.from_kernel) else { continue };
        let number = received.number;
        if number == Signal::CHILD.as_raw() {
            continue;
        }
        let end = [Signal::TERM, Signal::INT].map(Signal::as_raw).contains(&number);
        if end || received.value == Some(STOP) {
            stopping = true;
            // Nobody is there: the next turn of the loop sees it.
            let _ = signal::send_all(number);
        } else if let Some(application) = application {
            let _ = signal::send(application, number);
        }
    }
}

impl Started {
    /// The process id of init in the caller's PID namespace.
    #[must_use]
    pub fn init(&self) -> Pid {
        self.init
    }

    /// Lets it stay.
    ///
    /// # Errors
    /// When it has ended meanwhile.
    pub fn stay(mut self) -> Result<(), RuntimeError> {
        if let Some(share) = &self.share
            && let Err(error) = share::announce(share, self.init)
        {
            // It is served all the same; another container may need a server of its own.
            tracing::debug!("the image server does not know the instance: {error}");
        }
        let Some(socket) = self.socket.take() else { return Ok(()) };
        let told = crate::pass::send(&socket, STAY, &[]).map_err(failed("tell"));
        // It closes its end when it is nobody's any more.
        let heard = crate::pass::receive(&socket).map_err(failed("hear"));
        told.and(heard).map(drop)
    }
}

impl Drop for Started {
    /// Ends it, if it is not to stay, and waits for the launcher.
    fn drop(&mut self) {
        self.socket = None;
        // The launcher waits for an init that stays; it is of no use any more. One
        // that has ended is a zombie, whose id is nobody else's.
        let _ = rustix::process::kill_process(self.launcher, Signal::KILL);
        code(self.launcher);
    }
}

/// The null device, for the input of those that have no terminal.
///
/// # Errors
/// As open(2).
pub fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
