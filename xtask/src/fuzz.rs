//! `cargo xtask fuzz`: damaged bytes for a bounded time.

use std::process::Command;

use crate::error::{Error, Result};
use crate::run::{cargo, run as execute, target};

const USAGE: &str = "cargo xtask fuzz [--seconds N] [--seed N] [--target NAME]";

/// Kilobytes of address space: what a lying length makes a reader allocate
/// beyond it ends the run.
const MEMORY_KB: u32 = 2_000_000;

pub(crate) fn run(args: &[&str]) -> Result<()> {
    if !args.len().is_multiple_of(2) {
        return Err(Error::Usage(USAGE));
    }
    execute(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "sampan-fuzz",
    ]))?;
    let program = target().join("x86_64-unknown-linux-gnu/release/sampan-fuzz");
    let script = format!("ulimit -v {MEMORY_KB}; exec \"$0\" \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(program).args(args);
    execute(command.arg("--crashes").arg(target().join("fuzz-crashes")))
}
