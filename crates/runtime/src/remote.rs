//! A helper outside of the container that starts processes on other nodes for a
//! launcher inside ([`host::remote`] says why).
//!
//! It listens at a socket in the abstract namespace, which leaves no file behind,
//! and hears its own user alone. An agent sends its standard input, output and
//! error and what it wants started; the remote shell gets these descriptors, so
//! nothing is copied, and the agent is told the exit code:
//!
//! ```text
//! agent  ─ {stdin, stdout, stderr, memory: HOST 0 TEXT} ─→ helper
//!        ←─ exit code + 1 ─────────────────────────────────
//! ```
//!
//! What an agent has had started ends with it, and everything with the
//! container's first process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use plan::{Remote, RemoteShell};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, getpid, getuid, pidfd_open};
use sys::process::{Fork, exit_now, fork};

use crate::{RuntimeError, pass};

/// Connections that wait for accept.
const BACKLOG: i32 = 4096;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a remote shell may take to end what it has started, before it is
/// killed.
const GRACE: Duration = Duration::from_secs(10);
/// The wait between two looks at remote shells that are to end.
const TICK: Duration = Duration::from_millis(50);
/// More than any launcher asks for, in bytes.
const LONGEST: u64 = 1 << 20;
/// What ssh(1) ends with when it has failed itself.
const FAILED: i32 = 255;

fn failed(step: &'static str) -> impl Fn(io::Error) -> RuntimeError {
    move |source| RuntimeError::Remote { step, source }
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn address(name: &OsStr) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?)
}

/// Forks the helper. The caller becomes the container's first process.
pub(crate) fn start(remote: &Remote) -> Result<(), RuntimeError> {
    let listener = socket().map_err(failed("making a socket"))?;
    let open = || {
        bind(&listener, &address(remote.socket.as_ref())?)?;
        listen(&listener, BACKLOG)?;
        Ok(pidfd_open(getpid(), PidfdFlags::empty())?)
    };
    let container = open().map_err(failed("listening"))?;
    let env: Vec<(OsString, OsString)> =
        std::env::vars_os().filter(|(name, _)| !host::remote::dropped(name)).collect();
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    match fork().map_err(failed("forking"))? {
        Fork::Parent(child) => {
            rustix::process::waitpid(Some(child), WaitOptions::empty())
                .map_err(|e| failed("waiting for a helper")(e.into()))?;
            Ok(())
        }
        Fork::Child => match fork() {
            Ok(Fork::Child) => {
                let helper = Helper { remote, listener, container, env, cwd, shells: Vec::new() };
                exit_now(i32::from(helper.run().is_err()))
            }
            Ok(Fork::Parent(_)) => exit_now(0),
            Err(_) => exit_now(1),
        },
    }
}

struct Helper<'a> {
    remote: &'a Remote,
    listener: OwnedFd,
    /// A pidfd of the container's first process.
    container: OwnedFd,
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    shells: Vec<Shell>,
}

/// A remote shell that runs.
struct Shell {
    agent: OwnedFd,
    child: Child,
    /// A pidfd of it.
    process: OwnedFd,
    /// What tells it to end.
    signal: Signal,
    /// When it was told.
    ending: Option<Instant>,
}

impl Helper<'_> {
    fn run(mut self) -> io::Result<()> {
        // It must not hold a pipe open that ends with the application.
        sys::process::close_others(&[self.listener.as_raw_fd(), self.container.as_raw_fd()]);
        rustix::process::setsid()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        let mut over = false;
        while !(over && self.shells.is_empty()) {
            let (ended, asked) = self.wait(over)?;
            over |= ended;
            if asked && !over {
                // One that says nonsense hinders nobody else.
                let _ = self.admit();
            }
            for shell in self.shells.iter_mut().filter(|_| over) {
                shell.end();
            }
        }
        Ok(())
    }

    /// Waits for something to happen: whether the container has ended, and
    /// whether somebody wants something. Shells that have ended are answered.
    fn wait(&mut self, over: bool) -> io::Result<(bool, bool)> {
        let cared = if over { PollFlags::empty() } else { PollFlags::IN };
        let mut fds = vec![PollFd::new(&self.container, cared), PollFd::new(&self.listener, cared)];
        for shell in &self.shells {
            fds.push(PollFd::new(&shell.process, PollFlags::IN));
            // Once it is known to be gone, it would wake this up for ever.
            let gone = shell.ending.is_some();
            let agent = if gone { shell.process.as_fd() } else { shell.agent.as_fd() };
            fds.push(PollFd::from_borrowed_fd(agent, PollFlags::IN));
        }
        let ending = self.shells.iter().any(|shell| shell.ending.is_some());
        let tick = Timespec::try_from(TICK).ok().filter(|_| ending);
        match poll(&mut fds, tick.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok((false, false)),
            other => other?,
        };
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut each = happened[2..].chunks(2);
        self.shells.retain_mut(|shell| {
            let (ended, spoke) = each.next().map_or((false, false), |two| (two[0], two[1]));
            if ended && shell.answer() {
                return false;
            }
            // An agent says nothing more until it has closed its end.
            if spoke || shell.ending.is_some() {
                shell.end();
            }
            true
        });
        Ok((happened[0], happened[1]))
    }

    /// Does what one agent asks for.
    fn admit(&mut self) -> io::Result<()> {
        let agent = accept_with(&self.listener, SocketFlags::CLOEXEC)?;
        if socket_peercred(&agent)?.uid != getuid() {
            return Ok(());
        }
        set_socket_timeout(&agent, Timeout::Recv, Some(PATIENCE))?;
        let (_, fds) = pass::receive(&agent)?;
        let Ok([stdin, stdout, stderr, asked]) = <[OwnedFd; 4]>::try_from(fds) else {
            return Ok(());
        };
        let mut said = File::from(stderr.try_clone()?);
        match self.shell(asked, stdin.into(), stdout.into(), stderr.into()) {
            Ok(mut child) => {
                let process = Pid::from_raw(child.id().cast_signed())
                    .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
                let Some(process) = process else { return child.kill() };
                // srun has this end the step; others may ignore it, as a shell's
                // background processes do.
                let signal = match self.remote.shell {
                    RemoteShell::Srun => Signal::INT,
                    _ => Signal::TERM,
                };
                self.shells.push(Shell { agent, child, process, signal, ending: None });
            }
            Err(why) => {
                // The one who reads it may be gone.
                let _ = writeln!(said, "sampan: cannot start a process on another node: {why}");
                let _ = answer(&agent, FAILED);
            }
        }
        Ok(())
    }

    /// Starts a remote shell.
    fn shell(
        &self,
        asked: OwnedFd,
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Child, String> {
        let text = |e: io::Error| e.to_string();
        let mut file = File::from(asked);
        file.rewind().map_err(text)?;
        let mut bytes = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(text)?;
        if bytes.len() as u64 > LONGEST {
            return Err(format!("the command has more than {LONGEST} bytes"));
        }
        let end = bytes.iter().position(|byte| *byte == 0).ok_or("it names no host")?;
        let (name, command) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 1..]);
        let words = host::remote::command(
            self.remote,
            &name,
            OsStr::from_bytes(command),
            &self.cwd,
            &self.env,
        );
        let words = words.map_err(|e| e.to_string())?;
        let [program, rest @ ..] = &words[..] else { return Err("there is no command".into()) };
        let mut command = Command::new(program);
        command.args(rest).env_clear().envs(self.env.iter().cloned()).current_dir(&self.cwd);
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        command.spawn().map_err(|e| format!("{}: {e}", program.display()))
    }
}

impl Shell {
    /// Tells the agent how it ended, if it has.
    fn answer(&mut self) -> bool {
        let Ok(Some(status)) = self.child.try_wait() else { return false };
        // The one who hears it may be gone.
        let _ = answer(&self.agent, code(status));
        true
    }

    /// Tells it to end; when that was long ago, kills it.
    fn end(&mut self) {
        let signal = match self.ending {
            None => self.signal,
            Some(since) if since.elapsed() > GRACE => Signal::KILL,
            Some(_) => return,
        };
        self.ending.get_or_insert_with(Instant::now);
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(&self.process, signal);
    }
}

/// Sends an exit code; a closed connection reads as zero, so it is one more.
fn answer(agent: &OwnedFd, code: i32) -> io::Result<()> {
    pass::send(agent, u64::from(code.unsigned_abs()) + 1, &[])
}

/// As a shell shows it.
fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(FAILED)
}

/// Asks the helper that listens at a name to start a text of the shell on a host,
/// with this process's standard input, output and error; the exit code.
///
/// # Errors
/// When there is no helper, or it ends first.
pub fn ask(name: &OsStr, host: &str, text: &OsStr) -> io::Result<i32> {
    let socket = socket()?;
    connect(&socket, &address(name)?)?;
    let mut asked = File::from(memfd_create("command", MemfdFlags::CLOEXEC)?);
    asked.write_all(&[host.as_bytes(), b"\0", text.as_bytes()].concat())?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    pass::send(&socket, 0, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), asked.as_fd()])?;
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
    match pass::receive(&socket)? {
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        (number, _) => Ok((number - 1) as i32),
    }
}
