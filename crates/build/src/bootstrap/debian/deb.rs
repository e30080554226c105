//! Binary packages (deb(5)).

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use crate::bootstrap::system::malformed;

const MAGIC: &[u8] = b"!<arch>\n";
/// Length of a member's header.
const MEMBER: usize = 60;

/// The tar stream of a package's files.
pub(in crate::bootstrap) fn data(mut file: File, _: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(malformed("no Debian package"));
    }
    loop {
        let mut header = [0; MEMBER];
        file.read_exact(&mut header)?;
        let text = std::str::from_utf8(&header).map_err(|_| malformed("a broken member"))?;
        let size = text.get(48..58).and_then(|size| size.trim().parse::<u64>().ok());
        let size = size.ok_or(malformed("a member of no length"))?;
        let name = text.get(..16).unwrap_or_default().trim().trim_end_matches('/').to_owned();
        if let Some(ending) = name.strip_prefix("data.tar") {
            let member = file.take(size);
            return Ok(match ending {
                "" => Box::new(member),
                ".gz" => Box::new(flate2::read::MultiGzDecoder::new(member)),
                ".xz" => Box::new(liblzma::read::XzDecoder::new(member)),
                ".zst" => Box::new(zstd::Decoder::new(member)?),
                _ => return Err(malformed("files compressed in an unknown way")),
            });
        }
        // Members begin at even places.
        let next = size.checked_add(size % 2).and_then(|size| i64::try_from(size).ok());
        file.seek_relative(next.ok_or(malformed("a member of no length"))?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_package_is_refused() {
        use std::io::Write;
        let mut deb = MAGIC.to_vec();
        deb.extend(format!("{:<48}{:<10}`\n", "debian-binary", 4).bytes());
        deb.extend(b"2.0\n");
        let whole = deb.len();
        deb.extend(format!("{:<48}{:<10}`\n", "data.tar", 3).bytes());
        deb.extend(b"abc");
        let read = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            let mut text = String::new();
            data(file, Path::new("/"))
                .and_then(|mut data| data.read_to_string(&mut text))
                .map(|_| text)
        };
        assert_eq!(read(&deb).unwrap(), "abc");
        for end in 0..=whole {
            assert!(read(&deb[..end]).is_err(), "{end}");
        }
        for at in 0..whole + MEMBER {
            let mut bad = deb.clone();
            bad[at] = 0xff;
            let _ = read(&bad);
        }
    }
}
