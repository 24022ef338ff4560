//! What is written never destroys what is read, and files are named for what they are.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use super::{golden, input, json, vila_u};

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::copy(input("img0.png"), folder.path().join("a.png")).unwrap();
    folder
}

fn at(folder: &TempDir, name: &str) -> std::path::PathBuf {
    folder.path().join(name)
}

fn message(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_output_is_never_one_of_the_inputs() {
    let f = folder();
    let before = fs::read(at(&f, "a.png")).unwrap();
    fs::hard_link(at(&f, "a.png"), at(&f, "hard.png")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("a.png", at(&f, "soft.png")).unwrap();
    #[cfg(not(unix))]
    fs::hard_link(at(&f, "a.png"), at(&f, "soft.png")).unwrap();
    for output in ["a.png", "./a.png", "hard.png", "soft.png"] {
        for command in ["encode", "reconstruct"] {
            let output = vila_u(f.path(), &[command, "a.png", "-o", output]);
            assert_eq!(output.status.code(), Some(2), "{}", message(&output));
            assert!(message(&output).contains("is the input a.png"));
        }
    }
    let output = vila_u(
        f.path(),
        &["generate", "a heart", "-o", "x.png", "--codes", "x.png"],
    );
    assert_eq!(output.status.code(), Some(2), "{}", message(&output));
    assert_eq!(fs::read(at(&f, "a.png")).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn links_and_devices_stay_what_they_are() {
    let f = folder();
    fs::write(at(&f, "real.safetensors"), "old").unwrap();
    std::os::unix::fs::symlink("real.safetensors", at(&f, "link.safetensors")).unwrap();
    let encode = |output: &str| vila_u(f.path(), &["encode", "a.png", "-o", output]);
    assert!(encode("link.safetensors").status.success());
    assert!(
        fs::symlink_metadata(at(&f, "link.safetensors"))
            .unwrap()
            .is_symlink()
    );
    let written = fs::read(at(&f, "real.safetensors")).unwrap();
    assert!(written.len() > 100);
    assert!(encode("/dev/null").status.success());
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    // Standard output, as a pipe and as a file.
    let output = encode("/dev/stdout");
    assert!(output.status.success(), "{}", message(&output));
    assert!(output.stdout.starts_with(&written));
    let file = fs::File::create(at(&f, "stdout")).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(["encode", "a.png", "-o", "/dev/stdout"])
        .current_dir(f.path())
        .stdout(file)
        .status();
    assert!(status.unwrap().success());
    assert!(fs::metadata(at(&f, "stdout")).unwrap().len() >= written.len() as u64);
}

/// Nobody reads what is said, and the result is there.
#[cfg(unix)]
#[test]
fn a_standard_error_that_takes_nothing_loses_no_result() {
    let f = folder();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(["generate", "a red heart", "-o", "z.png", "--seed", "1"])
        .current_dir(f.path())
        .stdout(Stdio::null())
        .stderr(full)
        .status();
    assert_eq!(status.unwrap().code(), Some(0));
    assert!(at(&f, "z.png").is_file());
}

#[test]
fn files_are_named_for_what_they_are() {
    let f = folder();
    let export = vila_u(f.path(), &["export", "nano", "-o", "ck", "-q"]);
    assert!(export.status.success(), "{}", message(&export));
    let pointer =
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 14691400\n";
    let html = "<!DOCTYPE html><html>404</html>";
    for (file, content, expected) in [
        ("ck/llm/model.safetensors", pointer, "git lfs pull"),
        ("ck/llm/model.safetensors", html, "web page"),
        ("ck/llm/model.safetensors", "", "empty"),
        ("ck/llm/tokenizer.model", pointer, "git lfs pull"),
        ("ck/config.json", html, "web page"),
    ] {
        let before = fs::read(at(&f, file)).unwrap();
        fs::write(at(&f, file), content).unwrap();
        let output = vila_u(f.path(), &["ask", "hi", "--model", "ck"]);
        assert_eq!(output.status.code(), Some(1), "{}", message(&output));
        let said = message(&output);
        let name = Path::new(file).file_name().unwrap().to_str().unwrap();
        assert!(said.contains(expected) && said.contains(name), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        fs::write(at(&f, file), before).unwrap();
    }
    fs::write(at(&f, "b.png"), html).unwrap();
    let output = vila_u(f.path(), &["encode", "b.png", "-o", "c.safetensors"]);
    assert!(
        message(&output).contains("web page"),
        "{}",
        message(&output)
    );
}

#[test]
fn codes_that_no_number_of_the_device_holds() {
    let f = folder();
    let codes: Vec<u8> = [1_i64 << 62; 256]
        .iter()
        .flat_map(|code| code.to_le_bytes())
        .collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1, 8, 8, 4], &codes);
    let bytes = safetensors::serialize([("codes", view.unwrap())], None).unwrap();
    fs::write(at(&f, "huge.safetensors"), bytes).unwrap();
    let output = vila_u(f.path(), &["decode", "huge.safetensors", "-o", "out"]);
    assert_eq!(output.status.code(), Some(1), "{}", message(&output));
    assert!(message(&output).contains("4611686018427387904") && !at(&f, "out").exists());
}

#[test]
fn data_commands_no_terminal() {
    let f = folder();
    let record = json!({"id": "\u{1b}[31mred\u{7}", "image": "a.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A heart."},
    ]});
    fs::write(at(&f, "r.jsonl"), record.to_string()).unwrap();
    let output = vila_u(f.path(), &["score", "r.jsonl"]);
    assert!(output.status.success(), "{}", message(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\\u{1b}[31mred"), "{text}");
    let controls = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(controls), "{text:?}");
}

const RECIPE: &str = r#"
    out = "run"
    init = "nano"
    seed = 3
    steps = 40
    batch_size = 2
    checkpoint_every = 4
    eval_every = 100
    sample_every = 100

    [[data.sources]]
    format = "llava"
    path = "mix.jsonl"

    [[stages]]
    objective = { kind = "sft", cfg_dropout = 0.0, visual_token_dropout = 0.0 }
    optimizer = { learning_rate = 1e-4, warmup_ratio = 0.03, weight_decay = 0.0, betas = [0.9, 0.999], max_grad_norm = 1.0 }
"#;

/// Four records that can be used and three that cannot.
fn recipe() -> TempDir {
    let f = folder();
    let mut lines = fs::File::create(at(&f, "mix.jsonl")).unwrap();
    // As some editors begin a file.
    write!(lines, "\u{feff}").unwrap();
    for (id, image) in ["a.png", "none.png", "a.png", "../a.png", "a.png", "a.png"]
        .iter()
        .enumerate()
    {
        let record = json!({"id": id, "image": image, "similarity": 0.5, "conversations": [
            {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A heart."},
        ]});
        // What Python writes for a number that is none.
        writeln!(lines, "{}", record.to_string().replace("0.5", "NaN")).unwrap();
    }
    writeln!(lines, "{{").unwrap();
    fs::write(at(&f, "recipe.toml"), RECIPE).unwrap();
    f
}

#[test]
fn what_is_skipped_is_counted_and_said() {
    let f = recipe();
    let output = vila_u(f.path(), &["data", "inspect", "recipe.toml", "-n", "4"]);
    assert!(output.status.success(), "{}", message(&output));
    let said = message(&output);
    assert!(said.contains("3 of 7 records"), "{said}");
    for reason in ["none.png", "leaves the folder", "not JSON"] {
        assert!(said.contains(reason), "no {reason} in {said}");
    }
    let lines = json(f.path(), &["data", "inspect", "recipe.toml", "-n", "4"]);
    let skipped = lines.last().unwrap()["skipped"].as_array().unwrap();
    assert_eq!((lines.len(), skipped.len()), (5, 3), "{lines:?}");
}

/// A picture of the data that is called as the sheet of pictures is, and a folder of frames that is asked about.
#[test]
fn pictures_of_data_and_frames_of_videos_stay() {
    let f = recipe();
    fs::copy(input("img0.png"), at(&f, "sheet.png")).unwrap();
    let before = fs::read(at(&f, "sheet.png")).unwrap();
    let output = vila_u(
        f.path(),
        &["data", "inspect", "recipe.toml", "-n", "1", "-o", "."],
    );
    assert_eq!(output.status.code(), Some(2), "{}", message(&output));
    assert_eq!(fs::read(at(&f, "sheet.png")).unwrap(), before);
    fs::create_dir(at(&f, "frames")).unwrap();
    fs::copy(input("img0.png"), at(&f, "frames/0000.png")).unwrap();
    let output = vila_u(
        f.path(),
        &["ask", "What?", "--video", "frames", "-o", "frames"],
    );
    assert_eq!(output.status.code(), Some(2), "{}", message(&output));
}

#[test]
fn sizes_that_cannot_be_meant_are_refused() {
    let f = recipe();
    for setting in [
        "batch_size=9223372036854775807",
        "gradient_accumulation_steps=9223372036854775807",
        "steps=9223372036854775807",
    ] {
        let output = vila_u(f.path(), &["train", "recipe.toml", "--set", setting]);
        assert_eq!(output.status.code(), Some(2), "{}", message(&output));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(["info"])
        .env("RAYON_NUM_THREADS", "100000")
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(message(&output).contains("RAYON_NUM_THREADS"));
}

/// A recipe may lack what its settings give.
#[test]
fn settings_repair_a_recipe() {
    let f = recipe();
    let text = RECIPE.replace("steps = 40", "steps = 0");
    fs::write(at(&f, "recipe.toml"), text).unwrap();
    let inspect = |more: &[&str]| {
        let all = ["data", "inspect", "recipe.toml", "-n", "1"];
        vila_u(f.path(), &[&all, more].concat())
    };
    assert_eq!(inspect(&[]).status.code(), Some(1));
    assert!(inspect(&["--set", "steps=4"]).status.success());
}

/// Small files that describe large pictures are refused before the memory is taken.
#[cfg(target_os = "linux")]
#[test]
fn no_small_file_takes_much_memory() {
    let f = folder();
    // 16,000 x 16,000 pixels in a GIF, as a video too.
    let gif = [
        b"GIF87a\x80\x3e\x40\x1f\x81\0\0".as_slice(),
        &[0; 12],
        b"\x2c\0\0\0\0\x08\0\x08\0\0\x08\x0f\0\x01\x08\x1c\x48\xb0\xa0\xc1\x83\x08\x13\x2a\x4c\x18\x10\0;",
    ]
    .concat();
    fs::write(at(&f, "bomb.gif"), gif).unwrap();
    // A chunk that says it is 4 GB long.
    let mut webp =
        b"RIFF\xee\0\0\0WEBPVP8X\x0a\0\0\0\x08\0\0\0\x27\0\0\x17\0\0EXIF\xfe\xff\xff\xff".to_vec();
    webp.extend([0; 32]);
    fs::write(at(&f, "claims.webp"), webp).unwrap();
    // A line of 100,000 pixels, which a model that pads makes a square.
    let line = image::RgbImage::from_pixel(100_000, 1, image::Rgb([200, 30, 30]));
    line.save(at(&f, "line.png")).unwrap();
    let model = golden().join("checkpoint");
    let padding = at(&f, "padding");
    copy_all(&model, &padding);
    let config = fs::read_to_string(padding.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["image_aspect_ratio"] = "pad".into();
    fs::write(padding.join("config.json"), config.to_string()).unwrap();
    let limited = |arguments: &str| {
        let command = format!(
            "ulimit -v 3000000; exec {} {arguments}",
            env!("CARGO_BIN_EXE_vila-u")
        );
        let output = Command::new("sh")
            .args(["-c", &command])
            .current_dir(f.path())
            .output();
        output.unwrap()
    };
    for (arguments, expected) in [
        ("reconstruct bomb.gif -o r.png", "--max-input-memory"),
        ("ask what --video bomb.gif --greedy", "--max-input-memory"),
        ("reconstruct claims.webp -o r.png", "cut short"),
    ] {
        let output = limited(arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments}: {}",
            message(&output)
        );
        assert!(
            message(&output).contains(expected),
            "{arguments}: {}",
            message(&output)
        );
    }
    let output = limited("--model padding ask what --image line.png --greedy --max-tokens 1");
    assert!(output.status.success(), "{}", message(&output));
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}
