//! Elementary functions of `f32` that vectorise: no branches, no calls, no tables.
//!
//! All loops over numbers go through [`simd`], which compiles them once per instruction set and
//! picks the machine's best at run time.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::instruction_set::arch;

/// Runs a loop with the widest vectors of this machine. The closure and what it calls must be
/// `#[inline(always)]`: only what ends up inside this function is compiled for them.
#[inline]
pub(crate) fn simd<R>(work: impl FnOnce() -> R) -> R {
    arch().dispatch(work)
}

/// The sum of vectors of `length` numbers, always in their order: rayon's own `reduce` adds them as
/// threads happen to be free, and the last bits of a training run would depend on that.
pub(crate) fn add_up(
    length: usize,
    parts: impl IndexedParallelIterator<Item = Vec<f32>>,
) -> Vec<f32> {
    let mut total = vec![0.0; length];
    for part in parts.collect::<Vec<_>>() {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    total
}

/// How many vector registers this machine has: 32 or 16.
#[inline]
pub(crate) fn registers() -> usize {
    struct Registers;
    impl WithSimd for Registers {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::REGISTER_COUNT
        }
    }
    arch().dispatch(Registers)
}

/// `e^x`, to about one unit in the last place; saturates beyond what a normal `f32` holds.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding 1.5 * 2^23 rounds to the nearest integer n and leaves it in the low bits.
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, the first exact when multiplied by n.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // 2^n from its exponent bits.
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function, as an odd rational function (Eigen's coefficients), to about 4e-7.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let p = -2.726_142_3e-10;
    let p = p * s + 2.770_681_4e-8;
    let p = p * s - 2.101_024e-6;
    let p = p * s - 5.692_506_4e-5;
    let p = p * s - 7.349_906_3e-4;
    let p = p * s - 2.954_6e-3;
    let p = p * s - 1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * s - 2.133_740_6e-4;
    let q = q * s - 1.682_827e-3;
    let q = q * s - 7.373_329_2e-3;
    let q = q * s - 1.426_473_9e-2;
    x * p / q
}

/// Sums in sixteen strands, which vectorises and rounds better than one.
#[inline(always)]
pub(crate) fn sum(numbers: &[f32]) -> f32 {
    fold(numbers, |number| number)
}

/// `sum_i f(x_i)` in sixteen strands.
#[inline(always)]
pub(crate) fn fold(numbers: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut strands = [0.0; 16];
    let chunks = numbers.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|number| f(*number)).sum();
    for chunk in chunks {
        for (strand, number) in strands.iter_mut().zip(chunk) {
            *strand += f(*number);
        }
    }
    strands.iter().sum::<f32>() + rest
}

/// `sum_i a_i b_i` in sixteen strands.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut strands = [0.0; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((strand, a), b) in strands.iter_mut().zip(a).zip(b) {
            *strand += a * b;
        }
    }
    strands.iter().sum::<f32>() + rest
}

/// Softmax in place; returns the largest score and the inverse of the sum.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32]) -> [f32; 2] {
    let mut strands = [f32::MIN; 16];
    for chunk in scores.chunks(16) {
        for (strand, score) in strands.iter_mut().zip(chunk) {
            *strand = strand.max(*score);
        }
    }
    let largest = strands.iter().copied().fold(f32::MIN, f32::max);
    let mut strands = [0.0; 16];
    for chunk in scores.chunks_mut(16) {
        for (strand, score) in strands.iter_mut().zip(chunk) {
            let below = *score - largest;
            // What weighs nothing is 0: products with denormal numbers would take many times as long.
            *score = if below < -70.0 { 0.0 } else { exp(below) };
            *strand += *score;
        }
    }
    let inverse = 1.0 / strands.iter().sum::<f32>();
    scores.iter_mut().for_each(|score| *score *= inverse);
    [largest, inverse]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_rounding() {
        for step in -8600..8700 {
            let x = step as f32 * 0.01;
            let want = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!(
                (got / want - 1.0).abs() < 2.5e-7,
                "exp({x}) = {got}, not {want}"
            );
        }
        assert!(exp(-200.0) < 1e-37 && exp(200.0) > 1e38 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_matches_its_series() {
        for step in -300..=300 {
            let x = f64::from(step) * 0.01;
            let (mut term, mut total, mut n) = (x, x, 0.0);
            while term.abs() > 1e-17 {
                n += 1.0;
                term *= -x * x / n;
                total += term / (2.0 * n + 1.0);
            }
            let want = total * std::f64::consts::FRAC_2_SQRT_PI;
            let got = f64::from(erf(x as f32));
            assert!((got - want).abs() < 5e-7, "erf({x}) = {got}, not {want}");
        }
    }
}
