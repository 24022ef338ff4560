//! What a run would take, and that one that cannot fit is refused before anything is loaded.

use std::path::Path;

use tempfile::TempDir;

use super::{json, vila_u};

fn recipe(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    folder.join(name).display().to_string()
}

#[test]
fn a_plan_measures_the_samples_and_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let recipe = recipe("nano-sft.toml");
    let train = ["train", &recipe, "--plan", "--set", "init=nano"];
    let plan = &json(folder.path(), &train)[0];
    let stage = &plan["stages"][0];
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert_eq!(
        (&stage["kind"], number(&stage["samples"])),
        (&"sft".into(), 16)
    );
    assert_eq!(number(&stage["measured"]), 64);
    // A picture of 64 tokens, and words.
    let tokens = number(&stage["tokens"]) / 16;
    assert!((70..200).contains(&tokens), "{tokens}");
    let padding = stage["padding"].as_f64().unwrap();
    assert!(padding > 0.0 && padding < 0.5, "{padding}");
    assert_eq!(
        number(&stage["memory"]["optimizer"]),
        8 * number(&stage["trained"])
    );

    let output = vila_u(folder.path(), &train);
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "language model",
        "weight decay",
        "padding",
        "activations",
        "with gradient_checkpointing = true",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(folder.path().read_dir().unwrap().next().is_none());
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_loaded() {
    let folder = TempDir::new().unwrap();
    let recipe = recipe("nano-sft.toml");
    let refused = |more: &[&str]| {
        let mut train = vec!["train", &recipe, "--set"];
        train.extend(more);
        let output = vila_u(folder.path(), &train);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        for word in [
            "needs about",
            "gradient_checkpointing = true",
            "batch_size = 1",
        ] {
            assert!(message.contains(word), "{message}");
        }
        assert!(folder.path().read_dir().unwrap().next().is_none());
        !output.stdout.is_empty()
    };
    assert!(!refused(&["init=nano", "--memory", "100MB"]));
    // More than any machine has.
    assert!(!refused(&["init=nano", "--set", "batch_size=2000000"]));
    // The plan says what, and then that it cannot be. Nothing of the 7B model is at hand.
    let init = "init=hf:mit-han-lab/vila-u-7b-384";
    assert!(refused(&[init, "--plan", "--memory", "80GB"]));

    let train = [
        "train", &recipe, "--set", init, "--plan", "--memory", "100 TB",
    ];
    assert!(vila_u(folder.path(), &train).status.success());
    let train = ["train", &recipe, "--plan", "--memory", "much"];
    assert_eq!(vila_u(folder.path(), &train).status.code(), Some(2));
}
