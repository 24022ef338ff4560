//! The losses of visual targets, some at a time.
//!
//! The depth transformer turns each visual position into D of its own: what it keeps of them is more than
//! what the language model keeps of all positions. But positions never meet in it, and the loss is their
//! mean, so each piece can go forward and at once back. What is left of it are its losses, the gradients of
//! the depth transformer, and the slopes of its hidden states:
//!
//! ```text
//! dL/dh_i = gradient of sum(losses_i) / (targets * D)        L = ... + sum(h * dL/dh) - its own value
//! ```

use burn::tensor::{Int, Tensor};

use super::adamw::Gradients;
use super::multimodal::code_losses;
use crate::model::VilaU;

/// Codes whose positions are computed together.
const CODES: usize = 1024;

/// Visual targets that have gone both ways.
pub struct Pieces {
    /// `[targets, D]`, off the tape.
    pub losses: Tensor<2>,
    /// `[1]`, 0; its gradients with respect to the hidden states are those of the mean of the losses.
    pub slope: Tensor<1>,
    /// Of the depth transformer, from the mean of the losses.
    pub gradients: Gradients,
}

/// Positions in one piece.
pub fn positions(depth: usize) -> usize {
    (CODES / depth.max(1)).max(1)
}

impl Pieces {
    /// - `hidden`: `[targets, hidden]`, recorded
    /// - `codes`: `[targets, D]`, what is there
    pub fn new(model: &VilaU, hidden: Tensor<2>, codes: Tensor<2, Int>) -> Self {
        let [targets, depth] = codes.dims();
        let mut gradients = Gradients::default();
        let (mut losses, mut slopes) = (Vec::new(), Vec::new());
        let size = positions(depth);
        let values = hidden.clone().inner().split(size, 0);
        for (hidden, codes) in values.into_iter().zip(codes.split(size, 0)) {
            let hidden = hidden.autodiff().require_grad();
            let found = code_losses(model, hidden.clone(), codes);
            let mut tape = (found.clone().sum() / (targets * depth) as f64).backward();
            let none = || hidden.clone().inner().zeros_like();
            slopes.push(hidden.grad_remove(&mut tape).unwrap_or_else(none));
            let transformer = &model.vision_tower.rqtransformer;
            gradients.add(Gradients::of(transformer, tape));
            losses.push(found.inner());
        }
        let slope = (hidden * Tensor::cat(slopes, 0).autodiff()).sum();
        Self {
            losses: Tensor::cat(losses, 0),
            slope: slope.clone() - slope.inner().autodiff(),
            gradients,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;
    use crate::checkpoint::{Source, config};

    struct InOrder<'a>(&'a Gradients, Vec<Vec<f32>>);

    impl ModuleVisitor for InOrder<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push(self.0.get(param.id).unwrap().to_vec());
        }
    }

    #[test]
    fn pieces_add_up_to_the_whole() {
        let device = Device::flex().autodiff();
        let files = Source::parse("nano").unwrap().files(|_, _| ()).unwrap();
        let config = config::read(&files).unwrap();
        let mut model = config.init(&device);
        model.vision_tower.rqtransformer = model.vision_tower.rqtransformer.with_dropout(0.0);
        // Two pieces and a half.
        let targets = positions(4) * 5 / 2;
        let shape = [targets, config.llm.hidden_size];
        let hidden =
            Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad();
        let codes: Vec<i64> = (0..4 * targets as i64).map(|n| n * 37 % 512).collect();
        let codes = Tensor::from_data(TensorData::new(codes, [targets, 4]), &Device::flex());
        let depth = &model.vision_tower.rqtransformer;
        let in_order = |gradients: &Gradients| {
            let mut found = InOrder(gradients, Vec::new());
            depth.visit(&mut found);
            found.1
        };

        let whole = code_losses(&model, hidden.clone(), codes.clone());
        let mut tape = whole.clone().mean().backward();
        let mut expected = vec![
            hidden
                .grad_remove(&mut tape)
                .unwrap()
                .into_data()
                .iter()
                .collect(),
        ];
        expected.extend(in_order(&Gradients::of(depth, tape)));

        let pieces = Pieces::new(&model, hidden.clone(), codes);
        assert_eq!(pieces.slope.clone().into_scalar::<f32>(), 0.0);
        let apart = (pieces.losses - whole.inner()).abs().max();
        assert!(apart.into_scalar::<f32>() < 1e-5);
        let mut tape = pieces.slope.backward();
        let mut found: Vec<Vec<f32>> = vec![
            hidden
                .grad_remove(&mut tape)
                .unwrap()
                .into_data()
                .iter()
                .collect(),
        ];
        found.extend(in_order(&pieces.gradients));

        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let largest = expected
                .iter()
                .fold(0.0, |all: f32, one| all.max(one.abs()));
            let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f32::max) <= 1e-4 * largest);
            assert!(largest > 0.0);
        }
    }
}
