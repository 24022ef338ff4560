//! From logits to one token: temperature, then top-k, then top-p (nucleus), then one sample.
//!
//! A choice is a function of the logits and of one number in 0..1, which comes from a ChaCha generator of
//! the host, so that a seed gives the same choice on every device. This is the choice on the host, in double
//! precision; `device_sampling.rs` is the same where the logits are.

use std::ops::Range;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// How a token is chosen from its logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 always takes the most likely token.
    pub temperature: f64,
    /// Only the k most likely tokens, and those exactly as likely as the k-th, may be sampled. More
    /// than there are is the same as None.
    pub top_k: Option<usize>,
    /// Of what top-k left, only the fewest most likely tokens whose probabilities reach p together.
    pub top_p: Option<f64>,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: None,
        top_p: None,
    };

    /// What the released model samples visual codes with.
    pub const VISUAL: Self = Self {
        temperature: 1.0,
        top_k: Some(900),
        top_p: Some(0.96),
    };

    /// A usage error unless every number is in its range.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::usage(format!(
                "temperature {} must be 0 (greedy) or more",
                self.temperature
            )));
        }
        if self.top_k == Some(0) {
            return Err(Error::usage("top-k must be at least 1"));
        }
        match self.top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => Err(Error::usage(format!(
                "top-p {p} must be above 0 and at most 1"
            ))),
            _ => Ok(()),
        }
    }

    /// The tokens that may be sampled from `logits`, in order of their ids, with their probabilities.
    ///
    /// Fails when the logits are not numbers.
    pub fn distribution(&self, logits: &[f32]) -> Result<Vec<(usize, f64)>> {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !best.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
            return Err(not_numbers());
        }
        if self.temperature == 0.0 {
            let first = logits.iter().position(|&logit| logit == best);
            return Ok(first.map(|token| (token, 1.0)).into_iter().collect());
        }
        let least = match self.top_k {
            Some(k) if k < logits.len() => {
                let mut sorted = logits.to_vec();
                *sorted
                    .select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a))
                    .1
            }
            _ => f32::NEG_INFINITY,
        };
        let likelihood = |logit: f32| ((logit - best) as f64 / self.temperature).exp();
        let mut tokens: Vec<(usize, f64)> = logits
            .iter()
            .enumerate()
            .filter(|(_, logit)| **logit >= least)
            .map(|(token, logit)| (token, likelihood(*logit)))
            .collect();
        let mut total: f64 = tokens.iter().map(|t| t.1).sum();
        if let Some(p) = self.top_p.filter(|p| *p < 1.0) {
            tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
            let mut reached = 0.0;
            let kept = tokens.iter().position(|t| {
                reached += t.1;
                reached >= p * total
            });
            if let Some(last) = kept {
                tokens.truncate(last + 1);
                total = reached;
            }
            tokens.sort_unstable_by_key(|t| t.0);
        }
        for token in &mut tokens {
            token.1 /= total;
        }
        Ok(tokens)
    }

    /// The first token, in order of the ids, at which the probabilities sum up to more than `uniform`, in
    /// 0..1. Fails when the logits are not numbers.
    pub(crate) fn choose(&self, logits: &[f32], uniform: f64) -> Result<usize> {
        let tokens = self.distribution(logits)?;
        let mut left = uniform;
        for (token, probability) in &tokens {
            left -= probability;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        // Rounding can leave a sliver above the last probability.
        Ok(tokens.last().map_or(0, |t| t.0))
    }
}

pub(super) fn not_numbers() -> Error {
    Error::failed(
        "the model's logits are not numbers: the weights are damaged or too large for their type",
    )
}

/// Samples the tokens of one row.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// Every row has a random stream of its own: what it samples does not depend on how many rows
    /// there are.
    pub fn new(sampling: Sampling, seed: u64, row: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(row as u64);
        Self { sampling, random }
    }

    /// One sampler for each of `rows`.
    pub(crate) fn rows(sampling: Sampling, seed: u64, rows: Range<usize>) -> Vec<Self> {
        rows.map(|row| Self::new(sampling, seed, row)).collect()
    }

    /// Samples one of `logits.len()` tokens. Fails when the logits are not numbers.
    pub fn sample(&mut self, logits: &[f32]) -> Result<usize> {
        let uniform = self.uniform();
        self.sampling.choose(logits, uniform)
    }

    /// What the next choice is made with: one number for each, whatever there is to choose from.
    pub(super) fn uniform(&mut self) -> f64 {
        self.random.random()
    }
}
