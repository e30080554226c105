//! Damaging inputs.

/// A small generator (xorshift64*), good enough to choose damage.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below a limit that is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Numbers at which programs trip.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x00ff_ffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Where damage goes: often to the beginning or the end, where the structures
/// are that everything else hangs on.
fn place(random: &mut Random, len: usize) -> usize {
    match random.below(4) {
        0 => random.below(len.min(128)),
        1 => len - 1 - random.below(len.min(512)),
        _ => random.below(len),
    }
}

/// Some bytes of an input, `most` at most.
fn piece<'a>(random: &mut Random, bytes: &'a [u8], most: usize) -> &'a [u8] {
    let from = random.below(bytes.len());
    let rest = bytes.get(from..).unwrap_or_default();
    &rest[..rest.len().min(1 + random.below(most))]
}

/// A damaged copy of one of the inputs.
pub(crate) fn damage(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = place(random, bytes.len());
        match random.below(10) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.next() as u8,
            3..=5 => {
                let width = [1, 2, 4, 8][random.below(4)];
                let number = match random.below(3) {
                    0 => NUMBERS[random.below(NUMBERS.len())],
                    1 => bytes.len() as u64,
                    _ => random.next() >> random.below(64),
                };
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            6 => {
                let from = random.below(bytes.len());
                let len = random.below(64).min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + len, at);
            }
            7 => {
                if random.below(4) == 0 {
                    bytes.truncate(at);
                }
            }
            8 => {
                let other = &corpus[random.below(corpus.len())];
                let piece = piece(random, other, 64).to_vec();
                bytes.splice(at..at, piece);
            }
            // What is nested, or one list, without an end.
            _ => {
                let times = 1 << random.below(13);
                let repeated = piece(random, &bytes, 8).repeat(times);
                bytes.splice(at..at, repeated);
            }
        }
    }
    bytes
}
