//! Hooks: programs that a site, or a CDI spec, wants run while a container is
//! made.
//!
//! A site describes them in directories of JSON files in the form of
//! oci-hooks(5), schemas 1.0.0 and 0.1.0. Directories later in the list win: a file there
//! hides those of the same name. Hooks run in the order of file names in lower
//! case.
//!
//! Sources: oci-hooks(5) of containers/common; OCI Runtime Specification,
//! config.md "POSIX-platform Hooks" and runtime.md "State".

mod run;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use plan::{Hook, Stage, StageError};
use regex_lite::Regex;
use serde::Deserialize;

pub use run::{State, Status, filter, run};

/// Largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Longest regular expression, in bytes.
const LONGEST_PATTERN: usize = 4096;

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
    /// A hook that writes without an end.
    #[error("the {hook} wrote more than {limit} bytes to standard output")]
    Output {
        /// The hook.
        hook: Box<Hook>,
        /// The most that is read.
        limit: u64,
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

/// What tells the schemas apart.
#[derive(Deserialize)]
struct Schema {
    version: Option<String>,
}

/// Schema 0.1.0.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldDocument {
    #[serde(rename = "version")]
    _version: Option<String>,
    hook: PathBuf,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(alias = "stage")]
    stages: Vec<String>,
    #[serde(alias = "cmd")]
    cmds: Option<Vec<String>>,
    #[serde(alias = "annotation")]
    annotations: Option<Vec<String>>,
    hasbindmounts: Option<bool>,
}

/// Schema 1.0.0.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "version")]
    _version: String,
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
    conditions: Vec<Condition>,
    /// Whether one condition is enough, as in schema 0.1.0.
    any: bool,
}

#[derive(Clone, Debug)]
enum Condition {
    Always(bool),
    /// Each pair matches a name and its value.
    Annotations(Vec<(Regex, Regex)>),
    /// One matches a value.
    Values(Vec<Regex>),
    Commands(Vec<Regex>),
    BindMounts(bool),
}

impl Condition {
    fn holds(&self, situation: &Situation<'_>) -> bool {
        let all = situation.annotations;
        match self {
            Self::Always(always) => *always,
            Self::Annotations(pairs) => pairs
                .iter()
                .all(|(key, value)| all.iter().any(|(k, v)| key.is_match(k) && value.is_match(v))),
            Self::Values(list) => list.iter().any(|one| all.values().any(|v| one.is_match(v))),
            Self::Commands(list) => list.iter().any(|one| one.is_match(situation.command)),
            Self::BindMounts(wanted) => *wanted && situation.has_bind_mounts,
        }
    }
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

/// What both schemas say of a file that is wrong.
struct Wrong<'a>(&'a Path);

impl Wrong<'_> {
    fn say(&self, field: &str, reason: impl Into<String>) -> HookError {
        let (path, field) = (self.0.to_owned(), field.to_owned());
        HookError::File { path, field, reason: reason.into() }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, text: &[u8]) -> Result<T, HookError> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let document = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
            let field = e.path().to_string();
            self.say(if matches!(&*field, "." | "?") { "" } else { &field }, e.inner().to_string())
        })?;
        reader.end().map_err(|e| self.say("", e.to_string()))?;
        Ok(document)
    }

    fn regexes(&self, field: &str, list: &[String]) -> Result<Vec<Regex>, HookError> {
        list.iter().map(|text| pattern(text).map_err(|e| self.say(field, e))).collect()
    }

    /// A hook for each stage.
    fn hooks(&self, field: &str, one: &Program, stages: &[String]) -> Result<Vec<Hook>, HookError> {
        if !one.path.is_absolute() {
            return Err(self.say(field, format!("{:?} is not an absolute path", one.path)));
        }
        let timeout = match one.timeout {
            Some(seconds) if seconds <= 0 => {
                let reason = format!("{seconds} is not a positive number of seconds");
                return Err(self.say("hook.timeout", reason));
            }
            seconds => seconds.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
        };
        if stages.is_empty() {
            return Err(self.say("stages", "there is no stage"));
        }
        let hook = |text: &String| {
            let stage = match text.as_str() {
                "precreate" => Stage::Precreate,
                text => text
                    .parse()
                    .map_err(|e: StageError| self.say("stages", format!("{e}, or precreate")))?,
            };
            let (args, env) =
                (one.args.clone().unwrap_or_default(), one.env.clone().unwrap_or_default());
            let (path, origin) = (one.path.clone(), self.0.to_owned());
            Ok(Hook { stage, path, args, env, timeout, origin })
        };
        stages.iter().map(hook).collect()
    }
}

impl HookFile {
    /// Reads one file; `path` is for messages.
    ///
    /// # Errors
    /// When the text is no hook of a known schema.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, HookError> {
        let wrong = Wrong(path);
        let Schema { version } = wrong.read(text)?;
        let file = match version.as_deref() {
            Some("1.0.0") => Self::current(&wrong, wrong.read(text)?)?,
            None | Some("0.1.0") => Self::old(&wrong, wrong.read(text)?)?,
            Some(other) => {
                let reason = format!("{other:?} is neither 1.0.0 nor 0.1.0");
                return Err(wrong.say("version", reason));
            }
        };
        if file.conditions.is_empty() {
            let field = if file.any { "" } else { "when" };
            return Err(wrong.say(field, "there is no condition, so it would never run"));
        }
        Ok(file)
    }

    fn current(wrong: &Wrong<'_>, document: Document) -> Result<Self, HookError> {
        let Document { hook, when, stages, .. } = document;
        let hooks = wrong.hooks("hook.path", &hook, &stages)?;
        let When { always, annotations, commands, has_bind_mounts } = when;
        let mut conditions: Vec<Condition> = always.map(Condition::Always).into_iter().collect();
        if let Some(map) = annotations {
            let (keys, values): (Vec<String>, Vec<String>) = map.into_iter().unzip();
            let field = "when.annotations";
            let pairs =
                wrong.regexes(field, &keys)?.into_iter().zip(wrong.regexes(field, &values)?);
            conditions.push(Condition::Annotations(pairs.collect()));
        }
        if let Some(list) = commands {
            conditions.push(Condition::Commands(wrong.regexes("when.commands", &list)?));
        }
        conditions.extend(has_bind_mounts.map(Condition::BindMounts));
        Ok(Self { hooks, conditions, any: false })
    }

    fn old(wrong: &Wrong<'_>, document: OldDocument) -> Result<Self, HookError> {
        let OldDocument { hook, arguments, stages, cmds, annotations, hasbindmounts, .. } =
            document;
        let name = hook.display().to_string();
        let args = (!arguments.is_empty()).then(|| [vec![name], arguments].concat());
        let program = Program { path: hook, args, env: None, timeout: None };
        let hooks = wrong.hooks("hook", &program, &stages)?;
        let mut conditions = Vec::new();
        if let Some(list) = cmds {
            conditions.push(Condition::Commands(wrong.regexes("cmds", &list)?));
        }
        if let Some(list) = annotations {
            conditions.push(Condition::Values(wrong.regexes("annotations", &list)?));
        }
        conditions.extend(hasbindmounts.map(Condition::BindMounts));
        Ok(Self { hooks, conditions, any: true })
    }

    /// Whether its conditions match: all of them, or one by the older schema.
    fn matches(&self, situation: &Situation<'_>) -> bool {
        let mut all = self.conditions.iter().map(|condition| condition.holds(situation));
        if self.any { all.any(|holds| holds) } else { all.all(|holds| holds) }
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
