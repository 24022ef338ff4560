//! `llm/config.json`: the sizes of the language model.

use serde::{Deserialize, Deserializer, Serialize, de};

use super::rope::Rope;
use crate::{Error, Result};

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
    /// Width of a head; `hidden_size / num_attention_heads` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Rows of the embedding table: the tokens of the vocabulary, the four added ones included, and padding.
    pub vocab_size: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    /// `rope_theta` and `rope_scaling`.
    #[serde(flatten)]
    pub rope: Rope,
    /// Whether the text head is the embedding table itself.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    /// Sequences are cut to this length in training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_model_max_length: Option<usize>,
    #[serde(default = "default_bos", deserialize_with = "token_id")]
    pub bos_token_id: i64,
    #[serde(default = "default_eos", deserialize_with = "token_id")]
    pub eos_token_id: i64,
    #[serde(default = "default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mlp_bias: bool,
}

fn default_eps() -> f64 {
    1e-6
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

/// A token id, or the first of a list: Llama 3 names every token that may end an answer.
fn token_id<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(i64),
        Several(Vec<i64>),
    }
    match Ids::deserialize(deserializer)? {
        Ids::One(id) => Ok(id),
        Ids::Several(ids) => {
            let first = ids.first().copied();
            first.ok_or_else(|| de::Error::custom("an empty list of token ids"))
        }
    }
}

impl LlamaConfig {
    /// Heads that have keys and values.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        let split = self.hidden_size / self.num_attention_heads.max(1);
        self.head_dim.unwrap_or(split)
    }

    /// The longest sequence the model was made for: sequences are cut to this length in training.
    pub fn max_length(&self) -> usize {
        self.tokenizer_model_max_length
            .unwrap_or(self.max_position_embeddings)
    }

    /// The most positions that the model was made to read and write in one row.
    pub fn context_length(&self) -> usize {
        let scaled = self.max_position_embeddings as f64 * self.rope.position_divisor();
        self.max_length().max(scaled as usize).min(1 << 20)
    }

    /// A usage error that says why no model can have this config, if there is a reason.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("vocab_size", self.vocab_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::usage(format!("{name} must not be 0")));
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.kv_heads());
        match self.head_dim {
            None if !self.hidden_size.is_multiple_of(2 * heads) => {
                return Err(Error::usage(format!(
                    "hidden_size {} does not split into {heads} heads of an even size",
                    self.hidden_size
                )));
            }
            Some(width) if width == 0 || !width.is_multiple_of(2) => {
                return Err(Error::usage(format!(
                    "head_dim {width} is not an even number from 2 up"
                )));
            }
            _ => {}
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(Error::usage(format!(
                "{heads} attention heads cannot share {kv_heads} key-value heads evenly"
            )));
        }
        if self.rms_norm_eps.is_nan() || self.rms_norm_eps <= 0.0 {
            return Err(Error::usage("rms_norm_eps must be positive"));
        }
        self.rope.check()?;
        if self.hidden_act != "silu" {
            return Err(Error::usage(format!(
                "hidden_act {} is not supported: only silu",
                self.hidden_act
            )));
        }
        for (name, set) in [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
        ] {
            if set {
                return Err(Error::usage(format!(
                    "{name} is not supported: LLaMA has none"
                )));
            }
        }
        Ok(())
    }
}
