//! %setup: the host changes the files of the image where they lie.
//!
//! The image is unpacked, with owners noted as attributes, where the script finds it as
//! `$APPTAINER_ROOTFS`. Whatever the script changes gets a new time of the inode's change
//! (st_ctime of inode(7)), which nobody can set. So afterwards everything older is taken
//! away again, and a whiteout stands for what the script has removed: what is left is
//! the upper directory of an overlay, and becomes a layer as that of a RUN does.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT};

use crate::builder::Builder;
use crate::cache::Hasher;
use crate::copy::{Item, hash_items};
use crate::definition::Section;
use crate::error::{BuildError, Result};
use crate::files::{Files, HostFiles, What};
use crate::run::{Scratch, commit};
use crate::state::State;

impl Builder<'_> {
    /// Runs the script on the host; whether its layer was in the cache.
    pub(crate) fn setup(&mut self, state: &mut State, section: &Section) -> Result<bool> {
        let scratch = Scratch::new(self)?;
        let root = scratch.upper();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::Write { path, source }
        };
        if state.parts.is_empty() {
            fs::create_dir(&root).map_err(failed(&root))?;
        } else {
            self.engine().unpack_parts(&state.parts, &root, self.progress())?;
        }
        let clock = scratch.file("began");
        let began = tick(&clock).map_err(failed(&clock))?;
        let roots = ["APPTAINER_ROOTFS", "SINGULARITY_ROOTFS"].map(|name| (name, root.as_os_str()));
        self.on_host(section, &roots)?;
        let below = state.files()?;
        // Directories of the image may be closed even to their owner.
        let left = runtime::as_root(None, || {
            let left = Changes::find(&root, &below, began).and_then(Changes::leave);
            if let Err(error) = &left {
                crate::run::tell(error);
            }
            left.is_ok()
        })?;
        if !left {
            return Err(BuildError::Commit);
        }
        let host = HostFiles { top: root.clone(), own: false };
        let mut hasher = Hasher::new(&state.key, "setup");
        hash_items(&mut hasher, &host, &entries_of(&host)?)?;
        self.layer(state, &hasher.key(), |builder, _, out| {
            commit(&root, None, out.create()?, &builder.convert_options())
        })
    }
}

/// A time of change of an inode: seconds and nanoseconds.
type Time = (i64, i64);

fn changed(meta: &Metadata) -> Time {
    (meta.ctime(), meta.ctime_nsec())
}

/// The first time of the file system's clock that nothing made so far has.
fn tick(file: &Path) -> io::Result<Time> {
    fs::write(file, "")?;
    let before = changed(&fs::metadata(file)?);
    loop {
        fs::write(file, "x")?;
        let now = changed(&fs::metadata(file)?);
        if now > before {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What has to be done to a tree for its changes to be left.
#[derive(Default)]
struct Changes {
    /// Files that are as they were.
    old: Vec<PathBuf>,
    /// Where something was.
    gone: Vec<PathBuf>,
    /// All directories, parents first; whether they are as they were, and their time.
    directories: Vec<(PathBuf, bool, Timespec)>,
}

impl Changes {
    /// Looks at everything before anything is removed: a removed name changes the time
    /// of its file, which may have others.
    fn find(top: &Path, below: &dyn Files, began: Time) -> io::Result<Self> {
        let mut all = Self::default();
        // In the tree, on the host, and whether the image has it too.
        let mut todo = vec![(PathBuf::from("/"), top.to_owned(), true)];
        while let Some((path, real, known)) = todo.pop() {
            let meta = fs::symlink_metadata(&real)?;
            let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
            all.directories.push((real.clone(), changed(&meta) < began, time));
            let info = if known { below.info(&path)? } else { None };
            let known = info.is_some_and(|info| info.what == What::Directory);
            for name in if known { below.list(&path)? } else { Vec::new() } {
                let real = real.join(name);
                if fs::symlink_metadata(&real).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                    all.gone.push(real);
                }
            }
            for entry in fs::read_dir(&real)? {
                let entry = entry?;
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    todo.push((path.join(entry.file_name()), entry.path(), known));
                } else if changed(&meta) < began {
                    all.old.push(entry.path());
                }
            }
        }
        Ok(all)
    }

    fn leave(self) -> io::Result<()> {
        for file in &self.old {
            fs::remove_file(file)?;
        }
        for path in &self.gone {
            rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)?;
        }
        for (dir, old, time) in self.directories.iter().rev() {
            if *old && fs::read_dir(dir)?.next().is_none() && dir != &self.directories[0].0 {
                fs::remove_dir(dir)?;
                continue;
            }
            restore_mode(dir)?;
            let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let times = Timestamps { last_access, last_modification: *time };
            rustix::fs::utimensat(CWD, dir, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

/// Gives a directory of the image the bits that unpacking has noted alone. A file that
/// was written to has lost them, as in the kernel's eyes.
fn restore_mode(dir: &Path) -> io::Result<()> {
    let mut value = [0; 256];
    let Ok(length) = rustix::fs::lgetxattr(dir, types::OVERRIDE_STAT, &mut value[..]) else {
        return Ok(());
    };
    let special = types::Owner::parse(&value[..length]).map_or(0, |owner| owner.mode & 0o7000);
    let mode = fs::symlink_metadata(dir)?.mode() & 0o7777;
    fs::set_permissions(dir, PermissionsExt::from_mode(mode | special))
}

/// Everything in a directory, parents first.
fn entries_of(files: &HostFiles) -> Result<Vec<Item>> {
    let mut all = Vec::new();
    let mut todo = vec![PathBuf::from("/")];
    while let Some(dir) = todo.pop() {
        let failed = |source| BuildError::Read { path: dir.clone(), source };
        for name in files.list(&dir).map_err(failed)? {
            let from = dir.join(name);
            let failed = |source| BuildError::Read { path: from.clone(), source };
            let Some(info) = files.info(&from).map_err(failed)? else { continue };
            if info.what == What::Directory {
                todo.push(from.clone());
            }
            all.push(Item { to: from.clone(), from, info });
        }
    }
    Ok(all)
}
