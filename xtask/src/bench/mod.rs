//! `cargo xtask bench`: sampan and its peers, run in turns, as ratios.
//!
//! Every run of a row is one round over all its tools, so that a noisy minute
//! hits them alike. A tool is started directly, by fork and exec, as an
//! ordinary user; the time is from before the fork to after the wait.
//!
//! The rounds happen in a mount namespace that shows a pure cgroup2 hierarchy
//! with a delegated leaf: crun and podman refuse a hybrid one.

mod apptainer;
mod building;
mod files;
mod measure;
mod mpi;
mod peers;
mod report;
mod writing;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, file, json};
use crate::registry::Registry;
use crate::run::{output, root, root_shell, run as execute};
use crate::{fixtures, setup};

/// What is measured, and how often.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    /// Rounds per row.
    runs: usize,
    /// Only these rows; all when empty.
    rows: Vec<String>,
    /// Only tools whose names begin with one of these; all when empty.
    tools: Vec<String>,
    /// Also Apptainer, from a private root of Debian sid.
    apptainer: bool,
}

/// What the measuring process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    options: Options,
    /// sampan's binary.
    sampan: PathBuf,
    /// Where peers' images lie, owned by the ordinary user.
    dir: PathBuf,
    /// The registry, `host:port`.
    registry: String,
    /// The same with TLS, for ch-image.
    registry_tls: String,
    /// Where the results go.
    results: PathBuf,
}

/// The numbers of one tool in one row.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    tool: String,
    /// The command as it was started.
    command: String,
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    /// Of the largest single process, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_mb: Option<f64>,
    /// Length of what it wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<f64>,
    /// Processor time of its file system's server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_cpu_ms: Option<f64>,
    /// Largest resident memory of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_mb: Option<f64>,
}

/// A tool that could not do the work here.
#[derive(Debug, Serialize, Deserialize)]
struct LeftOut {
    tool: String,
    why: String,
}

/// One kind of work.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    key: String,
    title: String,
    runs: usize,
    entries: Vec<Entry>,
    left_out: Vec<LeftOut>,
    bars: Vec<Verdict>,
}

/// A bar that sampan has to reach.
#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    bar: String,
    measured: f64,
    reached: bool,
}

const USAGE: &str =
    "cargo xtask bench [--runs N] [--rows KEY,KEY] [--tools NAME,NAME] [--with apptainer]";

fn parse(args: &[&str]) -> Result<Options> {
    let usage = || Error::Usage(USAGE);
    let mut options = Options { runs: 30, rows: Vec::new(), tools: Vec::new(), apptainer: false };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(usage)?;
        match *word {
            "--runs" => options.runs = value.parse().map_err(|_| usage())?,
            "--rows" => options.rows = value.split(',').map(str::to_owned).collect(),
            "--tools" => options.tools = value.split(',').map(str::to_owned).collect(),
            "--with" if *value == "apptainer" => options.apptainer = true,
            _ => return Err(usage()),
        }
    }
    if options.runs == 0 {
        return Err(usage());
    }
    Ok(options)
}

pub(crate) fn run(args: &[&str]) -> Result<()> {
    if let ["mpi", rest @ ..] = args {
        return mpi::run(rest);
    }
    let options = parse(args)?;
    setup::run()?;
    let sampan = setup::binary()?;
    let registry = Registry::start(&fixtures::make()?)?;
    let tls = Registry::with_tls()?;
    let dir = setup::shared()?.join("bench");
    let job = Job {
        options,
        sampan,
        results: dir.join("results.json"),
        dir,
        registry: registry.address.clone(),
        registry_tls: tls.address.clone(),
    };
    peers::prepare(&job)?;
    if job.options.apptainer {
        crate::apptainer::prepare()?;
    }
    let _ = std::fs::remove_file(&job.results);
    let ended = inside(&job);
    // What was measured before something failed counts.
    if let Ok(text) = std::fs::read(&job.results) {
        let rows: Vec<Row> = serde_json::from_slice(&text).map_err(json("the results"))?;
        report::write(rows, &root().join("bench/results"))?;
    }
    ended
}

/// Goes on as root in a namespace with a pure cgroup2.
fn inside(job: &Job) -> Result<()> {
    let program = std::env::current_exe().map_err(file(Path::new("/proc/self/exe")))?;
    let text = serde_json::to_string(job).map_err(json("the job"))?;
    let script = format!(
        "exec unshare --mount --propagation private bash -euo pipefail -c '\
           mount -t cgroup2 none /sys/fs/cgroup; leaf=/sys/fs/cgroup/sampan-bench; \
           mkdir -p $leaf/run; chown -R {user} $leaf; echo $$ >$leaf/run/cgroup.procs; \
           exec \"$0\" bench-inside \"$1\"' \"$1\" \"$2\"",
        user = setup::SUBID_USER,
    );
    let mut command = root_shell(&script);
    execute(command.arg("bench").arg(program).arg(text))
}

/// The measuring process.
pub(crate) fn measure(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job).map_err(json("the job"))?;
    let mut rows = Vec::new();
    let scratch = job.results.parent().unwrap_or(Path::new("/tmp")).to_owned();
    let apptainer = job.options.apptainer.then(|| apptainer::Apptainer::enter(&job)).transpose()?;
    let tools = &job.options.tools;
    for mut work in peers::works(&job, apptainer.as_ref())? {
        let chosen = |name: &str| tools.is_empty() || tools.iter().any(|t| name.starts_with(t));
        work.tools.retain(|tool| chosen(tool.name));
        let wanted = |key: &String| work.key == *key || work.key.starts_with(&format!("{key}-"));
        if job.options.rows.is_empty() || job.options.rows.iter().any(wanted) {
            rows.push(measure::row(&work, job.options.runs, &scratch)?);
            let text = serde_json::to_vec(&rows).map_err(json("the results"))?;
            std::fs::write(&job.results, text).map_err(file(&job.results))?;
        }
    }
    files::end(&job)
}

/// A user's numeric ids.
fn ids(user: &str) -> Result<(u32, u32)> {
    let id = |flag| -> Result<u32> {
        let text = output(Command::new("id").args([flag, user]))?;
        text.trim().parse().map_err(|_| Error::User(user.to_owned()))
    };
    Ok((id("-u")?, id("-g")?))
}
