//! `eval zero-shot` and `eval loss` as a user runs them, on the embedded model.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::{fails_with, json};

const CLASSES: usize = 6;

/// The layout of ImageNet's validation set, of the nano world: a folder with a picture for each class, and WebDataset with
/// the same; `classnames.txt`, and `templates.txt` as CLIP_benchmark writes them.
fn imagenet(folder: &Path) {
    json(folder, &["data", "nano", "-n", "6", "-o", "world"]);
    let world = fs::read_to_string(folder.join("world/nano.jsonl")).unwrap();
    let records = world
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let drawn = records.filter(|record: &Value| record["conversations"][1]["value"] == "<image>");
    let (mut names, mut shard) = (Vec::new(), Vec::new());
    for (class, record) in drawn.enumerate() {
        let image = folder.join("world").join(record["image"].as_str().unwrap());
        let to = folder.join(format!("val/n{class:08}"));
        fs::create_dir_all(&to).unwrap();
        let file = to.join(format!("ILSVRC2012_val_{class:08}.png"));
        fs::copy(&image, file).unwrap();
        add(
            &mut shard,
            &format!("s{class:07}.cls"),
            class.to_string().as_bytes(),
        );
        add(
            &mut shard,
            &format!("s{class:07}.png"),
            &fs::read(&image).unwrap(),
        );
        names.push(
            record["conversations"][0]["value"]
                .as_str()
                .unwrap()
                .to_string(),
        );
    }
    assert_eq!(names.len(), CLASSES);
    shard.extend([0; 1024]);
    fs::create_dir(folder.join("test")).unwrap();
    fs::write(folder.join("test/0.tar"), shard).unwrap();
    fs::write(folder.join("classnames.txt"), names.join("\n")).unwrap();
    fs::write(folder.join("templates.txt"), "{c}\na picture of {c}.\n").unwrap();
}

/// Adds a file to a tar archive (POSIX.1-1988, ustar).
fn add(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644");
    put(124, &format!("{:011o}", content.len()));
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn metric(result: &Value, name: &str) -> f64 {
    let metrics = result["metrics"].as_array().unwrap();
    let metric = metrics.iter().find(|metric| metric["name"] == name);
    metric.unwrap()["value"].as_f64().unwrap()
}

const OPTIONS: [&str; 4] = [
    "--classes",
    "classnames.txt",
    "--templates",
    "templates.txt",
];

#[test]
fn a_miniature_of_imagenet_is_classified() {
    let folder = TempDir::new().unwrap();
    imagenet(folder.path());
    let mut results = Vec::new();
    for (data, output) in [("val", "results/folders"), ("test/*.tar", "results/shards")] {
        let mut arguments = vec!["eval", "zero-shot", "--data", data, "-o", output];
        arguments.extend(OPTIONS);
        let printed = json(folder.path(), &arguments).remove(0);
        let written = fs::read(folder.path().join(output).join("result.json")).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(printed, written);
        let samples = fs::read_to_string(folder.path().join(output).join("samples.jsonl")).unwrap();
        assert_eq!(samples.lines().count(), CLASSES);
        results.push(printed);
    }
    assert_eq!(results[0]["metrics"], results[1]["metrics"]);
    assert!(metric(&results[0], "top-1") >= 0.8, "{}", results[0]);
    assert!(metric(&results[0], "top-5") >= metric(&results[0], "top-5/depth-1"));
    assert!(results[0]["metrics"][0]["interval"] == "wilson");
    let compared = ["eval", "compare", "results/folders", "results/shards"];
    let compared = json(folder.path(), &compared).remove(0);
    assert!(compared.to_string().contains("Table 1"), "{compared}");
}

#[test]
fn what_cannot_be_classified_is_refused() {
    let folder = TempDir::new().unwrap();
    imagenet(folder.path());
    let f = folder.path();
    let zero_shot = |data, classes, templates| {
        let mut arguments = vec!["eval", "zero-shot", "--data", data, "--classes", classes];
        arguments.extend(["--templates", templates]);
        arguments
    };
    let (classes, templates) = ("classnames.txt", "templates.txt");
    fails_with(
        f,
        &["eval", "zero-shot"],
        2,
        &["--data", "--classes", "--templates"],
    );
    fails_with(f, &zero_shot("no", classes, templates), 2, &["no"]);
    fails_with(f, &zero_shot("val", "no.txt", templates), 1, &["no.txt"]);
    fs::write(f.join("plain.txt"), "a picture").unwrap();
    fails_with(
        f,
        &zero_shot("val", classes, "plain.txt"),
        1,
        &["plain.txt", "{}"],
    );
    fs::write(f.join("two.txt"), "a heart\na dog").unwrap();
    fails_with(
        f,
        &zero_shot("val", "two.txt", templates),
        2,
        &["6 folders", "2 class names"],
    );
    fails_with(
        f,
        &zero_shot("test/0.tar", "two.txt", templates),
        2,
        &["0.tar/s0000002", "class 2"],
    );
    let mut into_a_file = zero_shot("val", classes, templates);
    into_a_file.extend(["-o", "classnames.txt"]);
    fails_with(f, &into_a_file, 2, &["classnames.txt is a file"]);
}

/// A recipe of the nano world; `held_out`: with something held out of it.
fn recipe(folder: &Path, held_out: bool) {
    let source = "[[data.sources]]\nformat = \"nano\"\n";
    let held_out = if held_out {
        format!("{source}held_out = true\n")
    } else {
        String::new()
    };
    let recipe = format!(
        "out = \"run\"\ninit = \"nano\"\nseed = 1\nsteps = 1\nbatch_size = 2\ncheckpoint_every = 1\n\
         eval_every = 1\nsample_every = 100\n{source}{held_out}[[stages]]\n\
         objective = {{ kind = \"sft\", caption = 1.0, generation = 1.0, cfg_dropout = 0.1 }}\n\
         optimizer = {{ learning_rate = 1e-5, warmup_ratio = 0.0, weight_decay = 0.0, betas = [0.9, 0.98], max_grad_norm = 1.0 }}\n"
    );
    fs::write(folder.join("recipe.toml"), recipe).unwrap();
}

#[test]
fn held_out_losses_are_those_of_training() {
    let folder = TempDir::new().unwrap();
    recipe(folder.path(), true);
    json(folder.path(), &["train", "recipe.toml"]);
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let trained: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let arguments = ["--model", "run/model", "eval", "loss", "recipe.toml"];
    let result = json(folder.path(), &arguments).remove(0);
    for (ours, training) in [
        ("caption/text_loss", "eval/caption_loss"),
        ("generation/visual_loss", "eval/generation_loss"),
        ("generation/visual_loss/1", "eval/generation_loss/1"),
        ("generation/visual_loss/4", "eval/generation_loss/4"),
    ] {
        let (ours, training) = (metric(&result, ours), trained[training].as_f64().unwrap());
        assert!((ours / training - 1.0).abs() < 1e-4, "{ours} {training}");
    }
    assert_eq!(result["metrics"][0]["n"], 64);
    let samples = folder.path().join("results/loss/samples.jsonl");
    assert_eq!(fs::read_to_string(samples).unwrap().lines().count(), 2 * 64);
}

#[test]
fn recipes_without_anything_to_look_at_are_refused() {
    let folder = TempDir::new().unwrap();
    recipe(folder.path(), false);
    fails_with(
        folder.path(),
        &["eval", "loss", "recipe.toml"],
        2,
        &["held_out"],
    );
    fails_with(folder.path(), &["eval", "loss", "no.toml"], 1, &["no.toml"]);
    let tower = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/nano-tower.toml");
    let tower = tower.display().to_string();
    fails_with(
        folder.path(),
        &["eval", "loss", &tower],
        2,
        &["vision tower", "zero-shot"],
    );
}
