//! The sampan command line.
//!
//! ```text
//! words ── args ─→ flags ── lower ─→ RunRequest ── engine ─→ Container ─→ the application
//! ```
//!
//! `args` reads words and touches nothing; `lower` and the engine work out
//! what they mean; `commands` does it; `output`, `bars` and `report` are all
//! that is ever printed. On the way to a container nothing is set up that it
//! does not need: no thread, no terminal library, one subcommand's options.
#![forbid(unsafe_code)]

mod agent;
mod args;
mod bars;
mod building;
mod commands;
mod edf;
mod error;
mod inspect;
mod instance;
mod listing;
mod lower;
mod manual;
mod module;
mod output;
mod privilege;
mod prompt;
mod report;
mod run;
mod sif_file;
mod site;
mod slurm;
mod steps;
mod text;
mod trace;

use std::process::ExitCode;

use engine::exit;

fn main() -> ExitCode {
    if let Some(reason) = privilege::refusal() {
        report::plain(reason, Some("chmod u-s,g-s the file: sampan needs no privilege"));
        return code(exit::ENGINE);
    }
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(status) = agent::called(&words) {
        return code(status);
    }
    let expanded = slurm::expand(words).and_then(agent::expand);
    let again = match expanded {
        Ok(again) => again,
        Err(error) => {
            report::error(&error, None);
            return code(exit::ENGINE);
        }
    };
    let cli = match args::parse(again.words.clone()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, args::container_command(&again.words).is_some()),
    };
    trace::install(&cli.globals);
    let container = cli.command.runs_container();
    match commands::dispatch(cli, &again) {
        Ok(status) => code(status),
        Err(error) => {
            report::error(&error, error.hint().as_deref());
            code(if container { error.container_exit_code() } else { error.exit_code() })
        }
    }
}

/// Help and version go to standard output and are no failure.
fn usage(error: &clap::Error, container: bool) -> ExitCode {
    // Nobody reads what cannot be printed.
    let _ = error.print();
    match (error.use_stderr(), container) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => code(exit::ENGINE),
        (true, false) => code(exit::USAGE),
    }
}

fn code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))
}
