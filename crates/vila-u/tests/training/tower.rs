//! Everything that a tower's run can have besides pixels and sigmoids: LPIPS, a discriminator, averaged weights,
//! encoders from SigLIP, none of them from anywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Distribution, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;

use super::{
    LANGUAGE, TOWER, alone, assert_same_model, mean, metrics, on_a_new_tower, tokenizers, train,
};
use vila_u::Error;
use vila_u::checkpoint::{Files, WeightDtype, load_tower};
use vila_u::training::losses::lpips::{BLOCKS, CONVOLUTIONS};

/// Shape and values.
type Values = (Vec<usize>, Vec<f32>);
type Weights = BTreeMap<String, Values>;

fn read(folder: &Path) -> Weights {
    let file = fs::read(folder.join("model.safetensors")).expect("weights");
    let tensors = SafeTensors::deserialize(&file).expect("safetensors");
    let floats = |view: TensorView| {
        let bytes = view.data().as_chunks().0.iter();
        (
            view.shape().to_vec(),
            bytes.map(|value| f32::from_le_bytes(*value)).collect(),
        )
    };
    tensors
        .iter()
        .map(|(key, view)| (key.to_string(), floats(view)))
        .collect()
}

fn write(path: &Path, weights: &Weights) {
    let bytes: Vec<Vec<u8>> = (weights.values())
        .map(|(_, values)| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let views = weights
        .iter()
        .zip(&bytes)
        .map(|((key, (shape, _)), bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor");
            (key, view)
        });
    safetensors::serialize_to_file(views, None, path).expect("write");
}

/// A narrow VGG16 with heads.
fn lpips(path: &Path) {
    let (mut weights, mut indices, mut inputs) = (Weights::new(), CONVOLUTIONS.iter(), 3);
    let values = |count: usize, scale: f64| -> Vec<f32> {
        (0..count)
            .map(|i| ((1.7 * i as f64 * i as f64).sin() * scale) as f32)
            .collect()
    };
    for (block, outputs) in [4, 4, 6, 6, 6].into_iter().enumerate() {
        for index in indices.by_ref().take(BLOCKS[block]) {
            let (count, scale) = (outputs * inputs * 9, (4.0 / (9 * inputs) as f64).sqrt());
            let weight = (vec![outputs, inputs, 3, 3], values(count, scale));
            weights.insert(format!("features.{index}.weight"), weight);
            let bias = (vec![outputs], values(outputs, 0.1));
            weights.insert(format!("features.{index}.bias"), bias);
            inputs = outputs;
        }
        let head = (vec![1, outputs, 1, 1], vec![0.5; outputs]);
        weights.insert(format!("lin{block}.weight"), head);
    }
    write(path, &weights);
}

fn checkpoint(out: &Path, step: u64, part: &str) -> PathBuf {
    out.join(format!("checkpoints/step-{step:08}")).join(part)
}

/// Keys of one part of a tower.
fn part<'a>(weights: &'a Weights, prefix: &str) -> Vec<(&'a String, &'a Values)> {
    let part: Vec<_> = (weights.iter())
        .filter(|(key, _)| key.starts_with(prefix))
        .collect();
    assert!(!part.is_empty(), "no {prefix}");
    part
}

const TEXTS: &str = "rqvaesiglip.siglip_model.text_model.";
const VISION: &str = "rqvaesiglip.siglip_model.vision_model.";

#[test]
fn every_loss_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lpips.safetensors");
    lpips(&file);
    let perceptual = format!(
        "stages.1.objective.perceptual={{weights={:?}}}",
        file.display().to_string()
    );
    // Four steps of each stage; the game begins with the second one's third.
    let settings = [
        "stages.1.objective.contrastive_loss=softmax",
        &perceptual,
        "stages.1.objective.adversarial={start_step=2,layers=2,width=4}",
        "ema_decay=0.9",
        "model.rqvaesiglip.shared_codebook=false",
        "eval_every=8",
        "checkpoint_every=7",
    ];
    let whole = folder.path().join("whole");
    let model = train(TOWER, &whole, &settings, false, None).expect("a run");
    let lines = metrics(&whole);
    for (index, line) in lines.iter().enumerate() {
        let has = |name: &str| line[name].as_f64().is_some_and(f64::is_finite);
        assert!(has("loss") && has("contrastive"));
        assert_eq!(has("perceptual"), index >= 4, "{line}");
        for name in ["adversarial", "adaptive_weight", "discriminator"] {
            assert_eq!(has(name), index >= 6, "{line}");
        }
    }
    assert!(mean(&lines[7..], "eval/lpips") > 0.0);
    // Before it has learned anything, it is wrong about a half of what it sees.
    assert!((mean(&lines[6..7], "discriminator") - 1.0).abs() < 0.3);
    assert!(mean(&lines[6..], "adaptive_weight") > 0.0);

    // The discriminator learns, is in checkpoints and not in the model.
    let [before, after] = [7, 8].map(|step| read(&checkpoint(&whole, step, "discriminator")));
    assert!(before.keys().eq(after.keys()) && before.len() == 2 + 2 * 3 + 2);
    for (key, value) in &before {
        // A shift of all judgements is as right about pictures as it is wrong about reconstructions.
        assert!(key == "last.bias" || *value != after[key], "{key}");
    }
    let finished = read(&model.join("vision_tower"));
    assert!(finished.keys().all(|key| key.starts_with("rqvaesiglip.")));
    // The mean is what is finished, and not the weights of the last step.
    let last = read(&checkpoint(&whole, 8, "model/vision_tower"));
    assert_eq!(
        finished,
        read(&checkpoint(&whole, 8, "ema/model/vision_tower"))
    );
    for part_of_model in [VISION, "rqvaesiglip.decoder.", "rqvaesiglip.quantizer."] {
        for (key, value) in part(&finished, part_of_model) {
            assert!(
                value != &last[key] || value.1.iter().all(|v| *v == 0.0),
                "{key}"
            );
        }
    }
    // A codebook for each depth, both of which follow the features.
    let earlier = read(&checkpoint(&whole, 7, "model/vision_tower"));
    for depth in 0..2 {
        let key = format!("rqvaesiglip.quantizer.codebooks.{depth}.weight");
        assert_eq!(last[&key].0, [17, 32]);
        assert_ne!(last[&key], earlier[&key]);
    }
    assert!(!last.contains_key("rqvaesiglip.quantizer.codebooks.2.weight"));

    // Stopped before the game, and in it.
    for stop in [6, 7] {
        let out = folder.path().join(format!("stopped-{stop}"));
        let stopped = train(TOWER, &out, &settings, false, Some(stop));
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
        let resumed = train(TOWER, &out, &settings, true, None).expect("a run");
        assert_same_model(&model, &resumed, &["vision_tower"]);
        for part in [
            "discriminator",
            "ema/model/vision_tower",
            "model/vision_tower",
        ] {
            let [one, other] = [&whole, &out].map(|out| read(&checkpoint(out, 8, part)));
            assert_eq!(one, other, "{part}");
        }
        assert_eq!(lines, metrics(&out));
    }
}

/// A decoder that does not play along is soon found out.
#[test]
fn a_discriminator_learns_to_tell_reconstructions_from_pictures() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = [
        "steps=80",
        "stages.1.share=15",
        "batch_size=8",
        "stages.1.objective.adversarial={weight=0,start_step=5,layers=2,width=8}",
    ];
    let out = folder.path().join("run");
    train(TOWER, &out, &settings, false, None).expect("a run");
    let lines = metrics(&out);
    let [before, after] = [&lines[10..15], &lines[70..]].map(|steps| mean(steps, "discriminator"));
    assert!(before > 0.8 && after < 0.7 * before, "{before} {after}");
}

#[test]
fn what_a_loss_needs_is_checked_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let file = folder.path().join("lpips.safetensors");
    let perceptual = format!(
        "stages.1.objective.perceptual={{weights={:?}}}",
        file.display().to_string()
    );
    let fails = |settings: &[&str]| {
        let error = train(TOWER, &out, settings, false, None).expect_err("an error");
        assert!(!out.exists() || !out.join("metrics.jsonl").exists());
        error.to_string()
    };
    let error = fails(&[&perceptual]);
    assert!(error.contains("lpips.safetensors"), "{error}");
    fs::write(&file, "not weights").expect("write");
    let error = fails(&[&perceptual]);
    assert!(error.contains("not a safetensors file"), "{error}");
    let error = fails(&["stages.1.objective.adversarial={start_step=0}"]);
    assert!(error.contains("at least 24 pixels, not 16"), "{error}");
}

/// Codes that are taught, of pictures in layers.
const LAYER_CODES: [&str; 4] = [
    "stages.1.objective.layer_codes={other_backgrounds=0.5}",
    "stages.1.objective.commitment_weight=0",
    "stages.1.share=3",
    "model.rqvaesiglip.shared_codebook=false",
];

#[test]
fn codes_of_layers_are_learnt() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = LAYER_CODES.to_vec();
    settings.extend([
        "steps=40",
        "batch_size=8",
        "eval_every=10",
        "checkpoint_every=38",
    ]);
    let whole = folder.path().join("whole");
    let model = train(TOWER, &whole, &settings, false, None).expect("a run");
    let lines = metrics(&whole);
    let [before, after] = [&lines[10..15], &lines[35..]].map(|steps| mean(steps, "layer_codes"));
    assert!(after < 0.8 * before, "{before} {after}");
    let colours = |line: usize| {
        lines[line]["eval/background_codes"]
            .as_f64()
            .expect("a share")
    };
    assert!(colours(39) > colours(19), "{} {}", colours(19), colours(39));
    // The codebooks learn, and their padding stays what it is.
    let [before, last] = [38, 40].map(|step| read(&checkpoint(&whole, step, "model/vision_tower")));
    for depth in 0..2 {
        let key = |name| format!("rqvaesiglip.quantizer.codebooks.{depth}.{name}");
        let rows = key("weight");
        assert_ne!(before[&rows], last[&rows]);
        assert!(last[&rows].1[16 * 32..].iter().all(|value| *value == 0.0));
    }

    let out = folder.path().join("stopped");
    let stopped = train(TOWER, &out, &settings, false, Some(25));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let resumed = train(TOWER, &out, &settings, true, None).expect("a run");
    assert_same_model(&model, &resumed, &["vision_tower"]);
    assert_eq!(lines, metrics(&out));
}

#[test]
fn what_codes_of_layers_need_is_checked_first() {
    let folder = tempfile::tempdir().expect("a folder");
    for (setting, reason) in [
        (
            "model.rqvaesiglip.shared_codebook=true",
            "shared_codebook = false",
        ),
        (
            "stages.1.objective.commitment_weight=0.25",
            "commitment_weight must be 0",
        ),
        (
            "stages.1.objective.layer_codes={other_backgrounds=1}",
            "below 1",
        ),
        (
            "stages.1.objective.layer_codes={weight=-1}",
            "must not be negative",
        ),
    ] {
        let mut settings = LAYER_CODES.to_vec();
        settings.push(setting);
        let out = folder.path().join("run");
        let error = train(TOWER, &out, &settings, false, None).expect_err("an error");
        assert!(matches!(error, Error::Usage(_)), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(!out.join("metrics.jsonl").exists());
    }
}

/// The recipe of the tower's stage alone.
fn stage(sizes: &str, more: &str) -> String {
    format!(
        "{sizes}\n[[stages]]\nobjective = {{ kind = \"tower\", contrastive_weight = 1.0, reconstruction_weight = 1.0, \
         commitment_weight = 0.25, pixel_loss = \"l2\"{more} }}\noptimizer = OPTIMIZER\n"
    )
}

#[test]
fn from_scratch_trains_the_text_encoder_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let sizes = TOWER.split("[[stages]]").next().expect("sizes");
    let error = train(&stage(sizes, ""), &out, &[], false, None).expect_err("an error");
    assert!(error.to_string().contains("align"), "{error}");
    let settings = ["steps=2", "checkpoint_every=1"];
    let recipe = stage(sizes, ", from_scratch = true");
    train(&recipe, &out, &settings, false, None).expect("a run");
    let [before, after] = [1, 2].map(|step| read(&checkpoint(&out, step, "model/vision_tower")));
    for part_of_model in [TEXTS, VISION] {
        let moved = part(&before, part_of_model);
        let moved = moved.iter().filter(|(key, value)| **value != after[*key]);
        assert!(moved.count() > 10, "{part_of_model}");
    }
}

/// With no layer before the codes, so that no other patch has a say.
#[test]
fn a_patch_has_the_same_codes_at_any_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let layers = "model.siglip.vision_config.num_hidden_layers=1";
    let differ = |name: &str, settings: &[&str]| {
        let out = folder.path().join(name);
        let model = train(TOWER, &out, settings, false, None).expect("a run");
        let _alone = alone();
        let device = Device::flex();
        let tower = load_tower(&Files::folder(&model), &device, WeightDtype::F32).expect("a tower");
        // Four patches of 8 x 8, all the same.
        let patch = Tensor::<4>::random([128, 3, 8, 8], Distribution::Uniform(-1.0, 1.0), &device);
        let codes = tower.model.encode(patch.repeat(&[1, 1, 2, 2])).codes;
        let [first, last] =
            [0, 3].map(|place| codes.clone().reshape([128, 4, 2]).narrow(1, place, 1));
        first.not_equal(last).any().into_scalar::<bool>()
    };
    assert!(!differ(
        "free",
        &[layers, "model.no_position_embedding=true"]
    ));
    assert!(differ("placed", &[layers]));
}

#[test]
fn siglip_gives_the_encoders() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = |name: &str| folder.path().join(name);
    // What a tower's run has, as Hugging Face would publish it.
    let tower = train(TOWER, &out("tower"), &["steps=2"], false, None).expect("a tower");
    let weights: Weights = (read(&tower.join("vision_tower")).into_iter())
        .filter_map(|(key, value)| {
            let key = key.strip_prefix("rqvaesiglip.")?;
            let key = key.strip_prefix("siglip_model.").unwrap_or(key);
            let kept = ["text_model.", "vision_model.", "logit_"];
            kept.iter()
                .any(|part| key.starts_with(part))
                .then(|| (key.to_string(), value))
        })
        .collect();
    let siglip = out("siglip");
    fs::create_dir(&siglip).expect("a folder");
    let file = siglip.join("model.safetensors");
    write(&file, &weights);
    let config = json!({
        "model_type": "siglip",
        "text_config": {
            "model_type": "siglip_text_model", "vocab_size": 497, "max_position_embeddings": 16,
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8,
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        },
    });
    fs::write(siglip.join("config.json"), config.to_string()).expect("write");
    let spiece = siglip.join("spiece.model");
    fs::copy(tokenizers().join("siglip/spiece.model"), &spiece).expect("a tokenizer");

    let start = TOWER.find("[model.rqvaesiglip]").expect("sizes");
    let sizes = TOWER[start..].split("[[stages]]").next().expect("sizes");
    let (recipe, init) = (stage(sizes, ""), format!("init={}", siglip.display()));
    let settings = [init.as_str(), "steps=2"];
    let model = train(&recipe, &out("run"), &settings, false, None).expect("a run");
    let trained = read(&model.join("vision_tower"));
    for (key, value) in part(&trained, TEXTS) {
        let key = key
            .strip_prefix("rqvaesiglip.siglip_model.")
            .expect("a key");
        assert_eq!(value, &weights[key], "{key}");
    }
    let far = part(&trained, VISION).iter().any(|(key, value)| {
        let old = &weights[key
            .strip_prefix("rqvaesiglip.siglip_model.")
            .expect("a key")];
        value
            .1
            .iter()
            .zip(&old.1)
            .any(|(new, old)| (new - old).abs() > 0.02)
    });
    assert!(
        !far,
        "two steps of 0.003 do not lead far from SigLIP's weights"
    );
    assert_ne!(trained["rqvaesiglip.logit_scale"], weights["logit_scale"]);
    // The run's model is whole: it is what a next run starts from.
    let next = format!("init={}", model.display());
    train(&recipe, &out("next"), &[&next, "steps=1"], false, None).expect("a run");

    let fails = |settings: &[&str]| {
        let error = train(&recipe, &out("new"), settings, false, None).expect_err("an error");
        error.to_string()
    };
    let error = fails(&[&init, "model.siglip={}"]);
    assert!(error.contains("init"), "{error}");
    let error = fails(&[&init, "model.rqvaesiglip.embed_dim=64"]);
    assert!(error.contains("embed_dim"), "{error}");
    let mut fewer = weights.clone();
    fewer.remove("vision_model.head.probe");
    write(&file, &fewer);
    let error = fails(&[&init]);
    assert!(error.contains("vision_model.head.probe"), "{error}");
    let mut wrong = weights.clone();
    wrong.insert("logit_bias".into(), (vec![2], vec![0.0; 2]));
    write(&file, &wrong);
    let error = fails(&[&init]);
    assert!(
        error.contains("logit_bias") && error.contains("[2]"),
        "{error}"
    );
    fs::remove_file(&spiece).expect("removed");
    let error = fails(&[&init]);
    assert!(error.contains("spiece.model"), "{error}");
}

#[test]
fn a_language_model_is_averaged_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let settings = [init.as_str(), "ema_decay=0.5", "steps=4"];
    let whole = folder.path().join("whole");
    let model = train(LANGUAGE, &whole, &settings, false, None).expect("a run");
    let parts = ["llm", "mm_projector", "vision_tower"];
    assert_same_model(&model, &checkpoint(&whole, 4, "ema/model"), &parts);
    let last = checkpoint(&whole, 4, "model");
    assert_ne!(read(&model.join("llm")), read(&last.join("llm")));
    // The tower's features are not trained, and stay what they were to the bit.
    let [mean, last] = [&model, &last].map(|model| read(&model.join("vision_tower")));
    for (key, value) in part(&mean, "rqvaesiglip.") {
        assert_eq!(value, &last[key], "{key}");
    }
    let out = folder.path().join("stopped");
    let stopped = train(LANGUAGE, &out, &settings, false, Some(2));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let resumed = train(LANGUAGE, &out, &settings, true, None).expect("a run");
    assert_same_model(&model, &resumed, &parts);
}
