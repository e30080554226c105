//! Entering a container that runs.
//!
//! A process is named by its id and the time at which it was started (field 22 of
//! /proc/PID/stat, proc(5)), so that a number that was given again leads nowhere
//! else. Of its namespaces those are entered that are not the caller's own. Its PID
//! namespace is one for children of the caller: [`join`] leaves it out, and what
//! [`Container::exec`] starts is in it.
//!
//! ```text
//! caller (waits, passes signals on) ─ [supervisor, where root is emulated] ─ command
//! ```

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plan::{Bounds, Exec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use sys::process::{Fork, exit_now, fork};
use sys::signal;

use crate::emulation::Emulation;
use crate::exec::{Program, become_it};
use crate::instance::end_with_parent;
use crate::namespace::take_identity;
use crate::ops::drop_capabilities;
use crate::supervise::{failed, watch};
use crate::{RuntimeError, instance};

/// How long a container may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);
/// The wait between two looks at it.
const TICK: Duration = Duration::from_millis(20);

/// Why a container cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It has ended.
    #[error("its process {0} has ended")]
    Ended(i32),
    /// It has ended, and a command that had entered it was killed with it.
    #[error("its process {0} has ended, and the command was killed with it")]
    Killed(i32),
    /// Not a container, or not yet.
    #[error("its process {0} is in no container after {PATIENCE:?}")]
    Outside(i32),
    /// The kernel refuses.
    #[error("the namespaces of its process {pid} cannot be entered")]
    Enter {
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

/// The namespaces by their names in /proc/PID/ns.
const NAMESPACES: [(&str, ThreadNameSpaceType); 5] = [
    ("user", ThreadNameSpaceType::USER),
    ("mnt", ThreadNameSpaceType::MOUNT),
    ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
    ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
    ("net", ThreadNameSpaceType::NETWORK),
];

/// Makes this process one of the container's, in its root directory; the
/// variables of the container's process. Must be called while the process has one
/// thread.
///
/// # Errors
/// When it has ended, or may not be entered.
pub fn join(pid: Pid, start: u64) -> Result<Vec<(OsString, OsString)>, JoinError> {
    let number = pid.as_raw_pid();
    let Container { process, .. } = Container::open(pid, start)?;
    wait(pid, start)?;
    let environ = std::fs::read(format!("/proc/{number}/environ"));
    let environ = environ.map_err(|e| JoinError::Enter { pid: number, source: e })?;
    enter(pid, &process, ThreadNameSpaceType::empty()).map_err(|e| refused(pid, e))?;
    Ok(pairs(&environ))
}

/// Waits until the process has left this one's mount namespace and is what it is
/// to be: sampan itself shows no variables of a container.
fn wait(pid: Pid, start: u64) -> Result<(), JoinError> {
    let (begun, number) = (Instant::now(), pid.as_raw_pid());
    let own = std::fs::read_link("/proc/self/exe").ok();
    loop {
        if started(pid) != Some(start) {
            return Err(JoinError::Ended(number));
        }
        let program = std::fs::read_link(format!("/proc/{number}/exe")).ok();
        let inside = namespace(pid, "mnt").is_some_and(|other| Some(other) != own_namespace("mnt"));
        if inside && program.is_some() && program != own {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(JoinError::Outside(number));
        }
        std::thread::sleep(TICK);
    }
}

fn enter(pid: Pid, process: &OwnedFd, mut wanted: ThreadNameSpaceType) -> io::Result<()> {
    let other = |name: &str| namespace(pid, name) != own_namespace(name);
    for (name, kind) in NAMESPACES {
        if other(name) {
            wanted |= kind;
        }
    }
    Ok(move_into_thread_name_spaces(process.as_fd(), wanted)?)
}

/// What it means that the namespaces of a process were not entered: one that is ending
/// has none (setns(2), ESRCH).
fn refused(pid: Pid, source: io::Error) -> JoinError {
    let pid = pid.as_raw_pid();
    match source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) {
        true => JoinError::Ended(pid),
        false => JoinError::Enter { pid, source },
    }
}

fn namespace(pid: Pid, name: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{}/ns/{name}", pid.as_raw_pid())).ok()
}

fn own_namespace(name: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/ns/{name}")).ok()
}

/// When a process was started, in ticks since the machine was.
pub(crate) fn started(pid: Pid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // The name may hold anything, parentheses among it.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// A container that runs, by its init.
pub struct Container {
    pid: Pid,
    process: OwnedFd,
    root: PathBuf,
}

impl Container {
    /// Takes hold of the container whose first process this is.
    ///
    /// # Errors
    /// When it has ended.
    pub fn open(pid: Pid, start: u64) -> Result<Self, JoinError> {
        let number = pid.as_raw_pid();
        let ended = JoinError::Ended(number);
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Err(ended) };
        // What has the number now is what the descriptor means.
        if started(pid) != Some(start) {
            return Err(ended);
        }
        Ok(Self { pid, process, root: format!("/proc/{number}/root").into() })
    }

    /// Its root directory, as a path of the host.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether its first process, and every other one with it, has ended.
    ///
    /// # Errors
    /// As poll(2).
    pub fn ended(&self, patience: Duration) -> io::Result<bool> {
        let begun = Instant::now();
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            let time = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&self.process, PollFlags::IN)], time.as_ref()) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sends its init a signal that asks for the end, and so to every process in it;
    /// SIGKILL ends it at once.
    ///
    /// # Errors
    /// As `pidfd_send_signal(2)`; one that has ended is none.
    pub fn stop(&self, signal: i32) -> io::Result<()> {
        match sys::signal::queue(self.process.as_fd(), signal, instance::STOP) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    /// Runs a command in the container, in its PID namespace too. Returns its exit
    /// code (128+n for signal n); an error may also surface in a process of the
    /// container, whose exit code the caller then passes on without a word. Must be
    /// called while the process has one thread.
    ///
    /// # Errors
    /// The step that failed.
    pub fn exec(&self, exec: &Exec, bounds: &Bounds) -> Result<i32, RuntimeError> {
        let program = Program::new(&exec.process, &exec.env)?;
        let emulation = Emulation::new(bounds.root_emulation, bounds.upper.as_deref(), None)?;
        let kind = ThreadNameSpaceType::PROCESS_ID;
        enter(self.pid, &self.process, kind)
            .map_err(|source| RuntimeError::Join(refused(self.pid, source)))?;
        signal::block_all().map_err(failed("signals"))?;
        let begin = |emulation: Emulation| {
            if bounds.drops_capabilities {
                drop_capabilities().map_err(failed("drop capabilities"))?;
            }
            take_identity(bounds.user_namespace, bounds.id_map)?;
            emulation.install()?;
            become_it(&exec.process, bounds.sub_ids, &program)
        };
        match fork() {
            Ok(Fork::Parent(child)) => {
                let code = watch(child, &|number| number)?;
                if code == 128 + Signal::KILL.as_raw() && closed()? {
                    let pid = self.pid.as_raw_pid();
                    return Err(RuntimeError::Join(JoinError::Killed(pid)));
                }
                Ok(code)
            }
            Err(e) if no_init(&e) => {
                Err(RuntimeError::Join(JoinError::Ended(self.pid.as_raw_pid())))
            }
            Err(e) => Err(failed("fork")(e)),
            Ok(Fork::Child) => {
                end_with_parent(true)?;
                if !emulation.attended() {
                    match begin(emulation)? {}
                }
                match fork().map_err(failed("fork"))? {
                    Fork::Child => {
                        end_with_parent(true)?;
                        match begin(emulation)? {}
                    }
                    Fork::Parent(command) => {
                        emulation.supervise()?;
                        exit_now(watch(command, &|number| number).unwrap_or(125))
                    }
                }
            }
        }
    }
}

/// Whether a fork failed for the PID namespace's init, which is gone or on its way
/// (pid_namespaces(7)).
fn no_init(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOMEM.raw_os_error())
}

/// Whether the PID namespace of this process's children takes no more of them, which
/// is so before the first of them is killed with its init.
fn closed() -> Result<bool, RuntimeError> {
    match fork() {
        Ok(Fork::Child) => exit_now(0),
        Ok(Fork::Parent(child)) => watch(child, &|number| number).map(|_| false),
        Err(e) if no_init(&e) => Ok(true),
        Err(e) => Err(failed("fork")(e)),
    }
}

fn pairs(environ: &[u8]) -> Vec<(OsString, OsString)> {
    let pair = |text: &[u8]| {
        let at = text.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((part(&text[..at]), part(&text[at + 1..])))
    };
    environ.split(|byte| *byte == 0).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpid;

    #[test]
    fn a_process_is_its_number_and_its_start() {
        let start = started(getpid()).unwrap();
        assert!(matches!(join(getpid(), start + 1), Err(JoinError::Ended(_))));
        let gone = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(gone.id().cast_signed()).unwrap();
        let _ = gone.wait_with_output();
        assert!(matches!(join(pid, start), Err(JoinError::Ended(_))));
    }

    #[test]
    fn variables_are_pairs() {
        let names: Vec<_> = pairs(b"A=1\0=x\0B\0C=a=b\0").into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["A", "C"]);
    }
}
