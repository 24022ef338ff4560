//! What the colours of an H.264 stream mean: said in a `colr` box of the container, in the stream itself, in both or
//! in neither.

/// What the numbers of a frame mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colours {
    /// Shares of red and blue in the luma.
    pub weights: [f32; 2],
    /// 0..=255, rather than 16..=235 (luma) and 16..=240 (chroma).
    pub full: bool,
}

impl Default for Colours {
    /// ITU-R BT.601, as decoders take it where nothing is said.
    fn default() -> Self {
        Self {
            weights: [0.299, 0.114],
            full: false,
        }
    }
}

impl Colours {
    /// From the content of a `colr` box: `nclx` or `nclc`, primaries, transfer, matrix, range.
    pub(super) fn of_box(colr: &[u8]) -> Self {
        let matrix = match colr {
            [b'n', b'c', b'l', b'x' | b'c', _, _, _, _, 0, matrix, ..] => *matrix,
            _ => UNSPECIFIED,
        };
        let range = colr.get(10).filter(|_| colr.starts_with(b"nclx"));
        Self::default().with(range.map(|range| range & 0x80 != 0), Some(matrix))
    }

    /// The same with what the stream says of itself, which counts more: its sequence parameter set.
    pub(super) fn and_of_stream(self, sps: &[u8]) -> Self {
        let (range, matrix) = Bits::new(sps).colours().unwrap_or_default();
        self.with(range, matrix)
    }

    /// Codes of the matrix as in ITU-T H.273, table 4.
    fn with(self, full: Option<bool>, matrix: Option<u8>) -> Self {
        let weights = match matrix {
            Some(1) => [0.2126, 0.0722],
            Some(4) => [0.30, 0.11],
            Some(5 | 6) => [0.299, 0.114],
            Some(7) => [0.212, 0.087],
            Some(9 | 10) => [0.2627, 0.0593],
            _ => self.weights,
        };
        Self {
            weights,
            full: full.unwrap_or(self.full),
        }
    }
}

/// Of a matrix of which nothing is said.
const UNSPECIFIED: u8 = 2;
/// Profiles whose parameters say more about samples (ITU-T H.264, section 7.3.2.1.1).
const EXTENDED: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// The bits of a NAL unit.
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    /// Those after the header, without the bytes that keep start codes out (section 7.3.1).
    fn new(unit: &[u8]) -> Self {
        let (mut bytes, mut zeros) = (Vec::with_capacity(unit.len()), 0);
        for &byte in unit.get(1..).unwrap_or_default() {
            if byte == 3 && zeros == 2 {
                zeros = 0;
                continue;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            bytes.push(byte);
        }
        Self { bytes, at: 0 }
    }

    fn bits(&mut self, count: usize) -> Option<u32> {
        (0..count).try_fold(0, |value, _| {
            let bit = self.bytes.get(self.at / 8)? >> (7 - self.at % 8) & 1;
            self.at += 1;
            Some(value << 1 | u32::from(bit))
        })
    }

    fn flag(&mut self) -> Option<bool> {
        self.bits(1).map(|bit| bit == 1)
    }

    /// An Exp-Golomb number (section 9.1).
    fn number(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.bits(zeros)?)
    }

    fn signed(&mut self) -> Option<i32> {
        let number = self.number()? as i64;
        Some(
            (if number % 2 == 1 {
                (number + 1) / 2
            } else {
                -number / 2
            }) as i32,
        )
    }

    /// Range and matrix of a sequence parameter set, as far as it says them (sections 7.3.2.1.1 and E.1.1).
    fn colours(&mut self) -> Option<(Option<bool>, Option<u8>)> {
        let profile = self.bits(8)?;
        self.bits(16)?; // constraints and level
        self.number()?;
        if EXTENDED.contains(&profile) {
            let chroma = self.number()?;
            if chroma == 3 {
                self.flag()?;
            }
            self.number()?;
            self.number()?;
            self.flag()?;
            if self.flag()? {
                for list in 0..if chroma == 3 { 12 } else { 8 } {
                    if self.flag()? {
                        self.pass_scaling_list(if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        self.number()?;
        match self.number()? {
            0 => drop(self.number()?),
            1 => {
                self.flag()?;
                self.signed()?;
                self.signed()?;
                for _ in 0..self.number()? {
                    self.signed()?;
                }
            }
            _ => {}
        }
        self.number()?; // reference frames
        self.flag()?;
        self.number()?; // width
        self.number()?; // height
        if !self.flag()? {
            self.flag()?;
        }
        self.flag()?;
        if self.flag()? {
            for _ in 0..4 {
                self.number()?;
            }
        }
        // Usability information.
        if !self.flag()? {
            return None;
        }
        const OWN_ASPECT_RATIO: u32 = 255;
        if self.flag()? && self.bits(8)? == OWN_ASPECT_RATIO {
            self.bits(32)?;
        }
        if self.flag()? {
            self.flag()?;
        }
        if !self.flag()? {
            return None;
        }
        self.bits(3)?;
        let full = self.flag()?;
        let mut matrix = None;
        if self.flag()? {
            self.bits(16)?; // primaries and transfer
            matrix = Some(self.bits(8)? as u8);
        }
        Some((Some(full), matrix))
    }

    fn pass_scaling_list(&mut self, size: usize) -> Option<()> {
        let (mut last, mut next) = (8, 8);
        for _ in 0..size {
            if next != 0 {
                next = (last + self.signed()?).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
        Some(())
    }
}
