//! AdamW (Loshchilov and Hutter 2019) over host memory, one pass over each parameter.
//!
//! `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//! `p = p (1 - lr wd) - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`.
//!
//! Written as tensor operations this is a dozen passes and as many temporaries. Here each parameter
//! is updated in place; on a CPU its memory is the tensor's own, on a GPU it is copied in and out
//! and the moments need no GPU memory.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::gradients::{CHUNK, Gradients, floats};
use crate::{parameters, training::recipe};

/// Keeps the first steps finite where a gradient is zero.
const EPSILON: f32 = 1e-8;

/// The running moments of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
    /// The optimizer's time before the parameter's first gradient.
    pub since: u64,
}

/// The optimizer's state: moments by parameter path, and the number of steps taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AdamW {
    pub moments: BTreeMap<String, Moments>,
    pub time: u64,
}

impl AdamW {
    /// Which moments are of no parameter of the model, or not of its size.
    pub(crate) fn misfit<M: Module>(&self, model: &M) -> Option<String> {
        let sizes: BTreeMap<String, usize> = parameters::list(model)
            .into_iter()
            .map(|parameter| (parameter.path.clone(), parameter.count()))
            .collect();
        let misfit = |(parameter, moments): (&String, &Moments)| {
            let (stored, size) = (moments.first.len(), sizes.get(parameter));
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
    pub(crate) fn step<M: Module>(
        &mut self,
        model: M,
        gradients: Gradients,
        learning_rate: f64,
        settings: &recipe::Optimizer,
    ) -> M {
        if gradients.is_empty() {
            return model;
        }
        self.time += 1;
        let [beta1, beta2] = settings.betas;
        let mut update = Update {
            gradients,
            moments: &mut self.moments,
            time: self.time,
            beta1,
            beta2,
            learning_rate,
            decay: (learning_rate * settings.weight_decay) as f32,
        };
        parameters::map(model, &mut update)
    }
}

struct Update<'a> {
    gradients: Gradients,
    moments: &'a mut BTreeMap<String, Moments>,
    time: u64,
    beta1: f64,
    beta2: f64,
    learning_rate: f64,
    decay: f32,
}

impl parameters::Mapper for Update<'_> {
    fn map<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.take(param.id) else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let (shape, device) = (tensor.shape(), tensor.device());
        let mut values = floats(tensor.inner());
        let moments = self.moments.entry(path.into()).or_insert_with(|| Moments {
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
            min_lr_ratio: 0.0,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            betas: [0.9, 0.95],
            max_grad_norm: 1e9,
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
    fn a_late_parameter_begins_like_an_early_one() {
        let device = Device::flex().autodiff();
        let mut model: Linear = LinearConfig::new(2, 2).init(&device);
        let settings = recipe::Optimizer {
            learning_rate: 0.01,
            min_lr_ratio: 0.0,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            betas: [0.9, 0.999],
            max_grad_norm: 1e9,
        };
        let mut adamw = AdamW::default();
        for _ in 0..20 {
            let gradients = Gradients::of(&model, model.weight.val().sum().backward());
            model = adamw.step(model, gradients, 0.01, &settings);
        }
        // A batch in which nothing took part is no step.
        let mut none = Gradients::default();
        assert_eq!(none.clip_norm(&model, 1.0, &|_| false), [0.0; 2]);
        model = adamw.step(model, none, 0.01, &settings);
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
