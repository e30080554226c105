//! Block compression: gzip (zlib streams), xz, lz4, zstd; lzo is read only.

use std::cell::RefCell;
use std::io::Read;

use crate::lzo;

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Stored. Written as gzip with every block stored.
    None,
    /// zlib at a level of 1 to 12.
    Gzip(i32),
    /// xz.
    Xz,
    /// lz4 blocks.
    Lz4,
    /// zstd at a level of 1 to 22.
    Zstd(i32),
}

impl Compression {
    /// The compressor id of the superblock.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Self::None | Self::Gzip(_) => 1,
            Self::Xz => 4,
            Self::Lz4 => 5,
            Self::Zstd(_) => 6,
        }
    }
}

/// What an image's blocks are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// zlib.
    Gzip,
    /// xz.
    Xz,
    /// LZO1X.
    Lzo,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// Why a block does not inflate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{codec:?} data is corrupt: {reason}")]
pub struct CodecError {
    codec: Codec,
    reason: String,
}

/// A decoder may not take more memory than this for one block. The dictionary, which
/// is most of it, is no larger than a block, 1 MiB; the kernel refuses others too.
const XZ_MEMORY: u64 = 4 << 20;

thread_local! {
    static ZLIB: RefCell<libdeflater::Decompressor> = RefCell::new(libdeflater::Decompressor::new());
    static ZSTD: RefCell<zstd_safe::DCtx<'static>> = RefCell::new(zstd_safe::DCtx::create());
}

impl Codec {
    /// From the superblock; the name of one that is not supported otherwise.
    ///
    /// # Errors
    /// The name of the compressor.
    pub fn from_id(id: u16) -> Result<Self, &'static str> {
        match id {
            1 => Ok(Self::Gzip),
            2 => Err("lzma"),
            3 => Ok(Self::Lzo),
            4 => Ok(Self::Xz),
            5 => Ok(Self::Lz4),
            6 => Ok(Self::Zstd),
            _ => Err("an unknown method"),
        }
    }

    /// Inflates a block into `out`; the number of bytes it holds.
    ///
    /// # Errors
    /// When the data is corrupt or inflates to more than `out` holds.
    pub fn decompress(self, data: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
        let failed = |reason: String| CodecError { codec: self, reason };
        match self {
            Self::Gzip => ZLIB
                .with_borrow_mut(|z| z.zlib_decompress(data, out))
                .map_err(|e| failed(e.to_string())),
            Self::Zstd => ZSTD
                .with_borrow_mut(|z| z.decompress(out, data))
                .map_err(|code| failed(zstd_safe::get_error_name(code).to_owned())),
            Self::Lzo => lzo::decompress(data, out).map_err(|why| failed(why.to_owned())),
            Self::Lz4 => {
                lz4_flex::block::decompress_into(data, out).map_err(|e| failed(e.to_string()))
            }
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)
                    .map_err(|e| failed(e.to_string()))?;
                let mut reader = liblzma::read::XzDecoder::new_stream(data, stream);
                let mut done = 0;
                while done < out.len() {
                    match reader.read(&mut out[done..]) {
                        Ok(0) => return Ok(done),
                        Ok(n) => done += n,
                        Err(e) => return Err(failed(e.to_string())),
                    }
                }
                match reader.read(&mut [0]) {
                    Ok(0) => Ok(done),
                    Ok(_) => Err(failed("the block is too long".to_owned())),
                    Err(e) => Err(failed(e.to_string())),
                }
            }
        }
    }
}

/// A compressor for one thread.
pub struct Compressor {
    kind: Kind,
}

enum Kind {
    None,
    Gzip(libdeflater::Compressor),
    Xz,
    Lz4,
    Zstd(zstd_safe::CCtx<'static>, i32),
}

impl Compressor {
    /// Makes one.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let kind = match compression {
            Compression::None => Kind::None,
            Compression::Gzip(level) => {
                let level =
                    libdeflater::CompressionLvl::new(level.clamp(1, 12)).unwrap_or_default();
                Kind::Gzip(libdeflater::Compressor::new(level))
            }
            Compression::Xz => Kind::Xz,
            Compression::Lz4 => Kind::Lz4,
            Compression::Zstd(level) => Kind::Zstd(zstd_safe::CCtx::create(), level),
        };
        Self { kind }
    }

    /// Compresses a block into `out`; false when that saves nothing.
    pub fn compress(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        // One byte less than the data: what does not fit is stored.
        let room = data.len().saturating_sub(1);
        match &mut self.kind {
            Kind::None => false,
            Kind::Gzip(z) => {
                out.resize(room, 0);
                let len = z.zlib_compress(data, out);
                len.map(|len| out.truncate(len)).is_ok()
            }
            Kind::Zstd(z, level) => {
                out.resize(zstd_safe::compress_bound(data.len()), 0);
                match z.compress(out.as_mut_slice(), data, *level) {
                    Ok(len) => {
                        out.truncate(len);
                        len <= room
                    }
                    Err(_) => false,
                }
            }
            Kind::Lz4 => {
                out.resize(lz4_flex::block::get_maximum_output_size(data.len()), 0);
                match lz4_flex::block::compress_into(data, out) {
                    Ok(len) => {
                        out.truncate(len);
                        len <= room
                    }
                    Err(_) => false,
                }
            }
            Kind::Xz => {
                let options = liblzma::stream::LzmaOptions::new_preset(6);
                let Ok(mut options) = options else { return false };
                // The kernel wants a dictionary no larger than a block.
                let dictionary =
                    u32::try_from(data.len()).unwrap_or(u32::MAX).next_power_of_two().max(8192);
                options.dict_size(dictionary);
                let mut filters = liblzma::stream::Filters::new();
                filters.lzma2(&options);
                let check = liblzma::stream::Check::Crc32;
                let Ok(stream) = liblzma::stream::Stream::new_stream_encoder(&filters, check)
                else {
                    return false;
                };
                let mut reader = liblzma::read::XzEncoder::new_stream(data, stream);
                reader.read_to_end(out).is_ok() && out.len() <= room
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_round_trips() {
        let data: Vec<u8> =
            (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).take(131_072).collect();
        for (compression, codec) in [
            (Compression::Gzip(6), Codec::Gzip),
            (Compression::Xz, Codec::Xz),
            (Compression::Lz4, Codec::Lz4),
            (Compression::Zstd(3), Codec::Zstd),
        ] {
            let mut packed = Vec::new();
            assert!(Compressor::new(compression).compress(&data, &mut packed), "{codec:?}");
            let mut out = vec![0; data.len()];
            assert_eq!(codec.decompress(&packed, &mut out), Ok(data.len()));
            assert_eq!(out, data);
            assert!(codec.decompress(&packed, &mut out[..1000]).is_err(), "{codec:?} overran");
            assert!(codec.decompress(&packed[..packed.len() / 2], &mut out).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn what_does_not_shrink_is_stored() {
        let mut out = Vec::new();
        for c in [Compression::Gzip(6), Compression::Zstd(3), Compression::Lz4, Compression::Xz] {
            assert!(!Compressor::new(c).compress(b"q7", &mut out));
        }
    }
}
