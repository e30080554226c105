//! RPM files, version 4: lead, signatures, header, and a compressed cpio archive.
//!
//! ```text
//! 96 bytes │ signatures, padded to 8 │ header │ payload
//!            over the header alone     with the payload's SHA-256
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use sha2::Digest as _;
use tar::{Builder, EntryType, Header};
use trust::Keyring;

use crate::bootstrap::error::PackageError;
use crate::bootstrap::inflate::inflate;
use crate::bootstrap::system::malformed;
use crate::cache::hex;

const LEAD: usize = 96;
const MAGIC: [u8; 4] = [0xed, 0xab, 0xee, 0xdb];
const HEADER: [u8; 4] = [0x8e, 0xad, 0xe8, 1];
/// More entries, or more bytes, has no header.
const MOST_ENTRIES: u32 = 1 << 16;
const LONGEST_HEADER: u32 = 256 << 20;

/// Tags of rpmtag.h.
const DSA_OF_HEADER: u32 = 267;
const RSA_OF_HEADER: u32 = 268;
/// The same over header and payload.
const RSA_OF_ALL: u32 = 1002;
const DSA_OF_ALL: u32 = 1005;
const OPENPGP: u32 = 278;
const PAYLOAD_DIGEST: u32 = 5092;
const PAYLOAD_DIGEST_ALGORITHM: u32 = 5093;
/// SHA-256, as OpenPGP numbers it.
const SHA256: u32 = 8;

/// A header structure: its bytes and where its values are.
struct Structure {
    bytes: Vec<u8>,
    /// Tag, type, offset, count.
    entries: Vec<[u32; 4]>,
}

impl Structure {
    fn read(file: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 16];
        file.read_exact(&mut head)?;
        let number =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (entries, size) = (number(8), number(12));
        if head[..4] != HEADER || entries > MOST_ENTRIES || size > LONGEST_HEADER {
            return Err(malformed("no header of a package"));
        }
        let mut bytes = head.to_vec();
        let length = u64::from(entries) * 16 + u64::from(size);
        if file.take(length).read_to_end(&mut bytes)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let index = bytes[16..16 + entries as usize * 16].chunks_exact(16);
        let entries = index.map(|entry| {
            let word = |at: usize| {
                u32::from_be_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
            };
            [word(0), word(4), word(8), word(12)]
        });
        Ok(Self { entries: entries.collect(), bytes })
    }

    /// What follows from where a value begins, and its count.
    fn value(&self, tag: u32) -> Option<(&[u8], usize)> {
        let [_, _, offset, count] = self.entries.iter().find(|entry| entry[0] == tag)?;
        let store = self.bytes.get(16 + self.entries.len() * 16..)?;
        Some((store.get(*offset as usize..)?, *count as usize))
    }

    fn binary(&self, tag: u32) -> Option<&[u8]> {
        let (bytes, count) = self.value(tag)?;
        bytes.get(..count)
    }

    fn texts(&self, tag: u32) -> Vec<&[u8]> {
        let Some((bytes, count)) = self.value(tag) else { return Vec::new() };
        bytes.split(|byte| *byte == 0).take(count).collect()
    }

    fn number(&self, tag: u32) -> Option<u32> {
        let bytes = self.value(tag)?.0.get(..4)?;
        Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// Reads up to the payload.
fn open(file: &mut (impl Read + Seek)) -> io::Result<(Structure, Structure)> {
    let mut lead = [0; LEAD];
    file.read_exact(&mut lead)?;
    if lead[..4] != MAGIC {
        return Err(malformed("no RPM package"));
    }
    let signatures = Structure::read(file)?;
    let padding = signatures.bytes.len().wrapping_neg() % 8;
    file.seek_relative(padding as i64)?;
    Ok((signatures, Structure::read(file)?))
}

/// Verifies a package: a key of the keyring signed its header, which names its payload,
/// or, of a package of a time when headers did not, header and payload.
pub(super) fn verify(file: File, keyring: &Keyring) -> Result<(), PackageError> {
    let mut file = BufReader::new(file);
    let (signatures, header) = open(&mut file)?;
    let binary = |tags: [u32; 2]| {
        let found = tags.into_iter().filter_map(|tag| signatures.binary(tag));
        found.map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let expected = header.texts(PAYLOAD_DIGEST);
    if expected.is_empty() {
        let start = LEAD + signatures.bytes.len().next_multiple_of(8);
        return one_of(&binary([RSA_OF_ALL, DSA_OF_ALL]), |signature| {
            keyring.verify_rest(file.get_ref(), start as u64, signature)
        })
        .map_err(|error| match error {
            PackageError::Unsigned if !binary([RSA_OF_HEADER, DSA_OF_HEADER]).is_empty() => {
                PackageError::NoPayloadDigest
            }
            error => error,
        });
    }
    let mut all = binary([RSA_OF_HEADER, DSA_OF_HEADER]);
    for text in signatures.texts(OPENPGP) {
        let armor = String::from_utf8_lossy(text);
        all.push(
            format!("-----BEGIN PGP SIGNATURE-----\n\n{armor}\n-----END PGP SIGNATURE-----\n")
                .into_bytes(),
        );
    }
    one_of(&all, |signature| keyring.verify(&header.bytes, signature))?;
    let mut sum = sha2::Sha256::new();
    io::copy(&mut file, &mut HashWriter(&mut sum))?;
    let known = header.number(PAYLOAD_DIGEST_ALGORITHM) == Some(SHA256);
    let found = hex(&sum.finalize());
    if known && expected.first().is_some_and(|e| e.eq_ignore_ascii_case(found.as_bytes())) {
        Ok(())
    } else {
        Err(PackageError::Payload)
    }
}

/// One good signature is enough; otherwise what is wrong with the last one.
fn one_of(
    signatures: &[Vec<u8>],
    verify: impl Fn(&[u8]) -> Result<String, trust::TrustError>,
) -> Result<(), PackageError> {
    let mut verdict = Err(PackageError::Unsigned);
    for signature in signatures {
        match verify(signature) {
            Ok(_) => return Ok(()),
            Err(error) => verdict = Err(PackageError::Signature(error)),
        }
    }
    verdict
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A package's files as a tar stream, all of them root's.
pub(in crate::bootstrap) fn files(mut file: File, near: &Path) -> io::Result<Box<dyn Read + Send>> {
    open(&mut file)?;
    let mut out = Builder::new(tempfile::tempfile_in(near)?);
    cpio(inflate(file)?, &mut out)?;
    let mut tar = out.into_inner()?;
    tar.rewind()?;
    Ok(Box::new(tar))
}

/// PATH_MAX of linux/limits.h.
const LONGEST_NAME: u64 = 4096;
const REGULAR: u64 = 0o100_000;
const DIRECTORY: u64 = 0o040_000;
const SYMLINK: u64 = 0o120_000;

/// cpio in the new form without checksums (cpio(5)). Of a file with several names
/// only the last one has its content.
fn cpio(mut input: impl Read, out: &mut Builder<File>) -> io::Result<()> {
    let mut waiting: HashMap<(u64, u64, u64), Vec<String>> = HashMap::new();
    loop {
        let mut head = [0; 110];
        input.read_exact(&mut head)?;
        let text = std::str::from_utf8(&head).map_err(|_| malformed("a broken entry"))?;
        if !["070701", "070702"].iter().any(|magic| text.starts_with(magic)) {
            return Err(malformed("an archive of another form"));
        }
        let field = |index: usize| {
            let word = text.get(6 + index * 8..14 + index * 8).unwrap_or_default();
            u64::from_str_radix(word, 16).map_err(|_| malformed("a broken entry"))
        };
        let (mode, links, time, size) = (field(1)?, field(4)?, field(5)?, field(6)?);
        let inode = (field(0)?, field(7)?, field(8)?);
        let length = field(11)?;
        if length == 0 || length > LONGEST_NAME {
            return Err(malformed("a name of no length"));
        }
        let mut name = vec![0; length as usize];
        input.read_exact(&mut name)?;
        skip(&mut input, 110 + length)?;
        name.pop();
        let name = String::from_utf8(name).map_err(|_| malformed("a name that is not UTF-8"))?;
        if name == "TRAILER!!!" {
            return Ok(());
        }
        let name = name.trim_start_matches("./").trim_start_matches('/').to_owned();
        let mut header = Header::new_gnu();
        header.set_mode((mode & 0o7777) as u32);
        header.set_mtime(time);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match mode & 0o170_000 {
            _ if name.is_empty() => skip_bytes(&mut input, size)?,
            DIRECTORY => {
                header.set_entry_type(EntryType::Directory);
                out.append_data(&mut header, &name, io::empty())?;
            }
            SYMLINK => {
                let mut to = String::new();
                (&mut input).take(size.min(LONGEST_NAME)).read_to_string(&mut to)?;
                header.set_entry_type(EntryType::Symlink);
                out.append_link(&mut header, &name, to)?;
            }
            REGULAR if links > 1 && size == 0 => {
                waiting.entry(inode).or_default().push(name);
            }
            REGULAR => {
                header.set_size(size);
                out.append_data(&mut header, &name, (&mut input).take(size))?;
                for other in waiting.remove(&inode).unwrap_or_default() {
                    let mut header = header.clone();
                    header.set_size(0);
                    header.set_entry_type(EntryType::Link);
                    out.append_link(&mut header, other, &name)?;
                }
            }
            // rpm makes devices itself.
            _ => skip_bytes(&mut input, size)?,
        }
        skip(&mut input, size)?;
    }
}

/// What fills four bytes.
fn skip(input: &mut impl Read, after: u64) -> io::Result<()> {
    skip_bytes(input, after.wrapping_neg() % 4)
}

fn skip_bytes(input: &mut impl Read, count: u64) -> io::Result<()> {
    let skipped = io::copy(&mut input.take(count), &mut io::sink())?;
    if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, mode: u32, links: u32, data: &[u8]) -> Vec<u8> {
        let fields =
            [7, mode, 0, 0, links, 9, data.len() as u32, 1, 1, 0, 0, name.len() as u32 + 1, 0];
        let mut bytes = b"070701".to_vec();
        fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
        bytes.extend(name.bytes().chain([0]));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn names(bytes: &[u8]) -> io::Result<Vec<String>> {
        let mut out = Builder::new(tempfile::tempfile()?);
        cpio(bytes, &mut out)?;
        let mut tar = out.into_inner()?;
        tar.rewind()?;
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries()?.map(|entry| {
            let entry = entry?;
            let kind = entry.header().entry_type();
            Ok(format!("{} {kind:?} {}", entry.path()?.display(), entry.size()))
        });
        entries.collect()
    }

    #[test]
    fn archives_of_any_form_are_read_or_refused() {
        let mut whole = entry("./d", 0o040_755, 2, b"");
        whole.extend(entry("./d/one", 0o100_644, 2, b""));
        whole.extend(entry("./d/two", 0o100_644, 2, b"abcde"));
        whole.extend(entry("./l", 0o120_777, 1, b"d/one"));
        whole.extend(entry("./c", 0o020_666, 1, b""));
        whole.extend(entry("TRAILER!!!", 0, 1, b""));
        let expected = ["d Directory 0", "d/two Regular 5", "d/one Link 0", "l Symlink 0"];
        assert_eq!(names(&whole).unwrap(), expected);
        let end = whole.len() - 4;
        for end in 0..end - 120 {
            assert!(names(&whole[..end]).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x15;
            let _ = names(&bad);
        }
        // Text with a character around the sixth byte: what the fuzzer found.
        let error = names("aaaaaé".repeat(20).as_bytes()).unwrap_err().to_string();
        assert!(error.contains("another form"), "{error}");
    }

    #[test]
    fn headers_of_any_form_are_read_or_refused() {
        let mut header = HEADER.to_vec();
        header.extend([0; 4]);
        header.extend(1_u32.to_be_bytes());
        header.extend(8_u32.to_be_bytes());
        for word in [PAYLOAD_DIGEST, 8, 2, 1] {
            header.extend(word.to_be_bytes());
        }
        header.extend(b"xxabc\0yy");
        let read = |bytes: &[u8]| Structure::read(&mut &bytes[..]);
        assert_eq!(read(&header).unwrap().texts(PAYLOAD_DIGEST), [b"abc"]);
        for end in 0..header.len() {
            assert!(read(&header[..end]).is_err(), "{end}");
        }
        for at in 0..header.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bad = header.clone();
                bad[at] = value;
                if let Ok(read) = read(&bad) {
                    let _ = (read.texts(PAYLOAD_DIGEST), read.binary(PAYLOAD_DIGEST));
                    let _ = read.number(PAYLOAD_DIGEST);
                }
            }
        }
    }

    /// A key, and its signatures over the package below: over its header, and over header
    /// and payload. Made by gpg(1).
    const KEY: &str = "mDMEXgvhABYJKwYBBAHaRw8BAQdAVEfWKYaNB8s0iYpRq9ordWVXW50aNAlmvopdzdVYY6m0FnJw\
        bSB0ZXN0IDxycG1AZXhhbXBsZT6IkAQTFggAOBYhBLNCXmLvpunrA1OKitsKd5TirltuBQJeC+EA\
        AhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheAAAoJENsKd5TirltuZ/0BAPldY1+TuHbJ1tq0DSgF\
        9r9OHDcAKFwUhPkI/khZZIySAQCWQ/bdQlpeHxyCJJoQOY+C/0v8mVxScMgt9VGGZ4ISAw==";
    const OF_HEADER: &str = "iHUEABYIAB0WIQSzQl5i76bp6wNTiorbCneU4q5bbgUCXg0ygAAKCRDbCneU4q5bbnnkAP4v8GsL\
        G2Eii1S6mjhFTWtg8EjKaplN9e871SUWEBUANQD/dIED6SqZuahnbPPnXQROjomhsoPV2Ff/zCKR\
        6Z4wvQo=";
    const OF_ALL: &str = "iHUEABYIAB0WIQSzQl5i76bp6wNTiorbCneU4q5bbgUCXg0ygAAKCRDbCneU4q5bbv8eAQDov851\
        LttyFzDoVQnUqYaxUzthzLXYTVTnBNlt3qN6SgEAt938vfSYpyb6Z6RYJT2Szom/mMEpOVPPndM9\
        dlEOtgQ=";

    fn decoded(text: &str) -> Vec<u8> {
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap()
    }

    fn structure(entries: &[(u32, u32, &[u8], u32)]) -> Vec<u8> {
        let (mut index, mut values) = (Vec::new(), Vec::new());
        for (tag, kind, value, count) in entries {
            for word in [*tag, *kind, values.len() as u32, *count] {
                index.extend(word.to_be_bytes());
            }
            values.extend_from_slice(value);
        }
        let lengths = [entries.len() as u32, values.len() as u32].map(u32::to_be_bytes);
        [&HEADER[..], &[0; 4], &lengths.concat(), &index, &values].concat()
    }

    /// A package of a time when headers did not name payloads.
    fn old_package(signatures: &[(u32, u32, &[u8], u32)], payload: &[u8]) -> File {
        let mut bytes = MAGIC.to_vec();
        bytes.resize(LEAD, 0);
        bytes.extend(structure(signatures));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(structure(&[(1000, 6, b"old\0", 1)]));
        bytes.extend(payload);
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn an_old_package_is_verified_by_its_signature_over_everything() {
        let keyring = Keyring::read(&decoded(KEY)).unwrap();
        let (header, all) = (decoded(OF_HEADER), decoded(OF_ALL));
        let header = (RSA_OF_HEADER, 7, &header[..], header.len() as u32);
        let all = |tag| (tag, 7, &all[..], all.len() as u32);
        let verdict = |signatures: &[_], payload: &[u8]| {
            let package = old_package(signatures, payload);
            verify(package, &keyring).map_err(|error| error.to_string())
        };
        for tag in [RSA_OF_ALL, DSA_OF_ALL] {
            assert_eq!(verdict(&[header, all(tag)], b"the files"), Ok(()));
            assert_eq!(verdict(&[all(tag)], b"the files"), Ok(()));
            let changed = verdict(&[header, all(tag)], b"the file5").unwrap_err();
            assert!(changed.contains("signature is not good"), "{changed}");
        }
        let alone = verdict(&[header], b"the files").unwrap_err();
        assert!(alone.contains("does not name its files"), "{alone}");
        assert!(verdict(&[], b"the files").unwrap_err().contains("not signed"));
    }
}
