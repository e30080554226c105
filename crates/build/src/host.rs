//! What a definition file takes from elsewhere than a registry's images: the host's
//! file system, what %pre does there, a single program.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::builder::Builder;
use crate::cache::{Hasher, Key};
use crate::definition::{Section, Stage};
use crate::dockerfile::Problem;
use crate::error::{BuildError, Result};
use crate::files::{Files, HostFiles, What};
use crate::layer::{LayerWriter, Owning};
use crate::run::{Run, Scratch};
use crate::state::State;

/// What is no part of a system: what the kernel shows, what is of this moment, and
/// what is people's own.
const EXCLUDED: [&str; 14] = [
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var/tmp",
    "/var/run",
    "/var/cache",
    "/home",
    "/root",
    "/mnt",
    "/media",
    "/lost+found",
    "/var/lib/docker",
];
/// What belongs to a system though it may be a file system of its own.
const PARTS: [&str; 4] = ["/usr", "/var", "/etc", "/boot"];
/// Where these are mounted in a container.
const EMPTY: [&str; 9] =
    ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/home", "/root", "/mnt"];

/// Who is root on a system of its own.
const ACCOUNTS: [(&str, &str); 3] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("/etc/group", "root:x:0:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n"),
];

impl Builder<'_> {
    /// A system of busybox alone, from an address.
    pub(crate) fn busybox(&mut self, stage: &Stage, name: &str) -> Result<State> {
        let needs = || Problem::Arguments {
            name: "Bootstrap: busybox".to_owned(),
            expected: "MirrorURL: the address of the program",
        };
        let url = stage.header.get("mirrorurl").ok_or_else(needs)?;
        let mut state = self.nothing("/bin/sh")?;
        self.say(name, &format!("Bootstrap: busybox from {url}"));
        let mut hasher = Hasher::new(&state.key, "busybox");
        hasher.text(url);
        let cached = self.layer(&mut state, &hasher.key(), |builder, state, out| {
            let below = state.files()?;
            let compression = builder.engine().build_compression();
            let epoch = builder.epoch();
            let mut writer = LayerWriter::new(out.create()?, compression, &below, epoch)?;
            let scratch = builder.scratch();
            let failed = |source| BuildError::Write { path: scratch.to_owned(), source };
            let mut file = tempfile::tempfile_in(scratch).map_err(failed)?;
            builder.engine().downloads(builder.progress())?.fetch(url, &mut file)?;
            let size = file.metadata().map_err(failed)?.len();
            std::io::Seek::rewind(&mut file).map_err(failed)?;
            let program = Owning { mode: Some(0o755), ..Owning::default() };
            writer.stream(Path::new("/bin/busybox"), &mut file, size, program)?;
            for (path, text) in ACCOUNTS {
                writer.bytes(Path::new(path), text.as_bytes(), Owning::default())?;
            }
            for path in EMPTY {
                writer.directory(Path::new(path), None)?;
            }
            writer.finish()
        })?;
        self.told(cached);
        let words = ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin"];
        let key = Hasher::new(&state.key, "busybox --install").key();
        self.layer(&mut state, &key, |builder, state, out| {
            let scratch = Scratch::new(builder)?;
            let run = Run {
                words: words.map(str::to_owned).to_vec(),
                env: state.env(),
                mounts: Vec::new(),
                interactive: false,
                no_net: true,
                user: None,
                workdir: PathBuf::from("/"),
            };
            match builder.execute(state, &run, &scratch)? {
                0 => scratch.commit(out.create()?, &builder.convert_options()),
                code => Err(BuildError::Command { code }),
            }
        })?;
        Ok(state)
    }

    /// The host's own system, as far as the caller may read it. It is not kept in
    /// the cache: nobody could say when it has changed.
    pub(crate) fn live_host(&mut self, stage: &Stage, name: &str) -> Result<State> {
        let mut state = self.nothing("/bin/sh")?;
        self.say(name, "Bootstrap: host");
        let more = stage.header.get("exclude").map(String::as_str).unwrap_or_default();
        let more = more.split([',', ' ', '\t']).filter(|path| !path.is_empty());
        let mut left_out: Vec<PathBuf> = EXCLUDED.iter().map(PathBuf::from).collect();
        left_out.extend(more.map(PathBuf::from));
        // Images need not hold images.
        left_out.extend(self.engine().config().store.value.clone());
        left_out.push(self.engine().config().scratch.value.clone());
        let mut told = Told::default();
        let key = self.momentary(&state, "host");
        self.layer(&mut state, &key, |builder, state, out| {
            let below = state.files()?;
            let (compression, epoch) = (builder.engine().build_compression(), builder.epoch());
            let mut writer = LayerWriter::new(out.create()?, compression, &below, epoch)?;
            let host = HostFiles { top: PathBuf::from("/"), own: true };
            writer.next_tree();
            told = copy_system(&mut writer, &host, &left_out)?;
            for path in EMPTY {
                writer.directory(Path::new(path), None)?;
            }
            writer.finish()
        })?;
        for text in told.notices() {
            self.progress().event(engine::Event::Notice(text));
        }
        Ok(state)
    }

    /// A key that no other build finds.
    pub(crate) fn momentary(&self, state: &State, what: &str) -> Key {
        let mut hasher = Hasher::new(&state.key, what);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        hasher.text(&format!("{} {now:?}", std::process::id()));
        hasher.key()
    }

    /// %pre, which runs on the host.
    pub(crate) fn pre(&mut self, section: &Section) -> Result<()> {
        self.on_host(section, &[])
    }

    pub(crate) fn on_host(
        &self,
        section: &Section,
        env: &[(&str, &std::ffi::OsStr)],
    ) -> Result<()> {
        let words = section.interpreter();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(&section.text).current_dir(&self.options().directory);
        command.envs(env.iter().copied()).stdin(Stdio::null());
        // Standard output is the build's answer.
        command.stdout(std::io::stderr());
        let status = command.status().map_err(BuildError::Fork)?;
        match status.code() {
            Some(0) => Ok(()),
            code => Err(BuildError::Command { code: code.unwrap_or(1) }),
        }
    }
}

/// What of a live system an image does not have, or not as it was.
#[derive(Default)]
struct Told {
    unread: usize,
    /// Where other file systems are.
    elsewhere: Vec<PathBuf>,
    /// Files that became shorter while they were copied.
    shrunk: Vec<PathBuf>,
}

impl Told {
    fn notices(&self) -> Vec<String> {
        let list = |paths: &[PathBuf]| {
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            paths.join(" ")
        };
        let mut all = Vec::new();
        if self.unread > 0 {
            all.push(format!("{} files that you may not read are left out", self.unread));
        }
        if !self.elsewhere.is_empty() {
            all.push(format!("other file systems are left out: {}", list(&self.elsewhere)));
        }
        if !self.shrunk.is_empty() {
            let paths = list(&self.shrunk);
            all.push(format!("became shorter meanwhile, and end in zeros: {paths}"));
        }
        all
    }
}

/// A file of which others may cut something off while it is read: then zeros follow.
struct Whole<R> {
    inner: R,
    left: u64,
    short: bool,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..most];
        let got = if self.short { 0 } else { self.inner.read(buffer)? };
        self.short |= got == 0 && most > 0;
        let given = if self.short { most } else { got };
        buffer[got..given].fill(0);
        self.left -= given as u64;
        Ok(given)
    }
}

/// Copies the file system that `/` is on, and others that are part of a system.
fn copy_system(
    writer: &mut LayerWriter<'_>,
    host: &HostFiles,
    left_out: &[PathBuf],
) -> Result<Told> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|meta| meta.dev());
    let top = PathBuf::from("/");
    let own = device(&top).map_err(|source| BuildError::Read { path: top.clone(), source })?;
    let mut told = Told::default();
    let mut todo = vec![(top, own)];
    while let Some((dir, own)) = todo.pop() {
        let Ok(names) = host.list(&dir) else {
            told.unread += 1;
            continue;
        };
        for name in names {
            let path = dir.join(name);
            if left_out.contains(&path) {
                continue;
            }
            let Ok(Some(info)) = host.info(&path) else { continue };
            if info.what == What::Directory {
                let Ok(device) = device(&path) else { continue };
                if device == own || PARTS.iter().any(|part| path == Path::new(part)) {
                    writer.copy(host, &path, &info, &path, Owning::default())?;
                    todo.push((path, device));
                } else {
                    told.elsewhere.push(path);
                }
                continue;
            }
            let What::File(size) = info.what else {
                writer.copy(host, &path, &info, &path, Owning::default())?;
                continue;
            };
            let Ok(inner) = host.open(&path) else {
                told.unread += 1;
                continue;
            };
            let mut data = Whole { inner, left: size, short: false };
            writer.copy_data(&mut data, &info, &path, Owning::default())?;
            if data.short {
                told.shrunk.push(path);
            }
        }
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_shrinks_ends_in_zeros() {
        let read = |text: &'static str, left| {
            let mut whole = Whole { inner: text.as_bytes(), left, short: false };
            let mut all = Vec::new();
            whole.read_to_end(&mut all).unwrap();
            (all, whole.short)
        };
        assert_eq!(read("abc", 3), (b"abc".to_vec(), false));
        assert_eq!(read("abc", 5), (b"abc\0\0".to_vec(), true));
        assert_eq!(read("abcdef", 3), (b"abc".to_vec(), false));
        assert_eq!(read("", 0), (Vec::new(), false));
    }

    #[test]
    fn what_is_missing_is_told() {
        let told = Told { unread: 2, elsewhere: vec!["/opt".into()], shrunk: vec!["/log".into()] };
        let notices = told.notices().join("\n");
        for word in ["2 files", "/opt", "/log"] {
            assert!(notices.contains(word), "{notices}");
        }
        assert!(Told::default().notices().is_empty());
    }
}
