//! Everything a person types here: `cargo xtask demo|test|bench|compat|fuzz|spank|fixtures|layers`.
#![forbid(unsafe_code)]

mod apptainer;
mod bench;
mod compat;
mod demo;
mod error;
mod fixtures;
mod fuzz;
mod layers;
mod registry;
mod run;
mod setup;
mod spank;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  demo       set up, build, and run numpy from a 500 MB image as an ordinary user
  test       set up, then format, lints, layers, unit and end-to-end tests
  bench      compare with the installed peers, in turns, as ratios:
             [--runs N] [--rows start,numpy,pull,find,cat,cat4,import,random] [--tools NAME,NAME]
             [--with apptainer]
             mpi [--runs N]: MPI in containers against bare
  compat     run the same words through Apptainer, from Debian sid, and sampan
  fuzz       feed damaged bytes to the readers, for 30 seconds each:
             [--seconds N] [--seed N] [--target NAME]
  spank      build the Slurm plugin, for the Slurm of this machine's headers
  fixtures   make the images that the other commands use (kept under target/)
  layers     check which crate may depend on which

All of them install what they need from Debian packages (as root, or by sudo),
saying so first, and do nothing a second time that is done already.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["demo"] => demo::run(),
        ["test"] => test::run(),
        ["compat"] => compat::run(),
        ["bench", ref options @ ..] => bench::run(options),
        // What `bench` starts as root in a namespace of its own.
        ["bench-inside", job] => bench::measure(job),
        ["fuzz", ref options @ ..] => fuzz::run(options),
        ["fixtures"] => setup::run().and_then(|_| fixtures::make().map(drop)),
        ["spank"] => spank::run(),
        ["layers"] => layers::check(),
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
