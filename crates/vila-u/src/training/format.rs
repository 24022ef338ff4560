//! How the model of a run is made, written and read back.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device};

use crate::checkpoint::{self, Files};
use crate::model::{VilaU, VilaUConfig};
use crate::tower::{RqVaeSiglip, RqVaeSiglipConfig, SiglipConfig};
use crate::{Error, Result};

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
            DType::F32,
        )
    }

    fn load(&self, dir: &Path, device: &Device) -> Result<RqVaeSiglip> {
        let tower = checkpoint::load_tower(&Files::folder(dir), device, DType::F32)?;
        same_sizes(
            dir,
            tower.config == self.config && tower.siglip == self.siglip,
        )?;
        Ok(tower.model)
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
        checkpoint::save(dir, &self.config, model, &self.files, DType::F32)
    }

    fn load(&self, dir: &Path, device: &Device) -> Result<VilaU> {
        let loaded = checkpoint::load(&Files::folder(dir), device, DType::F32)?;
        same_sizes(dir, loaded.config == self.config)?;
        Ok(loaded.model)
    }
}

fn same_sizes(dir: &Path, same: bool) -> Result<()> {
    match same {
        true => Ok(()),
        false => Err(Error::invalid(
            dir,
            "the model has other sizes than the recipe: resume with the recipe it was started with",
        )),
    }
}
