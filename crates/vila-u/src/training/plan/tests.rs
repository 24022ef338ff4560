//! Parameters and memory of the released model's stages.

use std::path::Path;

use super::*;

const RECIPE: &str = r#"
    out = "runs/x"
    init = "hf:mit-han-lab/vila-u-7b-256"
    seed = 1
    steps = 10
    batch_size = 2
    gradient_accumulation_steps = 8
    checkpoint_every = 5
    eval_every = 5
    sample_every = 5

    [[data.sources]]
    format = "nano"

    [[stages]]
    objective = { kind = "sft", caption = 1.0, cfg_dropout = 0.1 }
    optimizer = { learning_rate = 1e-4, warmup_ratio = 0.03, weight_decay = 0.0, betas = [0.9, 0.95], max_grad_norm = 1.0 }
"#;

fn recipe(settings: &[&str]) -> Recipe {
    let settings: Vec<String> = settings.iter().map(|text| text.to_string()).collect();
    Recipe::parse(RECIPE, Path::new("a recipe"), &settings).unwrap()
}

fn stage(recipe: &Recipe, gpu: bool) -> StagePlan {
    let sizes = initial::sizes(recipe).unwrap();
    StagePlan::new(recipe, &recipe.stages[0], 10, &sizes, &[], gpu)
}

fn resources(memory: u64) -> Resources {
    Resources {
        memory: Some(memory),
        ..Resources::default()
    }
}

/// LLaMA-2-7B has 6,738,415,616 parameters, and here four words more, in and out.
const LANGUAGE: u64 = 6_738_415_616 + 2 * 4 * 4096;

#[test]
fn parameters_are_those_of_the_released_model() {
    let plan = stage(&recipe(&[]), false);
    let part = |plan: &StagePlan, name: &str| {
        let part = plan.parts.iter().find(|part| part.name == name).unwrap();
        [part.trained, part.frozen]
    };
    assert_eq!(part(&plan, "language model"), [LANGUAGE, 0]);
    assert_eq!(part(&plan, "vision encoder")[0], 0);
    let counted: u64 = plan.parts.iter().map(|part| part.trained).sum();
    assert_eq!(plan.trained, counted);
    // Two norms a layer and one after them are not decayed, beside those of the depth transformer.
    let norms = 65 * 4096;
    assert!(plan.trained - plan.decayed > norms && plan.trained - plan.decayed < 3 * norms);
    assert_eq!(
        (plan.samples, plan.tokens, plan.measured),
        (16, 16 * 8192, 0)
    );

    // Rank 2 beside four square layers, two to 11,008 and one back, in each of 32.
    let adapted = stage(&recipe(&["lora={ rank = 2, alpha = 4.0 }"]), false);
    let ranks = 4 * 2 * 4096 + 3 * (4096 + 11_008);
    assert_eq!(part(&adapted, "language model"), [32 * 2 * ranks, LANGUAGE]);
    let train = "stages.0.objective.train=[\"projector\"]";
    let projector = stage(&recipe(&[train]), false);
    assert_eq!(projector.trained, part(&plan, "projector")[0]);
}

#[test]
fn memory_is_less_with_every_remedy() {
    let plain = stage(&recipe(&["depth_dropout=0.1"]), false);
    let memory = plain.memory;
    assert_eq!(memory.weights, 4 * (plain.trained + plain.frozen));
    assert_eq!(memory.optimizer, 8 * plain.trained);
    // One batch after the other: its gradients, and their sum.
    assert_eq!(memory.gradients, 8 * plain.trained);
    assert_eq!(
        stage(&recipe(&["gradient_accumulation_steps=1"]), false)
            .memory
            .gradients,
        4 * plain.trained
    );
    let checkpointed = stage(&recipe(&["gradient_checkpointing=true"]), false).memory;
    assert!(checkpointed.activations < memory.activations / 2);
    assert_eq!(checkpointed.weights, memory.weights);
    let single = stage(&recipe(&["batch_size=1"]), false).memory;
    assert!(single.activations < memory.activations * 6 / 10);

    let plan = Plan::new(
        &recipe(&[]),
        &Device::flex(),
        &resources(80_000_000_000),
        false,
    )
    .unwrap();
    let totals: Vec<u64> = plan.remedies.iter().map(|(_, bytes)| *bytes).collect();
    assert_eq!(totals.len(), 3);
    assert!(totals[0] < plain.memory.total());
    assert!(totals.windows(2).all(|pair| pair[1] < pair[0]));
    let error = plan.check().unwrap_err().to_string();
    for word in [
        "80.00 GB",
        "gradient_checkpointing = true",
        "gradient_accumulation_steps = 16",
        "lora =",
    ] {
        assert!(error.contains(word), "{word}: {error}");
    }
    let plan = Plan::new(
        &recipe(&[]),
        &Device::flex(),
        &resources(totals[0] * 10),
        false,
    )
    .unwrap();
    assert!(plan.check().is_ok());
}

/// One batch after the other, whose layers keep more.
#[test]
fn a_gpu_keeps_gradients_and_moments() {
    let [cpu, gpu] = [false, true].map(|gpu| stage(&recipe(&["depth_dropout=0.1"]), gpu).memory);
    assert_eq!(
        [gpu.weights, gpu.gradients, gpu.optimizer],
        [cpu.weights, cpu.gradients, cpu.optimizer]
    );
    assert!(gpu.activations > cpu.activations);
    // Attention in chunks: no scores of all positions by all.
    let checkpointed = stage(&recipe(&["gradient_checkpointing=true"]), true).memory;
    assert!(checkpointed.activations < gpu.activations / 20);
    // Of a batch the gradients of a layer and of what is outside the layers, beside the sum.
    assert!(checkpointed.gradients < gpu.gradients * 6 / 10);
}

#[test]
fn ranks_of_one_machine_share_its_memory() {
    let [cpu, gpu] = [false, true].map(|gpu| stage(&recipe(&[]), gpu));
    let resources = Resources {
        memory: None,
        ranks: 4,
        here: 2,
    };
    let both = cpu.clone().on(&resources, false);
    let cards = gpu.clone().on(&resources, true);
    assert_eq!(
        (both.samples, both.tokens),
        (4 * cpu.samples, 4 * cpu.tokens)
    );
    // Of the moments each rank has a fourth.
    let alone = |memory: &MemoryNeed| memory.total() - memory.optimizer / 4 * 3;
    assert_eq!(both.memory.total(), 2 * alone(&cpu.memory));
    assert_eq!(cards.memory.total(), alone(&gpu.memory));
}

#[test]
fn sizes_that_nobody_knows() {
    let unknown = recipe(&["init=hf:nobody/knows"]);
    let error = initial::sizes(&unknown).err().unwrap().to_string();
    assert!(error.contains("vila-u info hf:nobody/knows"), "{error}");
}
