//! Starting processes on other nodes, for a launcher of MPI inside of a container
//! ([`host::remote`]): the agent that it calls, and the start of what it asks for.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use host::remote::{AGENT, PROXY, Packed, SOCKET, read_words};

use plan::OtherNodes;

use crate::error::CliError;
use crate::report;

/// What ssh(1) ends with when it has failed itself.
const FAILED: i32 = 255;

/// Does the agent's work, if that is the name by which this program was called;
/// the exit code.
pub fn called(words: &[OsString]) -> Option<i32> {
    let name = words.first().map(Path::new)?.file_name()?;
    if Some(name) != Path::new(AGENT).file_name() {
        return None;
    }
    let fail = |text: String, hint: Option<&str>| {
        report::plain(&text, hint);
        Some(FAILED)
    };
    let Some((host, text)) = read_words(&words[1..]) else {
        return fail("a host and a command are expected, as ssh takes them".to_owned(), None);
    };
    let Some(socket) = std::env::var_os(SOCKET) else {
        let hint = "it works in containers of sampan run --mpi=container alone";
        return fail(format!("the variable {SOCKET} is not set"), Some(hint));
    };
    // What was started elsewhere must not outlive the launcher.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    match runtime::remote::ask(&socket, &host, &text) {
        Ok(status) => Some(status),
        Err(e) => {
            let hint = "the container whose launcher this is has ended, or the launcher with it";
            fail(format!("no process was started on {host}: {e}"), Some(hint))
        }
    }
}

/// The words of this process, and whether a launcher's proxy is started by them.
pub struct Again {
    /// The words, the program's name first.
    pub words: Vec<OsString>,
    /// Whether it is a proxy.
    pub proxy: bool,
}

impl Again {
    /// How another command is started in place of the last so many words.
    pub fn other_nodes(&self, command: usize) -> OtherNodes {
        if self.proxy {
            return OtherNodes::Proxy;
        }
        let Ok(program) = std::env::current_exe() else { return OtherNodes::None };
        let own = &self.words[1..self.words.len().saturating_sub(command).max(1)];
        OtherNodes::By([&[program.into_os_string(), PROXY.into(), "--".into()], own].concat())
    }
}

/// `mpi-proxy -- WORDS` stands for the words, and `mpi-proxy WORD` for what is
/// packed in it, which this process then becomes.
pub fn expand(words: Vec<OsString>) -> Result<Again, CliError> {
    match &words[..] {
        [name, word, dashes, rest @ ..] if word == PROXY && dashes == "--" => {
            Ok(Again { words: [std::slice::from_ref(name), rest].concat(), proxy: true })
        }
        [_, word, packed] if word == PROXY => {
            let packed = packed.to_str().and_then(Packed::from_word).ok_or(CliError::Packed)?;
            let Packed { cwd, env, words } = packed;
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).envs(env).current_dir(cwd);
            let program = words[0].clone().into();
            Err(CliError::Proxy { program, source: command.exec() })
        }
        _ => Ok(Again { words, proxy: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_proxy_is_started_by_the_words_of_its_launcher() {
        let run = expand(words("sampan run --bind /a image mpirun -n 2")).unwrap();
        assert!(!run.proxy);
        let OtherNodes::By(again) = run.other_nodes(3) else { panic!() };
        assert_eq!(again[1..], words("mpi-proxy -- run --bind /a image")[..]);
        let proxy = expand([again, words("sh -c x")].concat()).unwrap();
        assert_eq!(proxy.other_nodes(3), OtherNodes::Proxy);
        assert_eq!(proxy.words[1..], words("run --bind /a image sh -c x")[..]);
        for bad in ["sampan mpi-proxy zz", "sampan mpi-proxy 2f00"] {
            assert!(matches!(expand(words(bad)), Err(CliError::Packed)), "{bad}");
        }
    }

    #[test]
    fn the_agent_is_known_by_its_name() {
        assert_eq!(called(&words("sampan run x")), None);
        assert_eq!(called(&[]), None);
        assert_eq!(called(&words("/.sampan/bin/sampan-agent host")), Some(FAILED));
    }
}
