//! The sizes of the parts that a run makes new.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::one_line;
use crate::checkpoint::config::GenerationConfig;
use crate::{Error, Result};

/// Sizes of the parts that start from random weights, each with the keys of that part's
/// `config.json` in a checkpoint, or as the path of such a file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Folder with the tokenizers: `siglip/spiece.model`, `llm/tokenizer.model` and the files beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizers: Option<PathBuf>,
    /// Image and text encoder (the SigLIP `config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub siglip: Option<Config>,
    /// The vision encoder's position embeddings are not trained, and those of a new one are zero: it sees a patch
    /// as the same at any place. Codes then say nothing of the place, which a language model knows by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_position_embedding: bool,
    /// Quantizer and pixel decoder (`rqvaesiglip` in `vision_tower/config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rqvaesiglip: Option<Config>,
    /// Depth transformer (`rqtransformer` in `vision_tower/config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rqtransformer: Option<Config>,
    /// Language model (`llm/config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<Config>,
    /// Folder of a model of the LLaMA architecture as Hugging Face has it, with its tokenizer: the language model
    /// starts from its weights, and not from random ones. `llm` then holds only what differs from its
    /// `config.json`; the table gets rows for the tokens that mark pictures and videos.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm_weights: Option<PathBuf>,
    /// Projector (`mm_projector/config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mm_projector: Option<Config>,
    /// How a new language model generates images unless asked otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationDefaults>,
}

/// Keys of `llm/generation_config.json` of the finished model; left out, the released models' values.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationDefaults {
    /// Temperature at which visual codes are sampled.
    pub visual_temperature: f64,
    /// Strength of classifier-free guidance; 1 is none.
    pub visual_guidance: f64,
}

impl Default for GenerationDefaults {
    fn default() -> Self {
        let released = GenerationConfig::default();
        Self {
            visual_temperature: released.visual_temperature,
            visual_guidance: released.visual_guidance,
        }
    }
}

impl GenerationDefaults {
    pub fn check(self) -> Result<()> {
        let generation = GenerationConfig {
            visual_temperature: self.visual_temperature,
            visual_guidance: self.visual_guidance,
            ..GenerationConfig::default()
        };
        let checked = generation.visual(0).check();
        checked.map_err(|error| Error::usage(format!("recipe, [model.generation]: {error}")))
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Config {
    File(PathBuf),
    Inline(Table),
}

impl Config {
    /// The configuration as the part's own type, which fills in its defaults and checks it.
    pub fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        match self {
            Self::File(path) => {
                let text = fs::read_to_string(path).map_err(Error::io(path))?;
                serde_json::from_str(&text).map_err(|error| Error::invalid(path, error.to_string()))
            }
            Self::Inline(table) => T::deserialize(Value::Table(table.clone())).map_err(|error| {
                Error::usage(format!("recipe, [model.{name}]: {}", one_line(&error)))
            }),
        }
    }
}
