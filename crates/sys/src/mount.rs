//! Mount attributes, which `rustix` lacks (mount_setattr(2), Linux 5.12).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// No writing through the mount.
pub const RDONLY: u64 = 0x1;
/// Set-user-id bits have no effect.
pub const NOSUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub const NODEV: u64 = 0x4;

/// Sets attributes of a mount, and with `recursive` of all mounts below it.
///
/// # Errors
/// `EPERM` for attributes that an outer user namespace has locked; `ENOSYS`
/// before Linux 5.12.
pub fn set_attributes(mount: impl AsFd, set: u64, recursive: bool) -> io::Result<()> {
    let attr = MountAttr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives through the
    // call and its size is the one given; the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
