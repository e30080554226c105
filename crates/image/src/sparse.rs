//! Sparse files in the PAX formats of GNU tar (0.0, 0.1 and 1.0; "Storing
//! Sparse Files" in its manual). The old GNU format is the tar crate's.

use std::io::{self, Read};

/// Longest map that is read.
const MAP_LEN: usize = 1 << 20;
/// Length of a tar block; a map inside the data is padded to it.
const BLOCK: usize = 512;

/// What the extension records say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub(crate) name: Option<Vec<u8>>,
    major: u64,
    size: Option<u64>,
    /// Offsets and lengths in turn.
    map: Vec<u64>,
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn number(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).map_err(|_| invalid("a sparse map is no text"))?;
    text.parse().map_err(|_| invalid("a sparse map has a bad number"))
}

impl Sparse {
    /// Takes a record whose key begins with `GNU.sparse.`.
    pub(crate) fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"major" => self.major = number(value)?,
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"offset" | b"numbytes" => self.map.push(number(value)?),
            b"map" => {
                let numbers = value.split(|b| *b == b',').map(number);
                self.map = numbers.collect::<io::Result<_>>()?;
            }
            // minor and numblocks say nothing that is not known.
            _ => {}
        }
        Ok(())
    }

    /// The size of the file; None when there is no sparse file.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// The file's bytes, holes as zeroes.
    pub(crate) fn expand<R: Read>(&self, mut data: R) -> io::Result<Expanded<R>> {
        let size = self.size.unwrap_or(0);
        let numbers = if self.major >= 1 { map_in(&mut data)? } else { self.map.clone() };
        if numbers.len() % 2 != 0 {
            return Err(invalid("a sparse map of odd length"));
        }
        let mut parts = Vec::with_capacity(numbers.len() / 2);
        let mut end = 0;
        for pair in numbers.chunks_exact(2) {
            let next = pair[0].checked_add(pair[1]).filter(|next| *next <= size && pair[0] >= end);
            end = next.ok_or_else(|| invalid("a sparse map that is out of order or too long"))?;
            if pair[1] > 0 {
                parts.push((pair[0], end));
            }
        }
        parts.reverse();
        Ok(Expanded { data, parts, size, at: 0 })
    }
}

/// The map of format 1.0: decimal lines, the first the number of pairs, padded
/// to a block.
fn map_in(data: &mut impl Read) -> io::Result<Vec<u64>> {
    let mut text = Vec::new();
    let mut block = [0; BLOCK];
    let mut lines = 0;
    loop {
        data.read_exact(&mut block)?;
        text.extend_from_slice(&block);
        lines += block.iter().filter(|b| **b == b'\n').count();
        let mut words = text.split(|b| *b == b'\n');
        let count = number(words.next().unwrap_or_default());
        let wanted = match count {
            Ok(count) if lines > 0 => usize::try_from(count).ok().and_then(|n| n.checked_mul(2)),
            Err(error) if lines > 0 => return Err(error),
            _ => None,
        };
        if let Some(wanted) = wanted.filter(|wanted| lines > *wanted) {
            return words.take(wanted).map(number).collect();
        }
        if text.len() >= MAP_LEN {
            return Err(invalid("a sparse map of more than 1 MiB"));
        }
    }
}

/// A reader that fills the holes.
#[derive(Debug)]
pub(crate) struct Expanded<R> {
    data: R,
    /// Start and end of each part that is stored, last first.
    parts: Vec<(u64, u64)>,
    size: u64,
    at: u64,
}

impl<R: Read> Read for Expanded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.parts.last().is_some_and(|(_, end)| *end <= self.at) {
            self.parts.pop();
        }
        let (hole, limit) = match self.parts.last() {
            Some((start, end)) if *start <= self.at => (false, *end),
            Some((start, _)) => (true, *start),
            None => (true, self.size),
        };
        let len = usize::try_from(limit - self.at).unwrap_or(usize::MAX).min(buf.len());
        let got = if hole {
            buf[..len].fill(0);
            len
        } else {
            self.data.read(&mut buf[..len])?
        };
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(records: &[(&str, &str)]) -> Sparse {
        let mut sparse = Sparse::default();
        for (key, value) in records {
            sparse.record(key.as_bytes(), value.as_bytes()).unwrap();
        }
        sparse
    }

    fn text(sparse: &Sparse, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        sparse.expand(data)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn all_three_formats_expand_alike() {
        let expected = b"ab\0\0\0cd\0";
        let old = [("size", "8"), ("offset", "0"), ("numbytes", "2"), ("offset", "5")];
        let mut first = sparse(&old);
        first.record(b"numbytes", b"2").unwrap();
        assert_eq!(text(&first, b"abcd").unwrap(), expected);
        let second = sparse(&[("size", "8"), ("map", "0,2,5,2")]);
        assert_eq!(text(&second, b"abcd").unwrap(), expected);
        let third = sparse(&[("major", "1"), ("minor", "0"), ("realsize", "8"), ("name", "n")]);
        let mut data = b"2\n0\n2\n5\n2\n".to_vec();
        data.resize(512, 0);
        data.extend(b"abcd");
        assert_eq!(text(&third, &data).unwrap(), expected);
        assert_eq!(third.name.as_deref(), Some(&b"n"[..]));
    }

    #[test]
    fn maps_that_lie_are_refused() {
        for map in
            ["0,9", "4,2,0,2", "0,2,5", "0,18446744073709551615", "x,1", "1,18446744073709551615"]
        {
            let mut sparse = sparse(&[("size", "8")]);
            let taken = sparse.record(b"map", map.as_bytes());
            assert!(taken.is_err() || text(&sparse, b"abcdefgh").is_err(), "{map}");
        }
        let third = sparse(&[("major", "1"), ("realsize", "8")]);
        for data in [&b"9999999999\n"[..], b"", b"no number\n", &[b'1'; 600], &[b'\n'; 512]] {
            let mut padded = data.to_vec();
            padded.resize(padded.len().div_ceil(512) * 512, 0);
            assert!(text(&third, &padded).is_err(), "{data:?}");
        }
    }
}
