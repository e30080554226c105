//! Files and directories: reading with a bound, writing whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::full_or;
use crate::owner::Owner;
use crate::{Error, FORMAT_VERSION, Result};

/// Records hold labels, which registries bound to a few megabytes.
const LONGEST_JSON: u64 = 16 << 20;
const FORMAT_WORD: &str = "sampan-store ";

/// The root directory of a store.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

pub(crate) enum Json<T> {
    Absent,
    Corrupt(String),
    Value(T),
}

/// Whether the error says that there is no such file.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Opens for reading. In a store that a group shares, what has a file's name
/// may be a FIFO: without O_NONBLOCK opening it would wait for a writer.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The whole file, when it has at most `limit` bytes; None when it is absent.
pub(crate) fn read_limited(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut tries = 3;
    loop {
        match open(path).and_then(|file| read_open(&file, limit)) {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(e) if is_absent(&e) => return Ok(None),
            // Another NFS client has renamed a newer one over it.
            Err(e) if e.kind() == io::ErrorKind::StaleNetworkFileHandle && tries > 1 => tries -= 1,
            Err(e) => return Err(e),
        }
    }
}

/// The rest of an open file, when it has at most `limit` bytes.
pub(crate) fn read_open(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    // Room for most files, so that they take one read and one for the end.
    let mut bytes = Vec::with_capacity(8 << 10);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("longer than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(bytes)
}

/// Whether the error says that there is something else than a file of ours.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, WouldBlock};
    matches!(error.kind(), InvalidData | IsADirectory | WouldBlock)
}

/// Reads a JSON file. One that may not be read counts as absent, so that
/// another user's mistake in a shared store stops nobody.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Json<T>> {
    match read_limited(path, LONGEST_JSON) {
        Ok(None) => Ok(Json::Absent),
        Ok(Some(bytes)) => Ok(match serde_json::from_slice(&bytes) {
            Ok(value) => Json::Value(value),
            Err(e) => Json::Corrupt(e.to_string()),
        }),
        Err(e) if is_damage(&e) => Ok(Json::Corrupt(e.to_string())),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!("{}: may not be read, taken for absent", path.display());
            Ok(Json::Absent)
        }
        Err(source) => Err(Error::ReadFile { path: path.to_owned(), source }),
    }
}

/// Names and paths in a directory; none when it is absent or may not be read.
/// Names that are not UTF-8 are nobody's here and are left out.
pub(crate) fn list(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |source| Error::ReadDirectory { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) || e.kind() == io::ErrorKind::PermissionDenied => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(failed(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push((name, entry.path()));
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a file; whether it was there.
pub(crate) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if is_absent(&e) => Ok(false),
        Err(source) => Err(Error::Remove { path: path.to_owned(), source }),
    }
}

/// Renames, and tells a full disk (a directory may need a block) apart.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| {
        full_or(to, source, |to, source| Error::Rename { from: from.to_owned(), to, source })
    })
}

/// Brings a directory's entries to disk. File systems that cannot sync a
/// directory say EINVAL (fsync(2)); they have nothing to sync.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let result = File::open(path).and_then(|dir| dir.sync_all());
    match result {
        Err(e) if e.kind() != io::ErrorKind::InvalidInput => {
            Err(full_or(path, e, |path, source| Error::Sync { path, source }))
        }
        _ => Ok(()),
    }
}

impl Root {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Accepts an absent store and one of a version that this program knows.
    pub(crate) fn check_format(&self) -> Result<()> {
        let path = self.join("format");
        let not_a_store = || Error::NotAStore { root: self.0.clone(), path: path.clone() };
        let bytes = match read_limited(&path, 64) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            Err(e) if is_damage(&e) => return Err(not_a_store()),
            Err(source) => return Err(Error::ReadFile { path, source }),
        };
        let version: u32 = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.strip_prefix(FORMAT_WORD)?.trim_end().parse().ok())
            .filter(|version| *version > 0)
            .ok_or_else(not_a_store)?;
        if version > FORMAT_VERSION {
            return Err(Error::NewerFormat {
                root: self.0.clone(),
                found: version,
                supported: FORMAT_VERSION,
            });
        }
        Ok(())
    }

    /// The permission bits that the root gives to what is inside.
    fn mode(&self) -> u32 {
        fs::metadata(&self.0).map_or(0o700, |meta| meta.permissions().mode() & 0o777)
    }

    /// The directory `name` (with slashes) inside the root, made when absent.
    pub(crate) fn ensure(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        if path.is_dir() {
            return Ok(path);
        }
        self.ensure_root()?;
        let mode = self.mode();
        let mut at = self.0.clone();
        for part in name.split('/') {
            at.push(part);
            make_dir(&at, mode)?;
        }
        Ok(path)
    }

    fn ensure_root(&self) -> Result<()> {
        let format = self.join("format");
        if format.exists() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(|source| {
            full_or(&self.0, source, |path, source| Error::CreateDirectory { path, source })
        })?;
        // Beside the file, since `tmp` comes after it.
        let temp = self.join(&format!(".format.{}", Owner::current().token));
        let text = format!("{FORMAT_WORD}{FORMAT_VERSION}\n");
        let result = self
            .create(&temp)
            .and_then(|file| fill(&file, &temp, text.as_bytes()))
            .and_then(|()| rename(&temp, &format))
            .and_then(|()| sync_dir(&self.0));
        if result.is_err() {
            let _ = fs::remove_file(&temp);
        }
        result
    }

    /// Makes a new file, for reading and writing, that nobody else has.
    pub(crate) fn create(&self, path: &Path) -> Result<File> {
        let mode = self.mode() & 0o666;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .map_err(|source| {
                full_or(path, source, |path, source| Error::CreateFile { path, source })
            })?;
        // Where the umask took what the root grants; a file system without
        // modes refuses, and has nothing to grant.
        if mode & 0o077 != 0 {
            let _ = file.set_permissions(fs::Permissions::from_mode(mode));
        }
        Ok(file)
    }

    /// A new file in `tmp`, named after its owner.
    pub(crate) fn temp_file(&self, owner: &Owner, what: &str) -> Result<(File, PathBuf)> {
        let path = self.temp_path(owner, what)?;
        Ok((self.create(&path)?, path))
    }

    /// A name in `tmp` that is not in use.
    pub(crate) fn temp_path(&self, owner: &Owner, what: &str) -> Result<PathBuf> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(self.ensure("tmp")?.join(format!("{}.{count}.{what}", owner.temp_prefix())))
    }

    /// Writes `dir/name` whole or not at all, in place of what was there.
    pub(crate) fn write(&self, dir: &str, name: &str, bytes: &[u8]) -> Result<()> {
        let dir = self.ensure(dir)?;
        let (file, temp) = self.temp_file(&Owner::current(), "new")?;
        let result = fill(&file, &temp, bytes)
            .inspect(|()| step("before-record"))
            .and_then(|()| rename(&temp, &dir.join(name)))
            .and_then(|()| sync_dir(&dir));
        if result.is_err() {
            let _ = fs::remove_file(&temp);
        }
        result
    }

    pub(crate) fn write_json<T: Serialize>(&self, dir: &str, name: &str, value: &T) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|source| Error::Encode { path: self.join(dir).join(name), source })?;
        bytes.push(b'\n');
        self.write(dir, name, &bytes)
    }

    /// The file system's own time: what touching a file there sets. Takes no
    /// space, so that a full store can be pruned.
    pub(crate) fn clock(&self) -> Result<SystemTime> {
        self.ensure_root()?;
        let path = self.join("format");
        let read = || {
            let file = OpenOptions::new().write(true).open(&path)?;
            touch(&file)?;
            file.metadata()?.modified()
        };
        read().map_err(|source| Error::WriteFile { path: path.clone(), source })
    }
}

/// Writes and syncs an open file.
pub(crate) fn fill(mut file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes).map_err(|source| {
        full_or(path, source, |path, source| Error::WriteFile { path, source })
    })?;
    sync_file(file, path)
}

pub(crate) fn sync_file(file: &File, path: &Path) -> Result<()> {
    file.sync_all()
        .map_err(|source| full_or(path, source, |path, source| Error::Sync { path, source }))
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => {
            return Err(full_or(path, e, |path, source| Error::CreateDirectory { path, source }));
        }
    }
    // Where the umask took what the root grants; keeps an inherited set-group-ID.
    if mode & 0o077 != 0
        && let Ok(meta) = fs::metadata(path)
        && meta.permissions().mode() & 0o777 != mode
    {
        let mode = (meta.permissions().mode() & 0o7000) | mode;
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    }
    Ok(())
}

/// Sets the modification time to the file system's now.
pub(crate) fn touch(file: &File) -> io::Result<()> {
    use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    rustix::fs::futimens(file, &times).map_err(Into::into)
}

/// Where a test kills this process.
#[cfg(test)]
pub(crate) fn step(name: &str) {
    crate::tests::die_at(name);
}

#[cfg(not(test))]
pub(crate) fn step(_name: &str) {}
