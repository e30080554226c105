//! What happens on the way to an image, for whoever shows it.

use std::sync::Arc;

use types::Digest;

/// A layer about to be transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its transferred size in bytes.
    pub size: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The manifest of an image is asked for.
    Resolving {
        /// The image.
        name: String,
    },
    /// Another process converts the image; this one waits for it.
    Waiting {
        /// Who converts it: host and process id.
        holder: Option<String>,
    },
    /// The transfer begins.
    Layers {
        /// The layers, in the manifest's order.
        layers: Vec<LayerInfo>,
        /// Whether they come over a network.
        remote: bool,
    },
    /// Packages of a distribution are fetched; their bytes are those of layer 0.
    Packages {
        /// How many.
        count: usize,
        /// Bytes of all of them.
        size: u64,
    },
    /// More bytes of a layer have come.
    Bytes {
        /// Which layer.
        layer: usize,
        /// How many more.
        count: u64,
    },
    /// A layer is complete.
    LayerDone {
        /// Which layer.
        layer: usize,
    },
    /// Every layer is read; the file is being completed.
    Finishing,
    /// The image is there.
    Done,
    /// Something that goes on, as a line.
    Note(String),
    /// A retry, another mirror, plain HTTP: something worth knowing.
    Notice(String),
}

/// Hears of events, from several threads.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// Progress that may be shared with threads.
pub type SharedProgress = Arc<dyn Progress>;

/// Progress that nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event) {}
}
