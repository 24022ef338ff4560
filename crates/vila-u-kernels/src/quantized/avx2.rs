//! The dot products with AVX2: eight outputs are one vector.

use std::arch::x86_64::*;

use super::{
    BLOCK, Blocks,
    activations::Activations,
    packed::{Group, LANES},
};

/// Whether this CPU has what [`dot`] needs.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Adds to `sums` the products of `R` rows from `first` on with a group of outputs.
///
/// # Safety
/// [`is_here`] is true.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dot<const R: usize>(
    blocks: Blocks,
    x: &Activations,
    group: Group,
    first: usize,
    sums: &mut [[f32; LANES]; R],
) {
    let mut totals = [[_mm256_setzero_ps(); 2]; R];
    let ones = _mm256_set1_epi16(1);
    for (index, (scales, words)) in group.blocks().enumerate() {
        let mut products = [[_mm256_setzero_si256(); 2]; R];
        for word in 0..BLOCK / 4 {
            for half in 0..2 {
                let w = weights(blocks, words, word, half);
                let magnitude = _mm256_abs_epi8(w);
                for r in 0..R {
                    let at = ((first + r) * x.blocks + index) * BLOCK + 4 * word;
                    let q = &x.q[at..at + 4];
                    let q = i32::from_le_bytes([q[0] as u8, q[1] as u8, q[2] as u8, q[3] as u8]);
                    // Neighbours' products add up to at most 2 * 128 * 127, which 16 bits hold.
                    let signed = _mm256_sign_epi8(_mm256_set1_epi32(q), w);
                    let pairs = _mm256_maddubs_epi16(magnitude, signed);
                    let fours = _mm256_madd_epi16(pairs, ones);
                    products[r][half] = _mm256_add_epi32(products[r][half], fours);
                }
            }
        }
        for half in 0..2 {
            let scales = &scales[16 * half..16 * half + 16];
            // SAFETY: 16 bytes, as just cut.
            let scales = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(scales.as_ptr().cast())) };
            for r in 0..R {
                let own = _mm256_set1_ps(x.scales[(first + r) * x.blocks + index]);
                let products = _mm256_cvtepi32_ps(products[r][half]);
                let scale = _mm256_mul_ps(scales, own);
                totals[r][half] = _mm256_fmadd_ps(products, scale, totals[r][half]);
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

/// The signed weights of one word of half of the outputs.
#[target_feature(enable = "avx2")]
fn weights(blocks: Blocks, words: &[u8], word: usize, half: usize) -> __m256i {
    let load = |word: usize| {
        let bytes = &words[(2 * word + half) * 32..][..32];
        // SAFETY: 32 bytes, as just cut.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    };
    const WORDS: usize = BLOCK / 8;
    let nibbles = |bytes: __m256i| {
        let nibbles = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
        _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8))
    };
    match blocks {
        Blocks::Q8_0 => _mm256_xor_si256(load(word), _mm256_set1_epi8(-128)),
        Blocks::Q4_0 if word < WORDS => nibbles(load(word)),
        Blocks::Q4_0 => nibbles(_mm256_srli_epi16(load(word - WORDS), 4)),
    }
}
