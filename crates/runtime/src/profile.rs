//! What a command read when it last started, asked for again before it starts.
//!
//! Over FUSE a cold start is made of waiting: a program asks for one name and
//! one block after the other, and each answer has to be inflated first. What a
//! command asks for in its first seconds is much the same each time, so the
//! server notes it ([`fuse::Recorder`]) and has it kept. When the image is
//! served afresh for the same command, a process beside the server asks for all
//! of it in the same order through the container's own mount, so that names and
//! pages are in the kernel's cache when the command comes to them. Wrong
//! guesses cost processor time of one other core and nothing else.
//!
//! It must be another process: one that waits for an answer of the file system
//! that it serves cannot be killed.
//!
//! As text, a line for each path, in their order:
//!
//! ```text
//! sampan-profile 1
//! n usr/bin/python3.12                    a name, there or not
//! l usr/bin/python3                       a symbolic link
//! d usr/lib/python3.12                    a directory's names
//! f 0+131072,655360+4096 usr/lib/libc.so  a file's bytes: offset+length
//! ```

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuse::{Access, Asked, Recorder};
use rustix::fs::{Advice, AtFlags, Mode, OFlags, RawDir, fadvise, openat, readlinkat, statat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sys::process::{Fork, fork};

use crate::{Keeper, pass};

/// Its first line.
const HEAD: &str = "sampan-profile 1";
/// A start that asks for fewer paths needs no help.
const LEAST: usize = 48;
/// Bytes that one start missed; fewer are not worth writing for.
const LEAST_BYTES: u64 = 1 << 20;
/// More paths than this are not kept.
const MOST: usize = 8192;
/// More bytes of files than this are not asked for.
const MOST_BYTES: u64 = 128 << 20;
/// The kernel reads no more than this at a word: a connection's read-ahead.
const AT_ONCE: u64 = 128 << 10;
/// Words of a command that tell it from others.
const WORDS: usize = 8;

/// What is asked for, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Profile(Vec<Access>);

/// A file name for commands that start alike: digits do not matter, so that the
/// tasks of a sweep are one.
pub(crate) fn key(argv: &[impl AsRef<[u8]>]) -> String {
    let mut hash = DefaultHasher::new();
    for word in argv.iter().take(WORDS) {
        let mut digits = false;
        for byte in word.as_ref() {
            let digit = byte.is_ascii_digit();
            if !(digit && digits) {
                (if digit { b'0' } else { *byte }).hash(&mut hash);
            }
            digits = digit;
        }
        0_u8.hash(&mut hash);
    }
    format!("{:016x}", hash.finish())
}

impl Profile {
    /// Reads one; None when it is damaged or of another version.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.split(|b| *b == b'\n');
        if lines.next()? != HEAD.as_bytes() {
            return None;
        }
        let lines = lines.filter(|line| !line.is_empty()).take(MOST);
        let all = lines.map(parse_line).collect::<Option<Vec<_>>>()?;
        let bytes = all.iter().try_fold(0, |sum: u64, access| sum.checked_add(access.bytes()))?;
        (bytes <= MOST_BYTES).then_some(Self(all))
    }

    pub(crate) fn format(&self) -> Vec<u8> {
        let mut out = HEAD.as_bytes().to_vec();
        for access in &self.0 {
            let head = match &access.what {
                Asked::Name => "\nn ".to_owned(),
                Asked::Link => "\nl ".to_owned(),
                Asked::List => "\nd ".to_owned(),
                Asked::Bytes(ranges) => {
                    let each = |r: &Range<u64>| format!("{}+{}", r.start, r.end - r.start);
                    format!("\nf {} ", ranges.iter().map(each).collect::<Vec<_>>().join(","))
                }
            };
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(&access.path);
        }
        out.push(b'\n');
        out
    }

    /// What to keep after a start that asked for `asked` beyond `before`, as a
    /// file's bytes; None when what is kept is good enough.
    pub(crate) fn next(before: Option<&Self>, asked: Vec<Access>) -> Option<Vec<u8>> {
        // No line can hold the others.
        let asked: Vec<_> = asked.into_iter().filter(|a| !a.path.contains(&b'\n')).collect();
        let known = before.map_or(&[][..], |before| &before.0);
        let mut all = Self(known.to_vec());
        let missed = all.add(asked.clone());
        let (had, bytes) = before.map_or((0, 0), |before| (known.len(), before.bytes()));
        let worth = missed >= LEAST && missed * 8 >= had
            // The kernel reads ahead elsewhere where it finds pages in its cache.
            || had > 0 && all.bytes().saturating_sub(bytes) >= LEAST_BYTES.max(bytes / 16);
        // What no longer fits is forgotten for what was missed.
        let fits = |all: &Self| all.0.len() <= MOST && all.bytes() <= MOST_BYTES;
        let all = if fits(&all) { all } else { Self(asked) };
        (worth && fits(&all)).then(|| all.format())
    }

    /// Adds what is not part of it; how many paths that were.
    fn add(&mut self, asked: Vec<Access>) -> usize {
        let places = self.0.iter().enumerate().map(|(index, access)| (access.path.clone(), index));
        let places: HashMap<Vec<u8>, usize> = places.collect();
        let mut missed = 0;
        for access in asked {
            match places.get(&access.path) {
                Some(index) if self.0[*index].what.covers(&access.what) => continue,
                Some(index) => self.0[*index].what.add(access.what),
                None => self.0.push(access),
            }
            missed += 1;
        }
        missed
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(Access::bytes).fold(0, u64::saturating_add)
    }

    /// Asks for all of it below a directory.
    fn replay(&self, root: &OwnedFd) {
        let mut buffer = Vec::with_capacity(32 << 10);
        for Access { path, what } in &self.0 {
            // What fails here has changed, and concerns nobody.
            let path = OsStr::from_bytes(path);
            let open = |more: OFlags| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                openat(root, path, flags | more, Mode::empty())
            };
            match what {
                Asked::Name => drop(statat(root, path, AtFlags::SYMLINK_NOFOLLOW)),
                Asked::Link => drop(readlinkat(root, path, Vec::new())),
                Asked::List => {
                    let Ok(dir) = open(OFlags::DIRECTORY) else { continue };
                    let mut names = RawDir::new(dir, buffer.spare_capacity_mut());
                    while let Some(Ok(_)) = names.next() {}
                }
                Asked::Bytes(ranges) => {
                    let Ok(file) = open(OFlags::empty()) else { continue };
                    for range in ranges {
                        for start in range.clone().step_by(AT_ONCE as usize) {
                            let len = std::num::NonZero::new(AT_ONCE.min(range.end - start));
                            let _ = fadvise(&file, start, len, Advice::WillNeed);
                        }
                    }
                }
            }
        }
    }
}

fn parse_line(line: &[u8]) -> Option<Access> {
    let rest = line.get(2..).filter(|_| line[1] == b' ')?;
    let (path, what) = match line[0] {
        b'n' => (rest, Asked::Name),
        b'l' => (rest, Asked::Link),
        b'd' => (rest, Asked::List),
        b'f' => {
            let at = rest.iter().position(|b| *b == b' ')?;
            let ranges = std::str::from_utf8(&rest[..at]).ok()?;
            let ranges = ranges.split(',').map(parse_range).collect::<Option<Vec<_>>>()?;
            (&rest[at + 1..], Asked::Bytes(ranges))
        }
        _ => return None,
    };
    let inside = path.split(|b| *b == b'/').all(|part| part != b".." && !part.contains(&0));
    (inside && !path.is_empty() && !path.starts_with(b"/"))
        .then(|| Access { path: path.to_vec(), what })
}

fn parse_range(text: &str) -> Option<Range<u64>> {
    let (start, len) = text.split_once('+')?;
    let (start, len): (u64, u64) = (start.parse().ok()?, len.parse().ok()?);
    Some(start..start.checked_add(len).filter(|end| i64::try_from(*end).is_ok())?)
}

/// A process that waits for the container's mount to ask for a profile there.
pub(crate) struct Toucher {
    socket: OwnedFd,
    pub(crate) pid: Pid,
}

impl Toucher {
    /// Forks it; the caller has one thread, and reaps no children. It asks in the
    /// [`fuse::VIEW`] of the image, where the container has that.
    pub(crate) fn start(profile: &Profile, view: bool) -> Option<Self> {
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (socket, theirs) = pair.ok()?;
        match fork().ok()? {
            Fork::Parent(pid) => Some(Self { socket, pid }),
            Fork::Child => {
                let _ = rustix::thread::set_name(c"sampan-touch");
                sys::process::close_others(&[theirs.as_raw_fd()]);
                let fds = pass::receive(&theirs).map(|(_, fds)| fds).unwrap_or_default();
                if let [namespace, mount] = &fds[..] {
                    let user = Some(LinkNameSpaceType::User);
                    // The file system answers its own user namespace only.
                    if move_into_link_name_space(namespace.as_fd(), user).is_ok() {
                        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                        let root = if view { fuse::VIEW } else { "." };
                        // Without it there is nothing to ask in.
                        if let Ok(root) = openat(mount, root, flags, Mode::empty()) {
                            profile.replay(&root);
                        }
                    }
                }
                sys::process::exit_now(0)
            }
        }
    }

    /// Lets it ask. Without being told it ends when this is dropped.
    pub(crate) fn go(self, user_namespace: &OwnedFd, mount: &OwnedFd) {
        // The container starts without it too.
        let _ = pass::send(&self.socket, 0, &[user_namespace.as_fd(), mount.as_fd()]);
    }
}

/// Has a profile kept when the start that made it is over.
pub(crate) struct Profiling {
    pub(crate) keeper: Box<dyn Keeper>,
    /// Its key.
    pub(crate) name: String,
    pub(crate) before: Option<Profile>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) image: Arc<squashfs::Image>,
}

impl Profiling {
    fn save(&self) {
        let asked = self.recorder.finish(&self.image);
        if let Some(bytes) = Profile::next(self.before.as_ref(), asked) {
            self.keeper.keep_profile(&self.name, &bytes);
        }
    }
}

impl Keeper for Profiling {
    fn begin(&mut self) {
        self.keeper.begin();
    }

    fn tick(&mut self) {
        self.keeper.tick();
        if self.recorder.is_over() {
            self.save();
        }
    }

    fn end(&mut self) {
        self.save();
        self.keeper.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(path: &str, what: Asked) -> Access {
        Access { path: path.into(), what }
    }

    fn bytes(start: u64, end: u64) -> Asked {
        Asked::Bytes(std::iter::once(start..end).collect())
    }

    fn sample(count: usize) -> Vec<Access> {
        let mut all = vec![
            access(".", Asked::List),
            access("bin", Asked::Link),
            access("usr/lib", Asked::List),
            access("usr/lib/no such", Asked::Name),
            access("usr/bin/a b", Asked::Bytes(vec![0..4096, 8192..10_000])),
        ];
        all.extend((all.len()..count).map(|n| access(&format!("x/{n}"), Asked::Name)));
        all
    }

    #[test]
    fn what_is_written_is_read() {
        let text = Profile::next(None, sample(LEAST)).unwrap();
        assert_eq!(Profile::parse(&text), Some(Profile(sample(LEAST))));
    }

    #[test]
    fn damage_is_no_profile() {
        for lines in [
            "f 0+1",
            "f 0+ x",
            "f 5+18446744073709551615 x",
            "f 0+99999999999 x",
            "q x",
            "n",
            "n ../x",
            "n a/../../x",
            "n /etc",
            "f  x",
            "d a\0b",
            "d ",
        ] {
            let text = format!("{HEAD}\n{lines}\n");
            assert_eq!(Profile::parse(text.as_bytes()), None, "{lines:?}");
        }
        assert_eq!(Profile::parse(b"sampan-profile 2\nn x\n"), None);
        assert_eq!(Profile::parse(b""), None);
        assert!(Profile::parse(format!("{HEAD}\nn ..x/y..\n").as_bytes()).is_some());
    }

    #[test]
    fn it_is_written_when_it_helps() {
        assert_eq!(Profile::next(None, sample(LEAST - 1)), None, "a small start");
        let before = Profile(sample(20 * LEAST));
        assert_eq!(Profile::next(Some(&before), sample(LEAST)), None, "nothing was missed");
        let others: Vec<_> =
            (0..4 * LEAST).map(|n| access(&format!("y/{n}"), Asked::Name)).collect();
        assert_eq!(Profile::next(Some(&before), others[..LEAST].to_vec()), None, "little was");
        let much = access("usr/bin/a b", bytes(4096, 2 << 20));
        let next = Profile::parse(&Profile::next(Some(&before), vec![much]).unwrap()).unwrap();
        assert_eq!(next.0[4], access("usr/bin/a b", bytes(0, 2 << 20)), "one range by now");
        let next = Profile::next(Some(&before), others.clone()).unwrap();
        assert_eq!(Profile::parse(&next).unwrap().0.len(), 24 * LEAST);
        let full = Profile(vec![access("big", bytes(0, MOST_BYTES))]);
        let mut more = others;
        more.push(access("big", bytes(MOST_BYTES, MOST_BYTES + 1)));
        let next = Profile::parse(&Profile::next(Some(&full), more.clone()).unwrap()).unwrap();
        assert_eq!(next, Profile(more), "what does not fit is forgotten");
    }

    #[test]
    fn ranges_that_overlap_shrink_to_their_union() {
        let before = Profile(vec![access("f", Asked::Bytes(vec![0..4096, 0..4096]))]);
        assert_eq!(Profile::next(Some(&before), vec![access("f", bytes(4096, 5000))]), None);
    }

    #[test]
    fn a_sweep_has_one_key() {
        assert_eq!(key(&["solve", "--seed=7"]), key(&["solve", "--seed=1234"]));
        assert_ne!(key(&["solve", "a"]), key(&["solve", "b"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
