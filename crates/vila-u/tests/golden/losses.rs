//! The tower's losses and their gradients against PyTorch's (`tools/record_losses.py`).

use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Shape, Tensor, TensorData};

use crate::fixture::{Recorded, assert_close, write};
use vila_u::tower::{Siglip, SiglipConfig};
use vila_u::training::losses::adversarial::{
    PixelGrad, adaptive_weight, decoder_loss, discriminator_loss,
};
use vila_u::training::losses::lpips::{BLOCKS, CONVOLUTIONS};
use vila_u::training::losses::{Discriminator, DiscriminatorConfig, Lpips, contrastive};
use vila_u::training::recipe::Contrastive;

fn recorded() -> Recorded {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    Recorded::read(&folder.join("losses.safetensors"))
}

/// Hashed integers as numbers in -scale..scale; `salt` tells tensors apart.
pub fn numbers(salt: u32, count: usize, scale: f64) -> Vec<f32> {
    let number = |index: u32| {
        let x = index.wrapping_mul(0x9E37_79B9);
        let x = x.wrapping_add(salt.wrapping_mul(0x85EB_CA6B));
        let x = (x ^ (x >> 16)).wrapping_mul(0x21F0_AAAD);
        let x = (x ^ (x >> 15)).wrapping_mul(0x735A_2D97);
        let x = x ^ (x >> 15);
        ((f64::from(x) / 4_294_967_296.0 * 2.0 - 1.0) * scale) as f32
    };
    (0..count as u32).map(number).collect()
}

fn tensor<const D: usize>(salt: u32, shape: [usize; D], scale: f64) -> Tensor<D> {
    let values = numbers(salt, shape.iter().product(), scale);
    let data = TensorData::new(values, Shape::from(shape));
    Tensor::from_data(data, &Device::flex().autodiff())
}

fn pictures(salt: u32) -> Tensor<4> {
    tensor(salt, [2, 3, 32, 32], 1.0)
}

fn assert_scalar(recorded: &Recorded, key: &str, actual: Tensor<1>) {
    assert_close(recorded, key, actual.inner(), 1e-5);
}

/// VGG16's list of layers at a sixteenth of its width, as a file.
fn lpips() -> Lpips {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lpips.safetensors");
    let mut tensors = Vec::new();
    let (mut convolution, mut inputs) = (0, 3);
    for (block, outputs) in [4, 8, 16, 32, 32].into_iter().enumerate() {
        for _ in 0..BLOCKS[block] {
            let index = CONVOLUTIONS[convolution];
            let scale = (6.0 / (9 * inputs) as f64).sqrt();
            let salt = convolution as u32;
            let weight = numbers(100 + salt, outputs * inputs * 9, scale);
            tensors.push((
                format!("features.{index}.weight"),
                vec![outputs, inputs, 3, 3],
                weight,
            ));
            let bias = numbers(200 + salt, outputs, 0.1);
            tensors.push((format!("features.{index}.bias"), vec![outputs], bias));
            (convolution, inputs) = (convolution + 1, outputs);
        }
        let head = numbers(300 + block as u32, outputs, 1.0);
        let head: Vec<f32> = head.into_iter().map(f32::abs).collect();
        tensors.push((format!("lin{block}.weight"), vec![1, outputs, 1, 1], head));
    }
    write(&path, &tensors);
    Lpips::load(&path, &Device::flex()).unwrap()
}

fn discriminator() -> Discriminator {
    let config = DiscriminatorConfig {
        layers: 3,
        width: 8,
    };
    let mut model = Discriminator::new(&config, &Device::flex().autodiff()).unwrap();
    let set = |conv: &mut Conv2d, salt, scale: f64| {
        conv.weight = parameter(tensor(salt, conv.weight.dims(), scale));
        if let Some(bias) = &mut conv.bias {
            *bias = parameter(tensor(salt + 1, bias.dims(), 0.1));
        }
    };
    set(&mut model.first, 400, 0.3);
    for (layer, stage) in model.middle.iter_mut().enumerate() {
        let salt = layer as u32;
        set(&mut stage.conv, 410 + salt, 0.2);
        stage.scale = parameter(tensor(420 + salt, stage.scale.dims(), 0.5) + 1.0);
        stage.shift = parameter(tensor(430 + salt, stage.shift.dims(), 0.5));
    }
    set(&mut model.last, 440, 0.2);
    model
}

fn parameter<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor.detach().require_grad())
}

fn siglip() -> Siglip {
    let mut config = SiglipConfig::default();
    for (hidden, layers, heads) in [
        (
            &mut config.text_config.hidden_size,
            &mut config.text_config.num_hidden_layers,
            &mut config.text_config.num_attention_heads,
        ),
        (
            &mut config.vision_config.hidden_size,
            &mut config.vision_config.num_hidden_layers,
            &mut config.vision_config.num_attention_heads,
        ),
    ] {
        (*hidden, *layers, *heads) = (8, 1, 1);
    }
    let device = Device::flex().autodiff();
    let mut siglip = Siglip::new(&config, &device).unwrap();
    siglip.logit_scale = parameter(Tensor::from_floats([10f32.ln()], &device));
    siglip.logit_bias = parameter(Tensor::from_floats([-2.0], &device));
    siglip
}

#[test]
fn contrastive_losses() {
    let recorded = recorded();
    for (kind, name) in [
        (Contrastive::Sigmoid, "sigmoid"),
        (Contrastive::Softmax, "softmax"),
    ] {
        let siglip = siglip();
        let unit = |salt| {
            let x = tensor::<2>(salt, [6, 8], 1.0);
            let length = x.clone().square().sum_dim(1).sqrt();
            (x / length).detach().require_grad()
        };
        let (images, texts) = (unit(1), unit(2));
        let loss = contrastive(kind, &siglip, images.clone(), texts.clone());
        let gradients = loss.backward();
        assert_scalar(&recorded, &format!("{name}.loss"), loss);
        for (key, tensor) in [("images", images), ("texts", texts)] {
            let gradient = tensor.grad(&gradients).unwrap();
            assert_close(&recorded, &format!("{name}.{key}_grad"), gradient, 1e-5);
        }
        let scale = siglip.logit_scale.val().grad(&gradients).unwrap();
        assert_close(&recorded, &format!("{name}.scale_grad"), scale, 1e-5);
        match siglip.logit_bias.val().grad(&gradients) {
            Some(bias) => assert_close(&recorded, &format!("{name}.bias_grad"), bias, 1e-5),
            // A softmax does not see it: without a gradient it is not trained on noise.
            None => assert_eq!(kind, Contrastive::Softmax),
        }
    }
}

#[test]
fn lpips_and_its_gradient() {
    let recorded = recorded();
    let (x, y) = (pictures(10).require_grad(), pictures(11));
    let distance = lpips().forward(x.clone(), y);
    let gradients = distance.clone().mean().backward();
    assert_close(&recorded, "lpips.distance", distance.inner(), 1e-5);
    let gradient = x.grad(&gradients).unwrap();
    assert_close(&recorded, "lpips.x_grad", gradient, 1e-3);
    // Nothing differs from itself, and black pictures have a gradient too.
    let black = Tensor::zeros([1, 3, 16, 16], &x.device()).require_grad();
    let same = lpips().forward(black.clone(), black.clone());
    let gradients = same.clone().mean().backward();
    assert_eq!(same.into_scalar::<f32>(), 0.0);
    let gradient = black.grad(&gradients).unwrap();
    assert_eq!(gradient.abs().max().into_scalar::<f32>(), 0.0);
}

#[test]
fn discriminator_and_its_gradients() {
    let recorded = recorded();
    let (model, real, generated) = (discriminator(), pictures(10), pictures(11).require_grad());
    let of_real = model.forward(real);
    assert_close(
        &recorded,
        "discriminator.real",
        of_real.clone().inner(),
        1e-4,
    );
    let loss = discriminator_loss(of_real, model.forward(generated.clone().detach()));
    let gradients = loss.backward();
    assert_scalar(&recorded, "discriminator.loss", loss);
    let grad = |name: &str, gradient: Tensor<4>| {
        let key = format!("discriminator.{name}_grad");
        assert_close(&recorded, &key, gradient, 1e-3);
    };
    let conv = |conv: &Conv2d| conv.weight.val().grad(&gradients).unwrap();
    grad("first.weight", conv(&model.first));
    grad("middle.0.conv.weight", conv(&model.middle[0].conv));
    grad("last.weight", conv(&model.last));
    let bias = model.first.bias.as_ref().unwrap().val();
    for (name, parameter) in [
        ("first.bias", bias),
        ("middle.1.scale", model.middle[1].scale.val()),
        ("middle.2.shift", model.middle[2].shift.val()),
    ] {
        let key = format!("discriminator.{name}_grad");
        assert_close(&recorded, &key, parameter.grad(&gradients).unwrap(), 1e-3);
    }
    assert!(generated.grad(&gradients).is_none());

    // The decoder's side: the discriminator is held constant.
    let loss = decoder_loss(model.valid().forward(generated.clone()));
    let gradients = loss.backward();
    assert_close(&recorded, "decoder.loss", loss.inner(), 1e-3);
    let gradient = generated.grad(&gradients).unwrap();
    assert_close(&recorded, "decoder.drawn_grad", gradient, 1e-3);
    assert!(model.first.weight.val().grad(&gradients).is_none());
}

/// PyTorch had one graph of both losses through the last convolution and all before it.
#[test]
fn adaptive_weight_and_what_it_pulls_on() {
    let recorded = recorded();
    let (pixels, lpips) = (pictures(10), lpips());
    let features = tensor::<4>(20, [2, 4, 32, 32], 1.0).require_grad();
    let device = Device::flex().autodiff();
    let mut last = Conv2dConfig::new([4, 3], [3, 3])
        .with_padding(burn::nn::PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(&device);
    last.weight = parameter(tensor(21, [3, 4, 3, 3], 0.3));
    last.bias = Some(parameter(tensor(22, [3], 0.1)));

    let generated = last.forward(features.clone());
    let alike = PixelGrad::of(&generated, |generated| {
        let difference = (generated.clone() - pixels.clone()).abs().mean();
        difference * 8.0 + lpips.forward(generated, pixels.clone()).mean()
    });
    let opponent = discriminator().valid();
    let fools = PixelGrad::of(&generated, |generated| {
        decoder_loss(opponent.forward(generated))
    });
    let weight = adaptive_weight(&last, features.clone(), &alike, &fools);
    assert_close(&recorded, "adaptive.weight", weight.clone(), 1e-3);

    let adversarial = fools.loss.clone();
    let total = alike.add_grad(&fools, weight * 0.75).attach(generated);
    let gradients = total.backward();
    assert_close(&recorded, "adaptive.alike", total.inner(), 1e-4);
    assert_close(&recorded, "adaptive.fools", adversarial, 1e-3);
    let gradient = features.grad(&gradients).unwrap();
    assert_close(&recorded, "adaptive.features_grad", gradient, 1e-3);
    let gradient = last.weight.val().grad(&gradients).unwrap();
    assert_close(&recorded, "adaptive.conv_grad", gradient, 1e-3);
}
