//! seccomp(2) filters, user notification (seccomp_unotify(2)), and the memory
//! of the processes that are notified of.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// An instruction of classic BPF, as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

fn install_with(program: &[Instruction], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program =
        libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `Instruction` has the layout of sock_filter, the kernel only
    // reads the program, and it is alive through the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Puts a filter over this process and all its descendants. The caller has
/// no_new_privs or is privileged in its user namespace.
///
/// # Errors
/// `EINVAL` for a program that the kernel does not take, `EACCES` without
/// either of the two.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    install_with(program, 0).map(drop)
}

/// The same for a program that notifies; the descriptor that hears of it.
///
/// # Errors
/// As [`install`], and `EBUSY` where a filter above has a listener.
pub fn install_notifying(program: &[Instruction]) -> io::Result<OwnedFd> {
    // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV of linux/seccomp.h: what has been
    // received is not interrupted by signals (kernel 5.19).
    const KILLABLE: libc::c_ulong = 1 << 5;
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = match install_with(program, listener | KILLABLE) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => install_with(program, listener)?,
        other => other?,
    };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Names the call in the answer.
    pub id: u64,
    /// The thread that calls, in the supervisor's PID namespace.
    pub pid: u32,
    /// Its number.
    pub number: i32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// What a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This value.
    Value(i64),
    /// This error number.
    Errno(i32),
    /// What the kernel says.
    Continue,
}

// ioctl(2) numbers of linux/seccomp.h, the same on every architecture but those
// with another encoding of directions, which have no static build here.
const RECV: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const ID_VALID: u64 = 0x4008_2102;
const ADD_FD: u64 = 0x4018_2103;
const SET_FLAGS: u64 = 0x4008_2104;
const SYNC_WAKE_UP: usize = 1;

fn ioctl(fd: impl AsFd, number: u64, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: every caller passes a structure of the size that the number
    // names, alive through the call.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), number as _, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the kernel run supervisor and caller on one processor, which is much
/// faster (6.6).
///
/// # Errors
/// `EINVAL` on older kernels.
pub fn set_sync_wake_up(listener: impl AsFd) -> io::Result<()> {
    // The argument is the flags themselves.
    ioctl(listener, SET_FLAGS, std::ptr::without_provenance_mut(SYNC_WAKE_UP))
}

/// Waits for a call.
///
/// # Errors
/// `ENOENT` when the caller has gone meanwhile, `EINTR`.
pub fn receive(listener: impl AsFd) -> io::Result<Notification> {
    // SAFETY: plain data, which the kernel wants zeroed.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    ioctl(listener, RECV, (&raw mut raw).cast())?;
    Ok(Notification {
        id: raw.id,
        pid: raw.pid,
        number: raw.data.nr,
        arch: raw.data.arch,
        args: raw.data.args,
    })
}

/// Answers a call.
///
/// # Errors
/// `ENOENT` when the caller has gone meanwhile.
pub fn answer(listener: impl AsFd, id: u64, answer: Answer) -> io::Result<()> {
    let (val, error, flags) = match answer {
        Answer::Value(value) => (value, 0, 0),
        Answer::Errno(number) => (0, -number, 0),
        Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let mut raw = libc::seccomp_notif_resp { id, val, error, flags };
    ioctl(listener, SEND, (&raw mut raw).cast())
}

/// Answers a call with a descriptor, which the caller gets as a new one of its
/// own (`SECCOMP_IOCTL_NOTIF_ADDFD`, kernel 5.14).
///
/// # Errors
/// `ENOENT` when the caller has gone meanwhile, `EMFILE` at its limit.
pub fn answer_with_descriptor(
    listener: impl AsFd,
    id: u64,
    fd: impl AsFd,
    close_on_exec: bool,
) -> io::Result<()> {
    let mut raw = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: fd.as_fd().as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    ioctl(listener, ADD_FD, (&raw mut raw).cast())
}

/// Whether a call still waits: as long as it does, its number is the caller's own, and
/// what was read or opened through it before belongs to him.
pub fn waits(listener: impl AsFd, mut id: u64) -> bool {
    ioctl(listener, ID_VALID, (&raw mut id).cast()).is_ok()
}

/// Reads memory of another process; how many bytes were there.
///
/// # Errors
/// As process_vm_readv(2).
pub fn read_memory(pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: buffer.len() };
    // SAFETY: the local vector names `buffer` and nothing else; the remote one
    // is checked by the kernel.
    let got = unsafe {
        libc::process_vm_readv(pid.cast_signed(), &raw const local, 1, &raw const remote, 1, 0)
    };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Writes memory of the process whose call waits, all of it: through a descriptor that
/// was opened while it did, so never into a later process of the same number
/// (seccomp_unotify(2)).
///
/// # Errors
/// `ENOENT` when the caller has gone meanwhile, `EFAULT` for memory that it has not.
pub fn write_memory(
    listener: impl AsFd,
    call: &Notification,
    address: u64,
    bytes: &[u8],
) -> io::Result<()> {
    let memory = std::fs::File::options().write(true).open(format!("/proc/{}/mem", call.pid))?;
    if !waits(listener, call.id) {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    }
    // What is not there is an error of input and output in this file.
    memory.write_all_at(bytes, address).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))
}

/// What stat(2) says of a path, and its bytes as a caller expects them.
#[derive(Clone, Copy)]
pub struct Stat(libc::stat);

impl Stat {
    /// Asks the kernel.
    ///
    /// # Errors
    /// As stat(2).
    pub fn of(path: &CStr, follow: bool) -> io::Result<Self> {
        // SAFETY: plain data; all zeroes is a value of it.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        // SAFETY: the path ends in NUL, and the kernel fills the structure.
        let done = unsafe { libc::fstatat(libc::AT_FDCWD, path.as_ptr(), &raw mut stat, flags) };
        if done == 0 { Ok(Self(stat)) } else { Err(io::Error::last_os_error()) }
    }

    /// Type and permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.0.st_mode
    }

    /// User and group.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        (self.0.st_uid, self.0.st_gid)
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.st_size.cast_unsigned()
    }

    /// Which file it is, and when it was last changed: device, inode, and
    /// seconds and nanoseconds.
    #[must_use]
    pub fn version(&self) -> ((u64, u64), (i64, i64)) {
        ((self.0.st_dev, self.0.st_ino), (self.0.st_ctime, self.0.st_ctime_nsec))
    }

    /// Says something else of owner, type and device.
    pub fn change(&mut self, uid: u32, gid: u32, mode: u32, device: Option<(u32, u32)>) {
        (self.0.st_uid, self.0.st_gid, self.0.st_mode) = (uid, gid, mode);
        if let Some((major, minor)) = device {
            self.0.st_rdev = libc::makedev(major, minor);
        }
    }

    /// The same for a program of i386 (`struct stat64` of asm/stat.h); what does
    /// not fit is cut.
    #[must_use]
    pub fn i386(&self) -> [u8; 96] {
        let s = &self.0;
        let mut bytes = [0; 96];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &s.st_dev.to_le_bytes());
        put(12, &(s.st_ino as u32).to_le_bytes());
        put(16, &s.st_mode.to_le_bytes());
        put(20, &(s.st_nlink as u32).to_le_bytes());
        put(24, &s.st_uid.to_le_bytes());
        put(28, &s.st_gid.to_le_bytes());
        put(32, &s.st_rdev.to_le_bytes());
        put(44, &s.st_size.to_le_bytes());
        put(52, &(s.st_blksize as u32).to_le_bytes());
        put(56, &s.st_blocks.to_le_bytes());
        let times = [
            (s.st_atime, s.st_atime_nsec),
            (s.st_mtime, s.st_mtime_nsec),
            (s.st_ctime, s.st_ctime_nsec),
        ];
        for (index, (seconds, nanoseconds)) in times.into_iter().enumerate() {
            put(64 + index * 8, &(seconds as u32).to_le_bytes());
            put(68 + index * 8, &(nanoseconds as u32).to_le_bytes());
        }
        put(88, &s.st_ino.to_le_bytes());
        bytes
    }

    /// The same for the first calls of i386, whose ids have 16 bits (`struct stat` of
    /// asm/stat.h); a larger id is the kernel's overflow id.
    #[must_use]
    pub fn i386_narrow(&self) -> [u8; 64] {
        let s = &self.0;
        let id = |id: u32| u16::try_from(id).unwrap_or(65_534);
        let halves = [s.st_mode as u16, s.st_nlink as u16, id(s.st_uid), id(s.st_gid)];
        let words = [
            s.st_rdev as u32,
            s.st_size as u32,
            s.st_blksize as u32,
            s.st_blocks as u32,
            s.st_atime as u32,
            s.st_atime_nsec as u32,
            s.st_mtime as u32,
            s.st_mtime_nsec as u32,
            s.st_ctime as u32,
            s.st_ctime_nsec as u32,
        ];
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&(s.st_dev as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(s.st_ino as u32).to_le_bytes());
        for (at, half) in bytes[8..16].chunks_exact_mut(2).zip(halves) {
            at.copy_from_slice(&half.to_le_bytes());
        }
        for (at, word) in bytes[16..56].chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The structure's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: plain data that was zeroed, padding included, before it was
        // filled.
        unsafe { std::slice::from_raw_parts((&raw const self.0).cast(), size_of::<libc::stat>()) }
    }
}

/// The same for statx(2).
#[derive(Clone, Copy)]
pub struct Statx(libc::statx);

impl Statx {
    /// Asks the kernel.
    ///
    /// # Errors
    /// As statx(2).
    pub fn of(path: &CStr, follow: bool, mask: u32) -> io::Result<Self> {
        // SAFETY: plain data; all zeroes is a value of it.
        let mut stat: libc::statx = unsafe { std::mem::zeroed() };
        let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        // SAFETY: the path ends in NUL, and the kernel fills the structure.
        let done =
            unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, &raw mut stat) };
        if done == 0 { Ok(Self(stat)) } else { Err(io::Error::last_os_error()) }
    }

    /// Type and permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        u32::from(self.0.stx_mode)
    }

    /// Number of the inode, and when it was made in seconds and nanoseconds,
    /// zero where nobody knows.
    #[must_use]
    pub fn inode(&self) -> (u64, i64, u32) {
        let born = &self.0.stx_btime;
        match self.0.stx_mask & libc::STATX_BTIME {
            0 => (self.0.stx_ino, 0, 0),
            _ => (self.0.stx_ino, born.tv_sec, born.tv_nsec),
        }
    }

    /// Says something else of owner, type and device.
    pub fn change(&mut self, uid: u32, gid: u32, mode: u32, device: Option<(u32, u32)>) {
        (self.0.stx_uid, self.0.stx_gid) = (uid, gid);
        self.0.stx_mode = (mode & 0xffff) as u16;
        if let Some((major, minor)) = device {
            (self.0.stx_rdev_major, self.0.stx_rdev_minor) = (major, minor);
        }
    }

    /// The structure's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: plain data that was zeroed, padding included, before it was
        // filled.
        unsafe { std::slice::from_raw_parts((&raw const self.0).cast(), size_of::<libc::statx>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that waits in getppid(2) is written to; once it has its answer its number
    /// says nothing any more, though it is still there.
    #[test]
    fn only_a_caller_that_waits_is_written_to() {
        let step = |code, jt, jf, k| Instruction { code, jt, jf, k };
        let filter = [
            step(0x20, 0, 0, 0),
            step(0x15, 0, 1, libc::SYS_getppid as u32),
            step(0x06, 0, 0, 0x7fc0_0000),
            step(0x06, 0, 0, 0x7fff_0000),
        ];
        let (tell, hear) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let caller = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            tell.send(install_notifying(&filter).unwrap()).unwrap();
            // SAFETY: the call has no arguments.
            let parent = unsafe { libc::syscall(libc::SYS_getppid) };
            tell.send(std::fs::File::open("/dev/null").unwrap().into()).unwrap();
            let _ = ended.recv();
            parent
        });
        let listener = hear.recv().unwrap();
        let call = receive(&listener).unwrap();
        let bytes = Box::leak(Box::new([0_u8; 4]));
        let address = bytes.as_ptr().expose_provenance() as u64;
        write_memory(&listener, &call, address, b"told").unwrap();
        let mut seen = [0; 4];
        assert_eq!(read_memory(call.pid, address, &mut seen).unwrap(), 4);
        assert_eq!(&seen, b"told");
        let nowhere = write_memory(&listener, &call, 8, b"told").unwrap_err();
        assert_eq!(nowhere.raw_os_error(), Some(libc::EFAULT));
        answer(&listener, call.id, Answer::Value(77)).unwrap();
        let _ = hear.recv().unwrap();
        let late = write_memory(&listener, &call, address, b"late").unwrap_err();
        assert_eq!(late.raw_os_error(), Some(libc::ENOENT));
        end.send(()).unwrap();
        assert_eq!(caller.join().unwrap(), 77);
    }
}
