//! How a quantized weight lies in memory: the blocks of sixteen outputs side by side, so that a lane of a
//! vector belongs to one output, and no sum ever crosses lanes.
//!
//! A group of sixteen outputs is, for each of its blocks, sixteen scales, and then, for each block, words of
//! four bytes: the first four bytes of every output's block, the next four of every one, and so on. Signed
//! bytes are stored plus 128, because integer dot products take one factor unsigned.

use rayon::prelude::*;

use super::{BLOCK, Blocks};

/// Outputs of a group.
pub(super) const LANES: usize = 16;
/// Bytes of a group's scales of one block.
const SCALES: usize = 2 * LANES;

/// Rows of blocks, `[outputs, bytes of a row]`, in groups. Outputs that fill up the last one have weights of 0.
///
/// `packed`: as many bytes as [`size`] says, all 0.
pub(super) fn pack(blocks: Blocks, rows: &[u8], row: usize, packed: &mut [u8]) {
    let (count, quants) = (row / blocks.bytes(), blocks.bytes() - 2);
    packed
        .par_chunks_exact_mut(LANES * row)
        .zip(rows.par_chunks(LANES * row))
        .for_each(|(group, rows)| {
            let (scales, words) = group.split_at_mut(count * SCALES);
            for (lane, row) in rows.chunks_exact(row).enumerate() {
                for (block, bytes) in row.chunks_exact(blocks.bytes()).enumerate() {
                    scales[block * SCALES + 2 * lane..][..2].copy_from_slice(&bytes[..2]);
                    let words = &mut words[block * quants * LANES..][..quants * LANES];
                    for (word, bytes) in bytes[2..].as_chunks::<4>().0.iter().enumerate() {
                        let bytes = match blocks {
                            Blocks::Q8_0 => bytes.map(|byte| byte ^ 0x80),
                            Blocks::Q4_0 => *bytes,
                        };
                        words[(word * LANES + lane) * 4..][..4].copy_from_slice(&bytes);
                    }
                }
            }
        });
}

/// Bytes of `outputs` packed rows.
pub(super) fn size(outputs: usize, row: usize) -> usize {
    outputs.next_multiple_of(LANES) * row
}

/// A group of outputs.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    /// `[blocks, 16]` of f16, as bytes.
    scales: &'a [u8],
    /// `[blocks, words, 16, 4]`
    words: &'a [u8],
    quants: usize,
}

impl<'a> Group<'a> {
    /// Group `index` of a packed weight.
    pub fn new(blocks: Blocks, packed: &'a [u8], row: usize, index: usize) -> Self {
        let group = &packed[index * LANES * row..][..LANES * row];
        let (scales, words) = group.split_at(row / blocks.bytes() * SCALES);
        Self {
            scales,
            words,
            quants: (blocks.bytes() - 2) * LANES,
        }
    }

    /// The scales and the bytes of every block.
    #[inline(always)]
    pub fn blocks(self) -> impl Iterator<Item = (&'a [u8; SCALES], &'a [u8])> {
        let scales = self.scales.as_chunks::<SCALES>().0;
        scales.iter().zip(self.words.chunks_exact(self.quants))
    }
}

/// The weights of a block of a group, over their scales: `[32][16]`.
#[inline(always)]
pub(super) fn integers(blocks: Blocks, words: &[u8]) -> [[i8; LANES]; BLOCK] {
    std::array::from_fn(|k| {
        std::array::from_fn(|lane| {
            let byte = |k: usize| words[(k / 4 * LANES + lane) * 4 + k % 4];
            match blocks {
                Blocks::Q8_0 => (byte(k) ^ 0x80) as i8,
                Blocks::Q4_0 if k < BLOCK / 2 => (byte(k) & 15) as i8 - 8,
                Blocks::Q4_0 => (byte(k - BLOCK / 2) >> 4) as i8 - 8,
            }
        })
    })
}
