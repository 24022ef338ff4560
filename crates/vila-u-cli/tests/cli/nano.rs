//! The embedded model generates, answers and measures itself; data and training work from the command
//! line.

use std::fs;

use image::{DynamicImage, GrayImage, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::Value;
use tempfile::TempDir;

use super::{json, vila_u};

#[test]
fn a_seed_always_gives_the_same_image() {
    let folder = TempDir::new().unwrap();
    let prompt = "a red heart on a blue background";
    for name in ["a.png", "b.png"] {
        let printed = json(
            folder.path(),
            &["generate", prompt, "--seed", "5", "-o", name],
        );
        assert_eq!(printed[0]["seed"], 5);
    }
    let [a, b] = ["a.png", "b.png"].map(|name| fs::read(folder.path().join(name)).unwrap());
    assert_eq!(a, b);
    let printed = json(
        folder.path(),
        &["generate", prompt, "--seed", "5", "-n", "2", "-o", "two"],
    );
    assert_eq!(printed[0]["files"].as_array().unwrap().len(), 3);
    let first = image::open(folder.path().join("two/0000.png")).unwrap();
    let alone = image::open(folder.path().join("a.png")).unwrap();
    assert_eq!(
        first, alone,
        "an image depends on how many are generated with it"
    );
    assert_eq!((first.width(), first.height()), (64, 64));
}

#[test]
fn what_it_was_never_told_of_is_named() {
    let folder = TempDir::new().unwrap();
    let said = |prompt: &str| {
        let output = vila_u(folder.path(), &["generate", prompt]);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let hint = said("a photo of Paris, on a blue background");
    assert!(hint.contains(r#"not "photo", "Paris". "#), "{hint}");
    assert!(hint.contains("a red heart on a blue background"), "{hint}");
    let split = vila_u::data::nano::Split::Test;
    let captions = (0..3).map(|n| vila_u::data::nano::Scene::sample(split, 0, n).caption());
    for caption in captions.chain(["a red heart moves left.".into()]) {
        let said = said(&caption);
        assert!(!said.contains("knows"), "{caption}: {said}");
    }
}

#[test]
fn it_answers_and_stops_when_told() {
    let folder = TempDir::new().unwrap();
    RgbImage::from_pixel(64, 64, Rgb([38, 98, 217]))
        .save(folder.path().join("blue.png"))
        .unwrap();
    let question = [
        "ask",
        "What colour is the background?",
        "--image",
        "blue.png",
        "--greedy",
    ];
    let answer = &json(folder.path(), &question)[0];
    assert!(!answer["text"].as_str().unwrap().is_empty());
    let short: Vec<&str> = question.into_iter().chain(["--max-tokens", "1"]).collect();
    assert_eq!(
        json(folder.path(), &short)[0]["tokens"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // Without --json the answer alone is printed.
    let output = vila_u(folder.path(), &question);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim(), answer["text"].as_str().unwrap());
}

#[test]
fn every_kind_of_image_file_is_read() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let rgb = RgbImage::from_fn(90, 40, |x, y| Rgb([x as u8 * 2, y as u8 * 5, 90]));
    for name in ["a.png", "a.jpg", "a.bmp", "a.tiff", "a.gif", "a.webp"] {
        rgb.save(path(name)).unwrap();
    }
    GrayImage::new(7, 300).save(path("gray.png")).unwrap();
    RgbaImage::from_pixel(30, 30, Rgba([9, 9, 9, 40]))
        .save(path("clear.png"))
        .unwrap();
    DynamicImage::ImageRgb8(rgb)
        .to_rgb16()
        .save(path("deep.png"))
        .unwrap();
    let mut arguments = vec!["encode", "-o", "c.safetensors"];
    let names = [
        "a.png",
        "a.jpg",
        "a.bmp",
        "a.tiff",
        "a.gif",
        "a.webp",
        "gray.png",
        "clear.png",
        "deep.png",
    ];
    arguments.extend(names);
    let printed = json(folder.path(), &arguments);
    assert_eq!(
        printed[0]["codes"],
        serde_json::json!([names.len(), 8, 8, 4])
    );
}

#[test]
fn reconstruction_and_matching_give_numbers() {
    let folder = TempDir::new().unwrap();
    json(folder.path(), &["data", "nano", "-n", "2", "-o", "world"]);
    let picture = fs::read_dir(folder.path().join("world/images"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let picture = picture.to_str().unwrap();
    let printed = json(
        folder.path(),
        &["reconstruct", picture, "-o", "r.png", "--side-by-side"],
    );
    assert!(printed[0]["psnr"].as_f64().unwrap() > 10.0);
    let arguments = [
        "classify",
        picture,
        "--label",
        "a dog",
        "--label",
        "a red heart",
    ];
    let printed = json(folder.path(), &arguments);
    let shares = printed[0][0]["probabilities"].as_object().unwrap();
    let sum: f64 = shares.values().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-4);
}

#[test]
fn it_measures_itself() {
    let folder = TempDir::new().unwrap();
    let arguments = ["eval", "nano", "-n", "4", "--cfg", "1", "-o", "report"];
    let report = &json(folder.path(), &arguments)[0];
    assert!(report.get("reconstruction").is_some(), "{report}");
    assert!(fs::read_dir(folder.path().join("report")).unwrap().count() > 1);
    let result = fs::read_to_string(folder.path().join("report/result.json")).unwrap();
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!(
        (&result["settings"]["n"], &result["settings"]["cfg"]),
        (&4.into(), &1.0.into())
    );
    let compared = &json(folder.path(), &["eval", "compare", "report", "report"])[0];
    assert!(
        compared["differs"].as_array().unwrap().is_empty(),
        "{compared}"
    );
    let object = &compared["metrics"].as_array().unwrap().iter();
    let object = object
        .clone()
        .find(|metric| metric["name"] == "generation.object");
    assert_eq!(
        object.unwrap()["difference"]["significant"],
        false,
        "{compared}"
    );
}

#[test]
fn an_exported_model_is_the_same_model() {
    let folder = TempDir::new().unwrap();
    json(folder.path(), &["export", "nano", "-o", "copy"]);
    let question = ["ask", "What is this?", "--greedy", "--max-tokens", "4"];
    let ours = json(folder.path(), &question);
    let copy: Vec<&str> = question.into_iter().chain(["--model", "copy"]).collect();
    assert_eq!(ours, json(folder.path(), &copy));
    let info = &json(folder.path(), &["info", "copy"])[0];
    assert!(info["parameters"].as_u64().unwrap() > 1_000_000);
}

#[test]
fn training_runs_resumes_and_refuses_to_overwrite() {
    let folder = TempDir::new().unwrap();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/nano-tower.toml");
    let steps = [
        "--set",
        "out=run",
        "--set",
        "batch_size=8",
        "--set",
        "steps=2",
    ];
    let mut train = vec!["train", recipe];
    train.extend(steps);
    json(folder.path(), &train);
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    for key in ["step", "loss", "learning_rate", "seconds"] {
        assert!(lines[0].get(key).is_some(), "no {key} in {}", lines[0]);
    }
    let again = vila_u(folder.path(), &train);
    assert_eq!(again.status.code(), Some(2), "overwrote a run");
    train.push("--resume");
    json(folder.path(), &train);
}

/// What `data nano` writes is read back by training, and shown before.
#[test]
fn written_data_is_shown_and_trained_on() {
    let folder = TempDir::new().unwrap();
    json(folder.path(), &["data", "nano", "-n", "8", "-o", "world"]);
    let recipe = r#"
        out = "run"
        init = "nano"
        seed = 1
        steps = 2
        batch_size = 2
        checkpoint_every = 2
        eval_every = 2
        sample_every = 100

        [data]
        [[data.sources]]
        format = "llava"
        path = "world/nano.jsonl"
        [[data.sources]]
        format = "webdataset"
        path = "world/nano-{00000..00000}.tar"
        kind = "generation"

        [[stages]]
        objective = { kind = "sft", cfg_dropout = 0.0, visual_token_dropout = 0.5 }
        optimizer = { learning_rate = 1e-5, warmup_ratio = 0.1, weight_decay = 0.0, betas = [0.9, 0.98], max_grad_norm = 1.0 }
    "#;
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    let inspect = ["data", "inspect", "recipe.toml", "-n", "6", "-o", "seen"];
    let samples = json(folder.path(), &inspect);
    assert_eq!(samples.len(), 6);
    for sample in &samples {
        let pieces = sample["pieces"].as_array().unwrap();
        assert!(pieces.iter().any(|piece| piece["loss"] == true), "{sample}");
        assert_eq!(sample["pictures"], 1);
    }
    let sheet = image::open(folder.path().join("seen/sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (6 * 66 - 2, 64));
    let text = String::from_utf8(vila_u(folder.path(), &inspect).stdout).unwrap();
    assert!(
        text.contains("[<im_start>") || text.contains("[▁ <im_start>"),
        "{text}"
    );
    assert!(text.contains("<image>x64"), "{text}");

    json(folder.path(), &["train", "recipe.toml"]);
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let line: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    for key in ["samples_per_second", "tokens_per_second", "waiting"] {
        assert!(line[key].is_f64(), "no {key} in {line}");
    }

    // Every file that was written has its reader.
    let everything = recipe.split_once("[[data.sources]]").unwrap().0.to_string()
        + r#"
        [[data.sources]]
        format = "openvid"
        path = "world/videos.csv"
        kind = "video_generation"
        [[data.sources]]
        format = "mmc4"
        path = "world/pages.jsonl"
        folder = "world/images"
        [[data.sources]]
        format = "llava"
        path = "world/{video-questions,comparisons,replies,riddles}.jsonl"
        "#
        + &recipe[recipe.find("[[stages]]").unwrap()..];
    fs::write(folder.path().join("everything.toml"), everything).unwrap();
    let inspect = ["data", "inspect", "everything.toml", "-n", "6"];
    let samples = json(folder.path(), &inspect);
    let pictures = |source: &str| -> Vec<u64> {
        let own = samples
            .iter()
            .filter(|sample| sample["source"].as_str().unwrap().contains(source));
        own.map(|sample| sample["pictures"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(pictures("videos.csv")[0], 8);
    assert!([2, 3].contains(&pictures("pages")[0]));
    assert!(!pictures("riddles").is_empty());

    // The nano world is shown as well, before anything was trained or written.
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/nano-tower.toml");
    let samples = json(folder.path(), &["data", "inspect", recipe, "-n", "2"]);
    assert_eq!((samples.len(), &samples[1]["source"]), (2, &"nano".into()));
    assert!(!folder.path().join("runs").exists());
    // Of its many kinds of sample some have no picture, some several, and videos eight.
    let recipe = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../recipes/nano-pretrain.toml"
    );
    let mut inspect = vec!["data", "inspect", recipe, "-n", "40"];
    for setting in [
        "init=nano",
        "stages.0.objective.text=2.0",
        "stages.0.objective.page=2.0",
        "stages.0.objective.video_generation=1.0",
    ] {
        inspect.extend(["--set", setting]);
    }
    let samples = json(folder.path(), &inspect);
    for pictures in [0, 1, 2, 8] {
        let has = |sample: &Value| sample["pictures"] == pictures;
        assert!(samples.iter().any(has), "none has {pictures}");
    }

    let bad = [
        "data",
        "inspect",
        "recipe.toml",
        "--set",
        "data.sources.0.path=none/*.jsonl",
    ];
    let output = vila_u(folder.path(), &bad);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("nothing matches"), "{message}");
}
