//! What the Slurm plugin (crates/spank) asks of sampan.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use engine::Engine;
use rustix::process::Pid;

use crate::args::SlurmCommand;
use crate::error::CliError;
use crate::lower::LowerError;
use crate::output;

/// The word that stands for the words of a file.
const TASK: &str = "slurm-task";

/// Replaces `slurm-task FILE ARG…` by the words that the plugin has written to
/// the file, and the arguments.
///
/// The file is a script of whose first line the kernel has made this process;
/// behind it come the words, each ended by a zero. It is open here under the
/// number that its path ends in, and nobody else's business: it is closed.
pub fn expand(words: Vec<OsString>) -> Result<Vec<OsString>, CliError> {
    if words.get(1).is_none_or(|word| word != TASK) {
        return Ok(words);
    }
    let path = words.get(2).cloned().unwrap_or_default();
    let failed = |source| CliError::Task { path: path.clone().into(), source };
    let bytes = std::fs::read(&path).map_err(failed)?;
    let number = path.to_str().and_then(|path| path.strip_prefix("/proc/self/fd/"));
    if let Some(fd) = number.and_then(|number| number.parse::<RawFd>().ok()) {
        sys::process::close(fd);
    }
    let start = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let rest = bytes[start..].strip_suffix(b"\0").unwrap_or_default();
    let own = rest.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned());
    let first = words.first().cloned().unwrap_or_default();
    Ok([first].into_iter().chain(own).chain(words.into_iter().skip(3)).collect())
}

/// `slurm`.
pub fn run(engine: &Engine, command: SlurmCommand) -> Result<(), CliError> {
    match command {
        SlurmCommand::State { job, name } => {
            output::print(&format!("{}\n", engine.named(&job, &name)?.display()))
        }
        SlurmCommand::Join { pid, start, workdir, words } => {
            Err(join(pid, start, workdir.as_deref(), &words))
        }
        SlurmCommand::Forget { job, name } => Ok(engine.forget_named(&job, name.as_deref())?),
    }
}

/// Variables that belong to a task, not to its container.
const OF_TASK: [&str; 7] = ["SLURM", "PMI", "OMPI_", "PRTE_", "SPANK_", "SAMPAN_", "TMPDIR"];

/// Becomes a command in a container that runs, with the container's variables
/// and this task's own; why not.
fn join(pid: i32, start: u64, workdir: Option<&Path>, words: &[OsString]) -> CliError {
    let cwd = workdir.map(Path::to_owned).or_else(|| std::env::current_dir().ok());
    let entered = match Pid::from_raw(pid).ok_or(runtime::JoinError::Ended(pid)) {
        Ok(pid) => runtime::join(pid, start),
        Err(error) => Err(error),
    };
    let env = match entered {
        Ok(env) => env,
        Err(error) => return CliError::Join(error),
    };
    let of_task = |name: &OsString| {
        let name = name.to_string_lossy();
        OF_TASK.iter().any(|start| name.starts_with(start))
    };
    let [program, rest @ ..] = words else { return LowerError::NoCommand.into() };
    let mut command = Command::new(program);
    command.args(rest).envs(env.into_iter().filter(|(name, _)| !of_task(name)));
    // As of the container's first process, a directory that is not there is passed over.
    let there = cwd.filter(|dir| workdir.is_some() || dir.is_dir());
    command.current_dir(there.as_deref().unwrap_or(Path::new("/")));
    let path = program.into();
    CliError::JoinExec { path, source: command.exec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_file_come_before_the_arguments() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "#!/usr/bin/sampan slurm-task\nexec\0--\0an image\0\0prog\0")
            .unwrap();
        let path = file.path().as_os_str().to_owned();
        let words = |list: &[&OsStr]| list.iter().map(|word| (*word).to_owned()).collect();
        let [sampan, task, a, b] = ["sampan", TASK, "a", ""].map(OsStr::new);
        let expanded = expand(words(&[sampan, task, &path, a, b])).unwrap();
        assert_eq!(expanded, ["sampan", "exec", "--", "an image", "", "prog", "a", ""]);
        let other: Vec<OsString> = words(&[sampan, a, task]);
        assert_eq!(expand(other.clone()).unwrap(), other);
        assert!(expand(words(&[sampan, task])).is_err());
    }
}
