//! Work on files that a container of one user has left behind.

use plan::IdMap;
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::UnshareFlags;
use sys::process::{Fork, exit_now, fork};

use crate::{RuntimeError, namespace};

fn failed<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Supervise { step, source: source.into() }
}

/// Does something as root of a user namespace with the caller's id alone: it
/// passes permission bits that keep even a file's owner out, and reads file
/// capabilities. The work is done in a process of its own, which reports its
/// failures itself; whether there were none. Must be called while the process
/// has one thread.
///
/// # Errors
/// When there is no such process or namespace to be had.
pub fn as_root(work: impl FnOnce() -> bool) -> Result<bool, RuntimeError> {
    match fork().map_err(failed("fork"))? {
        Fork::Parent(child) => {
            let status = waitpid(Some(child), WaitOptions::empty()).map_err(failed("wait"))?;
            Ok(status.is_some_and(|(_, status)| status.exit_status() == Some(0)))
        }
        Fork::Child => {
            let death = rustix::process::Signal::KILL;
            // Without it a killed caller leaves work that harms nobody.
            let _ = rustix::process::set_parent_process_death_signal(Some(death));
            let ids = IdMap {
                uid: 0,
                gid: 0,
                host_uid: rustix::process::geteuid().as_raw(),
                host_gid: rustix::process::getegid().as_raw(),
            };
            let root = ids.host_uid == 0;
            let entered = root
                || (sys::process::unshare(UnshareFlags::NEWUSER).is_ok()
                    && namespace::map_ids(ids).is_ok());
            exit_now(i32::from(!(entered && work())))
        }
    }
}
