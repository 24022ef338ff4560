//! The gradients of a step on the host: added up over its batches, averaged over the ranks, clipped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients as AutodiffGradients, Tensor};
use rayon::prelude::*;

use crate::training::distributed::ProcessGroup;
use crate::{Result, parameters};

/// Elements per parallel task; also fixes the order of the norm's sum.
pub(super) const CHUNK: usize = 1 << 16;

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

    /// Makes every gradient the mean of those of all ranks; a rank that has none for a parameter counts as zero.
    pub(crate) fn all_reduce_mean<M: Module>(
        &mut self,
        model: &M,
        group: &ProcessGroup,
    ) -> Result<()> {
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
        let mut lists = Vec::new();
        for (at, (id, length)) in trained.0.into_iter().enumerate() {
            if anywhere(at) {
                let own = self.0.remove(&id);
                lists.push((id, own.unwrap_or_else(|| vec![0.0; length])));
            }
        }
        let mut numbers: Vec<_> = lists.iter_mut().map(|(_, list)| list).collect();
        group.all_reduce_mean(&mut numbers)?;
        self.0.extend(lists);
        Ok(())
    }

    pub(crate) fn scaled(mut self, scale: f32) -> Self {
        for gradient in self.0.values_mut() {
            gradient.iter_mut().for_each(|value| *value *= scale);
        }
        self
    }

    /// Scales all gradients so that their global 2-norm is at most `max_norm`, those of the parameters that
    /// `is_adversary` names by a norm of their own; returns both norms before.
    pub(crate) fn clip_norm<M: Module>(
        &mut self,
        model: &M,
        max_norm: f64,
        is_adversary: &dyn Fn(&str) -> bool,
    ) -> [f64; 2] {
        let mut squares = [0.0; 2];
        // Which of the two sums each gradient is in.
        let mut groups = HashMap::new();
        // In the module's order, so that the sums do not depend on a hash map's.
        for parameter in parameters::list(model) {
            if let Some(gradient) = self.0.get(&parameter.id) {
                let group = usize::from(is_adversary(&parameter.path));
                squares[group] += sum_of_squares(gradient);
                groups.insert(parameter.id, group);
            }
        }
        let norms = squares.map(f64::sqrt);
        for (id, gradient) in &mut self.0 {
            let norm = groups.get(id).map_or(0.0, |group| norms[*group]);
            if norm > max_norm {
                let scale = (max_norm / norm) as f32;
                gradient.par_chunks_mut(CHUNK).for_each(|chunk| {
                    chunk.iter_mut().for_each(|value| *value *= scale);
                });
            }
        }
        norms
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

fn sum_of_squares(gradient: &[f32]) -> f64 {
    let sums: Vec<f64> = gradient
        .par_chunks(CHUNK)
        .map(|chunk| {
            chunk
                .iter()
                .map(|value| f64::from(*value) * f64::from(*value))
                .sum()
        })
        .collect();
    sums.iter().sum()
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
        let [norm, none] = gradients.clip_norm(&model, 1.0, &together);
        assert!((norm - 272f64.sqrt()).abs() < 1e-6 && none == 0.0);
        let [norm, _] = gradients.clip_norm(&model, 1.0, &together);
        assert!((norm - 1.0).abs() < 1e-6);
        // Each by its own norm: the weights' is the larger.
        let is_adversary = |path: &str| path == "bias";
        let [weight, bias] = gradients.clip_norm(&model, 0.7, &is_adversary);
        assert!((weight - (144f64 / 272.0).sqrt()).abs() < 1e-6);
        let [after, same] = gradients.clip_norm(&model, 1.0, &is_adversary);
        assert!((after - 0.7).abs() < 1e-6 && (same - bias).abs() < 1e-6);
    }
}
