//! Image features, codes, decoded pixels and the text-aligned space.

use burn::tensor::{Device, Tensor};
use vila_u::{
    checkpoint::{Component, load_into},
    tower::{RqVaeSiglip, SiglipConfig, VisionTower, VisionTowerConfig},
    training::losses::contrastive::sigmoid,
};

use crate::fixture::{Recorded, assert_close, folder};

pub fn configs() -> (VisionTowerConfig, SiglipConfig) {
    let read =
        |name: &str| std::fs::read_to_string(folder().join("checkpoint").join(name)).unwrap();
    let tower: VisionTowerConfig = serde_json::from_str(&read("vision_tower/config.json")).unwrap();
    let siglip = serde_json::from_str(&read("siglip/config.json")).unwrap();
    tower.check(&siglip).unwrap();
    (tower, siglip)
}

pub fn model(device: &Device) -> RqVaeSiglip {
    let (tower, siglip) = configs();
    let mut model = VisionTower::new(&tower, &siglip, device).unwrap();
    let folder = folder().join("checkpoint/vision_tower");
    load_into(&mut model, &folder, Component::VisionTower).unwrap();
    model.rqvaesiglip
}

#[test]
fn features() {
    let recorded = Recorded::open("tower.safetensors");
    let model = model(&Device::flex());
    let vision = &model.siglip_model.vision_model;
    let pixels = recorded.tensor::<4>("pixel_values");

    let patches = vision.embeddings.patch_embedding.forward(pixels.clone());
    assert_close(&recorded, "patch_embedding", patches, 1e-4);
    let x = vision.embeddings.forward(pixels.clone());
    assert_close(&recorded, "embeddings", x.clone(), 1e-4);
    let x = vision.encoder.layers[0].forward(x);
    assert_close(&recorded, "hidden.0", x.clone(), 1e-4);
    let x = vision.encoder.layers[1].forward(x);
    assert_close(&recorded, "hidden.1", x, 1e-4);
    let features = model.features(pixels).flatten::<3>(1, 2);
    assert_close(&recorded, "hidden.1", features, 1e-4);
}

#[test]
fn codes() {
    let recorded = Recorded::open("tower.safetensors");
    let model = model(&Device::flex());
    let quantized = model.encode(recorded.tensor("pixel_values"));

    let codes: Vec<i64> = quantized.codes.clone().into_data().iter().collect();
    assert_eq!(codes, recorded.ints("codes"));
    let tokens: Vec<i64> = codes.iter().map(|code| code + 604).collect();
    assert_eq!(tokens, recorded.ints("tokens"));
    assert_close(&recorded, "z_q", quantized.z_q, 1e-4);
    let loss = quantized.commitment_loss.into_scalar::<f32>();
    let expected = recorded.floats("commitment_loss_eval")[0];
    assert!((loss / expected - 1.0).abs() < 1e-4, "{loss} {expected}");

    let sum = model.quantizer.features_of(quantized.codes.clone());
    assert_close(&recorded, "code_sum", sum, 1e-4);
    let flat = quantized.codes.reshape([4 * 64, 4]);
    let sums = model.quantizer.cumulative_embeddings(flat);
    let last = sums.narrow(1, 3, 1).reshape([4, 8, 8, 64]);
    assert_close(&recorded, "code_sum", last, 1e-4);
}

#[test]
fn decoded_pixels() {
    let recorded = Recorded::open("tower.safetensors");
    let model = model(&Device::flex());
    let z_q = recorded.tensor::<4>("z_q");

    let first = z_q.clone().narrow(0, 0, 1).permute([0, 3, 1, 2]);
    let step = |name: &str, x: &Tensor<4>| {
        let x = x.clone().squeeze_dim::<3>(0);
        assert_close(&recorded, &format!("decoder.{name}.0"), x, 1e-4);
    };
    step("post_quant_in", &first);
    let x = model.post_quant_conv.forward(first);
    step("post_quant_conv", &x);
    let x = model.decoder.conv_in.forward(x);
    step("conv_in", &x);
    let x = model.decoder.mid.block_1.forward(x);
    let x = model.decoder.mid.attn_1.forward(x);
    step("mid_attn", &x);
    let x = model.decoder.mid.block_2.forward(x);
    step("mid_out", &x);

    assert_close(&recorded, "decoded", model.decode(z_q), 1e-4);
    let pixels = model.decode_codes(recorded.int_tensor("codes")).unwrap();
    assert_close(&recorded, "decoded", pixels, 1e-4);
}

/// Latents stretched to another grid: pixel centres map to pixel centres, edges are held.
#[test]
fn latents_are_resized_before_decoding() {
    let device = Device::flex();
    let (mut config, siglip) = configs();
    config.rqvaesiglip.decoder_latent_shape = Some([12, 10]);
    let mut tower = VisionTower::new(&config, &siglip, &device).unwrap();
    let folder = folder().join("checkpoint/vision_tower");
    load_into(&mut tower, &folder, Component::VisionTower).unwrap();
    let resized = tower.rqvaesiglip;

    // [to, 8]: how much of each of 8 latents is in each of `to`.
    let matrix = |to: usize| {
        let mut weights = vec![0f32; to * 8];
        for row in 0..to {
            let at = ((row as f32 + 0.5) * 8.0 / to as f32 - 0.5).max(0.0);
            let low = at as usize;
            weights[row * 8 + low] += 1.0 - at.fract();
            weights[row * 8 + (low + 1).min(7)] += at.fract();
        }
        Tensor::<1>::from_floats(&weights[..], &device).reshape([1, 1, to, 8])
    };
    let z_q = Recorded::open("tower.safetensors").tensor::<4>("z_q");
    let z = z_q.clone().permute([0, 3, 1, 2]); // [batch, channels, 8, 8]
    let z = matrix(12).matmul(z).matmul(matrix(10).transpose());
    let expected = resized.decoder.forward(resized.post_quant_conv.forward(z));

    let decoded = resized.decode(z_q);
    assert_eq!(decoded.dims(), [4, 3, 96, 80]);
    let off = (decoded - expected).abs().max().into_scalar::<f32>();
    assert!(off < 1e-4, "{off}");
}

#[test]
fn foreign_codes_are_refused() {
    let recorded = Recorded::open("tower.safetensors");
    let model = model(&Device::flex());
    let codes = recorded.int_tensor::<4>("codes");

    let padding_row = codes.zeros_like() + 128;
    assert!(model.decode_codes(padding_row).is_err());
    assert!(model.decode_codes(codes.zeros_like() - 1).is_err());
    assert!(model.decode_codes(codes.narrow(3, 0, 3)).is_err());
}

#[test]
fn text_aligned_space() {
    let recorded = Recorded::open("tower.safetensors");
    let model = model(&Device::flex());
    let close = |key: &str, x: Tensor<2>| assert_close(&recorded, key, x, 1e-4);

    let text = &model.siglip_model.text_model;
    let ids = || recorded.int_tensor::<2>("siglip.text_ids");
    let hidden = text.last_hidden(ids());
    assert_close(&recorded, "siglip.text_last_hidden", hidden, 1e-4);
    close("siglip.text_pooled", text.pooled(ids()));
    let short = recorded.int_tensor("siglip.text_ids_short");
    close("siglip.text_pooled_short", text.pooled(short));
    let texts = model.text_embeds(ids());
    close("siglip.text_embeds", texts.clone());

    let vision = &model.siglip_model.vision_model;
    let pixels = recorded.tensor::<4>("pixel_values");
    let features = vision.features(pixels.clone());
    let hidden = vision.last_hidden(features.clone());
    let first = hidden.narrow(0, 0, 1).squeeze_dim(0);
    close("siglip.image_last_hidden.0", first);
    close("siglip.image_pooled", vision.pooled(features));
    let images = model.image_embeds(pixels, false);
    close("siglip.image_embeds", images.clone());

    let logits = model.siglip_model.logits_per_image(images, texts);
    close("siglip.logits_per_image", logits.clone());
    close("siglip.logits_per_text", logits.clone().transpose());
    let loss = sigmoid(logits).into_scalar::<f32>();
    let expected = recorded.floats("siglip.sigmoid_loss_formula")[0];
    assert!((loss / expected - 1.0).abs() < 1e-4, "{loss} {expected}");
}

#[test]
fn quantized_features_take_the_rest_of_the_encoder() {
    let recorded = Recorded::open("tower.safetensors");
    let model = model(&Device::flex());
    let vision = &model.siglip_model.vision_model;
    let z_q = recorded.tensor::<4>("z_q").flatten::<3>(1, 2);
    let x = vision.encoder.layers[2].forward(z_q);
    let x = vision.head.forward(vision.post_layernorm.forward(x));
    let expected = x.clone() / x.square().sum_dim(1).sqrt();

    let embeds = model.image_embeds(recorded.tensor("pixel_values"), true);
    let difference = (embeds - expected).abs().max().into_scalar::<f32>();
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn released_sizes_fit_together() {
    for (name, grid, hidden) in [
        ("google/siglip-large-patch16-256", 16, 1024),
        ("google/siglip-so400m-patch14-384", 27, 1152),
    ] {
        let siglip = SiglipConfig::preset(name).unwrap();
        siglip.check().unwrap();
        assert_eq!(siglip.vision_config.grid(), grid);
        assert_eq!(siglip.vision_config.hidden_size, hidden);
    }
}
