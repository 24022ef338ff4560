//! The commands on the recorded model give the recorded values.

use std::fs;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

use super::{golden, input, recorded_json};

struct File(Vec<u8>);

impl File {
    fn recorded(name: &str) -> Self {
        Self(fs::read(golden().join(name)).unwrap())
    }

    fn ints(&self, key: &str) -> Vec<i64> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(key).unwrap();
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::I64 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b))
                .collect(),
            other => panic!("{key}: {other:?}"),
        }
    }

    fn floats(&self, key: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(key).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32, "{key}");
        tensor
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    }
}

fn ids(value: &Value) -> Vec<i64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_i64().unwrap())
        .collect()
}

#[test]
fn encode_gives_the_recorded_codes_and_features() {
    let folder = TempDir::new().unwrap();
    let images = ["img0.png", "img1.png", "img2.png"].map(input);
    let mut arguments = vec!["encode", "-o", "codes.safetensors", "--features"];
    arguments.extend(images.iter().map(String::as_str));
    recorded_json(folder.path(), &arguments);
    let ours = File(fs::read(folder.path().join("codes.safetensors")).unwrap());
    let recorded = File::recorded("tower.safetensors");
    let codes = ours.ints("codes");
    assert_eq!(codes, recorded.ints("codes")[..codes.len()]);
    let features = ours.floats("features");
    for (a, b) in features.iter().zip(recorded.floats("z_q")) {
        assert!((a - b).abs() < 1e-4 * 8.4, "{a} {b}");
    }
}

#[test]
fn decode_gives_back_what_was_encoded() {
    let folder = TempDir::new().unwrap();
    let image = input("img0.png");
    recorded_json(
        folder.path(),
        &["encode", &image, "-o", "codes.safetensors"],
    );
    let printed = recorded_json(folder.path(), &["decode", "codes.safetensors", "-o", "out"]);
    assert_eq!(printed[0]["files"].as_array().unwrap().len(), 1);
    let image = image::open(folder.path().join("out/0000.png"))
        .unwrap()
        .to_rgb8();
    let recorded = File::recorded("tower.safetensors").floats("decoded");
    let plane = 64 * 64;
    for (x, y, pixel) in image.enumerate_pixels() {
        for channel in 0..3 {
            let at = channel * plane + (y * 64 + x) as usize;
            let expected = ((recorded[at] + 1.0) * 127.5).clamp(0.0, 255.0);
            let difference = f32::from(pixel[channel]) - expected;
            assert!((-1.05..=0.05).contains(&difference), "{difference}");
        }
    }
}

#[test]
fn greedy_answers_are_the_recorded_ones() {
    let folder = TempDir::new().unwrap();
    let recorded = File::recorded("llm.safetensors");
    let [image0, image1, image2, image3] =
        ["img0.png", "img1.png", "img2.png", "img3.png"].map(input);
    let frames = folder.path().join("frames");
    fs::create_dir(&frames).unwrap();
    for index in 0..8 {
        let name = format!("frame{index}.png");
        fs::copy(input(&name), frames.join(&name)).unwrap();
    }
    let two =
        "Here is one picture:<image>\nand here is another:<image>\nWhich of the two is darker?";
    let cases: [(&str, Vec<&str>); 5] = [
        ("a", vec!["Why is the old castle so quiet at night?"]),
        ("b", vec!["What is in the image?", "--image", &image0]),
        ("c", vec!["What moves in this video?", "--video", "frames"]),
        ("d", vec![two, "--image", &image1, "--image", &image3]),
        ("e", vec!["A cat?", "--image", &image2]),
    ];
    for (case, mut question) in cases {
        question.splice(0..0, ["ask", "--greedy", "--max-tokens", "12"]);
        let answer = &recorded_json(folder.path(), &question)[0];
        let expected = recorded.ints(&format!("{case}.greedy_tokens"));
        let tokens = ids(&answer["tokens"]);
        assert_eq!(tokens, expected[..tokens.len()], "case {case}");
        assert!(answer["prompt_tokens"].as_u64().unwrap() > 0);
    }
}

#[test]
fn a_guided_greedy_image_is_the_recorded_one() {
    let folder = TempDir::new().unwrap();
    let recorded = File::recorded("generate.safetensors");
    for (cfg, case) in [("3", "single.cfg3"), ("1", "single.cfg1")] {
        let prompt = "A small golden bird on a wooden table, oil painting.";
        let arguments = [
            "generate",
            prompt,
            "--greedy",
            "--cfg",
            cfg,
            "-o",
            "bird.png",
            "--codes",
            "bird.safetensors",
        ];
        let printed = &recorded_json(folder.path(), &arguments)[0];
        assert_eq!(ids(&printed["codes"]), [1, 8, 8, 4]);
        let ours = File(fs::read(folder.path().join("bird.safetensors")).unwrap());
        assert_eq!(ours.ints("codes"), recorded.ints(&format!("{case}.codes")));
        let image = image::open(folder.path().join("bird.png"))
            .unwrap()
            .to_rgb8();
        let expected = recorded.floats(&format!("{case}.image"));
        for (x, y, pixel) in image.enumerate_pixels() {
            for channel in 0..3 {
                let at = channel * 64 * 64 + (y * 64 + x) as usize;
                let difference = f32::from(pixel[channel]) - expected[at];
                assert!((-1.05..=0.05).contains(&difference), "{difference}");
            }
        }
    }
}

#[test]
fn a_guided_greedy_video_is_the_recorded_one() {
    let folder = TempDir::new().unwrap();
    let recorded = File::recorded("generate.safetensors");
    let prompt = "A red train crosses the bridge while the sun sets.";
    let arguments = [
        "generate", "--video", prompt, "--greedy", "-o", "frames", "--codes", "codes",
    ];
    let printed = &recorded_json(folder.path(), &arguments)[0];
    assert_eq!(ids(&printed["codes"]), [8, 8, 8, 4]);
    let ours = File(fs::read(folder.path().join("codes")).unwrap());
    assert_eq!(ours.ints("codes"), recorded.ints("video.cfg3.codes"));
    let expected = recorded.floats("video.cfg3.frames_0_7");
    for (frame, expected) in [0, 7].into_iter().zip(expected.chunks(3 * 64 * 64)) {
        let file = folder.path().join(format!("frames/{frame:04}.png"));
        let image = image::open(file).unwrap().to_rgb8();
        for (x, y, pixel) in image.enumerate_pixels() {
            for channel in 0..3 {
                let at = channel * 64 * 64 + (y * 64 + x) as usize;
                let difference = f32::from(pixel[channel]) - expected[at];
                assert!((-1.05..=0.05).contains(&difference), "{difference}");
            }
        }
    }
}

#[test]
fn prompts_have_the_recorded_ids() {
    let folder = TempDir::new().unwrap();
    let recorded = File::recorded("generate.safetensors");
    let prompt = "A small golden bird on a wooden table, oil painting.";
    let printed = recorded_json(folder.path(), &["tokenize", prompt, "--for", "image"]);
    assert_eq!(ids(&printed[0]["ids"]), recorded.ints("single.cond_ids"));
    let printed = recorded_json(folder.path(), &["tokenize", " ", "--for", "image"]);
    assert_eq!(ids(&printed[0]["ids"]), recorded.ints("single.uncond_ids"));
    let question = "What is in the image?";
    let arguments = ["tokenize", question, "--for", "chat", "--image-slots", "1"];
    let printed = recorded_json(folder.path(), &arguments);
    let recorded = File::recorded("llm.safetensors");
    assert_eq!(ids(&printed[0]["ids"]), recorded.ints("b.input_ids"));
}

#[test]
fn scores_are_the_recorded_losses() {
    let folder = TempDir::new().unwrap();
    let prompts: Value =
        serde_json::from_slice(&fs::read(golden().join("prompts.json")).unwrap()).unwrap();
    let training = prompts["training"].as_array().unwrap();
    let sample = training
        .iter()
        .find(|sample| sample["name"] == "image_generation")
        .unwrap();
    // The image generation sample of the recorded batch b1, the only one there with visual targets.
    fs::copy(input("img3.png"), folder.path().join("img3.png")).unwrap();
    let record = serde_json::json!({
        "id": "harbor", "image": "img3.png", "conversations": sample["messages"],
    });
    fs::write(folder.path().join("samples.jsonl"), format!("{record}\n")).unwrap();
    let score = &recorded_json(folder.path(), &["score", "samples.jsonl"])[0];
    assert_eq!(score["id"], "harbor");
    assert_eq!(score["text_tokens"], 4);
    assert_eq!(score["visual_tokens"], 64);
    let visual = score["visual_loss"].as_f64().unwrap();
    let recorded = f64::from(File::recorded("train.safetensors").floats("b1.visual_loss")[0]);
    assert!(
        (visual - recorded).abs() < 1e-4 * recorded,
        "{visual} {recorded}"
    );
}
