//! A model becomes a checkpoint that the authors' code loads.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    tensor::{DType, Device},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    config::{self, siglip_folder},
    files::Files,
    format::Format,
    keys::Part,
    random::{self, Random},
    safetensors_writer::{SHARD, write, write_json},
    weights::{Opened, Outgoing, outgoing},
};
use crate::{
    Error, Result, atomic,
    model::{VilaU, VilaUConfig},
    tower::{RqVaeSiglip, RqVaeSiglipConfig, SiglipConfig},
};

/// The weights of a whole model on their way into files.
pub struct Weights<'a> {
    llm: Vec<Outgoing<'a>>,
    mm_projector: Vec<Outgoing<'a>>,
    vision_tower: Vec<Outgoing<'a>>,
}

impl Weights<'static> {
    /// Those of a model in memory, in floating point.
    pub fn of(config: &VilaUConfig, model: &VilaU) -> Self {
        let projector = Part::projector(&config.mm_projector);
        Self {
            llm: outgoing(&model.llm, Part::Llm),
            mm_projector: outgoing(&model.mm_projector, projector),
            vision_tower: outgoing(&model.vision_tower, Part::VisionTower),
        }
    }
}

/// Writes a checkpoint again in another format, to the new folder `dir`, one tensor in memory at a time.
///
/// # Errors
/// As [`save`], and when `files` is not a whole checkpoint.
pub fn convert(dir: &Path, files: &Files, format: Format) -> Result<()> {
    let config = config::read(files)?;
    let model = config.init(&Device::flex());
    let projector = Part::projector(&config.mm_projector);
    let llm = Opened::check(files, Part::Llm, &model.llm)?;
    let mm_projector = Opened::check(files, projector, &model.mm_projector)?;
    let vision_tower = Opened::check(files, Part::VisionTower, &model.vision_tower)?;
    let weights = Weights {
        llm: llm.outgoing(),
        mm_projector: mm_projector.outgoing(),
        vision_tower: vision_tower.outgoing(),
    };
    save(dir, &config, &weights, files, format)
}

/// Writes the whole model to the new folder `dir`, weights in `format` (the codebooks' running
/// statistics stay f32).
///
/// Tokenizer files, and the configuration fields that are not ours, come from `like`: the checkpoint
/// that the model was made from, or at least its tokenizers. The folder appears whole or not at all.
///
/// # Errors
/// When `dir` exists and is not empty, the disk is full, or a weight does not fit `format`.
pub fn save(
    dir: &Path,
    config: &VilaUConfig,
    weights: &Weights,
    like: &Files,
    format: Format,
) -> Result<()> {
    write_layout(dir, config, like, format, |folder: &Path, part| {
        let tensors = match part {
            Part::Llm => &weights.llm,
            Part::VisionTower => &weights.vision_tower,
            _ => &weights.mm_projector,
        };
        write(folder, tensors, format, SHARD)
    })
}

/// Writes everything but weights to the new folder `dir`, and that the weights are random.
///
/// # Errors
/// When `dir` exists and is not empty, or the disk is full.
pub(super) fn save_random(
    dir: &Path,
    config: &VilaUConfig,
    like: &Files,
    random: &Random,
) -> Result<()> {
    let random = to_value(random)?;
    let weights = |folder: &Path, _| write_json(&folder.join(random::NAME), &random);
    write_layout(dir, config, like, Format::BF16, weights)
}

/// The folder of a whole model; `weights` adds those of each part to the part's folder.
fn write_layout(
    dir: &Path,
    config: &VilaUConfig,
    like: &Files,
    format: Format,
    weights: impl Fn(&Path, Part) -> Result<()>,
) -> Result<()> {
    atomically(dir, |out| {
        let projector = Part::projector(&config.mm_projector);
        let tower = &config.vision_tower;
        let llm = part_config(like, Part::Llm, &config.llm, llm_defaults(config), format)?;
        let mm_projector = part_config(
            like,
            projector,
            &config.mm_projector,
            projector_defaults(),
            format,
        )?;
        let vision_tower = part_config(like, Part::VisionTower, tower, tower_defaults(), format)?;
        for (part, config) in [
            (Part::Llm, &llm),
            (projector, &mm_projector),
            (Part::VisionTower, &vision_tower),
        ] {
            weights(&new_part(out, part, config)?, part)?;
        }
        write_encoder(out, &tower.rqvaesiglip, &config.siglip, like)?;

        copy(&like.join("llm"), &out.join("llm"), |name| {
            name.contains("token") || name == "generation_config.json"
        })?;
        let generation = out.join("llm/generation_config.json");
        if !generation.exists() {
            write_json(&generation, &generation_defaults(config))?;
        }

        let defaults = root_defaults(torch_name(format));
        let mut root = merged(defaults, stored(like, "config.json")?);
        root = merged(root, to_value(&config.root)?);
        root["llm_cfg"] = llm;
        root["mm_projector_cfg"] = mm_projector;
        root["vision_tower_cfg"] = vision_tower;
        root["resume_path"] = atomic::place(dir).to_string_lossy().into();
        root.sort_all_objects();
        write_json(&out.join("config.json"), &root)
    })
}

/// Writes a tower alone, without the depth transformer, as [`super::load_tower`] reads it.
///
/// # Errors
/// As [`save`].
pub fn save_tower(
    dir: &Path,
    config: &RqVaeSiglipConfig,
    siglip: &SiglipConfig,
    model: &RqVaeSiglip,
    like: &Files,
    format: Format,
) -> Result<()> {
    atomically(dir, |out| {
        let part = Part::RqVaeSiglip;
        let sizes = json!({ "rqvaesiglip": to_value(config)?, "hidden_size": config.embed_dim });
        let mut tower = part_config(like, part, &sizes, tower_defaults(), format)?;
        if let Value::Object(fields) = &mut tower {
            fields.remove("rqtransformer");
        }
        let folder = new_part(out, part, &tower)?;
        write(&folder, &outgoing(model, part), format, SHARD)?;
        write_encoder(out, config, siglip, like)
    })
}

/// Writes the weights of a module, in f32, to the new folder `dir`, which needs no configuration to be read
/// back as [`Part::Alone`].
///
/// # Errors
/// When the folder is there already or the disk is full.
pub fn save_alone<M: Module>(module: &M, dir: &Path) -> Result<()> {
    fs::create_dir(dir).map_err(Error::io(dir))?;
    write(dir, &outgoing(module, Part::Alone), Format::F32, SHARD)
}

/// Lets `write` fill a new folder.
fn atomically(dir: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(dir)(error)),
        Ok(false) => {
            let reason = format!("{} is not empty: choose a new folder", dir.display());
            return Err(Error::usage(reason));
        }
    }
    atomic::folder(dir, write)
}

/// The folder of a part, with its configuration in it.
fn new_part(out: &Path, part: Part, config: &Value) -> Result<PathBuf> {
    let folder = out.join(part.folder());
    fs::create_dir(&folder).map_err(Error::io(&folder))?;
    write_json(&folder.join("config.json"), config)?;
    Ok(folder)
}

/// What belongs to the encoders: the image settings, and the folder that `pretrained_model` names
/// with sizes and tokenizer, unless it names a model of the Hub.
fn write_encoder(
    out: &Path,
    config: &RqVaeSiglipConfig,
    siglip: &SiglipConfig,
    like: &Files,
) -> Result<()> {
    let settings = match stored(&like.join("vision_tower"), "preprocessor_config.json")? {
        Value::Null => image_settings(siglip.vision_config.image_size),
        settings => settings,
    };
    write_json(
        &out.join("vision_tower/preprocessor_config.json"),
        &settings,
    )?;
    let Some(folder) = siglip_folder(like, config) else {
        return match SiglipConfig::preset(&config.pretrained_model) {
            Some(preset) if preset == *siglip => Ok(()),
            _ => Err(Error::failed(format!(
                "the configuration of {} is not at hand to be saved",
                config.pretrained_model
            ))),
        };
    };
    let target = out.join(&config.pretrained_model);
    fs::create_dir_all(&target).map_err(Error::io(&target))?;
    copy(&folder, &target, |name| !is_weights(name))?;
    let config = merged(stored(&folder, "config.json")?, to_value(siglip)?);
    write_json(&target.join("config.json"), &config)
}

fn is_weights(name: &str) -> bool {
    [".safetensors", ".bin", ".pt", ".msgpack", ".h5", ".onnx"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

fn copy(from: &Files, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for name in from.names()?.iter().filter(|name| wanted(name)) {
        let target = to.join(name);
        fs::write(&target, from.read(name)?).map_err(Error::io(&target))?;
    }
    Ok(())
}

/// The configuration file of a part: the authors' defaults, what `like` says, and our sizes.
fn part_config(
    like: &Files,
    part: Part,
    config: &impl Serialize,
    defaults: Value,
    format: Format,
) -> Result<Value> {
    let known = stored(&like.join(part.folder()), "config.json")?;
    let mut value = merged(merged(defaults, known), to_value(config)?);
    value["torch_dtype"] = torch_name(format).into();
    if let Value::Object(fields) = &mut value {
        // Code that does not know the blocks finds the reason here, and not in shapes that do not fit.
        match format.blocks() {
            Some(_) => fields.insert(
                QUANTIZATION.into(),
                json!({ "quant_method": format.name() }),
            ),
            None => fields.shift_remove(QUANTIZATION),
        };
    }
    value.sort_all_objects();
    Ok(value)
}

/// A JSON file of `like`, null if there is none.
fn stored(files: &Files, name: &str) -> Result<Value> {
    let Some(text) = files.read_optional(name)? else {
        return Ok(Value::Null);
    };
    serde_json::from_slice(&text)
        .map_err(|error| Error::invalid(files.path(name), format!("not JSON: {error}")))
}

fn to_value(config: &impl Serialize) -> Result<Value> {
    serde_json::to_value(config).map_err(|error| Error::failed(error.to_string()))
}

/// `base` with the fields of `over` put over its own, at every depth.
fn merged(base: Value, over: Value) -> Value {
    match (base, over) {
        (base, Value::Null) => base,
        (Value::Object(mut base), Value::Object(over)) => {
            for (name, field) in over {
                let old = base.remove(&name).unwrap_or(Value::Null);
                base.insert(name, merged(old, field));
            }
            Value::Object(base)
        }
        (_, over) => over,
    }
}

/// The field with which Hugging Face's configurations say that weights are quantized.
const QUANTIZATION: &str = "quantization_config";

fn torch_name(format: Format) -> &'static str {
    match format.float() {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

const TRANSFORMERS: &str = "4.36.2";

fn llm_defaults(config: &VilaUConfig) -> Value {
    let length = config.llm.max_length();
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "initializer_range": 0.02,
        "model_max_length": length,
        "tokenizer_model_max_length": length,
        "tokenizer_padding_side": "right",
        "transformers_version": TRANSFORMERS,
        "use_cache": true,
    })
}

fn projector_defaults() -> Value {
    json!({
        "architectures": ["MultimodalProjector"],
        "model_type": "v2l_projector",
        "transformers_version": TRANSFORMERS,
    })
}

fn tower_defaults() -> Value {
    json!({
        "architectures": ["RQVAESIGLIPTransformer"],
        "model_type": "rqvaesigliptransformer_model",
        "transformers_version": TRANSFORMERS,
        "rqtransformer": { "architectures": ["RQTransformer"], "attn_implementation": null },
        "rqvaesiglip": { "architectures": ["RQVAESiglipModel"], "attn_implementation": null },
    })
}

fn root_defaults(dtype: &str) -> Value {
    json!({
        "architectures": ["VILAULlamaModel"],
        "model_type": "vila_u_llama",
        "drop_path_rate": 0.0,
        "interpolate_mode": "linear",
        "mm_vision_select_layer": -2,
        "model_dtype": format!("torch.{dtype}"),
        "transformers_version": TRANSFORMERS,
        "tune_language_model": true,
        "tune_mm_projector": true,
        "tune_vision_tower": false,
    })
}

/// `llm/generation_config.json` as the released checkpoints have it: text is sampled (their image
/// generation needs `do_sample`).
pub(crate) fn generation_defaults(config: &VilaUConfig) -> Value {
    json!({
        "bos_token_id": config.llm.bos_token_id,
        "do_sample": true,
        "eos_token_id": config.llm.eos_token_id,
        "max_length": config.llm.max_length(),
        "pad_token_id": 0,
        "temperature": 0.9,
        "top_p": 0.6,
        "transformers_version": TRANSFORMERS,
    })
}

fn image_settings(size: usize) -> Value {
    let square = json!({ "height": size, "width": size });
    json!({
        "crop_size": square,
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": square,
    })
}
