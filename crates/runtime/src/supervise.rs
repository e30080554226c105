//! A PID namespace: the caller waits, an init reaps, the application runs.
//!
//! ```text
//! caller (waits, passes signals on) ─ init, pid 1 (mounts, reaps) ─ application
//! ```
//!
//! Signals that the kernel sends, from a terminal say, reach the application
//! by themselves, because all three share a process group; signals of other
//! processes are passed on. A stop is taken by the caller too, so that a
//! shell's job control sees it.

use std::io;

use plan::Plan;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, waitpid};
use sys::process::{Fork, exit_now, fork};
use sys::signal;

use crate::emulation::Emulation;
use crate::exec::{self, Program};
use crate::hooks::Hooks;
use crate::{RuntimeError, Served, namespace, root};

/// Names a failing step.
pub(crate) fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Supervise { step, source: source.into() }
}

/// Runs the plan in a PID namespace. Returns the exit code in the caller's
/// process; an error may also surface in a process of the namespace, whose
/// exit code the caller then passes on without a word.
pub(crate) fn run(
    plan: &Plan,
    mut served: Served,
    hooks: Hooks,
    program: &Program,
) -> Result<i32, RuntimeError> {
    namespace::enter(plan, &mut served)?;
    if let Some(server) = &mut served.server {
        server.reap()?;
    }
    signal::block_all().map_err(failed("signals"))?;
    match fork().map_err(failed("fork"))? {
        Fork::Parent(init) => {
            drop((served, hooks));
            let stop = plan.process.stop_signal.as_deref().and_then(types::signal_number);
            watch(init, &|number| {
                if number == Signal::TERM.as_raw() { stop.unwrap_or(number) } else { number }
            })
        }
        Fork::Child => {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(failed("parent death signal"))?;
            let emulation = Emulation::prepare(plan)?;
            root::enter(plan, served, &hooks)?;
            match fork().map_err(failed("fork"))? {
                Fork::Child => {
                    hooks.starting()?;
                    emulation.install()?;
                    match exec::run(plan, program).inspect_err(|_| hooks.not_started())? {}
                }
                Fork::Parent(application) => {
                    // The connection ends with the application's start.
                    drop(hooks);
                    emulation.supervise()?;
                    let code = watch(application, &|number| number).unwrap_or(125);
                    exit_now(code)
                }
            }
        }
    }
}

/// Waits for one child, reaps all, passes signals on; the exit code in shell
/// form.
pub(crate) fn watch(child: Pid, translate: &dyn Fn(i32) -> i32) -> Result<i32, RuntimeError> {
    loop {
        if let Some(code) = reap(Some(child))? {
            return Ok(code);
        }
        let received = signal::wait().map_err(failed("wait for a signal"))?;
        let number = received.number;
        let stops = [Signal::TSTP, Signal::TTIN, Signal::TTOU].map(Signal::as_raw);
        if number == Signal::CHILD.as_raw() {
            continue;
        }
        if received.from_kernel {
            if stops.contains(&number) && std::process::id() != 1 {
                signal::send(rustix::process::getpid(), Signal::STOP.as_raw())
                    .map_err(failed("stop"))?;
            }
            continue;
        }
        // The child may be gone already; the next turn of the loop sees it.
        let _ = signal::send(child, translate(number));
    }
}

/// Reaps every child that has ended; the code of the one that counts.
pub(crate) fn reap(child: Option<Pid>) -> Result<Option<i32>, RuntimeError> {
    let mut code = None;
    loop {
        match waitpid(None, WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if Some(pid) == child => code = shell_code(status).or(code),
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed("wait for the process")(e)),
        }
    }
}

/// The exit code of a status, 128+n for signal n.
pub(crate) fn shell_code(status: WaitStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}
