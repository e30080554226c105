//! Single flight: of all who want an image, one converts it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::error::full_or;
use crate::files::{self, Root, step};
use crate::lock::{self, Lock, Try, Watch};
use crate::{
    Error, ImageId, ImageRecord, Owner, Result, Store, StoredImage, load_image, record_path,
    sqfs_path,
};

const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// What to do about an image.
#[derive(Debug)]
pub enum Begin {
    /// Nothing: it is there.
    Present(StoredImage),
    /// Convert it; nobody else does.
    Build(Ticket),
}

/// Told to the caller of [`Store::begin`] before each wait.
#[derive(Clone, Debug)]
pub struct WaitState {
    /// Who converts the image, where that is known.
    pub holder: Option<Owner>,
    /// How long this call has waited.
    pub waited: Duration,
}

/// The right to convert one image. Dropping it without [`Ticket::commit`]
/// removes its files and lets the next waiter have it.
#[derive(Debug)]
pub struct Ticket {
    store: Store,
    id: ImageId,
    file: Option<(File, PathBuf)>,
    scratch: Vec<PathBuf>,
    lock: Lock,
}

/// Who looks a name up.
#[derive(Debug)]
pub enum Flight<T> {
    /// Another one has, and this was found.
    Found(T),
    /// This caller does; others wait until the value is dropped.
    Yours(Turn),
}

/// The right to look a name up for all who wait.
#[derive(Debug)]
pub struct Turn {
    _lock: Lock,
}

impl Store {
    /// Waits until the image is there, or until it is this caller's to
    /// convert. `waiting` is called before each wait, between 20 ms and 500 ms
    /// apart.
    ///
    /// # Errors
    /// When the user's store cannot be read or written.
    pub fn begin(&self, id: &ImageId, waiting: &dyn Fn(WaitState)) -> Result<Begin> {
        let found = || self.image(id);
        Ok(match self.wait_for(id, waiting, &found)? {
            Ok(image) => Begin::Present(image),
            Err(lock) => {
                let (store, id) = (self.clone(), id.clone());
                Begin::Build(Ticket { store, id, file: None, scratch: Vec::new(), lock })
            }
        })
    }

    /// Waits until `found` has something, or until it is this caller's turn to
    /// look up what a name means: of a thousand nodes that want one image, one
    /// asks the registry.
    ///
    /// # Errors
    /// When the user's store cannot be read or written, and those of `found`.
    pub fn flight<T>(
        &self,
        name: &str,
        waiting: &dyn Fn(WaitState),
        found: &dyn Fn() -> Result<Option<T>>,
    ) -> Result<Flight<T>> {
        let key = ImageId::of_name(name);
        let waited = self.wait_for(&key, waiting, found)?;
        Ok(waited.map_or_else(|lock| Flight::Yours(Turn { _lock: lock }), Flight::Found))
    }

    /// Waits until `found` has something, or until this caller has the lock.
    fn wait_for<T>(
        &self,
        id: &ImageId,
        waiting: &dyn Fn(WaitState),
        found: &dyn Fn() -> Result<Option<T>>,
    ) -> Result<std::result::Result<T, Lock>> {
        let start = Instant::now();
        let mut watch: Option<Watch> = None;
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(value) = found()? {
                return Ok(Ok(value));
            }
            let watch = watch.get_or_insert_with(|| Watch::new(self.timing.foreign_lock));
            match lock::try_acquire(&self.root, id, watch, self.timing.heartbeat)? {
                Try::Held(holder) => {
                    waiting(WaitState { holder, waited: start.elapsed() });
                    std::thread::sleep(jitter(wait));
                    wait = (wait * 3 / 2).min(LONGEST_WAIT);
                }
                // The former holder may have finished since the look above.
                Try::Acquired(lock) => return Ok(found()?.ok_or(lock)),
            }
        }
    }
}

/// Between half and all of `wait`, so that many waiters do not ask at once.
fn jitter(wait: Duration) -> Duration {
    let mut random = [0u8];
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
    wait / 2 + wait * u32::from(random[0]) / 512
}

impl Ticket {
    /// The image to convert.
    #[must_use]
    pub fn id(&self) -> &ImageId {
        &self.id
    }

    fn root(&self) -> &Root {
        &self.store.root
    }

    /// Makes the file for the image, empty, open for reading and writing, and
    /// its path. A second call begins anew and removes the first file.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn create_file(&mut self) -> Result<(File, PathBuf)> {
        if let Some((_, path)) = self.file.take() {
            files::remove(&path)?;
        }
        let (file, path) = self.root().temp_file(self.lock.owner(), "sqfs")?;
        // The same open file, so that the commit's sync reports what the
        // caller's writes have met.
        let own = file.try_clone().map_err(|source| {
            let _ = fs::remove_file(&path);
            Error::CreateFile { path: path.clone(), source }
        })?;
        self.file = Some((own, path.clone()));
        Ok((file, path))
    }

    /// A file without a name for data that must wait on disk, such as a layer
    /// that arrives before its turn. Its space is free again once it is closed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn spool(&self) -> Result<File> {
        let dir = self.root().ensure("tmp")?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if let Ok(file) = rustix::fs::open(&dir, flags, Mode::RUSR | Mode::WUSR) {
            return Ok(file.into());
        }
        // NFS and Lustre have no O_TMPFILE.
        let (file, path) = self.root().temp_file(self.lock.owner(), "spool")?;
        files::remove(&path)?;
        Ok(file)
    }

    /// A new directory for this conversion's files; removed with the ticket.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn scratch(&mut self) -> Result<PathBuf> {
        let path = self.root().temp_path(self.lock.owner(), "scratch")?;
        fs::create_dir(&path).map_err(|source| {
            full_or(&path, source, |path, source| Error::CreateDirectory { path, source })
        })?;
        self.scratch.push(path.clone());
        Ok(path)
    }

    /// Makes the file of [`Ticket::create_file`] the image: syncs it, renames
    /// it, then writes `record`, whose `size` is set here. Where another has
    /// committed the image meanwhile (it took this ticket's process for dead),
    /// that image stays and is returned, since somebody may be running it.
    ///
    /// # Errors
    /// When no file was made, the record is another image's, or the store
    /// cannot be written; [`Error::NoSpace`] when it is full. The image is
    /// then not in the store.
    pub fn commit(mut self, mut record: ImageRecord) -> Result<StoredImage> {
        if record.id != self.id {
            return Err(Error::WrongRecord { expected: self.id.clone(), found: record.id });
        }
        let Some((file, temp)) = &self.file else {
            return Err(Error::NoFile { image: self.id.clone() });
        };
        files::sync_file(file, temp)?;
        let meta =
            file.metadata().map_err(|source| Error::ReadFile { path: temp.clone(), source })?;
        record.size = meta.len();
        let root = self.root().clone();
        let images = root.ensure("images")?;
        step("before-rename");
        if load_image(&root, &self.id)?.is_none() {
            // A damaged record must not meet the new file.
            files::remove(&record_path(&root, &self.id))?;
            files::rename(temp, &sqfs_path(&root, &self.id))?;
            self.file = None;
            step("after-rename");
            let name = format!("{}.json", self.id.hex());
            let written =
                files::sync_dir(&images).and_then(|()| root.write_json("images", &name, &record));
            if let Err(error) = written {
                // A full disk is not to keep what is no image.
                let _ = fs::remove_file(sqfs_path(&root, &self.id));
                return Err(error);
            }
            step("after-record");
        }
        let image = load_image(&root, &self.id)?;
        image.map_or_else(
            || Err(Error::NoImage { image: self.id.clone() }),
            |record| {
                Ok(StoredImage {
                    id: self.id.clone(),
                    record,
                    path: sqfs_path(&root, &self.id),
                    root: root.path().to_owned(),
                    writable: true,
                })
            },
        )
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let files = self.file.take().map(|(_, path)| path);
        for path in files.iter().chain(&self.scratch) {
            if let Err(error) = lock::remove_temporary(path) {
                tracing::warn!("left for `prune`: {error}");
            }
        }
    }
}
