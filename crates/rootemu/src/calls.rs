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
    /// `(path or fd, name, value, size, flags)`.
    Setxattr,
    /// `(path or fd, name, value, size)`.
    Getxattr,
    /// `(path or fd, list, size)`.
    Listxattr,
    /// `(path or fd, name)`.
    Removexattr,
    /// `(dirfd, path, times, flags)`.
    Utimensat,
    /// Its requests would reach the kernel past any filter.
    IoUring,
    /// `(path, flags, mode)`.
    Open,
    /// `(dirfd, path, flags, mode)`.
    Openat,
    /// `(dirfd, path, how, size)`.
    Openat2,
    /// `(path, link)`.
    Symlink,
    /// `(path, dirfd, link)`.
    Symlinkat,
    /// `(socket, address, size)`.
    Bind,
    /// `(path, …)`: another name for a file, or another name beside it.
    Rename,
    /// `(dirfd, path, …)`.
    Renameat,
    /// `(path, mode)`.
    Chmod,
    /// `(dirfd, path, mode)`.
    Fchmodat,
    /// Only noted: paths may then lead elsewhere. Of those that change mounts, too, for
    /// a mount namespace of somebody's own is another one only after such a call.
    Chroot,
    /// `(path, …)`
    Execve,
    /// `(dirfd, path, arguments, environment, flags)`.
    Execveat,
    /// `(resource, …)`: one of the limits says who a process is.
    Setrlimit,
    /// `(pid, resource, new, old)`.
    Prlimit,
    /// `(path, mode)`.
    Creat,
    /// `(path, mode)`.
    Mkdir,
    /// `(dirfd, path, mode)`.
    Mkdirat,
    /// Only noted, where it says that capabilities outlive setuid(2).
    Prctl,
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

    /// Whether its first arguments are ids.
    pub(crate) fn takes_ids(self) -> bool {
        use Call::*;
        matches!(
            self,
            Setuid | Setgid | Setreuid | Setregid | Setresuid | Setresgid | Setfsuid | Setfsgid
        )
    }

    /// Whether it shows a file, or says where paths begin: what has to be known
    /// to show a recorded device.
    pub(crate) fn of_devices(self) -> bool {
        use Call::*;
        matches!(self, Stat | Lstat | Fstat | Fstatat | Statx | Chroot)
    }

    /// Which argument holds flags that decide whether the call is looked at, and
    /// which flags: those that make a file, which belongs to who made it, and that
    /// which means a link itself, whose owner would stay behind when it is copied up.
    pub(crate) fn deciding_flags(self) -> Option<(u8, u32)> {
        /// O_CREAT and O_TMPFILE without O_DIRECTORY, the same on all that are answered.
        const MAKING: u32 = 0o100 | 0o20_000_000;
        match self {
            Self::Open => Some((1, MAKING)),
            Self::Openat => Some((2, MAKING)),
            Self::Utimensat => Some((3, 0x100)),
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
    /// Calls whose structures a supervisor knows, where this machine has them.
    answered: &'static [&'static [(u32, Call)]],
    /// The others.
    others: &'static [&'static [(u32, Call)]],
}

impl Table {
    /// Numbers, what they mean, and whether a supervisor may answer.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (u32, Call, bool)> {
        let here = self.arch == NATIVE || NATIVE == X86_64 && self.arch == I386;
        let all = |lists: &'static [&'static [(u32, Call)]]| lists.iter().flat_map(|l| l.iter());
        let answered = all(self.answered);
        let others = all(self.others)
            .filter(move |(number, _)| !all(self.answered).any(|(answered, _)| answered == number));
        answered
            .map(move |(number, call)| (*number, *call, here))
            .chain(others.map(|(number, call)| (*number, *call, false)))
    }
}

use Call::*;

pub(crate) const X86_64: u32 = 0xc000_003e;
pub(crate) const I386: u32 = 0x4000_0003;

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
    (191, Getxattr),
    (192, Getxattr),
    (193, Getxattr),
    (194, Listxattr),
    (195, Listxattr),
    (196, Listxattr),
    (197, Removexattr),
    (198, Removexattr),
    (199, Removexattr),
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
    (437, Openat2),
    (83, Mkdir),
    (258, Mkdirat),
    (88, Symlink),
    (266, Symlinkat),
    (49, Bind),
    (82, Rename),
    (264, Renameat),
    (316, Renameat),
    (86, Rename),
    (265, Renameat),
    (90, Chmod),
    (268, Fchmodat),
    (452, Fchmodat),
    (161, Chroot),
    (155, Chroot),
    (165, Chroot),
    (166, Chroot),
    (429, Chroot),
    (59, Execve),
    (322, Execveat),
    (160, Setrlimit),
    (302, Prlimit),
    (280, Utimensat),
    (157, Prctl),
    (463, Setxattr),
    (464, Getxattr),
    (465, Listxattr),
    (466, Removexattr),
    (425, IoUring),
];

/// Calls that x32 has numbers of its own for; x86-64 has none there.
const X32_CALLS: &[(u32, Call)] = &[(520, Execve), (528, KexecLoad), (545, Execveat)];

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
    (195, Stat),
    (196, Lstat),
    (197, Fstat),
    (300, Fstatat),
    (383, Statx),
    (298, Fchownat),
    (297, Mknodat),
    (226, Setxattr),
    (227, Setxattr),
    (228, Setxattr),
    (229, Getxattr),
    (230, Getxattr),
    (231, Getxattr),
    (232, Listxattr),
    (233, Listxattr),
    (234, Listxattr),
    (235, Removexattr),
    (236, Removexattr),
    (237, Removexattr),
    (199, Getuid),
    (200, Getgid),
    (201, Geteuid),
    (202, Getegid),
    (205, Getgroups),
    (209, Getresuid),
    (211, Getresgid),
    (185, Capset),
    (283, KexecLoad),
    (5, Open),
    (295, Openat),
    (437, Openat2),
    (8, Creat),
    (39, Mkdir),
    (296, Mkdirat),
    (83, Symlink),
    (304, Symlinkat),
    (361, Bind),
    (38, Rename),
    (302, Renameat),
    (353, Renameat),
    (9, Rename),
    (303, Renameat),
    (15, Chmod),
    (306, Fchmodat),
    (452, Fchmodat),
    (61, Chroot),
    (217, Chroot),
    (21, Chroot),
    (22, Chroot),
    (52, Chroot),
    (429, Chroot),
    (11, Execve),
    (358, Execveat),
    (75, Setrlimit),
    (340, Prlimit),
    (320, Utimensat),
    (172, Prctl),
    (412, Utimensat),
    (463, Setxattr),
    (464, Getxattr),
    (465, Listxattr),
    (466, Removexattr),
    (425, IoUring),
];

/// More of the first ones, with ids of 16 bits like those of [`FIRST_CALLS`].
const I386_FIRST_CALLS: &[(u32, Call)] = &[
    (170, Setresgid),
    (182, Chown),
    (106, Stat),
    (107, Lstat),
    (108, Fstat),
    (24, Getuid),
    (47, Getgid),
    (49, Geteuid),
    (50, Getegid),
    (80, Getgroups),
    (165, Getresuid),
    (171, Getresgid),
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
    (8, Getxattr),
    (9, Getxattr),
    (10, Getxattr),
    (11, Listxattr),
    (12, Listxattr),
    (13, Listxattr),
    (14, Removexattr),
    (15, Removexattr),
    (16, Removexattr),
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
    (437, Openat2),
    (34, Mkdirat),
    (36, Symlinkat),
    (200, Bind),
    (38, Renameat),
    (276, Renameat),
    (37, Renameat),
    (53, Fchmodat),
    (452, Fchmodat),
    (51, Chroot),
    (41, Chroot),
    (40, Chroot),
    (39, Chroot),
    (429, Chroot),
    (221, Execve),
    (281, Execveat),
    (164, Setrlimit),
    (261, Prlimit),
    (88, Utimensat),
    (167, Prctl),
    (463, Setxattr),
    (464, Getxattr),
    (465, Listxattr),
    (466, Removexattr),
    (425, IoUring),
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
    Table { arch: X86_64, mask: 0x4000_0000, answered: &[X86_64_CALLS, X32_CALLS], others: &[] },
    Table {
        arch: I386,
        mask: 0,
        answered: &[I386_CALLS, LATER_CALLS, FIRST_CALLS, I386_FIRST_CALLS],
        others: &[],
    },
    Table { arch: 0xc000_00b7, mask: 0, answered: &[GENERIC_CALLS], others: &[] },
    Table { arch: 0xc000_00f3, mask: 0, answered: &[], others: &[GENERIC_CALLS] },
    Table {
        arch: 0x4000_0028,
        mask: 0,
        answered: &[],
        others: &[FIRST_CALLS, LATER_CALLS, ARM_CALLS],
    },
    Table { arch: 0xc000_0015, mask: 0, answered: &[], others: &[FIRST_CALLS, PPC64_CALLS] },
    Table { arch: 0x8000_0016, mask: 0, answered: &[], others: &[LATER_CALLS, S390X_CALLS] },
];

/// The one that this binary is for, whose structures it knows.
pub(crate) const NATIVE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { X86_64 };

/// What a number means; None for what no supervisor answers.
pub(crate) fn meaning(arch: u32, number: i32) -> Option<Call> {
    let table = TABLES.iter().find(|table| table.arch == arch)?;
    let number = u32::try_from(number).ok()? & !table.mask;
    let mut calls = table.calls();
    calls.find(|(known, _, answered)| *known == number && *answered).map(|(_, call, _)| call)
}

/// Whether a call has ids of 16 bits.
pub(crate) fn narrow(arch: u32, number: i32) -> bool {
    let mut first = FIRST_CALLS.iter().chain(I386_FIRST_CALLS);
    arch == I386 && first.any(|(known, _)| *known == number.cast_unsigned())
}

/// How a call of the xattr(7) family names a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    Path,
    Link,
    Descriptor,
    /// By directory, path and flags, the value behind another pointer (Linux 6.13).
    At,
}

/// That of a number: three for each of four calls, and one with all of it.
pub(crate) fn lookup(arch: u32, number: i32) -> Lookup {
    let (first, number) = match arch {
        X86_64 => (188, number & !0x4000_0000),
        I386 => (226, number),
        _ => (5, number),
    };
    if number >= 463 {
        return Lookup::At;
    }
    match (number - first) % 3 {
        1 => Lookup::Link,
        2 => Lookup::Descriptor,
        _ => Lookup::Path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_of_paths_links_and_descriptors() {
        use Lookup::{At, Descriptor, Link, Path};
        for (arch, first) in [(X86_64, 188), (X86_64, 188 | 0x4000_0000), (I386, 226), (0, 5)] {
            for call in 0..4 {
                let found = [0, 1, 2].map(|kind| lookup(arch, first + call * 3 + kind));
                assert_eq!(found, [Path, Link, Descriptor], "{arch:x} {first}");
            }
        }
        assert_eq!([X86_64, I386].map(|arch| lookup(arch, 464)), [At, At]);
        assert!(narrow(I386, 182) && narrow(I386, 16) && !narrow(I386, 198));
        assert!(!narrow(X86_64, 105) && !narrow(I386, 105));
    }

    /// Names of the kernel's headers, without the widths that some architectures add
    /// to them.
    const NAMES: &[(&str, Call)] = &[
        ("chown", Chown),
        ("lchown", Lchown),
        ("fchown", Fchown),
        ("fchownat", Fchownat),
        ("mknod", Mknod),
        ("mknodat", Mknodat),
        ("stat", Stat),
        ("lstat", Lstat),
        ("fstat", Fstat),
        ("fstatat", Fstatat),
        ("newfstatat", Fstatat),
        ("statx", Statx),
        ("setxattr", Setxattr),
        ("lsetxattr", Setxattr),
        ("fsetxattr", Setxattr),
        ("setxattrat", Setxattr),
        ("getxattr", Getxattr),
        ("lgetxattr", Getxattr),
        ("fgetxattr", Getxattr),
        ("getxattrat", Getxattr),
        ("listxattr", Listxattr),
        ("llistxattr", Listxattr),
        ("flistxattr", Listxattr),
        ("listxattrat", Listxattr),
        ("removexattr", Removexattr),
        ("lremovexattr", Removexattr),
        ("fremovexattr", Removexattr),
        ("removexattrat", Removexattr),
        ("utimensat", Utimensat),
        ("utimensat_time64", Utimensat),
        ("io_uring_setup", IoUring),
        ("open", Open),
        ("openat", Openat),
        ("openat2", Openat2),
        ("creat", Creat),
        ("symlink", Symlink),
        ("symlinkat", Symlinkat),
        ("bind", Bind),
        ("rename", Rename),
        ("link", Rename),
        ("renameat", Renameat),
        ("renameat2", Renameat),
        ("linkat", Renameat),
        ("chmod", Chmod),
        ("fchmodat", Fchmodat),
        ("fchmodat2", Fchmodat),
        ("chroot", Chroot),
        ("pivot_root", Chroot),
        ("mount", Chroot),
        ("umount", Chroot),
        ("umount2", Chroot),
        ("move_mount", Chroot),
        ("execve", Execve),
        ("execveat", Execveat),
        ("setrlimit", Setrlimit),
        ("prlimit64", Prlimit),
        ("mkdir", Mkdir),
        ("mkdirat", Mkdirat),
        ("prctl", Prctl),
        ("setuid", Setuid),
        ("setgid", Setgid),
        ("setreuid", Setreuid),
        ("setregid", Setregid),
        ("setresuid", Setresuid),
        ("setresgid", Setresgid),
        ("setfsuid", Setfsuid),
        ("setfsgid", Setfsgid),
        ("setgroups", Setgroups),
        ("getuid", Getuid),
        ("geteuid", Geteuid),
        ("getgid", Getgid),
        ("getegid", Getegid),
        ("getresuid", Getresuid),
        ("getresgid", Getresgid),
        ("getgroups", Getgroups),
        ("capset", Capset),
        ("kexec_load", KexecLoad),
    ];

    /// Numbers and names of a header, and what the names mean.
    fn header(text: &str) -> Vec<(u32, &str, Option<Call>)> {
        let mut all = Vec::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("#define __NR") else { continue };
            let Some((_, rest)) = rest.split_once('_') else { continue };
            let Some((name, value)) = rest.split_once([' ', '\t']) else { continue };
            let value = value.trim().trim_start_matches("(__X32_SYSCALL_BIT + ");
            let Ok(number) = value.trim_end_matches(')').parse() else { continue };
            let narrow = name.strip_suffix("32").or_else(|| name.strip_suffix("64"));
            let known = NAMES.iter().find(|(known, _)| *known == name || Some(*known) == narrow);
            all.push((number, name, known.map(|(_, call)| *call)));
        }
        all
    }

    /// Every call of the header that is looked at has its number here, and no other
    /// call has one.
    fn compare(arch: u32, text: &str, whole: bool) {
        let table = TABLES.iter().find(|table| table.arch == arch).unwrap();
        let mut header = header(text);
        // The generic header has the numbers of machines of 32 bits, too.
        header.retain(|(_, name, _)| arch == I386 || !name.ends_with("_time64"));
        assert!(header.len() > 200, "{}", header.len());
        let newest = header.iter().map(|(number, ..)| *number).max().unwrap();
        for (number, name, known) in &header {
            let here = table.calls().find(|(here, ..)| here == number).map(|(_, call, _)| call);
            if known.is_some() || whole {
                assert_eq!(here, *known, "{arch:x} {number} {name}");
            }
        }
        for (number, call, _) in table.calls().filter(|(number, ..)| whole && *number <= newest) {
            assert!(
                header.iter().any(|(there, ..)| *there == number),
                "{arch:x} {number} {call:?}"
            );
        }
    }

    fn installed(name: &str) -> String {
        let places = ["/usr/include/x86_64-linux-gnu", "/usr/include"];
        let found =
            places.iter().find_map(|at| std::fs::read_to_string(format!("{at}/{name}")).ok());
        found.unwrap_or_else(|| {
            panic!("{name} is of the kernel's headers, which every C compiler needs")
        })
    }

    #[test]
    fn numbers_are_those_of_the_kernels_headers() {
        let generic = installed("asm-generic/unistd.h");
        for arch in [0xc000_00b7, 0xc000_00f3] {
            compare(arch, &generic, true);
        }
        if cfg!(target_arch = "x86_64") {
            compare(X86_64, &(installed("asm/unistd_64.h")), false);
            compare(X86_64, &(installed("asm/unistd_x32.h")), false);
            compare(I386, &(installed("asm/unistd_32.h")), true);
        }
    }
}
