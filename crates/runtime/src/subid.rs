//! Subordinate ids for a user namespace: newuidmap(1) and newgidmap(1).
//!
//! Both write the map of another process's namespace and must be outside of
//! it, so a helper is forked before the namespace is made, and told once it
//! is there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use plan::{IdRange, SubIds};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use sys::process::{Fork, exit_now, fork};

use crate::RuntimeError;

/// The process that maps the ids.
pub(crate) struct Mapper {
    helper: Pid,
    tell: OwnedFd,
    /// What went wrong, as text.
    hear: OwnedFd,
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Supervise { step, source: source.into() }
}

impl Mapper {
    /// Forks it. Must be called while the process has one thread.
    pub(crate) fn start(ids: &SubIds) -> Result<Self, RuntimeError> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed("pipe"));
        let ((told, tell), (hear, say)) = (pipe()?, pipe()?);
        let target = getpid();
        match fork().map_err(failed("fork"))? {
            Fork::Parent(helper) => Ok(Self { helper, tell, hear }),
            Fork::Child => {
                // Or the end of the other process would not be seen.
                drop((tell, hear));
                let mut byte = [0];
                // Nothing comes where there is no namespace.
                let wanted = rustix::io::read(&told, &mut byte) == Ok(1);
                let done = if wanted { map(ids, target) } else { Ok(()) };
                if let Err(text) = &done {
                    let _ = rustix::io::write(&say, text.as_bytes());
                }
                exit_now(i32::from(done.is_err()));
            }
        }
    }

    /// Has the ids of the namespace mapped that this process has just made.
    pub(crate) fn map(self) -> Result<(), RuntimeError> {
        let Self { helper, tell, hear } = self;
        rustix::io::write(&tell, &[1]).map_err(failed("write to the helper"))?;
        let mut text = String::new();
        File::from(hear).read_to_string(&mut text).map_err(failed("read from the helper"))?;
        let status = waitpid(Some(helper), WaitOptions::empty()).map_err(failed("wait"))?;
        if status.is_some_and(|(_, status)| status.exit_status() == Some(0)) {
            return Ok(());
        }
        Err(RuntimeError::SubIds(text))
    }
}

fn map(ids: &SubIds, target: Pid) -> Result<(), String> {
    helper(&ids.newuidmap, target, &ids.uids)?;
    helper(&ids.newgidmap, target, &ids.gids)
}

/// Runs one of the two; what it says, and what is known to be wrong with it.
fn helper(program: &Path, target: Pid, ranges: &[IdRange]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.arg(target.as_raw_nonzero().to_string());
    for IdRange { inside, host, count } in ranges {
        command.args([inside, host, count].map(u32::to_string));
    }
    let shown = program.display();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => return Err(format!("{shown} cannot be started: {error}")),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(1000).collect();
    let why = unprivileged(program).map(|why| format!(" ({why})")).unwrap_or_default();
    Err(format!("{shown} failed, {}: {said}{why}", output.status))
}

/// Why a program has not the privilege that it needs; None where that is not
/// the reason.
fn unprivileged(program: &Path) -> Option<&'static str> {
    let meta = std::fs::metadata(program).ok()?;
    let setuid = meta.mode() & 0o4000 != 0 && meta.uid() == 0;
    let capable = rustix::fs::getxattr(program, "security.capability", &mut [0_u8; 64][..]).is_ok();
    if !(setuid || capable) {
        return Some("it is neither setuid root nor has a file capability");
    }
    let mount = rustix::fs::statvfs(program).ok()?;
    if mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID) {
        return Some("it lies on a file system that is mounted nosuid");
    }
    if rustix::thread::no_new_privs().unwrap_or(false) {
        return Some("this process may not gain privileges: no_new_privs is set");
    }
    None
}
