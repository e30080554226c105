//! Paths of processes with a root directory or mounts of their own.
//!
//! From `/proc/PID/root` an absolute link would lead on at the supervisor's root, so
//! such a path is resolved with the process's root as its own (`RESOLVE_IN_ROOT` of
//! openat2(2)), and what it leads to is held.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::supervisor::{AT_FDCWD, Result, Target, c_string};

/// Mount and inode of a directory.
pub(crate) type RootPlace = (u64, u64, u32, u32);

pub(crate) fn place(path: &str) -> Option<RootPlace> {
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), wanted).ok()?;
    Some((stat.stx_mnt_id, stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor))
}

/// What a path leads to for a process. None where that has to be left to the paths of
/// `/proc/PID`: links of procfs that are none, directories outside of the root.
pub(crate) fn in_root(pid: u32, dirfd: i32, path: &[u8], follow: bool) -> Result<Option<Target>> {
    let open = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(format!("/proc/{pid}/root"), open, Mode::empty()) else {
        return Ok(None);
    };
    let Some(full) = from_root(pid, dirfd, path) else { return Ok(None) };
    let resolve = |path: &[u8]| {
        let path = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(&root, path, open, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    let (directory, last) = split(&full);
    if follow || matches!(last, b"" | b"." | b"..") || full.ends_with(b"/") {
        match resolve(&full) {
            Ok(fd) => return held(fd, b"").map(Some),
            Err(Errno::XDEV | Errno::AGAIN | Errno::NOSYS) => return Ok(None),
            Err(error) if follow => return Err(error.into()),
            // One that is yet to be made.
            Err(_) => {}
        }
    }
    match resolve(directory) {
        Ok(fd) => held(fd, &[b"/", last].concat()).map(Some),
        Err(Errno::XDEV | Errno::AGAIN | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn held(fd: OwnedFd, rest: &[u8]) -> Result<Target> {
    let path = [format!("/proc/self/fd/{}", fd.as_raw_fd()).as_bytes(), rest].concat();
    Ok(Target { path: c_string(path)?, follow: rest.is_empty(), held: Some(Rc::new(fd)) })
}

/// The directory of a path, and its last word without slashes behind it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    let start = path[..end].iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    (&path[..start], &path[start..end])
}

/// A path as it reads from the process's root.
fn from_root(pid: u32, dirfd: i32, path: &[u8]) -> Option<Vec<u8>> {
    if path.starts_with(b"/") {
        return Some(path.to_vec());
    }
    let link = |name: &str| {
        let link: CString = rustix::fs::readlink(format!("/proc/{pid}/{name}"), Vec::new()).ok()?;
        Some(link.into_bytes())
    };
    let base = if dirfd == AT_FDCWD { link("cwd") } else { link(&format!("fd/{dirfd}")) }?;
    Some([below(&link("root")?, &base)?, b"/", path].concat())
}

/// The rest of a directory's path below another one.
fn below<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::Refusal;

    #[test]
    fn paths_are_taken_apart() {
        for (path, directory, last) in [
            ("/", "", ""),
            ("a", "", "a"),
            ("/a", "/", "a"),
            ("/a/b//", "/a/", "b"),
            ("/a/..", "/a/", ".."),
        ] {
            let expected = (directory.as_bytes(), last.as_bytes());
            assert_eq!(split(path.as_bytes()), expected, "{path}");
        }
        assert_eq!(below(b"/", b"/a"), Some(&b"/a"[..]));
        assert_eq!(below(b"/t", b"/t/a"), Some(&b"/a"[..]));
        assert_eq!(below(b"/t", b"/t"), Some(&b""[..]));
        assert_eq!(below(b"/t", b"/tt"), None);
    }

    /// This process is its own example: its root is the supervisor's.
    #[test]
    fn what_a_path_leads_to_is_held() {
        let me = std::process::id();
        let target = in_root(me, AT_FDCWD, b"/etc/passwd", true).ok().flatten().unwrap();
        assert!(target.follow && target.held.is_some());
        let target = in_root(me, AT_FDCWD, b"/etc/new", false).ok().flatten().unwrap();
        assert!(target.path.as_bytes().ends_with(b"/new") && !target.follow);
        assert!(matches!(in_root(me, AT_FDCWD, b"/no/new", false), Err(Refusal::Errno(2))));
        assert!(matches!(in_root(me, AT_FDCWD, b"/proc/self/exe", true), Ok(None)));
    }
}
