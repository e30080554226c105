//! The FUSE kernel protocol, version 7, as include/uapi/linux/fuse.h defines
//! it: requests are read, answers written, field by field.

/// Length of `struct fuse_in_header`.
pub(crate) const IN_HEADER: usize = 40;
/// Length of `struct fuse_out_header`.
pub(crate) const OUT_HEADER: usize = 16;
/// The protocol version spoken here.
pub(crate) const MAJOR: u32 = 7;
/// The newest minor version whose structures are used here.
pub(crate) const MINOR: u32 = 36;

/// Operations (`enum fuse_opcode`) that this server knows.
pub(crate) mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const TMPFILE: u32 = 51;
}

/// INIT flags that this server asks for where the kernel offers them.
pub(crate) mod flag {
    pub(crate) const ASYNC_READ: u32 = 1;
    /// Asked for only where the image can resolve file handles.
    pub(crate) const EXPORT_SUPPORT: u32 = 1 << 4;
    pub(crate) const DO_READDIRPLUS: u32 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u32 = 1 << 14;
    pub(crate) const NO_OPEN_SUPPORT: u32 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u32 = 1 << 18;
    /// Asked for only where it is needed: the kernel then asks for the lists of
    /// every inode.
    pub(crate) const POSIX_ACL: u32 = 1 << 20;
    pub(crate) const MAX_PAGES: u32 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u32 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
    /// All of them but those that depend on the image.
    pub(crate) const WANTED: u32 = ASYNC_READ
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | NO_OPEN_SUPPORT
        | PARALLEL_DIROPS
        | MAX_PAGES
        | CACHE_SYMLINKS
        | NO_OPENDIR_SUPPORT;
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    /// Who asks, as the connection numbers processes; 0 when it cannot tell.
    pub(crate) pid: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads a message; None when its length is not what it says.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let len = u32_at(bytes, 0)? as usize;
        if len < IN_HEADER || len != bytes.len() {
            return None;
        }
        Some(Self {
            opcode: u32_at(bytes, 4)?,
            unique: u64_at(bytes, 8)?,
            node: u64_at(bytes, 16)?,
            pid: u32_at(bytes, 32)?,
            body: &bytes[IN_HEADER..],
        })
    }

    pub(crate) fn u32(&self, at: usize) -> Option<u32> {
        u32_at(self.body, at)
    }

    pub(crate) fn u64(&self, at: usize) -> Option<u64> {
        u64_at(self.body, at)
    }

    /// The NUL-terminated name at an offset.
    pub(crate) fn name(&self, at: usize) -> Option<&'a [u8]> {
        let rest = self.body.get(at..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        Some(&rest[..end])
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// `struct fuse_attr`, as far as a read-only file system has values for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attr {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) mtime: u64,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) blksize: u32,
}

/// An answer under construction; its header is filled in at the end.
pub(crate) struct Answer(pub(crate) Vec<u8>);

/// Seconds that stand for ever: the image does not change.
const FOREVER: u64 = i32::MAX as u64;

impl Answer {
    pub(crate) fn new() -> Self {
        Self(vec![0; OUT_HEADER])
    }

    pub(crate) fn reset(&mut self) {
        self.0.truncate(0);
        self.0.resize(OUT_HEADER, 0);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_ne_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_ne_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_ne_bytes());
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, a: &Attr) {
        for value in [a.ino, a.size, a.blocks, a.mtime, a.mtime, a.mtime] {
            self.u64(value);
        }
        for value in [0, 0, 0, a.mode, a.nlink, a.uid, a.gid, a.rdev, a.blksize, 0] {
            self.u32(value);
        }
    }

    /// `struct fuse_attr_out`.
    pub(crate) fn attr_out(&mut self, attr: &Attr) {
        self.u64(FOREVER);
        self.u64(0);
        self.attr(attr);
    }

    /// `struct fuse_entry_out`. Node 0 with a timeout is a negative entry.
    pub(crate) fn entry_out(&mut self, node: u64, attr: &Attr) {
        for value in [node, 0, FOREVER, FOREVER, 0] {
            self.u64(value);
        }
        self.attr(attr);
    }

    /// The node of an answer that [`entry_out`](Self::entry_out) has written.
    pub(crate) fn node(&self) -> u64 {
        u64_at(&self.0, OUT_HEADER).unwrap_or_default()
    }

    /// `struct fuse_dirent`, padded to eight bytes.
    pub(crate) fn dirent(&mut self, ino: u64, next: u64, kind: u32, name: &[u8]) {
        self.u64(ino);
        self.u64(next);
        self.u32(name.len() as u32);
        self.u32(kind);
        self.0.extend_from_slice(name);
        let padded = self.0.len().next_multiple_of(8);
        self.0.resize(padded, 0);
    }

    /// Fills in `struct fuse_out_header`; an errno leaves no body, and `more`
    /// bytes follow from elsewhere.
    pub(crate) fn seal(&mut self, unique: u64, errno: i32, more: usize) -> &[u8] {
        if errno != 0 {
            self.0.truncate(OUT_HEADER);
        }
        let len = (self.0.len() + more) as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[4..8].copy_from_slice(&(-errno).to_ne_bytes());
        self.0[8..16].copy_from_slice(&unique.to_ne_bytes());
        &self.0
    }
}

/// `FUSE_NOTIFY_STORE` of `enum fuse_notify_code`.
const NOTIFY_STORE: u32 = 4;

/// The message that puts `len` bytes, which follow it, into the kernel's cache
/// of a node (`struct fuse_notify_store_out`).
pub(crate) fn store(node: u64, offset: u64, len: u32) -> [u8; OUT_HEADER + 24] {
    let mut message = [0; OUT_HEADER + 24];
    message[..4].copy_from_slice(&(OUT_HEADER as u32 + 24 + len).to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_STORE.to_ne_bytes());
    message[16..24].copy_from_slice(&node.to_ne_bytes());
    message[24..32].copy_from_slice(&offset.to_ne_bytes());
    message[32..36].copy_from_slice(&len.to_ne_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_field_by_field() {
        let mut bytes = vec![0; IN_HEADER];
        bytes[..4].copy_from_slice(&44u32.to_ne_bytes());
        bytes[4..8].copy_from_slice(&op::LOOKUP.to_ne_bytes());
        bytes[8..16].copy_from_slice(&9u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&1u64.to_ne_bytes());
        bytes.extend(b"usr\0");
        let request = Request::decode(&bytes).unwrap();
        assert_eq!((request.opcode, request.unique, request.node), (op::LOOKUP, 9, 1));
        assert_eq!(request.name(0), Some(&b"usr"[..]));
        assert_eq!(request.name(9), None);
        assert_eq!(request.u32(1), None);
        assert_eq!(Request::decode(&bytes[..43]), None);
        assert_eq!(Request::decode(&bytes[..3]), None);
    }

    #[test]
    fn structures_have_the_kernels_sizes() {
        let mut answer = Answer::new();
        answer.entry_out(2, &Attr::default());
        assert_eq!(answer.0.len(), OUT_HEADER + 128);
        answer.reset();
        answer.attr_out(&Attr::default());
        assert_eq!(answer.0.len(), OUT_HEADER + 104);
        answer.reset();
        answer.dirent(1, 2, 4, b"name5");
        assert_eq!(answer.0.len(), OUT_HEADER + 32);
        assert_eq!(answer.seal(7, 5, 0)[4..8], (-5i32).to_ne_bytes());
        assert_eq!(answer.0.len(), OUT_HEADER);
    }
}
