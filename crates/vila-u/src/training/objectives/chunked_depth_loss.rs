//! The losses of visual targets, chunk by chunk.
//!
//! The depth transformer turns each visual position into D of its own: its activations take more memory than
//! those of the language model. But positions never attend to each other in it, and the loss is their mean, so
//! each chunk can go forward and at once backward. What is kept of it are its losses, the gradients of the depth
//! transformer, and those of its hidden states:
//!
//! ```text
//! dL/dh_i = gradient of sum(losses_i) / (targets * D)        L = ... + sum(h * dL/dh) - its own value
//! ```

use burn::tensor::{Int, Tensor};

use crate::model::VilaU;
use crate::teacher_forcing::code_losses;
use crate::training::optimizer::Gradients;

/// Codes whose positions are computed together.
const CODES: usize = 1024;

/// Visual targets that have gone forward and backward.
pub(super) struct ChunkedDepthLoss {
    /// `[targets, D]`, detached.
    pub losses: Tensor<2>,
    /// `[1]`, 0; its gradients with respect to the hidden states are those of the mean of the losses.
    pub surrogate: Tensor<1>,
    /// Of the depth transformer, from the mean of the losses.
    pub gradients: Gradients,
}

/// Visual positions of a chunk.
pub(crate) fn chunk_size(depth: usize) -> usize {
    (CODES / depth.max(1)).max(1)
}

impl ChunkedDepthLoss {
    /// - `hidden`: `[targets, hidden]`, tracked by autodiff
    /// - `codes`: `[targets, D]`, the targets
    pub(super) fn new(model: &VilaU, hidden: Tensor<2>, codes: Tensor<2, Int>) -> Self {
        let [targets, depth] = codes.dims();
        let mut gradients = Gradients::default();
        let (mut losses, mut hidden_grads) = (Vec::new(), Vec::new());
        let size = chunk_size(depth);
        let values = hidden.clone().inner().split(size, 0);
        for (hidden, codes) in values.into_iter().zip(codes.split(size, 0)) {
            let hidden = hidden.autodiff().require_grad();
            let chunk = code_losses(model, hidden.clone(), codes);
            let mut grads = (chunk.clone().sum() / (targets * depth) as f64).backward();
            let none = || hidden.clone().inner().zeros_like();
            hidden_grads.push(hidden.grad_remove(&mut grads).unwrap_or_else(none));
            let transformer = &model.vision_tower.rqtransformer;
            gradients.add(Gradients::of(transformer, grads));
            losses.push(chunk.inner());
        }
        let surrogate = (hidden * Tensor::cat(hidden_grads, 0).autodiff()).sum();
        Self {
            losses: Tensor::cat(losses, 0),
            surrogate: surrogate.clone() - surrogate.inner().autodiff(),
            gradients,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;
    use crate::checkpoint::{Source, config};

    #[test]
    fn chunks_add_up_to_the_whole() {
        let device = Device::flex().autodiff();
        let files = Source::parse("nano").unwrap().files(|_, _| ()).unwrap();
        let config = config::read(&files).unwrap();
        let mut model = config.init(&device);
        model.vision_tower.rqtransformer = model.vision_tower.rqtransformer.with_dropout(0.0);
        // Two chunks and a half.
        let targets = chunk_size(4) * 5 / 2;
        let shape = [targets, config.llm.hidden_size];
        let hidden =
            Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad();
        let codes: Vec<i64> = (0..4 * targets as i64).map(|n| n * 37 % 512).collect();
        let codes = Tensor::from_data(TensorData::new(codes, [targets, 4]), &Device::flex());
        let depth = &model.vision_tower.rqtransformer;
        let in_order = |gradients: &Gradients| {
            let gradients = gradients.in_order(depth).into_iter();
            gradients.map(Option::unwrap).collect::<Vec<_>>()
        };

        let whole = code_losses(&model, hidden.clone(), codes.clone());
        let mut grads = whole.clone().mean().backward();
        let mut expected = vec![
            hidden
                .grad_remove(&mut grads)
                .unwrap()
                .into_data()
                .iter()
                .collect(),
        ];
        expected.extend(in_order(&Gradients::of(depth, grads)));

        let chunked = ChunkedDepthLoss::new(&model, hidden.clone(), codes);
        assert_eq!(chunked.surrogate.clone().into_scalar::<f32>(), 0.0);
        let difference = (chunked.losses - whole.inner()).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-5);
        let mut grads = chunked.surrogate.backward();
        let mut actual: Vec<Vec<f32>> = vec![
            hidden
                .grad_remove(&mut grads)
                .unwrap()
                .into_data()
                .iter()
                .collect(),
        ];
        actual.extend(in_order(&chunked.gradients));

        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(&expected) {
            let largest = expected
                .iter()
                .fold(0.0, |all: f32, one| all.max(one.abs()));
            let differences = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(differences.fold(0.0, f32::max) <= 1e-4 * largest);
            assert!(largest > 0.0);
        }
    }
}
