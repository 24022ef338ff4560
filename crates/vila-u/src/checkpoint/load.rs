//! A checkpoint's files become a model.

use burn::tensor::Device;

use super::{
    config::{self, GenerationConfig},
    files::Files,
    format::Format,
    keys::Part,
    weights::Opened,
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

/// Loads everything, weights in `format`, except that weights stored in blocks stay in them. On the CPU
/// that is how the weights of linear layers and embedding tables are held; all others are f32 there, and
/// so is everything computed.
///
/// All parts are checked before the first weight is read; peak memory is the model and one tensor. The
/// tower's encoders are read when they are first used.
///
/// # Errors
/// One error that names the file and the field or tensor at fault, or a device that does not take the format.
pub fn load(files: &Files, device: &Device, format: Format) -> Result<Checkpoint> {
    format.check(device)?;
    let config = config::read(files)?;
    let llm_files = files.join("llm");
    let tokenizer = config::tokenizer(&llm_files)?;
    config::check_vocabulary(&llm_files, &config.llm, &tokenizer)?;
    let generation = GenerationConfig::read(&llm_files)?;

    let mut model = config.init(device);
    let projector = Part::projector(&config.mm_projector);
    let llm = Opened::check(files, Part::Llm, &model.llm)?;
    let mm_projector = Opened::check(files, projector, &model.mm_projector)?;
    let vision_tower = Opened::check(files, Part::VisionTower, &model.vision_tower)?;
    llm.load(&mut model.llm, format)?;
    mm_projector.load(&mut model.mm_projector, format)?;
    vision_tower.load(&mut model.vision_tower, format)?;

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
pub fn load_tower(files: &Files, device: &Device, format: Format) -> Result<Tower> {
    format.check(device)?;
    let (config, siglip) = config::read_tower(files)?;
    let mut model = config.init(&siglip, device);
    Opened::check(files, Part::RqVaeSiglip, &model)?.load(&mut model, format)?;
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
    Opened::check_folder(files, Part::Alone, siglip)?.load(siglip, Format::F32)
}

impl Tower {
    /// The tokenizer of the text encoder, from the checkpoint or, where the encoder is one of the
    /// Hugging Face Hub, from there.
    pub fn text_tokenizer(&self) -> Result<SiglipTokenizer> {
        config::siglip_tokenizer(&self.files, &self.config, &self.siglip)
    }
}
