//! Normalisations, each with its affine map (and, for images, the SiLU that follows) in one pass. Statistics
//! are `f32` whatever the inputs are.
//!
//! With `h = (x - mean) / sd` and `y = f(gamma h + beta)`, the gradient through the statistics is
//! `dx = (g - mean(g) - h mean(g h)) / sd` where `g = gamma f'(..) dy`; means over what was
//! normalised together.

mod group;
mod rows;

use burn::tensor::{DType, Tensor};

use crate::math::{fold, sum};

pub use group::{group_norm, group_norm_silu};
pub use rows::{layer_norm, rms_norm};

/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;

/// Mean and inverse standard deviation; the second pass over `x` finds it in cache.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum(x) / count;
    let variance = fold(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// The last dimension with mean 0 and variance 1, out of Burn's operations.
fn standardised<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let (variance, mean) = x.clone().var_mean_bias(D - 1);
    ((x - mean) / (variance + epsilon).sqrt()).cast(dtype)
}
