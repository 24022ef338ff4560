//! Training the codebooks: running means, restarts, and quantization inside a training step.

use burn::{
    module::Param,
    tensor::{Device, Tensor},
};
use vila_u::tower::{CodebookUpdate, Quantized, ResidualQuantizer, RqVaeSiglip};

use crate::{
    fixture::{Recorded, assert_close},
    tower::{configs, model},
};

/// Restarts as recorded: vectors in their order, without noise.
struct InOrder;

impl CodebookUpdate for InOrder {
    fn choose(&mut self, _length: usize, count: usize) -> Vec<usize> {
        (0..count).collect()
    }

    fn noise(&mut self, count: usize) -> Vec<f32> {
        vec![0.0; count]
    }
}

fn quantizer(device: &Device, restart: bool) -> ResidualQuantizer {
    let mut quantizer = model(device).quantizer;
    quantizer.restart_unused_codes = restart;
    quantizer
}

fn assert_scalar(recorded: &Recorded, key: &str, actual: Tensor<1>) {
    let (actual, expected) = (actual.into_scalar::<f32>(), recorded.floats(key)[0]);
    assert!(
        (actual / expected - 1.0).abs() < 1e-4,
        "{key}: {actual}, recorded {expected}"
    );
}

fn assert_codes(recorded: &Recorded, key: &str, quantized: &Quantized) {
    let codes: Vec<i64> = quantized.codes.clone().into_data().iter().collect();
    assert_eq!(codes, recorded.ints(key));
}

#[test]
fn running_means() {
    let recorded = Recorded::open("quantizer_ema.safetensors");
    let mut quantizer = quantizer(&Device::flex(), false);
    let quantized = quantizer.forward_train(recorded.tensor("input"), &mut InOrder);

    assert_codes(&recorded, "codes", &quantized);
    assert_scalar(
        &recorded,
        "commitment_loss",
        quantized.commitment_loss.clone(),
    );
    let tower = Recorded::open("tower.safetensors");
    assert_scalar(&tower, "commitment_loss_train", quantized.commitment_loss);
    assert_close(&recorded, "z_q", quantized.z_q, 1e-4);
    let codebook = &quantizer.codebooks[0];
    assert_close(&recorded, "weight_after.0", codebook.weight.val(), 1e-4);
    let sizes = codebook.cluster_size_ema.val();
    assert_close(&recorded, "cluster_size_ema_after.0", sizes, 1e-4);
    assert_close(
        &recorded,
        "embed_ema_after.0",
        codebook.embed_ema.val(),
        1e-4,
    );
}

#[test]
fn restarts() {
    let recorded = Recorded::open("quantizer_ema.safetensors");
    let mut quantizer = quantizer(&Device::flex(), true);
    let quantized = quantizer.forward_train(recorded.tensor("input"), &mut InOrder);

    assert_codes(&recorded, "restart.codes", &quantized);
    assert_scalar(
        &recorded,
        "restart.commitment_loss",
        quantized.commitment_loss,
    );
    let codebook = &quantizer.codebooks[0];
    assert_close(
        &recorded,
        "restart.weight_after.0",
        codebook.weight.val(),
        1e-4,
    );
    let sizes = codebook.cluster_size_ema.val();
    assert_close(&recorded, "restart.cluster_size_ema_after.0", sizes, 1e-4);
}

/// In a training step the gradient reaches the features as if nothing had been quantized, the
/// codebooks get none, and they move as they do outside of one.
#[test]
fn inside_a_training_step() {
    let recorded = Recorded::open("quantizer_ema.safetensors");
    let device = Device::flex().autodiff();
    let mut quantizer = quantizer(&device, true);
    let features = recorded.tensor::<4>("input").autodiff().require_grad();
    let first = quantizer.forward_train(features.clone(), &mut InOrder);
    assert_codes(&recorded, "restart.codes", &first);
    let second = quantizer.forward_train(features.clone(), &mut InOrder);

    let loss = (first.z_q * 2.0).sum() + second.z_q.sum();
    let gradients = loss.backward();
    let gradient = features.grad(&gradients).unwrap();
    let off = (gradient - 3.0).abs().max().into_scalar::<f32>();
    assert!(off < 1e-6, "{off}");
    let codebook = &quantizer.codebooks[0];
    assert!(!codebook.weight.val().is_require_grad());
    assert!(codebook.weight.val().grad(&gradients).is_none());
}

/// The commitment loss alone pulls the features, not the codebook.
#[test]
fn commitment_gradient() {
    let recorded = Recorded::open("quantizer_ema.safetensors");
    let device = Device::flex().autodiff();
    let quantizer = quantizer(&device, false);
    let features = recorded.tensor::<4>("input").autodiff().require_grad();
    let quantized = quantizer.forward(features.clone());
    let gradients = quantized.commitment_loss.backward();
    let gradient = features.grad(&gradients).unwrap();

    let codes = quantized.codes.reshape([256, 4]);
    let sums = quantizer.cumulative_embeddings(codes);
    let x = features.clone().detach().reshape([256, 1, 64]);
    let expected = (x - sums).sum_dim(1).reshape([4, 8, 8, 64]) * (2.0 / (4.0 * 256.0 * 64.0));
    let off = (gradient - expected.inner())
        .abs()
        .max()
        .into_scalar::<f32>();
    assert!(off < 1e-8, "{off}");
}

/// Codes that cover two by two latents each, with a codebook per depth.
#[test]
fn coarser_code_grid() {
    let device = Device::flex();
    let (config, siglip) = configs();
    let mut config = config.rqvaesiglip;
    config.code_shape = [4, 4, 3];
    config.shared_codebook = false;
    let mut model = RqVaeSiglip::new(&config, &siglip, &device).unwrap();
    assert_eq!(model.quantizer.codebooks.len(), 3);

    // A row that is one latent block side by side: top left, top right, bottom left, bottom right.
    let latents = Tensor::<1>::from_floats(
        std::array::from_fn::<f32, { 8 * 8 * 64 }, _>(|i| (i % 97) as f32),
        &device,
    )
    .reshape([1, 8, 8, 64]);
    let corner = |y: usize, x: usize| {
        latents
            .clone()
            .slice([0..1, 2 + y..3 + y, 4 + x..5 + x, 0..64])
            .reshape([1, 64])
    };
    let block = Tensor::cat(
        vec![corner(0, 0), corner(0, 1), corner(1, 0), corner(1, 1)],
        1,
    );
    let codebook = &mut model.quantizer.codebooks[0];
    let weight = codebook.weight.val().slice_assign([7..8, 0..256], block);
    codebook.weight = Param::from_tensor(weight).set_require_grad(false);

    let quantized = model.quantizer.forward(latents.clone());
    assert_eq!(quantized.codes.dims(), [1, 4, 4, 3]);
    let code = quantized.codes.clone().slice([0..1, 1..2, 2..3, 0..1]);
    assert_eq!(code.into_scalar::<i64>(), 7);
    let rebuilt = model.quantizer.features_of(quantized.codes);
    let off = (rebuilt - quantized.z_q).abs().max().into_scalar::<f32>();
    assert!(off < 1e-4, "{off}");
}

/// An untrained codebook with fewer vectors than rows still finds its place.
#[test]
fn from_scratch() {
    use rand::{SeedableRng, rngs::StdRng};
    let recorded = Recorded::open("quantizer_ema.safetensors");
    let device = Device::flex();
    let (config, siglip) = configs();
    let mut config = config.rqvaesiglip;
    config.n_embed = 300;
    let tower = RqVaeSiglip::new(&config, &siglip, &device).unwrap();
    let mut quantizer = tower.quantizer;
    let features = recorded.tensor::<4>("input");
    let mut rng = StdRng::seed_from_u64(1);
    let loss = |quantized: Quantized| quantized.commitment_loss.into_scalar::<f32>();
    let before = loss(quantizer.forward(features.clone()));
    for _ in 0..4 {
        quantizer.forward_train(features.clone(), &mut rng);
    }
    let after = loss(quantizer.forward(features));
    assert!(after < 0.3 * before, "{before} -> {after}");
}
