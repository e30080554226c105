//! Asking for names and passwords.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::CliError;

/// More than any token, in bytes.
const LONGEST: u64 = 1 << 20;

/// Asks on the terminal, wherever standard input comes from.
pub fn ask(question: &str, what: &'static str, hidden: bool) -> Result<String, CliError> {
    let failed = |source| CliError::Prompt { what, source };
    let mut terminal = File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|_| CliError::NoTerminal(what))?;
    write!(terminal, "{question}: ").map_err(failed)?;
    let before = tcgetattr(&terminal).map_err(|e| failed(e.into()))?;
    if hidden {
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        silent.local_modes |= LocalModes::ECHONL;
        tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(|e| failed(e.into()))?;
    }
    let mut line = String::new();
    let read = BufReader::new(&terminal).take(LONGEST).read_line(&mut line);
    if hidden {
        tcsetattr(&terminal, OptionalActions::Flush, &before).map_err(|e| failed(e.into()))?;
    }
    read.map_err(failed)?;
    answer(&line, what)
}

/// The whole of standard input, less the line's end.
pub fn standard_input(what: &'static str) -> Result<String, CliError> {
    let mut text = String::new();
    io::stdin()
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|source| CliError::Prompt { what, source })?;
    answer(&text, what)
}

fn answer(text: &str, what: &'static str) -> Result<String, CliError> {
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() { Err(CliError::Empty(what)) } else { Ok(text.to_owned()) }
}
