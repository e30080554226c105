//! Layered configuration: flags, then `SAMPAN_*` variables, then the user's
//! file, then the site's file, then defaults. Each value remembers where it
//! came from.
//!
//! | key | variable | meaning |
//! |---|---|---|
//! | `store` | `SAMPAN_STORE` | directory of the user's images |
//! | `site_stores` | `SAMPAN_SITE_STORES` | read-only stores, searched after it; `:` between them in the variable |
//! | `scratch` | `SAMPAN_SCRATCH` | node-local directory for images that have to be unpacked, and for the sockets of image servers |
//! | `linger` | `SAMPAN_LINGER` | seconds that an image's server waits for another container; 0 ends it with the last |
//! | `pull` | `SAMPAN_PULL` | `missing`, `always` or `never` |
//! | `platform` | `SAMPAN_PLATFORM` | `os/architecture[/variant]` of images to pull |
//! | `compression` | `SAMPAN_COMPRESSION` | `zstd[:LEVEL]`, `gzip[:LEVEL]`, `lz4`, `xz` or `none` |
//! | `parallel_layers` | `SAMPAN_PARALLEL_LAYERS` | layers that are transferred at once |
//! | `size_limit` | `SAMPAN_SIZE_LIMIT` | the most bytes that an image may unpack to |
//! | `stall_timeout` | `SAMPAN_STALL_TIMEOUT` | seconds without a byte after which a transfer is given up |
//! | `binds` | `SAMPAN_BINDS` | binds of every container, `SRC[:DST[:OPTIONS]]` |
//! | `mpi` | `SAMPAN_MPI` | whose MPI a container uses: `auto`, `host`, `container` or `none` |
//! | `mpi_policy` | `SAMPAN_MPI_POLICY` | how well the host's has to fit: `major`, `full` or `strict` |
//! | `mpi_path` | `SAMPAN_MPI_PATH` | where the host's MPI is installed, in place of a search |
//! | `mpi_hosts` | `SAMPAN_MPI_HOSTS` | hosts that `--mpi=container` reaches where no scheduler says which |
//! | `mpi_shell` | `SAMPAN_MPI_SHELL` | the program by which it reaches them, called as ssh(1) is |
//! | `fabric` | `SAMPAN_FABRIC` | whose network libraries a container uses: `none` (the image's) or `host` |
//! | `mirrors` | `SAMPAN_MIRRORS` | mirrors for bootstraps, RELEASE=URL |
//! | `library` | `SAMPAN_LIBRARY` | address of the library that `library://` means |
//! | `no_mount` | `SAMPAN_NO_MOUNT` | default mounts to leave out |
//! | `cdi_dirs` | `SAMPAN_CDI_DIRS` | directories of CDI specs; a later one wins |
//! | `hooks_dirs` | `SAMPAN_HOOKS_DIRS` | directories of OCI hooks (oci-hooks(5)); a later one wins |
//! | `edf_dirs` | `SAMPAN_EDF_DIRS` | directories of environment definition files, where `EDF_PATH` names none |
//! | `module_template` | `SAMPAN_MODULE_TEMPLATE` | template of the modulefiles that `site module` prints |
//! | `gpu` | `SAMPAN_GPU` | GPUs that containers get unasked: `none`, `all`, `nvidia` or `amd` |
//! | `node_cache` | `SAMPAN_NODE_CACHE` | node-local directory to which images of the stores, and image files that nodes share, are copied before they run |
//! | `node_cache_size` | `SAMPAN_NODE_CACHE_SIZE` | the most bytes of a user in it; what was used longest ago goes first |
//! | `forced_binds` | the site's file alone | binds of every container, whatever a user asks for |
//! | `forbidden_binds` | the site's file alone | files and directories that no user may bind |
//! | `allowed_registries` | the site's file alone | registries, or `REGISTRY/PATH`, that images may come from |
//!
//! In a file, keys with a common first word may stand in a section: `[mpi]` with
//! `mode`, `policy` and `path` is `mpi`, `mpi_policy` and `mpi_path`.
//!
//! What is forced or forbidden keeps honest people on the site's path. It is no
//! boundary: sampan has no privilege, so whoever runs another program is past it.
//!
//! The files are TOML: `$SAMPAN_CONFIG` or `$XDG_CONFIG_HOME/sampan/config.toml`
//! or `~/.config/sampan/config.toml` for the user, `$SAMPAN_SITE_CONFIG` or
//! `/etc/sampan/config.toml` for the site. A key that is not known and a value
//! that cannot be read are errors that name file and line. In a path, `~/` and
//! `$NAME` or `${NAME}` stand for the home directory and for a variable.

mod file;
mod keys;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::gpu::Choice;
use host::mpi::Policy;
use plan::Skip;
use serde::Serialize;
use squashfs::Compression;
use types::Platform;

use crate::bind::Bind;
use crate::{Fabric, MpiMode};

/// Where a value came from. A later variant wins over an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: &'static str,
    },
    /// The command line.
    Flag {
        /// The flag, with its dashes.
        flag: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => f.write_str(variable),
            Self::Flag { flag } => f.write_str(flag),
        }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that no version of this program reads.
    #[error("{}:{line}: {key:?} is no configuration key", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key that is the site's alone.
    #[error("{}:{line}: {key:?} can be set in the site's configuration alone", path.display())]
    OfSite {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A value that cannot be read.
    #[error("{origin}: {key}: {reason}")]
    Value {
        /// Where it is.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { .. } => {
                let names: Vec<&str> = keys::KEYS.iter().map(|key| key.name).collect();
                Some(format!("the keys are: {}", names.join(", ")))
            }
            Self::Value { key, .. } => {
                let key = keys::KEYS.iter().find(|k| k.name == *key)?;
                Some(format!("expected {}", key.expected))
            }
            Self::OfSite { .. } => {
                Some("take it out; the site's file is /etc/sampan/config.toml".to_owned())
            }
            Self::Read { .. } | Self::Syntax { .. } => None,
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    fn default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// When it is not in the store.
    Missing,
    /// Always look whether the registry has a newer one.
    Always,
    /// Never.
    Never,
}

types::words!(PullPolicy { "missing" | "newer" => Missing, "always" => Always, "never" => Never });

/// Where the CDI specification puts specs: those of the host, then those that
/// go when it is started anew.
const CDI_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Config {
    /// The user's store; None when there is no home directory to put it in.
    pub store: Setting<Option<PathBuf>>,
    /// Read-only stores, in the order of search.
    pub site_stores: Setting<Vec<PathBuf>>,
    /// Node-local directory for images that have to be unpacked, and for the
    /// sockets of image servers.
    pub scratch: Setting<PathBuf>,
    /// How long an image's server waits for another container.
    pub linger: Setting<Duration>,
    /// When an image is fetched.
    pub pull: Setting<PullPolicy>,
    /// The platform of images to pull.
    pub platform: Setting<Platform>,
    /// How images are compressed.
    pub compression: Setting<Compression>,
    /// Layers that are transferred at once.
    pub parallel_layers: Setting<usize>,
    /// The most bytes that an image may unpack to.
    pub size_limit: Setting<u64>,
    /// The longest wait for the next byte of a transfer.
    pub stall_timeout: Setting<Duration>,
    /// Binds of every container, each with where it was written.
    pub binds: Setting<Vec<Bind>>,
    /// Whose MPI a container uses.
    pub mpi: Setting<MpiMode>,
    /// How well the host's MPI has to fit.
    pub mpi_policy: Setting<Policy>,
    /// Whose network libraries a container uses.
    pub fabric: Setting<Fabric>,
    /// Where the host's MPI is installed; empty where it is to be found.
    pub mpi_path: Setting<Vec<PathBuf>>,
    /// Hosts that a launcher in a container may reach where there is no scheduler.
    pub mpi_hosts: Setting<Vec<String>>,
    /// The program by which it reaches them, and its first words.
    pub mpi_shell: Setting<String>,
    /// Mirrors of distributions' packages: the name of a release, and its mirror.
    pub mirrors: Setting<Vec<(String, String)>>,
    /// The address of the library that `library://` means.
    pub library: Setting<Option<String>>,
    /// Default mounts to leave out.
    pub no_mount: Setting<Skip>,
    /// Where environment definition files are looked for by name, in the order of search.
    pub edf_dirs: Setting<Vec<PathBuf>>,
    /// What printed modulefiles are made from; None for the built-in form.
    pub module_template: Setting<Option<PathBuf>>,
    /// GPUs that containers get unasked.
    pub gpu: Setting<Choice>,
    /// Where images are copied before they run; None where they run in place.
    pub node_cache: Setting<Option<PathBuf>>,
    /// The most bytes there.
    pub node_cache_size: Setting<u64>,
    /// Binds of every container that nobody can leave out.
    pub forced_binds: Setting<Vec<Bind>>,
    /// What no user may bind.
    pub forbidden_binds: Setting<Vec<PathBuf>>,
    /// Where images may come from; empty for everywhere.
    pub allowed_registries: Setting<Vec<String>>,
    /// Directories of CDI specs; a later one wins.
    pub cdi_dirs: Setting<Vec<PathBuf>>,
    /// Directories of OCI hooks; a later one wins. None unless a site names
    /// some: other runtimes' hooks expect other runtimes.
    pub hooks_dirs: Setting<Vec<PathBuf>>,
}

/// A value from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The configuration key.
    pub key: &'static str,
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The value, as on the command line.
    pub value: String,
}

/// Reads a variable of the environment.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// One value of the configuration, for a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The key.
    pub key: &'static str,
    /// The value, as a file would have it; empty where there is none.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Config {
    /// Reads the configuration of this process.
    ///
    /// # Errors
    /// A file that is there and cannot be read, an unknown key, a malformed
    /// value.
    pub fn load(overrides: &[Override]) -> Result<Self, ConfigError> {
        Self::load_from(&|name| std::env::var_os(name), overrides)
    }

    /// Reads the configuration with an environment of the caller's.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from(vars: Variables<'_>, overrides: &[Override]) -> Result<Self, ConfigError> {
        let mut config = Self::defaults(vars);
        let (site, user) = files(vars);
        file::apply(&site, true, vars, &mut config)?;
        if let Some(user) = user {
            file::apply(&user, false, vars, &mut config)?;
        }
        for key in keys::KEYS.iter().filter(|key| !key.of_site) {
            let Some(value) = variable(vars, key.variable) else { continue };
            let origin = Origin::Environment { variable: key.variable };
            let value = value.into_string().map_err(|text| ConfigError::Value {
                origin: origin.clone(),
                key: key.name,
                reason: format!("{} is not UTF-8", text.to_string_lossy()),
            })?;
            key.set(&mut config, &key.words(&value), &origin, vars)?;
        }
        for Override { key, flag, value } in overrides {
            let Some(key) = keys::KEYS.iter().find(|k| k.name == *key) else { continue };
            let origin = Origin::Flag { flag };
            key.set(&mut config, &key.words(value), &origin, vars)?;
        }
        Ok(config)
    }

    fn defaults(vars: Variables<'_>) -> Self {
        let absolute =
            |name: &str| variable(vars, name).map(PathBuf::from).filter(|p| p.is_absolute());
        let store = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .map(|dir| dir.join("sampan"));
        let scratch = absolute("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"));
        Self {
            store: Setting::default(store),
            site_stores: Setting::default(Vec::new()),
            scratch: Setting::default(scratch),
            linger: Setting::default(Duration::from_secs(15)),
            pull: Setting::default(PullPolicy::Missing),
            platform: Setting::default(Platform::host()),
            compression: Setting::default(image::ConvertOptions::default().compression),
            parallel_layers: Setting::default(4),
            size_limit: Setting::default(256 << 30),
            stall_timeout: Setting::default(Duration::from_secs(30)),
            binds: Setting::default(Vec::new()),
            mpi: Setting::default(MpiMode::Auto),
            mpi_policy: Setting::default(Policy::Major),
            fabric: Setting::default(Fabric::None),
            mpi_path: Setting::default(Vec::new()),
            mpi_hosts: Setting::default(Vec::new()),
            mpi_shell: Setting::default("ssh -x -o BatchMode=yes".to_owned()),
            mirrors: Setting::default(Vec::new()),
            library: Setting::default(None),
            no_mount: Setting::default(Skip::default()),
            edf_dirs: Setting::default(
                absolute("HOME").map(|home| home.join(".edf")).into_iter().collect(),
            ),
            module_template: Setting::default(None),
            gpu: Setting::default(Choice::None),
            node_cache: Setting::default(None),
            node_cache_size: Setting::default(64 << 30),
            forced_binds: Setting::default(Vec::new()),
            forbidden_binds: Setting::default(Vec::new()),
            allowed_registries: Setting::default(Vec::new()),
            cdi_dirs: Setting::default(CDI_DIRS.map(PathBuf::from).into()),
            hooks_dirs: Setting::default(Vec::new()),
        }
    }

    /// Everything that is wrong with a file, the site's or a user's: its keys and
    /// values, and what they name on this host.
    #[must_use]
    pub fn check_file(path: &Path, site: bool) -> Vec<String> {
        let vars = |name: &str| std::env::var_os(name);
        let mut config = Self::defaults(&vars);
        let with_hint = |error: &ConfigError| match error.hint() {
            Some(hint) => format!("{error} ({hint})"),
            None => error.to_string(),
        };
        let mut wrong: Vec<String> =
            file::check(path, site, &vars, &mut config).iter().map(with_hint).collect();
        wrong.extend(config.absences());
        wrong
    }

    /// The files that are read, and whether each is the site's.
    #[must_use]
    pub fn files() -> Vec<(PathBuf, bool)> {
        let (site, user) = files(&|name| std::env::var_os(name));
        let user = user.map(|path| (path, false));
        [Some((site, true)), user].into_iter().flatten().collect()
    }

    /// What values of files name and this host does not have.
    fn absences(&self) -> Vec<String> {
        let mut places: Vec<(&'static str, &Path, &Origin)> = Vec::new();
        let lists = [
            ("site_stores", &self.site_stores),
            ("mpi_path", &self.mpi_path),
            ("cdi_dirs", &self.cdi_dirs),
            ("hooks_dirs", &self.hooks_dirs),
            ("forbidden_binds", &self.forbidden_binds),
        ];
        for (key, setting) in lists {
            places.extend(setting.value.iter().map(|path| (key, path.as_path(), &setting.origin)));
        }
        for (key, setting) in [("binds", &self.binds), ("forced_binds", &self.forced_binds)] {
            let sources = setting.value.iter().map(|bind| bind.source.as_path());
            places.extend(sources.map(|path| (key, path, &setting.origin)));
        }
        places.push(("scratch", &self.scratch.value, &self.scratch.origin));
        let (template, origin) = (&self.module_template.value, &self.module_template.origin);
        places.extend(template.iter().map(|path| ("module_template", path.as_path(), origin)));
        let cache = self.node_cache.value.iter();
        places.extend(cache.map(|path| ("node_cache", path.as_path(), &self.node_cache.origin)));
        let absent = |(_, path, origin): &(&str, &Path, &Origin)| {
            matches!(origin, Origin::File { .. }) && !path.exists()
        };
        let say = |(key, path, origin): (&str, &Path, &Origin)| {
            format!("{origin}: {key}: this host has no {}", path.display())
        };
        places.into_iter().filter(absent).map(say).collect()
    }

    /// Every value with its origin, in the order of the table above.
    #[must_use]
    pub fn show(&self) -> Vec<Shown> {
        let shown = |key: &keys::Key| {
            let (value, origin) = (key.show)(self);
            Shown { key: key.name, value, origin: origin.clone() }
        };
        keys::KEYS.iter().map(shown).collect()
    }
}

/// A variable; an empty one counts as unset.
fn variable(vars: Variables<'_>, name: &str) -> Option<OsString> {
    vars(name).filter(|value| !value.is_empty())
}

/// The site's and the user's configuration file.
fn files(vars: Variables<'_>) -> (PathBuf, Option<PathBuf>) {
    let path = |name: &str| variable(vars, name).map(PathBuf::from);
    let site =
        path("SAMPAN_SITE_CONFIG").unwrap_or_else(|| PathBuf::from("/etc/sampan/config.toml"));
    let base = path("XDG_CONFIG_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| path("HOME").filter(|dir| dir.is_absolute()).map(|home| home.join(".config")));
    let user = path("SAMPAN_CONFIG").or_else(|| base.map(|dir| dir.join("sampan/config.toml")));
    (site, user)
}

/// The home directory that `~/` stands for, or a variable's value.
fn expand(text: &str, vars: Variables<'_>) -> Result<PathBuf, String> {
    let get = |name: &str| {
        let value = variable(vars, name).and_then(|value| value.into_string().ok());
        value.ok_or_else(|| format!("${name} is not set"))
    };
    let mut out = String::new();
    let mut rest = text;
    if let Some(below) = text.strip_prefix("~/") {
        out = get("HOME")? + "/";
        rest = below;
    }
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, tail) = match after.strip_prefix('{') {
            Some(inner) => inner.split_once('}').ok_or_else(|| format!("{text:?} has no }}"))?,
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !word(c)).unwrap_or(after.len()))
            }
        };
        out.push_str(&get(name)?);
        rest = tail;
    }
    out.push_str(rest);
    std::path::absolute(Path::new(&out)).map_err(|e| format!("{text:?} is no path: {e}"))
}

#[cfg(test)]
mod tests;
