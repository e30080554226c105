//! The container's environment.
//!
//! Order, the later one wins: what passes from the host, the image's own
//! definition, what sampan sets, site and host contributions, the user's
//! `--env-file` and `--env`. Values are literal: nothing is ever given to a
//! shell.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::{EnvVar, HostFacts, Merged, PlanError, RunRequest};

/// The search path of an image that names none, Docker's default.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of the host that would break programs of another root file
/// system.
const NEVER_FROM_HOST: [&str; 7] =
    ["HOME", "PATH", "SHELL", "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "TERMINFO"];

/// Variables that pass even into a clean environment.
const ALWAYS_FROM_HOST: [&str; 9] = [
    "TERM",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// What an instance's name is told as.
const INSTANCE: [&str; 3] = ["SAMPAN_INSTANCE", "APPTAINER_INSTANCE", "SINGULARITY_INSTANCE"];

/// What the environment depends on beside the request.
pub(crate) struct EnvFacts<'a> {
    pub(crate) home: &'a Path,
    pub(crate) shell: &'a Path,
    /// What the image's scripts are told.
    pub(crate) image: &'a [(&'static str, String)],
}

type Vars = BTreeMap<OsString, (OsString, String)>;

pub(crate) fn environment(
    request: &RunRequest,
    host: &HostFacts,
    merged: &Merged,
    facts: &EnvFacts<'_>,
) -> Result<Vec<EnvVar>, PlanError> {
    let clean = request.isolation.clean_env;
    let mut vars = Vars::new();
    for (name, value) in &host.env {
        let text = name.to_str().unwrap_or_default();
        let pass = if clean {
            ALWAYS_FROM_HOST.contains(&text)
        } else {
            !NEVER_FROM_HOST.contains(&text) && !text.starts_with("SAMPAN_")
        };
        if pass {
            set(&mut vars, name, value, "host environment");
        }
    }
    if clean {
        set(&mut vars, "LANG".as_ref(), "C".as_ref(), "clean environment");
    }
    set(&mut vars, "PATH".as_ref(), DEFAULT_PATH.as_ref(), "default search path");
    for pair in &request.config.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if valid_name(name.as_ref()) {
            set(&mut vars, name.as_ref(), value.as_ref(), "image configuration");
        }
    }
    set(&mut vars, "HOME".as_ref(), facts.home.as_os_str(), "home directory of the container");
    set(&mut vars, "SHELL".as_ref(), facts.shell.as_os_str(), "the image's shell");
    let name = request.image_name.as_str();
    set(&mut vars, "SAMPAN_IMAGE".as_ref(), name.as_ref(), "names the container's image");
    if let Some(instance) = &request.instance {
        for name in INSTANCE {
            set(&mut vars, name.as_ref(), instance.as_ref(), "names the instance");
        }
    }
    for (name, value) in facts.image {
        set(&mut vars, name.as_ref(), value.as_ref(), "for the image's scripts");
    }
    for (name, (value, _, reason)) in &merged.env {
        check_name(name)?;
        match value {
            Some(value) => set(&mut vars, name, value, reason),
            None => drop(vars.remove(name)),
        }
    }
    for (name, value) in &request.env {
        check_name(name)?;
        set(&mut vars, name, value, "--env");
    }
    let var = |(name, (value, reason))| EnvVar { name, value, reason };
    Ok(vars.into_iter().map(var).collect())
}

fn set(vars: &mut Vars, name: &OsStr, value: &OsStr, reason: &str) {
    vars.insert(name.to_owned(), (value.to_owned(), reason.to_owned()));
}

fn valid_name(name: &OsStr) -> bool {
    !name.is_empty() && !name.as_bytes().iter().any(|b| *b == b'=' || *b == 0)
}

fn check_name(name: &OsStr) -> Result<(), PlanError> {
    if valid_name(name) {
        Ok(())
    } else {
        Err(PlanError::EnvName(name.to_string_lossy().into_owned()))
    }
}
