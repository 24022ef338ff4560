//! What must hold for any LLaMA: grouped heads, the cache, tied heads, refused configs.

#![allow(clippy::unwrap_used)]

use burn::{
    module::Param,
    tensor::{Device, Distribution, Int, Tensor},
};

use super::{KvCache, Llama, LlamaConfig, Rope, RopeScaling};

fn config() -> LlamaConfig {
    let json = r#"{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 20}"#;
    serde_json::from_str(json).unwrap()
}

fn embeds(rows: usize, positions: usize) -> Tensor<3> {
    let shape = [rows, positions, 32];
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn forward(llm: &Llama, embeds: Tensor<3>, cache: Option<&mut KvCache>) -> Tensor<3> {
    let [rows, count, _] = embeds.dims();
    let past = cache.as_ref().map_or(0, |cache| cache.filled()) as i64;
    let positions = Tensor::<1, Int>::arange(past..past + count as i64, &embeds.device());
    let positions = positions.unsqueeze().repeat_dim(0, rows);
    llm.forward(embeds, positions, None, cache)
}

fn assert_near(a: Tensor<3>, b: Tensor<3>) {
    let worst = (a - b).abs().max().into_scalar::<f32>();
    assert!(worst < 1e-4, "{worst} apart");
}

/// Two query heads that share a key head are two heads with the same keys.
#[test]
fn grouped_heads() {
    let device = Device::flex();
    let grouped = config().init(&device);
    let full = LlamaConfig {
        num_key_value_heads: None,
        ..config()
    };
    let mut full = full.init(&device);
    full.model.embed_tokens = grouped.model.embed_tokens.clone();
    for (wide, narrow) in full.model.layers.iter_mut().zip(&grouped.model.layers) {
        let (keys, values) = (&narrow.self_attn.k_proj, &narrow.self_attn.v_proj);
        let (keys, values) = (keys.weight.val(), values.weight.val());
        let repeat = |weight: Tensor<2>| {
            let heads = weight.reshape([32, 2, 1, 8]).repeat_dim(2, 2);
            Param::from_tensor(heads.reshape([32, 32]))
        };
        *wide = narrow.clone();
        wide.self_attn.k_proj.weight = repeat(keys);
        wide.self_attn.v_proj.weight = repeat(values);
    }
    let x = embeds(2, 7);
    assert_near(
        forward(&grouped, x.clone(), None),
        forward(&full, x.clone(), None),
    );
}

/// Reading in pieces, and one by one, is reading at once; so is continuing a fork.
#[test]
fn cache() {
    let llm = config().init(&Device::flex());
    let x = embeds(2, 9);
    let whole = forward(&llm, x.clone(), None);
    let mut cache = llm.cache(2, 4);
    let mut pieces = vec![forward(&llm, x.clone().narrow(1, 0, 4), Some(&mut cache))];
    let rows = Tensor::from_data([1, 0, 1], &Device::flex());
    let mut cache = cache.fork(&rows, 9);
    let x = x.select(0, rows.clone());
    let whole = whole.select(0, rows.clone());
    pieces[0] = pieces[0].clone().select(0, rows);
    for (start, count) in [(4, 3), (7, 1), (8, 1)] {
        let piece = x.clone().narrow(1, start, count);
        pieces.push(forward(&llm, piece, Some(&mut cache)));
        assert_eq!(cache.filled(), start + count);
    }
    assert_near(Tensor::cat(pieces, 1), whole);
}

#[test]
fn tied_head() {
    let tied = LlamaConfig {
        tie_word_embeddings: true,
        ..config()
    };
    let llm = tied.init(&Device::flex());
    assert!(llm.lm_head.is_none());
    let hidden = embeds(1, 3);
    let table = llm.model.embed_tokens.weight.val();
    let expected = hidden.clone().matmul(table.transpose().unsqueeze());
    assert_near(llm.logits(hidden), expected);
}

#[test]
fn refused_configs() {
    config().check().unwrap();
    let refused = |change: fn(&mut LlamaConfig)| {
        let mut config = config();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(refused(|c| c.num_attention_heads = 0).contains("num_attention_heads"));
    assert!(refused(|c| c.num_attention_heads = 5).contains("5 heads"));
    assert!(refused(|c| c.num_key_value_heads = Some(3)).contains("3 key-value"));
    assert!(refused(|c| c.hidden_act = "gelu".into()).contains("gelu"));
    assert!(refused(|c| c.attention_bias = true).contains("attention_bias"));
    assert!(refused(|c| c.rms_norm_eps = f64::NAN).contains("rms_norm_eps"));
    assert!(refused(|c| c.mlp_bias = true).contains("mlp_bias"));
    assert!(refused(|c| c.head_dim = Some(7)).contains("head_dim 7"));
    let scaling = Some(RopeScaling::Linear { factor: f64::NAN });
    let rope = Rope {
        scaling,
        ..Rope::default()
    };
    let config = LlamaConfig { rope, ..config() };
    assert!(
        config
            .check()
            .unwrap_err()
            .to_string()
            .contains("rope_scaling")
    );
}

/// Heads may be wider than they would be if they split the hidden size.
#[test]
fn wide_heads() {
    let wide = LlamaConfig {
        head_dim: Some(12),
        ..config()
    };
    wide.check().unwrap();
    assert_eq!(wide.head_dim(), 12);
    let llm = wide.init(&Device::flex());
    let attention = &llm.model.layers[0].self_attn;
    let shapes = [&attention.q_proj, &attention.k_proj, &attention.o_proj].map(|p| p.weight.dims());
    assert_eq!(shapes, [[32, 48], [32, 24], [48, 32]]);
    let x = embeds(1, 5);
    let whole = forward(&llm, x.clone(), None);
    let mut cache = llm.cache(1, 5);
    let first = forward(&llm, x.clone().narrow(1, 0, 4), Some(&mut cache));
    let last = forward(&llm, x.narrow(1, 4, 1), Some(&mut cache));
    assert_near(Tensor::cat(vec![first, last], 1), whole);
}

#[test]
fn token_ids() {
    let read = |ids: &str| {
        let json = format!(
            r#"{{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                "num_attention_heads": 4, "vocab_size": 20, "eos_token_id": {ids}}}"#
        );
        serde_json::from_str::<LlamaConfig>(&json).map(|config| config.eos_token_id)
    };
    assert_eq!(read("7").unwrap(), 7);
    assert_eq!(read("[9, 8]").unwrap(), 9);
    assert!(read("[]").is_err());
}
