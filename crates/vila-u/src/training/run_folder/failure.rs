//! A run that must not go on: a loss or gradient that is not finite, or a loss spike. It is told by step, by
//! losses and by the samples it happened on, so that these can be looked at.
//!
//! A loss is a spike when `loss > loss_spike_factor * (1 + |mean of the last 100 losses|)`: losses here are of
//! the order of 1, and those near 0 may well be ten times their mean on a hard batch.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, atomic};

/// Losses in the mean, and those at least.
const WINDOW: usize = 100;
const ENOUGH: usize = 20;
/// Samples named in the message; all are in the file.
const NAMED: usize = 4;

const NAME: &str = "failed.json";

/// Where a sample is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The path of its source, or what the source is called that has none.
    pub source: String,
    pub shard: PathBuf,
    pub key: String,
}

/// What `failed.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The step that was not taken.
    pub step: u64,
    /// What became of what.
    pub reason: String,
    /// Of the step so far, by name, as text: JSON has no NaN.
    pub losses: BTreeMap<String, String>,
    /// Those it happened on.
    pub samples: Vec<Origin>,
}

impl Failure {
    pub(crate) fn new(
        step: u64,
        reason: String,
        losses: &BTreeMap<String, f64>,
        samples: &[Origin],
    ) -> Self {
        let as_text = |(name, value): (&String, &f64)| (name.clone(), value.to_string());
        Self {
            step,
            reason,
            losses: losses.iter().map(as_text).collect(),
            samples: samples.to_vec(),
        }
    }

    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self);
        let json = json.map_err(|error| Error::failed(error.to_string()))?;
        atomic::write(&out.join(NAME), &json)
    }

    /// The first samples, for a message.
    pub(crate) fn named(&self) -> String {
        let name = |origin: &Origin| format!("{} of {}", origin.key, origin.shard.display());
        let mut names: Vec<String> = self.samples.iter().take(NAMED).map(name).collect();
        match self.samples.len().saturating_sub(NAMED) {
            0 => {}
            more => names.push(format!("{more} more")),
        }
        names.join(", ")
    }
}

/// Removes what an earlier failure left in a run folder, if anything.
pub(crate) fn remove(out: &Path) -> Result<()> {
    let path = out.join(NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(&path)(error)),
        _ => Ok(()),
    }
}

/// The losses of the last steps.
#[derive(Default)]
pub(crate) struct RecentLosses(VecDeque<f64>);

impl RecentLosses {
    /// The loss above which one is a spike; none is before there are enough.
    pub(crate) fn spike_limit(&self, factor: f64) -> f64 {
        let count = self.0.len();
        if count < ENOUGH {
            return f64::INFINITY;
        }
        factor * (1.0 + (self.0.iter().sum::<f64>() / count as f64).abs())
    }

    pub(crate) fn push(&mut self, loss: f64) {
        self.0.push_back(loss);
        if self.0.len() > WINDOW {
            self.0.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

impl FromIterator<f64> for RecentLosses {
    fn from_iter<I: IntoIterator<Item = f64>>(losses: I) -> Self {
        let mut recent = Self::default();
        losses.into_iter().for_each(|loss| recent.push(loss));
        recent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_one_against_the_last_losses_only() {
        let few: RecentLosses = (0..19).map(|_| 1.0).collect();
        assert_eq!(few.spike_limit(5.0), f64::INFINITY);
        let falling: RecentLosses = (0..200).map(|n| if n < 100 { 1e9 } else { 3.0 }).collect();
        assert!((falling.spike_limit(5.0) - 20.0).abs() < 1e-9);
        let near_zero: RecentLosses = (0..50).map(|_| 1e-3).collect();
        assert!(near_zero.spike_limit(5.0) > 5.0);
        let negative: RecentLosses = (0..50).map(|_| -2.0).collect();
        assert!((negative.spike_limit(5.0) - 15.0).abs() < 1e-9);
    }

    #[test]
    fn messages_name_the_first_samples() {
        let origin = |n: u32| Origin {
            source: "laion/*.tar".into(),
            shard: "laion/0.tar".into(),
            key: n.to_string(),
        };
        let failure = |count| Failure {
            step: 1,
            reason: String::new(),
            losses: BTreeMap::new(),
            samples: (0..count).map(origin).collect(),
        };
        assert_eq!(failure(2).named(), "0 of laion/0.tar, 1 of laion/0.tar");
        assert!(failure(9).named().ends_with(", 5 more"));
    }
}
