//! Zero-shot classification as open_clip does it (`tools/record_zero_shot.py`): how pictures become pixels, classes
//! vectors, and how right ones are counted.

use burn::tensor::{Device, Int, Tensor, TensorData};
use vila_u::{
    evaluation::zero_shot::{Classifier, PictureEmbeds, rank},
    media::{load, to_tensor},
};

use crate::{
    fixture::{Recorded, assert_close, folder},
    tower::model,
};

const CLASSES: i64 = 24;
const TEMPLATES: i64 = 3;
const TOKENS: i64 = 16;
const WORDS: i64 = 300;

/// The tokens of each class in each template.
fn token_ids(device: &Device) -> Tensor<2, Int> {
    let texts = (0..CLASSES).flat_map(|class| (0..TEMPLATES).map(move |of| (class, of)));
    let ids = texts.flat_map(|(class, template)| {
        (0..TOKENS).map(move |at| (31 * class + 7 * template + 11 * at * (class + 2)) % WORDS)
    });
    let ids: Vec<i64> = ids.collect();
    let shape = [(CLASSES * TEMPLATES) as usize, TOKENS as usize];
    Tensor::from_data(TensorData::new(ids, shape), device)
}

fn pictures(device: &Device) -> Tensor<4> {
    let files = std::fs::read_dir(folder().join("inputs")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let pixels = |file| {
        let resize = vila_u::evaluation::zero_shot::RESIZE;
        to_tensor(&load(file).unwrap(), 64, resize, device).unwrap()
    };
    Tensor::cat(files.iter().map(|file| pixels(file)).collect(), 0)
}

#[test]
fn agrees_with_open_clip() {
    let device = Device::flex();
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/zero_shot.safetensors");
    let recorded = Recorded::read(&path);
    let tower = model(&device);
    let ids = token_ids(&device);
    let classifier = Classifier::of_ids(&tower.siglip_model, ids, TEMPLATES as usize).unwrap();
    let embeds = PictureEmbeds::new(&tower, pictures(&device));
    let identity = Tensor::<2>::eye(64, &device);
    let classes = classifier.cosines(identity).transpose();
    assert_close(&recorded, "classifier", classes, 1e-5);

    let by_depth = embeds.by_depth.into_iter().zip(1..);
    let by_depth = by_depth.map(|(embeds, depth)| (depth.to_string(), embeds));
    let targets = recorded.ints("targets");
    for (name, embeds) in by_depth.chain([("unquantized".to_string(), embeds.unquantized)]) {
        let logits = classifier.cosines(embeds) * 100.0;
        assert_close(&recorded, &format!("logits.{name}"), logits.clone(), 1e-4);
        let scores: Vec<f32> = logits.into_data().iter().collect();
        let scores = scores.chunks_exact(CLASSES as usize).zip(&targets);
        let ranks: Vec<usize> = scores
            .map(|(scores, right)| rank(scores, *right as usize).unwrap())
            .collect();
        let right = [1, 5].map(|top| ranks.iter().filter(|rank| **rank < top).count() as i64);
        assert_eq!(
            right.to_vec(),
            recorded.ints(&format!("right.{name}")),
            "{name}"
        );
    }
}
