//! The dot products with NEON's instructions for them: four outputs are one vector.

use std::arch::{aarch64::*, asm, is_aarch64_feature_detected};

use super::{
    BLOCK, BlockFormat,
    activations::Activations,
    packed::{Group, LANES},
};
use crate::instruction_set::{InstructionSet, allows};

/// Whether this CPU has what [`dot`] needs.
pub(super) fn is_here() -> bool {
    allows(InstructionSet::Neon) && is_aarch64_feature_detected!("dotprod")
}

/// Adds to `sums` the products of `R` rows from `first` on with a group of outputs.
///
/// # Safety
/// [`is_here`] is true.
#[target_feature(enable = "neon,dotprod")]
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
#[target_feature(enable = "neon,dotprod")]
fn dot_of<const NIBBLES: bool, const R: usize>(
    x: &Activations,
    group: Group,
    first: usize,
    sums: &mut [[f32; LANES]; R],
) {
    let rows = x.rows::<R>(first);
    let mut totals = [[vdupq_n_f32(0.0); 4]; R];
    for (index, (scales, words)) in group.blocks().enumerate() {
        // Four words of weights at a time: as many bytes of a row are one vector.
        let words = words.as_chunks::<64>().0.as_chunks::<4>().0;
        let mut q = [&[0; BLOCK]; R];
        let mut offsets = [vdupq_n_s32(0); R];
        for r in 0..R {
            q[r] = &rows[r].q[index];
            if NIBBLES {
                // They are stored plus 8.
                offsets[r] = vdupq_n_s32(-8 * rows[r].sums[index]);
            }
        }
        // One vector of outputs after the other: the products of all would not fit in the registers.
        for quarter in 0..4 {
            let mut products = offsets;
            for half in 0..if NIBBLES { 1 } else { 2 } {
                // The signed bytes, or the low nibbles and the high ones.
                let mut w = [[vdupq_n_s8(0); 4]; 2];
                for word in 0..4 {
                    let bytes = &words[half][word].as_chunks::<16>().0[quarter];
                    // SAFETY: 16 bytes.
                    let bytes = unsafe { vld1q_u8(bytes.as_ptr()) };
                    if NIBBLES {
                        w[0][word] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
                        w[1][word] = vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes));
                    } else {
                        w[0][word] = vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128)));
                    }
                }
                add(&mut products, w[0], q, half);
                if NIBBLES {
                    add(&mut products, w[1], q, 1);
                }
            }
            let scales = &scales.as_chunks::<8>().0[quarter];
            // SAFETY: eight bytes.
            let scales = unsafe { vld1_u8(scales.as_ptr()) };
            let scales = vcvt_f32_f16(vreinterpret_f16_u8(scales));
            for r in 0..R {
                let scale = vmulq_n_f32(scales, rows[r].scales[index]);
                let product = vcvtq_f32_s32(products[r]);
                totals[r][quarter] = vfmaq_f32(totals[r][quarter], product, scale);
            }
        }
    }
    for (sums, totals) in sums.iter_mut().zip(totals) {
        for (sums, total) in sums.as_chunks_mut::<4>().0.iter_mut().zip(totals) {
            // SAFETY: four numbers, as just cut.
            unsafe {
                let old = vld1q_f32(sums.as_ptr());
                vst1q_f32(sums.as_mut_ptr(), vaddq_f32(old, total));
            }
        }
    }
}

/// Adds the products of four words of four outputs with a half of a block of every row.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add<const R: usize>(
    products: &mut [int32x4_t; R],
    w: [int8x16_t; 4],
    q: [&[i8; BLOCK]; R],
    half: usize,
) {
    let mut vectors = [vdupq_n_s8(0); R];
    for r in 0..R {
        let bytes = &q[r].as_chunks::<16>().0[half];
        // SAFETY: 16 bytes.
        vectors[r] = unsafe { vld1q_s8(bytes.as_ptr()) };
    }
    add_word::<0, R>(products, w[0], vectors);
    add_word::<1, R>(products, w[1], vectors);
    add_word::<2, R>(products, w[2], vectors);
    add_word::<3, R>(products, w[3], vectors);
}

/// Adds the products of a word of four outputs with word `WORD` of every row's vector. The intrinsic for
/// them, `vdotq_laneq_s32`, is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_word<const WORD: usize, const R: usize>(
    products: &mut [int32x4_t; R],
    w: int8x16_t,
    q: [int8x16_t; R],
) {
    for r in 0..R {
        // SAFETY: an instruction of `dotprod`, on registers alone.
        unsafe {
            asm!(
                "sdot {product:v}.4s, {w:v}.16b, {q:v}.4b[{word}]",
                product = inout(vreg) products[r],
                w = in(vreg) w,
                q = in(vreg) q[r],
                word = const WORD,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
}
