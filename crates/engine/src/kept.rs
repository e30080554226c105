//! Answers about the libraries of host and image, kept for the next start.
//!
//! All ranks of a node ask the same, and finding out takes longer than the rest
//! of a start. So the first one writes down what it found and what of the host
//! it looked at, and the others check that all of that is as it was
//! ([`host::watch`]).
//!
//! ```text
//! SCRATCH/sampan-UID/run/libraries-KEY         "sampan-libraries-1", SHA-256 of the rest, the rest
//! SCRATCH/sampan-UID/run/libraries-KEY.lock    who finds out holds this (flock(2): scratch is local)
//! SCRATCH/sampan-UID/run/.libraries-KEY.PID    one that is being written
//! ```
//!
//! KEY is a digest of everything else that the answer depends on: image file,
//! node, configuration, devices, search paths, version. The rest is postcard's
//! form of the stamps and the answer. What is damaged, of another version or out
//! of date is found out again and replaced; a killed writer leaves a file with a
//! point. Whatever fails, a container finds out by itself. What is older than a
//! day goes when something new is written.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use host::DirectoryTree;
use host::watch::{Stamps, WatchedTree, unchanged};
use plan::{Contribution, SearchTree};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What libraries add to a container, and what should be known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) contributions: Vec<Contribution>,
    pub(crate) warnings: Vec<String>,
}

/// Where an answer is kept.
pub(crate) struct Place {
    dir: PathBuf,
    name: String,
}

/// How the file begins; the number is that of its form.
const MAGIC: &[u8] = b"sampan-libraries-1";
/// How its name begins.
const PREFIX: &str = "libraries-";
/// Bytes of a SHA-256.
const DIGEST: usize = 32;
/// More than any answer has, in bytes.
const LIMIT: u64 = 64 << 20;
/// How long a start waits for another one that finds out.
const PATIENCE: Duration = Duration::from_secs(10);
/// The waits between two looks, which double.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(16)];
/// Older ones go.
const STALE: Duration = Duration::from_secs(86_400);

impl Place {
    /// A place in a directory of the user alone, for one set of questions; None
    /// where they cannot be written down.
    pub(crate) fn new(dir: &Path, questions: &impl Serialize) -> Option<Self> {
        let text = postcard::to_allocvec(questions).ok()?;
        let digest = Sha256::digest(text);
        let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { dir: dir.to_owned(), name: format!("{PREFIX}{hex}") })
    }

    /// The answer that is kept, or else the one that `find` finds, which is kept
    /// from then on. Of several that ask at once, one finds out.
    pub(crate) fn once<E>(
        &self,
        host: &DirectoryTree,
        find: impl FnOnce(&dyn SearchTree) -> Result<Answer, E>,
    ) -> Result<Answer, E> {
        if let Some(answer) = self.read(host) {
            return Ok(answer);
        }
        // Held to the end.
        let lock = match self.wait(host) {
            Ok(Waited::Answer(answer)) => return Ok(answer),
            Ok(Waited::Lock(lock)) => Some(lock),
            Err(error) => {
                tracing::debug!("no answer about libraries is shared: {error}");
                None
            }
        };
        let watched = WatchedTree::new(host);
        let answer = find(&watched)?;
        if lock.is_some()
            && let Err(error) = self.write(&watched.into_stamps(), &answer)
        {
            tracing::debug!("the answer about libraries is not kept: {error}");
        }
        Ok(answer)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    fn lock(&self) -> PathBuf {
        self.dir.join(format!("{}.lock", self.name))
    }

    /// Waits for the lock, or for the answer of another one that has it.
    fn wait(&self, host: &DirectoryTree) -> io::Result<Waited> {
        let lock = File::options().create(true).truncate(false).write(true).open(self.lock())?;
        let (start, [mut pause, longest]) = (Instant::now(), PAUSES);
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                // Another one may have been faster.
                Ok(()) => return Ok(self.read(host).map_or(Waited::Lock(lock), Waited::Answer)),
                Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(longest);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The answer that is kept, if it holds.
    fn read(&self, host: &DirectoryTree) -> Option<Answer> {
        let mut bytes = Vec::new();
        File::open(self.path()).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
        let (digest, rest) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGEST)?;
        if Sha256::digest(rest)[..] != *digest {
            return None;
        }
        let (stamps, answer) = parse(rest)?;
        unchanged(host, &stamps).then_some(answer)
    }

    fn write(&self, stamps: &Stamps, answer: &Answer) -> io::Result<()> {
        self.clean()?;
        let rest = postcard::to_allocvec(&(stamps, answer)).map_err(io::Error::other)?;
        let temporary = self.dir.join(format!(".{}.{}", self.name, std::process::id()));
        let write = || {
            let mut file = File::options()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(MAGIC)?;
            file.write_all(&Sha256::digest(&rest))?;
            file.write_all(&rest)?;
            fs::rename(&temporary, self.path())
        };
        let written = write();
        if written.is_err() {
            // The error that counts is the first.
            let _ = fs::remove_file(&temporary);
        }
        // Who waits at it reads the answer when it has it.
        let _ = fs::remove_file(self.lock());
        written
    }

    /// Removes what nobody has written for a day.
    fn clean(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.strip_prefix('.').unwrap_or(&name).starts_with(PREFIX) {
                continue;
            }
            let Ok(written) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
            if SystemTime::now().duration_since(written).is_ok_and(|age| age > STALE) {
                // Another one may clean as well.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// What stands behind the digest.
pub(crate) fn parse(rest: &[u8]) -> Option<(Stamps, Answer)> {
    postcard::from_bytes(rest).ok()
}

/// What came of waiting.
enum Waited {
    /// Another one has found out.
    Answer(Answer),
    /// It is this one's turn.
    Lock(File),
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::{FileSpec, MountFlags, MountSource, MountSpec, Rank, SkeletonKind};
    use std::cell::Cell;

    fn answer() -> Answer {
        let mut one = Contribution::new(Rank::Host, "libraries");
        let flags = MountFlags { read_only: true, recursive: false };
        let source = MountSource::File("/lib/a".into());
        one.mounts.push(MountSpec { source, target: "/t".into(), flags, optional: true });
        one.env.push(("A".into(), None));
        let kind = SkeletonKind::File((0..=255).collect());
        one.files.push(FileSpec { path: "/etc/ld.so.cache".into(), kind, mode: 0o644 });
        Answer { contributions: vec![one], warnings: vec!["w".into()] }
    }

    /// A host with one library, a place, and how often was asked.
    struct Fixture {
        dir: tempfile::TempDir,
        place: Place,
        asked: Cell<u32>,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for sub in ["host", "run"] {
                fs::create_dir(dir.path().join(sub)).unwrap();
            }
            fs::write(dir.path().join("host/lib"), "1").unwrap();
            let place = Place::new(&dir.path().join("run"), &("image", 7)).unwrap();
            Self { dir, place, asked: Cell::new(0) }
        }

        fn ask(&self) -> Answer {
            let host = DirectoryTree::open(&self.dir.path().join("host")).unwrap();
            let find = |tree: &dyn SearchTree| {
                self.asked.set(self.asked.get() + 1);
                assert!(tree.read(Path::new("/lib"), 9).unwrap().is_some());
                Ok::<_, ()>(answer())
            };
            self.place.once(&host, find).unwrap()
        }
    }

    #[test]
    fn an_answer_is_found_once_for_a_state_of_the_host() {
        let fixture = Fixture::new();
        for _ in 0..3 {
            assert_eq!(fixture.ask(), answer());
        }
        assert_eq!(fixture.asked.get(), 1);
        fs::write(fixture.dir.path().join("host/lib"), "22").unwrap();
        assert_eq!((fixture.ask(), fixture.asked.get()), (answer(), 2));
        assert_eq!((fixture.ask(), fixture.asked.get()), (answer(), 2));
        let names: Vec<_> = fs::read_dir(&fixture.place.dir).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let other = Place::new(&fixture.place.dir, &("image", 8)).unwrap();
        assert_ne!(other.name, fixture.place.name);
    }

    #[test]
    fn what_is_damaged_is_found_out_again() {
        let fixture = Fixture::new();
        let _ = fixture.ask();
        let whole = fs::read(fixture.place.path()).unwrap();
        let mut asked = 1;
        for at in (0..whole.len()).step_by(7) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            for bytes in [&whole[..at], &flipped] {
                fs::write(fixture.place.path(), bytes).unwrap();
                asked += 1;
                assert_eq!((fixture.ask(), fixture.asked.get()), (answer(), asked), "byte {at}");
            }
        }
    }

    /// Bytes that somebody has sealed are read as carefully.
    #[test]
    fn sealed_nonsense_is_no_answer() {
        let fixture = Fixture::new();
        for rest in [&b""[..], &[0xff; 64], &[0x01; 64]] {
            let sealed = [MAGIC, &Sha256::digest(rest)[..], rest].concat();
            fs::write(fixture.place.path(), sealed).unwrap();
            let before = fixture.asked.get();
            assert_eq!((fixture.ask(), fixture.asked.get()), (answer(), before + 1));
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_hinders_nobody() {
        let mut fixture = Fixture::new();
        fixture.place.dir = fixture.dir.path().join("no/such");
        assert_eq!(fixture.ask(), answer());
    }

    #[test]
    fn what_is_old_goes() {
        let fixture = Fixture::new();
        let old = SystemTime::now() - 2 * STALE;
        for name in ["libraries-1", ".libraries-2.17", "libraries-3.lock", "other"] {
            let path = fixture.place.dir.join(name);
            File::create(path).unwrap().set_modified(old).unwrap();
        }
        let _ = fixture.ask();
        let mut left: Vec<_> = fs::read_dir(&fixture.place.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [&fixture.place.name, "other"]);
    }
}
