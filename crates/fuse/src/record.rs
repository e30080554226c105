//! What is asked of an image in its first seconds, so that a later start can
//! ask for it beforehand.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use squashfs::{Image, InodeKind};

use crate::protocol::{Request, op};

/// A start is over after this.
const WINDOW: Duration = Duration::from_secs(5);
/// More requests than this are no start but a scan.
const MOST_EVENTS: usize = 16_384;
/// So are more bytes than this.
const MOST_BYTES: u64 = 96 << 20;

/// Notes what is asked of an image while it is young.
#[derive(Debug)]
pub struct Recorder {
    listens: AtomicBool,
    /// Whose requests do not count, as the connection numbers processes.
    ignored: Option<u32>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    began: Option<Instant>,
    events: Vec<Event>,
    bytes: u64,
    /// There was too much.
    scan: bool,
}

#[derive(Debug)]
enum Event {
    Lookup { parent: u64, name: Vec<u8>, node: u64 },
    Link { node: u64 },
    List { node: u64 },
    Read { node: u64, bytes: Range<u64> },
}

/// One thing that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// From the image's root, without a leading slash.
    pub path: Vec<u8>,
    /// What was asked of it.
    pub what: Asked,
}

impl Access {
    /// How many bytes of its file were asked for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.what {
            Asked::Bytes(ranges) => {
                ranges.iter().map(|r| r.end - r.start).fold(0, u64::saturating_add)
            }
            _ => 0,
        }
    }
}

/// What was asked of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Its attributes, or whether it is there.
    Name,
    /// Where a symbolic link leads.
    Link,
    /// The names in a directory.
    List,
    /// These bytes of a file, in order and apart from each other.
    Bytes(Vec<Range<u64>>),
}

impl Recorder {
    /// Listens to all processes but one, which asks for what was asked before.
    #[must_use]
    pub fn new(ignored: Option<u32>) -> Self {
        Self { listens: AtomicBool::new(true), ignored, log: Mutex::default() }
    }

    /// Notes a request; `node` is what a LOOKUP found.
    pub(crate) fn note(&self, request: &Request<'_>, node: u64) {
        // Nor do those of processes that the connection cannot see.
        let foreign = request.pid == 0 || Some(request.pid) == self.ignored;
        if foreign || !self.listens.load(Ordering::Relaxed) {
            return;
        }
        // Additions are no part of the image, which has one profile for both trees.
        let both = crate::view::of_image(request.node).zip(crate::view::of_image(node));
        let Some((asked, node)) = both else { return };
        let event = match request.opcode {
            // `.` and `..` are asked of file handles, and are no names.
            op::LOOKUP => request
                .name(0)
                .filter(|name| *name != b"." && *name != b".." && *name != crate::VIEW.as_bytes())
                .map(|name| Event::Lookup { parent: asked, name: name.to_vec(), node }),
            op::READLINK => Some(Event::Link { node: asked }),
            // `struct fuse_read_in`: offset at 8, size at 16.
            op::READDIR | op::READDIRPLUS => {
                (request.u64(8) == Some(0)).then_some(Event::List { node: asked })
            }
            op::READ => request.u64(8).zip(request.u32(16)).map(|(at, len)| Event::Read {
                node: asked,
                bytes: at..at.saturating_add(u64::from(len)),
            }),
            _ => None,
        };
        let Some(event) = event else { return };
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Event::Read { bytes, .. } = &event {
            log.bytes = log.bytes.saturating_add(bytes.end - bytes.start);
        }
        log.scan |= log.events.len() >= MOST_EVENTS || log.bytes > MOST_BYTES;
        if log.scan || log.began.get_or_insert_with(Instant::now).elapsed() > WINDOW {
            self.listens.store(false, Ordering::Relaxed);
        } else {
            log.events.push(event);
        }
    }

    /// Whether the start is over, and [`Recorder::finish`] has all of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.began.is_some_and(|began| began.elapsed() > WINDOW)
    }

    /// Ends the listening. What was asked for, in the order of the first
    /// question about each path; nothing when it was too much, or nothing new.
    pub fn finish(&self, image: &Image) -> Vec<Access> {
        self.listens.store(false, Ordering::Relaxed);
        let log = std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner));
        if log.scan { Vec::new() } else { accesses(image, &log.events) }
    }
}

fn accesses(image: &Image, events: &[Event]) -> Vec<Access> {
    let names = names(image, events);
    let mut all: Vec<Access> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    for event in events {
        let (path, what) = match event {
            Event::Lookup { parent, name, .. } => {
                let path = path_of(&names, *parent).map(|dir| join(&dir, name));
                (path, Asked::Name)
            }
            Event::Link { node } => (path_of(&names, *node), Asked::Link),
            Event::List { node } => (path_of(&names, *node), Asked::List),
            Event::Read { node, bytes } => {
                (path_of(&names, *node), Asked::Bytes(vec![bytes.clone()]))
            }
        };
        let Some(path) = path else { continue };
        let path = if path.is_empty() { b".".to_vec() } else { path };
        match places.get(&path) {
            Some(index) => all[*index].what.add(what),
            None => {
                places.insert(path.clone(), all.len());
                all.push(Access { path, what });
            }
        }
    }
    all
}

impl Asked {
    /// Asks for this as well.
    pub fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (_, Self::Name) => {}
            (Self::Bytes(ranges), Self::Bytes(more)) => {
                ranges.extend(more);
                *ranges = union(std::mem::take(ranges));
            }
            (_, more) => *self = more,
        }
    }

    /// Whether all of `other` is part of this.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Name) => true,
            (Self::Bytes(ranges), Self::Bytes(wanted)) => wanted.iter().all(|wanted| {
                ranges.iter().any(|have| have.start <= wanted.start && wanted.end <= have.end)
            }),
            (one, other) => one == other,
        }
    }
}

/// The same bytes in ascending ranges that do not touch.
fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// The parent and the name of each node.
type Names = HashMap<u64, (u64, Vec<u8>)>;

/// Names that were looked up, and of the other nodes those that a listing has
/// shown: READDIRPLUS makes nodes known without a question for each.
fn names(image: &Image, events: &[Event]) -> Names {
    let mut names = Names::new();
    let mut unknown = HashSet::new();
    for event in events {
        match event {
            // Node 0: there is no such name.
            Event::Lookup { parent, name, node } if *node > 1 => {
                names.insert(*node, (*parent, name.clone()));
                unknown.insert(*parent);
            }
            Event::Lookup { parent: node, .. }
            | Event::Link { node }
            | Event::List { node }
            | Event::Read { node, .. } => {
                unknown.insert(*node);
            }
        }
    }
    unknown.retain(|node| *node > 1 && !names.contains_key(node));
    for event in events {
        let Event::List { node: dir } = event else { continue };
        if unknown.is_empty() {
            break;
        }
        let Ok(inode) = image.inode(crate::reference(image, *dir)) else { continue };
        if !matches!(inode.kind, InodeKind::Directory { .. }) {
            continue;
        }
        let Ok(entries) = image.read_dir(&inode, 0) else { continue };
        for entry in entries.map_while(Result::ok) {
            let node = crate::node(image, entry.inode);
            if unknown.remove(&node) {
                names.insert(node, (*dir, entry.name));
            }
        }
    }
    names
}

/// Deeper directories than this are damage.
const DEEPEST: usize = 256;

fn path_of(names: &Names, mut node: u64) -> Option<Vec<u8>> {
    let mut parts = Vec::new();
    while node > 1 {
        let (parent, name) = names.get(&node)?;
        parts.push(&name[..]);
        if parts.len() > DEEPEST {
            return None;
        }
        node = *parent;
    }
    parts.reverse();
    Some(parts.join(&b'/'))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}
