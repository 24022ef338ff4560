//! Several ranks together are one with their batches, and stop and go on as one.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use burn::tensor::Device;
use serde_json::Value;

use super::data::{COYO, init, language, with};
use super::{
    LANGUAGE, TOWER, alone, assert_same_model, metrics, on_a_new_tower, recipe, train, watch,
};
use vila_u::safetensors::SafeTensors;
use vila_u::training::distributed::{ProcessGroup, threads};
use vila_u::training::{Start, run};
use vila_u::{Error, Result};

/// Two ranks, each on a thread; `settings` and `stop_after` of either.
fn two(
    text: &str,
    out: &Path,
    settings: [&[&str]; 2],
    resume: bool,
    stop_after: [Option<u64>; 2],
) -> [Result<PathBuf>; 2] {
    let recipes = settings.map(|settings| recipe(text, out, settings).expect("a recipe"));
    let _alone = alone();
    let rank = |group: ProcessGroup| {
        let index = group.rank();
        let start = Start {
            resume,
            process_group: group,
            ..Start::default()
        };
        run(
            &recipes[index],
            &Device::flex(),
            start,
            watch(stop_after[index]),
        )
    };
    let rank = &rank;
    thread::scope(|scope| {
        let ranks = threads(2).into_iter();
        let running: Vec<_> = ranks
            .map(|group| scope.spawn(move || rank(group)))
            .collect();
        let ended: Vec<_> = running
            .into_iter()
            .map(|one| one.join().expect("a rank"))
            .collect();
        ended.try_into().expect("two")
    })
}

/// That the numbers of every step are the same but for so much of each.
fn assert_near(one: &[Value], two: &[Value], tolerance: f64) {
    assert_eq!(one.len(), two.len());
    for (one, two) in one.iter().zip(two) {
        let (one, two) = (
            one.as_object().expect("a line"),
            two.as_object().expect("a line"),
        );
        assert!(one.keys().eq(two.keys()), "{one:?} {two:?}");
        for (name, value) in one {
            let (a, b) = (
                value.as_f64().expect("f64"),
                two[name].as_f64().expect("f64"),
            );
            let difference = (a - b).abs() / a.abs().max(1e-3);
            assert!(
                difference < tolerance,
                "step {}, {name}: {a} and {b}",
                one["step"]
            );
        }
    }
}

/// The largest difference between codebooks and their running means.
fn codebook_difference(one: &Path, two: &Path) -> f32 {
    let [one, two] = [one, two]
        .map(|model| fs::read(model.join("vision_tower/model.safetensors")).expect("weights"));
    let [one, two] = [&one, &two].map(|file| SafeTensors::deserialize(file).expect("tensors"));
    let mut largest = 0.0_f32;
    let mut compared = 0;
    for name in one
        .names()
        .into_iter()
        .filter(|name| name.contains("codebooks"))
    {
        let values = |file: &SafeTensors| -> Vec<f32> {
            let bytes = file.tensor(name).expect("a tensor").data().as_chunks().0;
            bytes
                .iter()
                .map(|value| f32::from_le_bytes(*value))
                .collect()
        };
        for (one, two) in values(&one).into_iter().zip(values(&two)) {
            largest = largest.max((one - two).abs());
            compared += 1;
        }
    }
    assert!(compared > 1000);
    largest
}

#[test]
fn two_ranks_of_the_tower_are_one_with_both_batches() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    // Of the second stage, the first step shows the gradients before any of them was applied.
    for (name, stages) in [
        ("align", ["steps=4", "stages.1.share=0.001"]),
        ("tower", ["steps=4", "stages.0.share=0.001"]),
    ] {
        let one = at(&format!("{name}-one"));
        let settings = [&stages[..], &["batch_size=8"]].concat();
        let expected = train(TOWER, &one, &settings, false, None).expect("a run");
        let both = at(&format!("{name}-two"));
        let settings = [&stages[..], &["batch_size=4"]].concat();
        let finished = two(TOWER, &both, [&settings, &settings], false, [None, None]);
        let [model, _] = finished.map(|finished| finished.expect("a run"));
        let difference = codebook_difference(&expected, &model);
        assert!(
            difference < 1e-3,
            "{name}: codebooks differ by {difference}"
        );
        let (one, both) = (metrics(&one), metrics(&both));
        assert_near(&one[..1], &both[..1], 1e-5);
        assert_near(&one, &both, 1e-3);
    }
}

#[test]
fn two_ranks_of_a_language_model_are_two_batches_of_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let settings = |accumulation| [init.as_str(), "depth_dropout=0.0", "steps=5", accumulation];
    let (one, both) = (folder.path().join("one"), folder.path().join("two"));
    let expected = train(
        LANGUAGE,
        &one,
        &settings("gradient_accumulation_steps=2"),
        false,
        None,
    )
    .expect("a run");
    let same = settings("gradient_accumulation_steps=1");
    let [leader, other] = two(LANGUAGE, &both, [&same, &same], false, [None, None]);
    let model = leader.expect("a run");
    other.expect("a run");
    assert_near(&metrics(&one), &metrics(&both), 1e-5);
    assert_same_model(&expected, &model, &["vision_tower"]);
}

#[test]
fn ranks_on_files_stop_together_and_go_on_where_each_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = language("pretrain", &[&with(COYO, "kind = \"generation\"")]);
    let settings = [init(), "depth_dropout=0.0".into(), "batch_size=2".into()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let each = [settings.as_slice(); 2];
    let (whole, out) = (folder.path().join("whole"), folder.path().join("stopped"));
    let [expected, _] = two(&text, &whole, each, false, [None, None]);
    // Only one of them is asked to.
    for stopped in two(&text, &out, each, false, [None, Some(3)]) {
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    }
    assert_eq!(metrics(&out).len(), 3);
    let [model, _] = two(&text, &out, each, true, [None, None]);
    let (expected, model) = (expected.expect("a run"), model.expect("a run"));
    assert_same_model(&expected, &model, &["llm", "mm_projector", "vision_tower"]);
    assert_eq!(metrics(&whole), metrics(&out));

    // One rank goes on with what neither of them has read.
    let fewer = folder.path().join("fewer");
    for stopped in two(&text, &fewer, each, false, [Some(3), None]) {
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    }
    train(&text, &fewer, &settings, true, None).expect("a run");
    assert_eq!(metrics(&whole).len(), metrics(&fewer).len());
}

#[test]
fn what_goes_wrong_on_one_rank_stops_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let seeds: [&[&str]; 2] = [&["seed=1"], &["seed=2"]];
    for stopped in two(
        TOWER,
        &folder.path().join("seeds"),
        seeds,
        false,
        [None, None],
    ) {
        let error = stopped.expect_err("an error").to_string();
        assert!(error.contains("rank 1 has another recipe"), "{error}");
    }
    let out = folder.path().join("nan");
    let settings: &[&str] = &["stages.1.optimizer.learning_rate=1e30"];
    let [leader, other] = two(TOWER, &out, [settings; 2], false, [None, None]);
    let error = leader.expect_err("an error").to_string();
    assert!(
        error.contains("lower the learning rate") && error.contains("is kept"),
        "{error}"
    );
    assert!(other.is_err() && out.join("failed.json").exists());
}
