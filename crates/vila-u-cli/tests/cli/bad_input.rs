//! Bad input of every kind: one clear line, exit code 2 for usage and 1 for the rest, nothing
//! half-written.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::{fails_with, golden, input, vila_u};

/// Runs on the recorded model; fails unless the exit code is `code` and the message is one line that
/// holds every one of `words`.
fn refuses(folder: &TempDir, arguments: &[&str], code: i32, words: &[&str]) {
    let model = golden().join("checkpoint").display().to_string();
    let mut all = vec!["--model", model.as_str()];
    all.extend(arguments);
    fails_with(folder.path(), &all, code, words);
}

fn folder() -> TempDir {
    TempDir::new().unwrap()
}

/// A misspelt set of instructions is not taken for the best one.
#[test]
fn instructions_that_nobody_knows() {
    let command = |set: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vila-u"));
        let command = command
            .args(["ask", "x", "--max-tokens", "1"])
            .env("VILA_U_CPU", set);
        command.output().unwrap()
    };
    let output = command("abacus");
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("VILA_U_CPU=abacus") && message.contains("avx2"),
        "{message}"
    );
    assert!(command("plain").status.success());
}

#[test]
fn wrong_options_are_usage_errors() {
    let f = folder();
    fails_with(f.path(), &["paint"], 2, &["paint"]);
    fails_with(f.path(), &["generate"], 2, &["PROMPT"]);
    refuses(
        &f,
        &["generate", "x", "--temperature", "0"],
        2,
        &["--temperature", "--greedy"],
    );
    refuses(&f, &["generate", "x", "--top-p", "1.5"], 2, &["top-p"]);
    refuses(
        &f,
        &["generate", "x", "--top-k", "1000"],
        2,
        &["--top-k", "128"],
    );
    refuses(&f, &["generate", "x", "-n", "0"], 2, &["0"]);
    refuses(
        &f,
        &["generate", "x", "-n", "2", "-o", "a.png"],
        2,
        &["a.png", "folder"],
    );
    refuses(&f, &["generate", "x", "-o", "a.bmp"], 2, &["a.bmp", ".png"]);
    refuses(&f, &["generate", "a <image>"], 2, &["words alone"]);
    let video = ["generate", "--video", "a <video>"];
    refuses(&f, &video, 2, &["words alone"]);
    refuses(&f, &["ask", "x", "--max-tokens", "0"], 2, &["--max-tokens"]);
    refuses(
        &f,
        &["classify", &input("img0.png"), "--label", "one"],
        2,
        &["two labels"],
    );
    refuses(
        &f,
        &["ask", "x", "--device", "abacus"],
        2,
        &["abacus", "cpu"],
    );
    refuses(&f, &["ask", "x", "--dtype", "f12"], 2, &["f12", "q4_0"]);
    refuses(&f, &["info", "--dtype", "f12"], 2, &["f12"]);
    refuses(
        &f,
        &["export", "nano", "--quantize", "f16", "-o", "new"],
        2,
        &["f16", "q4_0"],
    );
    refuses(&f, &["info", "--device", "abacus"], 2, &["abacus"]);
    refuses(
        &f,
        &["bench", "--suite", "sprint"],
        2,
        &["sprint", "decode", "all"],
    );
    refuses(
        &f,
        &["info", "--random", "vila-u-70b", "-o", "new"],
        2,
        &["vila-u-70b", "vila-u-7b-256"],
    );
    refuses(&f, &["info", "--random", "vila-u-7b-256"], 2, &["--output"]);
    refuses(
        &f,
        &["--device", "cpu", "ask", "x", "--dtype", "f16"],
        2,
        &["f32, bf16, q8_0 or q4_0"],
    );
    refuses(
        &f,
        &["ask", "<image> and <image>", "--image", &input("img0.png")],
        2,
        &["<image>", "2"],
    );
    assert_eq!(
        fs::read_dir(f.path()).unwrap().count(),
        0,
        "something was written"
    );
}

#[test]
fn models_that_are_not_there_are_named() {
    let f = folder();
    fails_with(
        f.path(),
        &["ask", "x", "--model", "no/such/folder"],
        1,
        &["no/such/folder"],
    );
    fails_with(
        f.path(),
        &["ask", "x", "--model", "hf:justonename"],
        2,
        &["hf:", "ORG/NAME"],
    );
}

#[test]
fn broken_images_are_named() {
    let f = folder();
    fs::write(f.path().join("not.png"), "text").unwrap();
    let whole = fs::read(input("img0.png")).unwrap();
    fs::write(f.path().join("half.png"), &whole[..whole.len() / 2]).unwrap();
    refuses(
        &f,
        &["encode", "missing.png", "-o", "c.safetensors"],
        1,
        &["missing.png"],
    );
    refuses(
        &f,
        &["encode", "not.png", "-o", "c.safetensors"],
        1,
        &["not.png"],
    );
    refuses(
        &f,
        &["encode", "half.png", "-o", "c.safetensors"],
        1,
        &["half.png"],
    );
    refuses(
        &f,
        &["reconstruct", "not.png", "-o", "r.png"],
        1,
        &["not.png"],
    );
    refuses(&f, &["ask", "x", "--video", "missing"], 1, &["missing"]);
    fs::create_dir(f.path().join("empty")).unwrap();
    refuses(&f, &["ask", "x", "--video", "empty"], 1, &["empty"]);
    assert!(!f.path().join("c.safetensors").exists());
    assert!(!f.path().join("r.png").exists());
}

#[test]
fn broken_codes_are_named() {
    let f = folder();
    fs::write(f.path().join("c.safetensors"), "text").unwrap();
    refuses(
        &f,
        &["decode", "c.safetensors", "-o", "out"],
        1,
        &["c.safetensors"],
    );
    refuses(
        &f,
        &["decode", "none.safetensors", "-o", "out"],
        1,
        &["none.safetensors"],
    );
    let other = golden().join("sampling.safetensors").display().to_string();
    refuses(&f, &["decode", &other, "-o", "out"], 1, &["codes"]);
    // Codes of a larger codebook.
    let codes: Vec<u8> = [4000i64; 256]
        .iter()
        .flat_map(|c| c.to_le_bytes())
        .collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1, 8, 8, 4], &codes);
    let bytes = safetensors::serialize([("codes", view.unwrap())], None).unwrap();
    fs::write(f.path().join("large.safetensors"), bytes).unwrap();
    refuses(
        &f,
        &["decode", "large.safetensors", "-o", "out"],
        1,
        &["4000", "127"],
    );
    assert!(!f.path().join("out").exists(), "a folder was left behind");
}

#[test]
fn broken_checkpoints_are_named() {
    let f = folder();
    let copy = f.path().join("checkpoint");
    for part in ["", "llm", "mm_projector", "vision_tower", "siglip"] {
        fs::create_dir_all(copy.join(part)).unwrap();
        for entry in fs::read_dir(golden().join("checkpoint").join(part)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), copy.join(part).join(entry.file_name())).unwrap();
            }
        }
    }
    let ask = [
        "ask",
        "x",
        "--model",
        "checkpoint",
        "--greedy",
        "--max-tokens",
        "1",
    ];
    assert!(vila_u(f.path(), &ask).status.success());
    let weights = copy.join("llm/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 1000]).unwrap();
    fails_with(f.path(), &ask, 1, &["model.safetensors"]);
    fs::remove_file(&weights).unwrap();
    fails_with(f.path(), &ask, 1, &["llm"]);
    fs::write(&weights, &whole).unwrap();
    fs::write(copy.join("llm/config.json"), "{").unwrap();
    fails_with(f.path(), &ask, 1, &["config.json"]);
}

#[test]
fn broken_datasets_are_named() {
    let f = folder();
    fs::write(f.path().join("bad.jsonl"), "{\"id\": 1\n").unwrap();
    refuses(&f, &["score", "bad.jsonl"], 1, &["bad.jsonl", "record 1"]);
    let line = r#"{"id":"a","image":"../../etc/passwd","conversations":[{"from":"human","value":"x"},{"from":"gpt","value":"y"}]}"#;
    fs::write(f.path().join("escape.jsonl"), line).unwrap();
    refuses(&f, &["score", "escape.jsonl"], 1, &["escape.jsonl"]);
    refuses(&f, &["score", "none.jsonl"], 1, &["none.jsonl"]);
}

#[test]
fn broken_recipes_are_named() {
    let f = folder();
    fs::write(f.path().join("r.toml"), "steps = ").unwrap();
    fails_with(f.path(), &["train", "r.toml"], 1, &["r.toml"]);
    fails_with(f.path(), &["train", "none.toml"], 1, &["none.toml"]);
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/nano-tower.toml");
    fails_with(
        f.path(),
        &["train", recipe, "--set", "stepz=3"],
        2,
        &["stepz"],
    );
    fails_with(
        f.path(),
        &["train", recipe, "--set", "steps"],
        2,
        &["steps"],
    );
}

#[test]
fn files_that_cannot_be_converted() {
    let f = folder();
    fails_with(f.path(), &["convert", "a.pth"], 2, &["--output"]);
    fails_with(
        f.path(),
        &["convert", "a.pth", "-o", "x.bin"],
        2,
        &[".safetensors"],
    );
    let output = ["-o", "x.safetensors"];
    let convert = |file: &str, code, words: &[&str]| {
        fails_with(
            f.path(),
            &[&["convert", file], &output[..]].concat(),
            code,
            words,
        );
        assert!(!f.path().join("x.safetensors").exists());
    };
    convert("missing.pth", 1, &["error: missing.pth: "]);
    fs::create_dir(f.path().join("folder")).unwrap();
    convert("folder", 1, &["error: folder: not a file"]);
    fs::write(f.path().join("text.pth"), "not weights").unwrap();
    convert("text.pth", 1, &["error: text.pth: ", "PyTorch"]);
    let other = golden().join("checkpoint/mm_projector/model.safetensors");
    convert(&other.display().to_string(), 1, &["VGG16", "linear heads"]);
}
