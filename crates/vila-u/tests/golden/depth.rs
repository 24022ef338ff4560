//! The depth transformer: teacher-forced logits, and the same logits step by step.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor},
};
use vila_u::depth::DepthTransformer;

use crate::{
    fixture::{Recorded, assert_close},
    generate,
};

/// The depth transformer, and the hidden states, cumulative code vectors and logits of all
/// recorded positions.
fn recorded() -> (DepthTransformer, Tensor<2>, Tensor<3>, Tensor<3>) {
    let recorded = Recorded::open("depth.safetensors");
    let tower = generate::load(&Device::flex()).vision_tower;
    let codes: Tensor<3, Int> = recorded.int_tensor("codes");
    let quantizer = &tower.rqvaesiglip.quantizer;
    let sums = quantizer.cumulative_embeddings(codes.flatten(0, 1));
    let first = sums.clone().reshape([2, 11, 4, 64]).narrow(1, 0, 3);
    assert_close(&recorded, "code_embeds_cumsum", first, 1e-6);
    let hidden: Tensor<3> = recorded.tensor("body_hidden");
    let logits: Tensor<4> = recorded.tensor("logits");
    let (hidden, logits) = (hidden.flatten(0, 1), logits.flatten(0, 1));
    (tower.rqtransformer, hidden, sums, logits)
}

fn assert_near(actual: Tensor<3>, expected: Tensor<3>) {
    let difference = (actual - expected.clone()).square().sum().sqrt();
    let error = (difference / expected.square().sum().sqrt()).into_scalar::<f32>();
    assert!(error < 1e-5, "relative error {error:.2e}");
}

#[test]
fn teacher_forced() {
    let (depth, hidden, sums, logits) = recorded();
    assert_near(depth.teacher_forced(hidden, sums), logits);
}

#[test]
fn step_by_step() {
    let (depth, hidden, sums, logits) = recorded();
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
    let (depth, hidden, sums, logits) = recorded();
    let run = |depth: &DepthTransformer| {
        let logits = depth.teacher_forced(hidden.clone(), sums.clone());
        logits.without_autodiff()
    };
    let depth = depth.train();
    assert_ne!(run(&depth).into_data(), run(&depth).into_data());
    assert_near(run(&depth.valid()), logits.clone());
    assert_near(run(&depth.with_dropout(0.0)), logits);
}

/// The most likely codes of three positions, with and without guidance.
#[test]
fn guided_codes() {
    let recorded = Recorded::open("depth.safetensors");
    let tower = generate::load(&Device::flex()).vision_tower;
    let depth = &tower.rqtransformer;
    for (case, guidance) in [("cfg3", 3.0), ("cfg1", 1.0)] {
        let hidden: Tensor<3> = recorded.tensor("gen.body_hidden");
        let mut cache = depth.cache(6);
        let mut logits = depth.first(hidden.flatten(0, 1), &mut cache);
        let mut sum = Tensor::<2>::zeros([6, 64], &logits.device());
        let mut codes = Vec::new();
        for at in 0..depth.depth() {
            if at > 0 {
                logits = depth.next(sum.clone(), &mut cache);
            }
            let (with, without) = (
                logits.clone().narrow(0, 0, 3),
                logits.clone().narrow(0, 3, 3),
            );
            let guided = without.clone() + (with - without) * guidance;
            let code = guided.argmax(1).reshape([3]).repeat_dim(0, 2);
            sum = sum + tower.rqvaesiglip.quantizer.embed_code(at, code.clone());
            codes.push(code);
        }
        let codes = Tensor::stack::<2>(codes, 1).into_data().convert::<i64>();
        let codes: Vec<i64> = codes.iter::<i64>().collect();
        assert_eq!(codes, recorded.ints(&format!("gen.{case}.codes")));
        let features = sum.unsqueeze_dim::<3>(1);
        assert_close(&recorded, &format!("gen.{case}.features"), features, 1e-6);
    }
}
