//! What an instance uses, from /proc of its processes (proc(5)): whoever starts an
//! ordinary user's processes gives them no control group of their own.
//!
//! A process belongs to an instance when it is in its PID namespace or one below: those
//! that this process may look at, which are the user's own.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::Instance;

/// What an instance uses at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Processor time since the last sample, in percent of one processor.
    pub cpu_percent: f64,
    /// Processor time of its processes and of those of them that have ended, in seconds.
    pub cpu_seconds: f64,
    /// Memory in bytes, a page that is shared counted in parts (`Pss`).
    pub memory: u64,
    /// What it may use at most: the lowest limit of its control groups, or what the
    /// machine has.
    pub memory_limit: u64,
    /// Bytes that were read from disks.
    pub block_read: u64,
    /// Bytes that were written to disks.
    pub block_written: u64,
    /// How many processes there are.
    pub processes: usize,
    /// How many threads they have.
    pub threads: u64,
}

/// Looks at an instance again and again.
pub struct Sampler {
    namespace: PathBuf,
    pid: u32,
    limit: u64,
    last: Option<(Instant, f64)>,
}

/// What one process uses.
#[derive(Default)]
struct Use {
    ticks: u64,
    threads: u64,
    memory: u64,
    read: u64,
    written: u64,
}

impl Sampler {
    /// None when the instance has ended.
    #[must_use]
    pub fn new(instance: &Instance) -> Option<Self> {
        let running = instance.open().ok()?;
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", instance.pid)).ok()?;
        let limit = limit(instance.pid);
        // It was this one's until now.
        let alive = !running.ended(std::time::Duration::ZERO).ok()?;
        alive.then_some(Self { namespace, pid: instance.pid, limit, last: None })
    }

    /// What is used now; None when the instance has ended.
    pub fn sample(&mut self) -> Option<Stats> {
        let own = fs::read_link(format!("/proc/{}/ns/pid", self.pid)).ok()?;
        if own != self.namespace {
            return None;
        }
        let now = Instant::now();
        let mut stats = Stats { memory_limit: self.limit, ..Stats::default() };
        let mut ticks = 0_u64;
        for dir in self.members() {
            // It may have ended meanwhile.
            let Some(one) = usage(&dir) else { continue };
            ticks += one.ticks;
            stats.memory += one.memory;
            stats.block_read += one.read;
            stats.block_written += one.written;
            stats.threads += one.threads;
            stats.processes += 1;
        }
        stats.cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        if let Some((then, seconds)) = self.last {
            let time = now.duration_since(then).as_secs_f64();
            // What has ended unseen is no longer counted.
            stats.cpu_percent = (stats.cpu_seconds - seconds).max(0.0) / time.max(1e-3) * 100.0;
        }
        self.last = Some((now, stats.cpu_seconds));
        Some(stats)
    }

    /// The directories in /proc of its processes.
    fn members(&self) -> Vec<PathBuf> {
        let mut parents: HashMap<u32, (PathBuf, u32, bool)> = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(namespace) = fs::read_link(entry.path().join("ns/pid")) else { continue };
            let Some(fields) = stat(&entry.path()) else { continue };
            let parent = fields.get(1).copied().unwrap_or_default() as u32;
            parents.insert(pid, (entry.path(), parent, namespace == self.namespace));
        }
        let inside = |mut pid: u32| {
            // A namespace below is one of a descendant.
            for _ in 0..parents.len() {
                match parents.get(&pid) {
                    Some((_, _, true)) => return true,
                    Some((_, parent, false)) => pid = *parent,
                    None => return false,
                }
            }
            false
        };
        let all = parents.iter().filter(|(pid, _)| inside(**pid));
        all.map(|(_, (dir, ..))| dir.clone()).collect()
    }
}

/// The fields of /proc/PID/stat from the state on, which reads as 0.
fn stat(dir: &Path) -> Option<Vec<u64>> {
    let text = fs::read(dir.join("stat")).ok()?;
    // The name may hold anything, parentheses among it.
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = String::from_utf8_lossy(&text[end + 1..]);
    Some(rest.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
}

fn usage(dir: &Path) -> Option<Use> {
    let fields = stat(dir)?;
    // utime, stime, and those of children that were waited for; num_threads; rss.
    let ticks = fields.get(11..15)?.iter().sum();
    let (threads, resident) = (*fields.get(17)?, *fields.get(21)?);
    let page = rustix::param::page_size() as u64;
    let memory = labelled(&dir.join("smaps_rollup"), "Pss:").map(|kilobytes| kilobytes << 10);
    let io = dir.join("io");
    Some(Use {
        ticks,
        threads,
        memory: memory.unwrap_or(resident.saturating_mul(page)),
        read: labelled(&io, "read_bytes:").unwrap_or(0),
        written: labelled(&io, "write_bytes:").unwrap_or(0),
    })
}

/// The number behind a word at the beginning of a line.
fn labelled(path: &Path, label: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The lowest memory limit of the control groups (cgroups(7), version 2) that a process
/// is in, in bytes, or the machine's memory.
fn limit(pid: u32) -> u64 {
    let all = labelled(Path::new("/proc/meminfo"), "MemTotal:").unwrap_or(0) << 10;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let max = |group: &Path| {
        let file = Path::new("/sys/fs/cgroup").join(group).join("memory.max");
        fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    };
    Path::new(group).ancestors().filter_map(max).fold(all, u64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let own = usage(Path::new("/proc/self")).unwrap();
        assert!(own.memory > 1 << 16 && own.threads >= 1);
        let limit = limit(std::process::id());
        assert!(limit > own.memory, "{limit}");
        assert!(usage(Path::new("/proc/0")).is_none());
    }
}
