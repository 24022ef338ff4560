//! How a quantized weight lies in memory: the blocks of sixteen outputs side by side, so that a lane of a
//! vector belongs to one output, and no sum ever crosses lanes.
//!
//! A group of sixteen outputs is, for each of its blocks, sixteen scales, and then, for each block, words of
//! four bytes: the first four bytes of every output's block, the next four of every one, and so on. Signed
//! bytes are stored plus 128, because integer dot products take one factor unsigned.

use rayon::prelude::*;

use super::{BLOCK, BlockFormat};

/// Outputs of a group.
pub(super) const LANES: usize = 16;
/// Bytes of a group's scales of one block.
const SCALES: usize = 2 * LANES;

/// Rows of blocks, `[outputs, bytes of a row]`, in groups. Outputs that fill up the last one have weights of 0.
///
/// `packed`: as many bytes as [`size`] says, all 0.
pub(super) fn pack(blocks: BlockFormat, rows: &[u8], row: usize, packed: &mut [u8]) {
    packed
        .par_chunks_exact_mut(LANES * row)
        .zip(rows.par_chunks(LANES * row))
        .for_each(|(group, rows)| match blocks {
            BlockFormat::Q8_0 => pack_group::<{ BLOCK / 4 }>(group, rows, row, 0x8080_8080),
            BlockFormat::Q4_0 => pack_group::<{ BLOCK / 8 }>(group, rows, row, 0),
        });
}

/// Blocks of so many words, in which the bits of `flip` are turned over.
fn pack_group<const WORDS: usize>(group: &mut [u8], rows: &[u8], row: usize, flip: u32) {
    let size = 2 + 4 * WORDS;
    let (scales, words) = group.split_at_mut(row / size * SCALES);
    let scales = scales.as_chunks_mut::<2>().0.as_chunks_mut::<LANES>().0;
    let words = words.as_chunks_mut::<4>().0.as_chunks_mut::<LANES>().0;
    let words = words.as_chunks_mut::<WORDS>().0;
    for (block, (scales, words)) in scales.iter_mut().zip(words).enumerate() {
        // Block by block: what is written, and a little of every row, stays in the nearest cache.
        let mut quants = [[0; WORDS]; LANES];
        for ((row, scale), quants) in rows.chunks_exact(row).zip(scales).zip(&mut quants) {
            let bytes = &row[block * size..][..size];
            *scale = [bytes[0], bytes[1]];
            for (quant, bytes) in quants.iter_mut().zip(bytes[2..].as_chunks().0) {
                *quant = u32::from_ne_bytes(*bytes) ^ flip;
            }
        }
        for word in 0..WORDS {
            for lane in 0..LANES {
                words[word][lane] = quants[lane][word].to_ne_bytes();
            }
        }
    }
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
    pub fn new(blocks: BlockFormat, packed: &'a [u8], row: usize, index: usize) -> Self {
        let group = &packed[index * LANES * row..][..LANES * row];
        let (scales, words) = group.split_at(row / blocks.block_bytes() * SCALES);
        Self {
            scales,
            words,
            quants: (blocks.block_bytes() - 2) * LANES,
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
pub(super) fn integers(blocks: BlockFormat, words: &[u8]) -> [[i8; LANES]; BLOCK] {
    std::array::from_fn(|k| {
        std::array::from_fn(|lane| {
            let byte = |k: usize| words[(k / 4 * LANES + lane) * 4 + k % 4];
            match blocks {
                BlockFormat::Q8_0 => (byte(k) ^ 0x80) as i8,
                BlockFormat::Q4_0 if k < BLOCK / 2 => (byte(k) & 15) as i8 - 8,
                BlockFormat::Q4_0 => (byte(k - BLOCK / 2) >> 4) as i8 - 8,
            }
        })
    })
}
