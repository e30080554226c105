//! The words of the process, and where it starts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{Command, EntryKind, HostFacts, PlanError, Process, RootTree, RunRequest, TreeError};

/// The shell of the image: bash where there is one.
pub(crate) fn find_shell(tree: &dyn RootTree) -> Result<Option<PathBuf>, TreeError> {
    for shell in ["/bin/bash", "/bin/sh"] {
        let (_, entry) = crate::resolve(tree, Path::new(shell))?;
        if entry.is_some_and(|e| e.kind == EntryKind::File) {
            return Ok(Some(PathBuf::from(shell)));
        }
    }
    Ok(None)
}

/// The words of an image without scripts. An instance of it runs nothing by itself.
pub(crate) fn argv(request: &RunRequest, shell: Option<&Path>) -> Result<Vec<OsString>, PlanError> {
    let config = &request.config;
    let argv = match &request.command {
        Command::Exec { args } => args.clone(),
        Command::Start { .. } => return Ok(Vec::new()),
        Command::Test { .. } => return Err(PlanError::NoTest),
        Command::Shell { shell: chosen, args } => {
            let shell = match (chosen, shell) {
                (Some(chosen), _) => chosen.clone(),
                (None, Some(found)) => found.as_os_str().to_owned(),
                (None, None) => return Err(PlanError::NoShell),
            };
            std::iter::once(shell).chain(args.iter().cloned()).collect()
        }
        Command::Run { entrypoint, args } => {
            let mut words = match entrypoint {
                Some(words) => words.clone(),
                None => config.entrypoint.iter().map(OsString::from).collect(),
            };
            // A replaced entrypoint drops the image's default words, as in Docker.
            if args.is_empty() && entrypoint.is_none() {
                words.extend(config.cmd.iter().map(OsString::from));
            }
            words.extend(args.iter().cloned());
            words
        }
    };
    if argv.is_empty() { Err(PlanError::NoCommand) } else { Ok(argv) }
}

/// The image's working directory, where it counts for this request.
pub(crate) fn image_workdir(request: &RunRequest) -> Option<PathBuf> {
    let dir = PathBuf::from(request.config.working_dir.as_deref()?);
    let counts = matches!(request.command, Command::Run { .. }) || request.isolation.contain;
    (counts && request.workdir.is_none() && dir.is_absolute() && dir != Path::new("/"))
        .then_some(dir)
}

pub(crate) fn process(
    request: &RunRequest,
    host: &HostFacts,
    argv: Vec<OsString>,
    home: &Path,
) -> Process {
    let (cwd, reason) = if let Some(dir) = &request.workdir {
        (vec![dir.clone()], "--workdir")
    } else if let Some(dir) = image_workdir(request) {
        (vec![dir], "the image's working directory")
    } else if request.isolation.contain {
        (vec![home.to_owned(), "/".into()], "home directory of the container")
    } else {
        let dirs = host.cwd.iter().cloned().chain([home.to_owned(), "/".into()]);
        (dirs.collect(), "the caller's working directory where it is visible")
    };
    Process {
        argv,
        cwd,
        cwd_reason: reason.to_owned(),
        stop_signal: request.config.stop_signal.clone(),
    }
}
