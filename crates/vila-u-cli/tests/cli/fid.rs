//! Reconstruction and FID: miniatures of ImageNet and MJHQ-30K as they lie on disk, with FID's network and LPIPS at a
//! sixteenth of their widths.
//!
//! One file, as all of them measure the same miniatures with the same networks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use image::{Rgb, RgbImage};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{json, vila_u};

/// Numbers without order, about -1..1, others for each key.
fn numbers(key: &str, count: usize) -> impl Iterator<Item = f32> {
    let salt = key.bytes().fold(1_u32, |salt, byte| {
        (salt ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (0..count as u32).map(move |at| {
        let x = at.wrapping_mul(0x9E37_79B9).wrapping_add(salt);
        let x = (x ^ (x >> 15)).wrapping_mul(0x85EB_CA6B);
        f64::from(x ^ (x >> 13)) as f32 / 2_147_483_648.0 - 1.0
    })
}

fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>, f32, f32)]) {
    let bytes: Vec<Vec<u8>> = (tensors.iter())
        .map(|(key, shape, middle, scale)| {
            let values = numbers(key, shape.iter().product()).map(|x| middle + scale * x);
            values.flat_map(f32::to_le_bytes).collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((key, shape, ..), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (key, view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// FID's network: the shapes are recorded.
fn write_inception(path: &Path) {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../vila-u/tests/golden/fid/recorded.safetensors");
    let bytes = fs::read(recorded).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let narrow = |channels: usize| if channels == 3 { 3 } else { channels / 16 };
    let mut tensors = vec![("fc.weight".to_string(), vec![9, 128], 0.0, 0.3)];
    for name in file.names() {
        let Some(convolution) = name.strip_prefix("shape.") else {
            continue;
        };
        let sizes = file.tensor(name).unwrap().data().chunks(8).map(|size| {
            let size: [u8; 8] = size.try_into().unwrap();
            i64::from_le_bytes(size) as usize
        });
        let sizes: Vec<usize> = sizes.collect();
        let shape = vec![narrow(sizes[0]), narrow(sizes[1]), sizes[2], sizes[3]];
        let scale = (6.0 / shape[1..].iter().product::<usize>() as f32).sqrt();
        for tensor in ["bias", "running_mean"] {
            tensors.push((
                format!("{convolution}.bn.{tensor}"),
                vec![shape[0]],
                0.0,
                0.1,
            ));
        }
        for tensor in ["weight", "running_var"] {
            tensors.push((
                format!("{convolution}.bn.{tensor}"),
                vec![shape[0]],
                1.0,
                0.1,
            ));
        }
        tensors.push((format!("{convolution}.conv.weight"), shape, 0.0, scale));
    }
    write_tensors(path, &tensors);
}

fn write_lpips(path: &Path) {
    let (mut tensors, mut inputs) = (Vec::new(), 3);
    let indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
    let widths = [4, 4, 8, 8, 16, 16, 16, 32, 32, 32, 32, 32, 32];
    for (index, outputs) in indices.into_iter().zip(widths) {
        let scale = (6.0 / (9 * inputs) as f32).sqrt();
        let weight = (
            format!("features.{index}.weight"),
            vec![outputs, inputs, 3, 3],
            0.0,
            scale,
        );
        tensors.extend([
            weight,
            (format!("features.{index}.bias"), vec![outputs], 0.0, 0.1),
        ]);
        inputs = outputs;
    }
    for (block, width) in [4, 8, 16, 32, 32].into_iter().enumerate() {
        tensors.push((format!("lin{block}.weight"), vec![1, width, 1, 1], 0.5, 0.5));
    }
    write_tensors(path, &tensors);
}

/// A picture that is another for every seed.
fn picture(seed: u32, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = |k: u32| (x * (2 + (seed + k) % 5) + y * (1 + seed * k % 7) + 40 * seed) % 511;
        Rgb([1, 2, 3].map(|k| wave(k).abs_diff(255) as u8))
    })
}

fn save(path: PathBuf, picture: &RgbImage) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture.save(path).unwrap();
}

/// ImageNet's validation pictures in their folders, one of them damaged, and the networks.
fn imagenet() -> TempDir {
    let folder = TempDir::new().unwrap();
    for seed in 0..8 {
        let class = if seed % 2 == 0 {
            "n01440764"
        } else {
            "n02102040"
        };
        let name = format!("val/{class}/ILSVRC2012_val_{seed:08}.png");
        save(folder.path().join(name), &picture(seed, 70 + 10 * seed, 90));
    }
    let damaged = folder
        .path()
        .join("val/n01440764/ILSVRC2012_val_00000099.JPEG");
    fs::write(damaged, b"\xff\xd8\xff\xe0 and no more").unwrap();
    write_inception(&folder.path().join("inception.safetensors"));
    write_lpips(&folder.path().join("lpips.safetensors"));
    folder
}

fn metric(record: &Value, name: &str) -> f64 {
    let metrics = record["metrics"].as_array().unwrap();
    let found = metrics.iter().find(|metric| metric["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {record}"))["value"]
        .as_f64()
        .unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn reconstruction_of_folders() {
    let folder = imagenet();
    let measure = |more: &[&str]| {
        let mut all = vec![
            "eval",
            "reconstruction",
            "--data",
            "val",
            "--layer",
            "64,2048",
        ];
        all.extend([
            "--inception",
            "inception.safetensors",
            "--lpips",
            "lpips.safetensors",
        ]);
        all.extend(more);
        json(folder.path(), &all).remove(0)
    };
    let record = measure(&["-o", "one"]);
    assert_eq!(record["evaluation"], "reconstruction");
    assert_eq!(record["data"][0]["n"], 8);
    assert_eq!(record["data"].as_array().unwrap().len(), 3);
    assert_eq!(record["model"]["name"], "nano");
    assert_eq!(record["skipped"].as_object().unwrap().len(), 1, "{record}");
    assert!(
        record["definitions"]["rfid"]
            .as_str()
            .unwrap()
            .starts_with("pytorch-fid")
    );
    // All codes keep more of a picture than the first of each position.
    for measure in ["psnr", "ssim"] {
        let first = metric(&record, &format!("{measure}@1"));
        assert!(metric(&record, measure) > first, "{record}");
    }
    for name in [
        "rfid",
        "rfid@1",
        "rfid-64",
        "lpips",
        "inception-score",
        "codes-used@4",
        "perplexity@1",
    ] {
        assert!(metric(&record, name).is_finite(), "{name}");
    }
    let one = folder.path().join("one");
    let written: Value =
        serde_json::from_slice(&fs::read(one.join("result.json")).unwrap()).unwrap();
    assert_eq!(written, record);
    let samples = fs::read_to_string(one.join("samples.jsonl")).unwrap();
    let samples: Vec<Value> = samples
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(samples.len(), 8);
    assert_eq!(samples[0]["id"], "n01440764/ILSVRC2012_val_00000000.png");
    let psnr = samples
        .iter()
        .map(|sample| sample["psnr"].as_f64().unwrap());
    assert!((psnr.sum::<f64>() / 8.0 - metric(&record, "psnr")).abs() < 1e-9);

    // The statistics that were written are what was compared.
    for (suffix, name) in [("", "fid"), ("-64", "fid-4")] {
        let files = ["original", "reconstruction"].map(|side| format!("one/{side}{suffix}.npz"));
        let fid = json(folder.path(), &["eval", "fid", &files[0], &files[1]]).remove(0);
        // What these layers are called, their channels say: a sixteenth here.
        let name = if suffix.is_empty() { "fid-128" } else { name };
        let expected = metric(&record, &format!("rfid{suffix}"));
        assert!((metric(&fid, name) / expected - 1.0).abs() < 1e-9, "{fid}");
    }

    // In batches of another size, the same; compared, no difference.
    measure(&["-o", "two", "--batch-size", "3"]);
    let compared = json(folder.path(), &["eval", "compare", "one", "two"]).remove(0);
    assert_eq!(compared["differs"], json!([]));
    for metric in compared["metrics"].as_array().unwrap() {
        let [a, b] = ["a", "b"].map(|side| metric[side]["value"].as_f64().unwrap());
        assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "{metric}");
    }

    // The table, without what is not given.
    let output = vila_u(
        folder.path(),
        &[
            "eval",
            "reconstruction",
            "--data",
            "val",
            "--resize",
            "stretch",
        ],
    );
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", message(&output));
    assert!(message(&output).contains("--inception"));
    assert!(table.starts_with("codes      PSNR      SSIM"), "{table}");
    assert!(table.contains("8 pictures, 1 left out"), "{table}");
    assert!(
        folder
            .path()
            .join("results/reconstruction/result.json")
            .is_file()
    );
}

/// MJHQ-30K's pictures in the folders of their categories, and others of the same names: in such folders, and in one.
fn mjhq() -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut meta = serde_json::Map::new();
    for seed in 0..12 {
        let category = ["animals", "art"][seed as usize % 2];
        let key = format!("{seed:040x}");
        let at = |name: String| folder.path().join(name);
        save(
            at(format!("mjhq30k_imgs/{category}/{key}.jpg")),
            &picture(seed, 90, 80),
        );
        let other = picture(seed + 20, 64, 64);
        save(at(format!("generated/{category}/{key}.png")), &other);
        save(at(format!("flat/{key}.png")), &other);
        meta.insert(key, json!({"category": category, "prompt": "a cat"}));
    }
    fs::write(
        folder.path().join("meta_data.json"),
        Value::from(meta).to_string(),
    )
    .unwrap();
    write_inception(&folder.path().join("inception.safetensors"));
    folder
}

#[test]
fn fid_of_mjhq_and_its_categories() {
    let folder = mjhq();
    let network = ["--inception", "inception.safetensors"];
    let fid = |arguments: &[&str]| {
        let mut all = vec!["eval", "fid", "mjhq30k_imgs"];
        all.extend(arguments);
        all.extend(network);
        json(folder.path(), &all).remove(0)
    };
    let record = fid(&["generated", "--per-category"]);
    let names: Vec<&str> = (record["metrics"].as_array().unwrap().iter())
        .map(|metric| metric["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["fid", "fid/animals", "fid/art"]);
    assert_eq!(record["metrics"][0]["n"], 12);
    assert_eq!(record["metrics"][1]["n"], 6);
    assert_eq!(record["settings"]["fid"], "clean-fid");
    let flat = fid(&[
        "flat",
        "--categories",
        "meta_data.json",
        "-o",
        "flat-result",
    ]);
    for name in names {
        let (a, b) = (metric(&record, name), metric(&flat, name));
        assert!(a > 0.0 && (a / b - 1.0).abs() < 1e-3, "{name}: {a} {b}");
    }
    // The statistics of a side stand for it; the definition is part of the number.
    let kept = fid(&["results/fid/second.npz", "-o", "kept"]);
    assert!((metric(&kept, "fid") / metric(&record, "fid") - 1.0).abs() < 1e-6);
    let other = fid(&["generated", "--definition", "torch-fidelity", "-o", "other"]);
    assert!((metric(&other, "fid") / metric(&record, "fid") - 1.0).abs() > 1e-3);
}

#[test]
fn what_cannot_be_compared_is_said() {
    let folder = mjhq();
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let output = vila_u(folder.path(), arguments);
        let error = message(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
        assert!(
            output.stdout.is_empty() && error.lines().count() <= 2,
            "{error}"
        );
    };
    let network = "--inception=inception.safetensors";
    let sides = ["eval", "fid", "mjhq30k_imgs", "flat"];
    refused(&sides, 2, "--inception");
    refused(
        &[&sides[..], &[network, "--per-category"]].concat(),
        1,
        "in no category",
    );
    refused(
        &[&sides[..], &["--inception=meta_data.json"]].concat(),
        1,
        "meta_data.json",
    );
    refused(
        &[&sides[..], &["--inception=none.pth"]].concat(),
        1,
        "none.pth",
    );
    refused(&["eval", "fid", "nothing", "flat", network], 2, "nothing");
    fs::write(folder.path().join("meta_data.json"), "[]").unwrap();
    refused(
        &[&sides[..], &[network, "--categories=meta_data.json"]].concat(),
        1,
        "meta_data.json",
    );
    fs::write(folder.path().join("cut.npz"), "PK\x03\x04").unwrap();
    refused(&["eval", "fid", "cut.npz", "flat", network], 1, "cut.npz");
    refused(
        &["eval", "reconstruction", "--data", "flat", "-o", "cut.npz"],
        2,
        "cut.npz",
    );
    refused(
        &[
            "eval",
            "reconstruction",
            "--data",
            "flat",
            "--lpips=cut.npz",
        ],
        1,
        "cut.npz",
    );
    let one = folder.path().join("one/a.png");
    fs::create_dir(one.parent().unwrap()).unwrap();
    fs::write(&one, "no picture").unwrap();
    refused(
        &["eval", "reconstruction", "--data", "one"],
        1,
        "not an image",
    );
    save(one, &picture(0, 20, 20));
    refused(&["eval", "fid", "one", "flat", network], 1, "at least two");
    // A category that only one side has.
    fs::rename(
        folder.path().join("generated/art"),
        folder.path().join("generated/kunst"),
    )
    .unwrap();
    let sides = [
        "eval",
        "fid",
        "mjhq30k_imgs",
        "generated",
        network,
        "--per-category",
    ];
    refused(&sides, 2, "art");
    fs::create_dir_all(folder.path().join("results/fid")).unwrap();
    fs::write(folder.path().join("results/fid/first.npz"), "PK").unwrap();
    refused(
        &["eval", "fid", "flat", "results/fid/first.npz", network],
        2,
        "name another",
    );
    assert!(!folder.path().join("results/fid/result.json").exists());
}

/// What is stopped goes on, to the same result.
#[cfg(unix)]
#[test]
fn a_stopped_run_goes_on() {
    use std::process::{Command, Stdio};
    let folder = imagenet();
    for copy in 0..12 {
        let name = format!("val/more/{copy:02}.png");
        save(folder.path().join(name), &picture(copy, 200, 200));
    }
    let arguments = |output: &'static str| {
        let all = [
            "eval",
            "reconstruction",
            "--data",
            "val",
            "--batch-size",
            "2",
        ];
        let more = ["-o", output, "--inception", "inception.safetensors"];
        [&all[..], &more].concat()
    };
    let whole = json(folder.path(), &arguments("whole")).remove(0);
    let child = Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(arguments("out"))
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = folder.path().join("out");
    let samples = out.join("samples.jsonl");
    while !fs::read_to_string(&samples).is_ok_and(|text| text.lines().count() > 2) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    let stopped = Command::new("kill").args(["-INT", &pid]).status();
    assert!(stopped.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", message(&output));
    assert!(message(&output).contains("goes on"), "{}", message(&output));
    assert!(out.join("unfinished.safetensors").exists() && !out.join("result.json").exists());
    // Another run is not mixed with it.
    let mut other = arguments("out");
    other.extend(["--definition", "clean-fid"]);
    let refused = vila_u(folder.path(), &other);
    assert_eq!(refused.status.code(), Some(2), "{}", message(&refused));
    assert!(
        message(&refused).contains("unfinished run"),
        "{}",
        message(&refused)
    );
    let resumed = json(folder.path(), &arguments("out")).remove(0);
    for metric in whole["metrics"].as_array().unwrap() {
        let name = metric["name"].as_str().unwrap();
        let (a, b) = (
            metric["value"].as_f64().unwrap(),
            self::metric(&resumed, name),
        );
        assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "{name}: {a} {b}");
    }
    assert_eq!(whole["data"], resumed["data"]);
    assert_eq!(fs::read_to_string(&samples).unwrap().lines().count(), 20);
    assert!(!out.join("unfinished.safetensors").exists());
}
