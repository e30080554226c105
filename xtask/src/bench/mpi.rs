//! `cargo xtask bench mpi`: MPI in a container against the same program bare.
//!
//! Two ranks on this machine: latency, bandwidth, a stencil; and 200 processes
//! that a launcher starts, MPICH's own and Slurm's srun on one node of a test
//! cluster. Bare, in a container with the image's MPI, and in one with the
//! host's, in turns.

use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use cluster::Cluster;
use serde::Serialize;

use crate::error::{Error, Result, file, json};
use crate::registry::Registry;
use crate::run::{output, root, user_shell};
use crate::{fixtures, setup, spank};

/// What one way of running is measured by, one value a round.
#[derive(Debug, Default, Serialize)]
struct Numbers {
    latency_us: Vec<f64>,
    bandwidth_mb: Vec<f64>,
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
    #[serde(flatten)]
    numbers: Numbers,
}

/// A measure: its name, where it is, whether more is better, and the bar.
type Measure = (&'static str, fn(&Numbers) -> &Vec<f64>, bool, f64);

const MEASURES: [Measure; 5] = [
    ("latency, 8 bytes", |n| &n.latency_us, false, 1.02),
    ("bandwidth, 4 MiB", |n| &n.bandwidth_mb, true, 1.02),
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
    let image = format!("{}/mpich:latest", registry.address);
    let store = "--store $HOME/bench-store";
    let cluster = Cluster::start(&spank::build()?, &sampan, setup::USER).map_err(Error::Cluster)?;
    let sampan = sampan.display();
    output(&mut user(&format!("{sampan} {store} pull -q {image}")))?;
    let way = |name, command| Way { name, command, numbers: Numbers::default() };
    let mut ways = [
        way("bare", hosts.join("mpi_check.mpich").display().to_string()),
        way("the image's MPI", format!("{sampan} {store} run {image} mpi_check")),
        way("the host's MPI", format!("{sampan} {store} run --mpi=host {image} mpi_check")),
    ];
    for round in 0..runs {
        eprint!("\rround {} of {runs}", round + 1);
        for way in &mut ways {
            measure(way, &cluster)?;
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

fn measure(way: &mut Way, cluster: &Cluster) -> Result<()> {
    let two = |mode: &str| {
        let text =
            output(&mut user(&format!("mpiexec.hydra -n 2 -bind-to core {} {mode}", way.command)))?;
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        Ok::<_, Error>(numbers)
    };
    let (exchange, stencil) = (two("pingpong")?, two("stencil")?);
    let [latency, bandwidth] = exchange[..] else { return Err(Error::Usage(USAGE)) };
    way.numbers.latency_us.push(latency);
    way.numbers.bandwidth_mb.push(bandwidth);
    way.numbers.stencil_s.extend(stencil.first());
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

fn report(ways: &[Way], runs: usize) -> Result<()> {
    for (name, of, more, bar) in MEASURES {
        println!("\n{name} (median of {runs} rounds)");
        let bare = median(of(&ways[0].numbers));
        for way in ways {
            let own = median(of(&way.numbers));
            let cost = if more { bare / own } else { own / bare };
            let verdict = match way.name {
                "bare" => "",
                _ if cost <= bar => "reached",
                _ => "MISSED",
            };
            println!("  {:<18} {cost:>6.3} of bare  (bar {bar})  {verdict}", way.name);
        }
    }
    let dir = root().join("bench/results");
    let path = Path::new(&dir).join("mpi.json");
    let text = serde_json::to_string_pretty(ways).map_err(json("the results"))?;
    std::fs::write(&path, text + "\n").map_err(file(&path))?;
    println!("\nwritten: {}", path.display());
    Ok(())
}
