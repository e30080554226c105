//! LZO1X, as far as reading goes.
//!
//! A stream is a row of instructions: copies of earlier output, each followed
//! by up to three literal bytes, and runs of literals. What the smallest
//! opcodes mean depends on how many literals came before them. The format is
//! described in the kernel's `Documentation/staging/lzo.rst`.

/// Literals before an instruction: what is not 0 to 3 is a run.
const RUN: u8 = 4;
/// The distance whose instruction ends the stream.
const END: usize = 16_384;

/// Inflates `data` into `out`; the number of bytes, or what is wrong.
pub(crate) fn decompress(data: &[u8], out: &mut [u8]) -> Result<usize, &'static str> {
    let mut stream = Stream { data, out, len: 0 };
    let mut literals = 0;
    if let Some(first) = data.first().copied().filter(|first| *first > 17) {
        stream.data = &data[1..];
        let count = first - 17;
        stream.literals(usize::from(count))?;
        literals = count.min(RUN);
    }
    loop {
        let code = stream.byte()?;
        let (distance, len, trailer) = match code {
            64.. => {
                let high = usize::from(stream.byte()?) << 3;
                (high + usize::from(code >> 2 & 7) + 1, usize::from(code >> 5) + 1, code)
            }
            16..64 => {
                let (mask, base) = if code < 32 { (7, END) } else { (31, 1) };
                let len = 2 + stream.length(code & mask, mask)?;
                let (low, high) = (stream.byte()?, stream.byte()?);
                let far = if code < 32 { usize::from(code & 8) << 11 } else { 0 };
                let distance = base + far + (usize::from(high) << 6 | usize::from(low >> 2));
                if distance == END && code < 32 {
                    return match (len, stream.data) {
                        (3, []) => Ok(stream.len),
                        (3, _) => Err("bytes follow its end"),
                        _ => Err("an end that is none"),
                    };
                }
                (distance, len, low)
            }
            _ if literals == 0 => {
                let len = 3 + stream.length(code, 15)?;
                stream.literals(len)?;
                literals = RUN;
                continue;
            }
            _ => {
                let near = (usize::from(stream.byte()?) << 2) + usize::from(code >> 2);
                if literals == RUN { (near + 2049, 3, code) } else { (near + 1, 2, code) }
            }
        };
        stream.copy(distance, len)?;
        literals = trailer & 3;
        stream.literals(usize::from(literals))?;
    }
}

struct Stream<'a, 'b> {
    /// What is left.
    data: &'a [u8],
    out: &'b mut [u8],
    /// How much of `out` is filled.
    len: usize,
}

impl Stream<'_, '_> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.data.split_first().ok_or("it ends too early")?;
        self.data = rest;
        Ok(*first)
    }

    /// A length whose bits in the opcode are `bits`; with none of them it goes
    /// on: 255 for each zero byte, and the byte after them.
    fn length(&mut self, bits: u8, mask: u8) -> Result<usize, &'static str> {
        if bits != 0 {
            return Ok(usize::from(bits));
        }
        let mut len = usize::from(mask);
        loop {
            match self.byte()? {
                0 => len += 255,
                last => return Ok(len + usize::from(last)),
            }
        }
    }

    /// The next bytes of the output, if there is room.
    fn room(&self, len: usize) -> Result<std::ops::Range<usize>, &'static str> {
        let end = self.len.checked_add(len).filter(|end| *end <= self.out.len());
        Ok(self.len..end.ok_or("it is too long")?)
    }

    fn literals(&mut self, len: usize) -> Result<(), &'static str> {
        let room = self.room(len)?;
        let (bytes, rest) = self.data.split_at_checked(len).ok_or("it ends too early")?;
        self.len = room.end;
        self.out[room].copy_from_slice(bytes);
        self.data = rest;
        Ok(())
    }

    fn copy(&mut self, distance: usize, len: usize) -> Result<(), &'static str> {
        let room = self.room(len)?;
        let from = self.len.checked_sub(distance).ok_or("a copy from before its start")?;
        // What is copied may be part of what it makes.
        let mut at = room.start;
        while at < room.end {
            let part = (at - from).min(room.end - at);
            self.out.copy_within(from..from + part, at);
            at += part;
        }
        self.len = room.end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflate(data: &[u8], room: usize) -> Result<Vec<u8>, &'static str> {
        let mut out = vec![0; room];
        let len = decompress(data, &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    /// One of each instruction.
    #[test]
    fn instructions() {
        let end = [0x11, 0, 0];
        let with = |parts: &[&[u8]]| parts.concat();
        let cases: [(Vec<u8>, &[u8]); 7] = [
            (end.to_vec(), b""),
            // Four literals at once.
            (with(&[&[21], b"abcd", &end]), b"abcd"),
            // Two literals, then two bytes from one byte before, no literal.
            (with(&[&[19], b"ab", &[0, 0], &end]), b"abbb"),
            // A run of four, as the first instruction.
            (with(&[&[1], b"wxyz", &end]), b"wxyz"),
            // Five bytes at distance 2, then one literal.
            (with(&[&[21], b"abcd", &[0x80 | 1 << 2 | 1, 0], b"!", &end]), b"abcdcdcdc!"),
            // A short copy within 16 KiB: length 2 + 4 at distance 1.
            (with(&[&[21], b"abcd", &[0x24, 0, 0], &end]), b"abcddddddd"),
            // The same with a longer length: 2 + 31 + 2.
            (with(&[&[18], b"a", &[0x20, 2, 0, 0], &end]), &[b'a'; 36]),
        ];
        for (data, expected) in cases {
            assert_eq!(inflate(&data, 100).as_deref(), Ok(expected), "{data:02x?}");
            assert_eq!(inflate(&data, expected.len()).as_deref(), Ok(expected), "{data:02x?}");
            if !expected.is_empty() {
                assert_eq!(inflate(&data, expected.len() - 1), Err("it is too long"));
            }
            for len in 0..data.len() {
                assert!(inflate(&data[..len], 100).is_err(), "{:02x?}", &data[..len]);
            }
        }
    }

    #[test]
    fn damage() {
        assert_eq!(
            inflate(&[18, b'a', 0x80, 0xff, 0x11, 0, 0], 99),
            Err("a copy from before its start")
        );
        assert_eq!(inflate(&[0x11, 0, 0, 0], 99), Err("bytes follow its end"));
        assert_eq!(inflate(&[0x12, 0x11, 0, 0], 99), Err("it ends too early"));
        assert_eq!(inflate(&[0; 100_000], 99), Err("it ends too early"));
    }

    #[test]
    fn far_copies() {
        // A run of 40,000 literals, then one byte more than 16 KiB back.
        let bytes: Vec<u8> = (0..40_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let rest = bytes.len() - 3 - 15;
        let mut data = vec![0];
        data.extend(std::iter::repeat_n(0, (rest - 1) / 255));
        data.push(((rest - 1) % 255 + 1) as u8);
        data.extend(&bytes);
        // Length 2 + 2, distance 16384 + 16384 + 5.
        data.extend([0x18 | 2, 5 << 2, 0, 0x11, 0, 0]);
        let out = inflate(&data, 50_000).unwrap();
        let from = 40_000 - 32_773;
        assert_eq!(out[40_000..], bytes[from..from + 4]);
        assert_eq!(out[..40_000], bytes);
    }
}
