//! How the model of a run is written and read back.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;

use super::tower_with_discriminator::{DISCRIMINATOR, TowerWithDiscriminator};
use crate::checkpoint::weights::load_into;
use crate::checkpoint::{self, Component, Files, adapter};
use crate::language::{Llama, lora::LoraConfig};
use crate::model::{VilaU, VilaUConfig};
use crate::tower::{RqVaeSiglipConfig, SiglipConfig};
use crate::training::losses::DiscriminatorConfig;
use crate::{Error, Result, atomic};

/// The folder of adapters, beside that of the model.
const ADAPTER: &str = "adapter";

/// Saves and loads one kind of model, of sizes that it knows.
pub(crate) trait Checkpointer {
    type Model: Module;

    /// Writes the released layout, in f32, to the new folder `dir`.
    fn save(&self, model: &Self::Model, dir: &Path) -> Result<()>;

    /// Reads back what [`Checkpointer::save`] wrote, bit by bit.
    fn load(&self, dir: &Path, device: &Device) -> Result<Self::Model>;

    /// Writes what is trained with the model without being part of it into the folder of a checkpoint.
    fn save_beside(&self, _model: &Self::Model, _checkpoint: &Path) -> Result<()> {
        Ok(())
    }

    /// Reads back what [`Checkpointer::save_beside`] wrote.
    fn load_beside(
        &self,
        _model: &mut Self::Model,
        _checkpoint: &Path,
        _device: &Device,
    ) -> Result<()> {
        Ok(())
    }

    /// Writes the finished model to `dir`, in place of what is there.
    fn finish(&self, model: &Self::Model, dir: &Path) -> Result<()> {
        atomic::folder(dir, |new| self.save(model, new))
    }
}

/// A vision tower without its depth transformer.
pub(crate) struct TowerCheckpointer {
    pub config: RqVaeSiglipConfig,
    pub siglip: SiglipConfig,
    /// Has the tokenizers.
    pub files: Files,
    /// Sizes of the discriminator, if there is one.
    pub discriminator: Option<DiscriminatorConfig>,
}

impl Checkpointer for TowerCheckpointer {
    type Model = TowerWithDiscriminator;

    fn save(&self, model: &TowerWithDiscriminator, dir: &Path) -> Result<()> {
        checkpoint::save_tower(
            dir,
            &self.config,
            &self.siglip,
            &model.tower,
            &self.files,
            checkpoint::WeightDtype::F32,
        )
    }

    fn load(&self, dir: &Path, device: &Device) -> Result<TowerWithDiscriminator> {
        let mut tower = self.config.init(&self.siglip, device);
        load_part(&mut tower, dir, Component::RqVaeSiglip)?;
        Ok(TowerWithDiscriminator {
            tower,
            discriminator: None,
        })
    }

    fn save_beside(&self, model: &TowerWithDiscriminator, checkpoint: &Path) -> Result<()> {
        match &model.discriminator {
            Some(discriminator) => {
                checkpoint::save_alone(discriminator, &checkpoint.join(DISCRIMINATOR))
            }
            None => Ok(()),
        }
    }

    fn load_beside(
        &self,
        model: &mut TowerWithDiscriminator,
        checkpoint: &Path,
        device: &Device,
    ) -> Result<()> {
        let path = checkpoint.join(DISCRIMINATOR);
        began_with("objective.adversarial", &path, self.discriminator.is_some())?;
        let Some(config) = self.discriminator else {
            return Ok(());
        };
        let mut discriminator = config.init(device);
        load_into(&mut discriminator, &path, Component::Alone)?;
        model.discriminator = Some(discriminator);
        Ok(())
    }
}

/// A whole VILA-U. Adapters of its language model lie beside it, in `adapter/`.
pub(crate) struct VilaUCheckpointer {
    pub config: VilaUConfig,
    /// Has the tokenizers.
    pub files: Files,
    pub adapters: Option<Adapters>,
}

/// Adapters, and the name of the model that they adapt.
pub(crate) struct Adapters {
    pub config: LoraConfig,
    pub base: String,
}

impl VilaUCheckpointer {
    /// With another language model than the model's own.
    fn save_with(&self, model: &VilaU, llm: Llama, dir: &Path) -> Result<()> {
        let mut whole = model.clone();
        whole.llm = llm;
        let weights = checkpoint::ModelWeights::of(&self.config, &whole);
        let format = checkpoint::WeightDtype::F32;
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

impl Checkpointer for VilaUCheckpointer {
    type Model = VilaU;

    fn save(&self, model: &VilaU, dir: &Path) -> Result<()> {
        self.save_adapters(model, dir)?;
        self.save_with(model, model.llm.base(), dir)
    }

    fn load(&self, dir: &Path, device: &Device) -> Result<VilaU> {
        let adapters = dir.with_file_name(ADAPTER);
        began_with("lora", &adapters, self.adapters.is_some())?;
        let mut model = self.config.init(device);
        let projector = Component::projector(&self.config.mm_projector);
        load_part(&mut model.llm, dir, Component::Llm)?;
        load_part(&mut model.mm_projector, dir, projector)?;
        load_part(&mut model.vision_tower, dir, Component::VisionTower)?;
        if let Some(Adapters { config, .. }) = &self.adapters {
            model.llm = model.llm.adapted(config, device);
            adapter::load(&adapters, &mut model.llm, config)?;
        }
        Ok(model)
    }

    /// Merges the adapters.
    fn finish(&self, model: &VilaU, dir: &Path) -> Result<()> {
        self.save_adapters(model, dir)?;
        atomic::folder(dir, |new| self.save_with(model, model.llm.merged(), new))
    }
}

/// Errors when a run is not gone on `with` what a key of the recipe asks for, and a checkpoint has it at `path`,
/// or the other way round.
pub(crate) fn began_with(key: &str, path: &Path, with: bool) -> Result<()> {
    match (path.exists(), with) {
        (true, false) => Err(Error::usage(format!(
            "recipe: the run began with `{key}`: resume with it, as recipe.toml in the run folder has it"
        ))),
        (false, true) => Err(Error::usage(format!(
            "recipe: the run began without `{key}`: resume without it, or start a new run from its model with \
             --set init=FOLDER"
        ))),
        _ => Ok(()),
    }
}

fn load_part<M: Module>(module: &mut M, dir: &Path, component: Component) -> Result<()> {
    load_into(module, &dir.join(component.folder()), component)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use burn::nn::{Linear, LinearConfig};

    use super::*;

    /// A full disk, after `.0` bytes.
    struct Full(usize);

    impl Checkpointer for Full {
        type Model = Linear;

        fn save(&self, _model: &Linear, dir: &Path) -> Result<()> {
            fs::write(dir.join("weights"), vec![0; self.0]).unwrap();
            match self.0 {
                0..4 => Err(Error::failed("the disk is full")),
                _ => Ok(()),
            }
        }

        fn load(&self, _dir: &Path, _device: &Device) -> Result<Linear> {
            Err(Error::failed("is not read"))
        }
    }

    #[test]
    fn a_finished_model_stays_until_there_is_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("model");
        let model = LinearConfig::new(1, 1).init(&Device::flex());
        Full(8).finish(&model, &place).unwrap();
        assert!(Full(3).finish(&model, &place).is_err());
        assert_eq!(fs::read(place.join("weights")).unwrap().len(), 8);
        Full(9).finish(&model, &place).unwrap();
        assert_eq!(fs::read(place.join("weights")).unwrap().len(), 9);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_run_goes_on_with_the_keys_that_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let (there, missing) = (folder.path(), folder.path().join("adapter"));
        for (place, with) in [(there, true), (&missing, false)] {
            began_with("lora", place, with).unwrap();
        }
        for (place, with, words) in [
            (there, false, "the run began with `lora`"),
            (&missing, true, "the run began without `lora`"),
        ] {
            let error = began_with("lora", place, with).unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
