//! The dot products with AVX2: eight outputs are one vector.

use std::arch::x86_64::*;

use super::{
    BLOCK, BlockFormat,
    activations::Activations,
    packed::{Group, LANES},
};
use crate::instruction_set::{InstructionSet, allows};

/// Whether this CPU has what [`dot`] needs.
pub(super) fn is_here() -> bool {
    allows(InstructionSet::Avx2)
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Adds to `sums` the products of `R` rows from `first` on with a group of outputs.
///
/// # Safety
/// [`is_here`] is true.
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_of<const NIBBLES: bool, const R: usize>(
    x: &Activations,
    group: Group,
    first: usize,
    sums: &mut [[f32; LANES]; R],
) {
    let rows = x.rows::<R>(first);
    let mut totals = [[_mm256_setzero_ps(); 2]; R];
    for (index, (scales, words)) in group.blocks().enumerate() {
        let scales = scales.as_chunks::<16>().0;
        let mut products = [[_mm256_setzero_si256(); 2]; R];
        for (word, bytes) in words.as_chunks::<64>().0.iter().enumerate() {
            for half in 0..2 {
                let bytes = &bytes.as_chunks::<32>().0[half];
                // SAFETY: 32 bytes.
                let w = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
                if NIBBLES {
                    let mask = _mm256_set1_epi8(15);
                    let low = _mm256_and_si256(w, mask);
                    let high = _mm256_and_si256(_mm256_srli_epi16(w, 4), mask);
                    for r in 0..R {
                        // All of a block's add up to at most 16 * 15 * 127, which 16 bits hold.
                        let pairs = _mm256_maddubs_epi16(low, four(&rows[r].q[index], word));
                        products[r][half] = _mm256_add_epi16(products[r][half], pairs);
                        let q = four(&rows[r].q[index], word + BLOCK / 8);
                        let pairs = _mm256_maddubs_epi16(high, q);
                        products[r][half] = _mm256_add_epi16(products[r][half], pairs);
                    }
                } else {
                    let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                    let magnitude = _mm256_abs_epi8(w);
                    for r in 0..R {
                        // Neighbours' products add up to at most 2 * 128 * 127, which 16 bits hold.
                        let signed = _mm256_sign_epi8(four(&rows[r].q[index], word), w);
                        let pairs = _mm256_maddubs_epi16(magnitude, signed);
                        let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                        products[r][half] = _mm256_add_epi32(products[r][half], fours);
                    }
                }
            }
        }
        for half in 0..2 {
            // SAFETY: 16 bytes.
            let scales = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(scales[half].as_ptr().cast())) };
            for r in 0..R {
                let mut product = products[r][half];
                if NIBBLES {
                    // Nibbles are stored plus 8.
                    let offset = _mm256_set1_epi32(8 * rows[r].sums[index]);
                    let fours = _mm256_madd_epi16(product, _mm256_set1_epi16(1));
                    product = _mm256_sub_epi32(fours, offset);
                }
                let scale = _mm256_mul_ps(scales, _mm256_set1_ps(rows[r].scales[index]));
                let product = _mm256_cvtepi32_ps(product);
                totals[r][half] = _mm256_fmadd_ps(product, scale, totals[r][half]);
            }
        }
    }
    for (sums, totals) in sums.iter_mut().zip(totals) {
        for (sums, total) in sums.as_chunks_mut::<8>().0.iter_mut().zip(totals) {
            // SAFETY: eight numbers, as just cut.
            unsafe {
                let old = _mm256_loadu_ps(sums.as_ptr());
                _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_add_ps(old, total));
            }
        }
    }
}

/// Four bytes of a row, for every output.
#[inline]
#[target_feature(enable = "avx2")]
fn four(q: &[i8; BLOCK], word: usize) -> __m256i {
    let q = q.as_chunks::<4>().0[word].map(|q| q as u8);
    _mm256_set1_epi32(i32::from_le_bytes(q))
}
