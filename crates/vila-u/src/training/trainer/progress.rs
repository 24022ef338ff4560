//! How a run is started, watched and stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::training::distributed::ProcessGroup;

/// How a run is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Go on from the newest checkpoint in the run folder.
    pub resume: bool,
    /// The git revision that the program was built from, to be noted in the run folder.
    pub revision: Option<String>,
    /// The processes that train together.
    pub process_group: ProcessGroup,
}

/// Watches and stops a run.
pub struct Watch {
    /// Called after every step.
    pub progress: Box<dyn FnMut(&Progress)>,
    /// Set it (from a signal handler, say) to save a checkpoint and stop.
    pub stop: Arc<AtomicBool>,
}

/// Where a run stands after a step.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Steps done, of `steps`.
    pub step: u64,
    pub steps: u64,
    /// Index of the stage, from 0.
    pub stage: usize,
    /// Everything recorded for this step: losses by name, learning rate, gradient norm, and the
    /// evaluation if there was one.
    pub metrics: BTreeMap<String, f64>,
    /// Over the last steps, without evaluations, samples and checkpoints.
    pub throughput: Throughput,
    pub time_left: Duration,
}

/// How fast a step goes, and what of its time it only waits for data.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    pub seconds: f64,
    pub samples: f64,
    /// Positions that the model reads, of text and pictures.
    pub tokens: f64,
    /// Seconds.
    pub waiting: f64,
}

impl Throughput {
    pub fn samples_per_second(&self) -> f64 {
        self.samples / self.seconds
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.tokens / self.seconds
    }

    /// Share of the time, 0 to 1.
    pub fn waiting(&self) -> f64 {
        self.waiting / self.seconds
    }

    /// The moving average over steps.
    pub(super) fn average(before: Self, now: Self) -> Self {
        let average = |before: f64, now: f64| 0.95 * before + 0.05 * now;
        Self {
            seconds: average(before.seconds, now.seconds),
            samples: average(before.samples, now.samples),
            tokens: average(before.tokens, now.tokens),
            waiting: average(before.waiting, now.waiting),
        }
    }
}
