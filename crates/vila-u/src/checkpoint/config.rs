//! The configuration files of a checkpoint.
//!
//! The sizes themselves are the parts' own types; here is which file says what, and what is refused.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{files::Files, source::Repository};
use crate::{
    Error, Result,
    generation::{
        sampling::Sampling,
        visual::{GUIDANCE, VisualOptions},
    },
    language::LlamaConfig,
    model::VilaUConfig,
    safe_path,
    text::{SiglipTokenizer, Tokenizer},
    tower::{RqVaeSiglipConfig, SiglipConfig, VisionTowerConfig},
};

/// No width, count or length in a model is larger, so that products of three fit 64 bits.
const LARGEST_SIZE: u64 = 1 << 20;
const MOST_LAYERS: usize = 1000;

/// The configuration of the whole model, every part checked and fitting the others.
pub fn read(files: &Files) -> Result<VilaUConfig> {
    let vision_tower: VisionTowerConfig = json(&files.join("vision_tower"), "config.json")?;
    let config = VilaUConfig {
        root: json(files, "config.json")?,
        llm: json(&files.join("llm"), "config.json")?,
        mm_projector: json(&files.join("mm_projector"), "config.json")?,
        siglip: siglip(files, &vision_tower.rqvaesiglip)?,
        vision_tower,
    };
    let layers = [
        ("num_hidden_layers", config.llm.num_hidden_layers),
        (
            "rqtransformer.head.n_layer",
            config.vision_tower.rqtransformer.head.n_layer,
        ),
    ];
    for (name, count) in layers {
        if count > MOST_LAYERS {
            let reason = format!("{name} {count} is more than {MOST_LAYERS}");
            return Err(Error::invalid(files.path("config.json"), reason));
        }
    }
    let fits = config.check();
    fits.map_err(Error::in_file(files.path("config.json")))?;
    Ok(config)
}

/// The configuration of a base language model as Hugging Face has it.
///
/// # Errors
/// When the model is of another architecture than LLaMA's, or of sizes that cannot be.
pub fn read_base(files: &Files) -> Result<LlamaConfig> {
    #[derive(Deserialize, Serialize)]
    struct Base {
        #[serde(default = "llama")]
        model_type: String,
        #[serde(flatten)]
        config: LlamaConfig,
    }
    fn llama() -> String {
        "llama".into()
    }
    let name = "config.json";
    let invalid = |reason| Error::invalid(files.path(name), reason);
    let Base { model_type, config } = json(files, name)?;
    if model_type != llama() {
        let reason = format!("model_type {model_type} is not supported: only llama");
        return Err(invalid(reason));
    }
    if config.num_hidden_layers > MOST_LAYERS {
        let layers = config.num_hidden_layers;
        let reason = format!("num_hidden_layers {layers} is more than {MOST_LAYERS}");
        return Err(invalid(reason));
    }
    config.check().map_err(Error::in_file(files.path(name)))?;
    Ok(config)
}

/// The configuration of the tower without the depth transformer, from `vision_tower/`.
pub fn read_tower(files: &Files) -> Result<(RqVaeSiglipConfig, SiglipConfig)> {
    #[derive(Deserialize, Serialize)]
    struct Tower {
        rqvaesiglip: RqVaeSiglipConfig,
    }
    let folder = files.join("vision_tower");
    let Tower { rqvaesiglip } = json(&folder, "config.json")?;
    let siglip = siglip(files, &rqvaesiglip)?;
    let fits = rqvaesiglip.check(&siglip);
    fits.map_err(Error::in_file(folder.path("config.json")))?;
    Ok((rqvaesiglip, siglip))
}

/// Whether the files are a SigLIP model as Hugging Face has it, and not one of ours.
pub fn is_siglip(files: &Files) -> bool {
    let config = files.read("config.json").ok();
    let config = config.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    config.is_some_and(|config| {
        config["model_type"] == "siglip" || config.get("vision_config").is_some()
    })
}

/// The sizes of a SigLIP model as Hugging Face has it.
pub fn read_siglip(files: &Files) -> Result<SiglipConfig> {
    let siglip: SiglipConfig = json(files, "config.json")?;
    let fits = siglip.check();
    fits.map_err(Error::in_file(files.path("config.json")))?;
    Ok(siglip)
}

/// The sizes of the encoders, which a tower only names: a folder of the checkpoint, a model known by
/// its hub id, or any other on the Hub.
fn siglip(files: &Files, tower: &RqVaeSiglipConfig) -> Result<SiglipConfig> {
    if let Some(folder) = siglip_folder(files, tower) {
        return json(&folder, "config.json");
    }
    if let Some(known) = SiglipConfig::preset(&tower.pretrained_model) {
        return Ok(known);
    }
    let repository = siglip_repository(files, tower)?;
    json(&repository.file("config.json")?, "config.json")
}

/// The folder of the checkpoint that `pretrained_model` names, if it is one. It never leaves the
/// checkpoint.
pub(super) fn siglip_folder(files: &Files, tower: &RqVaeSiglipConfig) -> Option<Files> {
    let folder = files.join(safe_path::relative(
        tower.pretrained_model.trim_start_matches("./"),
    )?);
    folder.contains("config.json").then_some(folder)
}

fn siglip_repository(files: &Files, tower: &RqVaeSiglipConfig) -> Result<Repository> {
    let name = &tower.pretrained_model;
    name.parse().map_err(|_| {
        let reason = format!(
            "pretrained_model `{name}` is neither a folder of this checkpoint with a config.json nor \
             ORG/NAME on the Hugging Face Hub"
        );
        Error::invalid(files.join("vision_tower").path("config.json"), reason)
    })
}

/// The tokenizer of the tower's text encoder: beside its configuration, or from the Hub.
pub fn siglip_tokenizer(
    files: &Files,
    tower: &RqVaeSiglipConfig,
    siglip: &SiglipConfig,
) -> Result<SiglipTokenizer> {
    let name = "spiece.model";
    let folder = match siglip_folder(files, tower) {
        Some(folder) => folder,
        None => siglip_repository(files, tower)?.file(name)?,
    };
    let length = siglip.text_config.max_position_embeddings;
    SiglipTokenizer::from_bytes(&folder.read(name)?, length)
        .map_err(Error::in_file(folder.path(name)))
}

/// The language model's tokenizer: `tokenizer.model` with its added tokens, or `tokenizer.json`.
pub fn tokenizer(llm: &Files) -> Result<Tokenizer> {
    let config = llm.read_optional("tokenizer_config.json")?;
    let (name, tokenizer) = if let Some(model) = llm.read_optional("tokenizer.model")? {
        let added = llm.read_optional("added_tokens.json")?;
        let tokenizer = Tokenizer::from_bytes(&model, added.as_deref(), config.as_deref());
        ("tokenizer.model", tokenizer)
    } else if let Some(json) = llm.read_optional("tokenizer.json")? {
        (
            "tokenizer.json",
            Tokenizer::from_json(&json, config.as_deref()),
        )
    } else {
        let reason = "no tokenizer.model and no tokenizer.json here";
        return Err(Error::invalid(llm.path(""), reason));
    };
    tokenizer.map_err(Error::in_file(llm.path(name)))
}

/// Every token of the tokenizer must have a row in the embedding table.
pub(crate) fn check_vocabulary(
    llm: &Files,
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
) -> Result<()> {
    let (rows, tokens) = (config.vocab_size, tokenizer.vocab_size());
    if tokens > rows {
        let reason = format!("vocab_size is {rows}, but the tokenizer has {tokens} tokens");
        return Err(Error::invalid(llm.path("config.json"), reason));
    }
    Ok(())
}

/// `llm/generation_config.json`: how text and images are sampled unless asked otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationConfig {
    /// Sample the next token; otherwise take the likeliest.
    pub do_sample: bool,
    pub temperature: f64,
    pub top_k: usize,
    pub top_p: f64,
    /// The temperature of visual codes. A field of our own: the released model always has 1.
    pub visual_temperature: f64,
    /// The weight of classifier-free guidance. A field of our own: the released model always has 3.
    pub visual_guidance: f64,
}

/// Hugging Face's defaults, for what the file leaves out.
impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            visual_temperature: Sampling::VISUAL.temperature,
            visual_guidance: GUIDANCE,
        }
    }
}

impl GenerationConfig {
    pub fn read(llm: &Files) -> Result<Self> {
        if llm.contains("generation_config.json") {
            json(llm, "generation_config.json")
        } else {
            Ok(Self::default())
        }
    }

    /// How images and videos are sampled unless asked otherwise.
    pub fn visual(&self, seed: u64) -> VisualOptions {
        VisualOptions {
            guidance: self.visual_guidance,
            sampling: Sampling {
                temperature: self.visual_temperature,
                ..Sampling::VISUAL
            },
            seed,
            first: 0,
        }
    }
}

/// A JSON file as `T`. Fields that are null count as left out, as Hugging Face writes unset ones so.
fn json<T: DeserializeOwned + Serialize>(files: &Files, name: &str) -> Result<T> {
    let invalid = |reason: String| Error::invalid(files.path(name), reason);
    if !files.contains(name) {
        return Err(invalid(
            "there is no such file (a checkpoint is a folder with config.json, llm, mm_projector \
             and vision_tower)"
                .into(),
        ));
    }
    let mut value: Value = serde_json::from_slice(&files.read(name)?)
        .map_err(|error| invalid(format!("not JSON: {error}")))?;
    drop_nulls(&mut value);
    let config: T = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
    let known = serde_json::to_value(&config).map_err(|error| invalid(error.to_string()))?;
    match too_large(&known) {
        Some(field) => Err(invalid(format!("{field} is out of range"))),
        None => Ok(config),
    }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, field| !field.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

/// The name of a size no model has. Maximal lengths only bound others and may be anything.
fn too_large(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !name.contains("max"))
            .find_map(|(name, field)| match field.as_u64() {
                Some(size) if size > LARGEST_SIZE => Some(format!("{name} {size}")),
                _ => too_large(field).map(|inner| {
                    if inner.is_empty() {
                        name.clone()
                    } else {
                        inner
                    }
                }),
            }),
        Value::Array(items) => items.iter().find_map(|item| match item.as_u64() {
            Some(size) if size > LARGEST_SIZE => Some(String::new()),
            _ => too_large(item),
        }),
        _ => None,
    }
}
