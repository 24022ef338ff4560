//! How often a case is run.

use std::time::Instant;

use burn::tensor::Device;

use super::Watch;
use crate::{Error, Result};

/// When there are enough runs of a case.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// So many runs and seconds at least,
    runs: usize,
    seconds: f64,
    /// but after so many seconds two runs are enough.
    long: f64,
}

impl Effort {
    pub(super) const FULL: Self = Self {
        runs: 5,
        seconds: 1.0,
        long: 20.0,
    };
    /// For points of a curve.
    pub(super) const SHORT: Self = Self {
        runs: 3,
        seconds: 0.3,
        long: 6.0,
    };
}

/// Seconds of every run after a first one that does not count.
///
/// # Errors
/// Those of `work`, and [`Error::Interrupted`] when stopped.
pub(super) fn times(
    device: &Device,
    watch: &Watch,
    effort: Effort,
    mut work: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut clock = || {
        watch.check()?;
        let start = Instant::now();
        work()?;
        synchronize(device)?;
        Ok::<_, Error>(start.elapsed().as_secs_f64())
    };
    clock()?;
    let mut times = Vec::new();
    let mut sum = 0.0;
    let Effort {
        runs,
        seconds,
        long,
    } = effort;
    while (times.len() < runs || sum < seconds) && (times.len() < 2 || sum < long) {
        let run = clock()?;
        times.push(run);
        sum += run;
    }
    Ok(times)
}

/// The seconds of the fastest run.
pub(super) fn best(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Waits until the device has done everything it was asked to.
pub(super) fn synchronize(device: &Device) -> Result<()> {
    device
        .sync()
        .map_err(|error| Error::failed(format!("waiting for the device: {error}")))
}
