//! The exponential moving average of a model's weights: `mean += (1 - decay) (weights - mean)` after every step.
//!
//! It is smoother than the weights of any one step, which is why it, where a recipe asks for it, is what is
//! evaluated and finished. Everything is averaged, codebooks too: they then fit the averaged features. What
//! is not trained stays exactly as it is.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::parameters;

/// The average `mean` moved towards the weights of `model` after its step number `step`, from 1.
pub(crate) fn update<M: Module>(mean: M, model: &M, decay: f64, step: u64) -> M {
    // A mean of few steps must not be mostly the random start.
    let decay = decay.min(step as f64 / (step + 9) as f64);
    let mut weights = Weights::default();
    parameters::visit(model, &mut weights);
    let mut update = Update {
        weights: weights.0,
        rate: 1.0 - decay,
    };
    parameters::map(mean, &mut update)
}

/// A copy to begin with, detached from the autodiff graph.
pub(crate) fn start<M: Module>(model: &M) -> M {
    parameters::map(model.clone(), &mut Detach)
}

struct Detach;

impl parameters::Mapper for Detach {
    fn map<const D: usize>(&mut self, _: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| Tensor::from_inner(tensor.inner()))
    }
}

/// Flattened, by path.
#[derive(Default)]
struct Weights(BTreeMap<String, Tensor<1>>);

impl parameters::Visitor for Weights {
    fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        let tensor = param.val().inner();
        let count = tensor.shape().num_elements();
        self.0.insert(path.into(), tensor.reshape([count]));
    }
}

struct Update {
    weights: BTreeMap<String, Tensor<1>>,
    rate: f64,
}

impl parameters::Mapper for Update {
    fn map<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(weights) = self.weights.remove(path) else {
            return param;
        };
        param.map(|mean| {
            let mean = mean.inner();
            let weights = weights.reshape(mean.shape());
            Tensor::from_inner(mean.clone() + (weights - mean) * self.rate)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    fn layer(weight: f32) -> Linear {
        let device = Device::flex().autodiff();
        let mut layer: Linear = LinearConfig::new(2, 2).init(&device);
        layer.weight = Param::from_tensor(Tensor::full([2, 2], weight, &device).require_grad());
        layer
    }

    fn weight(layer: &Linear) -> f32 {
        layer.weight.val().mean().into_scalar()
    }

    #[test]
    fn the_mean_follows() {
        let (mean, model) = (start(&layer(1.0)), layer(3.0));
        // Late, 1 % of the way a step; early, as fast as the number of steps allows.
        let late = update(mean.clone(), &model, 0.99, 10_000);
        assert!((weight(&late) - 1.02).abs() < 1e-6);
        let early = update(mean.clone(), &model, 0.99, 1);
        assert!((weight(&early) - 2.8).abs() < 1e-6);
        assert!((weight(&update(late, &model, 0.99, 10_000)) - 1.0398).abs() < 1e-6);
        // Of what does not change nothing changes, to the bit.
        let same = update(start(&layer(0.1)), &layer(0.1), 0.9999, 777);
        assert_eq!(weight(&same), weight(&layer(0.1)));
        assert!(!mean.weight.is_require_grad() && !same.weight.is_require_grad());
    }
}
