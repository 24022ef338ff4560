//! What a run keeps, and how it stops.

use std::fs::{self, File};
use std::path::Path;

use serde_json::Value;

use super::data::init;
use super::{LANGUAGE, TOWER, assert_same_model, metrics, train};
use vila_u::Error;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

fn checkpoints(out: &Path) -> Vec<u64> {
    let entries = fs::read_dir(out.join("checkpoints")).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    let mut steps: Vec<u64> = names
        .filter_map(|name| name.ok()?.strip_prefix("step-")?.parse().ok())
        .collect();
    steps.sort_unstable();
    steps
}

#[test]
fn the_last_checkpoints_and_the_best_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let settings = [
        "steps=14",
        "eval_every=2",
        "checkpoint_every=1",
        "keep_checkpoints=3",
    ];
    train(TOWER, &out, &settings, false, Some(11)).expect_err("stopped");
    train(TOWER, &out, &settings, true, None).expect("a run");
    // The second stage, in which pictures are reconstructed, begins after step 7.
    let lines = metrics(&out);
    let psnr = |step: u64| lines[step as usize - 1]["eval/psnr"].as_f64();
    let evaluated = (8..=14).filter_map(|step| Some((step, psnr(step)?)));
    let first_highest = |best: (u64, f64), one: (u64, f64)| if one.1 > best.1 { one } else { best };
    let (step, score) = evaluated.reduce(first_highest).expect("evaluations");
    let best = read(&out.join("checkpoints/best.json"));
    assert_eq!(best["step"], step);
    assert_eq!(best["score"], score);
    let mut expected = vec![12, 13, 14];
    if !expected.contains(&step) {
        expected.insert(0, step);
    }
    assert_eq!(checkpoints(&out), expected);
}

#[test]
fn a_new_best_is_saved_between_checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let settings = ["steps=6", "eval_every=5"];
    train(TOWER, &out, &settings, false, None).expect("a run");
    let best = read(&out.join("checkpoints/best.json"));
    let step = best["step"].as_u64().expect("a step");
    assert!([5, 6].contains(&step), "{best}");
    assert_eq!(checkpoints(&out), [3, 5, 6][3 - checkpoints(&out).len()..]);
}

#[test]
fn a_loss_spike_stops_the_run_and_names_its_samples() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let settings = [
        "steps=80",
        "stages.0.share=0.001",
        "loss_spike_factor=1.5",
        "stages.1.optimizer.learning_rate=1.0",
        "stages.1.optimizer.warmup_ratio=1.0",
        "checkpoint_every=8",
        "keep_checkpoints=1",
    ];
    let error = train(TOWER, &out, &settings, false, None)
        .expect_err("an error")
        .to_string();
    assert!(
        error.contains("spiked") && error.contains("`loss_spike_factor`"),
        "{error}"
    );
    let failed = read(&out.join("failed.json"));
    let step = failed["step"].as_u64().expect("a step");
    assert!(step > 20 && step < 80, "{step}");
    assert!(error.contains(&format!("at step {step}")), "{error}");
    // Each step takes four scenes, in the order of their numbers.
    let samples = failed["samples"].as_array().expect("samples");
    let first = 4 * (step - 1);
    for (sample, n) in samples.iter().zip(first..) {
        assert_eq!(sample["source"], "nano");
        assert_eq!(sample["key"], format!("caption {n}"));
    }
    assert_eq!(samples.len(), 4);
    assert!(failed["losses"]["contrastive"].is_string(), "{failed}");
    // The state before, and nothing after.
    assert_eq!(metrics(&out).len() as u64, step - 1);
    // It may be ruined already: the good one before it is not removed.
    let older = (step - 1) / 8 * 8;
    assert!(older < step - 1);
    assert_eq!(checkpoints(&out), [older, step - 1]);
    let again = format!("(if it fails again, to go on from step {older} instead, remove");
    assert!(error.contains(&again), "{error}");
    // Told to bear it, it goes on from there.
    let patient = [&settings[..2], &["loss_spike_factor=1e9"], &settings[3..]].concat();
    train(TOWER, &out, &patient, true, Some(step + 2)).expect_err("stopped");
    assert_eq!(metrics(&out).len() as u64, step + 2);
    assert!(!out.join("failed.json").exists());
}

#[test]
fn batches_in_which_nothing_trained_takes_part_are_borne() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = init();
    let stages = LANGUAGE.find("[[stages]]").expect("stages");
    let run = |name: &str, kinds: &str, checkpointing: &str| {
        let recipe = format!(
            "{}[[stages]]\nobjective = {{ kind = \"sft\", {kinds}, cfg_dropout = 0.0, train = [\"projector\"] }}\n\
             optimizer = OPTIMIZER\n",
            &LANGUAGE[..stages]
        );
        let out = folder.path().join(name);
        let settings = [init.as_str(), checkpointing, "batch_size=1"];
        let model = train(&recipe, &out, &settings, false, None).expect("a run");
        let norms = metrics(&out);
        let norms = norms
            .iter()
            .map(|line| line["gradient_norm"].as_f64().expect("f64"));
        (model, norms.collect::<Vec<f64>>())
    };
    let (_, norms) = run("text", "text = 1.0", "gradient_checkpointing=false");
    assert_eq!(norms, [0.0; 8]);
    let both = "text = 1.0, caption = 1.0";
    let (kept, norms) = run("both", both, "gradient_checkpointing=false");
    let text = norms.iter().filter(|norm| **norm == 0.0).count();
    assert!((1..8).contains(&text), "{norms:?}");
    let (again, _) = run("again", both, "gradient_checkpointing=true");
    assert_same_model(&kept, &again, &["mm_projector"]);
}

#[test]
fn a_run_is_not_gone_on_with_without_what_it_trained() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let refused = |text: &str, out: &Path, settings: &[&str], words: &str| {
        let settings = [&["steps=3"], settings].concat();
        let error = train(text, out, &settings, true, None).expect_err("an error");
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let game = "stages.1.objective.adversarial={start_step=2,layers=2,width=4}";
    let (tower, plain) = (at("tower"), at("plain"));
    train(
        TOWER,
        &tower,
        &["steps=2", game, "ema_decay=0.9"],
        false,
        None,
    )
    .expect("a run");
    train(TOWER, &plain, &["steps=2"], false, None).expect("a run");
    refused(TOWER, &tower, &[game], "began with `ema_decay`");
    refused(
        TOWER,
        &plain,
        &["ema_decay=0.9"],
        "began without `ema_decay`",
    );
    let adversarial = "`objective.adversarial`";
    refused(
        TOWER,
        &tower,
        &["ema_decay=0.9"],
        &format!("began with {adversarial}"),
    );
    refused(
        TOWER,
        &plain,
        &[game],
        &format!("began without {adversarial}"),
    );

    let whole = at("whole");
    let init = init();
    let init = init.as_str();
    let model = train(LANGUAGE, &whole, &[init, "steps=2"], false, None).expect("a run");
    let init = format!("init={}", model.display());
    let init = init.as_str();
    let further = &LANGUAGE[LANGUAGE.find("[[stages]]").expect("stages")..];
    let lora = "lora={ rank = 2, alpha = 4.0, target_modules = [\"q_proj\", \"v_proj\"] }";
    let (adapted, plain) = (at("adapted"), at("further"));
    train(further, &adapted, &[init, lora, "steps=1"], false, None).expect("a run");
    train(further, &plain, &[init, "steps=1"], false, None).expect("a run");
    refused(further, &adapted, &[init], "began with `lora`");
    refused(further, &plain, &[init, lora], "began without `lora`");
    let fewer = lora.replace(", \"v_proj\"", "");
    refused(
        further,
        &adapted,
        &[init, &fewer],
        "began with lora.target_modules",
    );
    let stronger = lora.replace("4.0", "8.0");
    refused(
        further,
        &adapted,
        &[init, &stronger],
        "began with lora.alpha",
    );
    // A model says where it lies, and not where it was written first.
    let step = adapted.join("checkpoints/step-00000001/model");
    for place in [adapted.join("model"), step] {
        let config = read(&place.join("config.json"));
        assert_eq!(config["resume_path"], place.display().to_string());
    }
}

#[test]
fn what_goes_wrong_after_a_step_does_not_cost_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, out) = (folder.path().join("whole"), folder.path().join("run"));
    let settings = ["stages.0.share=0.001", "sample_every=3"];
    let expected = train(TOWER, &whole, &settings, false, None).expect("a run");
    // A file cannot be put here.
    let sheet = out.join("samples/step-00000003.png");
    fs::create_dir_all(&sheet).expect("a folder");
    let error = train(TOWER, &out, &settings, false, None).expect_err("an error");
    let error = error.to_string();
    assert!(
        error.contains("step-00000003.png") && error.contains("step 3 is kept"),
        "{error}"
    );
    assert_eq!(checkpoints(&out), [3]);
    fs::remove_dir(&sheet).expect("an empty folder");
    let model = train(TOWER, &out, &settings, true, None).expect("a run");
    assert_same_model(&expected, &model, &["vision_tower"]);
    assert_eq!(metrics(&whole), metrics(&out));
}

#[test]
fn a_folder_with_checkpoints_holds_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(TOWER, &out, &["steps=2"], false, None).expect("a run");
    fs::remove_file(out.join("metrics.jsonl")).expect("a file");
    let error = train(TOWER, &out, &["steps=3"], false, None).expect_err("an error");
    assert!(error.to_string().contains("already holds a run"), "{error}");
    train(TOWER, &out, &["steps=3"], true, None).expect("a run");
    assert_eq!(metrics(&out).len(), 1);
}

#[test]
fn one_program_at_a_time_writes_in_a_run_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(TOWER, &out, &["steps=1"], false, None).expect("a run");
    let lock = File::create(out.join("run.lock")).expect("a file");
    lock.lock().expect("a lock");
    let error = train(TOWER, &out, &["steps=2"], true, None).expect_err("an error");
    assert!(error.to_string().contains("in use"), "{error}");
    drop(lock);
    train(TOWER, &out, &["steps=2"], true, None).expect("a run");
}

/// Of the nano world, whose samples followed from their numbers, older versions kept no state of the dataloader.
#[test]
fn a_checkpoint_of_an_older_version_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(TOWER, &out, &["steps=2"], false, None).expect("a run");
    let path = out.join("checkpoints/step-00000002/data.json");
    let older = r#"{"ranks": 1, "positions": [], "shards": [], "skipped": 0}"#;
    fs::write(&path, older).expect("write");
    let error = train(TOWER, &out, &["steps=3"], true, None).expect_err("an error");
    assert!(matches!(error, Error::Usage(_)), "{error}");
    let error = error.to_string();
    for words in ["older version", "--set init=FOLDER"] {
        assert!(error.contains(words), "{error}");
    }
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_longer_run_replaces_the_finished_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let weights = || fs::read(out.join("model/vision_tower/model.safetensors")).expect("weights");
    train(TOWER, &out, &["steps=2"], false, None).expect("a run");
    let before = weights();
    train(TOWER, &out, &["steps=4"], true, None).expect("a run");
    assert!(weights() != before);
}

#[test]
fn a_run_that_was_cut_off_before_its_first_checkpoint_begins_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, out) = (folder.path().join("whole"), folder.path().join("run"));
    train(TOWER, &whole, &["steps=3"], false, None).expect("a run");
    fs::create_dir_all(out.join("checkpoints/.saving-a/new")).expect("a folder");
    fs::write(
        out.join("metrics.jsonl"),
        "{\"step\": 1, \"loss\": 2.0}\n{\"st",
    )
    .expect("write");
    train(TOWER, &out, &["steps=3"], true, None).expect("a run");
    assert_eq!(metrics(&whole), metrics(&out));
    assert!(!out.join("checkpoints/.saving-a").exists());
}
