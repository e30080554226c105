//! Root for the processes of a container, through the filter of `rootemu`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use std::path::Path;

use plan::{Plan, RootEmulation, Upper};
use rootemu::{Beside, Mode};
use rustix::fs::{FileType, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::{RuntimeError, pass};

fn failed<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Emulation { step, source: source.into() }
}

/// What is beside the upper directory.
fn beside(overlay: &Path) -> std::io::Result<Beside> {
    let mut open = File::options();
    let owners =
        open.read(true).append(true).create(true).open(overlay.join(types::SPECIAL_OWNERS))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let overlay = rustix::fs::open(overlay, flags, rustix::fs::Mode::empty())?;
    Ok(Beside { owners, overlay })
}

/// What the application's process installs, and its parent answers.
pub(crate) struct Emulation {
    mode: Mode,
    /// The way of the listener from the one to the other.
    ends: Option<(OwnedFd, OwnedFd)>,
    /// Owners of what can have no attribute, beside the upper directory.
    beside: Option<Beside>,
    /// Who the application seems to be.
    user: Option<(u32, u32)>,
}

impl Emulation {
    /// The same where no parent answers: the fast mode needs none.
    pub(crate) fn unattended(self) -> Self {
        Self { ends: None, ..self }
    }

    /// Whether the parent answers, and so has to stay.
    pub(crate) fn attended(&self) -> bool {
        self.ends.is_some()
    }

    /// Before the fork, and before the host's paths are gone.
    pub(crate) fn prepare(plan: &Plan) -> Result<Self, RuntimeError> {
        let upper = match &plan.rootfs.upper {
            Upper::Directory { path, .. } => Some(path.as_path()),
            Upper::None | Upper::Tmpfs => None,
        };
        Self::new(plan.root_emulation, upper, plan.emulated_user)
    }

    /// The same, without a plan. `upper` is the host's directory that takes writes.
    pub(crate) fn new(
        emulation: RootEmulation,
        upper: Option<&Path>,
        user: Option<(u32, u32)>,
    ) -> Result<Self, RuntimeError> {
        let mode = match emulation {
            RootEmulation::None => Mode::None,
            RootEmulation::Fast => Mode::Fast,
            RootEmulation::Consistent => Mode::Consistent,
            RootEmulation::Subid => Mode::Devices,
        };
        let pair = || {
            let kind = SocketType::SEQPACKET;
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
                .map_err(failed("socket"))
        };
        let ends = (mode != Mode::None).then(pair).transpose()?;
        let beside = match upper {
            Some(path) if mode == Mode::Consistent => Some(beside(path).map_err(failed("owners"))?),
            _ => None,
        };
        Ok(Self { mode, ends, beside, user })
    }

    /// In the process that becomes the application.
    pub(crate) fn install(self) -> Result<(), RuntimeError> {
        if self.mode == Mode::None {
            return Ok(());
        }
        if self.mode != Mode::Devices {
            rustix::thread::set_no_new_privs(true).map_err(failed("no_new_privs"))?;
        }
        if self.mode == Mode::Consistent {
            rootemu::begin().map_err(failed("identity"))?;
        }
        let filter = rootemu::filter(self.mode);
        let alone =
            |filter| sys::seccomp::install(&rootemu::unattended(filter)).map_err(failed("filter"));
        match self.ends {
            None => alone(filter),
            Some((_, ours)) => match sys::seccomp::install_notifying(&filter) {
                Ok(listener) => pass::send(&ours, 0, &[listener.as_fd()]).map_err(failed("send")),
                // On an old kernel, or below another listener.
                Err(_) if self.mode == Mode::Fast => alone(filter),
                Err(error) => Err(failed("listener")(error)),
            },
        }?;
        let Some((uid, gid)) = self.user else { return Ok(()) };
        use rustix::process::{Gid, Uid};
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        if self.mode == Mode::Devices {
            // Whoever opens /dev/stdout opens the pipe anew. Others than pipes are the
            // caller's terminal or files, and stay as they are.
            for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
                let pipe = rustix::fs::fstat(stream)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
                if pipe {
                    rustix::fs::fchown(stream, Some(uid), None).map_err(failed("output"))?;
                }
            }
        }
        // The filter, or the kernel, answers all three.
        set_thread_groups(&[gid])
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid))
            .map_err(failed("user"))
    }

    /// In its parent: answers on a thread of its own, as long as somebody asks.
    pub(crate) fn supervise(self) -> Result<(), RuntimeError> {
        let Some((theirs, ours)) = self.ends else { return Ok(()) };
        drop(ours);
        // Whoever asks for a mode has applied a mask of its own to it.
        rustix::process::umask(rustix::fs::Mode::empty());
        let (_, fds) = pass::receive(&theirs).map_err(failed("receive"))?;
        // Without a listener the other has failed, and says so.
        if let Some(listener) = fds.into_iter().next() {
            std::thread::spawn(move || rootemu::supervise(&listener, self.mode, self.beside));
        }
        Ok(())
    }
}
