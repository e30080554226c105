//! What the command will read first, found in the image before it is mounted.
//!
//! A cold start over FUSE is made of waiting: for each name of PATH and each
//! block of the program, its interpreter and its libraries in turn. All of
//! them are known beforehand. The server inflates these files while the
//! namespaces are being made, and hands them to the kernel as soon as their
//! names have been looked up, which [`touch`] does. A wrong guess costs time
//! and nothing else.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plan::{EntryKind, Op, Plan, Upper, resolve};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, openat, statat};
use squashfs::InodeRef;

use crate::exec::Program;
use crate::server::ImageFile;
use crate::tree::{Found, ImageTree};

/// Files in the order in which they are needed.
#[derive(Debug, Default)]
pub(crate) struct Lookahead {
    /// Real paths in the image, relative to its root.
    pub(crate) paths: Vec<PathBuf>,
    /// The same files, in the one image; of no use with several.
    pub(crate) files: Vec<InodeRef>,
    bytes: u64,
}

/// No more than this is read ahead.
const MOST_BYTES: u64 = 12 << 20;

/// Where the dynamic linker looks without being told, as far as distributions
/// use it.
const LIBRARIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

impl Lookahead {
    /// Finds the program, drops from its search path what cannot hold it, and
    /// lists what it needs.
    pub(crate) fn new(plan: &Plan, image: &ImageFile, program: &mut Program) -> Self {
        let tree = image.tree();
        let mut ahead = Self::default();
        if program.command().is_empty() {
            return ahead;
        }
        let command = PathBuf::from(OsStr::from_bytes(program.command()));
        let path = if program.command().contains(&b'/') {
            command
        } else {
            let other_layers = !plan.rootfs.lowers.is_empty()
                || matches!(plan.rootfs.upper, Upper::Directory { .. });
            if !other_layers {
                program.dirs.retain(|dir| may_hold(plan, &tree, dir, &command));
            }
            match program.dirs.first() {
                Some(dir) => Path::new(OsStr::from_bytes(dir)).join(command),
                None => return ahead,
            }
        };
        if path.is_absolute() {
            ahead.program(&tree, &path);
        }
        ahead
    }

    /// A program, or the interpreter of a script.
    fn program(&mut self, tree: &ImageTree, path: &Path) {
        let Some(file) = self.add(tree, path) else { return };
        let read = |at, len| bytes(&file, at, len);
        let needs = host::elf::read(&read).unwrap_or_default();
        if let Some(interpreter) = &needs.interpreter {
            self.add(tree, Path::new(interpreter));
        }
        for name in &needs.needed {
            for dir in LIBRARIES {
                if self.add(tree, &Path::new(dir).join(name)).is_some() {
                    break;
                }
            }
        }
    }

    fn add(&mut self, tree: &ImageTree, path: &Path) -> Option<Found> {
        let (real, entry) = resolve(tree, path).ok()?;
        entry.filter(|e| e.kind == EntryKind::File)?;
        let found = tree.find(&real).ok()??;
        let bytes = self.bytes.checked_add(found.inode.size()).filter(|sum| *sum <= MOST_BYTES)?;
        self.bytes = bytes;
        self.paths.push(real.strip_prefix("/").unwrap_or(&real).to_owned());
        self.files.push(found.inode.reference);
        Some(found)
    }
}

fn bytes(file: &Found, at: u64, len: usize) -> Option<Vec<u8>> {
    let mut buf = vec![0; len];
    let got = file.image.read(&file.inode, at, &mut buf).ok()?;
    buf.truncate(got);
    Some(buf)
}

/// Whether a directory of PATH may hold the command: the image does, or
/// something is mounted there, or it cannot be told.
fn may_hold(plan: &Plan, tree: &ImageTree, dir: &[u8], command: &Path) -> bool {
    let path = Path::new(OsStr::from_bytes(dir)).join(command);
    if !path.is_absolute() {
        return true;
    }
    let Ok((real, entry)) = resolve(tree, &path) else { return true };
    entry.is_some() || [&real, &path].iter().any(|path| covered(plan, path))
}

/// Whether a mount of the plan lies over a path.
fn covered(plan: &Plan, path: &Path) -> bool {
    plan.ops.iter().any(|op| match &op.op {
        Op::Bind { target, .. } | Op::Tmpfs { target, .. } | Op::Symlink { target, .. } => {
            path.starts_with(target)
        }
        _ => false,
    })
}

/// Looks the files up in the mounted image, so that the kernel knows them.
/// One reading of the root directory brings all names there at once.
pub(crate) fn touch(mount: &OwnedFd, paths: &[PathBuf]) {
    if paths.is_empty() {
        return;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(root) = openat(mount, ".", flags, Mode::empty()) {
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut names = RawDir::new(root, buffer.spare_capacity_mut());
        // The first reading is the one that counts; nothing else is wanted.
        let _ = names.next();
    }
    for path in paths {
        // What fails here fails again where it matters, and says so there.
        let _ = statat(mount, path, AtFlags::SYMLINK_NOFOLLOW);
    }
}
