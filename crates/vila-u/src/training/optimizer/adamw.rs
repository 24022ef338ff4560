//! AdamW (Loshchilov and Hutter 2019), of which each rank updates a part.
//!
//! `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//! `p = p (1 - lr wd) - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`.

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

use super::gradients::Gradients;
use super::place::Place;
use super::shards::Shards;
use super::{on_device, on_host};
use crate::device::read_floats;
use crate::{Result, parameters, training::recipe};

/// Keeps the first steps finite where a gradient is zero.
const EPSILON: f32 = 1e-8;

/// The running moments of one parameter.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    /// The first and the second, `[numbers]`, in the chunks that this rank keeps, where the parameter is; none where it
    /// keeps none of them.
    pub numbers: Option<[Tensor<1>; 2]>,
    /// The optimizer's time before the parameter's first gradient.
    pub since: u64,
}

impl Moments {
    /// On the host: the first, or the second with an `index` of 1.
    pub(crate) fn read(&self, index: usize) -> Result<Vec<f32>> {
        match &self.numbers {
            None => Ok(Vec::new()),
            Some(numbers) => read_floats(numbers[index].clone()),
        }
    }
}

/// The optimizer's state: moments by parameter path, and the number of steps taken.
#[derive(Clone, Debug, Default)]
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
        place: Place,
    ) -> Result<M> {
        if gradients.is_empty() {
            return Ok(model);
        }
        self.time += 1;
        let mut update = Update {
            gradients,
            shards,
            place,
            moments: &mut self.moments,
            time: self.time,
            betas: settings.betas,
            learning_rate,
            decay: (learning_rate * settings.weight_decay) as f32,
            outcome: Ok(()),
        };
        let model = parameters::map(model, &mut update);
        update.outcome.map(|()| model)
    }
}

/// What the update of a parameter is computed with.
pub(super) struct Rates {
    pub beta1: f32,
    pub beta2: f32,
    /// Of learning, over the first moment's correction.
    pub rate: f32,
    /// Of the second moment.
    pub correction: f32,
    /// What weight decay leaves of a number.
    pub keep: f32,
    pub epsilon: f32,
}

/// A step of a parameter: lists `[numbers]` on the parameter's device.
pub(super) struct Step {
    pub id: ParamId,
    pub value: Tensor<1>,
    pub gradient: Tensor<1>,
    /// As [`Moments::numbers`], or none yet.
    pub moments: Option<[Tensor<1>; 2]>,
}

struct Update<'a> {
    gradients: Gradients,
    shards: &'a Shards,
    place: Place,
    moments: &'a mut BTreeMap<String, Moments>,
    time: u64,
    betas: [f64; 2],
    learning_rate: f64,
    decay: f32,
    /// Whether the other ranks could be reached.
    outcome: Result<()>,
}

impl Update<'_> {
    /// For a parameter of `dimensions`, whose moments count from `since`.
    fn rates(&self, dimensions: usize, since: u64) -> Rates {
        // Of a parameter that joined late the moments are as young as it is.
        let time = i32::try_from(self.time - since).unwrap_or(i32::MAX);
        let [beta1, beta2] = self.betas;
        Rates {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            rate: (self.learning_rate / (1.0 - beta1.powi(time))) as f32,
            correction: (1.0 / (1.0 - beta2.powi(time))) as f32,
            // Biases and norms (vectors) are not decayed.
            keep: if dimensions < 2 {
                1.0
            } else {
                1.0 - self.decay
            },
            epsilon: EPSILON,
        }
    }
}

impl parameters::Mapper for Update<'_> {
    fn map<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.outcome.is_err() {
            return param;
        }
        let Some(gradient) = self.gradients.take(param.id) else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let (shape, flat) = (tensor.shape(), [tensor.shape().num_elements()]);
        let (since, moments) = match self.moments.remove(path) {
            Some(moments) => (moments.since, moments.numbers),
            None => (self.time - 1, None),
        };
        let rates = self.rates(D, since);
        let step = Step {
            id,
            value: tensor.clone().inner().reshape(flat),
            gradient,
            moments,
        };
        let updated = match self.place {
            Place::Host => on_host::update(step, &rates, self.shards),
            Place::Device => on_device::update(step, &rates, self.shards),
        };
        let tensor = match updated {
            Ok((value, numbers)) => {
                self.moments.insert(path.into(), Moments { numbers, since });
                Tensor::from_inner(value.reshape(shape)).require_grad()
            }
            Err(error) => {
                self.outcome = Err(error);
                tensor
            }
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::{AdamWConfig, GradientsParams};
    use burn::tensor::{Device, Distribution};

    use super::super::place::Norms;
    use crate::training::distributed::ProcessGroup;

    /// Burn's own AdamW as the reference; decay is off because Burn decays biases too.
    #[test]
    fn agrees_with_tensor_operations() {
        for place in [Place::Host, Place::Device] {
            agrees_with_tensor_operations_in(place);
        }
    }

    fn agrees_with_tensor_operations_in(place: Place) {
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
            ours = (adamw.step(ours, gradients, 0.01, &settings, &shards, place)).expect("a step");
            let gradients = GradientsParams::from_grads(loss(&theirs).backward(), &theirs);
            theirs = reference.step(0.01, theirs, gradients);
        }
        let difference = (ours.weight.val() - theirs.weight.val()).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-6);
        assert_eq!(adamw.moments.keys().collect::<Vec<_>>(), ["bias", "weight"]);
    }

    #[test]
    fn a_late_parameter_begins_like_an_early_one() {
        for place in [Place::Host, Place::Device] {
            a_late_parameter_begins_like_an_early_one_in(place);
        }
    }

    fn a_late_parameter_begins_like_an_early_one_in(place: Place) {
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
            model =
                (adamw.step(model, gradients, 0.01, &settings, &shards, place)).expect("a step");
        }
        // A batch in which nothing took part is no step.
        let mut none = Gradients::default();
        let norms = none.clip_norm(&model, &shards, 1.0, &|_| false, place);
        assert_eq!(norms.and_then(Norms::read).expect("norms"), [0.0; 2]);
        model = (adamw.step(model, none, 0.01, &settings, &shards, place)).expect("a step");
        assert_eq!(adamw.time, 20);
        let bias = |model: &Linear| model.bias.as_ref().map(Param::val).expect("a bias");
        let before = bias(&model);
        let gradients = Gradients::of(&model, bias(&model).sum().backward());
        model = (adamw.step(model, gradients, 0.01, &settings, &shards, place)).expect("a step");
        // A first step has the length of the learning rate, whatever the gradient.
        let step = (before - bias(&model)).mean().into_scalar::<f32>();
        assert!((step - 0.01).abs() < 1e-6, "{step}");
        assert_eq!(adamw.moments["bias"].since, 20);
        assert_eq!(adamw.moments["weight"].since, 0);
    }

    /// Two steps of several ranks on one parameter of many chunks and some of few: the bits of one rank with the mean of
    /// their gradients. As operations on the device, the same but for the rounding of the norms.
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
        let train = |group: ProcessGroup, place: Place| {
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
                let most = settings.max_grad_norm;
                let clipped = sum.clip_norm(&model, &shards, most, &|path| path == "bias", place);
                norms.push(clipped.and_then(Norms::read).expect("norms"));
                let step = adamw.step(model, sum, 0.01, &settings, &shards, place);
                model = step.expect("a step");
            }
            let kept = adamw.moments.values().map(|moments| {
                let numbers = moments.numbers.as_ref();
                numbers.map_or(0, |[first, _]| first.shape().num_elements())
            });
            let kept: usize = kept.sum();
            let weights = read_floats(model.weight.val().inner()).expect("weights");
            (weights, norms, kept)
        };
        let train = &train;
        let (weights, norms, kept) = train(ProcessGroup::default(), Place::Host);
        assert_eq!(kept, 700 * 500 + 500);
        let runs = [(2, Place::Host), (4, Place::Host)];
        let on_device = [1, 2, 4].map(|ranks| (ranks, Place::Device));
        for (ranks, place) in runs.into_iter().chain(on_device) {
            let ended: Vec<_> = thread::scope(|scope| {
                let ranks = threads(ranks).into_iter();
                let running: Vec<_> = ranks
                    .map(|group| scope.spawn(move || train(group, place)))
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
            match (ranks, place) {
                // Two ranks of two samples each add up in another order.
                (2, _) => (),
                (_, Place::Host) => assert!(first.0 == weights && first.1 == norms),
                (_, Place::Device) => {
                    let weights = first.0.iter().zip(&weights);
                    let furthest = weights.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(furthest < 1e-6, "{ranks} ranks: {furthest:e}");
                    let norms = first.1.iter().flatten().zip(norms.iter().flatten());
                    // 350,000 squares in one sum of f32 lose some digits.
                    for (got, want) in norms {
                        assert!((got / want - 1.0).abs() < 1e-4, "{got}, not {want}");
                    }
                }
            }
        }
    }
}
