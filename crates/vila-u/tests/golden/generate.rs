//! Generating images and videos with guidance, always taking the most likely code.

use std::{ops::ControlFlow, time::Instant};

use burn::tensor::{Device, Tensor};
use serde::de::DeserializeOwned;
use vila_u::{
    Error,
    checkpoint::{Component, load_into},
    generation::{
        sampling::Sampling,
        visual::{self, VisualOptions, VisualOutput},
    },
    model::{VilaU, VilaUConfig},
};

use crate::fixture::{Recorded, folder};

fn read<T: DeserializeOwned>(file: &str) -> T {
    let text = std::fs::read_to_string(folder().join("checkpoint").join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn config() -> VilaUConfig {
    let config = VilaUConfig {
        root: read("config.json"),
        llm: read("llm/config.json"),
        mm_projector: read("mm_projector/config.json"),
        vision_tower: read("vision_tower/config.json"),
        siglip: read("siglip/config.json"),
    };
    config.check().unwrap();
    config
}

pub fn load(device: &Device) -> VilaU {
    load_config(&config(), device)
}

pub fn load_config(config: &VilaUConfig, device: &Device) -> VilaU {
    let mut model = VilaU::new(config, device).unwrap();
    let path = |name: &str| folder().join("checkpoint").join(name);
    load_into(&mut model.llm, &path("llm"), Component::Llm).unwrap();
    load_into(
        &mut model.mm_projector,
        &path("mm_projector"),
        Component::Projector,
    )
    .unwrap();
    load_into(
        &mut model.vision_tower,
        &path("vision_tower"),
        Component::VisionTower,
    )
    .unwrap();
    model
}

fn greedy(guidance: f64) -> VisualOptions {
    VisualOptions {
        guidance,
        sampling: Sampling::GREEDY,
        seed: 0,
        first: 0,
    }
}

fn generated(
    model: &VilaU,
    prompts: &[Vec<i64>],
    unconditional: &[i64],
    frames: usize,
    options: &VisualOptions,
) -> VisualOutput {
    let begin = Instant::now();
    let mut seen = 0;
    let output = visual::generate(
        model,
        prompts,
        unconditional,
        frames,
        options,
        &mut |progress| {
            seen += 1;
            assert_eq!((progress.done, progress.total), (seen, 64 * frames));
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    println!("{seen} visual tokens in {:?}", begin.elapsed());
    assert_eq!(seen, 64 * frames);
    output
}

/// Codes of all rows and frames in one list.
fn codes(output: &VisualOutput) -> Vec<i64> {
    let codes = output.codes.to_data().convert::<i64>();
    codes.iter::<i64>().collect()
}

/// Pixels as they are recorded, 0..255.
fn pixels(output: VisualOutput) -> Tensor<5> {
    ((output.pixels + 1.0) * 127.5).clamp(0.0, 255.0)
}

fn assert_pixels(actual: Tensor<5>, expected: &[f32]) {
    let actual: Vec<f32> = actual.into_data().iter::<f32>().collect();
    assert_eq!(actual.len(), expected.len());
    let difference = actual.iter().zip(expected).map(|(a, e)| (a - e).abs());
    let worst = difference.fold(0.0, f32::max);
    assert!(worst < 0.05, "a pixel is {worst} off");
}

#[test]
fn image() {
    let recorded = Recorded::open("generate.safetensors");
    let model = load(&Device::flex());
    let prompt = [recorded.ints("single.cond_ids")];
    let unconditional = recorded.ints("single.uncond_ids");
    for (case, guidance) in [("cfg3", 3.0), ("cfg1", 1.0)] {
        let output = generated(&model, &prompt, &unconditional, 1, &greedy(guidance));
        assert_eq!(output.codes.dims(), [1, 1, 8, 8, 4]);
        let expected = recorded.ints(&format!("single.{case}.codes"));
        assert_eq!(codes(&output), expected, "{case}");
        let expected = recorded.floats(&format!("single.{case}.image"));
        assert_pixels(pixels(output), &expected);
    }
}

/// Two prompts of different lengths at once.
#[test]
fn pair() {
    let recorded = Recorded::open("generate.safetensors");
    let model = load(&Device::flex());
    let (ids, mask) = (
        recorded.ints("pair.input_ids"),
        recorded.ints("pair.attention_mask"),
    );
    let rows: Vec<Vec<i64>> = ids
        .chunks(85)
        .zip(mask.chunks(85))
        .map(|(ids, mask)| {
            let real = ids.iter().zip(mask).filter(|(_, mask)| **mask == 1);
            real.map(|(id, _)| *id).collect()
        })
        .collect();
    for (case, guidance) in [("cfg3", 3.0), ("cfg1", 1.0)] {
        let output = generated(&model, &rows[..2], &rows[2], 1, &greedy(guidance));
        let expected = recorded.ints(&format!("pair.{case}.codes"));
        assert_eq!(codes(&output), expected, "{case}");
        if case == "cfg3" {
            assert_pixels(pixels(output), &recorded.floats("pair.cfg3.images"));
        }
    }
}

#[test]
fn video() {
    let recorded = Recorded::open("generate.safetensors");
    let model = load(&Device::flex());
    let prompt = [recorded.ints("video.cond_ids")];
    let unconditional = recorded.ints("video.uncond_ids");
    let output = generated(&model, &prompt, &unconditional, 8, &greedy(3.0));
    assert_eq!(output.codes.dims(), [1, 8, 8, 8, 4]);
    assert_eq!(codes(&output), recorded.ints("video.cfg3.codes"));
    let frames = pixels(output);
    let ends = Tensor::cat(
        vec![frames.clone().narrow(1, 0, 1), frames.narrow(1, 7, 1)],
        1,
    );
    assert_pixels(ends, &recorded.floats("video.cfg3.frames_0_7"));
}

/// A seed gives the same images again, however many are generated together.
#[test]
fn sampled_images_follow_the_seed() {
    let recorded = Recorded::open("generate.safetensors");
    let model = load(&Device::flex());
    let prompt = recorded.ints("single.cond_ids");
    let unconditional = recorded.ints("single.uncond_ids");
    let sample_from = |first, n: usize, seed| {
        let options = VisualOptions {
            guidance: 3.0,
            sampling: Sampling::VISUAL,
            seed,
            first,
        };
        let prompts = vec![prompt.clone(); n];
        codes(&generated(&model, &prompts, &unconditional, 1, &options))
    };
    let sample = |n, seed| sample_from(0, n, seed);
    let three = sample(3, 1);
    assert_eq!(sample(1, 1), three[..256]);
    assert_eq!(sample(3, 1), three);
    assert_ne!(three[..256], three[256..512]);
    assert_ne!(sample(1, 2), three[..256]);
    // In groups, the same.
    let five = sample(5, 1);
    let groups = [(0, 2), (2, 2), (4, 1)].map(|(first, n)| sample_from(first, n, 1));
    assert_eq!(groups.concat(), five);
}

#[test]
fn preview_and_interruption() {
    let recorded = Recorded::open("generate.safetensors");
    let model = load(&Device::flex());
    let prompt = [recorded.ints("single.cond_ids")];
    let unconditional = recorded.ints("single.uncond_ids");
    let mut previews = Vec::new();
    let stopped = visual::generate(
        &model,
        &prompt,
        &unconditional,
        1,
        &greedy(3.0),
        &mut |progress| {
            previews.push(progress.preview());
            match progress.done {
                2 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        },
    );
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert_eq!(previews.len(), 2);
    assert_eq!(previews[0].dims(), [1, 1, 3, 64, 64]);
    assert_ne!(previews[0].to_data(), previews[1].to_data());
}

#[test]
fn impossible_requests() {
    let model = load(&Device::flex());
    let refused = |prompts: &[Vec<i64>], options: &VisualOptions| {
        let result = visual::generate(&model, prompts, &[1, 600], 1, options, &mut |_| {
            ControlFlow::Break(())
        });
        result.err().unwrap().to_string()
    };
    assert!(refused(&[], &greedy(3.0)).contains("nothing to generate"));
    assert!(refused(&[vec![]], &greedy(3.0)).contains("at least one token"));
    assert!(refused(&[vec![1, 604]], &greedy(3.0)).contains("604"));
    assert!(refused(&[vec![1, -200]], &greedy(3.0)).contains("-200"));
    assert!(refused(&[vec![1]], &greedy(f64::NAN)).contains("guidance"));
}
