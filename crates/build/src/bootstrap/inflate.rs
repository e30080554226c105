//! Compressed files, told apart by how they begin.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

/// What a file has from where it stands, inflated if it is compressed by gzip, xz,
/// zstd or bzip2.
pub(crate) fn inflate(mut file: File) -> io::Result<Box<dyn BufRead + Send>> {
    let mut magic = Vec::new();
    Read::by_ref(&mut file).take(6).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Current(-(magic.len() as i64)))?;
    Ok(match magic[..] {
        [0x1f, 0x8b, ..] => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(BufReader::new(zstd::Decoder::new(file)?)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Box::new(BufReader::new(liblzma::read::XzDecoder::new_multi_decoder(file)))
        }
        [b'B', b'Z', b'h', ..] => Box::new(BufReader::new(bzip2::read::MultiBzDecoder::new(file))),
        _ => Box::new(BufReader::new(file)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_form_is_told_by_its_beginning() {
        let text = b"some text\n";
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(text).unwrap();
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(text).unwrap();
        let zst = zstd::encode_all(&text[..], 1).unwrap();
        let forms =
            [gz.finish().unwrap(), xz.finish().unwrap(), bz.finish().unwrap(), zst, text.to_vec()];
        for form in forms {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"before").unwrap();
            file.write_all(&form).unwrap();
            file.seek(SeekFrom::Start(6)).unwrap();
            let mut read = Vec::new();
            inflate(file).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, text, "{form:?}");
        }
    }
}
