//! Rounds of a row.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use super::peers::{Measure, Tool, Work};
use super::{Entry, LeftOut, Row, Verdict, ids};
use crate::error::{Result, file};
use crate::run::output;

/// What one tool has shown so far.
#[derive(Default)]
struct Samples {
    ms: Vec<f64>,
    resident_kb: u64,
    /// What the scripts afterwards said, by word.
    said: BTreeMap<String, Vec<f64>>,
    failed: Option<String>,
}

/// Measures a row: one round that is not counted, then `runs` that are.
pub(super) fn row(work: &Work, runs: usize, scratch: &Path) -> Result<Row> {
    println!("\n== {}: {runs} rounds over {} tools", work.title, work.tools.len());
    let mut users = Vec::new();
    for tool in &work.tools {
        users.push(ids(tool.user)?);
    }
    let mut samples: Vec<Samples> = work.tools.iter().map(|_| Samples::default()).collect();
    for round in 0..=runs {
        for ((tool, ids), sample) in work.tools.iter().zip(&users).zip(&mut samples) {
            if sample.failed.is_some() {
                continue;
            }
            match once(tool, *ids, scratch)? {
                Ok(run) if round > 0 => {
                    sample.ms.push(run.ms);
                    sample.resident_kb = sample.resident_kb.max(run.resident_kb);
                    for (word, number) in run.said {
                        sample.said.entry(word).or_default().push(number);
                    }
                }
                Ok(_) => {}
                Err(why) => {
                    println!("   {} is left out: {why}", tool.name);
                    sample.failed = Some(why);
                }
            }
        }
    }
    Ok(evaluate(work, runs, samples))
}

fn evaluate(work: &Work, runs: usize, samples: Vec<Samples>) -> Row {
    let (mut entries, mut left_out) = (Vec::new(), Vec::new());
    for (tool, sample) in work.tools.iter().zip(samples) {
        if let Some(why) = sample.failed {
            left_out.push(LeftOut { tool: tool.name.to_owned(), why });
            continue;
        }
        let said = |word: &str| {
            let mut all = sample.said.get(word)?.clone();
            all.sort_by(f64::total_cmp);
            Some(median(&all))
        };
        let mut ms = sample.ms.clone();
        ms.sort_by(f64::total_cmp);
        entries.push(Entry {
            tool: tool.name.to_owned(),
            command: tool.argv.join(" "),
            median_ms: median(&ms),
            min_ms: ms.first().copied().unwrap_or_default(),
            max_ms: ms.last().copied().unwrap_or_default(),
            resident_mb: (sample.resident_kb > 0).then(|| sample.resident_kb as f64 / 1024.0),
            bytes: said("bytes"),
            server_cpu_ms: said("server_cpu_ms"),
            server_mb: said("server_kb").map(|kb| kb / 1024.0),
        });
    }
    let of = |name: &str, what: Measure| {
        let entry = entries.iter().find(|e| e.tool == name)?;
        match what {
            Measure::Time => Some(entry.median_ms),
            Measure::Memory => entry.resident_mb,
            Measure::Size => entry.bytes,
            Measure::ServerCpu => entry.server_cpu_ms,
        }
    };
    let bars = work.bars.iter().filter_map(|bar| {
        let measured = of(bar.ours, bar.of)? / of(bar.peer, bar.of)?;
        let what = match bar.of {
            Measure::Time => "",
            Measure::Memory => "memory of ",
            Measure::Size => "size of ",
            Measure::ServerCpu => "server's processor time of ",
        };
        let text = format!("{what}{} at most {:.2} of {}", bar.ours, bar.most, bar.peer);
        Some(Verdict { bar: text, measured, reached: measured <= bar.most })
    });
    let bars = bars.collect();
    Row { key: work.key.clone(), title: work.title.clone(), runs, entries, left_out, bars }
}

/// What one run has shown.
struct Run {
    ms: f64,
    resident_kb: u64,
    said: Vec<(String, f64)>,
}

/// One run, or why there is none.
fn once(tool: &Tool, ids: (u32, u32), scratch: &Path) -> Result<std::result::Result<Run, String>> {
    if let Some(script) = &tool.before {
        let argv = ["bash", "-euc", script].map(str::to_owned);
        let (status, errors, _) = execute(&argv, tool, ids, scratch)?;
        if !status.success() {
            return Ok(Err(format!("its preparation: {status}: {}", last_lines(&errors))));
        }
    }
    let (status, errors, ms) = execute(&tool.argv, tool, ids, scratch)?;
    if !status.success() {
        return Ok(Err(format!("{status}: {}", last_lines(&errors))));
    }
    let said = match &tool.after {
        Some(script) => {
            let text = output(std::process::Command::new("bash").args(["-euc", script]))?;
            text.lines().filter_map(number).collect()
        }
        None => Vec::new(),
    };
    Ok(Ok(Run { ms, resident_kb: resident(&errors), said }))
}

/// A word and its number.
fn number(line: &str) -> Option<(String, f64)> {
    let (word, number) = line.split_once(' ')?;
    Some((word.to_owned(), number.trim().parse().ok()?))
}

fn last_lines(errors: &str) -> String {
    errors.lines().rev().take(3).collect::<Vec<_>>().join(" / ")
}

fn execute(
    argv: &[String],
    tool: &Tool,
    (uid, gid): (u32, u32),
    scratch: &Path,
) -> Result<(ExitStatus, String, f64)> {
    // A file, not a pipe: a server that outlives the command may keep it.
    let errors = scratch.join("stderr");
    let stderr = File::create(&errors).map_err(file(&errors))?;
    let mut command = Command::new(&argv[0]);
    command
        .args(&argv[1..])
        .env_clear()
        .envs(tool.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&tool.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .uid(uid)
        .gid(gid);
    let start = Instant::now();
    let status = command
        .status()
        .map_err(|source| crate::error::Error::Start { command: argv[0].clone(), source })?;
    let ms = start.elapsed().as_secs_f64() * 1000.0;
    let text = std::fs::read(&errors).map_err(file(&errors))?;
    Ok((status, String::from_utf8_lossy(&text).into_owned(), ms))
}

/// What time(1) wrote, when asked for `resident %M`.
fn resident(errors: &str) -> u64 {
    let last = errors.lines().rev().find_map(|line| line.strip_prefix("resident "));
    last.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// No number where there is none, so that no bar is reached with it.
pub(super) fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[1.0, 2.0, 3.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 3.0, 4.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn memory_is_read_from_the_last_line() {
        assert_eq!(resident("noise\nresident 1234\n"), 1234);
        assert_eq!(resident("noise\n"), 0);
    }
}
