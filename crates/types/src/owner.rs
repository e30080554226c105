//! The extended attribute that says whose a file is, where nobody with the
//! right to may give it to him.

use std::fmt;

/// Its name, as fuse-overlayfs and containers/storage have it.
pub const OVERRIDE_STAT: &str = "user.containers.override_stat";

/// The same for what takes no attribute of that name: links, devices, FIFOs and
/// sockets (xattr(7)). Only the server of an image shows it.
pub const SPECIAL_STAT: &str = "security.sampan.override_stat";

/// Access control lists (acl(5)): the attribute that the kernel has, access list
/// first, and the one that notes it where its ids cannot be expressed, as in a
/// squashfs image.
pub const ACL_NOTES: [(&str, &str); 2] = [
    ("system.posix_acl_access", "user.sampan.posix_acl_access"),
    ("system.posix_acl_default", "user.sampan.posix_acl_default"),
];

/// File capabilities (capabilities(7)), and the attribute that notes them where
/// nobody with the right to may give them.
pub const CAPABILITY: &str = "security.capability";
/// See [`CAPABILITY`].
pub const CAPABILITY_NOTE: &str = "user.sampan.capability";

/// The file beside the upper directory of an overlay that says whose the links,
/// FIFOs and sockets in it are, and everything else on a file system without attributes
/// of users: lines of [`Special`], the latest of an inode last.
pub const SPECIAL_OWNERS: &str = "owners";

/// What an inode without an attribute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unattributed {
    /// A link, FIFO or socket, which can have none.
    Special,
    /// A file or directory.
    File,
    /// An empty file that stands for a device.
    Device(Device),
}

/// An inode that can have no attribute, and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// The inode's number, and when it was made in seconds and nanoseconds: a
    /// number is used again.
    pub inode: (u64, i64, u32),
    /// User and group.
    pub owner: (u32, u32),
    /// What it is.
    pub kind: Unattributed,
}

impl Unattributed {
    fn parse(word: &str) -> Option<Self> {
        if word == "f" {
            return Some(Self::File);
        }
        let block = word.starts_with('b');
        let (major, minor) = word.strip_prefix(['b', 'c'])?.split_once(':')?;
        Some(Self::Device(Device { block, major: major.parse().ok()?, minor: minor.parse().ok()? }))
    }
}

impl Special {
    /// Reads a line; None for what is none, which a crash may leave.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut word = || words.next();
        let inode = (word()?.parse().ok()?, word()?.parse().ok()?, word()?.parse().ok()?);
        let owner = (word()?.parse().ok()?, word()?.parse().ok()?);
        let (kind, end) = match words.next()? {
            "." => (Unattributed::Special, "."),
            word => (Unattributed::parse(word)?, words.next()?),
        };
        (end == "." && words.next().is_none()).then_some(Self { inode, owner, kind })
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inode: (number, seconds, nanoseconds), owner: (uid, gid), kind } = self;
        write!(f, "{number} {seconds} {nanoseconds} {uid} {gid}")?;
        match kind {
            Unattributed::Special => {}
            Unattributed::File => write!(f, " f")?,
            Unattributed::Device(Device { block, major, minor }) => {
                let letter = if *block { 'b' } else { 'c' };
                write!(f, " {letter}{major}:{minor}")?;
            }
        }
        // The point says that the line is whole.
        write!(f, " .")
    }
}

/// A device that an empty file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// A block device, or else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What the attribute says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// What it is, if no plain file.
    pub device: Option<Device>,
}

impl Owner {
    /// Reads a value: `UID:GID:MODE[:TYPE]`, the mode in octal.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut words = text.trim_end_matches('\0').split(':');
        let (uid, gid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let mode = u32::from_str_radix(words.next()?, 8).ok()? & 0o7777;
        let device = words.next().and_then(|kind| {
            let mut parts = kind.split('-');
            let block = match parts.next()? {
                "block" => true,
                "char" => false,
                _ => return None,
            };
            let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some(Device { block, major, minor })
        });
        Some(Self { uid, gid, mode, device })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:0{:o}", self.uid, self.gid, self.mode)?;
        match self.device {
            Some(Device { block, major, minor }) => {
                write!(f, ":{}-{major}-{minor}", if block { "block" } else { "char" })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_special_files_are_read_back() {
        let device = Device { block: true, major: 8, minor: 1 };
        for kind in [
            Unattributed::Special,
            Unattributed::File,
            Unattributed::Device(device),
            Unattributed::Device(Device { block: false, ..device }),
        ] {
            let special = Special { inode: (7, -1, 999_999_999), owner: (1000, 5), kind };
            let line = special.to_string();
            assert_eq!(Special::parse(&line), Some(special));
            for end in 0..line.len() {
                assert_eq!(Special::parse(&line[..end]), None, "{end}");
            }
        }
    }

    #[test]
    fn values_come_back() {
        for text in ["0:42:0640", "7:8:04755:char-1-3", "0:0:0660:block-8-1"] {
            assert_eq!(Owner::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        assert_eq!(Owner::parse(b"1:2:644:file").unwrap().device, None);
        assert_eq!(Owner::parse(b"1:2:0100644\0").unwrap().mode, 0o644);
        for bad in [&b""[..], b"1:2", b"a:b:c", b"1:2:9z"] {
            assert_eq!(Owner::parse(bad), None);
        }
    }
}
