//! `cargo xtask bench mpi`: MPI in a container against the same program bare.
//!
//! Two ranks on this machine, each on a processor of its own: latency and bandwidth
//! with MPICH and Open MPI, a stencil; and 200 processes that a launcher starts,
//! MPICH's own and Slurm's srun on one node of a test cluster. Bare, in a container
//! with the image's MPI, and in one with the host's, in turns.

use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use cluster::Cluster;
use serde::Serialize;

use super::Verdict;
use crate::error::{Error, Result, file, json};
use crate::registry::Registry;
use crate::run::{output, root, user_shell};
use crate::{fixtures, setup, spank};

/// What one way of running is measured by, one value a round.
#[derive(Debug, Default, Serialize)]
struct Numbers {
    latency_us: Vec<f64>,
    bandwidth_mb: Vec<f64>,
    open_latency_us: Vec<f64>,
    open_bandwidth_mb: Vec<f64>,
    stencil_s: Vec<f64>,
    start_200_ms: Vec<f64>,
    srun_200_ms: Vec<f64>,
}

/// One way of running.
#[derive(Debug, Serialize)]
struct Way {
    name: &'static str,
    /// What stands before the program's words.
    command: String,
    /// The same for Open MPI.
    open_command: String,
    #[serde(flatten)]
    numbers: Numbers,
}

/// A measure: its name, where it is, whether more is better, and the bar.
type Measure = (&'static str, fn(&Numbers) -> &Vec<f64>, bool, f64);

const MEASURES: [Measure; 7] = [
    ("latency, 8 bytes", |n| &n.latency_us, false, 1.02),
    ("bandwidth, 4 MiB", |n| &n.bandwidth_mb, true, 1.02),
    ("latency, 8 bytes, Open MPI", |n| &n.open_latency_us, false, 1.02),
    ("bandwidth, 4 MiB, Open MPI", |n| &n.open_bandwidth_mb, true, 1.02),
    ("stencil", |n| &n.stencil_s, false, 1.02),
    ("200 starts, the last in main()", |n| &n.start_200_ms, false, 2.0),
    ("200 starts by srun, the last in main()", |n| &n.srun_200_ms, false, 2.0),
];

pub(super) fn run(args: &[&str]) -> Result<()> {
    let runs = match args {
        [] => 15,
        ["--runs", number] => number.parse().map_err(|_| Error::Usage(USAGE))?,
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
    let way = |name, [command, open_command]: [String; 2]| Way {
        name,
        command,
        open_command,
        numbers: Numbers::default(),
    };
    let inside = |flag: &str| {
        images.each_ref().map(|image| format!("{sampan} {store} run {flag}{image} mpi_check"))
    };
    let bare = ["mpich", "openmpi"].map(|mpi| hosts.join(format!("mpi_check.{mpi}")));
    let mut ways = [
        way("bare", bare.map(|path| path.display().to_string())),
        way("the image's MPI", inside("")),
        way("the host's MPI", inside("--mpi=host ")),
    ];
    let cores = cores()?;
    for round in 0..runs {
        eprint!("\rround {} of {runs}", round + 1);
        let mut best = [Exchange::default(); 3];
        for _ in 0..TURNS {
            for (way, best) in ways.iter().zip(&mut best) {
                best.keep(&exchange(way, cores)?);
            }
        }
        for (way, best) in ways.iter_mut().zip(best) {
            measure(way, &best, &cluster, cores)?;
        }
    }
    eprintln!();
    report(&ways, runs)
}

const USAGE: &str = "cargo xtask bench mpi [--runs N]";

fn user(script: &str) -> std::process::Command {
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

/// Exchanges of a round are tried so often, in turns, and the best counts: what a virtual
/// machine has for two processors may be one core for a while.
const TURNS: usize = 4;

/// Latency in us and bandwidth in MB/s, with MPICH and with Open MPI.
#[derive(Clone, Copy)]
struct Exchange([(f64, f64); 2]);

impl Default for Exchange {
    fn default() -> Self {
        Self([(f64::INFINITY, 0.0); 2])
    }
}

impl Exchange {
    fn keep(&mut self, other: &Self) {
        for ((latency, bandwidth), found) in self.0.iter_mut().zip(other.0) {
            (*latency, *bandwidth) = (latency.min(found.0), bandwidth.max(found.1));
        }
    }
}

const HYDRA: &str = "mpiexec.hydra -bind-to none";
const ORTE: &str = "mpirun.openmpi --oversubscribe --bind-to none";

/// What two ranks print, each on its processor: the launchers' own ways to bind choose
/// anew each time, and differ.
fn two(launcher: &str, command: &str, mode: &str, cores: [usize; 2]) -> Result<Vec<f64>> {
    let rank = |cpu: usize| format!("-n 1 taskset -c {cpu} {command} {mode}");
    let script = format!("{launcher} {} : {}", rank(cores[0]), rank(cores[1]));
    let text = output(&mut user(&script))?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

fn exchange(way: &Way, cores: [usize; 2]) -> Result<Exchange> {
    let pair = |launcher, command| match two(launcher, command, "pingpong", cores)?[..] {
        [latency, bandwidth] => Ok((latency, bandwidth)),
        _ => Err(Error::Usage(USAGE)),
    };
    Ok(Exchange([pair(HYDRA, &way.command)?, pair(ORTE, &way.open_command)?]))
}

fn measure(way: &mut Way, best: &Exchange, cluster: &Cluster, cores: [usize; 2]) -> Result<()> {
    let Exchange([mpich, open]) = best;
    way.numbers.latency_us.push(mpich.0);
    way.numbers.bandwidth_mb.push(mpich.1);
    way.numbers.open_latency_us.push(open.0);
    way.numbers.open_bandwidth_mb.push(open.1);
    way.numbers.stencil_s.extend(two(HYDRA, &way.command, "stencil", cores)?.first());
    way.numbers.start_200_ms.push(last_start(&format!("mpiexec.hydra -n 200 {}", way.command))?);
    let srun = "srun --nodes=1 --ntasks=200 --overcommit --mpi=pmi2";
    let conf = cluster.conf();
    let script = format!("export SLURM_CONF={}; {srun} {}", conf.display(), way.command);
    way.numbers.srun_200_ms.push(last_start(&script)?);
    Ok(())
}

/// Milliseconds from the start of a launcher until the last process is in main().
fn last_start(script: &str) -> Result<f64> {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = output(&mut user(&format!("{script} start")))?;
    let last = text.split_whitespace().filter_map(|w| w.parse::<u128>().ok()).max();
    Ok(last.unwrap_or_default().saturating_sub(before.as_nanos()) as f64 / 1e6)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What is written.
#[derive(Serialize)]
struct Report<'a> {
    runs: usize,
    ways: &'a [Way],
    bars: Vec<Verdict>,
}

fn report(ways: &[Way], runs: usize) -> Result<()> {
    let mut bars = Vec::new();
    for (name, of, more, bar) in MEASURES {
        println!("\n{name} (median of {runs} rounds)");
        let bare = median(of(&ways[0].numbers));
        for way in &ways[1..] {
            let own = median(of(&way.numbers));
            let measured = if more { bare / own } else { own / bare };
            let reached = measured <= bar;
            let word = if reached { "reached" } else { "MISSED" };
            println!("  {:<18} {measured:>6.3} of bare  (bar {bar})  {word}", way.name);
            let bar = format!("{name}: {} at most {bar:.2} of bare", way.name);
            bars.push(Verdict { bar, measured, reached });
        }
    }
    let dir = root().join("bench/results");
    let path = Path::new(&dir).join("mpi.json");
    let text =
        serde_json::to_string_pretty(&Report { runs, ways, bars }).map_err(json("the results"))?;
    std::fs::write(&path, text + "\n").map_err(file(&path))?;
    println!("\nwritten: {}", path.display());
    Ok(())
}
