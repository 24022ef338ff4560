//! The choice of [`super::sampling`] out of tensor operations: logits never leave the device.
//!
//! A GPU would have to bring them to the host to sort them, and wait for that at every code, so nothing here
//! sorts. Both filters keep the tokens from some probability upwards, and that threshold is searched for: many
//! candidates at once, then as many in the gap between two of them, until the gap is less than `f32`
//! probabilities can tell apart.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::sampling::{Sampler, Sampling, not_numbers};
use crate::{Result, device::read_floats};

/// Random numbers of each row that are brought to the device at once: those of an image of 256 positions
/// and 4 codes.
const AHEAD: usize = 1024;

/// The search begins at this log weight; the most likely token has 0. What is below is never
/// sampled: `exp(-96)` is less than `f32` holds in full.
const MIN_LOG_WEIGHT: f64 = -96.0;
/// The gap that it begins with, up to above the best token.
const GAP: f64 = 128.0;
/// Parts that a round makes of the gap. A power of two, as all else here, so that candidates are exact.
const PARTS: usize = 64;
/// What is left of the gap is 2^-23, the accuracy of `f32`.
const ROUNDS: usize = 5;

/// Samples the tokens of several rows.
pub(super) struct DeviceSampler {
    sampling: Sampling,
    rows: Vec<Sampler>,
    /// `[rows, AHEAD]`, each in 0..1.
    uniforms: Tensor<2>,
    /// How many of them each row has used.
    used: usize,
    /// 1, 2, 3, ... of the parts of a gap, `[1, PARTS - 1]`.
    parts: Tensor<2>,
    /// `[rows, 1]`, NaN as soon as some logits have been.
    nan_check: Tensor<2>,
}

impl DeviceSampler {
    /// Samples what [`Sampler::rows`] sample, up to rounding.
    pub(super) fn new(sampling: Sampling, seed: u64, rows: Range<usize>, device: &Device) -> Self {
        let count = rows.len();
        let parts: Vec<f32> = (1..PARTS).map(|part| part as f32).collect();
        Self {
            sampling,
            rows: Sampler::rows(sampling, seed, rows),
            uniforms: Tensor::zeros([count, AHEAD], (device, DType::F32)),
            used: AHEAD,
            parts: floats(parts, [1, PARTS - 1], device),
            nan_check: Tensor::zeros([count, 1], (device, DType::F32)),
        }
    }

    /// Samples one token of each row of the logits `[rows, tokens]`: `[rows]`. Logits that are NaN or infinite are
    /// reported by [`Self::check`].
    pub(super) fn sample(&mut self, logits: Tensor<2>) -> Tensor<1, Int> {
        let (log_weights, weights) = self.weights(logits);
        self.nan_check = self.nan_check.clone() + weights.clone().sum_dim(1);
        if self.sampling.temperature == 0.0 {
            return log_weights.argmax(1).squeeze_dim(1);
        }
        let uniforms = self.uniforms();
        self.choose(log_weights, weights, uniforms)
    }

    /// Waits for the device. Fails when some logits have not been numbers.
    pub(super) fn check(&self) -> Result<()> {
        let sums = read_floats(self.nan_check.clone())?;
        if sums.iter().any(|sum| sum.is_nan()) {
            Err(not_numbers())
        } else {
            Ok(())
        }
    }

    /// The next random number of each row, `[rows, 1]`.
    fn uniforms(&mut self) -> Tensor<2> {
        if self.used == AHEAD {
            let count = self.rows.len();
            let rows = self.rows.iter_mut();
            let numbers = rows.flat_map(|row| std::iter::repeat_with(|| row.uniform()).take(AHEAD));
            // Less than 1 in `f32` too.
            let numbers = numbers.map(|number| (number as f32).min(1.0 - f32::EPSILON / 2.0));
            let device = self.nan_check.device();
            self.uniforms = floats(numbers.collect(), [count, AHEAD], &device);
            self.used = 0;
        }
        self.used += 1;
        self.uniforms.clone().narrow(1, self.used - 1, 1)
    }

    /// The logarithms of the probabilities over the largest one, and these ratios: `[rows, tokens]` each.
    fn weights(&self, logits: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let logits = logits.cast(DType::F32);
        let scale = match self.sampling.temperature {
            0.0 => 1.0,
            temperature => (1.0 / temperature).clamp(f32::MIN_POSITIVE.into(), f32::MAX.into()),
        };
        let best = logits.clone().max_dim(1);
        let log_weights = (logits - best) * scale;
        (log_weights.clone(), log_weights.exp())
    }

    /// As [`Sampling::choose`], for each row. The temperature is above 0.
    fn choose(
        &self,
        log_weights: Tensor<2>,
        mut weights: Tensor<2>,
        uniforms: Tensor<2>,
    ) -> Tensor<1, Int> {
        let [_, tokens] = log_weights.dims();
        if let Some(k) = self.sampling.top_k.filter(|k| *k < tokens) {
            let count = log_weights.ones_like();
            let wanted = self.nan_check.full_like(k as f64);
            let (threshold, _) = self.threshold(&log_weights, count, wanted);
            weights = weights.mask_fill(log_weights.clone().lower(threshold), 0.0);
        }
        if let Some(p) = self.sampling.top_p.filter(|p| *p < 1.0) {
            let wanted = weights.clone().sum_dim(1) * p;
            let (threshold, gap) = self.threshold(&log_weights, weights.clone(), wanted.clone());
            let from = |threshold| {
                let below = log_weights.clone().lower(threshold);
                weights.clone().mask_fill(below, 0.0)
            };
            // The next number that `f32` can tell from the threshold, or that the gap does.
            let next = threshold.clone() * (1.0 - 2.0 * f64::from(f32::EPSILON)) + gap;
            let more = from(next);
            // Of those that are as likely as the threshold, the first.
            let equal = from(threshold) - more.clone();
            let before = more.clone().sum_dim(1) + cumulative(equal.clone()) - equal.clone();
            weights = more + equal.mask_fill(before.greater_equal(wanted), 0.0);
        }
        let sums = cumulative(weights);
        let limit = sums.clone().narrow(1, tokens - 1, 1) * uniforms;
        sums.lower_equal(limit).int().sum_dim(1).squeeze_dim(1)
    }

    /// The largest log weight, 0 at most, from which upwards the weights still sum up to `wanted`, to within the
    /// gap that is returned with it.
    ///
    /// - `log_weights`, `weights`: `[rows, tokens]`
    /// - `wanted` and the result: `[rows, 1]`
    fn threshold(
        &self,
        log_weights: &Tensor<2>,
        weights: Tensor<2>,
        wanted: Tensor<2>,
    ) -> (Tensor<2>, f64) {
        let log_weights = log_weights.clone().unsqueeze_dim::<3>(1);
        let weights = weights.unsqueeze_dim::<3>(1);
        let mut threshold = wanted.full_like(MIN_LOG_WEIGHT);
        let mut gap = GAP;
        for _ in 0..ROUNDS {
            gap /= PARTS as f64;
            let candidates = threshold.clone() + self.parts.clone() * gap;
            let above = log_weights
                .clone()
                .greater_equal(candidates.unsqueeze_dim(2));
            let sums = (above.float() * weights.clone())
                .sum_dim(2)
                .squeeze_dim::<2>(2);
            let enough = sums.greater_equal(wanted.clone()).float().sum_dim(1);
            threshold = threshold + enough * gap;
        }
        (threshold.clamp_max(0.0), gap)
    }
}

/// The sum of each number of a row and those before it. In two levels, because a GPU finds each sum from
/// the start. Never decreasing where no number is negative.
fn cumulative(x: Tensor<2>) -> Tensor<2> {
    let [rows, count] = x.dims();
    let divides = |width: &usize| count.is_multiple_of(*width);
    let width = (1..=count.isqrt()).rev().find(divides).unwrap_or(1);
    let blocks = count / width;
    let within = x.reshape([rows, blocks, width]).cumsum(2);
    let sums = within.clone().narrow(2, width - 1, 1);
    let first = sums.clone().narrow(1, 0, 1).zeros_like();
    let before = Tensor::cat(vec![first, sums], 1).cumsum(1);
    let before = before.narrow(1, 0, blocks);
    (within + before).reshape([rows, count])
}

fn floats(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn sampling(temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> Sampling {
        Sampling {
            temperature,
            top_k,
            top_p,
        }
    }

    /// Logits as models have them, with equal ones among them, and with some that are impossible.
    fn logits(random: &mut ChaCha8Rng, tokens: usize) -> Vec<f32> {
        let spread = 10f32.powf(random.random_range(-2.0..1.5));
        let grain = [None, Some(spread / 2.0), Some(spread / 50.0)][random.random_range(0..3)];
        let impossible = [0.0, 0.0, 0.3, 0.95][random.random_range(0..4)];
        let mut logits: Vec<f32> = (0..tokens)
            .map(|_| {
                let number = spread * (0..4).map(|_| random.random_range(-1f32..1.0)).sum::<f32>();
                if random.random_bool(impossible) {
                    f32::NEG_INFINITY
                } else {
                    grain.map_or(number, |grain| (number / grain).round() * grain)
                }
            })
            .collect();
        let possible = random.random_range(0..tokens);
        logits[possible] = logits[possible].max(-spread);
        logits
    }

    /// What the device chooses from one row.
    fn chosen(sampling: Sampling, logits: &[f32], uniform: f64) -> usize {
        let device = Device::flex();
        let mut sampler = DeviceSampler::new(sampling, 0, 0..1, &device);
        let uniform = (uniform as f32).min(1.0 - f32::EPSILON / 2.0);
        sampler.uniforms = floats(vec![uniform; AHEAD], [1, AHEAD], &device);
        sampler.used = 0;
        let logits = floats(logits.to_vec(), [1, logits.len()], &device);
        let token = sampler.sample(logits).into_scalar::<i64>();
        sampler.check().unwrap();
        token as usize
    }

    /// What the host chooses, and what it would if some number were rounded otherwise.
    fn near(sampling: Sampling, logits: &[f32], uniform: f64) -> Vec<usize> {
        let shifts = [0.0, -2e-5, 2e-5];
        let of = |p: f64, u: f64| {
            let sampling = Sampling {
                top_p: sampling.top_p.map(|top_p| (top_p + p).clamp(1e-9, 1.0)),
                ..sampling
            };
            let uniform = (uniform + u).clamp(0.0, 1.0 - 1e-9);
            sampling.choose(logits, uniform).unwrap()
        };
        shifts
            .iter()
            .flat_map(|p| shifts.iter().map(move |u| (*p, *u)))
            .map(|(p, u)| of(p, u))
            .collect()
    }

    #[test]
    fn the_choice_of_the_host() {
        let random = &mut ChaCha8Rng::seed_from_u64(7);
        let (mut rounded, mut all) = (0, 0);
        for tokens in [1, 2, 7, 61, 512, 1000] {
            for _ in 0..300 {
                let logits = logits(random, tokens);
                let sampling = sampling(
                    [0.0, 0.01, 0.7, 1.0, 1.0, 3.0][random.random_range(0..6)],
                    [None, Some(1), Some(5), Some(tokens), Some(300), Some(9999)]
                        [random.random_range(0..6)],
                    [None, Some(1.0), Some(0.96), Some(0.5), Some(1e-6)][random.random_range(0..5)],
                );
                let uniform = random.random();
                let found = chosen(sampling, &logits, uniform);
                let expected = near(sampling, &logits, uniform);
                assert!(
                    expected.contains(&found),
                    "{sampling:?} {uniform}: {found} of {tokens}, not {expected:?}"
                );
                rounded += usize::from(found != expected[0]);
                all += 1;
            }
        }
        assert!(200 * rounded < all, "{rounded} of {all} differ by rounding");
    }

    #[test]
    fn equal_tokens_are_kept_as_the_host_keeps_them() {
        let half = sampling(1.0, None, Some(0.5));
        let few = sampling(1.0, Some(1), None);
        for (sampling, logits) in [
            (half, vec![1.0; 4]),
            (half, vec![0.0, 2.0, 2.0, 2.0, -1.0, 2.0]),
            (few, vec![1.0, 3.0, 3.0, 2.0]),
            (sampling(1.0, Some(3), Some(0.999)), vec![5.0; 9]),
            (Sampling::GREEDY, vec![1.0, 3.0, 3.0]),
        ] {
            for uniform in [0.0, 0.1, 0.3, 0.49, 0.51, 0.7, 0.9, 1.0 - 1e-12] {
                let expected = sampling.choose(&logits, uniform).unwrap();
                assert_eq!(chosen(sampling, &logits, uniform), expected, "{uniform}");
            }
        }
    }

    /// Never a token that a filter has removed, whatever the random number.
    #[test]
    fn the_last_random_number_chooses_a_possible_token() {
        let none = f32::NEG_INFINITY;
        let logits = [none, 0.0, none, -3.0, none, none];
        for extreme in [1e-300, 1e-3, 1.0, 1e300] {
            let found = chosen(sampling(extreme, None, None), &logits, 1.0);
            assert!([1, 3].contains(&found), "{extreme}: {found}");
        }
    }

    #[test]
    fn rows_follow_the_streams_of_the_seed() {
        let (device, random) = (Device::flex(), &mut ChaCha8Rng::seed_from_u64(1));
        let mut on_host = Sampler::rows(Sampling::VISUAL, 3, 5..8);
        let mut on_device = DeviceSampler::new(Sampling::VISUAL, 3, 5..8, &device);
        let mut different = 0;
        for _ in 0..AHEAD + 100 {
            let rows: Vec<f32> = (0..3 * 16)
                .map(|_| random.random_range(-2.0..2.0))
                .collect();
            let found = on_device.sample(floats(rows.clone(), [3, 16], &device));
            let found: Vec<i64> = found.into_data().iter().collect();
            let expected = on_host.iter_mut().zip(rows.chunks(16));
            let expected = expected.map(|(row, logits)| row.sample(logits).unwrap() as i64);
            different += expected.zip(&found).filter(|(e, f)| e != *f).count();
        }
        assert!(different < 4, "{different} tokens differ");
    }

    #[test]
    fn logits_that_are_not_numbers_are_noticed() {
        let device = Device::flex();
        for sampling in [Sampling::VISUAL, Sampling::GREEDY] {
            for (logits, fine) in [
                ([0.0, 1.0, f32::NEG_INFINITY], true),
                ([0.0, f32::NAN, 1.0], false),
                ([0.0, f32::INFINITY, 1.0], false),
                ([f32::NEG_INFINITY; 3], false),
            ] {
                let mut sampler = DeviceSampler::new(sampling, 0, 0..2, &device);
                for logits in [vec![0.0; 6], [[1.0; 3], logits].concat(), vec![0.0; 6]] {
                    let tokens = sampler.sample(floats(logits, [2, 3], &device));
                    let tokens: Vec<i64> = tokens.into_data().iter().collect();
                    assert!(tokens.iter().all(|token| (0..3).contains(token)));
                }
                assert_eq!(sampler.check().is_ok(), fine, "{logits:?}");
            }
        }
    }
}
