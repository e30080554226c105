//! The system calls that are looked at, by architecture.
//!
//! Numbers are those of the kernel's `syscall*.tbl` files and of
//! `asm-generic/unistd.h`.

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `(path, uid, gid)`, through links.
    Chown,
    /// The same, of a link itself.
    Lchown,
    /// `(fd, uid, gid)`.
    Fchown,
    /// `(dirfd, path, uid, gid, flags)`.
    Fchownat,
    /// `(path, mode, dev)`.
    Mknod,
    /// `(dirfd, path, mode, dev)`.
    Mknodat,
    Stat,
    Lstat,
    Fstat,
    /// `(dirfd, path, stat, flags)`.
    Fstatat,
    /// `(dirfd, path, flags, mask, statx)`.
    Statx,
    /// `(path or fd, name, …)`.
    Setxattr,
    /// `(path, flags, mode)`.
    Open,
    /// `(dirfd, path, flags, mode)`.
    Openat,
    /// Only noted: paths then begin elsewhere.
    Chroot,
    /// `(path, mode)`.
    Creat,
    /// `(path, mode)`.
    Mkdir,
    /// `(dirfd, path, mode)`.
    Mkdirat,
    Setuid,
    Setgid,
    Setreuid,
    Setregid,
    Setresuid,
    Setresgid,
    Setfsuid,
    Setfsgid,
    Setgroups,
    Getuid,
    Geteuid,
    Getgid,
    Getegid,
    Getresuid,
    Getresgid,
    Getgroups,
    Capset,
    /// Asked by whoever wants to know whether the filter is in force:
    /// `kexec_load(0, 0, 0, 0)` succeeds under it and never otherwise.
    KexecLoad,
}

impl Call {
    /// Whether success without doing anything is an answer: what changes owner
    /// or identity.
    pub(crate) fn privileged(self) -> bool {
        use Call::*;
        matches!(
            self,
            Chown
                | Lchown
                | Fchown
                | Fchownat
                | Setuid
                | Setgid
                | Setreuid
                | Setregid
                | Setresuid
                | Setresgid
                | Setfsuid
                | Setfsgid
                | Setgroups
                | Capset
                | KexecLoad
        )
    }

    /// Which argument of open(2) and openat(2) holds the flags.
    pub(crate) fn flags_argument(self) -> Option<u8> {
        match self {
            Self::Open => Some(1),
            Self::Openat => Some(2),
            _ => None,
        }
    }

    /// Which argument of mknod(2) and mknodat(2) is the mode.
    pub(crate) fn mode_argument(self) -> Option<u8> {
        match self {
            Self::Mknod => Some(1),
            Self::Mknodat => Some(2),
            _ => None,
        }
    }
}

/// An architecture's calls.
pub(crate) struct Table {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub(crate) arch: u32,
    /// Bits of a number that name no call: x32 marks its calls.
    pub(crate) mask: u32,
    calls: &'static [&'static [(u32, Call)]],
}

impl Table {
    /// Numbers, and what they mean.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (u32, Call)> {
        self.calls.iter().flat_map(|list| list.iter().copied())
    }
}

use Call::*;

pub(crate) const X86_64: u32 = 0xc000_003e;

const X86_64_CALLS: &[(u32, Call)] = &[
    (4, Stat),
    (5, Fstat),
    (6, Lstat),
    (262, Fstatat),
    (332, Statx),
    (92, Chown),
    (93, Fchown),
    (94, Lchown),
    (260, Fchownat),
    (133, Mknod),
    (259, Mknodat),
    (188, Setxattr),
    (189, Setxattr),
    (190, Setxattr),
    (102, Getuid),
    (104, Getgid),
    (107, Geteuid),
    (108, Getegid),
    (118, Getresuid),
    (120, Getresgid),
    (115, Getgroups),
    (105, Setuid),
    (106, Setgid),
    (113, Setreuid),
    (114, Setregid),
    (116, Setgroups),
    (117, Setresuid),
    (119, Setresgid),
    (122, Setfsuid),
    (123, Setfsgid),
    (126, Capset),
    (246, KexecLoad),
    (2, Open),
    (257, Openat),
    (85, Creat),
    (83, Mkdir),
    (258, Mkdirat),
    (161, Chroot),
    (155, Chroot),
];

/// The first calls of this kind, where they are still there.
const FIRST_CALLS: &[(u32, Call)] = &[
    (14, Mknod),
    (16, Lchown),
    (23, Setuid),
    (46, Setgid),
    (70, Setreuid),
    (71, Setregid),
    (81, Setgroups),
    (95, Fchown),
    (138, Setfsuid),
    (139, Setfsgid),
    (164, Setresuid),
];

/// Their successors with ids of 32 bits.
const LATER_CALLS: &[(u32, Call)] = &[
    (198, Lchown),
    (203, Setreuid),
    (204, Setregid),
    (206, Setgroups),
    (207, Fchown),
    (208, Setresuid),
    (210, Setresgid),
    (212, Chown),
    (213, Setuid),
    (214, Setgid),
    (215, Setfsuid),
    (216, Setfsgid),
];

const I386_CALLS: &[(u32, Call)] = &[
    (170, Setresgid),
    (182, Chown),
    (185, Capset),
    (283, KexecLoad),
    (297, Mknodat),
    (298, Fchownat),
];

/// Of arm64 and riscv64, which have the kernel's generic numbers.
const GENERIC_CALLS: &[(u32, Call)] = &[
    (79, Fstatat),
    (80, Fstat),
    (291, Statx),
    (54, Fchownat),
    (55, Fchown),
    (33, Mknodat),
    (5, Setxattr),
    (6, Setxattr),
    (7, Setxattr),
    (174, Getuid),
    (175, Geteuid),
    (176, Getgid),
    (177, Getegid),
    (148, Getresuid),
    (150, Getresgid),
    (158, Getgroups),
    (143, Setregid),
    (144, Setgid),
    (145, Setreuid),
    (146, Setuid),
    (147, Setresuid),
    (149, Setresgid),
    (151, Setfsuid),
    (152, Setfsgid),
    (159, Setgroups),
    (91, Capset),
    (104, KexecLoad),
    (56, Openat),
    (34, Mkdirat),
    (51, Chroot),
    (41, Chroot),
];

/// 32-bit arm, on arm64 kernels.
const ARM_CALLS: &[(u32, Call)] = &[
    (170, Setresgid),
    (182, Chown),
    (185, Capset),
    (324, Mknodat),
    (325, Fchownat),
    (347, KexecLoad),
];

const PPC64_CALLS: &[(u32, Call)] = &[
    (169, Setresgid),
    (181, Chown),
    (184, Capset),
    (268, KexecLoad),
    (288, Mknodat),
    (289, Fchownat),
];

const S390X_CALLS: &[(u32, Call)] =
    &[(14, Mknod), (185, Capset), (277, KexecLoad), (290, Mknodat), (291, Fchownat)];

/// Every architecture that is known; calls of any other are refused.
pub(crate) const TABLES: &[Table] = &[
    Table { arch: X86_64, mask: 0x4000_0000, calls: &[X86_64_CALLS] },
    Table { arch: 0x4000_0003, mask: 0, calls: &[FIRST_CALLS, LATER_CALLS, I386_CALLS] },
    Table { arch: 0xc000_00b7, mask: 0, calls: &[GENERIC_CALLS] },
    Table { arch: 0xc000_00f3, mask: 0, calls: &[GENERIC_CALLS] },
    Table { arch: 0x4000_0028, mask: 0, calls: &[FIRST_CALLS, LATER_CALLS, ARM_CALLS] },
    Table { arch: 0xc000_0015, mask: 0, calls: &[FIRST_CALLS, PPC64_CALLS] },
    Table { arch: 0x8000_0016, mask: 0, calls: &[LATER_CALLS, S390X_CALLS] },
];

/// The one that this binary is for, whose structures it knows.
pub(crate) const NATIVE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { X86_64 };

/// What a number means on the native architecture.
pub(crate) fn native(number: i32) -> Option<Call> {
    let table = TABLES.iter().find(|table| table.arch == NATIVE)?;
    let number = u32::try_from(number).ok()? & !table.mask;
    table.calls().find(|(known, _)| *known == number).map(|(_, call)| call)
}

/// How a call of the setxattr(2) family names a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Path,
    Link,
    Descriptor,
}

/// That of a native number.
pub(crate) fn lookup(number: i32) -> Lookup {
    match number {
        189 | 6 => Lookup::Link,
        190 | 7 => Lookup::Descriptor,
        _ => Lookup::Path,
    }
}
