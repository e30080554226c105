//! ADD from git, with the host's git: it knows the user's keys and hosts.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{BuildError, Result};

/// `URL[#REFERENCE[:DIRECTORY]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) url: String,
    reference: Option<String>,
    directory: Option<String>,
}

impl Address {
    /// Reads a source of ADD; None for one that is not from git.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (url, rest) = match text.split_once('#') {
            Some((url, rest)) => (url, Some(rest)),
            None => (text, None),
        };
        let web = url.starts_with("http://") || url.starts_with("https://");
        let own = ["git://", "ssh://", "git@"].iter().any(|start| url.starts_with(start));
        if !(own || web && url.ends_with(".git")) {
            return None;
        }
        let (reference, directory) = match rest.and_then(|rest| rest.split_once(':')) {
            Some((reference, directory)) => (Some(reference), Some(directory)),
            None => (rest, None),
        };
        let some = |text: Option<&str>| text.filter(|t| !t.is_empty()).map(str::to_owned);
        Some(Self { url: url.to_owned(), reference: some(reference), directory: some(directory) })
    }
}

/// A checkout in a directory that goes with it.
pub(crate) struct Checkout {
    /// The commit.
    pub(crate) commit: String,
    top: tempfile::TempDir,
    directory: Option<String>,
}

impl Checkout {
    /// The directory that is asked for.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let top = self.top.path().canonicalize();
        let failed = |source| BuildError::Read { path: self.top.path().to_owned(), source };
        let top = top.map_err(failed)?;
        let Some(directory) = &self.directory else { return Ok(top) };
        let gone = || BuildError::NoSource(directory.clone());
        let path = top.join(directory.trim_start_matches('/'));
        let path = path.canonicalize().map_err(|_| gone())?;
        if path.starts_with(&top) && path.is_dir() { Ok(path) } else { Err(gone()) }
    }
}

/// Fetches one commit and its submodules.
pub(crate) fn fetch(address: &Address, scratch: &Path, keep_git: bool) -> Result<Checkout> {
    let top = tempfile::tempdir_in(scratch)
        .map_err(|source| BuildError::Write { path: scratch.to_owned(), source })?;
    let git = |args: &[&OsStr]| -> Result<String> {
        let mut command = Command::new("git");
        command.arg("-C").arg(top.path()).args(args).stdin(Stdio::null());
        // Nobody is there to answer.
        command.env("GIT_TERMINAL_PROMPT", "0");
        // A hook of another repository may run this.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"] {
            command.env_remove(name);
        }
        let failed = |reason: String| BuildError::Git { url: address.url.clone(), reason };
        let output = command.output().map_err(|e| failed(format!("git does not start: {e}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(said.trim().to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let run = |text: &str, last: &[&str]| -> Result<String> {
        let words = words(text);
        let mut args: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        args.extend(last.iter().map(OsStr::new));
        git(&args)
    };
    let reference = address.reference.as_deref().unwrap_or("HEAD");
    run("init -q", &[])?;
    let shallow = run("fetch -q --depth 1 --no-tags --", &[&address.url, reference]);
    // Plain web servers, and servers asked for a commit, may give only all of it.
    shallow.or_else(|_| run("fetch -q --", &[&address.url, reference]))?;
    run("-c advice.detachedHead=false checkout -q FETCH_HEAD", &[])?;
    run("submodule --quiet update --init --recursive --depth 1", &[])?;
    let commit = run("rev-parse HEAD", &[])?;
    if !keep_git {
        let path = top.path().join(".git");
        std::fs::remove_dir_all(&path).map_err(|source| BuildError::Write { path, source })?;
    }
    Ok(Checkout { commit, top, directory: address.directory.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_git_are_known() {
        let parts = |text: &str| {
            let Address { url, reference, directory } = Address::parse(text)?;
            Some((url, reference.unwrap_or_default(), directory.unwrap_or_default()))
        };
        let some = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(parts("https://h/r.git"), some("https://h/r.git", "", ""));
        assert_eq!(parts("git@h:r.git#v1:sub/dir"), some("git@h:r.git", "v1", "sub/dir"));
        assert_eq!(parts("ssh://h/r#:sub"), some("ssh://h/r", "", "sub"));
        for none in ["https://h/r.git.tar", "https://h/x", "dir/file.git", "x#y"] {
            assert_eq!(parts(none), None, "{none}");
        }
    }
}
