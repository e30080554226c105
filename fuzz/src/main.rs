//! Feeds damaged bytes to everything that reads bytes from outside, for a
//! bounded time: `cargo xtask fuzz`.
//!
//! Each target starts from small valid inputs, damages them and reads the
//! result to its end. A panic, a run of more than [`SLOWEST`] and, under the
//! memory limit that xtask sets, an allocation without bound end the program;
//! what caused it is kept. The generator is seeded, so a run can be repeated.
#![forbid(unsafe_code)]

mod corpus;
mod mutate;
mod targets;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mutate::Random;
use targets::Target;

/// One execution may take no longer.
const SLOWEST: Duration = Duration::from_secs(5);

struct Options {
    seconds: u64,
    seed: u64,
    only: Option<String>,
    crashes: PathBuf,
}

fn options() -> Option<Options> {
    let mut options =
        Options { seconds: 30, seed: 1, only: None, crashes: PathBuf::from("target/fuzz-crashes") };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seconds" => options.seconds = value.parse().ok()?,
            "--seed" => options.seed = value.parse().ok()?,
            "--target" => options.only = Some(value),
            "--crashes" => options.crashes = value.into(),
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("usage: sampan-fuzz [--seconds N] [--seed N] [--target NAME] [--crashes DIR]");
        return ExitCode::from(2);
    };
    // The report below says what a panic was; its own message is noise.
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = false;
    for target in targets::all() {
        if options.only.as_deref().is_none_or(|only| only == target.name) {
            failed |= !run(&target, &options);
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs a target for its time; whether all went well.
fn run(target: &Target, options: &Options) -> bool {
    let mut random = Random::new(options.seed);
    let start = Instant::now();
    let (mut count, mut accepted) = (0_u64, 0_u64);
    // The valid inputs themselves come first.
    let mut queue = target.corpus.clone();
    while start.elapsed() < Duration::from_secs(options.seconds) {
        let input = match queue.pop() {
            Some(input) => input,
            None => mutate::damage(&mut random, &target.corpus),
        };
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(|| (target.run)(&input));
        count += 1;
        let problem = match outcome {
            Err(_) => Some("a panic"),
            Ok(_) if begun.elapsed() > SLOWEST => Some("too slow"),
            Ok(good) => {
                accepted += u64::from(good);
                None
            }
        };
        if let Some(problem) = problem {
            let path = options.crashes.join(format!("{}-{count}-{}", target.name, options.seed));
            let kept = std::fs::create_dir_all(&options.crashes)
                .and_then(|()| std::fs::write(&path, &input));
            println!("{}: {problem} after {count} executions", target.name);
            println!("{}: kept as {}: {kept:?}", target.name, path.display());
            return false;
        }
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!(
        "{}: {count} executions, {rate:.0} a second, {accepted} inputs read without an error",
        target.name
    );
    true
}
