//! Runs that are killed, asked to stop, or out of disk, and go on as if nothing had been.
//!
//! One file, as all of them stop and continue the same small runs.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{json, vila_u};

/// A tower of a few thousand numbers.
const RECIPE: &str = r#"
    out = "whole"
    seed = 1
    steps = 30
    batch_size = 4
    checkpoint_every = 4
    eval_every = 7
    sample_every = 1000

    [[data.sources]]
    format = "nano"

    [[data.sources]]
    format = "nano"
    held_out = true

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
    optimizer = { learning_rate = 3e-3, warmup_ratio = 0.1, weight_decay = 0.01, betas = [0.9, 0.98], max_grad_norm = 1.0 }

    [[stages]]
    objective = { kind = "tower", contrastive_weight = 1.0, reconstruction_weight = 1.0, commitment_weight = 0.25, pixel_loss = "l1" }
    optimizer = { learning_rate = 3e-3, warmup_ratio = 0.1, weight_decay = 0.01, betas = [0.9, 0.98], max_grad_norm = 1.0 }
"#;

/// Making the tokenizers is most of the work of a tiny run: they are made once.
fn tokenizers() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        vila_u::data::nano::write_tokenizers(folder.path()).unwrap();
        folder
    });
    made.path()
}

/// A folder with the recipe.
pub(super) fn recipe() -> TempDir {
    let folder = TempDir::new().unwrap();
    let tokenizers = format!(
        "[model]\ntokenizers = {:?}\n[model.siglip.vision_config]",
        tokenizers()
    );
    let recipe = RECIPE.replace("[model.siglip.vision_config]", &tokenizers);
    fs::write(folder.path().join("recipe.toml"), recipe).unwrap();
    folder
}

/// The same with the uninterrupted run `whole`.
fn whole(steps: usize) -> TempDir {
    let folder = recipe();
    let steps = format!("steps={steps}");
    json(folder.path(), &["train", "recipe.toml", "--set", &steps]);
    folder
}

/// `train` into another folder.
pub(super) fn arguments<'a>(out: &'a str, steps: &'a str, resume: bool) -> Vec<&'a str> {
    let mut all = vec!["train", "recipe.toml", "--set", out, "--set", steps];
    all.extend(resume.then_some("--resume"));
    all
}

fn spawn(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What was recorded of every step, without the time it took.
pub(super) fn metrics(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    // The last line may be half-written.
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut lines: Vec<Value> = lines.collect();
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        for time in [
            "seconds",
            "samples_per_second",
            "tokens_per_second",
            "waiting",
        ] {
            line.remove(time).unwrap();
        }
    }
    lines
}

/// Every recorded number and every byte of the weights.
pub(super) fn assert_same(folder: &Path, out: &str) {
    let at = |run: &str| folder.join(run);
    assert_eq!(metrics(&at("whole")), metrics(&at(out)));
    let weights =
        |run: &str| fs::read(at(run).join("model/vision_tower/model.safetensors")).unwrap();
    assert!(weights("whole") == weights(out), "the weights differ");
}

pub(super) fn no_leftovers(out: &Path) {
    for folder in [out.to_path_buf(), out.join("checkpoints")] {
        for entry in fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with('.'), "{name} is left");
        }
    }
}

/// Waits until a run has recorded a step, or is over.
pub(super) fn wait_for(child: &mut Child, out: &Path, step: usize) {
    let start = Instant::now();
    while metrics(out).len() < step && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "no step {step}");
        sleep(Duration::from_millis(3));
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_is_the_uninterrupted_one() {
    const STEPS: usize = 30;
    let folder = whole(STEPS);
    let out = folder.path().join("killed");
    let mut random = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros() as u64;
    println!("random: {random}");
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let steps = format!("steps={STEPS}");
    let mut killed = 0;
    for attempt in 0..6 {
        let arguments = arguments("out=killed", &steps, attempt > 0 && out.exists());
        let mut child = spawn(folder.path(), &arguments);
        // At any step from here on, and anywhere in it: the first time maybe before all of them.
        let done = metrics(&out).len();
        let step = done.saturating_sub(3) + next(9) as usize;
        wait_for(&mut child, &out, step.min(STEPS - 1));
        sleep(Duration::from_millis(next(60)));
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        if !out.join("metrics.jsonl").exists() {
            // Killed before it was a run.
            let _ = fs::remove_dir_all(&out);
        }
    }
    assert!(killed >= 3, "killed {killed} times only");
    let resume = out.exists();
    let output = vila_u(folder.path(), &arguments("out=killed", &steps, resume));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_same(folder.path(), "killed");
    no_leftovers(&out);
    let run: Value = serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap();
    assert!(run["starts"].as_array().unwrap().len() >= 3, "{run}");
    assert_eq!(run["seed"], 1);
}

#[cfg(unix)]
fn terminate(child: &Child) {
    signal(child, "-TERM");
}

#[cfg(unix)]
pub(super) fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .unwrap()
            .success()
    );
}

/// As when its terminal is closed; under `nohup` it goes on.
#[cfg(unix)]
#[test]
fn a_run_whose_terminal_goes_saves_and_stops() {
    let folder = recipe();
    for (program, stops) in [("env", true), ("nohup", false)] {
        let name = format!("out={program}");
        let out = folder.path().join(program);
        let mut child = Command::new(program)
            .arg(env!("CARGO_BIN_EXE_vila-u"))
            .args(arguments(&name, "steps=30", false))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(&mut child, &out, 5);
        signal(&child, "-HUP");
        assert_eq!(child.wait().unwrap().code(), Some(0), "{program}");
        assert_eq!(out.join("model").exists(), !stops, "{program}");
    }
}

/// Nothing half-written is left of what a signal ends.
#[cfg(unix)]
#[test]
fn what_is_ended_while_it_writes_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let nano = ["data", "nano", "--out", "world", "-n", "1000000"];
    let mut child = spawn(folder.path(), &nano);
    let start = Instant::now();
    while fs::read_dir(folder.path()).unwrap().next().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(3));
    }
    terminate(&child);
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{message}");
    assert!(message.contains("interrupted"), "{message}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[cfg(unix)]
#[test]
fn a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on() {
    const STEPS: &str = "steps=30";
    let folder = whole(30);
    let out = folder.path().join("stopped");
    let mut child = spawn(folder.path(), &arguments("out=stopped", STEPS, false));
    wait_for(&mut child, &out, 5);
    terminate(&child);
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{message}");
    assert!(
        message.contains("--resume") && message.contains("of 30"),
        "{message}"
    );
    let step = metrics(&out).len();
    assert!((5..30).contains(&step), "{step}");
    assert!(
        out.join(format!("checkpoints/step-{step:08}/data.json"))
            .is_file()
    );
    assert!(!out.join("model").exists());
    let output = vila_u(folder.path(), &arguments("out=stopped", STEPS, true));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_same(folder.path(), "stopped");
}

/// No file may become larger than a checkpoint's: what a full disk looks like, too.
#[cfg(unix)]
#[test]
fn a_full_disk_costs_no_checkpoint() {
    let folder = whole(6);
    let out = folder.path().join("full");
    let output = vila_u(folder.path(), &arguments("out=full", "steps=4", false));
    assert!(output.status.success());
    let full = |limit: &str| {
        let program = env!("CARGO_BIN_EXE_vila-u");
        let run = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"");
        let mut shell = Command::new("bash");
        shell.args(["-c", &run, program]).current_dir(folder.path());
        shell
            .args(arguments("out=full", "steps=6", true))
            .output()
            .unwrap()
    };
    let output = full("40");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    for words in [
        "step 6 could not be written",
        "that of step 4 is kept",
        "--resume",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(message.lines().count(), 1, "{message}");
    no_leftovers(&out);
    assert!(full("unlimited").status.success());
    let weights = out.join("checkpoints/step-00000006/optimizer.safetensors");
    assert!(weights.is_file());
}

#[test]
fn damaged_checkpoints_are_named_with_what_to_do() {
    let folder = whole(8);
    let out = folder.path().join("whole");
    let last = out.join("checkpoints/step-00000008");
    let resume = ["train", "recipe.toml", "--set", "steps=9", "--resume"];
    let damage = |file: &str, words: &[&str]| {
        let path = last.join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let output = vila_u(folder.path(), &resume);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        for word in words {
            assert!(message.contains(word), "{message}");
        }
        fs::write(&path, whole).unwrap();
    };
    // The evaluation of step 7 was the best.
    let instead = ["to go on from step 7 instead, remove", "step-00000008"];
    damage(
        "optimizer.safetensors",
        &[&["optimizer.safetensors"], &instead[..]].concat(),
    );
    damage("data.json", &[&["data.json"], &instead[..]].concat());
    damage(
        "model/vision_tower/model.safetensors",
        &[&["model.safetensors"], &instead[..]].concat(),
    );
    // As it says.
    fs::remove_dir_all(&last).unwrap();
    json(folder.path(), &resume);
    assert_eq!(metrics(&out).len(), 9);
}

#[test]
fn runs_are_plotted_and_compared() {
    let folder = whole(15);
    json(folder.path(), &arguments("out=other", "steps=9", false));
    let run: Value =
        serde_json::from_slice(&fs::read(folder.path().join("whole/run.json")).unwrap()).unwrap();
    let start = &run["starts"][0];
    assert_eq!(start["step"], 0);
    assert!(start["time"].as_str().unwrap().ends_with('Z'), "{start}");
    assert!(image::open(folder.path().join("whole/curves.png")).is_ok());

    let compare = ["train", "--compare", "whole", "other", "-o", "both.png"];
    let compared = &json(folder.path(), &compare)[0];
    let metrics = compared["metrics"].as_array().unwrap();
    assert_eq!(metrics[0]["name"], "loss");
    assert_eq!(metrics[0]["runs"][0]["last_step"], 15);
    assert_eq!(metrics[0]["runs"][1]["last_step"], 9);
    assert!(metrics.iter().any(|metric| metric["name"] == "eval/psnr"));
    assert!(image::open(folder.path().join("both.png")).is_ok());
    let table = String::from_utf8(vila_u(folder.path(), &compare).stdout).unwrap();
    assert!(
        table.contains("eval/matching") && table.contains("both.png"),
        "{table}"
    );

    let missing = vila_u(folder.path(), &["train", "--compare", "none"]);
    assert_eq!(missing.status.code(), Some(1));
    let message = String::from_utf8(missing.stderr).unwrap();
    assert!(message.contains("metrics.jsonl"), "{message}");
    let both = vila_u(
        folder.path(),
        &["train", "recipe.toml", "--compare", "whole"],
    );
    assert_eq!(both.status.code(), Some(2));
    let neither = vila_u(folder.path(), &["train"]);
    assert_eq!(neither.status.code(), Some(2));
}

#[test]
fn ranks_that_are_killed_or_told_to_stop_go_on() {
    let folder = recipe();
    let together = |out: &'static str, resume: bool| {
        let mut all = arguments(out, "steps=12", resume);
        all.extend(["--ranks", "2"]);
        all
    };
    json(folder.path(), &together("out=whole", false));

    let out = folder.path().join("killed");
    let mut run = spawn(folder.path(), &together("out=killed", false));
    wait_for(&mut run, &out, 5);
    run.kill().unwrap();
    run.wait().unwrap();
    #[cfg(unix)]
    if metrics(&out).len() < 11 {
        // As schedulers do before a job's time is over.
        let steps = metrics(&out).len() + 1;
        let mut run = spawn(folder.path(), &together("out=killed", true));
        wait_for(&mut run, &out, steps);
        signal(&run, "-USR1");
        assert!(run.wait_with_output().unwrap().status.success());
    }
    if metrics(&out).len() < 12 {
        json(folder.path(), &together("out=killed", true));
    }
    assert_same(folder.path(), "killed");
}
