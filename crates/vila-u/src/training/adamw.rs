//! AdamW (Loshchilov and Hutter 2019) over host memory, one pass over each parameter.
//!
//! `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//! `p = p (1 - lr wd) - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`.
//!
//! Written as tensor operations this is a dozen passes and as many temporaries. Here each parameter
//! is updated in place; on a CPU its memory is the tensor's own, on a GPU it is copied in and out
//! and the moments need no GPU memory.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients as Tape, Tensor, TensorData};
use rayon::prelude::*;

use super::ranks::Ranks;
use super::recipe;
use crate::Result;

/// Keeps the first steps finite where a gradient is zero.
const EPSILON: f32 = 1e-8;
/// Elements per parallel task; also fixes the order of the norm's sum.
const CHUNK: usize = 1 << 16;

/// Gradients of the trained parameters, summed over the batches of a step.
#[derive(Default)]
pub struct Gradients(HashMap<ParamId, Vec<f32>>);

impl Gradients {
    /// What a backward pass found for the parameters of `model`.
    pub fn of<M: Module>(model: &M, tape: Tape) -> Self {
        let gradients = HashMap::new();
        let mut collect = Collect { tape, gradients };
        model.visit(&mut collect);
        Self(collect.gradients)
    }

    #[cfg(test)]
    pub fn get(&self, id: ParamId) -> Option<&[f32]> {
        self.0.get(&id).map(Vec::as_slice)
    }

    pub fn add(&mut self, more: Self) {
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
    pub fn mean<M: Module>(&mut self, model: &M, ranks: &Ranks) -> Result<()> {
        if ranks.count() == 1 {
            return Ok(());
        }
        let mut trained = Trained(Vec::new());
        model.visit(&mut trained);
        let own: Vec<bool> = (trained.0.iter())
            .map(|(id, _)| self.0.contains_key(id))
            .collect();
        let all = ranks.gather(own)?;
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
        ranks.mean(&mut numbers)?;
        self.0.extend(lists);
        Ok(())
    }

    pub fn scaled(mut self, scale: f32) -> Self {
        for gradient in self.0.values_mut() {
            gradient.iter_mut().for_each(|value| *value *= scale);
        }
        self
    }

    /// Scales all gradients so that their common 2-norm is at most `limit`, those of the parameters that stand
    /// `apart` by a norm of their own; returns both norms before.
    pub fn clip<M: Module>(
        &mut self,
        model: &M,
        limit: f64,
        apart: &dyn Fn(&str) -> bool,
    ) -> [f64; 2] {
        let mut norms = Norms {
            path: Vec::new(),
            gradients: self,
            apart,
            squares: [0.0; 2],
            sides: HashMap::new(),
        };
        model.visit(&mut norms);
        let (norms, sides) = (norms.squares.map(f64::sqrt), norms.sides);
        for (id, gradient) in &mut self.0 {
            let norm = sides.get(id).map_or(0.0, |side| norms[*side]);
            if norm > limit {
                let scale = (limit / norm) as f32;
                gradient.par_chunks_mut(CHUNK).for_each(|chunk| {
                    chunk.iter_mut().for_each(|value| *value *= scale);
                });
            }
        }
        norms
    }
}

struct Collect {
    tape: Tape,
    gradients: HashMap<ParamId, Vec<f32>>,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let Some(gradient) = param.val().grad_remove(&mut self.tape) else {
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

/// Visits in the module's order, so that the sum does not depend on a hash map's.
struct Norms<'a> {
    path: Vec<String>,
    gradients: &'a Gradients,
    apart: &'a dyn Fn(&str) -> bool,
    squares: [f64; 2],
    /// Which of the two sums each gradient is in.
    sides: HashMap<ParamId, usize>,
}

impl ModuleVisitor for Norms<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.0.get(&param.id) else {
            return;
        };
        let squares: Vec<f64> = gradient
            .par_chunks(CHUNK)
            .map(|chunk| {
                chunk
                    .iter()
                    .map(|value| f64::from(*value) * f64::from(*value))
                    .sum()
            })
            .collect();
        let side = usize::from((self.apart)(&self.path.join(".")));
        self.squares[side] += squares.iter().sum::<f64>();
        self.sides.insert(param.id, side);
    }
}

/// The running moments of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    /// The optimizer's time before the parameter's first gradient.
    pub since: u64,
}

/// The optimizer's state: moments by parameter path, and the number of steps taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdamW {
    pub moments: BTreeMap<String, Moments>,
    pub time: u64,
}

impl AdamW {
    /// Which moments are of no parameter of the model, or not of its size.
    pub fn misfit<M: Module>(&self, model: &M) -> Option<String> {
        let mut sizes = Sizes::default();
        model.visit(&mut sizes);
        let misfit = |(parameter, moments): (&String, &Moments)| {
            let (stored, size) = (moments.first.len(), sizes.found.get(parameter));
            let wrong = match size {
                None => "which the model does not have".to_string(),
                Some(size) if *size != stored => format!("which has {size}"),
                Some(_) => return None,
            };
            Some(format!(
                "has moments of {stored} numbers for `{parameter}`, {wrong}"
            ))
        };
        self.moments.iter().find_map(misfit)
    }

    /// One step on every parameter that has a gradient; none where no parameter has.
    pub fn step<M: Module>(
        &mut self,
        model: M,
        gradients: Gradients,
        learning_rate: f64,
        settings: &recipe::Optimizer,
    ) -> M {
        if gradients.0.is_empty() {
            return model;
        }
        self.time += 1;
        let [beta1, beta2] = settings.betas;
        let mut update = Update {
            path: Vec::new(),
            gradients,
            moments: &mut self.moments,
            time: self.time,
            beta1,
            beta2,
            learning_rate,
            decay: (learning_rate * settings.weight_decay) as f32,
        };
        model.map(&mut update)
    }
}

/// How many numbers each parameter has, by path.
#[derive(Default)]
struct Sizes {
    path: Vec<String>,
    found: BTreeMap<String, usize>,
}

impl ModuleVisitor for Sizes {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let size = param.lazy_shape().num_elements();
        self.found.insert(self.path.join("."), size);
    }
}

struct Update<'a> {
    path: Vec<String>,
    gradients: Gradients,
    moments: &'a mut BTreeMap<String, Moments>,
    time: u64,
    beta1: f64,
    beta2: f64,
    learning_rate: f64,
    decay: f32,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.0.remove(&param.id) else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let (shape, device) = (tensor.shape(), tensor.device());
        let mut values = floats(tensor.inner());
        let moments = self
            .moments
            .entry(self.path.join("."))
            .or_insert_with(|| Moments {
                first: vec![0.0; values.len()],
                second: vec![0.0; values.len()],
                since: self.time - 1,
            });
        // Of a parameter that joined late the moments are as young as it is.
        let time = i32::try_from(self.time - moments.since).unwrap_or(i32::MAX);
        let rate = (self.learning_rate / (1.0 - self.beta1.powi(time))) as f32;
        let correction = (1.0 / (1.0 - self.beta2.powi(time))) as f32;
        // Biases and norms (vectors) are not decayed.
        let keep = if D < 2 { 1.0 } else { 1.0 - self.decay };
        let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
        (
            values.par_chunks_mut(CHUNK),
            gradient.par_chunks(CHUNK),
            moments.first.par_chunks_mut(CHUNK),
            moments.second.par_chunks_mut(CHUNK),
        )
            .into_par_iter()
            .for_each(|(values, gradient, first, second)| {
                let moments = first.iter_mut().zip(second);
                for ((value, gradient), (first, second)) in
                    values.iter_mut().zip(gradient).zip(moments)
                {
                    *first = beta1 * *first + (1.0 - beta1) * gradient;
                    *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
                    let scale = (*second * correction).sqrt() + EPSILON;
                    *value = keep * *value - rate * *first / scale;
                }
            });
        let updated = Tensor::from_data(TensorData::new(values, shape), &device);
        Param::from_mapped_value(id, updated.require_grad(), mapper)
    }
}

/// The values of a float tensor; without a copy where the tensor is the only owner of them.
fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data_as::<f32>();
    data.try_into_vec()
        .expect("the data was just converted to f32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::{AdamWConfig, GradientsParams};
    use burn::tensor::{Device, Distribution};

    /// Burn's own AdamW as the reference; decay is off because Burn decays biases too.
    #[test]
    fn agrees_with_tensor_operations() {
        let device = Device::flex().autodiff();
        let mut ours: Linear = LinearConfig::new(7, 5).init(&device);
        let mut theirs = ours.clone();
        let settings = recipe::Optimizer {
            learning_rate: 0.01,
            floor: 0.0,
            warm_up: 0.0,
            weight_decay: 0.0,
            betas: [0.9, 0.95],
            clip: 1e9,
        };
        let mut adamw = AdamW::default();
        let mut reference = AdamWConfig::new()
            .with_beta_1(0.9)
            .with_beta_2(0.95)
            .with_epsilon(EPSILON)
            .with_weight_decay(0.0)
            .init();
        for _ in 0..5 {
            let input = Tensor::<2>::random([3, 7], Distribution::Default, &device);
            let loss = |model: &Linear| model.forward(input.clone()).square().mean();
            let gradients = Gradients::of(&ours, loss(&ours).backward());
            ours = adamw.step(ours, gradients, 0.01, &settings);
            let gradients = GradientsParams::from_grads(loss(&theirs).backward(), &theirs);
            theirs = reference.step(0.01, theirs, gradients);
        }
        let difference = (ours.weight.val() - theirs.weight.val()).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-6);
        assert_eq!(adamw.moments.keys().collect::<Vec<_>>(), ["bias", "weight"]);
    }

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
        let [norm, none] = gradients.clip(&model, 1.0, &together);
        assert!((norm - 272f64.sqrt()).abs() < 1e-6 && none == 0.0);
        let [norm, _] = gradients.clip(&model, 1.0, &together);
        assert!((norm - 1.0).abs() < 1e-6);
        // Each by its own norm: the weights' is the larger.
        let apart = |path: &str| path == "bias";
        let [weight, bias] = gradients.clip(&model, 0.7, &apart);
        assert!((weight - (144f64 / 272.0).sqrt()).abs() < 1e-6);
        let [after, same] = gradients.clip(&model, 1.0, &apart);
        assert!((after - 0.7).abs() < 1e-6 && (same - bias).abs() < 1e-6);
    }

    #[test]
    fn a_late_parameter_begins_like_an_early_one() {
        let device = Device::flex().autodiff();
        let mut model: Linear = LinearConfig::new(2, 2).init(&device);
        let settings = recipe::Optimizer {
            learning_rate: 0.01,
            floor: 0.0,
            warm_up: 0.0,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            clip: 1e9,
        };
        let mut adamw = AdamW::default();
        for _ in 0..20 {
            let gradients = Gradients::of(&model, model.weight.val().sum().backward());
            model = adamw.step(model, gradients, 0.01, &settings);
        }
        // A batch in which nothing took part is no step.
        let mut clip = Gradients::default();
        assert_eq!(clip.clip(&model, 1.0, &|_| false), [0.0; 2]);
        model = adamw.step(model, clip, 0.01, &settings);
        assert_eq!(adamw.time, 20);
        assert_eq!(adamw.misfit(&model), None);
        let other: Linear = LinearConfig::new(2, 3).init(&device);
        let reason = adamw.misfit(&other).expect("a reason");
        assert!(reason.contains("4 numbers for `weight`"), "{reason}");
        let bias = |model: &Linear| model.bias.as_ref().map(Param::val).expect("a bias");
        let before = bias(&model);
        let gradients = Gradients::of(&model, bias(&model).sum().backward());
        model = adamw.step(model, gradients, 0.01, &settings);
        // A first step has the length of the learning rate, whatever the gradient.
        let step = (before - bias(&model)).mean().into_scalar::<f32>();
        assert!((step - 0.01).abs() < 1e-6, "{step}");
        assert_eq!(adamw.moments["bias"].since, 20);
        assert_eq!(adamw.moments["weight"].since, 0);
    }
}
