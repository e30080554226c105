//! `cargo xtask bench mpi`: MPI in a container against the same program bare.
//!
//! Two ranks on this machine, each on a processor of its own: latency, bandwidth and a
//! stencil with MPICH and Open MPI; and 200 processes that a launcher starts, MPICH's own
//! and Slurm's srun on one node of a test cluster. Bare, in a container with the image's
//! MPI, and in one with the host's; and bare once more, for what the machine alone makes
//! of the same thing.
//!
//! All ways run at once and take turns of a fraction of a second by the clock
//! (`mpi_check turns`): what two processors of a virtual machine are changes with the
//! second, by a factor of two and more. A round is new processes; in it, a way's value is
//! the median over the cycles of its turn to the bare turn of the same cycle.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use cluster::Cluster;
use serde::Serialize;

use super::Verdict;
use super::measure::median;
use crate::error::{Error, Result, file, json};
use crate::registry::Registry;
use crate::run::{output, root, user_shell};
use crate::{fixtures, setup, spank};

/// What one way of running is measured by: a value a round, and its ratio to the bare
/// program's (above 1 is worse).
#[derive(Debug, Default, Serialize)]
struct Series {
    values: Vec<f64>,
    of_bare: Vec<f64>,
}

/// One way of running.
#[derive(Debug, Serialize)]
struct Way {
    name: &'static str,
    /// What stands before the program's words, for MPICH and for Open MPI.
    commands: [String; 2],
    measures: [Series; MEASURES.len()],
}

/// A measure: its name, whether more is better, and the bar.
type Measure = (&'static str, bool, f64);

const MEASURES: [Measure; 8] = [
    ("latency in us, 8 bytes", false, 1.02),
    ("bandwidth in MB/s, 4 MiB", true, 1.02),
    ("stencil, ms a step", false, 1.02),
    ("latency in us, 8 bytes, Open MPI", false, 1.02),
    ("bandwidth in MB/s, 4 MiB, Open MPI", true, 1.02),
    ("stencil, ms a step, Open MPI", false, 1.02),
    ("200 starts, ms to the last in main()", false, 2.0),
    ("200 starts by srun, ms to the last in main()", false, 2.0),
];

pub(super) fn run(args: &[&str]) -> Result<()> {
    let runs = match args {
        [] => 15,
        ["--runs", number] => {
            number.parse::<std::num::NonZeroUsize>().map_err(|_| Error::Usage(USAGE))?.get()
        }
        _ => return Err(Error::Usage(USAGE)),
    };
    setup::run()?;
    let sampan = setup::binary()?;
    let fixtures = fixtures::make()?;
    let registry = Registry::start(&fixtures)?;
    let hosts = setup::hosts(&fixtures)?;
    let images = ["mpich", "openmpi"].map(|mpi| format!("{}/{mpi}:latest", registry.address));
    let store = "--store $HOME/bench-store";
    let cluster = Cluster::start(&spank::build()?, &sampan, setup::USER).map_err(Error::Cluster)?;
    let sampan = sampan.display();
    for image in &images {
        output(&mut user(&format!("{sampan} {store} pull -q {image}")))?;
    }
    let way = |name, commands| Way { name, commands, measures: Default::default() };
    let inside = |flag: &str| {
        images.each_ref().map(|image| format!("{sampan} {store} run {flag}{image} mpi_check"))
    };
    let bare = ["mpich", "openmpi"]
        .map(|mpi| hosts.join(format!("mpi_check.{mpi}")).display().to_string());
    let mut ways = [
        way("bare", bare.clone()),
        way("the image's MPI", inside("")),
        way("the host's MPI", inside("--mpi=host ")),
        way("bare again", bare),
    ];
    let cores = cores()?;
    for round in 0..runs {
        eprint!("\rround {} of {runs}", round + 1);
        take_turns(&mut ways, round, cores)?;
        start(&mut ways, &cluster)?;
    }
    eprintln!();
    report(&ways, runs)
}

const USAGE: &str = "cargo xtask bench mpi [--runs N]";

fn user(script: &str) -> Command {
    let mut command = user_shell(setup::USER, script);
    command.stdin(Stdio::null());
    command
}

/// Two processors of different cores, where this process has such.
fn cores() -> Result<[usize; 2]> {
    let allowed = output(&mut user("taskset -cp $$"))?;
    let list = allowed.rsplit(':').next().unwrap_or_default().trim();
    let numbers = list.split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse().unwrap_or(0)..=last.parse().unwrap_or(0)
    });
    let siblings = |cpu: usize| {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        std::fs::read_to_string(topology).unwrap_or_default()
    };
    let all: Vec<usize> = numbers.collect();
    let first = all.first().copied().unwrap_or_default();
    let mut others = all.iter().copied().filter(|cpu| *cpu != first);
    let next = others.clone().find(|cpu| siblings(*cpu) != siblings(first)).or(others.next());
    Ok([first, next.unwrap_or(first)])
}

/// Turns of a job in a round.
const CYCLES: usize = 25;

/// Each MPI's launcher, told to leave the processes where `taskset` puts them: the
/// launchers' own ways to bind choose anew each time, and differ.
const LAUNCHERS: [&str; 2] =
    ["mpiexec.hydra -bind-to none", "mpirun.openmpi --oversubscribe --bind-to none"];

/// What a job printed: latency, bandwidth and the stencil's step, for each cycle.
type Cycles = BTreeMap<u64, [f64; KINDS]>;

/// How many numbers a turn has: the first [`MEASURES`], for each of [`LAUNCHERS`].
const KINDS: usize = 3;
/// The measure behind those: starts by MPICH's launcher, and then by srun.
const STARTS: usize = LAUNCHERS.len() * KINDS;

/// Runs all ways at once with each MPI, each in its own turns.
fn take_turns(ways: &mut [Way; 4], round: usize, cores: [usize; 2]) -> Result<()> {
    for (mpi, launcher) in LAUNCHERS.into_iter().enumerate() {
        let count = ways.len();
        let mut jobs = Vec::new();
        for (at, way) in ways.iter().enumerate() {
            // Who comes after whom changes from round to round.
            let mode = format!("turns {} {count} {CYCLES}", (at + round) % count);
            let rank = |cpu: usize| format!("-n 1 taskset -c {cpu} {} {mode}", way.commands[mpi]);
            let script = format!("{launcher} {} : {}", rank(cores[0]), rank(cores[1]));
            jobs.push(std::thread::spawn(move || output(&mut user(&script))));
        }
        let mut found = Vec::new();
        for job in jobs {
            let text = job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            found.push(cycles(&text));
        }
        for (way, own) in ways.iter_mut().zip(&found) {
            for (kind, series) in way.measures[mpi * KINDS..][..KINDS].iter_mut().enumerate() {
                let (_, more, _) = MEASURES[kind];
                let ratio = |(cycle, values): (&u64, &[f64; KINDS])| {
                    let bare = found[0].get(cycle)?;
                    Some(worse(values[kind], bare[kind], more))
                };
                series.values.push(median(&sorted(own.values().map(|values| values[kind]))));
                series.of_bare.push(median(&sorted(own.iter().filter_map(ratio))));
            }
        }
    }
    Ok(())
}

fn cycles(text: &str) -> Cycles {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let cycle = words.next()?.parse().ok()?;
        let values: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
        Some((cycle, values.try_into().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// How much worse a value is than the bare one.
fn worse(own: f64, bare: f64, more: bool) -> f64 {
    if more { bare / own } else { own / bare }
}

/// Starts 200 processes in each way, by both launchers.
fn start(ways: &mut [Way; 4], cluster: &Cluster) -> Result<()> {
    let srun = "srun --nodes=1 --ntasks=200 --overcommit --mpi=pmi2";
    let srun = format!("export SLURM_CONF={}; {srun}", cluster.conf().display());
    for (launcher, at) in [("mpiexec.hydra -n 200", STARTS), (&*srun, STARTS + 1)] {
        let mut bare = None;
        for way in &mut *ways {
            let own = last_start(&format!("{launcher} {}", way.commands[0]))?;
            let series = &mut way.measures[at];
            series.of_bare.push(worse(own, *bare.get_or_insert(own), false));
            series.values.push(own);
        }
    }
    Ok(())
}

/// Milliseconds from the start of a launcher until the last process is in main().
fn last_start(script: &str) -> Result<f64> {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = output(&mut user(&format!("{script} start")))?;
    let last = text.split_whitespace().filter_map(|w| w.parse::<u128>().ok()).max();
    Ok(last.unwrap_or_default().saturating_sub(before.as_nanos()) as f64 / 1e6)
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

fn report(ways: &[Way; 4], runs: usize) -> Result<()> {
    let mut bars = Vec::new();
    for (at, (name, _, bar)) in MEASURES.into_iter().enumerate() {
        println!("\n{name} (medians of {runs} rounds, and the middle half of their ratios)");
        for (index, way) in ways.iter().enumerate() {
            let series = &way.measures[at];
            let ratios = sorted(series.of_bare.iter().copied());
            let (measured, count) = (median(&ratios), ratios.len());
            print!("  {:<16} {:>10.3}", way.name, median(&sorted(series.values.iter().copied())));
            if index == 0 {
                println!();
                continue;
            }
            let (low, high) = (ratios[count / 4], ratios[count * 3 / 4]);
            print!("  {measured:.3} of bare ({low:.3} to {high:.3})");
            if index == ways.len() - 1 {
                println!();
                continue;
            }
            let reached = measured <= bar;
            println!("  bar {bar}  {}", if reached { "reached" } else { "MISSED" });
            let bar = format!("{name}: {} at most {bar:.2} of bare", way.name);
            bars.push(Verdict { bar, measured, reached });
        }
    }
    let path = root().join("bench/results/mpi.json");
    std::fs::write(&path, text(ways, runs, &bars)?).map_err(file(&path))?;
    println!("\nwritten: {}", path.display());
    Ok(())
}

/// What is written: JSON, a line for each way and each bar.
fn text(ways: &[Way; 4], runs: usize, bars: &[Verdict]) -> Result<String> {
    fn lines<T: Serialize>(list: &[T]) -> Result<String> {
        let line = |one| serde_json::to_string(one).map_err(json("the results"));
        Ok(list.iter().map(line).collect::<Result<Vec<_>>>()?.join(",\n"))
    }
    let (names, ways, bars) = (MEASURES.map(|(name, ..)| name), lines(ways)?, lines(bars)?);
    Ok(format!(
        "{{\n\"runs\": {runs},\n\"measures\": [\n{}\n],\n\"ways\": [\n{ways}\n],\n\"bars\": [\n{bars}\n]\n}}\n",
        lines(&names)?
    ))
}
