//! The last step: becoming the application.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use plan::{EnvVar, Plan, Process};
use rustix::io::Errno;

use crate::RuntimeError;
use crate::error::ExecError;

/// The strings of execve(2), converted before anything else is done.
pub(crate) struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
    search: Vec<u8>,
    /// The directories of PATH that are tried.
    pub(crate) dirs: Vec<Vec<u8>>,
}

impl Program {
    pub(crate) fn prepare(plan: &Plan) -> Result<Self, RuntimeError> {
        Self::new(&plan.process, &plan.env)
    }

    /// The same, without a plan.
    pub(crate) fn new(process: &Process, env: &[EnvVar]) -> Result<Self, RuntimeError> {
        let text = |bytes: Vec<u8>| {
            CString::new(bytes)
                .map_err(|e| RuntimeError::Nul(String::from_utf8_lossy(&e.into_vec()).into_owned()))
        };
        let argv = process.argv.iter().map(|w| text(w.as_bytes().to_vec()));
        let pair = |var: &EnvVar| {
            let mut bytes = var.name.clone().into_vec();
            bytes.push(b'=');
            bytes.extend_from_slice(var.value.as_bytes());
            text(bytes)
        };
        let path = env.iter().find(|var| var.name == "PATH");
        let search = path.map(|var| var.value.as_bytes().to_vec()).unwrap_or_default();
        let dirs = search.split(|b| *b == b':');
        Ok(Self {
            dirs: dirs.map(|dir| if dir.is_empty() { b"." } else { dir }.to_vec()).collect(),
            argv: argv.collect::<Result<_, _>>()?,
            env: env.iter().map(pair).collect::<Result<_, _>>()?,
            search,
        })
    }

    /// Nothing where there is no program.
    pub(crate) fn command(&self) -> &[u8] {
        self.argv.first().map(CString::as_bytes).unwrap_or_default()
    }
}

/// Enters the working directory and executes the program.
pub(crate) fn run(plan: &Plan, program: &Program) -> Result<Infallible, RuntimeError> {
    become_it(&plan.process, plan.sub_ids.is_some(), program)
}

/// The same, without a plan. Setuid programs work only where there are `sub_ids`.
pub(crate) fn become_it(
    process: &Process,
    sub_ids: bool,
    program: &Program,
) -> Result<Infallible, RuntimeError> {
    change_directory(process)?;
    if !sub_ids {
        rustix::thread::set_no_new_privs(true)
            .map_err(|e| crate::root::step("setting no_new_privs")(io::Error::from(e)))?;
    }
    sys::signal::restore_defaults();
    let command = program.command();
    if command.contains(&b'/') {
        let error = attempt(command, program);
        return Err(explain(command, command, error).into());
    }
    let mut refused = None;
    for dir in &program.dirs {
        let mut path = dir.clone();
        path.push(b'/');
        path.extend_from_slice(command);
        let error = attempt(&path, program);
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) if !exists(&path) => {}
            // As execvp(3): a refused one may be followed by a better one.
            Some(Errno::ACCESS) => refused = refused.or(Some((path, error))),
            _ => return Err(explain(command, &path, error).into()),
        }
    }
    match refused {
        Some((path, error)) => Err(explain(command, &path, error).into()),
        None => {
            Err(ExecError::NotFound { command: lossy(command), path: lossy(&program.search) }
                .into())
        }
    }
}

fn change_directory(process: &Process) -> Result<(), RuntimeError> {
    let mut first = None;
    for path in &process.cwd {
        match rustix::process::chdir(path) {
            Ok(()) => return Ok(()),
            Err(e) => first = first.or(Some((path.clone(), e))),
        }
    }
    match first {
        Some((path, e)) => Err(RuntimeError::Chdir { path, source: e.into() }),
        None => Ok(()),
    }
}

fn attempt(path: &[u8], program: &Program) -> io::Error {
    match CString::new(path) {
        Ok(path) => sys::process::exec(&path, &program.argv, &program.env),
        Err(e) => e.into(),
    }
}

fn exists(path: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(path)).symlink_metadata().is_ok()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Turns the errno of execve(2) into what a person can act on.
fn explain(command: &[u8], path: &[u8], source: io::Error) -> ExecError {
    let name = lossy(command);
    let file = Path::new(OsStr::from_bytes(path));
    let head = head(file);
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT) if file.exists() => {
            let interpreter = interpreter(&head).unwrap_or_else(|| "?".to_owned());
            ExecError::Interpreter { command: name, interpreter }
        }
        Some(Errno::NOENT | Errno::NOTDIR) => {
            ExecError::NotFound { command: name, path: lossy(path) }
        }
        Some(Errno::ACCESS) => ExecError::NotExecutable { command: name, source },
        _ => match foreign(&head) {
            Some(architecture) => {
                let host = std::env::consts::ARCH;
                ExecError::Architecture { command: name, architecture, host }
            }
            None if Errno::from_io_error(&source) == Some(Errno::NOEXEC) => {
                ExecError::NotExecutable { command: name, source }
            }
            None => ExecError::Other { command: name, source },
        },
    }
}

fn head(file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Whatever cannot be read explains nothing.
    let _ = File::open(file).and_then(|f| f.take(4096).read_to_end(&mut bytes));
    bytes
}

/// The interpreter of a script, or of a dynamic 64-bit program whose path
/// lies in the first page, where linkers put it.
fn interpreter(head: &[u8]) -> Option<String> {
    if let Some(rest) = head.strip_prefix(b"#!") {
        let line = rest.split(|b| *b == b'\n').next()?;
        return lossy(line).split_ascii_whitespace().next().map(str::to_owned);
    }
    let read = |at: u64, len: usize| {
        let rest = head.get(usize::try_from(at).ok()?..)?;
        Some(rest[..len.min(rest.len())].to_vec())
    };
    host::elf::read(&read)?.interpreter
}

/// The architecture of an ELF program that is not for this machine.
fn foreign(head: &[u8]) -> Option<String> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let machine = match head.get(5)? {
        1 => u16::from_le_bytes([*head.get(18)?, *head.get(19)?]),
        _ => u16::from_be_bytes([*head.get(18)?, *head.get(19)?]),
    };
    // e_machine values of the generic ELF specification.
    let name = match machine {
        3 => "x86",
        8 => "mips",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        other => return Some(format!("ELF machine {other}")),
    };
    (name != std::env::consts::ARCH).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_found() {
        assert_eq!(interpreter(b"#! /usr/bin/env python3\n"), Some("/usr/bin/env".into()));
        assert_eq!(interpreter(b"plain text"), None);
        let own = head(Path::new("/bin/true"));
        assert!(interpreter(&own).is_some_and(|path| path.contains("ld-linux")), "{own:?}");
        for end in 0..own.len().min(400) {
            // A truncated header is no interpreter, and no panic.
            let _ = interpreter(&own[..end]);
        }
    }

    #[test]
    fn foreign_programs_are_named() {
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 183;
        assert_eq!(foreign(&elf).as_deref(), Some("aarch64"));
        assert_eq!(foreign(b"\x7fELF"), None);
        assert_eq!(foreign(&head(Path::new("/bin/true"))), None);
    }
}
