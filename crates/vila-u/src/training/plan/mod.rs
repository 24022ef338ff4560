//! What a run takes, from sizes alone: parameters trained and frozen, tokens a step, and memory by what
//! it is for. No weight is read.
//!
//! Weights, gradients and moments are exact. Activations are an estimate (`activations.rs`).

mod activations;
mod memory;
mod parameters;
mod samples;
mod savings;
mod stage;

use burn::tensor::Device;
use serde::Serialize;

use super::model::initial;
use super::recipe::{Recipe, Stage};
use crate::memory::{free, in_words};
use crate::sequence::Sample;
use crate::{Error, Result};
pub use memory::MemoryNeed;
pub use parameters::PartPlan;
use savings::memory_savings;
pub use stage::StagePlan;

/// What a run has.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Bytes of the device, where it is not to be asked.
    pub memory: Option<u64>,
    pub ranks: u64,
    /// Of these on this machine.
    pub here: u64,
}

/// All the memory there is, for one rank.
impl Default for Resources {
    fn default() -> Self {
        Self {
            memory: None,
            ranks: 1,
            here: 1,
        }
    }
}

/// What a run takes.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub stages: Vec<StagePlan>,
    /// Bytes that are free where the model will be; none where nobody knows.
    pub free: Option<u64>,
    /// Changes to the recipe that are not made yet, and the bytes of the largest stage with each and
    /// with all up to it.
    pub remedies: Vec<(String, u64)>,
}

impl Plan {
    /// Reads sizes, and of the data as much as it takes to know how long samples are, if it is there.
    ///
    /// # Errors
    /// When the sizes are not known, or do not fit together.
    pub fn measured(recipe: &Recipe, device: &Device, resources: &Resources) -> Result<Self> {
        Self::new(recipe, device, resources, true)
    }

    fn new(recipe: &Recipe, device: &Device, resources: &Resources, look: bool) -> Result<Self> {
        let sizes = initial::sizes(recipe)?;
        let gpu = !crate::device::is_cpu(device);
        let samples = |stage: &Stage| {
            if look {
                samples::first(recipe, &stage.objective)
            } else {
                Vec::new()
            }
        };
        let samples: Vec<Vec<Sample>> = recipe.stages.iter().map(samples).collect();
        let stages = |recipe: &Recipe| -> Vec<StagePlan> {
            let ends = recipe.stage_ends();
            let starts = [0].into_iter().chain(ends.iter().copied());
            let steps = ends.iter().zip(starts).map(|(end, start)| end - start);
            let stages = recipe.stages.iter().zip(steps).zip(&samples);
            let plan = |((stage, steps), samples): ((&Stage, u64), &Vec<Sample>)| {
                StagePlan::new(recipe, stage, steps, &sizes, samples, gpu).on(resources, gpu)
            };
            stages.map(plan).collect()
        };
        let largest = |stages: &[StagePlan]| {
            let totals = stages.iter().map(|stage| stage.memory.total());
            totals.max().unwrap_or(0)
        };
        let mut remedies = Vec::new();
        let mut changed = recipe.clone();
        for (name, change) in memory_savings(recipe) {
            change(&mut changed);
            remedies.push((name, largest(&stages(&changed))));
        }
        Ok(Self {
            stages: stages(recipe),
            free: resources.memory.or_else(|| free(device)),
            remedies,
        })
    }

    /// One error that says what to change, where the run cannot fit.
    ///
    /// # Errors
    /// When it takes more memory than is free.
    pub fn check(&self) -> Result<()> {
        for stage in &self.stages {
            fits(&stage.memory, self.free, &self.remedies)?;
        }
        Ok(())
    }
}

fn fits(memory: &MemoryNeed, free: Option<u64>, remedies: &[(String, u64)]) -> Result<()> {
    let Some(free) = free.filter(|free| memory.total() > *free) else {
        return Ok(());
    };
    let remedies: Vec<String> = remedies
        .iter()
        .map(|(name, bytes)| format!("{name} ({})", in_words(*bytes)))
        .collect();
    let remedies = if remedies.is_empty() {
        "use a machine with more".to_string()
    } else {
        format!("with {}", remedies.join(", then "))
    };
    Err(Error::failed(format!(
        "this run needs about {} of memory (weights {}, gradients {}, optimizer {}, activations {}), and there are {} \
         free: {remedies}",
        in_words(memory.total()),
        in_words(memory.weights),
        in_words(memory.gradients),
        in_words(memory.optimizer),
        in_words(memory.activations),
        in_words(free),
    )))
}

/// Refuses a run that cannot fit, before anything is loaded.
///
/// # Errors
/// As [`Plan::measured`] and [`Plan::check`].
pub fn check(recipe: &Recipe, device: &Device, resources: &Resources) -> Result<()> {
    // What fits even with the longest samples needs no look at the data.
    match Plan::new(recipe, device, resources, false)?.check() {
        Ok(()) => Ok(()),
        Err(_) => Plan::measured(recipe, device, resources)?.check(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
