//! Structures and codes.

use std::fmt;

use serde::Serialize;

/// Length of the global header.
pub(crate) const HEADER_LEN: usize = 128;
/// Length of a descriptor.
pub(crate) const DESCRIPTOR_LEN: usize = 585;
/// Length of a descriptor's name, with its NUL.
pub(crate) const NAME_LEN: usize = 128;
const MAGIC: &[u8; 10] = b"SIF_MAGIC\0";
const MAGIC_AT: usize = 32;
/// What the file is started by, when it is executed.
pub(crate) const LAUNCH: &[u8] = b"#!/usr/bin/env run-singularity\n";
/// The bit pattern of a group; with number 0 there is no group.
pub(crate) const GROUP: u32 = 0xf000_0000;
/// No group.
pub const NO_GROUP: u32 = 0;

/// Whether the first bytes are those of a SIF file.
#[must_use]
pub fn is_sif(bytes: &[u8]) -> bool {
    bytes.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(MAGIC)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn le_u32(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn le_i64(bytes: &[u8], at: usize) -> Option<i64> {
    array(bytes, at).map(i64::from_le_bytes)
}

/// A length or a position: never negative.
fn le_position(bytes: &[u8], at: usize) -> Option<u64> {
    u64::try_from(le_i64(bytes, at)?).ok()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A processor architecture, by its two digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Arch(pub(crate) [u8; 2]);

/// The names of the codes 01 to 13, as Go has them.
const ARCHES: [&str; 13] = [
    "386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "mips", "mipsle", "mips64", "mips64le",
    "s390x", "riscv64", "loong64",
];

impl Arch {
    /// By its name in Go, which OCI images use too.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let number = ARCHES.iter().position(|known| *known == name).map_or(0, |index| index + 1);
        let digit = |n: usize| b'0' + n as u8;
        Self([digit(number / 10), digit(number % 10)])
    }

    /// Its name in Go; None for an unknown one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let number: usize = std::str::from_utf8(&self.0).ok()?.parse().ok()?;
        ARCHES.get(number.checked_sub(1)?).copied()
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("unknown"))
    }
}

impl fmt::Debug for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Arch {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The global header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    /// The line that starts the file when it is executed.
    pub launch: String,
    /// Version of the format.
    pub version: String,
    /// Architecture of the primary partition.
    pub arch: Arch,
    /// Identity, as 32 hexadecimal digits; zero in a deterministic file.
    pub uuid: String,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// When it was changed.
    pub modified: i64,
    /// How many descriptors are free.
    pub descriptors_free: u64,
    /// How many there are.
    pub descriptors_total: u64,
    /// Where they begin.
    pub descriptors_offset: u64,
    /// Length of their table.
    pub descriptors_size: u64,
    /// Where data begins.
    pub data_offset: u64,
    /// Length of the data.
    pub data_size: u64,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if !is_sif(bytes) {
            return None;
        }
        let uuid = array::<16>(bytes, 48)?;
        Some(Self {
            launch: text(&bytes[..MAGIC_AT]).trim_end().to_owned(),
            version: text(&bytes[42..45]),
            arch: Arch(array(bytes, 45)?),
            uuid: uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
            created: le_i64(bytes, 64)?,
            modified: le_i64(bytes, 72)?,
            descriptors_free: le_position(bytes, 80)?,
            descriptors_total: le_position(bytes, 88)?,
            descriptors_offset: le_position(bytes, 96)?,
            descriptors_size: le_position(bytes, 104)?,
            data_offset: le_position(bytes, 112)?,
            data_size: le_position(bytes, 120)?,
        })
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        if !self.launch.is_empty() {
            put(0, &LAUNCH[..LAUNCH.len().min(MAGIC_AT)]);
        }
        put(MAGIC_AT, MAGIC);
        put(42, b"01\0");
        put(45, &self.arch.0);
        for (index, pair) in self.uuid.as_bytes().chunks(2).take(16).enumerate() {
            let byte = std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
            put(48 + index, &[byte.unwrap_or(0)]);
        }
        put(64, &self.created.to_le_bytes());
        put(72, &self.modified.to_le_bytes());
        for (at, value) in [
            (80, self.descriptors_free),
            (88, self.descriptors_total),
            (96, self.descriptors_offset),
            (104, self.descriptors_size),
            (112, self.data_offset),
            (120, self.data_size),
        ] {
            put(at, &value.to_le_bytes());
        }
        out
    }
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $code:literal => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name {
            $($(#[$inner])* $variant,)*
            /// A number that is not known.
            Unknown(u32),
        }

        impl $name {
            /// From its number in the file.
            #[must_use]
            pub fn from_code(code: u32) -> Self {
                match code { $($code => Self::$variant,)* other => Self::Unknown(other) }
            }

            /// Its number in the file.
            #[must_use]
            pub fn code(self) -> u32 {
                match self { $(Self::$variant => $code,)* Self::Unknown(code) => code }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)*
                    Self::Unknown(code) => write!(f, "unknown ({code:#x})"),
                }
            }
        }
    };
}

codes! {
    /// What an object is.
    Kind {
        /// Definition file.
        Definition = 0x4001 => "Def.FILE",
        /// Environment variables.
        Environment = 0x4002 => "Env.Vars",
        /// Labels, JSON.
        Labels = 0x4003 => "JSON.Labels",
        /// A file system, or other data of a partition.
        Partition = 0x4004 => "FS",
        /// A signature over other objects.
        Signature = 0x4005 => "Signature",
        /// JSON.
        GenericJson = 0x4006 => "JSON.Generic",
        /// Anything.
        Generic = 0x4007 => "Generic/Raw",
        /// A message, for example the key of an encrypted partition.
        CryptoMessage = 0x4008 => "Cryptographic Message",
        /// A software bill of materials.
        Sbom = 0x4009 => "SBOM",
        /// The root index of an OCI image.
        OciRootIndex = 0x400a => "OCI.RootIndex",
        /// A blob of an OCI image.
        OciBlob = 0x400b => "OCI.Blob",
    }
}

codes! {
    /// The file system of a partition.
    FsKind {
        /// squashfs.
        Squashfs = 1 => "Squashfs",
        /// ext3.
        Ext3 = 2 => "Ext3",
        /// An archive.
        Archive = 3 => "Archive",
        /// No file system.
        Raw = 4 => "Raw",
        /// squashfs inside LUKS.
        EncryptedSquashfs = 5 => "Encrypted squashfs",
        /// A gocryptfs directory inside squashfs.
        Gocryptfs = 6 => "Gocryptfs squashfs",
    }
}

codes! {
    /// What a partition is for.
    PartKind {
        /// A root file system that is not the primary one.
        System = 1 => "System",
        /// The root file system.
        Primary = 2 => "*System",
        /// Data.
        Data = 3 => "Data",
        /// Changes over the root file system.
        Overlay = 4 => "Overlay",
    }
}

/// What a partition's descriptor adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its file system.
    pub fs: FsKind,
    /// What it is for.
    pub part: PartKind,
    /// The architecture of its programs.
    pub arch: Arch,
}

impl Partition {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = self.fs.code().to_le_bytes().to_vec();
        out.extend(self.part.code().to_le_bytes());
        out.extend(self.arch.0);
        out.push(0);
        out
    }
}

/// An object of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Object {
    /// Its number, from 1.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// Its group; 0 for none.
    pub group: u32,
    /// The object, or the group with `linked_group`, that it is about; 0 for none.
    pub link: u32,
    /// Whether `link` is a group.
    pub linked_group: bool,
    /// Where its data is.
    pub offset: u64,
    /// Length of its data.
    pub size: u64,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// When it was changed.
    pub modified: i64,
    /// Owner.
    pub uid: i64,
    /// Owner's group.
    pub gid: i64,
    /// Its name.
    pub name: String,
    /// What the kind adds.
    #[serde(skip)]
    pub extra: Vec<u8>,
    pub(crate) slot: u32,
}

impl Object {
    /// None for a free descriptor.
    pub(crate) fn decode(bytes: &[u8], slot: u32) -> Option<Result<Self, &'static str>> {
        if bytes.get(4).is_none_or(|used| *used == 0) {
            return None;
        }
        let decode = || -> Option<Self> {
            let (group, link) = (le_u32(bytes, 9)?, le_u32(bytes, 13)?);
            Some(Self {
                kind: Kind::from_code(le_u32(bytes, 0)?),
                id: le_u32(bytes, 5)?,
                group: group & !GROUP,
                link: link & !GROUP,
                linked_group: link & GROUP == GROUP,
                offset: le_position(bytes, 17)?,
                size: le_position(bytes, 25)?,
                created: le_i64(bytes, 41)?,
                modified: le_i64(bytes, 49)?,
                uid: le_i64(bytes, 57)?,
                gid: le_i64(bytes, 65)?,
                name: text(bytes.get(73..73 + NAME_LEN)?),
                extra: bytes.get(73 + NAME_LEN..DESCRIPTOR_LEN)?.to_vec(),
                slot,
            })
        };
        Some(decode().ok_or("a descriptor with a negative position"))
    }

    pub(crate) fn encode(&self, padded: u64) -> [u8; DESCRIPTOR_LEN] {
        let mut out = [0; DESCRIPTOR_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.kind.code().to_le_bytes());
        put(4, &[1]);
        put(5, &self.id.to_le_bytes());
        put(9, &(self.group | GROUP).to_le_bytes());
        let link = if self.linked_group { self.link | GROUP } else { self.link };
        put(13, &link.to_le_bytes());
        put(17, &self.offset.to_le_bytes());
        put(25, &self.size.to_le_bytes());
        put(33, &padded.to_le_bytes());
        for (at, value) in [(41, self.created), (49, self.modified), (57, self.uid), (65, self.gid)]
        {
            put(at, &value.to_le_bytes());
        }
        let name = self.name.as_bytes();
        put(73, &name[..name.len().min(NAME_LEN - 1)]);
        put(73 + NAME_LEN, &self.extra[..self.extra.len().min(DESCRIPTOR_LEN - 73 - NAME_LEN)]);
        out
    }

    /// What a partition's descriptor adds; None for another kind.
    #[must_use]
    pub fn partition(&self) -> Option<Partition> {
        if self.kind != Kind::Partition {
            return None;
        }
        Some(Partition {
            fs: FsKind::from_code(le_u32(&self.extra, 0)?),
            part: PartKind::from_code(le_u32(&self.extra, 4)?),
            arch: Arch(array(&self.extra, 8)?),
        })
    }

    /// The digest of an OCI blob or root index, `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> Option<String> {
        match self.kind {
            Kind::OciBlob | Kind::OciRootIndex => {
                Some(text(&self.extra)).filter(|digest| digest.contains(':'))
            }
            _ => None,
        }
    }
}
