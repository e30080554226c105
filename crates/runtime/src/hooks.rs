//! Hooks at their stages (OCI Runtime Specification, runtime.md "Lifecycle").
//!
//! | stage | when | where |
//! |---|---|---|
//! | prestart, createRuntime | the root file system is made | the host's namespaces |
//! | createContainer | next | the container's namespaces, the host's files |
//! | startContainer | just before the process | inside |
//! | poststart | the process runs | the host's namespaces |
//! | poststop | it has ended | the host's namespaces |
//!
//! The caller's process becomes the application, so a helper that is no child of
//! it runs what belongs to the host. It is forked before there are namespaces,
//! and sees by the end of its connection that the application has started, and
//! by a pidfd that it has ended. Without such hooks there is none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use host::hooks::{State, Status, run};
use plan::{Hook, Plan, Stage};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{PidfdFlags, WaitOptions, getpid, pidfd_open, waitpid};
use sys::process::{Fork, exit_now, fork};

use crate::{RuntimeError, pass};

/// The version of the specification that states are of.
const OCI_VERSION: &str = "1.2.0";

/// The helper's answers, and what it is told; a closed connection reads as zero.
const DONE: u64 = 1;
const FAILED: u64 = 2;
const STARTS: u64 = 3;

/// The hooks of a container that is being made.
pub(crate) struct Hooks {
    all: Vec<Hook>,
    context: Context,
    helper: Option<OwnedFd>,
}

/// What hooks are told whatever the stage.
struct Context {
    bundle: PathBuf,
    annotations: BTreeMap<String, String>,
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> RuntimeError {
    move |source| RuntimeError::Hooks { step, source }
}

impl Context {
    fn state(&self, status: Status, pid: Option<u32>) -> Vec<u8> {
        let id = self.bundle.file_name().map(|name| name.to_string_lossy().into_owned());
        let state = State {
            oci_version: OCI_VERSION.to_owned(),
            id: id.unwrap_or_default(),
            status,
            pid,
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        };
        // Texts and numbers alone.
        serde_json::to_vec(&state).unwrap_or_default()
    }

    fn run(
        &self,
        all: &[Hook],
        stages: &[Stage],
        status: Status,
        pid: Option<u32>,
    ) -> Result<(), host::hooks::HookError> {
        for stage in stages {
            for hook in all.iter().filter(|hook| hook.stage == *stage) {
                run(hook, &self.state(status, pid))?;
            }
        }
        Ok(())
    }
}

impl Hooks {
    /// Forks the helper, if there is anything for it. `bundle` is a directory
    /// with the container's config.json, which the helper removes at the end.
    pub(crate) fn start(plan: &Plan, bundle: Option<&Path>) -> Result<Self, RuntimeError> {
        let context = Context {
            bundle: bundle.map(Path::to_owned).unwrap_or_default(),
            annotations: plan.annotations.clone(),
        };
        // Those that come before the container have run.
        let all = plan.hooks.iter().filter(|hook| hook.stage != Stage::Precreate);
        let mut hooks = Self { all: all.cloned().collect(), context, helper: None };
        if hooks.all.is_empty() {
            return Ok(hooks);
        }
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| failed("making a socket")(e.into()))?;
        match fork().map_err(failed("forking"))? {
            Fork::Parent(child) => {
                drop(theirs);
                waitpid(Some(child), WaitOptions::empty())
                    .map_err(|e| failed("waiting for a helper")(e.into()))?;
                hooks.helper = Some(ours);
                Ok(hooks)
            }
            Fork::Child => match fork() {
                Ok(Fork::Child) => {
                    drop(ours);
                    let done = hooks.help(&theirs);
                    // The bundle is the helper's to remove.
                    let _ = std::fs::remove_dir_all(&hooks.context.bundle);
                    exit_now(i32::from(done.is_err()))
                }
                Ok(Fork::Parent(_)) => exit_now(0),
                Err(_) => exit_now(1),
            },
        }
    }

    /// What the helper does.
    fn help(&self, socket: &OwnedFd) -> io::Result<()> {
        // It must not hold a pipe open that ends with the application.
        sys::process::close_others(&[socket.as_raw_fd()]);
        rustix::process::setsid()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        let (_, fds) = pass::receive(socket)?;
        // The container was not made.
        let Some(process) = fds.into_iter().next() else { return Ok(()) };
        let pid = pid_of(&process)?;
        let all = &self.all;
        let made = [Stage::Prestart, Stage::CreateRuntime];
        match self.context.run(all, &made, Status::Creating, Some(pid)) {
            Ok(()) => pass::send(socket, DONE, &[])?,
            Err(error) => {
                let mut text = File::from(memfd_create("hook", MemfdFlags::CLOEXEC)?);
                text.write_all(told(&error).as_bytes())?;
                pass::send(socket, FAILED, &[text.as_fd()])?;
            }
        }
        // The other end is closed when the process becomes the application, or
        // could not.
        let (mut started, mut said) = (false, pass::receive(socket)?.0);
        while said != 0 {
            started = said == STARTS;
            said = pass::receive(socket)?.0;
        }
        if started {
            // It may have ended by now. Nothing can be undone.
            let _ = self.context.run(all, &[Stage::Poststart], Status::Running, Some(pid));
        }
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        while poll(&mut fds, None) == Err(rustix::io::Errno::INTR) {}
        let _ = self.context.run(all, &[Stage::Poststop], Status::Stopped, None);
        Ok(())
    }

    /// Runs what comes before the root changes.
    pub(crate) fn created(&self) -> Result<(), RuntimeError> {
        let Some(helper) = &self.helper else { return Ok(()) };
        let own = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|e| failed("opening a pidfd")(e.into()))?;
        pass::send(helper, 0, &[own.as_fd()]).map_err(failed("asking the helper"))?;
        let (code, fds) = pass::receive(helper).map_err(failed("hearing the helper"))?;
        if code == FAILED {
            let mut text = String::new();
            if let Some(fd) = fds.into_iter().next() {
                let mut file = File::from(fd);
                file.rewind()
                    .and_then(|()| file.read_to_string(&mut text))
                    .map_err(failed("reading an error"))?;
            }
            return Err(RuntimeError::Hook(text));
        }
        if code != DONE {
            // A closed connection reads as zero: nobody knows what ran.
            let source = io::Error::other("the helper that runs them has ended");
            return Err(failed("hearing the helper")(source));
        }
        self.here(Stage::CreateContainer, Status::Creating)
    }

    /// Runs what comes just before the process.
    pub(crate) fn starting(&self) -> Result<(), RuntimeError> {
        self.here(Stage::StartContainer, Status::Created)?;
        self.say(STARTS)
    }

    /// Takes that back: there is no such process.
    pub(crate) fn not_started(&self) {
        // The error that counts is another.
        let _ = self.say(FAILED);
    }

    fn say(&self, what: u64) -> Result<(), RuntimeError> {
        let Some(helper) = &self.helper else { return Ok(()) };
        pass::send(helper, what, &[]).map_err(failed("telling the helper"))
    }

    fn here(&self, stage: Stage, status: Status) -> Result<(), RuntimeError> {
        let pid = Some(getpid().as_raw_pid().unsigned_abs());
        let done = self.context.run(&self.all, &[stage], status, pid);
        done.map_err(|error| RuntimeError::Hook(told(&error)))
    }
}

/// An error with its cause, as text: another process reports it.
fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The process of a pidfd, in this process's PID namespace.
fn pid_of(process: &OwnedFd) -> io::Result<u32> {
    let path = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.and_then(|pid| pid.trim().parse().ok()).ok_or_else(|| io::ErrorKind::NotFound.into())
}
