//! Mean and covariance of features that pass by once.

use vila_u_kernels::covariance::add_products;

use super::Gaussian;
use crate::{Error, Result};

/// Sums over features, in f64: their number decides about time, not about memory.
#[derive(Clone, Debug)]
pub struct FeatureStatistics {
    n: usize,
    mean: Vec<f64>,
    /// `sum (x - mean) (x - mean)^T`, row-major
    scatter: Vec<f64>,
}

impl FeatureStatistics {
    /// Of vectors of so many channels.
    pub fn new(channels: usize) -> Self {
        Self {
            n: 0,
            mean: vec![0.0; channels],
            scatter: vec![0.0; channels * channels],
        }
    }

    /// How many vectors there were.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Adds vectors, `[n, channels]` row by row.
    ///
    /// # Errors
    /// When one of the numbers is none: the weights or the picture are damaged.
    pub fn add(&mut self, features: &[f32]) -> Result<()> {
        if features.iter().any(|value| !value.is_finite()) {
            return Err(Error::failed(
                "the network's features are not finite: its weights are damaged",
            ));
        }
        let channels = self.mean.len();
        let rows = features.len() / channels;
        if rows == 0 {
            return Ok(());
        }
        let mut mean = vec![0.0; channels];
        for row in features.chunks_exact(channels) {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += f64::from(*value) / rows as f64;
            }
        }
        let apart = (features.iter().zip(mean.iter().cycle()))
            .map(|(value, mean)| f64::from(*value) - mean);
        self.combine(rows, &mean, apart.collect());
        Ok(())
    }

    /// As if the vectors of `other` had been added.
    pub fn merge(&mut self, other: &Self) {
        if other.n > 0 {
            self.combine(other.n, &other.mean, Vec::new());
            for (sum, other) in self.scatter.iter_mut().zip(&other.scatter) {
                *sum += other;
            }
        }
    }

    /// Takes `n` more vectors of this mean in, which are so far apart from it: the scatter of all is the sum of both and of
    /// how far the means are apart (Chan, Golub and LeVeque 1983).
    fn combine(&mut self, n: usize, mean: &[f64], mut apart: Vec<f64>) {
        let (before, more) = (self.n as f64, n as f64);
        let weight = (before * more / (before + more)).sqrt();
        let means = self.mean.iter().zip(mean);
        apart.extend(means.map(|(old, new)| weight * (new - old)));
        add_products(&mut self.scatter, &apart, self.mean.len());
        for (old, new) in self.mean.iter_mut().zip(mean) {
            *old += (new - *old) * more / (before + more);
        }
        self.n += n;
    }

    /// Everything that was added: `n`, the mean and the scatter.
    pub(crate) fn sums(&self) -> Vec<f64> {
        let mut sums = vec![self.n as f64];
        sums.extend(&self.mean);
        sums.extend(&self.scatter);
        sums
    }

    /// Takes what others of as many channels had; None of another number.
    pub(crate) fn restore(&mut self, sums: &[f64]) -> Option<()> {
        let (n, rest) = sums.split_first()?;
        let (mean, scatter) = rest.split_at_checked(self.mean.len())?;
        if scatter.len() != self.scatter.len() {
            return None;
        }
        self.n = *n as usize;
        self.mean.copy_from_slice(mean);
        self.scatter.copy_from_slice(scatter);
        Some(())
    }

    /// Mean and covariance (over `n - 1`).
    ///
    /// # Errors
    /// Of fewer than two vectors.
    pub fn gaussian(&self) -> Result<Gaussian> {
        if self.n < 2 {
            return Err(Error::failed(format!(
                "FID needs at least two pictures on each side, and here are {}",
                self.n
            )));
        }
        let factor = 1.0 / (self.n - 1) as f64;
        Ok(Gaussian {
            mean: self.mean.clone(),
            covariance: self.scatter.iter().map(|sum| sum * factor).collect(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CHANNELS: usize = 5;

    fn features(n: usize) -> Vec<f32> {
        (0..n * CHANNELS)
            .map(|at| (at * at % 97) as f32 + 1000.0)
            .collect()
    }

    fn close(a: &Gaussian, b: &Gaussian) {
        for (a, b) in a.mean.iter().zip(&b.mean) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
        for (a, b) in a.covariance.iter().zip(&b.covariance) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
    }

    #[test]
    fn parts_give_what_all_at_once_give() {
        let features = features(23);
        let mut all = FeatureStatistics::new(CHANNELS);
        all.add(&features).unwrap();
        let expected = all.gaussian().unwrap();
        let mut parts = FeatureStatistics::new(CHANNELS);
        for part in features.chunks(3 * CHANNELS) {
            parts.add(part).unwrap();
        }
        close(&parts.gaussian().unwrap(), &expected);
        let (first, second) = features.split_at(7 * CHANNELS);
        let mut merged = FeatureStatistics::new(CHANNELS);
        for part in [first, second] {
            let mut statistics = FeatureStatistics::new(CHANNELS);
            statistics.add(part).unwrap();
            merged.merge(&statistics);
        }
        assert_eq!(merged.n(), 23);
        close(&merged.gaussian().unwrap(), &expected);
        let mut restored = FeatureStatistics::new(CHANNELS);
        assert!(restored.restore(&all.sums()).is_some());
        assert_eq!(restored.gaussian().unwrap(), expected);
        assert!(restored.restore(&[1.0]).is_none());
        // By the definition, one pair of channels.
        let column = |at: usize| {
            features
                .iter()
                .skip(at)
                .step_by(CHANNELS)
                .map(|x| f64::from(*x))
        };
        let mean = |at: usize| column(at).sum::<f64>() / 23.0;
        let products = column(1)
            .zip(column(3))
            .map(|(x, y)| (x - mean(1)) * (y - mean(3)));
        let covariance = products.sum::<f64>() / 22.0;
        assert!((expected.covariance[CHANNELS + 3] - covariance).abs() < 1e-9);
    }

    #[test]
    fn damaged_features_and_single_pictures_are_errors() {
        let mut statistics = FeatureStatistics::new(1);
        assert!(statistics.add(&[f32::NAN]).is_err());
        statistics.add(&[1.0]).unwrap();
        assert!(statistics.gaussian().is_err());
        statistics.add(&[]).unwrap();
        assert_eq!(statistics.n(), 1);
    }
}
