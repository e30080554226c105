//! Where the conversion reads layers from, and who is told of it.

use std::io::{self, Read};

use image::{Layer, LayerSource};
use registry::Client;
use types::RegistryRef;

use crate::{Event, SharedProgress};

/// The layers of an image in a registry. Every byte is checked against its
/// digest by the client.
pub(crate) struct RegistryLayers<'a> {
    pub(crate) client: &'a Client,
    pub(crate) name: &'a RegistryRef,
    pub(crate) layers: Vec<Layer>,
}

impl LayerSource for RegistryLayers<'_> {
    fn layers(&self) -> &[Layer] {
        &self.layers
    }

    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        let layer = self.layers.get(index).ok_or(io::ErrorKind::NotFound)?;
        let blob = self.client.blob(self.name, &layer.digest, Some(layer.size));
        Ok(Box::new(blob.map_err(io::Error::other)?))
    }
}

/// Layers whose transfer is told to somebody.
pub(crate) struct Watched<'a> {
    pub(crate) inner: &'a dyn LayerSource,
    pub(crate) progress: &'a SharedProgress,
}

impl LayerSource for Watched<'_> {
    fn layers(&self) -> &[Layer] {
        self.inner.layers()
    }

    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        let inner = self.inner.open(index)?;
        Ok(Box::new(Counted { inner, layer: index, progress: self.progress, ended: false }))
    }
}

struct Counted<'a> {
    inner: Box<dyn Read + Send + 'a>,
    layer: usize,
    progress: &'a SharedProgress,
    ended: bool,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let layer = self.layer;
        if count > 0 {
            self.progress.event(Event::Bytes { layer, count: count as u64 });
        } else if !buffer.is_empty() && !self.ended {
            self.ended = true;
            self.progress.event(Event::LayerDone { layer });
        }
        Ok(count)
    }
}
