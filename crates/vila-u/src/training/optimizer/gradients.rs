//! The gradients of a step, where the parameters are: added up over its batches, averaged over the ranks, clipped.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients as AutodiffGradients, Tensor};

use super::place::{Norms, Place};
use super::shards::Shards;
use super::{on_device, on_host};
use crate::Result;
use crate::device::{read_floats, write_floats};
use crate::parameters::{self, Parameter};

/// Gradients of the trained parameters, each a list on the parameter's device, summed over the batches of a step.
#[derive(Default)]
pub(crate) struct Gradients(HashMap<ParamId, Tensor<1>>);

impl Gradients {
    /// Those of the parameters of `model`, taken from a backward pass.
    pub(crate) fn of<M: Module>(model: &M, grads: AutodiffGradients) -> Self {
        let gradients = HashMap::new();
        let mut collect = Collect { grads, gradients };
        model.visit(&mut collect);
        Self(collect.gradients)
    }

    /// Of every parameter in the module's order, where it has one.
    #[cfg(test)]
    pub fn in_order<M: Module>(&self, model: &M) -> Vec<Option<Vec<f32>>> {
        let parameters = parameters::list(model).into_iter();
        let numbers = |gradient: &Tensor<1>| read_floats(gradient.clone()).expect("numbers");
        parameters
            .map(|parameter| self.0.get(&parameter.id).map(numbers))
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, id: ParamId) -> Option<Tensor<1>> {
        self.0.remove(&id)
    }

    pub(crate) fn add(&mut self, more: Self) {
        for (id, new) in more.0 {
            // Taken out, the sum has one owner: it is added to in place.
            let sum = match self.0.remove(&id) {
                None => new,
                Some(sum) => sum + new,
            };
            self.0.insert(id, sum);
        }
    }

    /// Makes every gradient the mean of those of all ranks, in the chunks that this rank keeps; a rank that has none for a
    /// parameter counts as zero. Ranks exchange lists of the host: those of a GPU go there, one at a time, and come back.
    pub(crate) fn reduce_scatter_mean<M: Module>(
        &mut self,
        model: &M,
        shards: &Shards,
    ) -> Result<()> {
        let group = shards.group();
        if group.world_size() == 1 {
            return Ok(());
        }
        let mut trained = Trained(Vec::new());
        model.visit(&mut trained);
        let own: Vec<bool> = (trained.0.iter())
            .map(|(id, ..)| self.0.contains_key(id))
            .collect();
        let all = group.all_gather(own)?;
        let anywhere = |at: usize| all.iter().any(|one| one.get(at) == Some(&true));
        // In the model's order: numbers of parameters differ from process to process.
        for (at, (id, length, device)) in trained.0.into_iter().enumerate() {
            if anywhere(at) {
                let mut gradient = match self.0.remove(&id) {
                    None => vec![0.0; length],
                    Some(gradient) => read_floats(gradient)?,
                };
                shards.reduce(id, &mut gradient)?;
                self.0.insert(id, write_floats(gradient, &device));
            }
        }
        Ok(())
    }

    pub(crate) fn scaled(self, scale: f32) -> Self {
        let scaled = self.0.into_iter();
        Self(
            scaled
                .map(|(id, gradient)| (id, gradient * scale))
                .collect(),
        )
    }

    /// Scales all gradients so that their global 2-norm is at most `max_norm`, those of the parameters that
    /// `is_adversary` names by a norm of their own; returns both norms before. Only chunks that this rank keeps are looked
    /// at, and scaled.
    pub(crate) fn clip_norm<M: Module>(
        &mut self,
        model: &M,
        shards: &Shards,
        max_norm: f64,
        is_adversary: &dyn Fn(&str) -> bool,
        place: Place,
    ) -> Result<Norms> {
        // In the module's order, so that the sums do not depend on a hash map's.
        let mut gradients = Vec::new();
        for Parameter { id, path, .. } in parameters::list(model) {
            if let Some(gradient) = self.0.remove(&id) {
                let group = usize::from(is_adversary(&path));
                gradients.push(Grouped {
                    id,
                    group,
                    gradient,
                });
            }
        }
        let (clipped, norms) = match place {
            Place::Host => on_host::clip(gradients, shards, max_norm)?,
            Place::Device => on_device::clip(gradients, shards, max_norm)?,
        };
        let clipped = clipped.into_iter();
        self.0.extend(clipped.map(|one| (one.id, one.gradient)));
        Ok(norms)
    }
}

/// The gradient of a parameter, to be clipped.
pub(super) struct Grouped<T> {
    pub id: ParamId,
    /// By whose norm: 0, the model's, or 1, its adversary's.
    pub group: usize,
    pub gradient: T,
}

impl<T> Grouped<T> {
    pub(super) fn try_map<U>(self, map: impl FnOnce(T) -> Result<U>) -> Result<Grouped<U>> {
        Ok(Grouped {
            id: self.id,
            group: self.group,
            gradient: map(self.gradient)?,
        })
    }
}

struct Collect {
    grads: AutodiffGradients,
    gradients: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let Some(gradient) = param.val().grad_remove(&mut self.grads) else {
            return;
        };
        let length = gradient.shape().num_elements();
        self.gradients.insert(param.id, gradient.reshape([length]));
    }
}

/// The trained parameters, their sizes and where they are, in the module's order.
struct Trained(Vec<(ParamId, usize, Device)>);

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let value = param.val().inner();
            let length = value.shape().num_elements();
            self.0.push((param.id, length, value.device()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};

    #[test]
    fn clips_by_the_global_norm() {
        for place in [Place::Host, Place::Device] {
            clips_by_the_global_norm_in(place);
        }
    }

    fn clips_by_the_global_norm_in(place: Place) {
        let device = Device::flex().autodiff();
        let model: Linear = LinearConfig::new(2, 2).init(&device);
        let mut gradients = Gradients::default();
        for _ in 0..2 {
            let bias = model.bias.as_ref().map(Param::val).expect("a bias");
            let loss = model.weight.val().sum() * 3.0 + bias.sum() * 4.0;
            gradients.add(Gradients::of(&model, loss.backward()));
        }
        // 4 weights at 6 and 2 biases at 8: sqrt(4 * 36 + 2 * 64)
        let together = |_: &str| false;
        let shards = Shards::whole(&model);
        let mut clip = |most, is_adversary: &dyn Fn(&str) -> bool| {
            let norms = gradients.clip_norm(&model, &shards, most, is_adversary, place);
            norms.and_then(Norms::read).expect("norms")
        };
        let [norm, none] = clip(1.0, &together);
        assert!((norm - 272f64.sqrt()).abs() < 1e-6 && none == 0.0);
        let [norm, _] = clip(1.0, &together);
        assert!((norm - 1.0).abs() < 1e-6);
        // Each by its own norm: the weights' is the larger.
        let is_adversary = |path: &str| path == "bias";
        let [weight, bias] = clip(0.7, &is_adversary);
        assert!((weight - (144f64 / 272.0).sqrt()).abs() < 1e-6);
        let [after, same] = clip(1.0, &is_adversary);
        assert!((after - 0.7).abs() < 1e-6 && (same - bias).abs() < 1e-6);
    }
}
