//! Language models that start from a base with a `tokenizer.json`.

use vila_u::checkpoint::{self, WeightDtype};

use super::*;

/// Grouped heads, one table for words in and out, Llama 3's rotation, and enough rows of padding for the
/// tokens of pictures and videos.
fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/base/llama3")
}

#[test]
fn a_base_becomes_a_vila_u() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let weights = format!("model.llm_weights={}", base().display());
    let settings = [
        &init,
        &weights,
        "model.llm={ tokenizer_model_max_length = 200 }",
        "model.rqtransformer.input_embed_dim_2=64",
        "steps=2",
    ];
    let model = train(LANGUAGE, &folder.path().join("run"), &settings, false, None);
    let files = Files::folder(model.expect("a run"));
    let made = {
        let _alone = alone();
        checkpoint::load(&files, &Device::flex(), WeightDtype::F32).expect("a checkpoint")
    };
    let llm = &made.config.llm;
    assert_eq!((llm.vocab_size, llm.hidden_size), (328, 64));
    assert_eq!((llm.kv_heads(), llm.head_dim()), (2, 20));
    assert!(llm.tie_word_embeddings && llm.rope.scaling.is_some());
    assert_eq!(llm.max_length(), 200);
    let markers = ["<im_start>", "<im_end>", "<vi_start>", "<vi_end>"];
    let ids = markers.map(|token| made.tokenizer.added_token_id(token));
    assert_eq!(ids, [320, 321, 322, 323].map(Some));
    let text = "A cat.<im_start><image><im_end></s>";
    let ids = made.tokenizer.encode_prompt(text);
    assert_eq!(
        ids[ids.len() - 4..],
        [320, -200, 321, made.tokenizer.eos_token_id()]
    );
    // What was made is a base itself, and lacks nothing.
    let again = format!("model.llm_weights={}", files.path("llm").display());
    let settings = [settings[0], &again, settings[2], settings[3], settings[4]];
    let model = train(
        LANGUAGE,
        &folder.path().join("again"),
        &settings,
        false,
        None,
    );
    let files = Files::folder(model.expect("a run"));
    let tokenizer = checkpoint::config::tokenizer(&files.join("llm")).expect("a tokenizer");
    assert_eq!(tokenizer.vocab_size(), 324);
}

#[test]
fn new_tokens_start_as_the_mean_of_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    let weights = format!("model.llm_weights={}", base().display());
    let settings = [
        &init,
        &weights,
        "model.llm={ vocab_size = 336 }",
        "model.rqtransformer.input_embed_dim_2=64",
        "steps=1",
        // So slow that nothing moves.
        "stages.0.optimizer.learning_rate=1e-30",
    ];
    let model = train(LANGUAGE, &folder.path().join("run"), &settings, false, None);
    let model = model.expect("a run");
    let table = |file: PathBuf| {
        let file = fs::read(file).expect("weights");
        let tensors = vila_u::safetensors::SafeTensors::deserialize(&file).expect("tensors");
        assert!(tensors.tensor("lm_head.weight").is_err());
        let table = tensors
            .tensor("model.embed_tokens.weight")
            .expect("a table");
        let floats = table.data().as_chunks().0.iter();
        floats
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect::<Vec<f32>>()
    };
    let (rows, old) = (
        table(model.join("llm/model.safetensors")),
        table(base().join("model.safetensors")),
    );
    assert_eq!((rows.len(), old.len()), (336 * 64, 328 * 64));
    assert_eq!(rows[..320 * 64], old[..320 * 64]);
    for column in 0..64 {
        let column: Vec<f32> = rows.iter().skip(column).step_by(64).copied().collect();
        let mean = column[..320].iter().sum::<f32>() / 320.0;
        assert!(
            column[320..]
                .iter()
                .all(|value| (value - mean).abs() < 1e-5)
        );
    }
}

#[test]
fn a_base_of_another_architecture_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = on_a_new_tower(folder.path());
    for (field, value, message) in [
        ("\"llama\"", "\"smollm3\"", "model_type smollm3"),
        ("\"llama3\"", "\"yarn\"", "rope_scaling of type yarn"),
        ("\"mlp_bias\": false", "\"mlp_bias\": true", "mlp_bias"),
    ] {
        let other = tempfile::tempdir().expect("a folder");
        for name in [
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            fs::copy(base().join(name), other.path().join(name)).expect("a copy");
        }
        let config = fs::read_to_string(base().join("config.json")).expect("a config");
        fs::write(
            other.path().join("config.json"),
            config.replace(field, value),
        )
        .expect("write");
        let weights = format!("model.llm_weights={}", other.path().display());
        let settings = [&init, &weights, "model.llm={}", "steps=1"];
        let error = train(LANGUAGE, &folder.path().join("run"), &settings, false, None);
        let error = error.expect_err("an error").to_string();
        assert!(
            error.contains(message) && error.contains("config.json"),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
}
