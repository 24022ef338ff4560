//! A measured number with its 95 % confidence interval.

use std::fmt;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// A number measured on `n` things: with 95 % confidence it is between `low` and `high`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    pub n: usize,
}

impl fmt::Display for Estimate {
    /// "0.912 [0.871, 0.941], n = 200"
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            value,
            low,
            high,
            n,
        } = self;
        write!(f, "{value:.3} [{low:.3}, {high:.3}], n = {n}")
    }
}

/// The part of `n` trials that succeeded, with Wilson's score interval.
pub fn share(successes: usize, n: usize) -> Estimate {
    const Z: f64 = 1.959_963_984_540_054;
    let trials = n as f64;
    let value = successes as f64 / trials;
    let scale = 1.0 / (1.0 + Z * Z / trials);
    let middle = scale * (value + Z * Z / (2.0 * trials));
    let spread =
        scale * Z * (value * (1.0 - value) / trials + Z * Z / (4.0 * trials * trials)).sqrt();
    Estimate {
        value,
        low: (middle - spread).max(0.0),
        high: (middle + spread).min(1.0),
        n,
    }
}

/// The mean of the values, with the percentile bootstrap interval (2,000 resamples, fixed seed).
pub fn mean(values: &[f64]) -> Estimate {
    bootstrap(values.len(), |sample| {
        sample.iter().map(|index| values[*index]).sum::<f64>() / sample.len() as f64
    })
}

/// The mean over all members of groups, each the sum of its members and their number, with the percentile bootstrap
/// interval over the groups (2,000 resamples, fixed seed): the words of one answer are no independent measurements. `n`
/// counts the groups.
pub fn mean_of_groups(groups: &[(f64, usize)]) -> Estimate {
    bootstrap(groups.len(), |sample| {
        let groups = sample.iter().map(|index| groups[*index]);
        let (sum, members) = groups.fold((0.0, 0), |(sum, all), (x, n)| (sum + x, all + n));
        sum / members as f64
    })
}

/// What `statistic` says of `n` things, given by their numbers, with the percentile bootstrap interval (2,000 resamples,
/// fixed seed).
pub fn bootstrap(n: usize, statistic: impl Fn(&[usize]) -> f64) -> Estimate {
    const RESAMPLES: usize = 2000;
    let mut sample: Vec<usize> = (0..n).collect();
    let value = statistic(&sample);
    let (mut low, mut high) = (value, value);
    if n > 0 {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut resampled: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                sample.fill_with(|| rng.random_range(0..n));
                statistic(&sample)
            })
            .collect();
        resampled.sort_by(f64::total_cmp);
        let at = |part: f64| resampled[(part * (RESAMPLES - 1) as f64).round() as usize];
        (low, high) = (at(0.025), at(0.975));
    }
    Estimate {
        value,
        low,
        high,
        n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_wilson_intervals() {
        // statsmodels: proportion_confint(45, 50, method="wilson")
        let Estimate {
            value,
            low,
            high,
            n,
        } = share(45, 50);
        assert_eq!((value, n), (0.9, 50));
        assert!(
            (low - 0.786_397_7).abs() < 1e-6 && (high - 0.956_524_2).abs() < 1e-6,
            "{low} {high}"
        );
        assert!(share(0, 10).low < 1e-9 && share(10, 10).high > 1.0 - 1e-9);
    }

    #[test]
    fn means_have_bootstrap_intervals() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let Estimate {
            value, low, high, ..
        } = mean(&values);
        assert_eq!(value, 9.5);
        // The normal approximation: 1.96 * 5.766 / sqrt(400).
        assert!((value - low - 0.565).abs() < 0.06 && (high - value - 0.565).abs() < 0.06);
        assert_eq!(mean(&[2.0, 2.0]).low, 2.0);
        assert!(mean(&[]).value.is_nan());
    }

    #[test]
    fn groups_are_resampled_whole() {
        // Ten groups of 100 equal members: as uncertain as ten values.
        let groups: Vec<_> = (0..10).map(|i| (100.0 * f64::from(i), 100)).collect();
        let values: Vec<f64> = (0..10).map(f64::from).collect();
        assert_eq!(mean_of_groups(&groups), mean(&values));
        let uneven = mean_of_groups(&[(1.0, 1), (12.0, 3)]);
        assert_eq!((uneven.value, uneven.n), (13.0 / 4.0, 2));
        assert_eq!((uneven.low, uneven.high), (1.0, 4.0));
    }
}
