//! Namespaces and identity.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsFd;

use plan::{IdMap, Namespaces, Plan, RootSource, SubIds};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::subid::Mapper;
use crate::{RuntimeError, Served};

/// Leaves the host's namespaces for the container's. Afterwards the process
/// is the mapped user, with all capabilities over the new namespaces. The user
/// namespace is that of the server that is joined.
pub(crate) fn enter(plan: &Plan, served: &mut Served) -> Result<(), RuntimeError> {
    let Some(joined) = &mut served.joined else {
        return enter_with(plan.namespaces, plan.id_map, plan.sub_ids.as_ref());
    };
    let user = Some(LinkNameSpaceType::User);
    move_into_link_name_space(joined.user_namespace.as_fd(), user)
        .map_err(|e| RuntimeError::Unshare { which: "user".to_owned(), source: e.into() })?;
    if let Some(container) = joined.namespace() {
        let mount = Some(LinkNameSpaceType::Mount);
        match move_into_link_name_space(container.as_fd(), mount) {
            Ok(()) => return Ok(()),
            Err(e) if plan.keeps_writes() || !joined.has(parts(plan)) => {
                return Err(RuntimeError::Unshare { which: "mount".into(), source: e.into() });
            }
            // Where nobody can tell the difference, one of its own is as good.
            Err(_) => joined.forget(),
        }
    }
    leave(Namespaces { user: false, ..plan.namespaces })
}

/// How many images the root file system has mounts of.
fn parts(plan: &Plan) -> usize {
    match &plan.rootfs.source {
        RootSource::Squashfs { parts } => parts.len(),
        RootSource::Directory { .. } => 0,
    }
}

/// The same, without a plan.
pub(crate) fn enter_with(
    n: Namespaces,
    ids: IdMap,
    sub_ids: Option<&SubIds>,
) -> Result<(), RuntimeError> {
    let mapper = sub_ids.filter(|_| n.user).map(Mapper::start).transpose()?;
    leave(n)?;
    if let Some(mapper) = mapper {
        mapper.map()
    } else if n.user {
        // A mount namespace made together with a user namespace receives the
        // host's mounts as slaves already.
        map_ids(ids)
    } else {
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(
            |e| RuntimeError::Root { step: "detaching mount propagation".into(), source: e.into() },
        )
    }
}

fn leave(n: Namespaces) -> Result<(), RuntimeError> {
    let wanted = [
        (n.user, UnshareFlags::NEWUSER, "user"),
        (true, UnshareFlags::NEWNS, "mount"),
        (n.pid, UnshareFlags::NEWPID, "pid"),
        (n.ipc, UnshareFlags::NEWIPC, "ipc"),
        (n.uts, UnshareFlags::NEWUTS, "uts"),
        (n.net, UnshareFlags::NEWNET, "net"),
    ];
    let chosen = wanted.iter().filter(|(on, ..)| *on);
    let flags = chosen.clone().fold(UnshareFlags::empty(), |all, (_, flag, _)| all | *flag);
    sys::process::unshare(flags).map_err(|source| {
        let names: Vec<&str> = chosen.map(|(.., name)| *name).collect();
        RuntimeError::Unshare { which: names.join(" "), source }
    })
}

/// user_namespaces(7): one id each way is what an unprivileged process may
/// map, after giving up setgroups(2).
pub(crate) fn map_ids(ids: IdMap) -> Result<(), RuntimeError> {
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{} {} 1", ids.uid, ids.host_uid))?;
    write("/proc/self/gid_map", &format!("{} {} 1", ids.gid, ids.host_gid))
}

fn write(file: &'static str, text: &str) -> Result<(), RuntimeError> {
    let result =
        OpenOptions::new().write(true).open(file).and_then(|mut f| f.write_all(text.as_bytes()));
    result.map_err(|source| RuntimeError::IdMap { file, source })
}

/// Real root that is to be another user inside changes its ids for good.
pub(crate) fn take_identity(user_namespace: bool, ids: IdMap) -> Result<(), RuntimeError> {
    if user_namespace || (ids.uid == ids.host_uid && ids.gid == ids.host_gid) {
        return Ok(());
    }
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) =
        (rustix::process::Uid::from_raw(ids.uid), rustix::process::Gid::from_raw(ids.gid));
    let change = || -> io::Result<()> {
        set_thread_groups(&[gid])?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    };
    change().map_err(|source| RuntimeError::Identity { uid: ids.uid, gid: ids.gid, source })
}
