//! Work on files that a container of one user has left behind.

use plan::{IdMap, SubIds};
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::UnshareFlags;
use sys::process::{Fork, exit_now, fork};

use crate::subid::Mapper;
use crate::{RuntimeError, namespace};

fn failed<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Supervise { step, source: source.into() }
}

/// Does something as root of a user namespace with the caller's id, and with
/// subordinate ids where they are given: it passes permission bits that keep
/// even a file's owner out, and reads file capabilities. The work is done in a process of its own, which reports its
/// failures itself; whether there were none. Must be called while the process
/// has one thread.
///
/// # Errors
/// When there is no such process or namespace to be had.
pub fn as_root(
    sub_ids: Option<&SubIds>,
    work: impl FnOnce() -> bool,
) -> Result<bool, RuntimeError> {
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
            let entered = if ids.host_uid == 0 { Ok(()) } else { enter(ids, sub_ids) };
            if let Err(error) = &entered {
                // The process has nobody else to tell.
                let _ = rustix::io::write(
                    rustix::stdio::stderr(),
                    format!("error: {error}\n").as_bytes(),
                );
            }
            exit_now(i32::from(!(entered.is_ok() && work())))
        }
    }
}

fn enter(ids: IdMap, sub_ids: Option<&SubIds>) -> Result<(), RuntimeError> {
    let mapper = sub_ids.map(Mapper::start).transpose()?;
    sys::process::unshare(UnshareFlags::NEWUSER)
        .map_err(|source| RuntimeError::Unshare { which: "user".to_owned(), source })?;
    match mapper {
        Some(mapper) => mapper.map(),
        None => namespace::map_ids(ids),
    }
}
