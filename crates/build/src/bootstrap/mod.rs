//! Systems from the packages of their distributions: in process, with nothing of
//! the distribution on the host.
//!
//! ```text
//! signed index or signed packages ─→ what is needed ─→ packages, checked
//!   files of all packages, without their scripts  ─→ a first system
//!   in it, root emulated: the distribution's own dpkg, rpm or pacman installs the same
//!   both together ─→ one layer
//! ```
//!
//! The distribution's own program does the real installation, so its database,
//! diversions, alternatives and configuration files are what it makes of them.

pub(crate) mod arch;
pub(crate) mod debian;
mod error;
mod fetch;
pub(crate) mod fuzz;
pub(crate) mod inflate;
pub(crate) mod rpm;
mod runs;
mod select;
mod system;

use std::path::{Path, PathBuf};

use image::{ConvertOptions, TreeSource};
use plan::{ImagePart, MountFlags, MountRequest, MountSource};
use serde_json::json;
use squashfs::Compression;
use trust::Keyring;
use types::Platform;

pub use error::{BootstrapError, PackageError};

use crate::builder::Builder;
use crate::cache::{Hasher, Out};
use crate::dockerfile::Problem;
use crate::error::{BuildError, Result};
use crate::run::{Run, Scratch};
use crate::state::State;

use fetch::Fetcher;
use system::Packages;

/// Where the packages are while they are installed, and a keyring of the recipe.
const PACKAGES: &str = "/run/sampan/packages";
const KEYRING: &str = "/run/sampan/keyring";
const PATH: &str = plan::DEFAULT_PATH;

/// How a first system becomes a real one.
struct Installation<'a> {
    /// For `/bin/sh -c`.
    script: &'a str,
    /// What the script finds as `$0` and so on.
    arguments: Vec<String>,
    env: &'a [(&'a str, &'a str)],
    keyring: Option<&'a Path>,
}

/// Words between blanks and commas.
fn words(text: Option<&str>) -> Vec<String> {
    let split = |c: char| c == ',' || c.is_whitespace();
    let words = text.unwrap_or_default().split(split);
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Files with one of these endings, in the order of their names.
fn files_in(dir: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let Ok(list) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = list.flatten().map(|entry| entry.path());
    let ends = |path: &PathBuf| {
        endings.is_empty() || path.extension().is_some_and(|e| endings.iter().any(|x| e == *x))
    };
    let mut paths: Vec<PathBuf> = paths.filter(ends).collect();
    paths.sort();
    paths
}

/// The keys in these files; one of several may be missing.
fn keyring(files: &[PathBuf], url: &str) -> Result<Keyring> {
    let mut all = Vec::new();
    for path in files {
        match std::fs::read(path) {
            Ok(bytes) => match Keyring::read(&bytes) {
                Ok(keyring) => all.push(keyring),
                Err(source) => {
                    let path = path.clone();
                    return Err(BootstrapError::Keyring { path, source }.into());
                }
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && files.len() > 1 => {}
            Err(source) => return Err(BuildError::Read { path: path.clone(), source }),
        }
    }
    let joined = Keyring::join(all);
    Ok(joined.ok_or_else(|| BootstrapError::NoKeyring { url: url.to_owned() })?)
}

/// A keyring of the recipe is an input of the system.
fn hash_keyring(hasher: &mut Hasher, keyring: Option<&Path>) -> Result<()> {
    let Some(path) = keyring else { return Ok(()) };
    let read = std::fs::read(path);
    hasher.bytes(&read.map_err(|source| BuildError::Read { path: path.to_owned(), source })?);
    Ok(())
}

impl Builder<'_> {
    /// What a bootstrap begins with: nothing but a search path, and the shell that
    /// it will have.
    pub(crate) fn nothing(&mut self, shell: &str) -> Result<State> {
        let platform = &self.engine().config().platform.value;
        if platform.architecture() != Platform::host().architecture() {
            return Err(BootstrapError::Platform { platform: platform.to_string() }.into());
        }
        let mut state = self.image("scratch")?;
        state.set_env("PATH", PATH);
        state.process().insert("Cmd".to_owned(), json!([shell]));
        Ok(state)
    }

    fn fetcher(&self) -> Result<Fetcher<'_>> {
        Ok(Fetcher {
            downloads: self.engine().downloads(self.progress())?,
            progress: self.progress(),
            scratch: self.scratch(),
            limit: self.engine().config().size_limit.value,
        })
    }

    /// The layer of a system: first the files of its packages, then what their
    /// installation makes of them.
    fn install(
        &mut self,
        state: &State,
        packages: &Packages<'_>,
        (scratch, dir): (&Scratch, &Path),
        installation: &Installation<'_>,
        out: &Out<'_>,
    ) -> Result<()> {
        let base = scratch.file("base.sqfs");
        let fast = ConvertOptions {
            compression: Compression::Lz4,
            size_limit: self.engine().config().size_limit.value,
            ..ConvertOptions::default()
        };
        image::convert(packages, create(&base)?, &fast).map_err(BootstrapError::Unpack)?;
        let mut first = state.clone();
        first.parts.push(ImagePart { path: base.clone(), offset: 0 });
        let run = installation.run(state, dir, scratch)?;
        let code = self.execute(&first, &run, scratch)?;
        if code != 0 {
            return Err(BuildError::Command { code });
        }
        let top = scratch.file("top.sqfs");
        scratch.commit(create(&top)?, &ConvertOptions { latest: self.epoch(), ..fast })?;
        let images = [base, top].map(|path| ImagePart { path, offset: 0 });
        let images = engine::open_parts(&images)?;
        let options = self.convert_options();
        image::copy(TreeSource::Images(&images), out.create()?, &options, &[])?;
        Ok(())
    }
}

impl Installation<'_> {
    fn run(&self, state: &State, dir: &Path, scratch: &Scratch) -> Result<Run> {
        // No service may start while packages are configured.
        let policy = scratch.file("policy-rc.d");
        crate::files::write_program(&policy, "#!/bin/sh\nexit 101\n")?;
        let flags = MountFlags { read_only: true, ..MountFlags::default() };
        let mount = |source, target: &str| {
            let origin = "Bootstrap".to_owned();
            MountRequest { source, target: target.into(), flags, origin }
        };
        let mut mounts = vec![
            mount(MountSource::Directory(dir.to_owned()), PACKAGES),
            mount(MountSource::File(policy), "/usr/sbin/policy-rc.d"),
        ];
        if let Some(path) = self.keyring {
            mounts.push(mount(MountSource::File(path.to_owned()), KEYRING));
        }
        let mut env = state.env();
        let own = [("LC_ALL", "C"), ("HOME", "/root")];
        let all = own.iter().chain(self.env);
        env.extend(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut words = ["/bin/sh", "-c", self.script].map(str::to_owned).to_vec();
        words.extend(self.arguments.iter().cloned());
        let (interactive, no_net, user) = (false, true, None);
        let workdir = PathBuf::from("/");
        Ok(Run { words, env, mounts, interactive, no_net, user, workdir })
    }
}

fn create(path: &Path) -> Result<std::fs::File> {
    let open = std::fs::File::options().read(true).write(true).create_new(true).open(path);
    open.map_err(|source| BuildError::Write { path: path.to_owned(), source })
}

fn needs(name: &str, expected: &'static str) -> Problem {
    Problem::Arguments { name: name.to_owned(), expected }
}
