//! What a recipe may and may not say.

use super::*;

const TEXT: &str = r#"
    out = "runs/x"
    seed = 1
    steps = 10
    batch_size = 4
    checkpoint_every = 5
    eval_every = 5
    sample_every = 5

    [[data.sources]]
    format = "nano"

    [[stages]]
    share = 1.0
    objective = { kind = "align" }
    optimizer = { learning_rate = 1e-3, warmup_ratio = 0.1, weight_decay = 0.0, betas = [0.9, 0.98], max_grad_norm = 1.0 }

    [[stages]]
    share = 3.0
    objective = { kind = "tower", contrastive_weight = 1.0, reconstruction_weight = 1.0, commitment_weight = 0.25, pixel_loss = "l1" }
    optimizer = { learning_rate = 1e-3, warmup_ratio = 0.1, weight_decay = 0.0, betas = [0.9, 0.98], max_grad_norm = 1.0 }
"#;

fn load(text: &str, overrides: &[&str]) -> Result<Recipe> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recipe.toml");
    fs::write(&path, text).expect("write");
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    Recipe::load(&path, &overrides)
}

#[test]
fn overrides_reach_every_level() {
    let recipe = load(
        TEXT,
        &[
            "steps=40",
            "out=/tmp/a b",
            "stages.1.optimizer.learning_rate=3e-4",
            "stages.1.optimizer.betas.1=0.5",
            "stages.1.objective.pixel_loss=l2",
            "model.tokenizers=somewhere",
        ],
    )
    .expect("a recipe");
    assert_eq!(recipe.steps, 40);
    assert_eq!(recipe.out, PathBuf::from("/tmp/a b"));
    assert_eq!(recipe.stages[1].optimizer.learning_rate, 3e-4);
    assert_eq!(recipe.stages[1].optimizer.betas, [0.9, 0.5]);
    assert!(matches!(
        &recipe.stages[1].objective,
        Objective::Tower(Tower {
            pixel_loss: PixelLoss::L2,
            ..
        })
    ));
    assert_eq!(recipe.stage_ends(), [10, 40]);
    let again: Recipe = toml::from_str(&recipe.to_toml().expect("toml")).expect("a recipe");
    assert_eq!(
        again.to_toml().expect("toml"),
        recipe.to_toml().expect("toml")
    );
}

#[test]
fn mistakes_are_named() {
    for (overrides, expected) in [
        (vec!["stpes=1"], "stpes"),
        (vec!["steps=0"], "steps"),
        (vec!["steps=9223372036854775807"], "1000000000"),
        (vec!["batch_size=9223372036854775807"], "cannot be meant"),
        (
            vec!["gradient_accumulation_steps=1048577"],
            "cannot be meant",
        ),
        (vec!["depth_dropout=1"], "depth_dropout"),
        (vec!["keep_checkpoints=0"], "keep_checkpoints"),
        (vec!["loss_spike_factor=1"], "loss_spike_factor"),
        (vec!["steps=many"], "invalid type"),
        (
            vec!["stages.0.optimizer.clip=0.5"],
            "`clip` is now `max_grad_norm`",
        ),
        (vec!["steps"], "key=value"),
        (vec!["stages.7.share=1"], "`7`"),
        (vec!["modle.llm=1"], "modle"),
        (vec!["steps.more=1"], "`more`"),
        (vec!["stages.0.objective.pixel_loss=l1"], "pixel_loss"),
        (vec!["stages.1.objective.pixel_loss=l3"], "l3"),
        (vec!["stages.0.optimizer.max_grad_norm=0"], "max_grad_norm"),
        (vec!["ema_decay=1"], "ema_decay"),
        (vec!["stages.0.objective.kind=tower"], "contrastive"),
        (vec!["stages.1.objective.contrastive_loss=hinge"], "hinge"),
        (vec!["stages.1.objective.perceptual.weight=2"], "weights"),
        (
            vec!["stages.1.objective.commitment_weight=-1"],
            "commitment_weight",
        ),
        (vec!["stages.1.objective.adversarial.weight=2"], "start"),
        (
            vec!["stages.1.objective.adversarial={start_step=1,layers=9}"],
            "layers",
        ),
        (vec!["stages.1.objective.from_scratch=true"], "first stage"),
        (
            vec![
                "stages.0.objective={kind=\"tower\",contrastive_weight=1,reconstruction_weight=1,commitment_weight=1,pixel_loss=\"l1\"}",
            ],
            "align",
        ),
    ] {
        let error = load(TEXT, &overrides).expect_err("an error").to_string();
        assert!(error.contains(expected), "{overrides:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = load(&TEXT.replace("seed", "sede"), &[]).expect_err("an error");
    assert!(error.to_string().contains("sede"), "{error}");
}

/// A file that lacks something is whole with its settings, whatever editor wrote it.
#[test]
fn settings_may_be_what_the_file_lacks() {
    let text = format!("\u{feff}{}", TEXT.replace("steps = 10", "steps = 0"));
    let error = load(&text, &["seed=2"]).expect_err("an error");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert_eq!(load(&text, &["steps=3"]).expect("a recipe").steps, 3);
    let error = load(TEXT, &["steps=0"]).expect_err("an error");
    assert!(matches!(error, Error::Usage(_)), "{error}");
}
