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
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, getpid, getuid, pidfd_open};
use sys::process::{Fork, exit_now, fork};

use crate::{RuntimeError, pass};

/// Connections that wait for accept.
const BACKLOG: i32 = 4096;
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
                let (asking, shells) = (Vec::new(), Vec::new());
                let helper = Helper { remote, listener, container, env, cwd, asking, shells };
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
    /// Agents that have not said yet what they want.
    asking: Vec<OwnedFd>,
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
            over = self.turn(over)?;
            if over {
                self.asking.clear();
                self.shells.iter_mut().for_each(Shell::end);
            }
        }
        Ok(())
    }

    /// What is waited for: the container and new agents, agents that have not spoken,
    /// and two descriptors for each shell.
    fn watched(&self, over: bool) -> Vec<PollFd<'_>> {
        let mut fds = Vec::new();
        // A process that has ended would wake this up for ever, whatever is asked of it.
        if !over {
            fds.extend([&self.container, &self.listener]);
            fds.extend(&self.asking);
        }
        for shell in &self.shells {
            // So would an agent that is known to be gone.
            let agent = if shell.ending.is_some() { &shell.process } else { &shell.agent };
            fds.extend([&shell.process, agent]);
        }
        fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect()
    }

    /// Waits for something to happen and does what is to be done for agents and shells;
    /// whether the container has ended.
    fn turn(&mut self, over: bool) -> io::Result<bool> {
        let ending = self.shells.iter().any(|shell| shell.ending.is_some());
        let tick = Timespec::try_from(TICK).ok().filter(|_| ending);
        let mut fds = self.watched(over);
        match poll(&mut fds, tick.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(over),
            other => other?,
        };
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut happened = happened.into_iter();
        let mut next = || happened.next().unwrap_or_default();
        let (ended, connected) = if over { (true, false) } else { (next(), next()) };
        let asking = if over { Vec::new() } else { std::mem::take(&mut self.asking) };
        let (heard, silent) = asking.into_iter().partition(|_| next());
        self.asking = silent;
        self.shells.retain_mut(|shell| {
            let (ended, spoke) = (next(), next());
            if ended && shell.answer() {
                return false;
            }
            // An agent says nothing more until it has closed its end.
            if spoke || shell.ending.is_some() {
                shell.end();
            }
            true
        });
        if ended {
            return Ok(true);
        }
        let heard: Vec<OwnedFd> = heard;
        for agent in heard {
            // One that says nonsense hinders nobody else.
            let _ = self.hear(agent);
        }
        if connected {
            match accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(agent) => self.asking.push(agent),
                // Descriptors are short until a shell has ended.
                Err(_) => std::thread::sleep(TICK),
            }
        }
        Ok(false)
    }

    /// Does what one agent asks for.
    fn hear(&mut self, agent: OwnedFd) -> io::Result<()> {
        if socket_peercred(&agent)?.uid != getuid() {
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::socketpair;

    /// A pidfd of a process that has ended and been waited for.
    fn gone() -> OwnedFd {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(child.wait().unwrap().success());
        process
    }

    fn shell(agent: OwnedFd, words: &[&str]) -> Shell {
        let child = Command::new(words[0]).args(&words[1..]).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Shell { agent, child, process, signal: Signal::CONT, ending: None }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn helper(remote: &Remote, container: OwnedFd) -> Helper<'_> {
        let listener = socket().unwrap();
        bind(&listener, &address(remote.socket.as_ref()).unwrap()).unwrap();
        listen(&listener, BACKLOG).unwrap();
        let (asking, shells, cwd) = (Vec::new(), Vec::new(), "/".into());
        Helper { remote, listener, container, env: Vec::new(), cwd, asking, shells }
    }

    /// A way to other nodes that leads nowhere: the host's name is echoed.
    fn remote(name: &str) -> Remote {
        let (program, hosts) = (vec!["echo".to_owned()], vec!["a".to_owned()]);
        let socket = format!("sampan-test-{}-{name}", std::process::id());
        Remote { shell: RemoteShell::Shell { program, hosts }, socket, again: vec!["s".into()] }
    }

    /// Since Linux 6.9 the pidfd of a process that is no more is always ready.
    #[test]
    fn nothing_that_has_ended_is_waited_for() {
        let remote = remote("ended");
        let mut helper = helper(&remote, gone());
        assert!(helper.turn(false).unwrap(), "the container has ended");
        let (agent, other) = pair();
        helper.shells.push(shell(agent, &["sleep", "1000"]));
        drop(other);
        // The agent is gone, so its shell is told to end, which this one does not hear.
        assert!(helper.turn(true).unwrap());
        assert!(helper.shells[0].ending.is_some());
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut helper.watched(true), Some(&now)).unwrap(), 0);
        helper.shells[0].child.kill().unwrap();
        while !helper.shells.is_empty() {
            assert!(helper.turn(true).unwrap());
        }
    }

    /// However long an agent takes to speak, another one is served, and so is it.
    #[test]
    fn a_slow_agent_is_heard_and_keeps_nobody_waiting() {
        let remote = remote("slow");
        let running = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let mut helper = helper(&remote, running);
        let name = OsString::from(&remote.socket);
        let slow = socket().unwrap();
        connect(&slow, &address(&name).unwrap()).unwrap();
        let quick = std::thread::spawn(move || ask(&name, "nowhere", OsStr::new("x")));
        for asking in [1, 2, 1] {
            while helper.asking.len() != asking {
                assert!(!helper.turn(false).unwrap());
            }
        }
        // The host is none of the job's.
        assert_eq!(quick.join().unwrap().unwrap(), FAILED);
        let mut asked = File::from(memfd_create("command", MemfdFlags::CLOEXEC).unwrap());
        asked.write_all(b"a\0x").unwrap();
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        let fds = [null.as_fd(), null.as_fd(), null.as_fd(), asked.as_fd()];
        pass::send(&slow, 0, &fds).unwrap();
        while helper.shells.is_empty() {
            assert!(!helper.turn(false).unwrap());
        }
        while !helper.shells.is_empty() {
            assert!(!helper.turn(false).unwrap());
        }
        assert_eq!(pass::receive(&slow).unwrap().0, 1);
    }
}
