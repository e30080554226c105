//! Hooks: programs that a site, or a CDI spec, wants run while a container is
//! made.
//!
//! A site describes them in directories of JSON files in the form of
//! oci-hooks(5), schema 1.0.0. Directories later in the list win: a file there
//! hides those of the same name. Hooks run in the order of file names in lower
//! case.
//!
//! Sources: oci-hooks(5) of containers/common; OCI Runtime Specification,
//! config.md "POSIX-platform Hooks" and runtime.md "State".

mod run;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

pub use run::{State, Status, run};

/// Largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Longest regular expression, in bytes.
const LONGEST_PATTERN: usize = 4096;

/// When a hook runs, in order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// After the namespaces are made; the specification's older name for
    /// [`Stage::CreateRuntime`].
    #[serde(rename = "prestart")]
    Prestart,
    /// After the namespaces are made, on the host.
    CreateRuntime,
    /// Before the root changes, in the container's namespaces.
    CreateContainer,
    /// Before the process starts, inside.
    StartContainer,
    /// After the process has started, on the host.
    #[serde(rename = "poststart")]
    Poststart,
    /// After the container is gone, on the host.
    #[serde(rename = "poststop")]
    Poststop,
}

impl Stage {
    /// Its name in the OCI runtime specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// Why a text is no stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no stage: expected prestart, createRuntime, createContainer, startContainer, \
     poststart or poststop"
)]
pub struct StageError(String);

impl FromStr for Stage {
    type Err = StageError;

    fn from_str(text: &str) -> Result<Self, StageError> {
        let all = [
            Self::Prestart,
            Self::CreateRuntime,
            Self::CreateContainer,
            Self::StartContainer,
            Self::Poststart,
            Self::Poststop,
        ];
        all.into_iter().find(|s| s.name() == text).ok_or_else(|| StageError(text.to_owned()))
    }
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// When.
    pub stage: Stage,
    /// The program, absolute.
    pub path: PathBuf,
    /// Its words, its own name first; empty for the path alone.
    pub args: Vec<String>,
    /// Its whole environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// How long it may take; None is for ever.
    pub timeout: Option<Duration>,
    /// The file that asks for it.
    pub origin: PathBuf,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hook {:?} of {}", self.stage.name(), self.path, self.origin.display())
    }
}

/// Why a hook cannot be had, or failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A directory of hooks.
    #[error("cannot read the hooks directory {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A hook's file.
    #[error("cannot read the hook {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that describes no hook.
    #[error("{}: {}{reason}", path.display(), colon(field))]
    File {
        /// The file.
        path: PathBuf,
        /// The field; empty for the document.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A hook that could not be started.
    #[error("cannot start the {hook}")]
    Start {
        /// The hook.
        hook: Box<Hook>,
        /// Why.
        source: io::Error,
    },
    /// A hook that ended badly.
    #[error("the {hook} ended with {status}{}", said(stderr))]
    Failed {
        /// The hook.
        hook: Box<Hook>,
        /// How it ended.
        status: String,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// A hook that took too long and was killed.
    #[error("the {hook} was ended after {} s, its timeout{}", limit.as_secs(), said(stderr))]
    Timeout {
        /// The hook.
        hook: Box<Hook>,
        /// The timeout.
        limit: Duration,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
}

fn colon(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: String,
    hook: Program,
    when: When,
    stages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    path: PathBuf,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    timeout: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct When {
    always: Option<bool>,
    annotations: Option<BTreeMap<String, String>>,
    commands: Option<Vec<String>>,
    #[serde(rename = "hasBindMounts")]
    has_bind_mounts: Option<bool>,
}

/// A file of a hooks directory.
#[derive(Clone, Debug)]
pub struct HookFile {
    hooks: Vec<Hook>,
    always: Option<bool>,
    annotations: Option<Vec<(Regex, Regex)>>,
    commands: Option<Vec<Regex>>,
    has_bind_mounts: Option<bool>,
}

/// What decides whether a hook is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The first word of the container's process.
    pub command: &'a str,
    /// The container's annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// Whether the user asked for binds.
    pub has_bind_mounts: bool,
}

impl HookFile {
    /// Reads one file; `path` is for messages.
    ///
    /// # Errors
    /// When the text is no hook of schema 1.0.0.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, HookError> {
        let wrong = |field: &str, reason: String| HookError::File {
            path: path.to_owned(),
            field: field.to_owned(),
            reason,
        };
        let mut reader = serde_json::Deserializer::from_slice(text);
        let document: Document = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
            let field = e.path().to_string();
            wrong(if field == "." { "" } else { &field }, e.inner().to_string())
        })?;
        reader.end().map_err(|e| wrong("", e.to_string()))?;
        let Document { version, hook, when, stages } = document;
        if version != "1.0.0" {
            return Err(wrong("version", format!("{version:?} is not 1.0.0")));
        }
        if !hook.path.is_absolute() {
            return Err(wrong("hook.path", format!("{:?} is not an absolute path", hook.path)));
        }
        let timeout = match hook.timeout {
            Some(seconds) if seconds <= 0 => {
                let reason = format!("{seconds} is not a positive number of seconds");
                return Err(wrong("hook.timeout", reason));
            }
            seconds => seconds.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
        };
        if stages.is_empty() {
            return Err(wrong("stages", "there is no stage".to_owned()));
        }
        let origin = path;
        let (args, env) = (hook.args.unwrap_or_default(), hook.env.unwrap_or_default());
        let one = |text: &String| {
            let stage = text.parse().map_err(|e: StageError| wrong("stages", e.to_string()))?;
            let (path, args, env) = (hook.path.clone(), args.clone(), env.clone());
            Ok(Hook { stage, path, args, env, timeout, origin: origin.to_owned() })
        };
        let hooks = stages.iter().map(one).collect::<Result<_, HookError>>()?;
        let When { always, annotations, commands, has_bind_mounts } = when;
        if always.is_none()
            && annotations.is_none()
            && commands.is_none()
            && has_bind_mounts.is_none()
        {
            return Err(wrong("when", "there is no condition".to_owned()));
        }
        let regex = |field: &str, text: &String| pattern(text).map_err(|e| wrong(field, e));
        let pairs = |map: BTreeMap<String, String>| {
            let field = "when.annotations";
            let pair = |(k, v): (String, String)| Ok((regex(field, &k)?, regex(field, &v)?));
            map.into_iter().map(pair).collect::<Result<Vec<_>, HookError>>()
        };
        let list = |list: Vec<String>| {
            list.iter().map(|text| regex("when.commands", text)).collect::<Result<Vec<_>, _>>()
        };
        let annotations = annotations.map(pairs).transpose()?;
        let commands = commands.map(list).transpose()?;
        Ok(Self { hooks, always, annotations, commands, has_bind_mounts })
    }

    /// Whether all its conditions match.
    fn matches(&self, situation: &Situation<'_>) -> bool {
        let annotated = |(key, value): &(Regex, Regex)| {
            let mut all = situation.annotations.iter();
            all.any(|(k, v)| key.is_match(k) && value.is_match(v))
        };
        self.always.unwrap_or(true)
            && self.has_bind_mounts.is_none_or(|wanted| wanted && situation.has_bind_mounts)
            && self.annotations.as_ref().is_none_or(|pairs| pairs.iter().all(annotated))
            && self
                .commands
                .as_ref()
                .is_none_or(|list| list.iter().any(|one| one.is_match(situation.command)))
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > LONGEST_PATTERN {
        return Err(format!("a regular expression is longer than {LONGEST_PATTERN} bytes"));
    }
    Regex::new(text).map_err(|e| format!("{text:?} is no regular expression: {e}"))
}

/// Reads the hooks of all directories below `root`. A directory that is absent
/// has none.
///
/// # Errors
/// The first directory or file that cannot be read: a site that demands a hook
/// does not want it left out.
pub fn load(root: &Path, dirs: &[PathBuf]) -> Result<Vec<HookFile>, HookError> {
    let mut files: BTreeMap<(String, String), PathBuf> = BTreeMap::new();
    for dir in dirs {
        let dir = crate::below(root, dir);
        let failed = |source| HookError::Directory { path: dir.clone(), source };
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(e)),
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(name) = name.filter(|name| name.ends_with(".json")) {
                files.insert((name.to_lowercase(), name.to_owned()), path.clone());
            }
        }
    }
    let read = |path: &PathBuf| {
        let text = crate::bounded(path, LIMIT)
            .map_err(|source| HookError::Read { path: path.clone(), source })?;
        HookFile::parse(path, &text)
    };
    files.values().map(read).collect()
}

/// The hooks that are wanted, in the order in which they run within a stage.
#[must_use]
pub fn select(files: &[HookFile], situation: &Situation<'_>) -> Vec<Hook> {
    files.iter().filter(|file| file.matches(situation)).flat_map(|f| f.hooks.clone()).collect()
}

/// At most so many bytes of what has been read already, for a message: the end.
fn tail(bytes: &[u8], most: usize) -> String {
    let from = bytes.len().saturating_sub(most);
    String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
}

/// Reads what is there without waiting; false at the end.
fn drain(mut reader: impl Read, into: &mut Vec<u8>, keep: usize) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let count = match reader.read(&mut buffer) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
        other => other?,
    };
    into.extend_from_slice(&buffer[..count]);
    if into.len() > 2 * keep {
        into.drain(..into.len() - keep);
    }
    Ok(count > 0)
}

#[cfg(test)]
mod tests;
