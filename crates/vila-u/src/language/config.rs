//! `llm/config.json`: the sizes of the language model.

use serde::{Deserialize, Serialize};

/// The fields of a Hugging Face LLaMA config that change what is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Fewer than `num_attention_heads` for grouped-query attention; the same number if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Words of the vocabulary, the four added tokens included.
    pub vocab_size: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    /// Sequences are cut to this length in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_model_max_length: Option<usize>,
    #[serde(default = "default_bos")]
    pub bos_token_id: i64,
    #[serde(default = "default_eos")]
    pub eos_token_id: i64,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub attention_bias: bool,
}

/// Position ids are divided by `factor` before the rotary embedding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    /// `linear` is the only kind that VILA-U checkpoints use.
    #[serde(rename = "type", alias = "rope_type")]
    pub kind: String,
    pub factor: f64,
}

fn default_eps() -> f64 {
    1e-6
}
fn default_theta() -> f64 {
    10000.0
}
fn default_positions() -> usize {
    2048
}
fn default_bos() -> i64 {
    1
}
fn default_eos() -> i64 {
    2
}
fn default_act() -> String {
    "silu".into()
}

impl LlamaConfig {
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// What position ids are divided by.
    pub fn rope_factor(&self) -> f64 {
        self.rope_scaling.as_ref().map_or(1.0, |s| s.factor)
    }

    /// The longest sequence the model was made for: sequences are cut to this length in training.
    pub fn max_length(&self) -> usize {
        self.tokenizer_model_max_length
            .unwrap_or(self.max_position_embeddings)
    }

    /// The most positions that the model was made to read and write in one row.
    pub fn context(&self) -> usize {
        let scaled = self.max_position_embeddings as f64 * self.rope_factor();
        self.max_length().max(scaled as usize).min(1 << 20)
    }

    /// The reason why no model can have this config, if there is one.
    pub fn check(&self) -> std::result::Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("vocab_size", self.vocab_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} must not be 0"));
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.kv_heads());
        if !self.hidden_size.is_multiple_of(2 * heads) {
            return Err(format!(
                "hidden_size {} does not split into {heads} heads of an even size",
                self.hidden_size
            ));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "{heads} attention heads cannot share {kv_heads} key-value heads evenly"
            ));
        }
        if !(self.rms_norm_eps > 0.0 && self.rope_theta > 0.0) {
            return Err("rms_norm_eps and rope_theta must be positive".into());
        }
        if let Some(scaling) = &self.rope_scaling
            && !(scaling.kind == "linear" && (1.0..1e6).contains(&scaling.factor))
        {
            return Err(format!(
                "rope_scaling {} with factor {} is not supported: only linear with a factor from 1 up",
                scaling.kind, scaling.factor
            ));
        }
        if self.hidden_act != "silu" {
            return Err(format!(
                "hidden_act {} is not supported: only silu",
                self.hidden_act
            ));
        }
        if self.attention_bias {
            return Err("attention_bias is not supported: LLaMA has none".into());
        }
        Ok(())
    }
}
