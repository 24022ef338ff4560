//! How the model of a run is made, written and read back.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;

use super::losses::DiscriminatorConfig;
use super::trained_tower::{DISCRIMINATOR, TrainedTower};
use crate::Result;
use crate::checkpoint::weights::load_into;
use crate::checkpoint::{self, Files, Part, adapter};
use crate::language::{Llama, lora::LoraConfig};
use crate::model::{VilaU, VilaUConfig};
use crate::tower::{RqVaeSiglipConfig, SiglipConfig};

/// The folder of adapters, beside that of the model.
const ADAPTER: &str = "adapter";

/// A kind of model with its sizes.
pub trait Format {
    type Model: Module;

    /// Writes the released layout, in f32, to the new folder `dir`.
    fn save(&self, model: &Self::Model, dir: &Path) -> Result<()>;

    /// Reads back what [`Format::save`] wrote, bit by bit.
    fn load(&self, dir: &Path, device: &Device) -> Result<Self::Model>;

    /// Writes what is trained with the model without being part of it into the folder of a checkpoint.
    fn save_beside(&self, _model: &Self::Model, _checkpoint: &Path) -> Result<()> {
        Ok(())
    }

    /// Reads back what [`Format::save_beside`] wrote.
    fn load_beside(
        &self,
        _model: &mut Self::Model,
        _checkpoint: &Path,
        _device: &Device,
    ) -> Result<()> {
        Ok(())
    }

    /// Writes the finished model to the new folder `dir`.
    fn finish(&self, model: &Self::Model, dir: &Path) -> Result<()> {
        self.save(model, dir)
    }
}

/// A vision tower without its depth transformer.
pub struct TowerFormat {
    pub config: RqVaeSiglipConfig,
    pub siglip: SiglipConfig,
    /// Has the tokenizers.
    pub files: Files,
    /// Sizes of the discriminator, if there is one.
    pub discriminator: Option<DiscriminatorConfig>,
}

impl Format for TowerFormat {
    type Model = TrainedTower;

    fn save(&self, model: &TrainedTower, dir: &Path) -> Result<()> {
        checkpoint::save_tower(
            dir,
            &self.config,
            &self.siglip,
            &model.tower,
            &self.files,
            checkpoint::Format::F32,
        )
    }

    fn load(&self, dir: &Path, device: &Device) -> Result<TrainedTower> {
        let mut tower = self.config.init(&self.siglip, device);
        load_part(&mut tower, dir, Part::RqVaeSiglip)?;
        Ok(TrainedTower {
            tower,
            discriminator: None,
        })
    }

    fn save_beside(&self, model: &TrainedTower, checkpoint: &Path) -> Result<()> {
        match &model.discriminator {
            Some(discriminator) => {
                checkpoint::save_alone(discriminator, &checkpoint.join(DISCRIMINATOR))
            }
            None => Ok(()),
        }
    }

    fn load_beside(
        &self,
        model: &mut TrainedTower,
        checkpoint: &Path,
        device: &Device,
    ) -> Result<()> {
        let Some(config) = self.discriminator else {
            return Ok(());
        };
        let mut discriminator = config.init(device);
        load_into(
            &mut discriminator,
            &checkpoint.join(DISCRIMINATOR),
            Part::Alone,
        )?;
        model.discriminator = Some(discriminator);
        Ok(())
    }
}

/// A whole VILA-U. Adapters of its language model lie beside it, in `adapter/`.
pub struct VilaUFormat {
    pub config: VilaUConfig,
    /// Has the tokenizers.
    pub files: Files,
    pub adapters: Option<Adapters>,
}

/// Adapters, and the name of the model that they adapt.
pub struct Adapters {
    pub config: LoraConfig,
    pub base: String,
}

impl VilaUFormat {
    /// With another language model than the model's own.
    fn save_with(&self, model: &VilaU, llm: Llama, dir: &Path) -> Result<()> {
        let mut whole = model.clone();
        whole.llm = llm;
        let weights = checkpoint::Weights::of(&self.config, &whole);
        let format = checkpoint::Format::F32;
        checkpoint::save(dir, &self.config, &weights, &self.files, format)
    }

    fn save_adapters(&self, model: &VilaU, dir: &Path) -> Result<()> {
        match &self.adapters {
            Some(Adapters { config, base }) => {
                adapter::save(&dir.with_file_name(ADAPTER), &model.llm, config, base)
            }
            None => Ok(()),
        }
    }
}

impl Format for VilaUFormat {
    type Model = VilaU;

    fn save(&self, model: &VilaU, dir: &Path) -> Result<()> {
        self.save_adapters(model, dir)?;
        self.save_with(model, model.llm.base(), dir)
    }

    fn load(&self, dir: &Path, device: &Device) -> Result<VilaU> {
        let mut model = self.config.init(device);
        let projector = Part::projector(&self.config.mm_projector);
        load_part(&mut model.llm, dir, Part::Llm)?;
        load_part(&mut model.mm_projector, dir, projector)?;
        load_part(&mut model.vision_tower, dir, Part::VisionTower)?;
        if let Some(Adapters { config, .. }) = &self.adapters {
            model.llm = model.llm.adapted(config, device);
            adapter::load(&dir.with_file_name(ADAPTER), &mut model.llm)?;
        }
        Ok(model)
    }

    /// Merges the adapters.
    fn finish(&self, model: &VilaU, dir: &Path) -> Result<()> {
        self.save_adapters(model, dir)?;
        self.save_with(model, model.llm.merged(), dir)
    }
}

fn load_part<M: Module>(module: &mut M, dir: &Path, part: Part) -> Result<()> {
    load_into(module, &dir.join(part.folder()), part)
}
