//! Feeds damaged bytes to everything that reads bytes from outside, for a
//! bounded time: `cargo xtask fuzz`.
//!
//! Each target starts from small valid inputs, damages them and reads the
//! result to its end. A panic, a run of more than [`SLOWEST`] and, under the
//! memory limit that xtask sets, an allocation without bound end the program, as
//! does a stack without bound; what caused it is kept, as it is written down before
//! it is read. The generator is seeded by the time, so that no two runs are the same; a
//! run prints its seed, and can be repeated with it.
#![forbid(unsafe_code)]

mod corpus;
mod mutate;
mod targets;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use mutate::Random;
use targets::Target;

/// One execution may take no longer; one that was not built to be fast, much longer.
const SLOWEST: Duration = Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 5 });

struct Options {
    seconds: u64,
    seed: u64,
    only: Option<String>,
    crashes: PathBuf,
}

fn options() -> Option<Options> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = now.map_or(1, |now| now.as_nanos() as u64);
    let crashes = PathBuf::from("target/fuzz-crashes");
    let mut options = Options { seconds: 30, seed, only: None, crashes };
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
    println!("seed {}", options.seed);
    let mut failed = false;
    for target in targets::all() {
        if options.only.as_deref().is_none_or(|only| only == target.name) {
            match run(&target, &options) {
                Ok(good) => failed |= !good,
                Err(error) => {
                    eprintln!("{}: {error}", options.crashes.display());
                    failed = true;
                }
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The input that is read now, in a file: nothing of a process that has died can be
/// asked for it.
struct Current {
    path: PathBuf,
    file: File,
}

impl Current {
    fn new(dir: &Path, name: &str) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(name);
        Ok(Self { file: File::create(&path)?, path })
    }

    fn set(&self, input: &[u8]) -> io::Result<()> {
        self.file.write_all_at(input, 0)?;
        self.file.set_len(input.len() as u64)
    }
}

/// Runs a target for its time; whether all went well.
fn run(target: &Target, options: &Options) -> io::Result<bool> {
    let current = Current::new(&options.crashes, target.name)?;
    println!("{}: what ends it is in {}", target.name, current.path.display());
    let mut random = Random::new(options.seed);
    let start = Instant::now();
    let (mut count, mut accepted) = (0_u64, 0_u64);
    // The valid inputs themselves come first.
    let mut queue = target.corpus.clone();
    while !queue.is_empty() || start.elapsed() < Duration::from_secs(options.seconds) {
        let (seed, input) = match queue.pop() {
            Some(input) => (true, input),
            None => (false, mutate::damage(&mut random, &target.corpus)),
        };
        current.set(&input)?;
        let begun = Instant::now();
        let good = (target.run)(&input);
        count += 1;
        accepted += u64::from(good);
        if begun.elapsed() > SLOWEST {
            println!("{}: too slow after {count} executions", target.name);
            return Ok(false);
        }
        if seed && !good {
            println!("{}: this input of its corpus is not valid", target.name);
            return Ok(false);
        }
    }
    std::fs::remove_file(&current.path)?;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!(
        "{}: {count} executions, {rate:.0} a second, {accepted} inputs read without an error",
        target.name
    );
    Ok(true)
}
