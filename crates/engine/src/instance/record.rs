//! What is written down of instances, and who may have a name.
//!
//! `SCRATCH/sampan-UID/instances/NODE` holds, for each instance of a node:
//!
//! | file | what |
//! |---|---|
//! | `NAME.PID-START.json` | the [`Record`]; PID and START are those of the process that started it |
//! | `NAME.out`, `NAME.err` | what the instance writes; kept until the name is used again |
//! | `….new` | a record that is being written |
//!
//! There is no lock, and none is left behind: a record names a process by number, start,
//! boot and PID namespace, and counts as long as that process lives. Who finds one whose
//! process has ended removes it; no file name comes twice, so nothing else is ever hit.
//!
//! A name is had by one: who starts an instance writes a record in state `claiming`
//! under a file name of its own, and then looks at the others of that name. One that is
//! `starting` or `running` has the name. Of those that are `claiming`, each waits for
//! all with a higher key (start, PID) and gives way to one with a lower. Each writes
//! before it looks, so of two at least one sees the other; the lowest never gives way.
//! Who sees no other writes `starting`, and has the name. When the instance runs, the
//! record is replaced by one in state `running`, of the instance's init.
//!
//! Format 1. A crash leaves a record whose process is dead, or a `….new`, which goes with
//! the next start on that node.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plan::{Bounds, RootSource};
use serde::{Deserialize, Serialize};
use store::{Liveness, Owner};
use types::ImageConfig;

use crate::named::component;
use crate::{Error, Result};

/// The version of what is written.
const FORMAT: u32 = 1;
/// Longest record that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// How long a claim waits for others to give way; they need microseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// The wait between two looks.
const TICK: Duration = Duration::from_millis(2);

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Somebody wants the name.
    Claiming,
    /// Somebody has it, and makes the container.
    Starting,
    /// The instance runs.
    Running,
}

/// An instance, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of what is written.
    pub format: u32,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// Its init; before it runs, the process that starts it.
    pub owner: Owner,
    /// Seconds since 1970 at which it was started.
    pub started_at: u64,
    /// What it is; nothing before it runs.
    pub container: Option<Inside>,
}

/// What whoever enters an instance has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// What a person called the image; a path is absolute.
    pub image: String,
    /// The digest of an image of the store.
    pub digest: Option<String>,
    /// Where the image is.
    pub root: RootSource,
    /// What the image says of its process.
    pub config: ImageConfig,
    /// Whether the image's scripts are honoured.
    pub scripts: bool,
    /// The home directory inside.
    pub home: PathBuf,
    /// What the site, the host and the user's devices have added to the environment;
    /// None unsets.
    pub env: Vec<(String, Option<String>)>,
    /// What binds those who enter.
    pub bounds: Bounds,
}

/// The files of a node's instances.
pub(super) struct Place {
    dir: PathBuf,
    here: Owner,
}

/// A record, its file, and whether its process lives.
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) path: PathBuf,
    pub(super) life: Liveness,
}

/// A name that this process has, until this is dropped or the process ends.
pub(super) struct Claim {
    pub(super) record: Record,
    path: PathBuf,
    /// Whether an instance has the name now.
    kept: bool,
}

impl Place {
    /// The directory is there already.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, here: Owner::current() }
    }

    /// Where the instance of a name writes, `out` or `err`.
    pub(super) fn log(&self, name: &str, stream: &str) -> PathBuf {
        self.dir.join(format!("{name}.{stream}"))
    }

    /// The records, those of dead processes left out and removed.
    pub(super) fn records(&self) -> Result<Vec<Found>> {
        let failed = |source| Error::InstanceFile { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|end| end == "json") {
                all.extend(self.living(path)?);
            }
        }
        all.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(all)
    }

    /// A record, unless its process is dead: then the file goes. Its process may have
    /// replaced it by the instance's and ended meanwhile; a dead one does so no more.
    fn living(&self, path: PathBuf) -> Result<Option<Found>> {
        let Some(mut record) = read(&path)? else { return Ok(None) };
        loop {
            let life = self.life(&record.owner);
            if life != Liveness::Dead {
                return Ok(Some(Found { record, path, life }));
            }
            let Some(again) = read(&path)? else { return Ok(None) };
            if again == record {
                forget(&path)?;
                return Ok(None);
            }
            record = again;
        }
    }

    /// Whether a process lives. One of an earlier boot of this node does not.
    fn life(&self, owner: &Owner) -> Liveness {
        let here = &self.here;
        let boots = [&owner.boot_id, &here.boot_id];
        let earlier = boots[0] != boots[1] && boots.iter().all(|boot| !boot.is_empty());
        match owner.liveness(here) {
            Liveness::Unknown if owner.host == here.host && earlier => Liveness::Dead,
            life => life,
        }
    }

    /// Takes a name, as long as this process lives.
    pub(super) fn claim(&self, name: &str, started_at: u64) -> Result<Claim> {
        let name = component(name)?.to_owned();
        self.tidy();
        let owner = self.here.clone();
        let file = format!("{name}.{}-{}.json", owner.pid, owner.pid_start_time);
        let state = State::Claiming;
        let record = Record { format: FORMAT, name, state, owner, started_at, container: None };
        let mut claim = Claim { record, path: self.dir.join(file), kept: false };
        claim.write()?;
        self.wait(&claim)?;
        claim.record.state = State::Starting;
        claim.write()?;
        Ok(claim)
    }

    /// Waits until nobody else wants the name.
    fn wait(&self, claim: &Claim) -> Result<()> {
        let begun = Instant::now();
        loop {
            let others = self.records()?.into_iter();
            let mut others =
                others.filter(|one| one.record.name == claim.record.name && one.path != claim.path);
            let Some(first) = others.next() else { return Ok(()) };
            let gives_way = |other: &Found| {
                other.record.state != State::Claiming || key(&other.record) < key(&claim.record)
            };
            let over = begun.elapsed() > PATIENCE;
            let mut all = std::iter::once(first).chain(others);
            if let Some(other) = all.find(|other| over || gives_way(other)) {
                return Err(taken(&other));
            }
            std::thread::sleep(TICK);
        }
    }

    /// Removes what a crash has left half written.
    fn tidy(&self) {
        let old = |path: &Path| {
            let age = fs::metadata(path).and_then(|meta| meta.modified());
            age.is_ok_and(|then| then.elapsed().is_ok_and(|age| age > 2 * PATIENCE))
        };
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "new") && old(&path) {
                // The next start tries again.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Who waits for whom.
fn key(record: &Record) -> (u64, u32) {
    (record.owner.pid_start_time, record.owner.pid)
}

fn taken(other: &Found) -> Error {
    let Record { name, state, owner, .. } = &other.record;
    let (name, pid) = (name.clone(), owner.pid);
    match (state, other.life) {
        (_, Liveness::Unknown) => Error::InstanceElsewhere { name, node: owner.host.clone() },
        (State::Running, _) => Error::InstanceExists { name, pid },
        _ => Error::InstanceStarts { name, pid },
    }
}

impl Claim {
    /// Replaces what is written.
    pub(super) fn write(&self) -> Result<()> {
        let new = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file =
                fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec(&self.record)?)?;
            drop(file);
            fs::rename(&new, &self.path)
        };
        write().map_err(|source| Error::InstanceFile { path: self.path.clone(), source })
    }

    /// Leaves the record to the instance.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            // One that stays is the record of a process that ends now.
            let _ = forget(&self.path);
        }
    }
}

/// Removes a record; one that is gone already is as good.
pub(super) fn forget(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::InstanceFile { path: path.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

/// Reads a record; None when it is gone.
fn read(path: &Path) -> Result<Option<Record>> {
    let read = || -> io::Result<Record> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file =
            fs::File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        let mut bytes = Vec::new();
        file.take(LONGEST).read_to_end(&mut bytes)?;
        let record: Record = serde_json::from_slice(&bytes)?;
        match record.format {
            FORMAT => Ok(record),
            other => Err(io::Error::other(format!("format {other} is not known: {FORMAT} is"))),
        }
    };
    match read() {
        Ok(record) => Ok(Some(record)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::InstanceRecord { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned());
        (dir, place)
    }

    /// A record of another process, as it would have written it.
    fn other(place: &Place, state: State, change: impl FnOnce(&mut Owner)) -> PathBuf {
        let mut owner = Owner::of(1).unwrap();
        change(&mut owner);
        let path = place.dir.join(format!("a.{}-{}.json", owner.pid, owner.pid_start_time));
        let (name, container) = ("a".to_owned(), None);
        let record = Record { format: FORMAT, name, state, owner, started_at: 1, container };
        Claim { record, path: path.clone(), kept: true }.write().unwrap();
        path
    }

    #[test]
    fn a_name_is_had_once() {
        let (_dir, place) = place();
        let claim = place.claim("a", 1).unwrap();
        assert_eq!(place.records().unwrap()[0].record.state, State::Starting);
        let running = other(&place, State::Running, |_| ());
        assert!(matches!(place.wait(&claim), Err(Error::InstanceExists { .. })));
        forget(&running).unwrap();
        other(&place, State::Starting, |_| ());
        assert!(matches!(place.wait(&claim), Err(Error::InstanceStarts { .. })));
        assert!(place.claim("b", 1).is_ok());
        drop(claim);
        for bad in ["", ".", "..", "a/b", "a\nb", &"x".repeat(65)] {
            assert!(matches!(place.claim(bad, 1), Err(Error::NoContainerName { .. })), "{bad}");
        }
    }

    #[test]
    fn of_two_that_claim_the_lower_one_wins() {
        let (_dir, place) = place();
        // Process 1 is older than this one.
        let path = other(&place, State::Claiming, |_| ());
        assert!(matches!(place.claim("a", 1), Err(Error::InstanceStarts { .. })));
        assert_eq!(place.records().unwrap().len(), 1, "who gives way leaves nothing");
        forget(&path).unwrap();
        // A later one: it gives way, which this one waits for.
        let mut later = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let path = other(&place, State::Claiming, |owner| {
            *owner = Owner::of(later.id()).unwrap();
            owner.pid_start_time = owner.pid_start_time.max(place.here.pid_start_time);
        });
        let gone = path.clone();
        let helper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            forget(&gone).unwrap();
        });
        let claimed = place.claim("a", 1);
        let waited = !path.exists();
        helper.join().unwrap();
        later.kill().unwrap();
        later.wait().unwrap();
        assert!(claimed.is_ok() && waited);
    }

    #[test]
    fn the_dead_are_removed_and_others_are_not_touched() {
        let (_dir, place) = place();
        let dead = other(&place, State::Running, |owner| owner.pid_start_time += 1);
        assert!(place.records().unwrap().is_empty() && !dead.exists());
        let before = other(&place, State::Running, |owner| owner.boot_id.push('x'));
        assert!(place.records().unwrap().is_empty() && !before.exists(), "of an earlier boot");
        let elsewhere = other(&place, State::Running, |owner| {
            owner.host.push('x');
            owner.pid_start_time += 1;
        });
        assert_eq!(place.records().unwrap()[0].life, Liveness::Unknown);
        assert!(elsewhere.exists());
        assert!(matches!(place.claim("a", 1), Err(Error::InstanceElsewhere { .. })));
    }

    #[test]
    fn damage_is_named() {
        let (_dir, place) = place();
        let path = place.dir.join("a.1-2.json");
        for bytes in [&b"{"[..], b"", b"{\"format\":2}", &[b' '; 64]] {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(place.records(), Err(Error::InstanceRecord { .. })), "{bytes:?}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(place.records().is_err());
    }
}
