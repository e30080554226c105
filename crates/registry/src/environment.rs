//! Where configuration lives: a snapshot of the environment variables and the
//! system's configuration directory, so that nothing deeper reads the process.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The variables and directories that configuration files are found by.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Environment variables. Those that are not UTF-8 are left out.
    pub variables: BTreeMap<String, String>,
    /// The system's configuration directory, `/etc`.
    pub system: PathBuf,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn from_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { variables, system: PathBuf::from("/etc") }
    }

    /// The variable's value; an empty one counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.path("HOME").filter(|path| path.is_absolute())
    }

    /// `$XDG_CONFIG_HOME/containers`, or `~/.config/containers`.
    pub(crate) fn user_containers(&self) -> Option<PathBuf> {
        self.path("XDG_CONFIG_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| self.home().map(|home| home.join(".config")))
            .map(|path| path.join("containers"))
    }

    /// `/etc/containers`.
    pub(crate) fn system_containers(&self) -> PathBuf {
        self.system.join("containers")
    }
}
