//! Reading an image: tables on demand, through bounded caches.
//!
//! Opening reads the superblock and checks it; everything else is read when
//! it is asked for. Metadata blocks, data blocks and inodes have a cache each,
//! sharded, so that readers on different threads meet no common lock, and a
//! block is inflated once however many wait for it. Every position and length
//! comes from outside: it is checked before it is used, and no allocation is
//! larger than a block, or what an inode may have of extended attributes.
//!
//! An image keeps what [`ReaderOptions`] say, and beside it at most 128 KiB of
//! positions of tables.

mod blocks;
mod cache;
mod directory;
mod inode;
mod xattr;

use std::sync::{Arc, Mutex};

use crate::codec::Codec;
use crate::error::Error;
use crate::format::{
    ABSENT, BLOCK_STORED, METADATA_LEN, METADATA_STORED, SUPERBLOCK_LEN, Superblock, le16, le32,
    le64,
};
use crate::read_at::ReadAt;
use blocks::{Chunk, Starts};
use cache::Cache;

pub use directory::{DirEntry, DirPosition, EntryKind, ReadDir};
pub use inode::{Inode, InodeKind, InodeRef, Piece};

/// How much a reader may keep in memory.
#[derive(Clone, Copy, Debug)]
pub struct ReaderOptions {
    /// Inflated data and fragment blocks, in bytes.
    pub data_cache: usize,
    /// Inflated metadata blocks, in bytes.
    pub metadata_cache: usize,
    /// Inodes, in number; each takes 1 KiB at most.
    pub inode_cache: usize,
    /// Block lists of long files, in bytes.
    pub list_cache: usize,
}

impl ReaderOptions {
    /// A part of this for each of several images that are read together. None
    /// gets less than it needs to be read at a good pace: 1 MiB and two blocks
    /// for data, 256 KiB for metadata, 512 inodes, 96 KiB for lists.
    #[must_use]
    pub fn divided(self, images: usize) -> Self {
        let part = |all: usize, least: usize| (all / images.max(1)).max(least.min(all));
        Self {
            data_cache: part(self.data_cache, 1 << 20),
            metadata_cache: part(self.metadata_cache, 256 << 10),
            inode_cache: part(self.inode_cache, 512),
            list_cache: part(self.list_cache, 96 << 10),
        }
    }
}

impl Default for ReaderOptions {
    fn default() -> Self {
        let (data_cache, metadata_cache) = (32 << 20, 8 << 20);
        Self { data_cache, metadata_cache, inode_cache: 16_384, list_cache: 3 << 20 }
    }
}

/// An inflated block. Behind a vector, so that what has been inflated is not
/// copied once more.
pub type Block = Arc<Vec<u8>>;

/// How many positions of the blocks of tables are kept.
const POSITIONS: usize = 1024;

/// An inflated metadata block and where the next one starts.
type Metadata = (Block, u64);

/// An open image. All methods take `&self` and may be called from any thread.
pub struct Image {
    file: Box<dyn ReadAt>,
    start: u64,
    sb: Superblock,
    codec: Codec,
    metadata: Cache<u64, Metadata>,
    positions: Cache<u64, u64>,
    data: Cache<u64, Block>,
    inodes: Cache<u64, Arc<Inode>>,
    /// Of block lists, by inode reference and number.
    chunks: Cache<(u64, u64), Arc<Chunk>>,
    /// Of long files, by inode reference.
    starts: Cache<u64, Arc<Mutex<Starts>>>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("start", &self.start)
            .field("sb", &self.sb)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Opens the image that starts at byte `offset` of a file.
    ///
    /// # Errors
    /// When it is no squashfs 4.0 image, is truncated, or compressed by a
    /// method that is not supported.
    pub fn open(
        file: impl ReadAt + 'static,
        offset: u64,
        options: ReaderOptions,
    ) -> Result<Self, Error> {
        let file: Box<dyn ReadAt> = Box::new(file);
        let mut bytes = [0; SUPERBLOCK_LEN];
        read_exact(&*file, &mut bytes, offset, 0, "the superblock")?;
        let sb = Superblock::decode(&bytes).ok_or(Error::NotSquashfs)?;
        check(&sb)?;
        let codec = Codec::from_id(sb.compression).map_err(Error::Compression)?;
        let size =
            file.size().map_err(|e| Error::Read { offset: 0, len: 0, source: Arc::new(e) })?;
        if offset.checked_add(sb.bytes_used).is_none_or(|end| end > size) {
            return Err(Error::Truncated { what: "the image", offset: sb.bytes_used });
        }
        let capacity = options.data_cache / sb.block_size as usize;
        Ok(Self {
            file,
            start: offset,
            sb,
            codec,
            metadata: Cache::new(options.metadata_cache / METADATA_LEN),
            positions: Cache::new(POSITIONS),
            data: Cache::new(capacity),
            inodes: Cache::new(options.inode_cache),
            chunks: Cache::new(options.list_cache / blocks::CHUNK_COST),
            starts: Cache::new(options.list_cache / blocks::FILE_COST),
        })
    }

    /// The superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.sb
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> InodeRef {
        InodeRef(self.sb.root)
    }

    /// Reads bytes at an offset from the image's start, inside the image.
    fn bytes(&self, offset: u64, len: usize, what: &'static str) -> Result<Vec<u8>, Error> {
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.sb.bytes_used) {
            return Err(Error::Truncated { what, offset });
        }
        let mut bytes = vec![0; len];
        read_exact(&*self.file, &mut bytes, self.start, offset, what)?;
        Ok(bytes)
    }

    /// The metadata block at an offset.
    fn metadata(&self, offset: u64) -> Result<Metadata, Error> {
        self.metadata.get(offset, || {
            let what = "a metadata block";
            // One read for the header and whatever may follow it.
            let most = self.sb.bytes_used.saturating_sub(offset).min(2 + METADATA_LEN as u64);
            let mut bytes = self.bytes(offset, (most as usize).max(2), what)?;
            let header = le16(&bytes, 0);
            let len = usize::from(header & !METADATA_STORED);
            if len == 0 || len > METADATA_LEN {
                return Err(Error::Corrupt { what: "a metadata block's length", offset });
            }
            if bytes.len() < 2 + len {
                return Err(Error::Truncated { what, offset });
            }
            let next = offset + 2 + len as u64;
            if header & METADATA_STORED != 0 {
                bytes.truncate(2 + len);
                bytes.drain(..2);
                return Ok((Arc::new(bytes), next));
            }
            let mut out = vec![0; METADATA_LEN];
            let inflate = self.codec.decompress(&bytes[2..2 + len], &mut out);
            let len = inflate.map_err(|source| Error::Inflate { what, offset, source })?;
            out.truncate(len);
            Ok((Arc::new(out), next))
        })
    }

    /// A data or fragment block on disk, inflated.
    fn data_block(&self, offset: u64, word: u32, limit: usize) -> Result<Block, Error> {
        self.data.get(offset, || {
            let what = "a data block";
            let len = (word & !BLOCK_STORED) as usize;
            if len > self.sb.block_size as usize {
                return Err(Error::Corrupt { what: "a data block's length", offset });
            }
            let data = self.bytes(offset, len, what)?;
            if word & BLOCK_STORED != 0 {
                return Ok(Arc::new(data));
            }
            let mut out = vec![0; limit];
            let inflate = self.codec.decompress(&data, &mut out);
            let len = inflate.map_err(|source| Error::Inflate { what, offset, source })?;
            out.truncate(len);
            Ok(Arc::new(out))
        })
    }

    /// The fragment block with an index.
    fn fragment(&self, index: u32) -> Result<Block, Error> {
        let at = self.sb.fragment_table;
        if index >= self.sb.fragments || at == ABSENT {
            return Err(Error::Corrupt { what: "a fragment's index", offset: at });
        }
        let mut entry = self.table_cursor(at, u64::from(index) * 16)?;
        let entry = entry.take::<16>()?;
        self.data_block(le64(&entry, 0), le32(&entry, 8), self.sb.block_size as usize)
    }

    /// A user or group id.
    fn id(&self, index: u16) -> Result<u32, Error> {
        if index >= self.sb.ids {
            return Err(Error::Corrupt { what: "an id's index", offset: self.sb.id_table });
        }
        let mut cursor = self.table_cursor(self.sb.id_table, u64::from(index) * 4)?;
        Ok(u32::from_le_bytes(cursor.take()?))
    }

    /// The inode with a number; None where the image has no export table, or no
    /// such inode.
    ///
    /// # Errors
    /// When the export table cannot be read.
    pub fn by_number(&self, number: u32) -> Result<Option<InodeRef>, Error> {
        let at = self.sb.export_table;
        if number == 0 || number > self.sb.inodes || at == ABSENT {
            return Ok(None);
        }
        let mut cursor = self.table_cursor(at, u64::from(number - 1) * 8)?;
        Ok(Some(InodeRef(u64::from_le_bytes(cursor.take()?))))
    }

    /// The largest id of an owner.
    ///
    /// # Errors
    /// When the table of ids cannot be read.
    pub fn largest_id(&self) -> Result<u32, Error> {
        (0..self.sb.ids).try_fold(0, |most, index| Ok(most.max(self.id(index)?)))
    }

    /// The position inside a table whose metadata blocks a list of 64-bit
    /// positions names.
    fn table_cursor(&self, list: u64, byte: u64) -> Result<Cursor<'_>, Error> {
        let block = byte / METADATA_LEN as u64;
        let at =
            list.checked_add(block * 8).ok_or(Error::Corrupt { what: "a table", offset: list })?;
        let read = || Ok(le64(&self.bytes(at, 8, "a table's positions")?, 0));
        let position = self.positions.get(at, read)?;
        self.cursor(position, (byte % METADATA_LEN as u64) as usize)
    }

    /// A reader of metadata, from an offset in an inflated block.
    fn cursor(&self, block: u64, offset: usize) -> Result<Cursor<'_>, Error> {
        let (data, next) = self.metadata(block)?;
        if offset > data.len() {
            return Err(Error::Corrupt { what: "an offset in a metadata block", offset: block });
        }
        Ok(Cursor { image: self, block, data, next, offset })
    }
}

/// A position in a run of metadata blocks.
pub(crate) struct Cursor<'a> {
    image: &'a Image,
    block: u64,
    data: Block,
    next: u64,
    offset: usize,
}

impl Cursor<'_> {
    /// The next bytes, across block borders.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < out.len() {
            let rest = self.data.get(self.offset..).unwrap_or_default();
            if rest.is_empty() {
                let (data, next) = self.image.metadata(self.next)?;
                if data.is_empty() {
                    return Err(Error::Corrupt {
                        what: "an empty metadata block",
                        offset: self.next,
                    });
                }
                (self.block, self.data, self.next, self.offset) = (self.next, data, next, 0);
                continue;
            }
            let len = rest.len().min(out.len() - done);
            out[done..done + len].copy_from_slice(&rest[..len]);
            done += len;
            self.offset += len;
        }
        Ok(())
    }

    fn skip(&mut self, mut len: usize) -> Result<(), Error> {
        let mut scratch = [0; 256];
        while len > 0 {
            let part = len.min(scratch.len());
            self.fill(&mut scratch[..part])?;
            len -= part;
        }
        Ok(())
    }

    /// Where this is, for messages.
    fn place(&self) -> u64 {
        self.block
    }
}

fn read_exact(
    file: &dyn ReadAt,
    buf: &mut [u8],
    start: u64,
    offset: u64,
    what: &'static str,
) -> Result<(), Error> {
    let mut done = 0;
    while done < buf.len() {
        let at = start.checked_add(offset).and_then(|at| at.checked_add(done as u64));
        let at = at.ok_or(Error::Truncated { what, offset })?;
        match file.read_at(&mut buf[done..], at) {
            Ok(0) if offset == 0 => return Err(Error::NotSquashfs),
            Ok(0) => return Err(Error::Truncated { what, offset }),
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                return Err(Error::Read { offset, len: buf.len(), source: Arc::new(e) });
            }
        }
    }
    Ok(())
}

fn check(sb: &Superblock) -> Result<(), Error> {
    let corrupt = |what, offset| Err(Error::Corrupt { what, offset });
    if !(12..=20).contains(&sb.block_log) || sb.block_size != 1 << sb.block_log {
        return corrupt("the block size", 12);
    }
    if sb.ids == 0 {
        return corrupt("the number of ids", 26);
    }
    let inside = |at: u64| at >= SUPERBLOCK_LEN as u64 && at < sb.bytes_used;
    if !inside(sb.inode_table) || sb.directory_table < sb.inode_table || !inside(sb.id_table) {
        return corrupt("the position of a table", 48);
    }
    for optional in [sb.fragment_table, sb.export_table, sb.xattr_table] {
        if optional != ABSENT && !inside(optional) {
            return corrupt("the position of a table", 48);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_of_many_images_are_those_of_one_divided() {
        let all = ReaderOptions::default();
        let one = all.divided(1);
        assert_eq!((one.data_cache, one.inode_cache), (all.data_cache, all.inode_cache));
        let sum = |images: usize| {
            let each = all.divided(images);
            images * (each.data_cache + each.metadata_cache + each.list_cache)
        };
        assert!(sum(30) <= sum(1));
        assert!(sum(100) <= 100 * ((1 << 20) + (256 << 10) + (96 << 10)));
    }
}
