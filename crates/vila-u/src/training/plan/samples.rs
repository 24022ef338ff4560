//! How long the samples of a stage are.

use std::sync::Arc;

use super::activations::BatchShape;
use crate::Result;
use crate::model::VilaUConfig;
use crate::sequence::{Sample, SequenceLayout};
use crate::training::data::dataloader::first_samples;
use crate::training::data::dataloader_state::trained;
use crate::training::data::samples::SampleMaker;
use crate::training::model::initial;
use crate::training::recipe::{Objective, Recipe};

/// Samples that are looked at for their lengths.
const MEASURED: usize = 64;

/// The first samples of a stage; none where they are not at hand.
pub(super) fn first(recipe: &Recipe, objective: &Objective) -> Vec<Sample> {
    let look = || -> Result<Vec<Sample>> {
        let (recipe, _folder) = initial::in_temporary_folder(recipe)?;
        let (config, tokenizer) = initial::vila_u_input_at_hand(&recipe)?;
        let maker =
            SampleMaker::of_stage(&recipe, objective, Arc::new(tokenizer), Arc::new(config))?;
        let sources: Vec<_> = trained(&recipe.data).cloned().collect();
        let count = MEASURED.max(recipe.batch_size.min(512));
        let first = first_samples(
            &maker,
            &sources,
            recipe.seed,
            recipe.data.max_skipped,
            count,
        )?;
        let samples = first.samples.into_iter();
        Ok(samples.map(|one| one.sample.sample).collect())
    };
    look().unwrap_or_default()
}

/// What the language model reads.
pub(super) struct SampleLengths {
    /// Mean positions of a sample.
    pub tokens: f64,
    pub padding: Option<f64>,
    /// The most of everything over the batches.
    pub largest: BatchShape,
}

impl SampleLengths {
    pub(super) fn of(config: &VilaUConfig, samples: &[Sample], batch: usize) -> Self {
        let image = config.vision_tower.rqtransformer.positions().max(1);
        let longest = config.llm.max_length();
        if samples.is_empty() {
            let positions = (batch * longest) as f64;
            // Nothing takes more than pictures to generate.
            let largest = BatchShape {
                rows: batch as f64,
                length: longest as f64,
                text_targets: 0.0,
                visual_targets: positions,
                images: positions / image as f64,
            };
            return Self {
                tokens: longest as f64,
                padding: None,
                largest,
            };
        }
        let mut largest = BatchShape::default();
        let (mut read, mut padded) = (0.0, 0.0);
        for batch_of in samples.chunks(batch) {
            let layout = SequenceLayout::packed(batch_of, image, longest, None);
            let positions = (layout.rows * layout.length) as f64;
            read += positions * (1.0 - layout.padding());
            padded += positions;
            // A last batch that is not full stands for a full one.
            let scale = batch as f64 / batch_of.len() as f64;
            let shape = BatchShape {
                rows: layout.rows as f64 * scale,
                length: layout.length as f64,
                text_targets: layout.text_targets.len() as f64 * scale,
                visual_targets: layout.visual_targets.len() as f64 * scale,
                images: layout.visual_tokens as f64 / image as f64 * scale,
            };
            if batch_of.len() == batch || samples.len() < batch {
                largest = largest.max(shape);
            }
        }
        Self {
            tokens: read / samples.len() as f64,
            padding: Some(1.0 - read / padded),
            largest,
        }
    }
}

impl BatchShape {
    fn max(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            length: self.length.max(other.length),
            text_targets: self.text_targets.max(other.text_targets),
            visual_targets: self.visual_targets.max(other.visual_targets),
            images: self.images.max(other.images),
        }
    }
}
