//! How the model of a run is made, written and read back.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;

use crate::Result;
use crate::checkpoint::weights::load_into;
use crate::checkpoint::{self, Files, Part};
use crate::model::{VilaU, VilaUConfig};
use crate::tower::{RqVaeSiglip, RqVaeSiglipConfig, SiglipConfig};

/// A kind of model with its sizes.
pub trait Format {
    type Model: Module;

    /// Writes the released layout, in f32, to the new folder `dir`.
    fn save(&self, model: &Self::Model, dir: &Path) -> Result<()>;

    /// Reads back what [`Format::save`] wrote, bit by bit.
    fn load(&self, dir: &Path, device: &Device) -> Result<Self::Model>;
}

/// A vision tower without its depth transformer.
pub struct TowerFormat {
    pub config: RqVaeSiglipConfig,
    pub siglip: SiglipConfig,
    /// Has the tokenizers.
    pub files: Files,
}

impl Format for TowerFormat {
    type Model = RqVaeSiglip;

    fn save(&self, model: &RqVaeSiglip, dir: &Path) -> Result<()> {
        checkpoint::save_tower(
            dir,
            &self.config,
            &self.siglip,
            model,
            &self.files,
            checkpoint::Format::F32,
        )
    }

    fn load(&self, dir: &Path, device: &Device) -> Result<RqVaeSiglip> {
        let mut model = self.config.init(&self.siglip, device);
        load_part(&mut model, dir, Part::RqVaeSiglip)?;
        Ok(model)
    }
}

/// A whole VILA-U.
pub struct VilaUFormat {
    pub config: VilaUConfig,
    /// Has the tokenizers.
    pub files: Files,
}

impl Format for VilaUFormat {
    type Model = VilaU;

    fn save(&self, model: &VilaU, dir: &Path) -> Result<()> {
        let weights = checkpoint::Weights::of(&self.config, model);
        let format = checkpoint::Format::F32;
        checkpoint::save(dir, &self.config, &weights, &self.files, format)
    }

    fn load(&self, dir: &Path, device: &Device) -> Result<VilaU> {
        let mut model = self.config.init(device);
        let projector = Part::projector(&self.config.mm_projector);
        load_part(&mut model.llm, dir, Part::Llm)?;
        load_part(&mut model.mm_projector, dir, projector)?;
        load_part(&mut model.vision_tower, dir, Part::VisionTower)?;
        Ok(model)
    }
}

fn load_part<M: Module>(module: &mut M, dir: &Path, part: Part) -> Result<()> {
    load_into(module, &dir.join(part.folder()), part)
}
