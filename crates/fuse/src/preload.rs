//! Files that are inflated before they are asked for, and put into the
//! kernel's cache before they are read.
//!
//! A thread of its own does both. It must be none that answers requests: the
//! kernel makes a store wait for a page that is being read, and that reading
//! waits for an answer.

use std::collections::HashSet;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use rustix::io::Errno;
use squashfs::{Image, InodeRef, Piece};

use crate::protocol;

/// The thread, and what it is told.
#[derive(Debug, Default)]
pub struct Preload {
    events: Option<mpsc::Sender<Event>>,
    nodes: HashSet<u64>,
}

enum Event {
    /// There is a connection.
    Connected(Arc<OwnedFd>),
    /// The kernel knows a node.
    Known(u64),
}

/// A file that is wholly inflated.
struct Loaded {
    node: u64,
    pieces: Vec<Piece>,
}

impl Preload {
    /// Begins to inflate files, in their order. With none, or where no thread
    /// can be had, it does nothing.
    #[must_use]
    pub fn start(image: Arc<Image>, files: &[InodeRef]) -> Self {
        if files.is_empty() {
            return Self::default();
        }
        let (events, received) = mpsc::channel();
        let nodes: Vec<u64> = files.iter().map(|file| crate::node(&image, *file)).collect();
        let work: Vec<_> = files.iter().copied().zip(nodes.iter().copied()).collect();
        let builder = std::thread::Builder::new().name("preload".to_owned()).stack_size(256 << 10);
        let thread = builder.spawn(move || Worker::new(received).run(&image, work));
        match thread {
            Ok(_) => Self { events: Some(events), nodes: nodes.into_iter().collect() },
            Err(_) => Self::default(),
        }
    }

    pub(crate) fn connect(&self, device: &Arc<OwnedFd>) {
        self.tell(Event::Connected(Arc::clone(device)));
    }

    pub(crate) fn known(&self, node: u64) {
        if self.nodes.contains(&node) {
            self.tell(Event::Known(node));
        }
    }

    fn tell(&self, event: Event) {
        if let Some(events) = &self.events {
            // A thread that has done its work no longer listens.
            let _ = events.send(event);
        }
    }
}

/// All of a file. Between blocks, threads that answer requests come first:
/// without the yield one of them may wait behind this one for all its blocks.
fn load(image: &Image, file: InodeRef) -> Result<Vec<Piece>, squashfs::Error> {
    let inode = image.inode(file)?;
    let block = u64::from(image.superblock().block_size);
    let mut pieces = Vec::new();
    for index in 0..inode.size().div_ceil(block) {
        pieces.extend(image.pieces(&inode, index * block, block as usize)?);
        std::thread::yield_now();
    }
    Ok(pieces)
}

struct Worker {
    events: mpsc::Receiver<Event>,
    device: Option<Arc<OwnedFd>>,
    known: HashSet<u64>,
    loaded: Vec<Loaded>,
}

impl Worker {
    fn new(events: mpsc::Receiver<Event>) -> Self {
        Self { events, device: None, known: HashSet::new(), loaded: Vec::new() }
    }

    fn run(mut self, image: &Image, work: Vec<(InodeRef, u64)>) {
        for (file, node) in work {
            // A file that cannot be read is the reader's error, later.
            if let Ok(pieces) = load(image, file) {
                self.loaded.push(Loaded { node, pieces });
            }
            while let Ok(event) = self.events.try_recv() {
                self.note(event);
            }
            self.store();
        }
        while !self.loaded.is_empty() {
            let Ok(event) = self.events.recv() else { return };
            self.note(event);
            self.store();
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Connected(device) => self.device = Some(device),
            Event::Known(node) => {
                self.known.insert(node);
            }
        }
    }

    /// Stores what is loaded and known.
    fn store(&mut self) {
        let Some(device) = &self.device else { return };
        let known = &self.known;
        for file in self.loaded.extract_if(.., |file| known.contains(&file.node)) {
            let mut offset = 0;
            for piece in &file.pieces {
                let bytes = piece.bytes();
                let head = protocol::store(file.node, offset, bytes.len() as u32);
                let message = [IoSlice::new(&head), IoSlice::new(bytes)];
                match rustix::io::writev(device, &message) {
                    Ok(_) | Err(Errno::INTR) => {}
                    // The kernel has forgotten the node, or the mount is gone,
                    // or it knows no such message: then it will ask.
                    Err(_) => break,
                }
                offset += bytes.len() as u64;
                std::thread::yield_now();
            }
        }
    }
}
