//! Running one hook.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;

use super::{Hook, HookError, drain, tail};

/// The most that a filter's output may have, in bytes.
const MOST: u64 = 16 << 20;

/// How much of what a hook says is kept, in bytes.
const KEPT: usize = 4096;

/// The longest wait between two looks at the process.
const TICK: Duration = Duration::from_millis(20);

/// What a hook is told: the state of the container (OCI Runtime Specification,
/// runtime.md "State").
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the specification.
    pub oci_version: String,
    /// Name of the container, unique on this host.
    pub id: String,
    /// How far it is.
    pub status: Status,
    /// Its process on the host; None where there is none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Directory with the container's config.json.
    pub bundle: PathBuf,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made, its process not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Stopped,
}

/// Runs a hook to its end: `state` on standard input, only its own environment,
/// standard output nowhere. Starts no thread.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than its timeout.
pub fn run(hook: &Hook, state: &[u8]) -> Result<(), HookError> {
    execute(hook, state, Stdio::null())
}

/// Runs a hook as [`run`] does, with `input` on standard input; what it writes to
/// standard output, 16 MiB at most.
///
/// # Errors
/// As [`run`], and when it writes more.
pub fn filter(hook: &Hook, input: &[u8]) -> Result<Vec<u8>, HookError> {
    let started = |source| HookError::Start { hook: Box::new(hook.clone()), source };
    let open = || {
        let out = File::from(memfd_create("output", MemfdFlags::CLOEXEC)?);
        Ok((out.try_clone()?, out))
    };
    let (mut out, theirs) = open().map_err(started)?;
    execute(hook, input, theirs.into())?;
    let mut bytes = Vec::new();
    out.rewind().map_err(started)?;
    (&out).take(MOST + 1).read_to_end(&mut bytes).map_err(started)?;
    if bytes.len() as u64 > MOST {
        return Err(HookError::Output { hook: Box::new(hook.clone()), limit: MOST });
    }
    Ok(bytes)
}

fn execute(hook: &Hook, input: &[u8], output: Stdio) -> Result<(), HookError> {
    let started = |source| HookError::Start { hook: Box::new(hook.clone()), source };
    let mut child = start(hook, input, output).map_err(started)?;
    let mut heard = Vec::new();
    let status = wait(&mut child, hook.timeout, &mut heard).map_err(started)?;
    let stderr = tail(&heard, KEPT);
    let hook = || Box::new(hook.clone());
    match (status, hook().timeout) {
        (Some(status), _) if status.success() => Ok(()),
        (Some(status), _) => {
            Err(HookError::Failed { hook: hook(), status: status.to_string(), stderr })
        }
        (None, limit) => {
            Err(HookError::Timeout { hook: hook(), limit: limit.unwrap_or_default(), stderr })
        }
    }
}

fn start(hook: &Hook, state: &[u8], output: Stdio) -> io::Result<Child> {
    // A file, not a pipe: a hook that never reads its input blocks nobody.
    let mut input = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    input.write_all(state)?;
    input.rewind()?;
    let mut command = Command::new(&hook.path);
    if let [name, rest @ ..] = &hook.args[..] {
        command.arg0(name).args(rest);
    }
    let pairs = hook.env.iter().filter_map(|text| text.split_once('='));
    command.env_clear().envs(pairs).current_dir("/");
    command.stdin(input).stdout(output).stderr(Stdio::piped()).spawn()
}

/// Waits for the end; None when it did not come in time. A process that the
/// hook leaves behind may keep standard error open, so its end is not waited for.
fn wait(
    child: &mut Child,
    limit: Option<Duration>,
    heard: &mut Vec<u8>,
) -> io::Result<Option<ExitStatus>> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut stderr = child.stderr.take();
    let mut pause = Duration::from_millis(1);
    loop {
        let status = child.try_wait()?;
        if status.is_some() {
            // What a pipe holds, and no more: somebody may still be writing.
            for _ in 0..32 {
                let Some(pipe) = &mut stderr else { break };
                if !ready(pipe, Duration::ZERO)? || !drain(pipe, heard, KEPT)? {
                    break;
                }
            }
            return Ok(status);
        }
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        let time = left.map_or(pause, |left| left.min(pause));
        match &mut stderr {
            Some(pipe) if ready(pipe, time)? => {
                if !drain(pipe, heard, KEPT)? {
                    stderr = None;
                }
            }
            Some(_) => {}
            None => std::thread::sleep(time),
        }
        pause = (pause * 2).min(TICK);
    }
}

/// Whether there is something to read, or the other end is closed.
fn ready(pipe: &ChildStderr, time: Duration) -> io::Result<bool> {
    let mut list = [PollFd::new(pipe, PollFlags::IN)];
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    match poll(&mut list, Some(&time)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
