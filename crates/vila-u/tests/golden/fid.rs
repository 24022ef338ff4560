//! FID against torch-fidelity, pytorch-fid and clean-fid (`tools/record_fid.py`).

use std::{fs, path::PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use image::{Rgb, RgbImage};
use safetensors::SafeTensors;

use crate::fixture::{Recorded, relative_error, write};
use crate::losses::numbers;
use vila_u::evaluation::{
    fid::{Definition, Extractor, FeatureStatistics, Gaussian},
    inception::{FeatureLayer, Inception, SIZE},
    metrics::InceptionScore,
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fid")
}

fn recorded() -> Recorded {
    Recorded::read(&folder().join("recorded.safetensors"))
}

/// Waves of other lengths and directions for each seed and channel, in tiles.
fn picture(seed: u32, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let turned = (x / 8 + y / 8 + seed).is_multiple_of(3);
        Rgb([0, 1, 2].map(|c: u32| {
            let (across, down) = (3 + (5 * seed + 7 * c) % 11, 2 + (3 * seed + 5 * c) % 13);
            let phase = x * across + y * down + 37 * seed + 61 * c;
            let wave = (phase % 510).abs_diff(255);
            (if turned { 255 - wave } else { wave }) as u8
        }))
    })
}

/// FNV-1a.
fn salt(key: &str) -> u32 {
    let step = |value: u32, byte: u8| (value ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    key.bytes().fold(0x811C_9DC5, step)
}

/// The network at its full size with random weights.
fn network() -> Inception {
    let bytes = fs::read(folder().join("recorded.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let recorded = recorded();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut add = |key: String, shape: Vec<usize>, middle: f32, scale: f64| {
        let values = numbers(salt(&key), shape.iter().product(), scale);
        let values = values.into_iter().map(|value| middle + value).collect();
        tensors.push((key, shape, values));
    };
    for name in file.names() {
        let Some(convolution) = name.strip_prefix("shape.") else {
            continue;
        };
        let shape: Vec<usize> = (recorded.ints(name).into_iter())
            .map(|size| size as usize)
            .collect();
        let scale = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
        let outputs = vec![shape[0]];
        add(format!("{convolution}.conv.weight"), shape, 0.0, scale);
        for (tensor, middle, scale) in [
            ("weight", 1.0, 0.1),
            ("bias", 0.0, 0.1),
            ("running_mean", 0.0, 0.1),
            ("running_var", 1.0, 0.5),
        ] {
            let key = format!("{convolution}.bn.{tensor}");
            add(key, outputs.clone(), middle, scale);
        }
    }
    add("fc.weight".into(), vec![1008, 2048], 0.0, 0.1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inception.safetensors");
    write(&path, &tensors);
    // What it writes is what it reads.
    let converted = folder.path().join("converted.safetensors");
    vila_u::convert::convert(&[path], &converted).unwrap();
    Inception::load(&converted, &Device::flex()).unwrap()
}

#[test]
fn pictures_are_resized_as_theirs() {
    let recorded = recorded();
    let sizes = [(64, 48), (299, 299), (400, 310), (31, 700)];
    for (seed, (width, height)) in sizes.into_iter().enumerate() {
        let picture = picture(seed as u32, width, height);
        for definition in Definition::ALL {
            let values = definition.prepare(&picture);
            let sampled: Vec<f32> = (0..3 * SIZE * SIZE)
                .filter(|at| at % SIZE % 12 == 5 && at / SIZE % SIZE % 12 == 5)
                .map(|at| values[at])
                .collect();
            let expected = recorded.floats(&format!("resized.{}.{seed}", definition.name()));
            assert_eq!(sampled.len(), expected.len());
            let furthest = (sampled.iter().zip(&expected))
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            // Of 255 levels, a hundredth.
            assert!(
                furthest < 1e-4,
                "{definition:?} of {width} x {height}: {furthest}"
            );
        }
    }
}

#[test]
fn features_and_distances_are_theirs() {
    // Once is enough for a network of this size: its kernels are compared with every instruction set by themselves.
    if std::env::var_os(vila_u_kernels::CPU_VARIABLE).is_some() {
        return;
    }
    let recorded = recorded();
    let network = network();
    for definition in [Definition::TorchFidelity, Definition::PytorchFid] {
        let name = definition.name();
        for (seed, (width, height)) in [(64, 64), (200, 150), (310, 320)].into_iter().enumerate() {
            let pixels = definition.prepare(&picture(seed as u32, width, height));
            let pixels = TensorData::new(pixels, [1, 3, SIZE, SIZE]);
            let found = network.forward(Tensor::from_data(pixels, &Device::flex()));
            let compare = |layer: &str, found: Tensor<2>| {
                let found = found.into_data().try_to_vec::<f32>().unwrap();
                let expected = recorded.floats(&format!("features.{name}.{seed}.{layer}"));
                let error = relative_error(&found, &expected);
                println!("{name} {seed} {layer}: {error:.1e}");
                assert!(
                    error < 1e-4,
                    "{name}, picture {seed}, layer {layer}: {error:.1e}"
                );
            };
            for layer in FeatureLayer::ALL {
                compare(layer.name(), found.features(layer));
            }
            if definition == Definition::TorchFidelity {
                compare("logits", found.logits.clone());
            }
        }
        let extractor = Extractor {
            inception: network.clone(),
            definition,
            layers: FeatureLayer::ALL.to_vec(),
        };
        let sides = [0..8, 8..16].map(|seeds| {
            let pictures = seeds.map(|seed| extractor.prepare(&picture(seed, 64, 64)));
            let mut statistics = extractor.statistics();
            for batch in pictures.collect::<Vec<_>>().chunks(4) {
                extractor.add(batch, &mut statistics).unwrap();
            }
            statistics
        });
        for at in 0..FeatureLayer::ALL.len() {
            let [a, b] = [0, 1].map(|side: usize| sides[side].layers[at].1.gaussian().unwrap());
            let layer = FeatureLayer::ALL[at].name();
            let expected = f64::from(recorded.floats(&format!("fid.{name}.{layer}"))[0]);
            let distance = a.distance(&b).unwrap();
            println!("{name} {layer}: {distance} {expected}");
            assert!(
                (distance / expected - 1.0).abs() < 1e-3,
                "{name}, layer {layer}: {distance}, not {expected}"
            );
        }
    }
}

fn given(salt: u32, n: usize, scale: f64) -> Vec<f32> {
    numbers(salt, n * 24, scale)
}

fn gaussian(features: &[f32]) -> Gaussian {
    let mut statistics = FeatureStatistics::new(24);
    statistics.add(features).unwrap();
    statistics.gaussian().unwrap()
}

#[test]
fn distances_of_given_features_are_theirs() {
    let recorded = recorded();
    let first = given(500, 200, 1.0);
    let shifted: Vec<f32> = (given(501, 180, 1.5).into_iter())
        .map(|x| x + 0.1)
        .collect();
    let second: Vec<f32> = (shifted.iter().enumerate())
        .map(|(at, x)| {
            if at % 24 == 0 {
                *x
            } else {
                x + 0.5 * shifted[at - 1]
            }
        })
        .collect();
    let (first, second) = (gaussian(&first), gaussian(&second));
    let distance = first.distance(&second).unwrap();
    for definition in Definition::ALL {
        let expected = f64::from(recorded.floats(&format!("given.{}", definition.name()))[0]);
        assert!(
            (distance / expected - 1.0).abs() < 1e-6,
            "{definition:?}: {distance}, not {expected}"
        );
    }
    // NumPy's file of the first, whose mean is in f32.
    let read = Gaussian::read(&folder().join("statistics.npz")).unwrap();
    for (a, b) in read.mean.iter().zip(&first.mean) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    for (a, b) in read.covariance.iter().zip(&first.covariance) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }
}

#[test]
fn inception_scores_are_torch_fidelity_s() {
    let mut score = InceptionScore::new(12);
    for pictures in numbers(510, 60 * 12, 4.0).chunks(7 * 12) {
        score.add(pictures);
    }
    let (mean, deviation) = score.score();
    let expected = recorded().floats("inception-score");
    for (found, expected) in [mean, deviation].into_iter().zip(expected) {
        assert!(
            (found / f64::from(expected) - 1.0).abs() < 1e-6,
            "{found}, not {expected}"
        );
    }
}
