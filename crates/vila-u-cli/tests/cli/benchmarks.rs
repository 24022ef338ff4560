//! A miniature of each generation benchmark, from its own prompt file to the names that its scorer looks for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fails_with, json as run, vila_u};

pub fn folder(name: &str, content: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(name), content).unwrap();
    folder
}

/// Every file under a folder, relative to it, in order.
pub fn tree(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, files: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, files);
            } else {
                let name = path.strip_prefix(root).unwrap();
                files.push(name.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    let mut files = Vec::new();
    walk(folder, folder, &mut files);
    files.sort();
    files
}

pub fn manifest(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("manifest.jsonl")).unwrap_or_default();
    // The last line may be half-written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let mut lines: Vec<Value> = lines.collect();
    lines.sort_by_key(|line| line["file"].to_string());
    lines
}

const GENEVAL: &str = concat!(
    r#"{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}"#,
    "\n",
    r#"{"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}], "prompt": "a photo of two cats"}"#,
    "\n",
);

#[test]
fn geneval() {
    let f = folder("evaluation_metadata.jsonl", GENEVAL);
    let generate = |output: &str, more: &[&str]| {
        let mut all = vec!["generate", "--prompts", "evaluation_metadata.jsonl"];
        all.extend(["--layout", "geneval", "--seed", "3", "-o", output]);
        all.extend(more);
        run(f.path(), &all)
    };
    let printed = generate("out", &["-n", "2"]);
    assert_eq!(printed[0]["generated"], 4);
    let out = f.path().join("out");
    let expected = [
        "00000/metadata.jsonl",
        "00000/samples/0000.png",
        "00000/samples/0001.png",
        "00001/metadata.jsonl",
        "00001/samples/0000.png",
        "00001/samples/0001.png",
        "manifest.jsonl",
    ];
    assert_eq!(tree(&out), expected);
    // As `evaluate_images.py` reads it.
    let metadata = fs::read_to_string(out.join("00001/metadata.jsonl")).unwrap();
    assert_eq!(metadata.trim_end(), GENEVAL.lines().nth(1).unwrap());
    let lines = manifest(&out);
    assert_eq!(lines.len(), 4);
    let line = lines[3].as_object().unwrap();
    let names: Vec<&str> = line.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "file",
            "prompt",
            "seed",
            "cfg",
            "temperature",
            "top_k",
            "top_p",
            "greedy",
            "model_sha256",
            "dtype",
            "model",
            "version",
            "pixels_sha256"
        ]
    );
    assert_eq!(line["prompt"], "a photo of two cats");
    assert_eq!(
        (&line["top_k"], &line["top_p"]),
        (&json!(900), &json!(0.96))
    );
    for hash in ["model_sha256", "pixels_sha256"] {
        assert_eq!(line[hash].as_str().unwrap().len(), 64, "{hash}");
    }
    // Run again, there is nothing to do; the manifest tells how to get each picture alone.
    let printed = generate("out", &["-n", "2"]);
    assert_eq!(
        (&printed[0]["generated"], &printed[0]["present"]),
        (&json!(0), &json!(4))
    );
    let seed = line["seed"].to_string();
    let prompt = line["prompt"].as_str().unwrap();
    run(
        f.path(),
        &["generate", prompt, "--seed", &seed, "-o", "alone.png"],
    );
    let pixels = |path: PathBuf| image::open(path).unwrap().into_rgb8();
    let file = line["file"].as_str().unwrap();
    assert!(pixels(f.path().join("alone.png")) == pixels(out.join(file)));
    // A sweep of guidance, one folder each, with the same seeds.
    let printed = generate("sweep", &["-n", "1", "--cfg", "1,2.5", "--shard", "2/2"]);
    assert_eq!(printed.len(), 2);
    let sweep = tree(&f.path().join("sweep"));
    let expected = [
        "cfg-1/00001/metadata.jsonl",
        "cfg-1/00001/samples/0000.png",
        "cfg-1/manifest.2-of-2.jsonl",
        "cfg-2.5/00001/metadata.jsonl",
        "cfg-2.5/00001/samples/0000.png",
        "cfg-2.5/manifest.2-of-2.jsonl",
    ];
    assert_eq!(sweep, expected);
    let seed = |cfg: &str| {
        let path = f
            .path()
            .join("sweep")
            .join(cfg)
            .join("manifest.2-of-2.jsonl");
        let line: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        line["seed"].clone()
    };
    assert_eq!(seed("cfg-1"), seed("cfg-2.5"));
    assert_eq!(seed("cfg-1"), lines[2]["seed"]);
}

#[test]
fn benchmarks_of_one_picture_a_prompt() {
    let genai = json!({"00000": {"id": "00000", "prompt": "a dog", "models": {}}, "00526": {"prompt": "a cat"}});
    let mjhq = json!({"ab01": {"category": "animals", "prompt": "a dog"}, "cd23": {"category": "food", "prompt": "a pizza"}});
    let parti =
        "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\t\na dog\tAnimals\tBasic\t\n";
    for (layout, content, files) in [
        (
            "genai-bench",
            genai.to_string(),
            ["00000.jpeg", "00526.jpeg"],
        ),
        (
            "mjhq-30k",
            mjhq.to_string(),
            ["animals/ab01.png", "food/cd23.png"],
        ),
        ("parti", parti.to_string(), ["00000.png", "00001.png"]),
        (
            "flat",
            "a dog\na cat\n".to_string(),
            ["00000.png", "00001.png"],
        ),
    ] {
        let f = folder("prompts", &content);
        let all = [
            "generate",
            "--prompts",
            "prompts",
            "--layout",
            layout,
            "-o",
            "out",
            "--greedy",
        ];
        let printed = run(f.path(), &all);
        assert_eq!(printed[0]["layout"], layout);
        let out = f.path().join("out");
        let mut expected = files.to_vec();
        expected.push("manifest.jsonl");
        assert_eq!(tree(&out), expected);
        for file in files {
            // What it is called is what it is.
            let reader = image::ImageReader::open(out.join(file)).unwrap();
            let reader = reader.with_guessed_format().unwrap();
            let format = image::ImageFormat::from_path(file).unwrap();
            assert_eq!(reader.format(), Some(format));
            assert_eq!(reader.decode().unwrap().width(), 64);
        }
        let line = &manifest(&out)[0];
        assert_eq!(
            (&line["greedy"], &line["temperature"]),
            (&json!(true), &json!(0.0))
        );
    }
}

#[test]
fn vbench() {
    let list = json!([
        {"prompt_en": "a red heart moves to the left", "dimension": ["subject_consistency"]},
        {"prompt_en": "In a still frame, a dog", "dimension": ["temporal_flickering"]},
    ]);
    let f = folder("VBench_full_info.json", &list.to_string());
    let all = [
        "generate",
        "--prompts",
        "VBench_full_info.json",
        "--layout",
        "vbench",
        "-n",
        "1",
        "-o",
        "out",
    ];
    run(f.path(), &all);
    let out = f.path().join("out");
    let expected = [
        "manifest.jsonl",
        "videos/In a still frame, a dog-0.mp4",
        "videos/a red heart moves to the left-0.mp4",
    ];
    assert_eq!(tree(&out), expected);
    let frames = vila_u::media::video::frames(
        &out.join(expected[1]),
        8,
        vila_u::media::video::FrameSampling::Inference,
    );
    assert_eq!(frames.unwrap().len(), 8);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_loaded() {
    let f = folder("prompts.txt", "a dog\n");
    let prompts = ["generate", "--prompts", "prompts.txt"];
    let to_out = ["--layout", "flat", "-o", "out"];
    let refused = |arguments: &[&[&str]], word: &str| {
        fails_with(f.path(), &arguments.concat(), 2, &[word]);
        assert!(!f.path().join("out").exists());
    };
    refused(&[&["generate"]], "PROMPT");
    refused(&[&prompts, &to_out, &["a dog"]], "cannot be used");
    refused(&[&prompts, &["-o", "out"]], "--layout");
    refused(&[&prompts, &["--layout", "flat"]], "--output");
    refused(
        &[&prompts, &["--layout", "coco", "-o", "out"]],
        "genai-bench",
    );
    refused(&[&prompts, &to_out, &["--shard", "3/2"]], "3/2");
    refused(
        &[&prompts, &["--layout", "parti", "-o", "out", "--video"]],
        "--video",
    );
    refused(
        &[&prompts, &["--layout", "flat", "-o", "prompts.txt"]],
        "name a folder",
    );
    refused(&[&["generate", "a dog", "--cfg", "1,2"]], "--prompts");
    refused(&[&prompts, &to_out, &["--top-p", "2"]], "top-p");
    let all = [
        "generate",
        "--prompts",
        "none.txt",
        "--layout",
        "flat",
        "-o",
        "out",
    ];
    let output = vila_u(f.path(), &all);
    assert_eq!(output.status.code(), Some(1));
    // A prompt that does not fit costs its own files, and is told.
    let long = "a very red heart ".repeat(1000);
    fs::write(f.path().join("prompts.txt"), format!("{long}\na dog\n")).unwrap();
    let output = vila_u(
        f.path(),
        &[
            "--quiet",
            "generate",
            "--prompts",
            "prompts.txt",
            "--layout",
            "flat",
            "-o",
            "out",
        ],
    );
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("1 files could not be generated, the first 00000.png"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1);
    assert_eq!(tree(&f.path().join("out")), ["00001.png", "manifest.jsonl"]);
}
