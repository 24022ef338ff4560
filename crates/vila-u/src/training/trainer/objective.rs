//! What is trained in a stage: all that the loop knows of models and data.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::training::data::dataloader::MakeSample;
use crate::training::objectives::CheckpointedLayers;
use crate::training::optimizer::Gradients;
use crate::{Result, parameters};

/// What a stage minimises, on which samples, and how it is evaluated.
pub(crate) trait Objective<M: Module>: Sync {
    /// Makes the samples, on threads of their own.
    type Maker: MakeSample;

    fn sample_maker(&self) -> &Self::Maker;

    /// How many positions the model reads of a sample.
    fn tokens(&self, sample: &Sample<M, Self>) -> usize;

    /// Whether the parameter at this path is trained.
    fn is_trained(&self, path: &str) -> bool;

    /// Whether the parameter at this path is an adversary's, which plays against the model: its gradients are
    /// clipped by a norm of their own.
    fn is_adversary(&self, _path: &str) -> bool {
        false
    }

    /// Whether a step's batches may be computed in parallel: `losses` neither changes the model nor takes
    /// random numbers from the device.
    fn is_parallel(&self) -> bool;

    /// The losses of a batch. `step` seeds anything random in it.
    fn losses(&self, model: &mut M, batch: Vec<Sample<M, Self>>, step: u64) -> Result<BatchLosses>;

    /// Measures on held-out data.
    fn evaluate(&self, model: &M) -> Result<Vec<(&'static str, f64)>>;

    /// How good the model is by what was recorded of an evaluation (`eval/NAME`): more is better. The sum
    /// of its losses with the sign turned, where there are any.
    fn score(&self, metrics: &BTreeMap<String, f64>) -> Option<f64> {
        let loss = |name: &str| name.starts_with("eval/") && name.ends_with("loss");
        let losses: Vec<f64> = (metrics.iter())
            .filter(|(name, _)| loss(name))
            .map(|(_, value)| *value)
            .collect();
        (!losses.is_empty()).then(|| -losses.iter().sum::<f64>())
    }

    /// Saves a sheet of what the model makes of held-out data as the file `path`.
    fn save_samples(&self, model: &M, path: &Path) -> Result<()>;
}

/// A sample of an objective.
pub(super) type Sample<M, O> = <<O as Objective<M>>::Maker as MakeSample>::Sample;

/// `total` is what is minimised; `parts` are its terms, unweighted, and anything else worth a curve.
pub(crate) struct BatchLosses {
    pub total: Tensor<1>,
    pub parts: Vec<(&'static str, Tensor<1>)>,
    /// Gradients of `total` that are computed already.
    pub gradients: Gradients,
    /// Layers whose activations were not kept, before those that `total` was recorded through.
    pub checkpointed: Option<CheckpointedLayers>,
}

/// The losses of a batch by name, each `[1]` and where it was computed, and gradients.
pub(super) type BatchResult = (BTreeMap<&'static str, Tensor<1>>, Gradients);

/// The forward and the backward pass of one of the `count` batches of a step, a `count`th of whose gradients is added to
/// `gradients`.
pub(super) fn forward_backward<M: Module, O: Objective<M>>(
    objective: &O,
    model: &mut M,
    batch: Vec<Sample<M, O>>,
    mut gradients: Gradients,
    step: u64,
    count: usize,
) -> Result<BatchResult> {
    let losses = objective.losses(model, batch, step)?;
    let total = [("loss", losses.total.clone())];
    let values = (total.into_iter().chain(losses.parts))
        .map(|(name, loss)| (name, loss.inner()))
        .collect();
    gradients.add(losses.gradients.scaled(1.0 / count as f32));
    // In a batch of text there is no picture for the projector to learn from, say.
    if !losses.total.is_tracked() {
        return Ok((values, gradients));
    }
    let mut grads = (losses.total / count as f64).backward();
    if let Some(layers) = losses.checkpointed
        && let Some(of_embeddings) = layers.backward(&mut grads, &mut gradients)
    {
        gradients.add(Gradients::of(model, of_embeddings));
    }
    gradients.add(Gradients::of(model, grads));
    Ok((values, gradients))
}

/// Requires gradients of exactly the parameters that are trained.
pub(super) fn freeze<M: Module>(model: M, is_trained: &dyn Fn(&str) -> bool) -> M {
    parameters::map(model, &mut Freeze(is_trained))
}

struct Freeze<'a>(&'a dyn Fn(&str) -> bool);

impl parameters::Mapper for Freeze<'_> {
    fn map<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = (self.0)(path);
        param.set_require_grad(trained)
    }
}
