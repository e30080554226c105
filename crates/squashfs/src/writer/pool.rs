//! Threads that compress blocks.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::WriteError;
use crate::codec::{Compression, Compressor};

/// A block on its way.
pub(super) struct Job {
    pub(super) sequence: u64,
    pub(super) data: Vec<u8>,
    pub(super) packed: Vec<u8>,
    /// Whether `packed` is smaller than `data`; decided by the worker.
    pub(super) shrunk: bool,
}

/// The threads.
pub(super) struct Pool {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(compression: Compression, threads: usize, depth: usize) -> Self {
        let (jobs, queue) = sync_channel::<Job>(depth);
        let queue = Arc::new(Mutex::new(queue));
        let (finished, done) = channel();
        let work = move |queue: &Mutex<Receiver<Job>>, finished: &std::sync::mpsc::Sender<Job>| {
            let mut compressor = Compressor::new(compression);
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(mut job) = job else { return };
                job.shrunk = compressor.compress(&job.data, &mut job.packed);
                if finished.send(job).is_err() {
                    return;
                }
            }
        };
        let spawn = |_| {
            let (queue, finished) = (Arc::clone(&queue), finished.clone());
            std::thread::spawn(move || work(&queue, &finished))
        };
        let threads = (0..threads.max(1)).map(spawn).collect();
        Self { jobs: Some(jobs), done, threads }
    }

    pub(super) fn submit(&self, job: Job) -> Result<(), WriteError> {
        let jobs = self.jobs.as_ref().ok_or(WriteError::Worker)?;
        jobs.send(job).map_err(|_| WriteError::Worker)
    }

    pub(super) fn wait(&self) -> Result<Job, WriteError> {
        self.done.recv().map_err(|_| WriteError::Worker)
    }

    pub(super) fn poll(&self) -> Option<Job> {
        self.done.try_recv().ok()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A worker that panicked has told so by a missing result.
            let _ = thread.join();
        }
    }
}
