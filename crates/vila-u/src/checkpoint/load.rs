//! A checkpoint's files become a model.

use burn::tensor::Device;

use super::{
    config::{self, GenerationConfig},
    files::Files,
    keys::Component,
    weight_dtype::WeightDtype,
    weights::ComponentWeights,
};
use crate::{
    Result,
    model::{VilaU, VilaUConfig},
    text::{SiglipTokenizer, Tokenizer},
    tower::{RqVaeSiglip, RqVaeSiglipConfig, Siglip, SiglipConfig},
};

/// The whole model.
#[derive(Debug)]
pub struct Checkpoint {
    pub config: VilaUConfig,
    pub generation: GenerationConfig,
    pub model: VilaU,
    pub tokenizer: Tokenizer,
    /// What it was loaded from.
    pub files: Files,
}

/// The vision tower without the depth transformer: all that codes, pictures from codes and matching
/// texts need, and a fraction of the memory.
#[derive(Debug)]
pub struct Tower {
    pub config: RqVaeSiglipConfig,
    pub siglip: SiglipConfig,
    pub model: RqVaeSiglip,
    /// What it was loaded from.
    pub files: Files,
}

/// Loads everything, weights in `weight_dtype`, except that weights stored in blocks stay in them. On the CPU
/// that is how the weights of linear layers and embedding tables are held; all others are f32 there, and
/// so is everything computed.
///
/// All parts are checked before the first weight is read; peak memory is the model and one tensor. The
/// tower's encoders are read when they are first used.
///
/// # Errors
/// One error that names the file and the field or tensor at fault, or a device that does not take the dtype.
pub fn load(files: &Files, device: &Device, weight_dtype: WeightDtype) -> Result<Checkpoint> {
    weight_dtype.check(device)?;
    let config = config::read(files)?;
    let llm_files = files.join("llm");
    let tokenizer = config::tokenizer(&llm_files)?;
    config::check_vocabulary(&llm_files, &config.llm, &tokenizer)?;
    let generation = GenerationConfig::read(&llm_files)?;

    let mut model = config.init(device);
    let projector = Component::projector(&config.mm_projector);
    let llm = ComponentWeights::check(files, Component::Llm, &model.llm)?;
    let mm_projector = ComponentWeights::check(files, projector, &model.mm_projector)?;
    let vision_tower = ComponentWeights::check(files, Component::VisionTower, &model.vision_tower)?;
    llm.load(&mut model.llm, weight_dtype)?;
    mm_projector.load(&mut model.mm_projector, weight_dtype)?;
    vision_tower.load(&mut model.vision_tower, weight_dtype)?;

    Ok(Checkpoint {
        config,
        generation,
        model,
        tokenizer,
        files: files.clone(),
    })
}

/// Loads the vision tower only; the other parts need not be there.
///
/// # Errors
/// As [`load`].
pub fn load_tower(files: &Files, device: &Device, weight_dtype: WeightDtype) -> Result<Tower> {
    weight_dtype.check(device)?;
    let (config, siglip) = config::read_tower(files)?;
    let mut model = config.init(&siglip, device);
    ComponentWeights::check(files, Component::RqVaeSiglip, &model)?
        .load(&mut model, weight_dtype)?;
    Ok(Tower {
        config,
        siglip,
        model,
        files: files.clone(),
    })
}

/// Loads the encoders of a tower from a SigLIP model as Hugging Face has it: its weights beside its
/// `config.json`, keys `text_model.*`, `vision_model.*`, `logit_scale` and `logit_bias`.
///
/// # Errors
/// One error that names the file and the tensor at fault. The module is unchanged then.
pub fn load_siglip(files: &Files, siglip: &mut Siglip) -> Result<()> {
    ComponentWeights::check_folder(files, Component::Alone, siglip)?.load(siglip, WeightDtype::F32)
}

impl Tower {
    /// The tokenizer of the text encoder, from the checkpoint or, where the encoder is one of the
    /// Hugging Face Hub, from there.
    pub fn text_tokenizer(&self) -> Result<SiglipTokenizer> {
        config::siglip_tokenizer(&self.files, &self.config, &self.siglip)
    }
}
