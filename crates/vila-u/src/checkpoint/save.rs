//! A model becomes a checkpoint that the authors' code loads.

use std::{
    cell::Cell,
    fs, io,
    ops::ControlFlow,
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
    default_configs::{
        generation_defaults, image_settings, llm_defaults, projector_defaults, root_defaults,
        tower_defaults,
    },
    files::Files,
    keys::Component,
    random::{self, RandomWeights},
    safetensors_writer::{SHARD, write, write_json},
    tensor_to_save::{TensorToSave, tensors_to_save},
    weight_dtype::WeightDtype,
    weights::ComponentWeights,
};
use crate::{
    Error, Result, atomic,
    model::{VilaU, VilaUConfig},
    tower::{RqVaeSiglip, RqVaeSiglipConfig, SiglipConfig},
};

/// The weights of a whole model on their way into files.
pub struct ModelWeights<'a> {
    llm: Vec<TensorToSave<'a>>,
    mm_projector: Vec<TensorToSave<'a>>,
    vision_tower: Vec<TensorToSave<'a>>,
    /// Called before each tensor is read; its error ends the writing.
    before_tensor: Box<dyn Fn() -> Result<()> + 'a>,
}

impl ModelWeights<'static> {
    /// Those of a model in memory, in floating point.
    pub fn of(config: &VilaUConfig, model: &VilaU) -> Self {
        let projector = Component::projector(&config.mm_projector);
        Self {
            llm: tensors_to_save(&model.llm, Component::Llm),
            mm_projector: tensors_to_save(&model.mm_projector, projector),
            vision_tower: tensors_to_save(&model.vision_tower, Component::VisionTower),
            before_tensor: Box::new(|| Ok(())),
        }
    }
}

/// Writes a checkpoint again in another dtype, to the new folder `dir`, one tensor in memory at a time.
///
/// `on_tensor` gets how many of all tensors are written; with [`ControlFlow::Break`] nothing is left of the folder.
///
/// # Errors
/// As [`save`], when `files` is not a whole checkpoint, and [`Error::Interrupted`].
pub fn convert(
    dir: &Path,
    files: &Files,
    weight_dtype: WeightDtype,
    on_tensor: &dyn Fn(usize, usize) -> ControlFlow<()>,
) -> Result<()> {
    let config = config::read(files)?;
    let model = config.init(&Device::flex());
    let projector = Component::projector(&config.mm_projector);
    let llm = ComponentWeights::check(files, Component::Llm, &model.llm)?;
    let mm_projector = ComponentWeights::check(files, projector, &model.mm_projector)?;
    let vision_tower = ComponentWeights::check(files, Component::VisionTower, &model.vision_tower)?;
    let (llm, mm_projector) = (llm.tensors_to_save(), mm_projector.tensors_to_save());
    let vision_tower = vision_tower.tensors_to_save();
    let total = llm.len() + mm_projector.len() + vision_tower.len();
    let done = Cell::new(0);
    let weights = ModelWeights {
        llm,
        mm_projector,
        vision_tower,
        before_tensor: Box::new(|| match on_tensor(done.replace(done.get() + 1), total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }),
    };
    save(dir, &config, &weights, files, weight_dtype)
}

/// Writes the whole model to the new folder `dir`, weights in `weight_dtype` (the codebooks' running
/// statistics stay f32).
///
/// Tokenizer files, and the configuration fields that are not ours, come from `like`: the checkpoint
/// that the model was made from, or at least its tokenizers. The folder appears whole or not at all.
///
/// # Errors
/// When `dir` exists and is not empty, the disk is full, or a weight does not fit `weight_dtype`.
pub fn save(
    dir: &Path,
    config: &VilaUConfig,
    weights: &ModelWeights,
    like: &Files,
    weight_dtype: WeightDtype,
) -> Result<()> {
    write_layout(
        dir,
        config,
        like,
        weight_dtype,
        |folder: &Path, component| {
            let tensors = match component {
                Component::Llm => &weights.llm,
                Component::VisionTower => &weights.vision_tower,
                _ => &weights.mm_projector,
            };
            write(folder, tensors, weight_dtype, SHARD, &weights.before_tensor)
        },
    )
}

/// Writes everything but weights to the new folder `dir`, and that the weights are random.
///
/// # Errors
/// When `dir` exists and is not empty, or the disk is full.
pub(super) fn save_random(
    dir: &Path,
    config: &VilaUConfig,
    like: &Files,
    random: &RandomWeights,
) -> Result<()> {
    let random = to_value(random)?;
    let weights = |folder: &Path, _| write_json(&folder.join(random::NAME), &random);
    write_layout(dir, config, like, WeightDtype::BF16, weights)
}

/// The folder of a whole model; `weights` adds those of each component to the component's folder.
fn write_layout(
    dir: &Path,
    config: &VilaUConfig,
    like: &Files,
    weight_dtype: WeightDtype,
    weights: impl Fn(&Path, Component) -> Result<()>,
) -> Result<()> {
    atomically(dir, |out| {
        let projector = Component::projector(&config.mm_projector);
        let tower = &config.vision_tower;
        let llm = component_config(
            like,
            Component::Llm,
            &config.llm,
            llm_defaults(config),
            weight_dtype,
        )?;
        let mm_projector = component_config(
            like,
            projector,
            &config.mm_projector,
            projector_defaults(),
            weight_dtype,
        )?;
        let vision_tower = component_config(
            like,
            Component::VisionTower,
            tower,
            tower_defaults(),
            weight_dtype,
        )?;
        for (component, config) in [
            (Component::Llm, &llm),
            (projector, &mm_projector),
            (Component::VisionTower, &vision_tower),
        ] {
            weights(&new_component(out, component, config)?, component)?;
        }
        write_encoder(out, &tower.rqvaesiglip, &config.siglip, like)?;

        copy(&like.join("llm"), &out.join("llm"), |name| {
            name.contains("token") || name == "generation_config.json"
        })?;
        let generation = out.join("llm/generation_config.json");
        if !generation.exists() {
            write_json(&generation, &generation_defaults(config))?;
        }

        let defaults = root_defaults(torch_name(weight_dtype));
        let mut root = merged(defaults, stored(like, "config.json")?);
        root = merged(root, to_value(&config.root)?);
        root["llm_cfg"] = llm;
        root["mm_projector_cfg"] = mm_projector;
        root["vision_tower_cfg"] = vision_tower;
        root["resume_path"] = atomic::final_path(dir).to_string_lossy().into();
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
    weight_dtype: WeightDtype,
) -> Result<()> {
    atomically(dir, |out| {
        let component = Component::RqVaeSiglip;
        let sizes = json!({ "rqvaesiglip": to_value(config)?, "hidden_size": config.embed_dim });
        let mut tower = component_config(like, component, &sizes, tower_defaults(), weight_dtype)?;
        if let Value::Object(fields) = &mut tower {
            fields.remove("rqtransformer");
        }
        let folder = new_component(out, component, &tower)?;
        write(
            &folder,
            &tensors_to_save(model, component),
            weight_dtype,
            SHARD,
            &|| Ok(()),
        )?;
        write_encoder(out, config, siglip, like)
    })
}

/// Writes the weights of a module, in f32, to the new folder `dir`, which needs no configuration to be read
/// back as [`Component::Alone`].
///
/// # Errors
/// When the folder is there already or the disk is full.
pub fn save_alone<M: Module>(module: &M, dir: &Path) -> Result<()> {
    fs::create_dir(dir).map_err(Error::io(dir))?;
    write(
        dir,
        &tensors_to_save(module, Component::Alone),
        WeightDtype::F32,
        SHARD,
        &|| Ok(()),
    )
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

/// The folder of a component, with its configuration in it.
fn new_component(out: &Path, component: Component, config: &Value) -> Result<PathBuf> {
    let folder = out.join(component.folder());
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

/// The configuration file of a component: the authors' defaults, what `like` says, and our sizes.
fn component_config(
    like: &Files,
    component: Component,
    config: &impl Serialize,
    defaults: Value,
    weight_dtype: WeightDtype,
) -> Result<Value> {
    let known = stored(&like.join(component.folder()), "config.json")?;
    let mut value = merged(merged(defaults, known), to_value(config)?);
    value["torch_dtype"] = torch_name(weight_dtype).into();
    if let Value::Object(fields) = &mut value {
        // Code that does not know the blocks finds the reason here, and not in shapes that do not fit.
        match weight_dtype.blocks() {
            Some(_) => fields.insert(
                QUANTIZATION.into(),
                json!({ "quant_method": weight_dtype.name() }),
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

fn torch_name(weight_dtype: WeightDtype) -> &'static str {
    match weight_dtype.float() {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}
