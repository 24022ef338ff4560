//! The tower that a run starts from: sizes from the recipe, new weights, SigLIP's, or those of `init`.

use burn::nn::Initializer;
use burn::tensor::Device;
use serde::Serialize;

use super::checkpointer::TowerCheckpointer;
use super::initial::{config_of, tokenizers, unfit};
use crate::checkpoint::{self, Files, Source, files::Bytes};
use crate::text::SiglipTokenizer;
use crate::tower::{RqVaeSiglip, RqVaeSiglipConfig, SiglipConfig};
use crate::training::recipe::Recipe;
use crate::{Error, Result};

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
    match encoders {
        Some(encoders) => checkpoint::load_siglip(&encoders, &mut model.siglip_model)?,
        None => start_new_encoders(&mut model, recipe, global_batch, device),
    }
    let checkpointer = TowerCheckpointer {
        config,
        siglip,
        files,
        discriminator: recipe.discriminator(),
    };
    Ok((checkpointer, model, tokenizer))
}

fn start_new_encoders(
    model: &mut RqVaeSiglip,
    recipe: &Recipe,
    global_batch: usize,
    device: &Device,
) {
    // One pair in a row of the batch matches: a model that says so from the start has only the
    // matching left to learn. SigLIP's own start, -10, is that of a batch of 32 thousand.
    let others = global_batch.saturating_sub(1).max(1) as f64;
    let value = -others.ln();
    model.siglip_model.logit_bias = Initializer::Constant { value }.init([1], device);
    if recipe.model.no_position_embedding {
        let embeddings = &mut model.siglip_model.vision_model.embeddings;
        let positions = &mut embeddings.position_embedding;
        let shape = positions.weight.dims();
        positions.weight = Initializer::Zeros.init(shape, device);
    }
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
pub(super) fn new_tower(
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

fn json(value: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(value).map_err(|error| Error::failed(error.to_string()))?;
    Ok(Bytes::from(text))
}
