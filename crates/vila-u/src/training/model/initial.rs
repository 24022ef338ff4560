//! The model a run starts from: sizes from the recipe, new weights or those of `init`.

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};
use serde::{Serialize, de::DeserializeOwned};

use super::checkpointer::{Adapters, TowerCheckpointer, VilaUCheckpointer};
use super::llama;
use crate::checkpoint::{self, Files, Source, files::Bytes, source::Known};
use crate::data::nano;
use crate::language::LlamaConfig;
use crate::model::{RootConfig, VilaU, VilaUConfig};
use crate::text::{SiglipTokenizer, Tokenizer};
use crate::tower::{RqVaeSiglip, RqVaeSiglipConfig, SiglipConfig, VisionTowerConfig};
use crate::training::recipe::{Config, Recipe};
use crate::{Error, Result, atomic};

/// How a tower is saved, its weights (initialised when first used if they are new), and the tokenizer of its
/// text encoder.
///
/// `global_batch`: pairs of picture and text that are compared at once, over all ranks.
pub(crate) fn tower(
    recipe: &Recipe,
    device: &Device,
    global_batch: usize,
) -> Result<(TowerCheckpointer, RqVaeSiglip, SiglipTokenizer)> {
    let encoders = match tower_init(recipe)? {
        TowerInit::Tower(files) => {
            let tower = checkpoint::load_tower(&files, device, checkpoint::WeightDtype::F32)?;
            let tokenizer = tower.text_tokenizer()?;
            let checkpointer = TowerCheckpointer {
                config: tower.config,
                siglip: tower.siglip,
                files,
                discriminator: recipe.discriminator(),
            };
            return Ok((checkpointer, tower.model, tokenizer));
        }
        TowerInit::Siglip(files) => Some(files),
        TowerInit::New => None,
    };
    let (config, siglip) = new_tower(recipe, encoders.as_ref())?;
    let (spiece, tokenizer) = spiece(recipe, encoders.as_ref(), &siglip)?;
    let name = &config.pretrained_model;
    let files = Files::memory(
        "recipe",
        [
            (format!("{name}/config.json"), json(&siglip)?),
            (format!("{name}/spiece.model"), spiece.into()),
        ],
    );
    let mut model = config.init(&siglip, device);
    if let Some(encoders) = encoders {
        checkpoint::load_siglip(&encoders, &mut model.siglip_model)?;
    } else {
        // One pair in a row of the batch matches: a model that says so from the start has only the
        // matching left to learn. SigLIP's own start, -10, is that of a batch of 32 thousand.
        let others = global_batch.saturating_sub(1).max(1) as f64;
        model.siglip_model.logit_bias = Initializer::Constant {
            value: -others.ln(),
        }
        .init([1], device);
        if recipe.model.no_position_embedding {
            let positions = &mut model
                .siglip_model
                .vision_model
                .embeddings
                .position_embedding;
            let shape = positions.weight.dims();
            positions.weight = Initializer::Zeros.init(shape, device);
        }
    }
    Ok((
        TowerCheckpointer {
            config,
            siglip,
            files,
            discriminator: recipe.discriminator(),
        },
        model,
        tokenizer,
    ))
}

/// What samples of a tower's run are made with: the tokenizer of its text encoder, and the width and
/// height of its pictures in pixels.
pub(crate) fn tower_input(recipe: &Recipe) -> Result<(SiglipTokenizer, usize)> {
    let encoders = match tower_init(recipe)? {
        TowerInit::Tower(files) => {
            let (config, siglip) = checkpoint::config::read_tower(&files)?;
            let tokenizer = checkpoint::config::siglip_tokenizer(&files, &config, &siglip)?;
            return Ok((tokenizer, siglip.vision_config.image_size));
        }
        TowerInit::Siglip(files) => Some(files),
        TowerInit::New => None,
    };
    let (_, siglip) = new_tower(recipe, encoders.as_ref())?;
    let (_, tokenizer) = spiece(recipe, encoders.as_ref(), &siglip)?;
    Ok((tokenizer, siglip.vision_config.image_size))
}

/// What a tower's run starts from.
enum TowerInit {
    /// All of it: a tower, or a model with one.
    Tower(Files),
    /// The encoders: a SigLIP model as Hugging Face has it. Quantizer and decoder are new.
    Siglip(Files),
    /// Nothing.
    New,
}

fn tower_init(recipe: &Recipe) -> Result<TowerInit> {
    let Some(init) = &recipe.init else {
        return Ok(TowerInit::New);
    };
    let files = Source::parse(init)?.files(|_, _| {})?;
    Ok(if checkpoint::config::is_siglip(&files) {
        TowerInit::Siglip(files)
    } else {
        TowerInit::Tower(files)
    })
}

/// Sizes of a tower that is new, or that is but for its `encoders`.
fn new_tower(
    recipe: &Recipe,
    encoders: Option<&Files>,
) -> Result<(RqVaeSiglipConfig, SiglipConfig)> {
    let config: RqVaeSiglipConfig = config_of(&recipe.model.rqvaesiglip, "rqvaesiglip")?;
    let siglip = match (encoders, SiglipConfig::preset(&config.pretrained_model)) {
        (Some(_), _) if recipe.model.siglip.is_some() => {
            let reason = "siglip is not for a run with init: that has the encoders' sizes";
            return Err(unfit(reason.into()));
        }
        (Some(encoders), _) => checkpoint::config::read_siglip(encoders)?,
        (None, Some(preset)) if recipe.model.siglip.is_none() => preset,
        (None, _) => config_of(&recipe.model.siglip, "siglip")?,
    };
    config
        .check(&siglip)
        .map_err(|error| unfit(error.to_string()))?;
    Ok((config, siglip))
}

/// The tokenizer of a new tower's text encoder, with its file: that of `encoders`, or the recipe's.
fn spiece(
    recipe: &Recipe,
    encoders: Option<&Files>,
    siglip: &SiglipConfig,
) -> Result<(Vec<u8>, SiglipTokenizer)> {
    let folder = match encoders {
        Some(encoders) => encoders.clone(),
        None => tokenizers(recipe)?.join("siglip"),
    };
    let spiece = folder.read("spiece.model")?;
    let length = siglip.text_config.max_position_embeddings;
    let tokenizer = SiglipTokenizer::from_bytes(&spiece, length)
        .map_err(Error::in_file(folder.path("spiece.model")))?;
    let (words, rows) = (tokenizer.vocab_size(), siglip.text_config.vocab_size);
    if words == rows {
        Ok((spiece, tokenizer))
    } else {
        Err(unfit(format!(
            "siglip.text_config.vocab_size is {rows}, spiece.model has {words}"
        )))
    }
}

/// Sizes and weights of a whole model, and its tokenizer: all of `init`, or, where the recipe has
/// the sizes of a language model, a new one on the tower of `init`.
pub(crate) fn vila_u(
    recipe: &Recipe,
    device: &Device,
) -> Result<(VilaUCheckpointer, VilaU, Tokenizer)> {
    let (init, files) = init(recipe)?;
    if recipe.model.llm.is_none() {
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
        return Ok((checkpointer, model, loaded.tokenizer));
    }
    let tower = checkpoint::load_tower(&files, device, checkpoint::WeightDtype::F32)?;
    let config = new_language(recipe, tower.config, tower.siglip)?;
    let mut model = config.init(device);
    model.vision_tower.rqvaesiglip = tower.model;
    if let Some(folder) = &recipe.model.llm_weights {
        model.llm = llama::weights(folder, &config.llm, device)?;
    }

    // A checkpoint's files: the encoder's from the tower, the language model's from the recipe.
    let (llm_files, tokenizer) = new_tokenizer(recipe, &config)?;
    let name = &config.vision_tower.rqvaesiglip.pretrained_model;
    let mut contents = Vec::new();
    for (folder, from) in [("llm", llm_files), (name.as_str(), files.join(name))] {
        for file in from.names()? {
            if file.contains("token") || ["spiece.model", "config.json"].contains(&file.as_str()) {
                contents.push((format!("{folder}/{file}"), Bytes::from(from.read(&file)?)));
            }
        }
    }
    if let Some(defaults) = recipe.model.generation {
        let mut generation = checkpoint::generation_defaults(&config);
        generation["visual_temperature"] = defaults.visual_temperature.into();
        generation["visual_guidance"] = defaults.visual_guidance.into();
        let name = "llm/generation_config.json".to_string();
        contents.push((name, Bytes::from(format!("{generation:#}").into_bytes())));
    }
    let checkpointer = VilaUCheckpointer {
        config,
        files: Files::memory("recipe", contents),
        adapters: None,
    };
    Ok((checkpointer, model, tokenizer))
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
    let tower = recipe.is_tower();
    let source = recipe.init.as_deref().map(Source::parse).transpose()?;
    if tower && recipe.model.rqvaesiglip.is_some() {
        // Encoders that are not at hand have the sizes of their name.
        let known = source.as_ref().and_then(|source| source.known().ok());
        let encoders = match known {
            Some(Known::Files(files)) => Some(files),
            _ => None,
        };
        let new = encoders.as_ref().is_none_or(checkpoint::config::is_siglip);
        if new {
            return Ok(ModelSizes::Tower(Box::new(new_tower(
                recipe,
                encoders.as_ref(),
            )?)));
        }
    }
    let known = source.ok_or_else(no_init)?.known()?;
    let whole = |known: Known| match known {
        Known::Files(files) => checkpoint::config::read(&files),
        Known::Released(config) => Ok(*config),
    };
    if !tower && recipe.model.llm.is_none() {
        return Ok(ModelSizes::VilaU(Box::new(whole(known)?)));
    }
    let (config, siglip) = match known {
        Known::Files(files) => checkpoint::config::read_tower(&files)?,
        Known::Released(config) => (config.vision_tower.rqvaesiglip, config.siglip),
    };
    if tower {
        Ok(ModelSizes::Tower(Box::new((config, siglip))))
    } else {
        new_language(recipe, config, siglip).map(|config| ModelSizes::VilaU(Box::new(config)))
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
fn tokenizers(recipe: &Recipe) -> Result<Files> {
    if let Some(folder) = &recipe.model.tokenizers {
        return Ok(Files::folder(folder));
    }
    let folder = recipe.out.join("tokenizers");
    if !folder.exists() {
        atomic::folder(&folder, nano::write_tokenizers)?;
    }
    Ok(Files::folder(folder))
}

fn config_of<T: DeserializeOwned>(config: &Option<Config>, name: &str) -> Result<T> {
    match config {
        Some(config) => config.read(name),
        None => Err(Error::usage(format!("recipe: [model.{name}] is needed"))),
    }
}

fn unfit(reason: String) -> Error {
    Error::usage(format!("recipe, [model]: {reason}"))
}

fn json(value: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(value).map_err(|error| Error::failed(error.to_string()))?;
    Ok(Bytes::from(text))
}
