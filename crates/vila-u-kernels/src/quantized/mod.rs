//! Weights in blocks of 32 that share a scale, in the formats of llama.cpp's GGUF files.
//!
//! | format | a block | bytes | a weight is |
//! | --- | --- | --- | --- |
//! | `Q8_0` | f16 scale `d`, 32 signed bytes `q` | 34 | `d q` |
//! | `Q4_0` | f16 scale `d`, 32 nibbles `q`, first half of the weights in the low ones | 18 | `d (q - 8)` |
//!
//! A quantized weight `[inputs, outputs]` is a tensor of dtype `QFloat` that holds the bytes of these blocks in
//! another order. Only [`crate::linear`] reads it.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod portable;
#[cfg(target_arch = "x86_64")]
mod tiles;

use burn::backend::{
    BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    flex::{FlexQTensor, FlexTensor, Layout},
};
use burn::tensor::quantization::{QuantScheme, QuantValue, ScaleDtype};
use burn::tensor::{DType, Shape, Tensor, TensorData, f16};
use rayon::prelude::*;

use crate::{huge_pages, math::simd};

/// Weights that share a scale.
pub const BLOCK: usize = 32;
/// Blocks that one thread quantizes together.
const TOGETHER: usize = 1 << 11;

/// How the weights of a linear layer are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    Q8_0,
    Q4_0,
}

impl BlockFormat {
    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 2 + BLOCK,
            Self::Q4_0 => 2 + BLOCK / 2,
        }
    }

    /// Bytes of a row of `inputs` weights, if they make whole blocks.
    pub fn row_bytes(self, inputs: usize) -> Option<usize> {
        inputs
            .is_multiple_of(BLOCK)
            .then(|| inputs / BLOCK * self.block_bytes())
    }

    /// How Burn calls the format.
    fn scheme(self) -> QuantScheme {
        let value = match self {
            Self::Q8_0 => QuantValue::Q8S,
            Self::Q4_0 => QuantValue::Q4F,
        };
        let scheme = QuantScheme::default().with_value(value);
        scheme.per_block([BLOCK as u8], ScaleDtype::F16)
    }

    /// The format of a weight of this dtype, if it is one of [`quantized`].
    pub fn of(dtype: DType) -> Option<Self> {
        [Self::Q8_0, Self::Q4_0]
            .into_iter()
            .find(|blocks| DType::QFloat(blocks.scheme()) == dtype)
    }

    /// Rounds weights, as many as make whole blocks, as llama.cpp does. None if one is not a number or
    /// too large for a scale of f16.
    ///
    /// # Panics
    /// When the weights do not make whole blocks.
    pub fn quantize(self, weights: &[f32]) -> Option<Vec<u8>> {
        assert!(
            weights.len().is_multiple_of(BLOCK),
            "blocks are of {BLOCK} weights"
        );
        let mut bytes = vec![0; weights.len() / BLOCK * self.block_bytes()];
        let fine = bytes
            .par_chunks_mut(TOGETHER * self.block_bytes())
            .zip(weights.par_chunks(TOGETHER * BLOCK))
            .map(|(bytes, weights)| {
                let blocks = bytes.chunks_exact_mut(self.block_bytes());
                let mut fine = true;
                for (to, weights) in blocks.zip(weights.as_chunks::<BLOCK>().0) {
                    let (scale, to) = to.split_at_mut(2);
                    let d = simd(
                        #[inline(always)]
                        || match self {
                            Self::Q8_0 => eight_bits(weights, to),
                            Self::Q4_0 => four_bits(weights, to),
                        },
                    );
                    let d = f16::from_f32(d);
                    scale.copy_from_slice(&d.to_le_bytes());
                    fine &= d.is_finite() && weights.iter().all(|weight| weight.is_finite());
                }
                fine
            })
            .reduce(|| true, |left, right| left && right);
        fine.then_some(bytes)
    }

    /// The weights that whole blocks stand for.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let mut weights = vec![0.0; bytes.len() / self.block_bytes() * BLOCK];
        weights
            .par_chunks_mut(TOGETHER * BLOCK)
            .zip(bytes.par_chunks(TOGETHER * self.block_bytes()))
            .for_each(|(weights, bytes)| {
                let blocks = bytes.chunks_exact(self.block_bytes());
                for (weights, block) in weights.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks) {
                    let d = scale(block);
                    *weights = self.integers(block).map(|q| d * f32::from(q));
                }
            });
        weights
    }

    /// The weights of a block, over its scale.
    #[inline(always)]
    fn integers(self, block: &[u8]) -> [i8; BLOCK] {
        let q = &block[2..];
        match self {
            Self::Q8_0 => std::array::from_fn(|k| q[k] as i8),
            Self::Q4_0 => std::array::from_fn(|k| {
                if k < BLOCK / 2 {
                    (q[k] & 15) as i8 - 8
                } else {
                    (q[k - BLOCK / 2] >> 4) as i8 - 8
                }
            }),
        }
    }
}

/// The scale of a block.
#[inline(always)]
fn scale(block: &[u8]) -> f32 {
    f16::from_le_bytes([block[0], block[1]]).to_f32()
}

/// Signed bytes of the weights over the scale, which is returned.
#[inline(always)]
fn eight_bits(weights: &[f32; BLOCK], to: &mut [u8]) -> f32 {
    let largest = weights
        .iter()
        .fold(0.0_f32, |m, weight| m.max(weight.abs()));
    let d = largest / 127.0;
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    for (to, weight) in to.iter_mut().zip(weights) {
        *to = (weight * inverse).round() as i8 as u8;
    }
    d
}

/// Nibbles of the weights over the scale, which is returned: the weight farthest from 0 becomes -8.
#[inline(always)]
fn four_bits(weights: &[f32; BLOCK], to: &mut [u8]) -> f32 {
    let farthest = weights.iter().fold(0.0_f32, |far, weight| {
        if weight.abs() > far.abs() {
            *weight
        } else {
            far
        }
    });
    let d = farthest / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let nibble = |weight: f32| ((weight * inverse + 8.5) as u8).min(15);
    let (low, high) = weights.split_at(BLOCK / 2);
    for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
        *to = nibble(*low) | nibble(*high) << 4;
    }
    d
}

/// The weight `[inputs, outputs]` of a linear layer from its rows: bytes `[outputs, bytes of a row]`, of
/// dtype u8.
pub fn quantized(blocks: BlockFormat, rows: TensorData) -> Tensor<2> {
    let [outputs, row] = rows.shape().dims();
    let inputs = row / blocks.block_bytes() * BLOCK;
    let bytes = huge_pages::filled(packed::size(outputs, row), |packed| {
        packed::pack(blocks, rows.as_bytes(), row, packed);
    });
    // Burn knows quantized weights as signed bytes with their scales beside them; here the bytes hold both.
    let layout = Layout::contiguous(Shape::from([inputs, outputs]));
    let weight = FlexTensor::new(bytes, layout, DType::I8);
    let weight = FlexQTensor::new(weight, blocks.scheme(), vec![1.0], None);
    Tensor::from_dispatch(DispatchTensor {
        kind: DispatchTensorKind::Flex(BackendTensor::Quantized(weight)),
        autodiff: DispatchAutodiffContext::Disabled,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// Numbers that look random, about -1..1.
    pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn rounding_stays_within_half_a_step() {
        let weights = numbers(BLOCK * 100, 1);
        for (blocks, step) in [
            (BlockFormat::Q8_0, 1.0 / 127.0),
            (BlockFormat::Q4_0, 1.0 / 8.0),
        ] {
            let bytes = blocks.quantize(&weights).unwrap();
            assert_eq!(bytes.len(), 100 * blocks.block_bytes());
            let back = blocks.dequantize(&bytes);
            for (old, new) in weights.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let largest = old.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                for (old, new) in old.iter().zip(new) {
                    // One whole step for the largest nibble: 8 is not there, only -8. A scale of f16 adds a little.
                    let most = match blocks {
                        BlockFormat::Q8_0 => 0.5 * step * largest,
                        BlockFormat::Q4_0 => step * largest,
                    };
                    assert!((old - new).abs() <= most * 1.01 + 1e-3 * old.abs());
                }
            }
        }
    }

    /// Blocks as llama.cpp writes them, worked out by hand.
    #[test]
    fn the_bytes_of_ggml() {
        let mut weights = [0.0; BLOCK];
        weights[0] = -8.0;
        weights[1] = 3.0;
        weights[16] = 7.0;
        let q4 = BlockFormat::Q4_0.quantize(&weights).unwrap();
        assert_eq!(q4[..2], f16::from_f32(1.0).to_le_bytes());
        assert_eq!(q4[2], 0xf0); // -8 -> 0, 7 -> 15
        assert_eq!(q4[3], 0x8b); // 3 -> 11, 0 -> 8
        weights[0] = -127.0;
        let q8 = BlockFormat::Q8_0.quantize(&weights).unwrap();
        assert_eq!(q8[..2], f16::from_f32(1.0).to_le_bytes());
        assert_eq!([q8[2] as i8, q8[3] as i8, q8[18] as i8], [-127, 3, 7]);
    }

    #[test]
    fn what_cannot_be_rounded() {
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let mut weights = numbers(BLOCK, 2);
            weights[5] = bad;
            assert!(BlockFormat::Q8_0.quantize(&weights).is_none());
            assert!(BlockFormat::Q4_0.quantize(&weights).is_none());
        }
        let zeros = BlockFormat::Q4_0.quantize(&[0.0; BLOCK]).unwrap();
        assert_eq!(BlockFormat::Q4_0.dequantize(&zeros), [0.0; BLOCK]);
    }
}
