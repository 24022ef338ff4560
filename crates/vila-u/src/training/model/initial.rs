//! The model a run starts from: sizes from the recipe, new weights or those of `init`.

use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use serde::de::DeserializeOwned;

use super::checkpointer::{Adapters, VilaUCheckpointer};
use super::initial_tower::new_tower;
use super::llama;
use crate::checkpoint::{self, Files, Source, files::Bytes, source::Known};
use crate::data::nano;
use crate::language::LlamaConfig;
use crate::model::{RootConfig, VilaU, VilaUConfig};
use crate::text::Tokenizer;
use crate::tower::{RqVaeSiglipConfig, SiglipConfig, VisionTowerConfig};
use crate::training::recipe::{Config, Recipe};
use crate::{Error, Result, atomic};

/// How a whole model is saved, its weights and its tokenizer: all of `init`, or, where the recipe has the sizes of a
/// language model, a new one on the tower of `init`.
pub(crate) fn vila_u(
    recipe: &Recipe,
    device: &Device,
) -> Result<(VilaUCheckpointer, VilaU, Tokenizer)> {
    let (init, files) = init(recipe)?;
    if recipe.model.llm.is_some() {
        return new_vila_u(recipe, &files, device);
    }
    if checkpoint::info(&files)?.is_quantized() {
        return Err(Error::usage(format!(
            "recipe: init {init} is quantized, and training needs floating point: give the model it was \
             made from, or `vila-u export {init} -o FOLDER`"
        )));
    }
    let loaded = checkpoint::load(&files, device, checkpoint::WeightDtype::F32)?;
    let mut model = loaded.model;
    let adapters = recipe.lora.as_ref().map(|lora| Adapters {
        config: lora.config(),
        base: init.to_string(),
    });
    if let Some(Adapters { config, .. }) = &adapters {
        model.llm = model.llm.adapted(config, device);
    }
    let checkpointer = VilaUCheckpointer {
        config: loaded.config,
        files,
        adapters,
    };
    Ok((checkpointer, model, loaded.tokenizer))
}

/// A new language model, random or of a LLaMA's weights, on the tower in `files`.
fn new_vila_u(
    recipe: &Recipe,
    files: &Files,
    device: &Device,
) -> Result<(VilaUCheckpointer, VilaU, Tokenizer)> {
    let tower = checkpoint::load_tower(files, device, checkpoint::WeightDtype::F32)?;
    let config = new_language(recipe, tower.config, tower.siglip)?;
    let mut model = config.init(device);
    model.vision_tower.rqvaesiglip = tower.model;
    if let Some(folder) = &recipe.model.llm_weights {
        model.llm = llama::weights(folder, &config.llm, device)?;
    }
    let (llm_files, tokenizer) = new_tokenizer(recipe, &config)?;
    let files = new_files(recipe, &config, &llm_files, files)?;
    let checkpointer = VilaUCheckpointer {
        config,
        files,
        adapters: None,
    };
    Ok((checkpointer, model, tokenizer))
}

/// A new model's files besides weights: the encoder's from the tower, the language model's from the recipe.
fn new_files(recipe: &Recipe, config: &VilaUConfig, llm: &Files, tower: &Files) -> Result<Files> {
    let name = &config.vision_tower.rqvaesiglip.pretrained_model;
    let mut contents = Vec::new();
    for (folder, from) in [("llm", llm), (name.as_str(), &tower.join(name))] {
        for file in from.names()? {
            if file.contains("token") || ["spiece.model", "config.json"].contains(&file.as_str()) {
                contents.push((format!("{folder}/{file}"), Bytes::from(from.read(&file)?)));
            }
        }
    }
    if let Some(defaults) = recipe.model.generation {
        let mut generation = checkpoint::generation_defaults(config);
        generation["visual_temperature"] = defaults.visual_temperature.into();
        generation["visual_guidance"] = defaults.visual_guidance.into();
        let name = "llm/generation_config.json".to_string();
        contents.push((name, Bytes::from(format!("{generation:#}").into_bytes())));
    }
    Ok(Files::memory("recipe", contents))
}

/// What samples of a language model's run are made with: its sizes and its tokenizer.
pub(crate) fn vila_u_input(recipe: &Recipe) -> Result<(VilaUConfig, Tokenizer)> {
    vila_u_input_of(recipe, &init(recipe)?.1)
}

/// The same where it takes no download.
pub(crate) fn vila_u_input_at_hand(recipe: &Recipe) -> Result<(VilaUConfig, Tokenizer)> {
    let init = recipe.init.as_deref().ok_or_else(no_init)?;
    match Source::parse(init)?.known()? {
        Known::Files(files) => vila_u_input_of(recipe, &files),
        Known::Released(_) => Err(Error::failed(format!("{init} is not at hand"))),
    }
}

fn vila_u_input_of(recipe: &Recipe, files: &Files) -> Result<(VilaUConfig, Tokenizer)> {
    if recipe.model.llm.is_none() {
        let config = checkpoint::config::read(files)?;
        return Ok((config, checkpoint::config::tokenizer(&files.join("llm"))?));
    }
    let (tower, siglip) = checkpoint::config::read_tower(files)?;
    let config = new_language(recipe, tower, siglip)?;
    let (_, tokenizer) = new_tokenizer(recipe, &config)?;
    Ok((config, tokenizer))
}

/// The sizes of the model that is trained.
pub(crate) enum ModelSizes {
    Tower(Box<(RqVaeSiglipConfig, SiglipConfig)>),
    VilaU(Box<VilaUConfig>),
}

/// Sizes from configurations alone. A released model that is not at hand has its known ones: nothing is
/// downloaded.
pub(crate) fn sizes(recipe: &Recipe) -> Result<ModelSizes> {
    if recipe.is_tower() {
        let sizes = tower_sizes(recipe)?;
        return Ok(ModelSizes::Tower(Box::new(sizes)));
    }
    let known = Source::parse(recipe.init.as_deref().ok_or_else(no_init)?)?.known()?;
    let config = if recipe.model.llm.is_some() {
        let (tower, siglip) = known_tower(known)?;
        new_language(recipe, tower, siglip)?
    } else {
        match known {
            Known::Files(files) => checkpoint::config::read(&files)?,
            Known::Released(config) => *config,
        }
    };
    Ok(ModelSizes::VilaU(Box::new(config)))
}

fn tower_sizes(recipe: &Recipe) -> Result<(RqVaeSiglipConfig, SiglipConfig)> {
    let source = recipe.init.as_deref().map(Source::parse).transpose()?;
    if recipe.model.rqvaesiglip.is_some() {
        // Encoders that are not at hand have the sizes of their name.
        let known = source.as_ref().and_then(|source| source.known().ok());
        let encoders = match known {
            Some(Known::Files(files)) => Some(files),
            _ => None,
        };
        let new = encoders.as_ref().is_none_or(checkpoint::config::is_siglip);
        if new {
            return new_tower(recipe, encoders.as_ref());
        }
    }
    known_tower(source.ok_or_else(no_init)?.known()?)
}

fn known_tower(known: Known) -> Result<(RqVaeSiglipConfig, SiglipConfig)> {
    match known {
        Known::Files(files) => checkpoint::config::read_tower(&files),
        Known::Released(config) => Ok((config.vision_tower.rqvaesiglip, config.siglip)),
    }
}

fn no_init() -> Error {
    Error::usage("recipe: init is needed: the model, or at least the vision tower, to start from")
}

fn init(recipe: &Recipe) -> Result<(&str, Files)> {
    let Some(init) = &recipe.init else {
        return Err(no_init());
    };
    Ok((init, Source::parse(init)?.files(|_, _| {})?))
}

/// Sizes of a whole model whose language model is new.
fn new_language(
    recipe: &Recipe,
    tower: RqVaeSiglipConfig,
    siglip: SiglipConfig,
) -> Result<VilaUConfig> {
    let llm: LlamaConfig = match (&recipe.model.llm_weights, &recipe.model.llm) {
        (Some(folder), Some(llm)) => llama::config(folder, llm)?,
        (_, llm) => config_of(llm, "llm")?,
    };
    let width = tower.embed_dim;
    let config = VilaUConfig {
        root: RootConfig::new(llm.hidden_size, width),
        llm,
        mm_projector: config_of(&recipe.model.mm_projector, "mm_projector")?,
        vision_tower: VisionTowerConfig {
            rqvaesiglip: tower,
            rqtransformer: config_of(&recipe.model.rqtransformer, "rqtransformer")?,
            hidden_size: width,
        },
        siglip,
    };
    config.check().map_err(|error| unfit(error.to_string()))?;
    Ok(config)
}

/// The tokenizer of a new language model, with its files.
fn new_tokenizer(recipe: &Recipe, config: &VilaUConfig) -> Result<(Files, Tokenizer)> {
    let files = match &recipe.model.llm_weights {
        Some(folder) => llama::tokenizer(folder, &config.llm)?,
        None => tokenizers(recipe)?.join("llm"),
    };
    let tokenizer = checkpoint::config::tokenizer(&files)?;
    let (words, rows) = (tokenizer.vocab_size(), config.llm.vocab_size);
    if words > rows {
        return Err(unfit(format!(
            "llm.vocab_size is {rows}, the tokenizer has {words} tokens"
        )));
    }
    Ok((files, tokenizer))
}

/// Initialises all weights now and in order: parameters are initialised when first used, and what is used
/// first must not decide what they become.
pub(crate) fn initialise<M: Module>(model: M, device: &Device, seed: u64) -> M {
    struct Touch;
    impl ModuleVisitor for Touch {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }
    // The CPU has one generator for all ranks of a process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    model.visit(&mut Touch);
    model
}

/// The recipe with a temporary run folder, so that tokenizers which a run would make in its own are made
/// there, and that folder: nothing is left behind when it is dropped.
pub(crate) fn in_temporary_folder(recipe: &Recipe) -> Result<(Recipe, tempfile::TempDir)> {
    let folder = tempfile::tempdir().map_err(Error::io("a temporary folder"))?;
    let mut recipe = recipe.clone();
    if !recipe.out.join("tokenizers").exists() {
        recipe.out = folder.path().to_path_buf();
    }
    Ok((recipe, folder))
}

/// The recipe's tokenizers, or else those of the nano world, made in the run folder.
pub(super) fn tokenizers(recipe: &Recipe) -> Result<Files> {
    if let Some(folder) = &recipe.model.tokenizers {
        return Ok(Files::folder(folder));
    }
    let folder = recipe.out.join("tokenizers");
    if !folder.exists() {
        atomic::folder(&folder, nano::write_tokenizers)?;
    }
    Ok(Files::folder(folder))
}

pub(super) fn config_of<T: DeserializeOwned>(config: &Option<Config>, name: &str) -> Result<T> {
    match config {
        Some(config) => config.read(name),
        None => Err(Error::usage(format!("recipe: [model.{name}] is needed"))),
    }
}

pub(super) fn unfit(reason: String) -> Error {
    Error::usage(format!("recipe, [model]: {reason}"))
}
