//! Samples as the model sees them, before anything is trained: tokens, where loss is, and pictures.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde::Serialize;

use super::captioned_images::{CaptionedImage, CaptionedImageMaker};
use super::dataloader::{FirstSamples, LoadedSample, first_samples};
use super::dataloader_state::trained;
use super::samples::{Example, SampleMaker};
use crate::Result;
use crate::data::Skipped;
use crate::media::to_rgb;
use crate::sequence::Content;
use crate::training::model::{initial, initial_tower};
use crate::training::recipe::{Objective, Recipe};

/// What a visual token looks like that is hidden from the model.
const HIDDEN: Rgb<u8> = Rgb([127; 3]);

/// The first samples of a recipe.
#[derive(Debug)]
pub struct Inspection {
    pub samples: Vec<Inspected>,
    /// Records before and between them that cannot be used, and pictures of pages.
    pub skipped: Vec<Skipped>,
}

/// One sample of a recipe.
#[derive(Debug, Serialize)]
pub struct Inspected {
    /// The path of its source, or what the source is called that has none.
    pub source: String,
    pub key: String,
    pub pieces: Vec<TokenSpan>,
    /// Positions that the model reads.
    pub positions: usize,
    /// Positions beyond the longest that it reads.
    pub cut: usize,
    /// What the vision tower sees, in reading order; grey where the language model does not.
    #[serde(skip)]
    pub pictures: Vec<RgbImage>,
}

/// A text token, or the visual tokens of one picture.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct TokenSpan {
    /// As the vocabulary spells it; `<image>` for a picture.
    pub text: String,
    /// None for a picture.
    pub id: Option<i64>,
    /// Positions it takes.
    pub positions: usize,
    /// Whether it is predicted.
    pub loss: bool,
}

/// The first `n` samples of the recipe's first stage; fewer where the data has fewer.
///
/// Errors are those of training, but for the weights, which are not read.
pub fn inspect(recipe: &Recipe, n: usize) -> Result<Inspection> {
    let (recipe, _folder) = initial::in_temporary_folder(recipe)?;
    let recipe = &recipe;
    let sources: Vec<_> = trained(&recipe.data).cloned().collect();
    let most = recipe.data.max_skipped;
    let stage = recipe.stages.first().map(|stage| &stage.objective);
    let Some(objective @ (Objective::Pretrain(_) | Objective::Sft(_))) = stage else {
        let (tokenizer, size) = initial_tower::tower_input(recipe)?;
        let maker = CaptionedImageMaker::new(recipe, tokenizer, size);
        let first = first_samples(&maker, &sources, recipe.seed, most, n)?;
        return Ok(inspection(first, |loaded| maker.inspected(loaded)));
    };
    let (config, tokenizer) = initial::vila_u_input(recipe)?;
    let maker = SampleMaker::of_stage(recipe, objective, Arc::new(tokenizer), Arc::new(config))?;
    let first = first_samples(&maker, &sources, recipe.seed, most, n)?;
    Ok(inspection(first, |loaded| maker.inspected(loaded)))
}

fn inspection<S>(
    first: FirstSamples<S>,
    look: impl Fn(LoadedSample<S>) -> Inspected,
) -> Inspection {
    Inspection {
        samples: first.samples.into_iter().map(look).collect(),
        skipped: first.skipped,
    }
}

impl CaptionedImageMaker {
    fn inspected(&self, loaded: LoadedSample<CaptionedImage>) -> Inspected {
        let size = self.size as u32;
        let piece = |id: &i64| TokenSpan {
            text: self.tokenizer.id_to_token(*id).to_string(),
            id: Some(*id),
            positions: 1,
            loss: false,
        };
        let ids = &loaded.sample.ids;
        Inspected {
            source: loaded.origin.source,
            key: loaded.origin.key,
            pieces: ids.iter().map(piece).collect(),
            positions: ids.len(),
            cut: 0,
            pictures: vec![to_rgb(&loaded.sample.pixels, size, size)],
        }
    }
}

impl SampleMaker {
    fn inspected(&self, loaded: LoadedSample<Example>) -> Inspected {
        let example = &loaded.sample;
        // Where loss is follows from the layout, as in training.
        let layout = self.layout(std::slice::from_ref(&example.sample));
        let mut loss = vec![false; layout.length];
        let text = layout.text_targets.iter().map(|target| target.from);
        let visual = layout.visual_targets.iter().map(|target| target.from);
        text.chain(visual).for_each(|from| loss[from + 1] = true);

        let mut pieces = Vec::new();
        let mut at = 0;
        let mut push = |text: &str, id, positions| {
            let own = loss.get(at..).unwrap_or_default();
            let own = &own[..own.len().min(positions)];
            at += positions;
            if !own.is_empty() {
                pieces.push(TokenSpan {
                    text: text.into(),
                    id,
                    positions: own.len(),
                    loss: own.contains(&true),
                });
            }
        };
        for piece in &example.sample.spans {
            match &piece.content {
                Content::Text(ids) => {
                    for id in ids {
                        push(self.tokenizer.id_to_token(*id), Some(*id), 1);
                    }
                }
                Content::Visual(images) => {
                    for _ in 0..*images {
                        push("<image>", None, self.image_tokens());
                    }
                }
            }
        }
        Inspected {
            source: loaded.origin.source,
            key: loaded.origin.key,
            pieces,
            positions: layout.length,
            cut: example.sample.length(self.image_tokens()) - layout.length,
            pictures: self.pictures(example),
        }
    }

    fn pictures(&self, example: &Example) -> Vec<RgbImage> {
        let size = self.config.siglip.vision_config.image_size;
        let [rows, columns, _] = self.config.vision_tower.rqtransformer.block_size;
        let squares = example.pixels.chunks_exact(3 * size * size);
        let visible = example.visible.chunks_exact(rows * columns);
        let picture = |(pixels, visible): (&[f32], &[f32])| {
            let mut picture = to_rgb(pixels, size as u32, size as u32);
            for (x, y, pixel) in picture.enumerate_pixels_mut() {
                let (row, column) = (y as usize * rows / size, x as usize * columns / size);
                if visible[row * columns + column] == 0.0 {
                    *pixel = HIDDEN;
                }
            }
            picture
        };
        squares.zip(visible).map(picture).collect()
    }
}
