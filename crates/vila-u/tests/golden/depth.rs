//! The depth transformer: teacher-forced logits, and the same logits step by step.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use vila_u::{
    checkpoint::{Part, weights},
    depth::{DepthConfig, DepthTransformer},
};

use crate::fixture::{Recorded, folder};

pub fn load() -> DepthTransformer {
    let path = folder().join("checkpoint/vision_tower");
    let text = std::fs::read_to_string(path.join("config.json")).unwrap();
    let mut tower: serde_json::Value = serde_json::from_str(&text).unwrap();
    let config: DepthConfig = serde_json::from_value(tower["rqtransformer"].take()).unwrap();
    let mut depth = config.init(&Device::flex());
    weights::load_into(&mut depth, &path, Part::DepthTransformer).unwrap();
    depth
}

/// Hidden states, cumulative code vectors and logits of the first three positions of both rows.
fn recorded() -> (Tensor<2>, Tensor<3>, Tensor<3>) {
    let recorded = Recorded::open("depth.safetensors");
    let hidden: Tensor<3> = recorded.tensor("body_hidden");
    let sums: Tensor<4> = recorded.tensor("code_embeds_cumsum");
    let logits: Tensor<4> = recorded.tensor("logits");
    (
        hidden.narrow(1, 0, 3).flatten(0, 1),
        sums.flatten(0, 1),
        logits.narrow(1, 0, 3).flatten(0, 1),
    )
}

fn assert_near(actual: Tensor<3>, expected: Tensor<3>) {
    let difference = (actual - expected.clone()).square().sum().sqrt();
    let error = (difference / expected.square().sum().sqrt()).into_scalar::<f32>();
    assert!(error < 1e-5, "relative error {error:.2e}");
}

#[test]
fn teacher_forced() {
    let depth = load();
    let (hidden, sums, logits) = recorded();
    assert_near(depth.teacher_forced(hidden, sums), logits);
}

#[test]
fn step_by_step() {
    let depth = load();
    let (hidden, sums, logits) = recorded();
    let mut cache = depth.cache(hidden.dims()[0]);
    // Twice, since a cache serves one visual position after the other.
    for _ in 0..2 {
        let mut steps = vec![depth.first(hidden.clone(), &mut cache)];
        for at in 0..depth.depth() - 1 {
            let sum = sums.clone().narrow(1, at, 1).squeeze_dim(1);
            steps.push(depth.next(sum, &mut cache));
        }
        assert_near(Tensor::stack(steps, 1), logits.clone());
    }
}

/// A model in training drops activations, in validation it does not.
#[test]
fn dropout_only_in_training() {
    let (hidden, sums, logits) = recorded();
    let run = |depth: &DepthTransformer| {
        let logits = depth.teacher_forced(hidden.clone(), sums.clone());
        logits.without_autodiff()
    };
    let depth = load().train();
    assert_ne!(run(&depth).into_data(), run(&depth).into_data());
    assert_near(run(&depth.valid()), logits.clone());
    assert_near(run(&depth.with_dropout(0.0)), logits);
}
