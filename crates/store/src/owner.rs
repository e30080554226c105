//! Who holds a lock, a lease or a temporary file, and whether it still lives.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use types::Digest;

/// The process that made a lock or a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Host name, uname(2).
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`; empty where there is no /proc.
    pub boot_id: String,
    /// Inode number of the PID namespace, pid_namespaces(7); 0 when unknown.
    pub pid_ns: u64,
    /// The process, in that namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of proc_pid_stat(5).
    pub pid_start_time: u64,
    /// Unique to this lock or lease.
    pub token: String,
}

/// What can be known about an owner from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It lives.
    Alive,
    /// It has ended.
    Dead,
    /// Another machine, boot or PID namespace.
    Unknown,
}

impl Owner {
    /// Another process of this PID namespace, with a new token; None when there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let pid_start_time = stat(&pid.to_string()).filter(|stat| !stat.dead)?.start_time;
        Some(Self { pid, pid_start_time, ..Self::current() })
    }

    /// This process, with a new token.
    #[must_use]
    pub fn current() -> Self {
        let pid = std::process::id();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // A /proc of another PID namespace numbers processes otherwise; then
        // nothing said here about PIDs could be compared.
        let own_proc =
            fs::read_link("/proc/self").is_ok_and(|p| p.as_os_str() == &*pid.to_string());
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            boot_id: boot_id.trim().to_owned(),
            pid_ns: if own_proc { pid_namespace() } else { 0 },
            pid,
            pid_start_time: stat("self").map_or(0, |stat| stat.start_time),
            token: token(pid),
        }
    }

    fn is_here(&self, here: &Self) -> bool {
        self.host == here.host
            && !self.boot_id.is_empty()
            && self.boot_id == here.boot_id
            && self.pid_ns != 0
            && self.pid_ns == here.pid_ns
    }

    /// Whether the owner lives, as far as `here` (this process) can know.
    #[must_use]
    pub fn liveness(&self, here: &Self) -> Liveness {
        if self.is_here(here) { alive(self.pid, self.pid_start_time) } else { Liveness::Unknown }
    }

    /// What host, boot and PID namespace hash to.
    fn machine(&self) -> String {
        let text = format!("{}\n{}\n{}", self.host, self.boot_id, self.pid_ns);
        let digest = Digest::sha256(&Sha256::digest(text.as_bytes()).into());
        let usable = !self.boot_id.is_empty() && self.pid_ns != 0;
        if usable { digest.hex()[..16].to_owned() } else { "unknown".to_owned() }
    }

    /// How the names of this process's files in `tmp` begin.
    pub(crate) fn process_prefix(&self) -> String {
        format!("{}.{}.{}.", self.machine(), self.pid, self.pid_start_time)
    }

    /// How the names of this owner's files in `tmp` begin.
    pub(crate) fn temp_prefix(&self) -> String {
        format!("{}{}", self.process_prefix(), self.token)
    }

    /// Whether the owner of a file in `tmp` lives; None when the name is not
    /// one that a store gives.
    pub(crate) fn temp_liveness(name: &str, here: &Self) -> Option<Liveness> {
        let mut parts = name.split('.');
        let machine = parts.next()?;
        let pid: u32 = parts.next()?.parse().ok()?;
        let start: u64 = parts.next()?.parse().ok()?;
        let token = parts.next()?;
        let known = machine == "unknown"
            || (machine.len() == 16 && machine.bytes().all(|b| b.is_ascii_hexdigit()));
        if !known || token.len() != 32 || parts.count() < 2 {
            return None;
        }
        let comparable = machine != "unknown" && machine == here.machine();
        Some(if comparable { alive(pid, start) } else { Liveness::Unknown })
    }
}

/// A name for something that this process makes and that may outlive it; what it is
/// for ends the name. [`is_left`] knows such names.
#[must_use]
pub fn temporary_name(what: &str) -> String {
    format!("{}.0.{what}", Owner::current().temp_prefix())
}

/// Whether something is left by a process that has ended: one of [`temporary_name`],
/// perhaps behind a dot, whose maker is dead. What is of another machine, or has
/// another name, is left when nothing has changed it for so long.
#[must_use]
pub fn is_left(path: &Path, longest: Duration) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix('.').unwrap_or(&name);
    match Owner::temp_liveness(name, &Owner::current()) {
        Some(Liveness::Alive) => false,
        Some(Liveness::Dead) => true,
        Some(Liveness::Unknown) | None => {
            let changed = fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
            changed.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > longest)
        }
    }
}

fn token(pid: u32) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut random = [0u8; 16];
    // Without random bytes the time, the process and the count still make the
    // token unique on one machine.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
    let mut hash = Sha256::new();
    hash.update(random);
    hash.update(pid.to_ne_bytes());
    hash.update(COUNT.fetch_add(1, Ordering::Relaxed).to_ne_bytes());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    hash.update(now.as_nanos().to_ne_bytes());
    Digest::sha256(&hash.finalize().into()).hex()[..32].to_owned()
}

/// The number in `pid:[4026531836]`.
fn pid_namespace() -> u64 {
    fs::read_link("/proc/self/ns/pid")
        .ok()
        .and_then(|link| {
            let text = link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.to_owned();
            text.parse().ok()
        })
        .unwrap_or(0)
}

struct Stat {
    dead: bool,
    start_time: u64,
}

/// Reads `/proc/<who>/stat`, proc_pid_stat(5).
fn stat(who: &str) -> Option<Stat> {
    let text = fs::read(format!("/proc/{who}/stat")).ok()?;
    // The command's name is in parentheses and can hold any byte.
    let end = text.iter().rposition(|b| *b == b')')?;
    let fields = std::str::from_utf8(&text[end + 1..]).ok()?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let state = *fields.first()?;
    let threads: u64 = fields.get(17)?.parse().ok()?;
    // A zombie leader with living threads is a living process.
    let dead = matches!(state, "Z" | "X" | "x") && threads <= 1;
    Some(Stat { dead, start_time: fields.get(19)?.parse().ok()? })
}

/// Whether a process of this PID namespace lives, and has not just not been waited
/// for. Of one that /proc hides it is taken for granted.
#[must_use]
pub fn process_lives(pid: u32) -> bool {
    match stat(&pid.to_string()) {
        Some(stat) => !stat.dead,
        None => unseen(pid) != Liveness::Dead,
    }
}

/// Whether process `pid` of this machine lives and is the one that started at
/// `start_time`.
fn alive(pid: u32, start_time: u64) -> Liveness {
    match stat(&pid.to_string()) {
        Some(stat) if !stat.dead && stat.start_time == start_time => Liveness::Alive,
        Some(_) => Liveness::Dead,
        None => unseen(pid),
    }
}

/// Of a process that is not in /proc: gone, or hidden by hidepid=. kill(2) tells
/// the two apart.
fn unseen(pid: u32) -> Liveness {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    match pid.map(rustix::process::test_kill_process) {
        None | Some(Err(rustix::io::Errno::SRCH)) => Liveness::Dead,
        Some(_) => Liveness::Alive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn this_process_lives_and_a_reaped_one_does_not() {
        let here = Owner::current();
        assert_eq!(here.liveness(&Owner::current()), Liveness::Alive);
        let mut reused = here.clone();
        reused.pid_start_time += 1;
        assert_eq!(reused.liveness(&here), Liveness::Dead, "a reused PID is another process");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut gone = here.clone();
        gone.pid = child.id();
        child.wait().unwrap();
        assert_eq!(gone.liveness(&here), Liveness::Dead);
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut owner = Owner::current();
        owner.pid = child.id();
        owner.pid_start_time = stat(&child.id().to_string()).unwrap().start_time;
        assert_eq!(owner.liveness(&Owner::current()), Liveness::Alive);
        child.kill().unwrap();
        while owner.liveness(&Owner::current()) == Liveness::Alive {
            std::thread::yield_now();
        }
        assert_eq!(owner.liveness(&Owner::current()), Liveness::Dead);
        child.wait().unwrap();
    }

    #[test]
    fn others_are_not_judged() {
        let here = Owner::current();
        let changes: [fn(&mut Owner); 5] = [
            |o| o.host.push('x'),
            |o| o.boot_id.push('x'),
            |o| o.boot_id.clear(),
            |o| o.pid_ns += 1,
            |o| o.pid_ns = 0,
        ];
        for change in changes {
            let mut other = here.clone();
            other.pid_start_time += 1;
            change(&mut other);
            assert_eq!(other.liveness(&here), Liveness::Unknown);
        }
    }

    #[test]
    fn what_the_dead_have_left_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let (long, short) = (Duration::from_secs(3600), Duration::from_secs(1));
        let left = |name: &str, longest| {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            let old = SystemTime::now() - Duration::from_secs(60);
            File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
            is_left(&path, longest)
        };
        let own = temporary_name("x");
        assert!(!left(&own, short) && !left(&format!(".{own}"), short));
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let other = Owner::of(child.id()).unwrap();
        let other = format!(".{}.0.x", other.temp_prefix());
        assert!(!left(&other, short));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(left(&other, long));
        // Of another boot, and of nobody.
        let mut elsewhere = Owner::current();
        elsewhere.boot_id.push('x');
        for name in [format!("{}.0.x", elsewhere.temp_prefix()), "4711".to_owned()] {
            assert!(!left(&name, long) && left(&name, short), "{name}");
        }
    }

    #[test]
    fn temporary_names_tell_their_owner() {
        let here = Owner::current();
        let name = format!("{}.0.sqfs", here.temp_prefix());
        assert_eq!(Owner::temp_liveness(&name, &here), Some(Liveness::Alive));
        let mut other = here.clone();
        other.pid_start_time += 1;
        let name = format!("{}.0.sqfs", other.temp_prefix());
        assert_eq!(Owner::temp_liveness(&name, &here), Some(Liveness::Dead));
        other.host.push('x');
        let name = format!("{}.0.sqfs", other.temp_prefix());
        assert_eq!(Owner::temp_liveness(&name, &here), Some(Liveness::Unknown));
        for foreign in ["notes.txt", "a.1.2.3.4.5", "", "unknown.1.2.x"] {
            assert_eq!(Owner::temp_liveness(foreign, &here), None, "{foreign}");
        }
    }
}
