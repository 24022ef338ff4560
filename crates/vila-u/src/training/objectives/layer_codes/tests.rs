use burn::tensor::Distribution;
use serde_json::json;

use super::*;
use crate::data::nano::{Scene, Split, emoji::inventory, scene::COLOURS};
use crate::media::preprocess::normalize;
use crate::tower::RqVaeSiglip;

const SIZE: u32 = 32;
const CODES: usize = 32;

/// 4 x 4 patches of three codes of 48 channels.
fn tower(device: &Device) -> RqVaeSiglip {
    let layers = |sizes: serde_json::Value| {
        let mut layers = json!({
            "hidden_size": 48, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2
        });
        for (key, value) in sizes.as_object().unwrap() {
            layers[key] = value.clone();
        }
        layers
    };
    let siglip = json!({
        "vision_config": layers(json!({"image_size": SIZE, "patch_size": 8})),
        "text_config": layers(json!({"vocab_size": 8, "max_position_embeddings": 4})),
    });
    let config = json!({
        "embed_dim": 48, "n_embed": CODES, "latent_shape": [4, 4, 48], "code_shape": [4, 4, 3],
        "ddconfig": {
            "z_channels": 48, "resolution": SIZE, "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 0,
            "attn_resolutions": []
        },
    });
    let [config, siglip] = [config, siglip].map(|value| value.to_string());
    let siglip = serde_json::from_str(&siglip).unwrap();
    RqVaeSiglip::new(&serde_json::from_str(&config).unwrap(), &siglip, device).unwrap()
}

fn scenes() -> Vec<Scene> {
    (0..64)
        .map(|index| Scene::sample(Split::Train, 1, index))
        .collect()
}

fn fit(tower: &RqVaeSiglip) -> LayerCodes {
    let pictures: Vec<_> = scenes().iter().map(|scene| scene.layers(SIZE)).collect();
    let pictures: Vec<_> = pictures.iter().collect();
    LayerCodes::of(&pictures, &tower.quantizer, 5, &Device::flex())
}

#[test]
fn an_object_has_the_same_codes_on_every_background() {
    let codes = fit(&tower(&Device::flex()));
    let [a, b] = [0, 1].map(|colour| Scene::plain(inventory()[3], COLOURS[colour]).layers(SIZE));
    let batch = codes.batch(&[&a, &b], 0.0, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(batch.codes.dims(), [2 * 16, 3]);
    let codes: Vec<i64> = batch.codes.into_data().iter().collect();
    let (a, b) = codes.split_at(16 * 3);
    let (mut empty, mut shown) = (0, 0);
    for (a, b) in a.chunks(3).zip(b.chunks(3)) {
        assert_eq!(a[..2], b[..2]);
        assert_ne!(a[2], b[2]);
        if a[..2] == [0, 0] {
            empty += 1
        } else {
            shown += 1
        }
    }
    assert!(shown >= 4 && empty >= 1, "{shown} {empty}");
}

#[test]
fn pictures_are_put_together_and_some_get_another_background() {
    let codes = fit(&tower(&Device::flex()));
    let scenes = &scenes()[..5];
    let layers: Vec<_> = scenes.iter().map(|scene| scene.layers(SIZE)).collect();
    let layers: Vec<_> = layers.iter().collect();
    let batch = codes.batch(&layers, 0.5, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(batch.own, 3);
    let own_colours = codes.own_colours as i64;
    let targets: Vec<i64> = batch.codes.into_data().iter().collect();
    for (index, scene) in scenes.iter().enumerate() {
        let made = batch.pixels.clone().narrow(0, index, 1).into_data();
        let picture = normalize(&scene.render(SIZE));
        let far = made
            .iter::<f32>()
            .zip(picture)
            .filter(|(a, b)| (a - b).abs() > 0.02);
        let (far, background) = (far.count(), targets[index * 16 * 3 + 2]);
        assert_eq!(background < own_colours, index < batch.own, "{background}");
        assert_eq!(far == 0, index < batch.own, "{index}: {far}");
    }
}

#[test]
fn a_palette_has_the_given_colours_and_others_apart_from_them() {
    let own = vec![[0, 0, 0], [255, 255, 255]];
    let palette = palette(own.clone(), 64, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(palette[..2], own);
    for (index, a) in palette.iter().enumerate() {
        for b in &palette[..index] {
            let apart: u32 = a
                .iter()
                .zip(b)
                .map(|(a, b)| u32::from(a.abs_diff(*b)))
                .sum();
            assert!(apart > 12, "{a:?} {b:?}");
        }
    }
}

#[test]
fn features_and_rows_learn_the_codes() {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let mut tower = tower(&device);
    let codes = fit(&tower);
    codes.initialise(&mut tower.quantizer);
    for codebook in &mut tower.quantizer.codebooks {
        codebook.weight = codebook.weight.clone().set_require_grad(true);
    }
    let features = Tensor::<4>::random([2, 4, 4, 48], Distribution::Normal(0.0, 1.0), &device);
    let features = features.require_grad();
    // The codes that quantizing gives are the nearest rows, so that no others have a smaller loss.
    let quantized = tower.quantizer.forward(features.clone());
    let own = quantized.codes.reshape([32, 3]);
    let (z_q, least) = codes.quantize(&mut tower.quantizer, features.clone(), own.clone());
    z_q.into_data()
        .assert_approx_eq::<f32>(&quantized.z_q.into_data(), Default::default());
    let others = (own + 1).remainder_scalar(CODES as i64);
    let (_, more) = codes.quantize(&mut tower.quantizer, features.clone(), others);
    let [least, more_value] = [&least, &more].map(|loss| loss.clone().into_scalar::<f32>());
    assert!(least < more_value, "{least} {more_value}");
    let grads = more.backward();
    let of_features = features.grad(&grads).unwrap();
    let of_rows = tower.quantizer.codebooks[1]
        .weight
        .val()
        .grad(&grads)
        .unwrap();
    for largest in [of_features.abs().max(), of_rows.abs().max()] {
        assert!(largest.into_scalar::<f32>() > 0.0);
    }
    let codebook = &tower.quantizer.codebooks[2];
    let rows = codebook
        .weight
        .val()
        .inner()
        .narrow(0, 0, CODES)
        .into_data();
    assert_eq!(rows, codebook.embed_ema.val().inner().into_data());
}
