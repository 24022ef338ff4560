//! Scores of records, read from files as `vila-u score` does, against the recorded losses.

use std::fs;

use burn::tensor::Device;
use serde_json::json;
use vila_u::{data::read_jsonl, evaluation::score::score, teacher_forcing::Score, text::Tokenizer};

use crate::{
    fixture::{Recorded, folder},
    generate::{config, load},
};

/// The recorded losses of one sample of a batch: means over the positions that are its own.
fn expected(batch: &str, sample: i64) -> Score {
    let recorded = Recorded::open("train.safetensors");
    let key = |name: &str| format!("{batch}.{name}");
    let source = recorded.ints(&key("packed_source"));
    let length = recorded.shape(&key("packed_source"))[1];
    // At each depth; text has one.
    let means = |positions: &str, nll: &str| -> (Vec<f64>, usize) {
        let positions = recorded.ints(&key(positions));
        let nll = recorded.floats(&key(nll));
        let depth = nll.len() / (positions.len() / 2);
        let (mut sums, mut count) = (vec![0.0; depth], 0);
        for (position, nll) in positions.chunks_exact(2).zip(nll.chunks(depth)) {
            let from = position[0] as usize * length + position[1] as usize;
            if source[from] == sample && source[from + 1] == sample {
                let sums = sums.iter_mut().zip(nll);
                sums.for_each(|(sum, nll)| *sum += f64::from(*nll));
                count += 1;
            }
        }
        let means = sums.into_iter().filter(|_| count > 0);
        (means.map(|sum| sum / count as f64).collect(), count)
    };
    let (text, text_tokens) = means("text_loss_positions", "text_nll");
    let (depth_losses, visual_tokens) = means("visual_loss_positions", "visual_nll");
    let depths = depth_losses.len() as f64;
    Score {
        text_loss: text.first().copied(),
        text_tokens,
        visual_loss: (depths > 0.0).then(|| depth_losses.iter().sum::<f64>() / depths),
        visual_tokens,
        depth_losses,
    }
}

fn assert_near(actual: Option<f64>, expected: Option<f64>) {
    assert_eq!(actual.is_some(), expected.is_some());
    let (actual, expected) = (actual.unwrap_or(1.0), expected.unwrap_or(1.0));
    assert!(
        (actual / expected - 1.0).abs() < 1e-5,
        "{actual} {expected}"
    );
}

#[test]
fn records() {
    let inputs = folder().join("inputs");
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("video")).unwrap();
    for frame in 0..8 {
        let name = format!("frame{frame}.png");
        fs::copy(inputs.join(&name), data.path().join("video").join(name)).unwrap();
    }
    for image in ["img0.png", "img1.png", "img3.png"] {
        fs::copy(inputs.join(image), data.path().join(image)).unwrap();
    }
    let json = fs::read(folder().join("prompts.json")).unwrap();
    let prompts: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let turns = |name: &str| {
        let cases = prompts["training"].as_array().unwrap();
        cases.iter().find(|case| case["name"] == name).unwrap()["messages"].clone()
    };
    let asked = |human: &str, gpt: &str| json!([{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]);
    let bird = asked("A bird runs toward the moon.", "<image>");
    let records = [
        json!({"image": "img0.png", "conversations": turns("understanding_image")}),
        json!({"image": "img3.png", "conversations": turns("image_generation")}),
        json!({"conversations": turns("text_only")}),
        json!({"video": "video", "conversations": bird}),
        json!({"images": ["img1.png"], "conversations": asked("An image.", "<image>")}),
        json!({"image": "img1.png", "conversations": asked("An image.", "No <image> <image>.")}),
    ];
    let lines: Vec<String> = records.iter().map(ToString::to_string).collect();
    let path = data.path().join("data.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();

    let (model, config) = (load(&Device::flex()), config());
    let tokenizer = Tokenizer::from_dir(&folder().join("checkpoint/llm")).unwrap();
    let records = read_jsonl(&path).unwrap();
    let samples = [("b1", 0), ("b1", 1), ("b1", 3), ("b2", 0), ("b3", 1)];
    for (record, (batch, sample)) in records.iter().zip(samples) {
        let scored = score(&model, &config, &tokenizer, record).unwrap();
        assert_eq!(scored.id, record.id);
        let (actual, expected) = (scored.score, expected(batch, sample));
        assert_eq!(actual.text_tokens, expected.text_tokens, "{batch} {sample}");
        assert_eq!(
            actual.visual_tokens, expected.visual_tokens,
            "{batch} {sample}"
        );
        assert_near(actual.text_loss, expected.text_loss);
        assert_near(actual.visual_loss, expected.visual_loss);
        assert_eq!(actual.depth_losses.len(), expected.depth_losses.len());
        for (actual, expected) in actual.depth_losses.into_iter().zip(expected.depth_losses) {
            assert_near(Some(actual), Some(expected));
        }
    }
    let error = score(&model, &config, &tokenizer, &records[5]).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("record 6: the text says <image> 2 times"),
        "{message}"
    );
}
