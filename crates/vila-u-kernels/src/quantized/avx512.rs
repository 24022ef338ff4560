//! The dot products with AVX-512 VNNI: sixteen outputs are one vector.

use std::arch::x86_64::*;

use super::{
    BLOCK, BlockFormat,
    activations::Activations,
    packed::{Group, LANES},
};
use crate::instruction_set::{InstructionSet, allows};

/// Whether this CPU has what [`dot`] needs.
pub(super) fn is_here() -> bool {
    allows(InstructionSet::Avx512)
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// Adds to `sums` the products of `R` rows from `first` on with a group of outputs.
///
/// # Safety
/// [`is_here`] is true.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn dot<const R: usize>(
    blocks: BlockFormat,
    x: &Activations,
    group: Group,
    first: usize,
    sums: &mut [[f32; LANES]; R],
) {
    match blocks {
        BlockFormat::Q8_0 => dot_of::<false, R>(x, group, first, sums),
        BlockFormat::Q4_0 => dot_of::<true, R>(x, group, first, sums),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot_of<const NIBBLES: bool, const R: usize>(
    x: &Activations,
    group: Group,
    first: usize,
    sums: &mut [[f32; LANES]; R],
) {
    // What weights are stored with on top, to be unsigned.
    let offset = if NIBBLES { 8 } else { 128 };
    let rows = x.rows::<R>(first);
    // SAFETY: every array is sixteen numbers long.
    let mut totals = sums
        .each_ref()
        .map(|sums| unsafe { _mm512_loadu_ps(sums.as_ptr()) });
    for (index, (scales, words)) in group.blocks().enumerate() {
        let mut products: [__m512i; R] =
            std::array::from_fn(|r| _mm512_set1_epi32(-offset * rows[r].sums[index]));
        let add = |products: &mut [__m512i; R], w: __m512i, word: usize| {
            for r in 0..R {
                let q = rows[r].q[index].as_chunks::<4>().0[word].map(|q| q as u8);
                let q = _mm512_set1_epi32(i32::from_le_bytes(q));
                products[r] = _mm512_dpbusd_epi32(products[r], w, q);
            }
        };
        for (word, bytes) in words.as_chunks::<64>().0.iter().enumerate() {
            // SAFETY: 64 bytes.
            let w = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
            if NIBBLES {
                let mask = _mm512_set1_epi8(15);
                add(&mut products, _mm512_and_si512(w, mask), word);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(w), mask);
                add(&mut products, high, word + BLOCK / 8);
            } else {
                add(&mut products, w, word);
            }
        }
        // SAFETY: 32 bytes.
        let scales = unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(scales.as_ptr().cast())) };
        for r in 0..R {
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(rows[r].scales[index]));
            totals[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[r]), scale, totals[r]);
        }
    }
    for (sums, total) in sums.iter_mut().zip(totals) {
        // SAFETY: sixteen numbers.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
    }
}
