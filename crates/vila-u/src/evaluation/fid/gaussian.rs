//! The Fréchet distance of two normal distributions.

use vila_u_kernels::covariance::root_trace;

use crate::{Error, Result};

/// What FID keeps of a set of pictures: mean and covariance of their features.
#[derive(Clone, Debug, PartialEq)]
pub struct Gaussian {
    pub mean: Vec<f64>,
    /// `[channels, channels]`, symmetric
    pub covariance: Vec<f64>,
}

impl Gaussian {
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// `|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))`
    ///
    /// # Errors
    /// A usage error where the features are of different layers, a failure where the eigenvalues do not converge.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        let channels = self.channels();
        if channels != other.channels() {
            return Err(Error::usage(format!(
                "statistics of {channels} features and of {} cannot be compared: take both of one layer",
                other.channels()
            )));
        }
        let root = root_trace(&self.covariance, &other.covariance, channels);
        let root = root.ok_or_else(|| Error::failed("the covariances have no eigenvalues"))?;
        let apart: f64 = (self.mean.iter().zip(&other.mean))
            .map(|(a, b)| (a - b) * (a - b))
            .sum();
        Ok(apart + self.trace() + other.trace() - 2.0 * root)
    }

    /// Of the covariance.
    fn trace(&self) -> f64 {
        self.covariance.iter().step_by(self.channels() + 1).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn diagonal(mean: [f64; 2], variances: [f64; 2]) -> Gaussian {
        Gaussian {
            mean: mean.to_vec(),
            covariance: vec![variances[0], 0.0, 0.0, variances[1]],
        }
    }

    #[test]
    fn independent_channels_have_the_distance_of_their_deviations() {
        let (a, b) = (
            diagonal([0.0, 1.0], [4.0, 9.0]),
            diagonal([2.0, 1.0], [1.0, 0.0]),
        );
        // 2^2 + (2 - 1)^2 + (3 - 0)^2
        for (a, b) in [(&a, &b), (&b, &a)] {
            assert!((a.distance(b).unwrap() - 14.0).abs() < 1e-12);
        }
        assert!(a.distance(&a).unwrap().abs() < 1e-12);
        let one = Gaussian {
            mean: vec![0.0],
            covariance: vec![0.0],
        };
        let error = a.distance(&one).unwrap_err().to_string();
        assert!(error.contains("one layer"), "{error}");
    }
}
