//! The two stages of the vision tower (paper section 3.1).
//!
//! *Align*: image and text encoder learn a common space with the sigmoid contrastive loss. It stands
//! for starting from weights that are already aligned.
//!
//! *Tower*: the text encoder stays as it is, and the quantized features learn to match its texts
//! and to be drawn again, in pixels, in looks (LPIPS) and to a discriminator that judges them. The codebooks follow
//! the features as running means.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::adamw::Gradients;
use super::losses::adversarial::{Pull, adaptive_weight, decoder_loss, discriminator_loss, silent};
use super::losses::{Lpips, contrastive};
use super::mixture::held_out;
use super::prefetch::Make;
use super::ranks::Ranks;
use super::recipe::{self, Contrastive, PixelLoss, Recipe};
use super::run::{Losses, Objective};
use super::sheet::save_sheet;
use super::trained_tower::{DISCRIMINATOR, TrainedTower};
use crate::data::nano::{Scene, Split, Video};
use crate::data::seed::mix;
use crate::data::{Pictures, Record};
use crate::media::preprocess::{ResizeMode, normalize, pixels};
use crate::sequence::templates::VIDEO_FRAMES;
use crate::text::SiglipTokenizer;
use crate::tower::siglip::{TextModel, normalise};
use crate::tower::{CodebookUpdate, RqVaeSiglip};
use crate::{Error, Result};

/// Held-out pictures an evaluation looks at, and how many of them at once.
const EVALUATED: usize = 128;
const AT_ONCE: usize = 32;
/// Pictures on a sample sheet.
const SHOWN: usize = 16;
/// The vision encoder's position embeddings.
const POSITIONS: &str = "siglip_model.vision_model.embeddings.position_embedding.";

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
    /// Shares of the nano world's pictures that are of its gallery, and that are frames of its videos.
    gallery: f64,
    frames: f64,
    seed: u64,
    pub size: usize,
}

impl Captions {
    pub fn new(recipe: &Recipe, tokenizer: Arc<SiglipTokenizer>, size: usize) -> Self {
        Self {
            tokenizer,
            gallery: recipe.data.gallery,
            frames: recipe.data.frames,
            seed: recipe.seed,
            size,
        }
    }

    /// Picture `index` of a split: a scene, art of the gallery, or a frame of a video.
    fn draw(&self, split: Split, seed: u64, index: u64) -> Captioned {
        // Every so many pictures one is none of a scene, and of these every so many one is of the
        // gallery: exactly the shares, in any stretch.
        let others = self.gallery + self.frames;
        let count = |share: f64, index: u64| (index as f64 * share) as u64;
        let nth = count(others, index);
        if count(others, index + 1) == nth {
            return self.captioned(&Scene::sample(split, seed, index));
        }
        let gallery = self.gallery / others;
        if count(gallery, nth + 1) > count(gallery, nth) {
            return self.captioned(&Scene::sample_gallery(split, seed, index));
        }
        let video = Video::sample(split, seed, index);
        let t = (mix(seed, index) % VIDEO_FRAMES as u64) as f64 / (VIDEO_FRAMES - 1) as f64;
        Captioned {
            pixels: normalize(&video.frame(t, self.size as u32)),
            ids: self.tokenizer.encode(&video.still().caption()),
        }
    }

    fn captioned(&self, scene: &Scene) -> Captioned {
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
            pixels: pixels(&image, self.size as u32, ResizeMode::Crop),
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
    Align(Contrastive),
    Tower(Box<TowerStage>),
}

/// Whether a stage of the tower trains the parameter at this path; `position_free`: position embeddings stay.
pub fn trains(objective: &recipe::Objective, position_free: bool, path: &str) -> bool {
    let of = |part: &str| path.starts_with(part);
    match objective {
        _ if position_free && of(POSITIONS) => false,
        recipe::Objective::Tower(losses) => match path {
            _ if of(DISCRIMINATOR) => losses.adversarial.is_some(),
            _ if of("siglip_model.text_model.") => losses.from_scratch,
            _ => !of("quantizer."),
        },
        _ => of("siglip_model."),
    }
}

/// The objective of both stages.
pub struct TowerObjective {
    objective: recipe::Objective,
    stage: Stage,
    captions: Captions,
    seed: u64,
    /// Positions of a picture.
    positions: usize,
    position_free: bool,
    device: Device,
    held_out: Vec<Captioned>,
    ranks: Arc<Ranks>,
}

impl TowerObjective {
    /// Of the stage number `index`, with the network that its perceptual loss needs.
    pub fn new(
        recipe: &Recipe,
        index: usize,
        lpips: Option<Lpips>,
        captions: Captions,
        tower: &RqVaeSiglip,
        device: &Device,
        ranks: Arc<Ranks>,
    ) -> Result<Self> {
        let stage = match &recipe.stages[index].objective {
            recipe::Objective::Align(align) => Stage::Align(align.contrastive_loss),
            recipe::Objective::Tower(losses) => {
                let first = match index {
                    0 => 0,
                    _ => recipe.stage_ends()[index - 1],
                };
                let texts = &tower.siglip_model.text_model;
                Stage::Tower(Box::new(TowerStage {
                    lpips,
                    texts: (!losses.from_scratch).then(|| texts.clone().valid()),
                    start: losses.adversarial.map(|game| first + game.start),
                    losses: losses.clone(),
                }))
            }
            _ => return Err(Error::usage("recipe: not a stage of the vision tower")),
        };
        let [rows, columns, _] = tower.quantizer.code_shape();
        // The same pictures every time; of the nano world, part of them is of the gallery's unseen emoji.
        // Only the leader looks at them.
        let count = if ranks.leads() { EVALUATED } else { 0 };
        let held_out = held_out(&captions, &recipe.data, count)?.unwrap_or_else(|| {
            let scene = |index| captions.draw(Split::Validation, 0, index);
            (0..count as u64).map(scene).collect()
        });
        Ok(Self {
            objective: recipe.stages[index].objective.clone(),
            stage,
            captions,
            seed: recipe.seed,
            positions: rows * columns,
            position_free: recipe.model.position_free,
            device: device.clone(),
            held_out,
            ranks,
        })
    }
}

/// What the codebooks learn from besides a batch: chance, and the batches of the other ranks.
struct Codebooks<'a> {
    chance: ChaCha8Rng,
    ranks: &'a Ranks,
}

impl CodebookUpdate for Codebooks<'_> {
    fn choose(&mut self, length: usize, count: usize) -> Vec<usize> {
        self.chance.choose(length, count)
    }

    fn noise(&mut self, count: usize) -> Vec<f32> {
        self.chance.noise(count)
    }

    fn gather(&mut self, vectors: Tensor<2>, codes: Tensor<1, Int>) -> (Tensor<2>, Tensor<1, Int>) {
        (self.ranks.rows(vectors), self.ranks.codes(codes))
    }
}

fn align(
    kind: Contrastive,
    tower: &RqVaeSiglip,
    pixels: Tensor<4>,
    ids: Tensor<2, Int>,
    ranks: &Ranks,
) -> Losses {
    // Pictures and texts are told apart from those of all ranks.
    let images = ranks.learned_rows(tower.image_embeds(pixels, false));
    let texts = ranks.learned_rows(tower.text_embeds(ids));
    let contrastive = contrastive(kind, &tower.siglip_model, images, texts);
    Losses {
        total: contrastive.clone(),
        parts: vec![("contrastive", contrastive)],
        found: Gradients::default(),
        layers: None,
    }
}

/// The stage in which the tower learns to draw and match its codes. The total is what it does that for; decoder
/// and discriminator play for the gradients of their losses only.
struct TowerStage {
    losses: recipe::Tower,
    lpips: Option<Lpips>,
    /// The frozen text encoder, off the tape; none if it is trained too.
    texts: Option<TextModel>,
    /// Steps of the run before decoder and discriminator play, if they do.
    start: Option<u64>,
}

impl TowerStage {
    fn losses(
        &self,
        model: &mut TrainedTower,
        pixels: Tensor<4>,
        ids: Tensor<2, Int>,
        step: u64,
        codebooks: &mut Codebooks,
    ) -> Losses {
        let weights = &self.losses;
        let TrainedTower {
            tower,
            discriminator,
        } = model;
        let texts = match &self.texts {
            Some(frozen) => {
                let texts = Tensor::from_inner(normalise(frozen.pooled(ids.inner())));
                codebooks.ranks.rows(texts)
            }
            None => codebooks.ranks.learned_rows(tower.text_embeds(ids)),
        };
        let features = tower.features(pixels.clone());
        let quantized = tower.quantizer.forward_train(features, codebooks);
        let images = tower.feature_embeds(quantized.z_q.clone());
        let images = codebooks.ranks.learned_rows(images);
        let contrastive = contrastive(weights.contrastive_loss, &tower.siglip_model, images, texts);
        let features = tower.decoder_features(quantized.z_q);
        let drawn = tower.decoder.pixels(features.clone());
        let mut parts = vec![("contrastive", contrastive.clone())];
        let plays = self.start.is_some_and(|start| step >= start);
        let (reconstruction, judged) = match (discriminator, &weights.adversarial) {
            (Some(discriminator), Some(game)) if plays => {
                let alike = Pull::of(&drawn, |drawn| self.alike(drawn, &pixels, &mut parts));
                let opponent = discriminator.valid();
                let fools = Pull::of(&drawn, |drawn| decoder_loss(opponent.forward(drawn)));
                let lambda = adaptive_weight(&tower.decoder.conv_out, features, &alike, &fools);
                let real = discriminator.forward(pixels);
                let judged =
                    discriminator_loss(real, discriminator.forward(drawn.clone().detach()));
                parts.extend([
                    ("adversarial", fools.loss.clone()),
                    ("adaptive_weight", lambda.clone()),
                    ("discriminator", judged.clone()),
                ]);
                let both = alike.with(&fools, lambda * game.weight);
                (both.on(drawn), Some(judged))
            }
            _ => (self.alike(drawn, &pixels, &mut parts), None),
        };
        let commitment = quantized.commitment_loss;
        parts.push(("commitment", commitment.clone()));
        let reconstruction = reconstruction + commitment * weights.commitment;
        let total = contrastive * weights.contrastive + reconstruction * weights.reconstruction;
        let total = match judged {
            Some(judged) => total + silent(judged),
            None => total,
        };
        Losses {
            total,
            parts,
            found: Gradients::default(),
            layers: None,
        }
    }

    /// How far reconstructions are from pictures, in pixels and in looks.
    fn alike(
        &self,
        drawn: Tensor<4>,
        pixels: &Tensor<4>,
        parts: &mut Vec<(&'static str, Tensor<1>)>,
    ) -> Tensor<1> {
        let difference = drawn.clone() - pixels.clone();
        let pixel = match self.losses.pixel {
            PixelLoss::L1 => difference.abs(),
            PixelLoss::L2 => difference.square(),
        };
        // Rows first: threads share a mean of millions of numbers and add in no fixed order.
        let pixel = pixel.mean_dim(3).mean();
        parts.push(("pixel", pixel.clone()));
        let loss = pixel * self.losses.pixel_weight;
        let (Some(lpips), Some(perceptual)) = (&self.lpips, &self.losses.perceptual) else {
            return loss;
        };
        let distance = lpips.forward(drawn, pixels.clone()).mean();
        parts.push(("perceptual", distance.clone()));
        loss + distance * perceptual.weight
    }
}

impl Objective<TrainedTower> for TowerObjective {
    type Make = Captions;

    fn make(&self) -> &Captions {
        &self.captions
    }

    fn tokens(&self, sample: &Captioned) -> usize {
        self.positions + sample.ids.len()
    }

    fn independent(&self) -> bool {
        // Quantizing moves the codebooks, and ranks exchange the rows of one batch after the other.
        matches!(self.stage, Stage::Align(_)) && self.ranks.count() == 1
    }

    fn trains(&self, path: &str) -> bool {
        trains(&self.objective, self.position_free, path)
    }

    fn apart(&self, path: &str) -> bool {
        path.starts_with(DISCRIMINATOR)
    }

    fn losses(&self, model: &mut TrainedTower, batch: Vec<Captioned>, step: u64) -> Result<Losses> {
        let (pixels, ids) = tensors(&batch, self.captions.size, &self.device);
        Ok(match &self.stage {
            Stage::Align(kind) => align(*kind, &model.tower, pixels, ids, &self.ranks),
            Stage::Tower(stage) => {
                // The same on all ranks, whose codebooks are one.
                let chance = ChaCha8Rng::seed_from_u64(mix(self.seed, step));
                let ranks = &self.ranks;
                let mut codebooks = Codebooks { chance, ranks };
                stage.losses(model, pixels, ids, step, &mut codebooks)
            }
        })
    }

    /// `matching`: how often a picture's own caption fits it best, among those of 32 pictures.
    /// `psnr` in dB; `lpips`, where it is a loss; `codes_used`: share of the codebook's rows in use, over
    /// all depths.
    fn evaluate(&self, model: &TrainedTower) -> Result<Vec<(&'static str, f64)>> {
        let model = model.tower.valid();
        let quantizes = matches!(self.stage, Stage::Tower(_));
        let lpips = match &self.stage {
            Stage::Tower(stage) => stage.lpips.as_ref(),
            Stage::Align(_) => None,
        };
        let (mut matched, mut psnr, mut distance) = (0, 0.0, 0.0);
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
                if let Some(lpips) = lpips {
                    let distances = lpips.forward(drawn.clone(), pixels.clone());
                    distance += f64::from(distances.sum().into_scalar::<f32>());
                }
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
        if lpips.is_some() {
            metrics.push(("lpips", distance / count));
        }
        Ok(metrics)
    }

    /// How well it draws, and before that is learned, how well it matches.
    fn score(&self, metrics: &BTreeMap<String, f64>) -> Option<f64> {
        let psnr = metrics.get("eval/psnr");
        psnr.or_else(|| metrics.get("eval/matching")).copied()
    }

    /// Held-out pictures, each with its reconstruction below.
    fn sample(&self, model: &TrainedTower, path: &Path) -> Result<()> {
        if matches!(self.stage, Stage::Align(_)) || self.held_out.is_empty() {
            return Ok(());
        }
        let model = model.tower.valid();
        let shown = &self.held_out[..SHOWN.min(self.held_out.len())];
        let (pixels, _) = tensors(shown, self.captions.size, &self.device.clone().inner());
        let drawn = model.decode(model.encode(pixels.clone()).z_q);
        save_sheet(path, pixels, drawn)
    }
}
