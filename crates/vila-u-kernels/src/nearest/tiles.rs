//! The search on the tile unit (see [`crate::amx`]), which multiplies numbers rounded to bfloat16: products say between
//! which bounds a distance lies, and those rows that may be the nearest are compared again in `f32`. What is found is the
//! nearest row, as without the unit.

use std::arch::x86_64::*;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use crate::amx::{self, BLOCK, Sums};
use crate::math::{dot, simd};
use crate::matmul::{Matrix, kept};

/// Fewer vectors than this leave tiles empty.
pub(super) const MIN_VECTORS: usize = 16;
/// More rows than half of these that may be the nearest are not told apart by bounds.
const MOST_CANDIDATES: usize = 512;
/// How far a product of vectors of length 1 may be off: each number by 2^-9 of itself, and a little for sums.
const OFF: f32 = 1.05 / 256.0;

/// Whether this machine can.
pub(super) fn is_here() -> bool {
    amx::available()
}

/// What is known of the rows.
struct Rows {
    half_squares: Vec<f32>,
    /// How far a product with a vector of length 1 may be off.
    off: Vec<f32>,
}

impl Rows {
    fn new(rows: &[f32], channels: usize) -> Self {
        let square = |row: &[f32]| {
            simd(
                #[inline(always)]
                || dot(row, row),
            )
        };
        let squares: Vec<f32> = rows.par_chunks(channels).map(square).collect();
        Self {
            half_squares: squares.iter().map(|square| 0.5 * square).collect(),
            off: squares.iter().map(|square| OFF * square.sqrt()).collect(),
        }
    }
}

/// Of a vector, what has been found in some of the rows.
#[derive(Clone)]
struct Candidates {
    /// `|e|^2 / 2 - x e` of the nearest row is at most this; negative infinity where all rows have to be compared.
    at_most: f32,
    /// Rows that may be the nearest, with what theirs is at least.
    rows: Vec<(u32, f32)>,
}

impl Candidates {
    fn push(&mut self, row: u32, [at_least, at_most]: [f32; 2]) {
        self.rows.push((row, at_least));
        self.at_most = self.at_most.min(at_most);
        if self.rows.len() == MOST_CANDIDATES {
            self.rows.retain(|(_, at_least)| *at_least <= self.at_most);
            if self.rows.len() > MOST_CANDIDATES / 2 {
                *self = Self {
                    at_most: f32::NEG_INFINITY,
                    rows: Vec::new(),
                };
            }
        }
    }
}

/// The number of the nearest row for each of `count` vectors. `rows` are the first ones of the tensor `codebook`.
pub(super) fn search(
    vectors: &[f32],
    rows: &[f32],
    codebook: &FlexTensor,
    channels: usize,
    count: usize,
) -> Vec<i64> {
    let known = Rows::new(rows, channels);
    let lengths: Vec<f32> = vectors
        .chunks_exact(channels)
        .map(|vector| dot(vector, vector).sqrt())
        .collect();
    let matrix = Matrix::new(rows, rows.len() / channels, channels).transpose();
    let start = Candidates {
        at_most: f32::INFINITY,
        rows: Vec::new(),
    };
    let parts = amx::products_with(
        Matrix::new(vectors, count, channels),
        matrix,
        kept::packed(codebook, matrix, true).as_deref(),
        || vec![start.clone(); count],
        |found, [vector, row], sums| {
            // SAFETY: the CPU has AVX-512, or there would be no products.
            unsafe { compare(found, [vector, row], sums, &known, &lengths) }
        },
    );
    let nearest = |vector: usize| {
        let x = &vectors[vector * channels..][..channels];
        let found = || parts.iter().map(|part| &part[vector]);
        let at_most = found().fold(f32::INFINITY, |most, found| most.min(found.at_most));
        // In the order of rows, so that the first of equals is kept.
        let left: Vec<u32> = if at_most == f32::NEG_INFINITY {
            (0..known.half_squares.len() as u32).collect()
        } else {
            let left = found().flat_map(|found| &found.rows);
            let left = left.filter(|(_, at_least)| *at_least <= at_most);
            left.map(|(row, _)| *row).collect()
        };
        let distance = |row: u32| {
            let e = &rows[row as usize * channels..][..channels];
            simd(
                #[inline(always)]
                || known.half_squares[row as usize] - dot(x, e),
            )
        };
        let first = (f32::INFINITY, 0);
        let (_, row) = left.into_iter().fold(first, |nearest, row| {
            let distance = distance(row);
            if distance < nearest.0 {
                (distance, row)
            } else {
                nearest
            }
        });
        i64::from(row)
    };
    (0..count).into_par_iter().map(nearest).collect()
}

/// Takes in the products of a block of vectors and one of rows, from these numbers on.
///
/// # Safety
/// The CPU has AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn compare(
    found: &mut [Candidates],
    [vector, row]: [usize; 2],
    sums: &Sums,
    known: &Rows,
    lengths: &[f32],
) {
    let there = known.half_squares.len() - row;
    for half in 0..BLOCK / 16 {
        let width = there.saturating_sub(16 * half).min(16);
        let mask = ((1_u32 << width) - 1) as __mmask16;
        let from = row + 16 * half;
        // SAFETY: what the mask leaves out is not read.
        let load = |numbers: &[f32]| unsafe {
            _mm512_maskz_loadu_ps(mask, numbers.as_ptr().wrapping_add(from))
        };
        let (half_squares, off) = (load(&known.half_squares), load(&known.off));
        let vectors = found[vector..].iter_mut().zip(&lengths[vector..]);
        for ((found, length), sums) in vectors.zip(&sums.0) {
            // SAFETY: sixteen numbers.
            let sums = unsafe { _mm512_loadu_ps(sums.as_ptr().add(16 * half)) };
            let distance = _mm512_sub_ps(half_squares, sums);
            let off = _mm512_mul_ps(off, _mm512_set1_ps(*length));
            let at_least = _mm512_sub_ps(distance, off);
            let at_most = _mm512_set1_ps(found.at_most);
            // Hardly ever, after the first rows.
            let maybe = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(mask, at_least, at_most);
            if maybe != 0 {
                let (mut least, mut most) = ([0.0; 16], [0.0; 16]);
                // SAFETY: sixteen numbers each.
                unsafe {
                    _mm512_storeu_ps(least.as_mut_ptr(), at_least);
                    _mm512_storeu_ps(most.as_mut_ptr(), _mm512_add_ps(distance, off));
                }
                for lane in (0..16).filter(|lane| maybe & (1 << lane) != 0) {
                    found.push((from + lane) as u32, [least[lane], most[lane]]);
                }
            }
        }
    }
}
