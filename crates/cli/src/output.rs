//! Standard output. A reader that goes away ends the printing and is no
//! failure.

use std::io::{self, Write, stdout};

use serde::Serialize;

use crate::error::CliError;

/// Prints text as it is.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(e)),
        _ => Ok(()),
    }
}

/// Prints a value as JSON for people and programs.
pub fn json(value: &impl Serialize) -> Result<(), CliError> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}
