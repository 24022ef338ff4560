//! AdamW (Loshchilov and Hutter 2019) over host memory, one pass over each parameter, of which each rank updates a part.
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

use super::gradients::{Gradients, floats};
use super::shards::Shards;
use crate::training::distributed::CHUNK;
use crate::{Result, parameters, training::recipe};

/// Keeps the first steps finite where a gradient is zero.
const EPSILON: f32 = 1e-8;

/// The running moments of one parameter, in the chunks that this rank keeps.
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
    /// One step on every parameter that has a gradient; none where no parameter has. Each rank updates its own chunks.
    ///
    /// Errors when a rank cannot be reached: the model is then of no more use.
    pub(crate) fn step<M: Module>(
        &mut self,
        model: M,
        gradients: Gradients,
        learning_rate: f64,
        settings: &recipe::Optimizer,
        shards: &Shards,
    ) -> Result<M> {
        if gradients.is_empty() {
            return Ok(model);
        }
        self.time += 1;
        let [beta1, beta2] = settings.betas;
        let mut update = Update {
            gradients,
            shards,
            moments: &mut self.moments,
            time: self.time,
            beta1,
            beta2,
            learning_rate,
            decay: (learning_rate * settings.weight_decay) as f32,
            outcome: Ok(()),
        };
        let model = parameters::map(model, &mut update);
        update.outcome.map(|()| model)
    }
}

struct Update<'a> {
    gradients: Gradients,
    shards: &'a Shards,
    moments: &'a mut BTreeMap<String, Moments>,
    time: u64,
    beta1: f64,
    beta2: f64,
    learning_rate: f64,
    decay: f32,
    /// Whether the other ranks could be reached.
    outcome: Result<()>,
}

impl parameters::Mapper for Update<'_> {
    fn map<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.take(param.id) else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let (shape, device) = (tensor.shape(), tensor.device());
        let mut values = floats(tensor.inner());
        let own_gradient = self.shards.own(id, &gradient);
        let own = self.shards.own_mut(id, &mut values);
        let moments = self.moments.entry(path.into()).or_insert_with(|| {
            let count = own.iter().map(|chunk| chunk.len()).sum();
            Moments {
                first: vec![0.0; count],
                second: vec![0.0; count],
                since: self.time - 1,
            }
        });
        // Of a parameter that joined late the moments are as young as it is.
        let time = i32::try_from(self.time - moments.since).unwrap_or(i32::MAX);
        let rate = (self.learning_rate / (1.0 - self.beta1.powi(time))) as f32;
        let correction = (1.0 / (1.0 - self.beta2.powi(time))) as f32;
        // Biases and norms (vectors) are not decayed.
        let keep = if D < 2 { 1.0 } else { 1.0 - self.decay };
        let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
        (
            own,
            own_gradient,
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
        if self.outcome.is_ok() {
            self.outcome = self.shards.gather(id, &mut values);
        }
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

    use crate::training::distributed::ProcessGroup;

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
            let shards = Shards::whole(&ours);
            ours = (adamw.step(ours, gradients, 0.01, &settings, &shards)).expect("a step");
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
        let shards = Shards::whole(&model);
        for _ in 0..20 {
            let gradients = Gradients::of(&model, model.weight.val().sum().backward());
            model = (adamw.step(model, gradients, 0.01, &settings, &shards)).expect("a step");
        }
        // A batch in which nothing took part is no step.
        let mut none = Gradients::default();
        let norms = none.clip_norm(&model, &shards, 1.0, &|_| false);
        assert_eq!(norms.expect("norms"), [0.0; 2]);
        model = (adamw.step(model, none, 0.01, &settings, &shards)).expect("a step");
        assert_eq!(adamw.time, 20);
        let bias = |model: &Linear| model.bias.as_ref().map(Param::val).expect("a bias");
        let before = bias(&model);
        let gradients = Gradients::of(&model, bias(&model).sum().backward());
        model = (adamw.step(model, gradients, 0.01, &settings, &shards)).expect("a step");
        // A first step has the length of the learning rate, whatever the gradient.
        let step = (before - bias(&model)).mean().into_scalar::<f32>();
        assert!((step - 0.01).abs() < 1e-6, "{step}");
        assert_eq!(adamw.moments["bias"].since, 20);
        assert_eq!(adamw.moments["weight"].since, 0);
    }

    /// Two steps of several ranks on one parameter of many chunks and some of few: the bits of one rank with the mean of
    /// their gradients.
    #[test]
    fn ranks_update_a_model_as_one_does() {
        use std::thread;

        use crate::training::distributed::threads;

        let device = Device::flex().autodiff();
        let start: Linear = LinearConfig::new(700, 500).init(&device);
        let settings = recipe::Optimizer {
            learning_rate: 0.01,
            min_lr_ratio: 0.0,
            warmup_ratio: 0.0,
            weight_decay: 0.1,
            betas: [0.9, 0.95],
            max_grad_norm: 0.5,
        };
        // Of sample `n` of four.
        let gradients = |model: &Linear, n: usize| {
            let numbers = Tensor::arange(0..700, &device).float().add_scalar(n as f32);
            let input = numbers.sin().reshape([1, 700]);
            let loss = model.forward(input).sin().sum();
            Gradients::of(model, (loss / 4.0).backward())
        };
        let train = |group: ProcessGroup| {
            let (rank, ranks) = (group.rank(), group.world_size());
            let mut model = start.clone();
            let (mut adamw, mut norms) = (AdamW::default(), Vec::new());
            for _ in 0..2 {
                let shards = Shards::new(&model, &group);
                let mut sum = Gradients::default();
                for n in (0..4).filter(|n| n % ranks == rank) {
                    sum.add(gradients(&model, n));
                }
                // The mean over ranks of what is a fourth of each sample's.
                let mut sum = sum.scaled(ranks as f32);
                sum.reduce_scatter_mean(&model, &shards).expect("means");
                let clipped = sum.clip_norm(&model, &shards, settings.max_grad_norm, &|_| false);
                norms.push(clipped.expect("norms"));
                let step = adamw.step(model, sum, 0.01, &settings, &shards);
                model = step.expect("a step");
            }
            let kept: usize = adamw.moments.values().map(|kept| kept.first.len()).sum();
            (floats(model.weight.val().inner()), norms, kept)
        };
        let train = &train;
        let (weights, norms, kept) = train(ProcessGroup::default());
        assert_eq!(kept, 700 * 500 + 500);
        for ranks in [2, 4] {
            let ended: Vec<_> = thread::scope(|scope| {
                let ranks = threads(ranks).into_iter();
                let running: Vec<_> = ranks
                    .map(|group| scope.spawn(move || train(group)))
                    .collect();
                running
                    .into_iter()
                    .map(|one| one.join().expect("a rank"))
                    .collect()
            });
            assert_eq!(ended.iter().map(|(_, _, kept)| kept).sum::<usize>(), kept);
            let (first, others) = ended.split_first().expect("ranks");
            assert!(
                others
                    .iter()
                    .all(|other| other.0 == first.0 && other.1 == first.1)
            );
            // Two ranks of two samples each add up in another order.
            if ranks == 4 {
                assert!(first.0 == weights && first.1 == norms);
            }
        }
    }
}
