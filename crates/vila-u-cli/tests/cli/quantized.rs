//! Models in fewer bits: exported, loaded, measured.

use std::fs;

use tempfile::TempDir;

use super::{json, vila_u};

/// The nano model in blocks is smaller, keeps a red heart red on blue, and is the same loaded from a folder
/// or rounded while loading.
#[test]
fn exported_and_generated_with() {
    let folder = TempDir::new().unwrap();
    let size = |name: &str| {
        let file = folder.path().join(name).join("llm/model.safetensors");
        fs::metadata(file).unwrap().len()
    };
    json(
        folder.path(),
        &["export", "nano", "-o", "f16", "--dtype", "f16"],
    );
    for format in ["q8_0", "q4_0", "bf16"] {
        let exported = &json(
            folder.path(),
            &["export", "nano", "--quantize", format, "-o", format],
        )[0];
        assert_eq!(exported["dtype"], format);
        let generate = |model: &[&str], name: &str| {
            let prompt = "a red heart on a blue background";
            let mut all = model.to_vec();
            all.extend(["generate", prompt, "--greedy", "-o", name]);
            json(folder.path(), &all);
            image::open(folder.path().join(name)).unwrap().into_rgb8()
        };
        let stored = generate(&["--model", format, "--dtype", format], "stored.png");
        let made = generate(&["--dtype", format], "made.png");
        // A file of bf16 has everything in it; beside blocks, all else stays as it is.
        assert!(format == "bf16" || stored == made, "{format}");
        let [red, green, blue] = stored.get_pixel(1, 1).0;
        assert!(blue > red && blue > green, "{format}: {red} {green} {blue}");
    }
    assert!(size("q8_0") < size("f16") && size("q4_0") < size("q8_0"));
}

#[test]
fn what_fewer_bits_cost() {
    let folder = TempDir::new().unwrap();
    let report = &json(folder.path(), &["eval", "quantized", "-n", "4"])[0];
    let formats = report["formats"].as_array().unwrap();
    let names: Vec<&str> = formats
        .iter()
        .map(|f| f["format"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["f32", "bf16", "q8_0", "q4_0"]);
    let errors: Vec<f64> = formats
        .iter()
        .map(|f| f["codes"]["error"].as_f64().unwrap())
        .collect();
    assert_eq!(errors[0], 0.0);
    assert!(errors[1] < errors[2] && errors[2] < errors[3], "{errors:?}");
    let memory: Vec<u64> = formats
        .iter()
        .map(|f| f["memory"].as_u64().unwrap())
        .collect();
    assert!(memory.is_sorted_by(|a, b| a > b), "{memory:?}");
}

#[test]
fn quantized_once_only() {
    let folder = TempDir::new().unwrap();
    json(
        folder.path(),
        &["export", "nano", "--quantize", "q4_0", "-o", "q4"],
    );
    let refused = vila_u(
        folder.path(),
        &["--model", "q4", "eval", "quantized", "-n", "1"],
    );
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("quantized already"), "{said}");
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/nano-sft.toml");
    let start = ["train", recipe, "--set", "init=q4", "--set", "out=run"];
    let refused = vila_u(folder.path(), &start);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("export q4"), "{said}");
    let refused = vila_u(
        folder.path(),
        &["export", "nano", "--quantize", "q5", "-o", "x"],
    );
    assert_eq!(refused.status.code(), Some(2));
    assert!(!folder.path().join("x").exists());
}
