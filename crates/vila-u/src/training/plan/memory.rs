//! The memory of a stage by what it is for.

use serde::Serialize;

use super::parameters::ParameterCount;
use crate::training::losses::lpips;
use crate::training::recipe::{Objective, Recipe, Stage};
use crate::training::trainer::microbatch_pool::parallel_batches;

/// Bytes of a number.
const F32: u64 = 4;

/// Bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct MemoryNeed {
    pub weights: u64,
    pub gradients: u64,
    /// The optimizer's moments.
    pub optimizer: u64,
    pub activations: u64,
}

impl MemoryNeed {
    pub(super) fn times(&mut self, count: u64) {
        let Self {
            weights,
            gradients,
            optimizer,
            activations,
        } = self;
        for bytes in [weights, gradients, optimizer, activations] {
            *bytes *= count;
        }
    }

    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.activations
    }
}

/// What a stage takes where the model is.
///
/// - `layers`: of the language model
/// - `activations`: bytes of a batch
pub(super) fn of_stage(
    recipe: &Recipe,
    stage: &Stage,
    count: &ParameterCount,
    layers: usize,
    activations: u64,
    gpu: bool,
) -> MemoryNeed {
    let (trained, frozen) = (count.trained(), count.frozen());
    let batches = recipe.gradient_accumulation_steps;
    let parallel = if is_parallel(recipe, stage) && !gpu {
        parallel_batches(batches) as u64
    } else {
        1
    };
    // Those of a batch beside the sum, to which a GPU adds the layers' one after the other with gradient checkpointing.
    let of_batch = if gpu && recipe.gradient_checkpointing && layers > 0 {
        trained - count.layers + count.layers / layers as u64
    } else {
        trained
    };
    let beside = (batches as u64).saturating_sub(1).min(parallel);
    // The moving average is a model of its own.
    let models = 1 + u64::from(recipe.ema_decay.is_some());
    let lpips = match &stage.objective {
        Objective::Tower(losses) if losses.perceptual.is_some() => lpips::parameters(),
        _ => 0,
    };
    MemoryNeed {
        weights: F32 * (models * (trained + frozen) + lpips),
        // New weights take their place.
        gradients: F32 * (trained + beside * of_batch),
        optimizer: 2 * F32 * trained,
        activations: parallel * activations,
    }
}

/// Whether the batches of a step are computed in parallel on a CPU.
fn is_parallel(recipe: &Recipe, stage: &Stage) -> bool {
    let lora = recipe.lora.as_ref();
    let dropout = lora.is_some_and(|lora| lora.dropout > 0.0) || recipe.depth_dropout > 0.0;
    match &stage.objective {
        Objective::Tower(_) => false,
        Objective::Align(_) => true,
        Objective::Pretrain(_) | Objective::Sft(_) => !dropout,
    }
}
