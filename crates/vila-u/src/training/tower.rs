//! The two stages of the vision tower (paper section 3.1).
//!
//! *Align*: image and text encoder learn a common space with the sigmoid contrastive loss. It stands
//! for starting from weights that are already aligned.
//!
//! *Tower*: the text encoder stays as it is, and the quantized features learn to match its texts
//! and to be drawn again: `w_contra L_contra + w_recon (w_pixel L_pixel + w_commit L_commit)`. The codebooks
//! follow the features as running means.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::mixture::held_out;
use super::prefetch::Make;
use super::ranks::Ranks;
use super::recipe::{self, PixelLoss, Recipe};
use super::run::{Losses, Objective};
use super::sheet::save_sheet;
use crate::data::nano::{Scene, Split};
use crate::data::seed::mix;
use crate::data::{Pictures, Record};
use crate::media::preprocess::{Mode, normalize, pixels};
use crate::text::SiglipTokenizer;
use crate::tower::siglip::{TextModel, normalise};
use crate::tower::{Restart, RqVaeSiglip, sigmoid_loss};
use crate::{Error, Result};

/// Held-out pictures an evaluation looks at, and how many of them at once.
const EVALUATED: usize = 128;
const AT_ONCE: usize = 32;
/// Pictures on a sample sheet.
const SHOWN: usize = 16;

/// A picture and its caption, on the host.
#[derive(Clone)]
pub struct Captioned {
    /// `[3, size, size]` in -1..1
    pub pixels: Vec<f32>,
    /// `[tokens]`
    pub ids: Vec<i64>,
}

/// Makes captioned pictures of scenes and records.
#[derive(Clone)]
pub struct Captions {
    pub tokenizer: Arc<SiglipTokenizer>,
    /// Share of the nano world's pictures that are of its gallery.
    gallery: f64,
    seed: u64,
    pub size: usize,
}

impl Captions {
    pub fn new(recipe: &Recipe, tokenizer: Arc<SiglipTokenizer>, size: usize) -> Self {
        Self {
            tokenizer,
            gallery: recipe.data.gallery,
            seed: recipe.seed,
            size,
        }
    }

    /// Scene `index` of a split.
    fn draw(&self, split: Split, seed: u64, index: u64) -> Captioned {
        // Every so many scenes one is of the gallery: exactly the share, in any stretch.
        let gallery = |index: u64| (index as f64 * self.gallery) as u64;
        let scene = if gallery(index + 1) > gallery(index) {
            Scene::sample_gallery(split, seed, index)
        } else {
            Scene::sample(split, seed, index)
        };
        Captioned {
            pixels: normalize(&scene.render(self.size as u32)),
            ids: self.tokenizer.encode(&scene.caption()),
        }
    }
}

impl Make for Captions {
    type Sample = Captioned;

    fn scene(&self, n: u64) -> Result<Captioned> {
        Ok(self.draw(Split::Train, self.seed, n))
    }

    /// Its first picture, cropped to a square, and what stands beside it.
    fn record(&self, _n: u64, record: Record) -> Result<Captioned> {
        let caption = record.caption();
        let caption = caption.ok_or_else(|| Error::usage("no text stands beside its picture"))?;
        let (Pictures::Images(images) | Pictures::Frames(images)) = &record.pictures else {
            return Err(Error::usage("a video is no picture with a caption"));
        };
        let image = images.first();
        let image = image
            .ok_or_else(|| Error::usage("has no picture"))?
            .read()?;
        Ok(Captioned {
            pixels: pixels(&image, self.size as u32, Mode::Generation),
            ids: self.tokenizer.encode(caption),
        })
    }
}

/// A batch: pixels `[n, 3, size, size]`, ids `[n, tokens]`.
fn tensors(batch: &[Captioned], size: usize, device: &Device) -> (Tensor<4>, Tensor<2, Int>) {
    let pixels: Vec<f32> = batch
        .iter()
        .flat_map(|made| &made.pixels)
        .copied()
        .collect();
    let ids: Vec<i64> = batch.iter().flat_map(|made| &made.ids).copied().collect();
    let (count, tokens) = (batch.len(), ids.len() / batch.len());
    let pixels = TensorData::new(pixels, [count, 3, size, size]);
    let ids = TensorData::new(ids, [count, tokens]);
    (
        Tensor::from_data(pixels, device),
        Tensor::from_data(ids, device),
    )
}

/// Which of the two stages.
enum Stage {
    Align,
    Tower {
        losses: recipe::Tower,
        /// The frozen text encoder, off the tape.
        texts: Box<TextModel>,
    },
}

/// The objective of both stages.
pub struct TowerObjective {
    stage: Stage,
    captions: Captions,
    seed: u64,
    /// Positions of a picture.
    positions: usize,
    device: Device,
    held_out: Vec<Captioned>,
    ranks: Arc<Ranks>,
}

impl TowerObjective {
    pub fn new(
        recipe: &Recipe,
        objective: &recipe::Objective,
        captions: Captions,
        model: &RqVaeSiglip,
        device: &Device,
        ranks: Arc<Ranks>,
    ) -> Result<Self> {
        let stage = match objective {
            recipe::Objective::Align(_) => Stage::Align,
            recipe::Objective::Tower(losses) => Stage::Tower {
                losses: losses.clone(),
                texts: Box::new(model.siglip_model.text_model.clone().valid()),
            },
            _ => return Err(Error::usage("recipe: not a stage of the vision tower")),
        };
        let [rows, columns, _] = model.quantizer.code_shape();
        // The same pictures every time; of the nano world, part of them is of the gallery's unseen emoji.
        let held_out = held_out(&captions, &recipe.data, EVALUATED)?.unwrap_or_else(|| {
            let scene = |index| captions.draw(Split::HeldOut, 0, index);
            (0..EVALUATED as u64).map(scene).collect()
        });
        Ok(Self {
            stage,
            captions,
            seed: recipe.seed,
            positions: rows * columns,
            device: device.clone(),
            held_out,
            ranks,
        })
    }

    fn align(&self, model: &RqVaeSiglip, pixels: Tensor<4>, ids: Tensor<2, Int>) -> Losses {
        // Pictures and texts are told apart from those of all ranks.
        let images = self.ranks.learned_rows(model.image_embeds(pixels, false));
        let texts = self.ranks.learned_rows(model.text_embeds(ids));
        let contrastive = sigmoid_loss(model.siglip_model.logits_per_image(images, texts));
        Losses {
            total: contrastive.clone(),
            parts: vec![("contrastive", contrastive)],
        }
    }
}

/// What the codebooks learn from besides a batch: chance, and the batches of the other ranks.
struct Codebooks<'a> {
    chance: ChaCha8Rng,
    ranks: &'a Ranks,
}

impl Restart for Codebooks<'_> {
    fn choose(&mut self, length: usize, count: usize) -> Vec<usize> {
        self.chance.choose(length, count)
    }

    fn noise(&mut self, count: usize) -> Vec<f32> {
        self.chance.noise(count)
    }

    fn followed(
        &mut self,
        vectors: Tensor<2>,
        codes: Tensor<1, Int>,
    ) -> (Tensor<2>, Tensor<1, Int>) {
        (self.ranks.rows(vectors), self.ranks.codes(codes))
    }
}

/// The stage in which the tower learns to draw and match its codes.
fn tower(
    model: &mut RqVaeSiglip,
    pixels: Tensor<4>,
    texts: Tensor<2>,
    weights: &recipe::Tower,
    codebooks: &mut Codebooks,
) -> Losses {
    let features = model.features(pixels.clone());
    let quantized = model.quantizer.forward_train(features, codebooks);
    let images = model.feature_embeds(quantized.z_q.clone());
    let images = codebooks.ranks.learned_rows(images);
    let texts = codebooks.ranks.rows(texts);
    let contrastive = sigmoid_loss(model.siglip_model.logits_per_image(images, texts));
    let difference = model.decode(quantized.z_q) - pixels;
    let pixel = match weights.pixel {
        PixelLoss::L1 => difference.abs().mean(),
        PixelLoss::L2 => difference.square().mean(),
    };
    let commitment = quantized.commitment_loss;
    let reconstruction =
        pixel.clone() * weights.pixel_weight + commitment.clone() * weights.commitment;
    let total = contrastive.clone() * weights.contrastive + reconstruction * weights.reconstruction;
    Losses {
        total,
        parts: vec![
            ("contrastive", contrastive),
            ("pixel", pixel),
            ("commitment", commitment),
        ],
    }
}

impl Objective<RqVaeSiglip> for TowerObjective {
    type Make = Captions;

    fn make(&self) -> &Captions {
        &self.captions
    }

    fn tokens(&self, sample: &Captioned) -> usize {
        self.positions + sample.ids.len()
    }

    fn independent(&self) -> bool {
        // Quantizing moves the codebooks, and ranks exchange the rows of one batch after the other.
        matches!(self.stage, Stage::Align) && self.ranks.count() == 1
    }

    fn trains(&self, path: &str) -> bool {
        match self.stage {
            Stage::Align => path.starts_with("siglip_model."),
            Stage::Tower { .. } => {
                let fixed = ["siglip_model.text_model.", "quantizer."];
                !fixed.iter().any(|part| path.starts_with(part))
            }
        }
    }

    fn losses(&self, model: &mut RqVaeSiglip, batch: Vec<Captioned>, step: u64) -> Result<Losses> {
        let (pixels, ids) = tensors(&batch, self.captions.size, &self.device);
        Ok(match &self.stage {
            Stage::Align => self.align(model, pixels, ids),
            Stage::Tower { losses, texts } => {
                let texts = Tensor::from_inner(normalise(texts.pooled(ids.inner())));
                // The same on all ranks, whose codebooks are one.
                let chance = ChaCha8Rng::seed_from_u64(mix(self.seed, step));
                let ranks = &self.ranks;
                tower(
                    model,
                    pixels,
                    texts,
                    losses,
                    &mut Codebooks { chance, ranks },
                )
            }
        })
    }

    /// `matching`: how often a picture's own caption fits it best, among those of 32 pictures.
    /// `psnr` in dB; `codes_used`: share of the codebook's rows in use, over all depths.
    fn evaluate(&self, model: &RqVaeSiglip) -> Result<Vec<(&'static str, f64)>> {
        let model = model.clone().valid();
        let quantizes = matches!(self.stage, Stage::Tower { .. });
        let (mut matched, mut psnr) = (0, 0.0);
        let mut used = vec![false; model.quantizer.codes()];
        if self.held_out.is_empty() {
            return Ok(Vec::new());
        }
        let device = self.device.clone().inner();
        for batch in self.held_out.chunks(AT_ONCE) {
            let (pixels, ids) = tensors(batch, self.captions.size, &device);
            let mut features = model.features(pixels.clone());
            if quantizes {
                let quantized = model.quantize(features);
                for code in quantized.codes.into_data().iter::<i64>() {
                    used[code as usize] = true;
                }
                let drawn = model.decode(quantized.z_q.clone()).clamp(-1.0, 1.0);
                let error: Tensor<2> = (drawn - pixels).square().flatten::<2>(1, 3).mean_dim(1);
                // The values span 2, so the peak signal is 2.
                psnr += error
                    .into_data()
                    .iter::<f32>()
                    .map(|error| 10.0 * (4.0 / f64::from(error)).log10())
                    .sum::<f64>();
                features = quantized.z_q;
            }
            let images = model.feature_embeds(features);
            let logits = images.matmul(model.text_embeds(ids).transpose());
            let best = logits.argmax(1).into_data();
            matched += best
                .iter::<i64>()
                .zip(0..)
                .filter(|(best, own)| best == own)
                .count();
        }
        let count = self.held_out.len() as f64;
        let mut metrics = vec![("matching", matched as f64 / count)];
        if quantizes {
            let share = used.iter().filter(|used| **used).count() as f64 / used.len() as f64;
            metrics.extend([("psnr", psnr / count), ("codes_used", share)]);
        }
        Ok(metrics)
    }

    /// How well it draws, and before that is learned, how well it matches.
    fn score(&self, metrics: &BTreeMap<String, f64>) -> Option<f64> {
        let psnr = metrics.get("eval/psnr");
        psnr.or_else(|| metrics.get("eval/matching")).copied()
    }

    /// Held-out pictures, each with its reconstruction below.
    fn sample(&self, model: &RqVaeSiglip, path: &Path) -> Result<()> {
        if matches!(self.stage, Stage::Align) || self.held_out.is_empty() {
            return Ok(());
        }
        let model = model.clone().valid();
        let shown = &self.held_out[..SHOWN.min(self.held_out.len())];
        let (pixels, _) = tensors(shown, self.captions.size, &self.device.clone().inner());
        let drawn = model.decode(model.encode(pixels.clone()).z_q);
        save_sheet(path, pixels, drawn)
    }
}
