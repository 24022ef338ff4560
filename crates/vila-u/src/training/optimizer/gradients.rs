//! The gradients of a step on the host: added up over its batches, averaged over the ranks, clipped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients as AutodiffGradients, Tensor};
use rayon::prelude::*;

use super::shards::Shards;
use crate::{Result, parameters};

/// Gradients of the trained parameters, summed over the batches of a step.
#[derive(Default)]
pub(crate) struct Gradients(HashMap<ParamId, Vec<f32>>);

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
        parameters
            .map(|parameter| self.0.get(&parameter.id).cloned())
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, id: ParamId) -> Option<Vec<f32>> {
        self.0.remove(&id)
    }

    pub(crate) fn add(&mut self, more: Self) {
        for (id, new) in more.0 {
            match self.0.entry(id) {
                Entry::Vacant(place) => {
                    place.insert(new);
                }
                Entry::Occupied(mut sum) => {
                    sum.get_mut()
                        .iter_mut()
                        .zip(new)
                        .for_each(|(sum, new)| *sum += new);
                }
            }
        }
    }

    /// Makes every gradient the mean of those of all ranks, in the chunks that this rank keeps; a rank that has none for a
    /// parameter counts as zero.
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
            .map(|(id, _)| self.0.contains_key(id))
            .collect();
        let all = group.all_gather(own)?;
        let anywhere = |at: usize| all.iter().any(|one| one.get(at) == Some(&true));
        // In the model's order: numbers of parameters differ from process to process.
        for (at, (id, length)) in trained.0.into_iter().enumerate() {
            if anywhere(at) {
                let gradient = self.0.entry(id).or_insert_with(|| vec![0.0; length]);
                shards.reduce(id, gradient)?;
            }
        }
        Ok(())
    }

    pub(crate) fn scaled(mut self, scale: f32) -> Self {
        for gradient in self.0.values_mut() {
            gradient.iter_mut().for_each(|value| *value *= scale);
        }
        self
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
    ) -> Result<[f64; 2]> {
        // In the module's order, so that the sums do not depend on a hash map's.
        let parameters = parameters::list(model).into_iter();
        let (ids, groups): (Vec<_>, Vec<_>) = parameters
            .filter(|parameter| self.0.contains_key(&parameter.id))
            .map(|parameter| (parameter.id, usize::from(is_adversary(&parameter.path))))
            .unzip();
        let own: Vec<&[f32]> = (ids.iter())
            .flat_map(|id| shards.own(*id, &self.0[id]))
            .collect();
        let own = own.into_par_iter().map(sum_of_squares).collect();
        let mut squares = [0.0; 2];
        for (group, sum) in groups.iter().zip(shards.all_sums(&ids, own)?) {
            squares[*group] += sum;
        }
        let norms = squares.map(f64::sqrt);
        for (id, group) in ids.into_iter().zip(groups) {
            let norm = norms[group];
            if norm > max_norm
                && let Some(gradient) = self.0.get_mut(&id)
            {
                let scale = (max_norm / norm) as f32;
                let chunks = shards.own_mut(id, gradient).into_par_iter();
                chunks.for_each(|chunk| chunk.iter_mut().for_each(|value| *value *= scale));
            }
        }
        Ok(norms)
    }
}

struct Collect {
    grads: AutodiffGradients,
    gradients: HashMap<ParamId, Vec<f32>>,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let Some(gradient) = param.val().grad_remove(&mut self.grads) else {
            return;
        };
        self.gradients.insert(param.id, floats(gradient));
    }
}

/// The trained parameters and their sizes, in the module's order.
struct Trained(Vec<(ParamId, usize)>);

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0.push((param.id, param.val().shape().num_elements()));
        }
    }
}

fn sum_of_squares(chunk: &[f32]) -> f64 {
    let squares = chunk
        .iter()
        .map(|value| f64::from(*value) * f64::from(*value));
    squares.sum()
}

/// The values of a float tensor; without a copy where the tensor is the only owner of them.
pub(super) fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data_as::<f32>();
    data.try_into_vec()
        .expect("the data was just converted to f32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    #[test]
    fn clips_by_the_global_norm() {
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
            let norms = gradients.clip_norm(&model, &shards, most, is_adversary);
            norms.expect("norms")
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
