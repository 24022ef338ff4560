//! Samples as the model sees them, before anything is trained: tokens, where loss is, and pictures.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use serde::Serialize;

use super::mixture::{Example, Samples};
use super::prefetch::{Taken, samples};
use super::reading::trained;
use super::recipe::{Objective, Recipe};
use super::start;
use super::tower::Captions;
use crate::Result;
use crate::media::to_rgb;
use crate::sequence::Content;

/// What a visual token looks like that is hidden from the model.
const HIDDEN: Rgb<u8> = Rgb([127; 3]);

/// One sample of a recipe.
#[derive(Debug, Serialize)]
pub struct Inspected {
    /// The path of its source; `nano` for the nano world.
    pub source: String,
    pub key: String,
    pub pieces: Vec<Piece>,
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
pub struct Piece {
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
pub fn inspect(recipe: &Recipe, n: usize) -> Result<Vec<Inspected>> {
    let (recipe, _aside) = start::aside(recipe)?;
    let recipe = &recipe;
    let sources: Vec<_> = trained(&recipe.data).cloned().collect();
    let most = recipe.data.max_bad;
    let stage = recipe.stages.first().map(|stage| &stage.objective);
    let Some(objective @ (Objective::Pretrain(_) | Objective::Sft(_))) = stage else {
        let (tokenizer, size) = start::tower_input(recipe)?;
        let captions = Captions::new(recipe, Arc::new(tokenizer), size);
        let taken = samples(&captions, &sources, most, n)?;
        let inspected = |taken: Taken<_>| captions.inspected(taken);
        return Ok(taken.into_iter().map(inspected).collect());
    };
    let (config, tokenizer) = start::vila_u_input(recipe)?;
    let made = Samples::of_stage(recipe, objective, Arc::new(tokenizer), Arc::new(config))?;
    let taken = samples(&made, &sources, most, n)?;
    Ok(taken
        .into_iter()
        .map(|taken| made.inspected(taken))
        .collect())
}

impl Captions {
    fn inspected(&self, taken: Taken<super::tower::Captioned>) -> Inspected {
        let size = self.size as u32;
        let piece = |id: &i64| Piece {
            text: self.tokenizer.piece(*id).to_string(),
            id: Some(*id),
            positions: 1,
            loss: false,
        };
        let ids = &taken.sample.ids;
        Inspected {
            source: taken.origin.source,
            key: taken.origin.key,
            pieces: ids.iter().map(piece).collect(),
            positions: ids.len(),
            cut: 0,
            pictures: vec![to_rgb(&taken.sample.pixels, size, size)],
        }
    }
}

impl Samples {
    fn inspected(&self, taken: Taken<Example>) -> Inspected {
        let example = &taken.sample;
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
                pieces.push(Piece {
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
                        push(self.tokenizer.piece(*id), Some(*id), 1);
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
            source: taken.origin.source,
            key: taken.origin.key,
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
        let shown = example.shown.chunks_exact(rows * columns);
        let picture = |(pixels, shown): (&[f32], &[f32])| {
            let mut picture = to_rgb(pixels, size as u32, size as u32);
            for (x, y, pixel) in picture.enumerate_pixels_mut() {
                let (row, column) = (y as usize * rows / size, x as usize * columns / size);
                if shown[row * columns + column] == 0.0 {
                    *pixel = HIDDEN;
                }
            }
            picture
        };
        squares.zip(shown).map(picture).collect()
    }
}
