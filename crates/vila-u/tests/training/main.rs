//! Whole runs of tiny models.
//!
//! One file, as what runs are made of is shared by all files beside it.

mod bases;
mod data;
mod language;
mod ranks;
mod runs;
mod tower;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use burn::tensor::Device;
use serde_json::Value;

use vila_u::checkpoint::Files;
use vila_u::data::nano;
use vila_u::training::recipe::Recipe;
use vila_u::training::{Progress, Start, Watch, run};
use vila_u::{Error, Result};

const COMMON: &str = r#"
    seed = 1
    steps = 8
    batch_size = 4
    checkpoint_every = 100
    eval_every = 100
    sample_every = 100
"#;

const OPTIMIZER: &str = "{ learning_rate = 3e-3, warmup_ratio = 0.1, weight_decay = 0.01, betas = [0.9, 0.98], max_grad_norm = 1.0 }";

/// The nano world, trained on and held out.
const NANO: &str = r#"
    [[data.sources]]
    format = "nano"

    [[data.sources]]
    format = "nano"
    held_out = true
"#;

const TOWER: &str = r#"
    [model.siglip.vision_config]
    image_size = 16
    patch_size = 8
    hidden_size = 32
    intermediate_size = 64
    num_hidden_layers = 2
    num_attention_heads = 2

    [model.siglip.text_config]
    vocab_size = 497
    max_position_embeddings = 16
    hidden_size = 32
    intermediate_size = 64
    num_hidden_layers = 1
    num_attention_heads = 2

    [model.rqvaesiglip]
    pretrained_model = "siglip"
    embed_dim = 32
    n_embed = 16
    latent_shape = [2, 2, 32]
    code_shape = [2, 2, 2]
    shared_codebook = true
    restart_unused_codes = true

    [model.rqvaesiglip.ddconfig]
    z_channels = 32
    resolution = 16
    ch = 32
    ch_mult = [1, 1, 1, 1]
    num_res_blocks = 0
    attn_resolutions = []

    [[stages]]
    objective = { kind = "align" }
    optimizer = OPTIMIZER

    [[stages]]
    objective = { kind = "tower", contrastive_weight = 1.0, reconstruction_weight = 1.0, commitment_weight = 0.25, pixel_loss = "l1" }
    optimizer = OPTIMIZER
"#;

const LANGUAGE: &str = r#"
    [model.llm]
    vocab_size = 1006
    hidden_size = 32
    intermediate_size = 64
    num_hidden_layers = 1
    num_attention_heads = 2

    [model.mm_projector]
    mm_projector_type = "mlp2x_gelu"

    [model.rqtransformer]
    block_size = [2, 2, 2]
    embed_dim = 32
    input_embed_dim_1 = 32
    input_embed_dim_2 = 32
    vocab_size = 16

    [model.rqtransformer.head]
    n_layer = 1

    [model.rqtransformer.head.block]
    n_head = 2

    [[stages]]
    objective = { kind = "pretrain", caption = 1.0, generation = 1.0, question = 1.0, cfg_dropout = 0.5, visual_token_dropout = 0.5 }
    optimizer = OPTIMIZER
"#;

/// Making the tokenizers is most of the work of a tiny run: they are made once.
fn tokenizers() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        nano::write_tokenizers(folder.path()).expect("tokenizers");
        folder
    });
    made.path()
}

/// The recipe `text` into `out`, on the nano world if it names no data.
fn recipe(text: &str, out: &Path, overrides: &[&str]) -> Result<Recipe> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recipe.toml");
    let text = text.replace("OPTIMIZER", OPTIMIZER);
    let nano = if text.contains("[[data.sources]]") {
        ""
    } else {
        NANO
    };
    let text = format!("out = {out:?}\n{COMMON}\n{nano}\n{text}");
    fs::write(&path, text).expect("write");
    let tokenizers = format!("model.tokenizers={}", tokenizers().display());
    let mut settings = vec![tokenizers];
    settings.extend(overrides.iter().map(|text| text.to_string()));
    Recipe::load(&path, &settings)
}

/// Stops a run when `stop_after` steps are done.
fn watch(stop_after: Option<u64>) -> Watch {
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    let progress = move |progress: &Progress| {
        // Heeded after the step that follows.
        if stop_after.is_some_and(|last| progress.step + 1 >= last) {
            stopper.store(true, Ordering::Relaxed);
        }
    };
    Watch {
        progress: Box::new(progress),
        stop,
    }
}

/// The CPU has one random generator for all threads: one run at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Trains in `out`; stops by itself when `stop_after` steps are done.
fn train(
    text: &str,
    out: &Path,
    overrides: &[&str],
    resume: bool,
    stop_after: Option<u64>,
) -> Result<PathBuf> {
    let recipe = recipe(text, out, overrides)?;
    let _alone = alone();
    let start = Start {
        resume,
        ..Start::default()
    };
    run(&recipe, &Device::flex(), start, watch(stop_after))
}

/// The metrics of every step, without the time it took.
fn metrics(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let mut lines: Vec<Value> = (text.lines())
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    for line in &mut lines {
        for name in ["seconds", "samples_per_second", "tokens_per_second"] {
            let speed = line.as_object_mut().and_then(|object| object.remove(name));
            assert!(speed.is_some_and(|speed| speed.as_f64() > Some(0.0)));
        }
        let waiting = (line.as_object_mut()).and_then(|object| object.remove("waiting"));
        let waiting = waiting.and_then(|share| share.as_f64()).expect("a share");
        assert!((0.0..=1.0).contains(&waiting), "{waiting}");
    }
    lines
}

fn mean(metrics: &[Value], name: &str) -> f64 {
    let values: Vec<f64> = metrics
        .iter()
        .filter_map(|line| line[name].as_f64())
        .collect();
    assert!(!values.is_empty(), "no {name}");
    values.iter().sum::<f64>() / values.len() as f64
}

fn assert_same_model(a: &Path, b: &Path, parts: &[&str]) {
    for part in parts {
        let read =
            |model: &Path| fs::read(model.join(part).join("model.safetensors")).expect("weights");
        assert!(read(a) == read(b), "{part} differs");
    }
}

#[test]
fn the_tower_learns() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let settings = [
        "steps=90",
        "stages.1.share=2",
        "eval_every=45",
        "batch_size=8",
    ];
    let model = train(TOWER, &out, &settings, false, None).expect("a run");
    let metrics = metrics(&out);
    assert_eq!(metrics.len(), 90);
    let (align, tower) = metrics.split_at(30);
    let (before, after) = (
        mean(&align[..5], "contrastive"),
        mean(&align[20..], "contrastive"),
    );
    assert!(after < 0.9 * before, "{before} {after}");
    let (before, after) = (mean(&tower[..3], "pixel"), mean(&tower[50..], "pixel"));
    assert!(after < 0.8 * before, "{before} {after}");
    assert!(align[0].get("pixel").is_none());
    for name in ["eval/psnr", "eval/matching", "eval/codes_used"] {
        assert!(metrics[89][name].is_f64(), "{name}");
    }
    assert!(out.join("samples/step-00000090.png").is_file());
    assert_eq!(model, out.join("model"));
    assert_same_model(
        &model,
        &out.join("checkpoints/step-00000090/model"),
        &["vision_tower"],
    );
}

#[test]
fn a_resumed_tower_run_is_the_uninterrupted_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole");
    let expected = train(TOWER, &whole, &[], false, None).expect("a run");
    // In the first stage, between the stages, in the second stage.
    for stop in [2, 4, 5] {
        let out = folder.path().join(format!("stopped-{stop}"));
        let stopped = train(TOWER, &out, &[], false, Some(stop));
        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
        assert_eq!(metrics(&out).len() as u64, stop);
        let model = train(TOWER, &out, &[], true, None).expect("a run");
        assert_same_model(&expected, &model, &["vision_tower"]);
        assert_eq!(metrics(&whole), metrics(&out));
    }
}

/// The setting that starts a language run: a tower of two steps.
fn on_a_new_tower(folder: &Path) -> String {
    let tower = train(TOWER, &folder.join("tower"), &["steps=2"], false, None);
    format!("init={}", tower.expect("a tower").display())
}

#[test]
fn a_resumed_language_run_is_the_uninterrupted_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    // In parallel, since nothing is dropped out.
    let settings = [
        init.as_str(),
        "gradient_accumulation_steps=2",
        "depth_dropout=0.0",
    ];
    let whole = folder.path().join("whole");
    let expected = train(LANGUAGE, &whole, &settings, false, None).expect("a run");
    let out = folder.path().join("stopped");
    let stopped = train(LANGUAGE, &out, &settings, false, Some(4));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let model = train(LANGUAGE, &out, &settings, true, None).expect("a run");
    assert_same_model(&expected, &model, &["llm", "mm_projector", "vision_tower"]);
    assert_eq!(metrics(&whole), metrics(&out));

    // The whole model goes on in a next run; its tower never changed.
    let settings = [format!("init={}", expected.display()), "steps=30".into()];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let (sizes, stages) = LANGUAGE.split_at(LANGUAGE.find("[[stages]]").expect("stages"));
    assert!(sizes.contains("[model.llm]"));
    let out = folder.path().join("further");
    train(
        &stages.replace("pretrain", "sft"),
        &out,
        &settings,
        false,
        None,
    )
    .expect("a run");
    let metrics = metrics(&out);
    assert!(mean(&metrics[20..], "loss") < 0.9 * mean(&metrics[..3], "loss"));
    assert!(metrics[29]["eval/answer_loss"].is_f64());
    // Kinds that are not trained are not measured.
    assert!(metrics[29].get("eval/video_loss").is_none());
}

/// Every kind of sample is trained on, measured by itself, and shown.
#[test]
fn every_kind_of_sample_is_learnt() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let stages = LANGUAGE.find("[[stages]]").expect("stages");
    let kinds = [
        ("caption", "caption_loss"),
        ("generation", "generation_loss"),
        ("question", "answer_loss"),
        ("video_generation", "video_loss"),
        ("video_question", "video_answer_loss"),
        ("page", "page_loss"),
        ("comparison", "comparison_loss"),
        ("reply", "reply_loss"),
        ("text", "text_only_loss"),
    ];
    let weights = kinds.map(|(kind, _)| format!("{kind} = 1.0")).join(", ");
    let recipe = format!(
        "{}[[stages]]\nobjective = {{ kind = \"sft\", {weights}, cfg_dropout = 0.1, visual_token_dropout = 0.5 }}\n\
         optimizer = OPTIMIZER\n",
        &LANGUAGE[..stages]
    );
    let settings = [init.as_str(), "steps=24", "eval_every=12", "batch_size=8"];
    let out = folder.path().join("run");
    train(&recipe, &out, &settings, false, None).expect("a run");
    let metrics = metrics(&out);
    for (kind, metric) in kinds {
        let name = format!("eval/{metric}");
        let [before, after] = [11, 23].map(|step: usize| metrics[step][&name].as_f64());
        assert!(
            after < before && after.is_some(),
            "{kind}: {before:?} {after:?}"
        );
    }
    // A row of pictures above a row of generated ones, and two of each for the videos.
    let sheet = image::open(out.join("samples/step-00000024.png")).expect("a sheet");
    assert_eq!((sheet.width(), sheet.height()), (8 * 18 - 2, 6 * 18 - 2));

    // Videos are described in fine-tuning only.
    let recipe = recipe.replace("\"sft\"", "\"pretrain\"");
    let out = folder.path().join("pretrain");
    let error = train(&recipe, &out, &settings, false, None).expect_err("an error");
    let error = error.to_string();
    assert!(
        error.contains("video_question belongs in fine-tuning"),
        "{error}"
    );
}

#[test]
fn parallel_batches_are_those_one_after_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let settings = [
        init.as_str(),
        "gradient_accumulation_steps=3",
        "depth_dropout=0.0",
    ];
    let run = |name: &str, threads: usize| {
        let out = folder.path().join(name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads")
            .install(|| train(LANGUAGE, &out, &settings, false, None))
            .expect("a run");
        metrics(&out)
    };
    let (one, two) = (run("one", 1), run("two", 2));
    assert_eq!(one.len(), two.len());
    for (one, two) in one.iter().zip(&two) {
        for name in ["loss", "gradient_norm"] {
            let (one, two) = (&one[name], &two[name]);
            let (one, two) = (one.as_f64().expect("f64"), two.as_f64().expect("f64"));
            assert!((one - two).abs() < 1e-3 * one, "{name}: {one} and {two}");
        }
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let settings = [
        "checkpoint_every=1",
        "stages.1.optimizer.learning_rate=1e30",
    ];
    let error = train(TOWER, &out, &settings, false, None)
        .expect_err("an error")
        .to_string();
    assert!(error.contains("lower the learning rate"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    let last = metrics(&out).len();
    let checkpoint = |step: usize| out.join(format!("checkpoints/step-{step:08}/model"));
    assert!(checkpoint(last).is_dir() && checkpoint(last - 1).is_dir());
    assert!(!checkpoint(last - 2).exists() && !checkpoint(last + 1).exists());
    assert!(error.contains(&format!("step {last} is kept")), "{error}");
    assert!(!out.join("model").exists());
}

#[test]
fn a_run_folder_is_never_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    let error = train(TOWER, &out, &["steps=1"], true, None).expect_err("an error");
    assert!(
        error.to_string().contains("run without --resume"),
        "{error}"
    );
    train(TOWER, &out, &["steps=1"], false, None).expect("a run");
    let error = train(TOWER, &out, &["steps=1"], false, None).expect_err("an error");
    assert!(error.to_string().contains("--resume"), "{error}");
    // Nothing is left to do, and that is fine.
    train(TOWER, &out, &["steps=1"], true, None).expect("a finished run");
}

#[test]
fn other_sizes_do_not_resume() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("run");
    train(TOWER, &out, &["steps=1"], false, None).expect("a run");
    let settings = ["steps=2", "model.rqvaesiglip.n_embed=32"];
    let error = train(TOWER, &out, &settings, true, None).expect_err("an error");
    assert!(error.to_string().contains("codebooks"), "{error}");
}
