//! Layers as streams of uncompressed tar.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use sha2::Digest as _;
use types::Digest;

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob, compressed as it is.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Digest of the uncompressed tar, where the configuration names it.
    pub diff_id: Option<Digest>,
}

/// Where layers come from.
pub trait LayerSource: Sync {
    /// The layers, lowest first.
    fn layers(&self) -> &[Layer];

    /// Opens a layer's blob. Its reader fails when the bytes do not have the
    /// layer's digest.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send + '_>>;
}

/// Bytes a piece, and pieces a layer may be ahead.
const PIECE: usize = 256 << 10;
const AHEAD: usize = 16;

/// What a layer's thread sends: bytes, then the digest of all of them.
enum Piece {
    Bytes(Vec<u8>),
    End(Digest),
    Failed(io::Error),
}

/// The reading end of a layer's thread.
pub(crate) struct TarStream {
    pieces: Receiver<Piece>,
    current: Vec<u8>,
    at: usize,
    digest: Option<Digest>,
    /// Bytes that may still be read, while headers are.
    headers: Rc<Cell<u64>>,
}

/// Longest run of headers before an entry: a name, a link and extended
/// attributes at the kernel's limits are far below.
pub(crate) const HEADER_LIMIT: u64 = 1 << 20;

impl TarStream {
    /// Starts to inflate a layer on a thread of its own.
    pub(crate) fn start<'s>(
        scope: &'s Scope<'s, '_>,
        source: &'s dyn LayerSource,
        index: usize,
    ) -> Self {
        let (sender, pieces) = sync_channel(AHEAD);
        scope.spawn(move || {
            let last = match pump(source, index, &sender) {
                Ok(Some(digest)) => Piece::End(digest),
                Ok(None) => return,
                Err(error) => Piece::Failed(error),
            };
            // Nobody listens any more when another layer has failed.
            let _ = sender.send(last);
        });
        Self { pieces, current: Vec::new(), at: 0, digest: None, headers: Rc::default() }
            .unlimited()
    }

    fn unlimited(self) -> Self {
        self.headers.set(u64::MAX);
        self
    }

    /// The number of bytes that may be read from now on. The tar reader takes
    /// headers into memory whole, however long they say they are.
    pub(crate) fn headers(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.headers)
    }

    /// Reads to the end; the digest of the uncompressed layer.
    pub(crate) fn finish(mut self) -> io::Result<Option<Digest>> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.digest)
    }
}

impl Read for TarStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            if self.digest.is_some() {
                return Ok(0);
            }
            match self.pieces.recv() {
                Ok(Piece::Bytes(bytes)) => (self.current, self.at) = (bytes, 0),
                Ok(Piece::End(digest)) => self.digest = Some(digest),
                Ok(Piece::Failed(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let left = self.headers.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "headers of more than 1 MiB"));
        }
        let len = buf.len().min(self.current.len() - self.at);
        let len = usize::try_from(left).map_or(len, |left| len.min(left));
        if left != u64::MAX {
            self.headers.set(left - len as u64);
        }
        buf[..len].copy_from_slice(&self.current[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Inflates a layer into pieces; its digest, or None when nobody listens.
fn pump(
    source: &dyn LayerSource,
    index: usize,
    sender: &SyncSender<Piece>,
) -> io::Result<Option<Digest>> {
    let mut tar = inflate(source.open(index)?)?;
    let mut hash = sha2::Sha256::new();
    loop {
        let mut piece = vec![0; PIECE];
        let mut len = 0;
        while len < piece.len() {
            match tar.read(&mut piece[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if len == 0 {
            return Ok(Some(Digest::sha256(&hash.finalize().into())));
        }
        piece.truncate(len);
        hash.update(&piece);
        if sender.send(Piece::Bytes(piece)).is_err() {
            return Ok(None);
        }
    }
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// Most memory that a stream of xz may want: what level 9 does is half of it.
const XZ_MEMORY: u64 = 128 << 20;

/// Whether [`inflate`] has something to do.
pub(crate) fn is_compressed(head: &[u8]) -> bool {
    [GZIP, ZSTD, XZ].iter().any(|magic| head.starts_with(magic))
}

/// The magic bytes decide: media types lie, and Docker's do not tell.
pub(crate) fn inflate<'a>(
    blob: Box<dyn Read + Send + 'a>,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut blob = BufReader::with_capacity(1 << 16, blob);
    let head = blob.fill_buf()?;
    if head.starts_with(GZIP) {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob)))
    } else if head.starts_with(ZSTD) {
        Ok(Box::new(zstd::Decoder::with_buffer(blob)?))
    } else if head.starts_with(XZ) {
        let flags = liblzma::stream::CONCATENATED;
        let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
        Ok(Box::new(liblzma::bufread::XzDecoder::new_stream(blob, stream)))
    } else {
        Ok(Box::new(blob))
    }
}
