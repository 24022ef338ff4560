//! What the language model's stages train, and how.
//!
//! One file, as all stages train the same tiny model.

use vila_u::training::plan::{Plan, Resources};

use super::*;

/// The stages of [`LANGUAGE`] with another key in the objective, to train a whole model further.
fn further(objective: &str) -> String {
    let (_, stages) = LANGUAGE.split_at(LANGUAGE.find("[[stages]]").expect("stages"));
    stages.replace(
        "visual_token_dropout = 0.5",
        &format!("visual_token_dropout = 0.5, {objective}"),
    )
}

/// A whole model of a few steps.
fn whole(folder: &Path) -> String {
    let init = on_a_new_tower(folder);
    let model = train(
        LANGUAGE,
        &folder.join("whole"),
        &[&init, "steps=2"],
        false,
        None,
    );
    model.expect("a model").display().to_string()
}

/// The tensors of a checkpoint's part whose keys start with `prefix`.
fn tensors(model: &Path, part: &str, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let file = fs::read(model.join(part).join("model.safetensors")).expect("weights");
    let tensors = vila_u::safetensors::SafeTensors::deserialize(&file).expect("tensors");
    let mut found: Vec<_> = tensors
        .tensors()
        .into_iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .map(|(key, tensor)| (key, tensor.data().to_vec()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no {prefix} in {part}");
    found
}

#[test]
fn only_the_parts_that_are_named_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = whole(folder.path());
    let before = Path::new(&init);
    // Name, folder, keys.
    let parts = [
        (
            "tower",
            "vision_tower",
            "rqvaesiglip.siglip_model.vision_model.encoder.layers.0.",
        ),
        ("projector", "mm_projector", ""),
        ("language", "llm", ""),
        ("depth", "vision_tower", "rqtransformer."),
    ];
    let init = format!("init={init}");
    for trained in [vec!["tower", "projector"], vec!["language"], vec!["depth"]] {
        let out = folder.path().join(trained.join("-"));
        let recipe = further(&format!("train = {trained:?}"));
        let after = train(&recipe, &out, &[&init, "steps=2"], false, None).expect("a run");
        for (name, part, prefix) in parts {
            let same = tensors(before, part, prefix) == tensors(&after, part, prefix);
            assert_eq!(same, !trained.contains(&name), "{name} of {trained:?}");
        }
        for fixed in [
            "rqvaesiglip.quantizer.",
            "rqvaesiglip.decoder.",
            "rqvaesiglip.siglip_model.text_model.",
        ] {
            let [before, after] =
                [before, &after].map(|model| tensors(model, "vision_tower", fixed));
            assert!(before == after, "{fixed}");
        }
    }
    let recipe = further("train = []");
    let error = train(&recipe, &folder.path().join("none"), &[&init], false, None);
    assert!(
        error
            .expect_err("an error")
            .to_string()
            .contains("train must name a part")
    );
}

/// Losses, their terms at every depth, and padding.
#[test]
fn a_model_generates_as_its_recipe_says_unless_asked_otherwise() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let out = |name: &str| folder.path().join(name);
    let settings = [
        init.as_str(),
        "model.generation.visual_temperature=0.5",
        "steps=1",
    ];
    let model = train(LANGUAGE, &out("new"), &settings, false, None).expect("a run");
    let init = format!("init={}", model.display());
    let settings = [init.as_str(), "steps=1"];
    let tuned = train(
        &further("train = [\"depth\"]"),
        &out("tuned"),
        &settings,
        false,
        None,
    );
    for model in [model, tuned.expect("a run")] {
        let generation = fs::read(model.join("llm/generation_config.json")).expect("a file");
        let generation: Value = serde_json::from_slice(&generation).expect("JSON");
        assert_eq!(generation["visual_temperature"], 0.5);
        assert_eq!(generation["visual_guidance"], 3.0);
        assert_eq!(generation["eos_token_id"], 2);
    }
    let fails = |text: &str, setting: &str| {
        let error = recipe(text, &out("none"), &[&init, setting]).expect_err("an error");
        assert!(error.to_string().contains("generation"), "{error}");
    };
    fails(LANGUAGE, "model.generation.visual_temperature=-1.0");
    fails(LANGUAGE, "model.generation.visual_guidance=inf");
    fails(
        &further("train = [\"depth\"]"),
        "model.generation.visual_guidance=1.0",
    );
}

#[test]
fn curves_of_every_depth() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let out = folder.path().join("run");
    train(
        LANGUAGE,
        &out,
        &[&init, "eval_every=8", "batch_size=6"],
        false,
        None,
    )
    .expect("a run");
    let metrics = metrics(&out);
    for line in &metrics {
        let value = |name: &str| line[name].as_f64();
        if let Some(visual) = value("visual_loss") {
            let depths =
                [1, 2].map(|depth| value(&format!("visual_loss/{depth}")).expect("a loss"));
            assert!(
                (depths[0] + depths[1] - 2.0 * visual).abs() < 1e-4,
                "{line}"
            );
            assert!(depths[0] != depths[1]);
        }
        let padding = value("padding").expect("padding");
        assert!((0.0..1.0).contains(&padding));
    }
    assert!(mean(&metrics, "padding") > 0.0);
    let last = |name: &str| metrics[7][name].as_f64().expect("a loss");
    let depths = last("eval/generation_loss/1") + last("eval/generation_loss/2");
    assert!((depths - 2.0 * last("eval/generation_loss")).abs() < 1e-4);
}

#[test]
fn gradient_checkpointing_trains_the_same_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let run = |name: &str, checkpointing: &str| {
        let out = folder.path().join(name);
        let settings = [
            &init,
            "steps=3",
            "gradient_accumulation_steps=2",
            "depth_dropout=0.0",
            checkpointing,
        ];
        (
            train(LANGUAGE, &out, &settings, false, None).expect("a run"),
            metrics(&out),
        )
    };
    let (kept, of_kept) = run("kept", "gradient_checkpointing=false");
    let (again, of_again) = run("again", "gradient_checkpointing=true");
    assert_eq!(of_kept.len(), of_again.len());
    for (kept, again) in of_kept.iter().zip(&of_again) {
        for (name, kept) in kept.as_object().expect("an object") {
            let (kept, again) = (kept.as_f64().expect("a number"), again[name].as_f64());
            let again = again.expect("a number");
            assert!(
                (kept - again).abs() <= 1e-5 * kept.abs(),
                "{name}: {kept}, {again}"
            );
        }
    }
    for part in ["llm", "mm_projector", "vision_tower"] {
        for ((key, kept), (_, again)) in tensors(&kept, part, "")
            .iter()
            .zip(tensors(&again, part, ""))
        {
            let difference = numbers(kept).into_iter().zip(numbers(&again));
            let difference = difference
                .map(|(kept, again)| (kept - again).abs())
                .fold(0.0, f32::max);
            assert!(difference < 1e-4, "{key}: {difference}");
        }
    }
}

#[test]
fn adapters_are_trained_resumed_and_merged() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = whole(folder.path());
    let before = PathBuf::from(&init);
    let lora = "lora={ rank = 2, alpha = 4.0, dropout = 0.25, target_modules = [\"q_proj\", \"down_proj\"] }";
    let init = format!("init={init}");
    let settings = [
        init.as_str(),
        lora,
        "steps=4",
        "checkpoint_every=2",
        "gradient_checkpointing=true",
    ];
    let recipe = further("train = [\"language\"]");
    let out = folder.path().join("lora");
    let expected = train(&recipe, &out, &settings, false, None).expect("a run");

    // The base is as it was, the finished model is not.
    let checkpoint = out.join("checkpoints/step-00000004");
    let all = |model: &Path| tensors(model, "llm", "");
    assert!(all(&checkpoint.join("model")) == all(&before));
    let changed: Vec<String> = (all(&before).into_iter().zip(all(&expected)))
        .filter(|(before, after)| before.1 != after.1)
        .map(|(before, _)| before.0)
        .collect();
    assert_eq!(
        changed,
        [
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.self_attn.q_proj.weight"
        ]
    );

    // Beside it are the adapters, in the files of PEFT.
    let adapter = out.join("adapter");
    let config = fs::read_to_string(adapter.join("adapter_config.json")).expect("a config");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(
        (&config["r"], &config["peft_type"]),
        (&2.into(), &"LORA".into())
    );
    let file = fs::read(adapter.join("adapter_model.safetensors")).expect("adapters");
    let adapters = vila_u::safetensors::SafeTensors::deserialize(&file).expect("tensors");
    let layer = "base_model.model.model.layers.0.mlp.down_proj";
    let floats =
        |key: &str| -> Vec<f32> { numbers(adapters.tensor(key).expect("a tensor").data()) };
    let shape = |name: &str| {
        adapters
            .tensor(&format!("{layer}.{name}.weight"))
            .expect("a tensor")
            .shape()
            .to_vec()
    };
    assert_eq!(
        (shape("lora_A"), shape("lora_B")),
        (vec![2, 64], vec![32, 2])
    );
    assert_eq!(adapters.len(), 4);

    // Merged: W + alpha / rank B A, in the layout of files.
    let (a, b) = (
        floats(&format!("{layer}.lora_A.weight")),
        floats(&format!("{layer}.lora_B.weight")),
    );
    let weight = |model: &Path| -> Vec<f32> {
        numbers(&tensors(model, "llm", "model.layers.0.mlp.down_proj")[0].1)
    };
    let (base, merged) = (weight(&before), weight(&expected));
    for (place, (base, merged)) in base.iter().zip(&merged).enumerate() {
        let (output, input) = (place / 64, place % 64);
        let change: f32 = (0..2)
            .map(|rank| b[output * 2 + rank] * a[rank * 64 + input])
            .sum();
        assert!((base + 2.0 * change - merged).abs() < 1e-6);
    }

    // Stopped and gone on with, it is the same.
    let out = folder.path().join("stopped");
    let stopped = train(&recipe, &out, &settings, false, Some(2));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    let model = train(&recipe, &out, &settings, true, None).expect("a run");
    assert_same_model(&expected, &model, &["llm", "mm_projector", "vision_tower"]);
}

#[test]
fn impossible_adapters_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |recipe: &str, settings: &[&str], word: &str| {
        let error = train(recipe, &folder.path().join("run"), settings, false, None);
        let error = error.expect_err("an error").to_string();
        assert!(error.contains(word), "{error}");
    };
    let model = further("train = [\"language\"]");
    refused(&model, &["lora={ rank = 0, alpha = 1.0 }"], "lora.rank");
    refused(
        &model,
        &["lora={ rank = 2, alpha = 1.0, target_modules = [\"lm_head\"] }"],
        "q_proj",
    );
    refused(
        &model,
        &["lora={ rank = 2, alpha = 1.0, width = 1 }"],
        "width",
    );
    refused(
        &further("train = [\"depth\"]"),
        &["lora={ rank = 2, alpha = 1.0 }"],
        "no stage trains",
    );
    refused(LANGUAGE, &["lora={ rank = 2, alpha = 1.0 }"], "[model.llm]");
    refused(
        TOWER,
        &["gradient_checkpointing=true"],
        "gradient_checkpointing",
    );
}

/// The recipes of the product are complete, no two of them share a run folder, and those of new language
/// models fit the tokenizer that their runs make; those of the released models have the released batch, and
/// what they take is known without any file of theirs.
#[test]
fn the_recipes_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let files = Files::folder(tokenizers()).join("llm");
    let tokenizer = vila_u::checkpoint::config::tokenizer(&files).expect("a tokenizer");
    let (mut outs, mut released) = (Vec::new(), 0);
    for entry in fs::read_dir(folder).expect("recipes") {
        let path = entry.expect("an entry").path();
        let recipe = Recipe::load(&path, &[]).expect("a recipe");
        let model = &recipe.model;
        if let (Some(llm), None, None) = (&model.llm, &model.tokenizers, &model.llm_weights) {
            let llm: vila_u::language::LlamaConfig = llm.read("llm").expect("sizes");
            assert_eq!(llm.vocab_size, tokenizer.vocab_size());
        }
        let name = path.display().to_string();
        if name.contains("-7b-") && !name.contains("-tower") {
            let resources = Resources {
                memory: Some(1 << 40),
                ..Resources::default()
            };
            let plan = Plan::measured(&recipe, &Device::flex(), &resources).expect("a plan");
            let stage = &plan.stages[0];
            assert_eq!((plan.stages.len(), stage.samples), (1, 512), "{name}");
            assert_eq!(stage.measured, 0, "{name}");
            // LLaMA-2-7B, projector and depth transformer; the tower is frozen.
            assert!(
                (7_200_000_000..7_300_000_000).contains(&stage.trained),
                "{name}"
            );
            assert!(
                (700_000_000..1_000_000_000).contains(&stage.frozen),
                "{name}"
            );
            assert!(plan.check().is_ok(), "{name}");
            released += 1;
        }
        outs.push(recipe.out);
    }
    assert!(outs.len() >= 3 && released == 4);
    outs.sort();
    outs.windows(2)
        .for_each(|pair| assert_ne!(pair[0], pair[1]));
}

/// A language model starts from a LLaMA's weights, and its new words from the mean of the others.
#[test]
fn a_llama_is_what_pretraining_starts_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = PathBuf::from(whole(folder.path()));
    // A language model without its last four words is a LLaMA as any other.
    let words = {
        let files = Files::folder(tokenizers()).join("llm");
        let tokenizer = vila_u::checkpoint::config::tokenizer(&files).expect("a tokenizer");
        tokenizer.vocab_size() - 4
    };
    let llama = folder.path().join("llama");
    fs::create_dir(&llama).expect("a folder");
    let names = ["tokenizer.model", "model.safetensors"].map(|name| before.join("llm").join(name));
    fs::copy(&names[0], llama.join("tokenizer.model")).expect("a tokenizer");
    let file = fs::read(&names[1]).expect("weights");
    let all = vila_u::safetensors::SafeTensors::deserialize(&file).expect("tensors");
    let shortened = all.tensors().into_iter().map(|(key, tensor)| {
        let mut shape = tensor.shape().to_vec();
        shape[0] -= if shape[0] == words + 4 { 4 } else { 0 };
        let data = &tensor.data()[..4 * shape.iter().product::<usize>()];
        let view = vila_u::safetensors::tensor::TensorView::new(tensor.dtype(), shape, data);
        (key, view.expect("a tensor"))
    });
    let file = llama.join("model.safetensors");
    vila_u::safetensors::serialize_to_file(shortened, None, &file).expect("weights");

    let init = format!("init={}", before.display());
    let weights = format!("model.llm_weights={}", llama.display());
    // So slow that nothing moves.
    let rate = "stages.0.optimizer.learning_rate=1e-30";
    let out = folder.path().join("run");
    let settings = [init.as_str(), &weights, "steps=1", rate];
    let model = train(LANGUAGE, &out, &settings, false, None).expect("a run");
    let layers = |model: &Path| tensors(model, "llm", "model.layers.");
    assert!(layers(&model) == layers(&before));
    for table in ["lm_head", "model.embed_tokens"] {
        let floats = |model: &Path| numbers(&tensors(model, "llm", table)[0].1);
        let (rows, old) = (floats(&model), floats(&before));
        assert_eq!(rows[..words * 32], old[..words * 32]);
        let column: Vec<f32> = rows.iter().skip(7).step_by(32).copied().collect();
        let mean = column[..words].iter().sum::<f32>() / words as f32;
        let new = &column[words..];
        assert!(
            new.iter().all(|value| (value - mean).abs() < 1e-5),
            "{table}"
        );
    }
    for name in [
        "added_tokens.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
    ] {
        let file = |model: &Path| fs::read_to_string(model.join("llm").join(name)).expect("a file");
        assert_eq!(file(&model), file(&before), "{name}");
    }

    let settings = [init.as_str(), &weights, "model.llm.intermediate_size=70"];
    let error = train(
        LANGUAGE,
        &folder.path().join("other"),
        &settings,
        false,
        None,
    );
    let error = error.expect_err("an error").to_string();
    assert!(
        error.contains("model.safetensors") && error.contains("shape"),
        "{error}"
    );
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    let floats = bytes.as_chunks().0.iter();
    floats.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
