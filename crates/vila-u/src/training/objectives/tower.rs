//! The two stages of the vision tower (paper section 3.1).
//!
//! *Align*: image and text encoder learn a common space with the sigmoid contrastive loss. It stands
//! for starting from weights that are already aligned.
//!
//! *Tower*: the text encoder stays as it is, and the quantized features learn to match its texts and to be
//! reconstructed, in pixels, in looks (LPIPS) and to a discriminator that judges them. The codebooks follow the
//! features as running means.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::held_out;
use super::layer_codes::LayerCodes;
use super::tower_losses::{Codebooks, TowerStage, align};
use crate::data::Layers;
use crate::data::seed::mix;
use crate::parts::ModelPart;
use crate::tower::RqVaeSiglip;
use crate::training::data::captioned_images::{CaptionedImage, CaptionedImageMaker};
use crate::training::distributed::ProcessGroup;
use crate::training::losses::Lpips;
use crate::training::model::TowerWithDiscriminator;
use crate::training::recipe::{self, Contrastive, Recipe};
use crate::training::run_folder::sample_sheet::save_sheet;
use crate::training::trainer::{BatchLosses, Objective};
use crate::{Error, Result};

/// Held-out pictures an evaluation looks at, and how many of them at once.
const EVALUATED: usize = 128;
const AT_ONCE: usize = 32;
/// Pictures on a sample sheet.
const SHOWN: usize = 16;
/// The vision encoder's position embeddings.
const POSITIONS: &str = "siglip_model.vision_model.embeddings.position_embedding.";

/// A batch: pixels `[n, 3, size, size]`, ids `[n, tokens]`.
fn tensors(batch: &[CaptionedImage], size: usize, device: &Device) -> (Tensor<4>, Tensor<2, Int>) {
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

/// The pictures' layers, where they have some.
pub(super) fn layers(batch: &[CaptionedImage]) -> Vec<&Layers> {
    batch
        .iter()
        .filter_map(|made| made.layers.as_ref())
        .collect()
}

/// Which of the two stages.
enum Stage {
    Align(Contrastive),
    Tower(Box<TowerStage>),
}

/// Whether a stage of the tower trains the parameter at this path; `no_positions`: position embeddings stay.
pub(crate) fn is_trained(objective: &recipe::Objective, no_positions: bool, path: &str) -> bool {
    let encoders = [
        ModelPart::VisionEncoder,
        ModelPart::TextEncoder,
        ModelPart::ContrastiveLogits,
    ];
    match (objective, ModelPart::of(path)) {
        _ if no_positions && path.starts_with(POSITIONS) => false,
        (recipe::Objective::Tower(losses), part) => match part {
            Some(ModelPart::Discriminator) => losses.adversarial.is_some(),
            Some(ModelPart::TextEncoder) => losses.from_scratch,
            Some(ModelPart::Quantizer) => losses.layer_codes.is_some() && path.ends_with(".weight"),
            _ => true,
        },
        (_, part) => part.is_some_and(|part| encoders.contains(&part)),
    }
}

/// What a stage learns from besides pictures and captions.
pub(crate) struct Teachers {
    /// The network that its perceptual loss needs.
    pub lpips: Option<Lpips>,
    /// Codes that it is taught.
    pub layer_codes: Option<LayerCodes>,
}

/// The objective of both stages.
pub(crate) struct TowerObjective {
    objective: recipe::Objective,
    stage: Stage,
    maker: CaptionedImageMaker,
    seed: u64,
    /// Positions of a picture.
    positions: usize,
    no_positions: bool,
    device: Device,
    held_out: Vec<CaptionedImage>,
    group: ProcessGroup,
}

impl TowerObjective {
    /// Of the stage number `index`.
    pub(crate) fn new(
        recipe: &Recipe,
        index: usize,
        teachers: Teachers,
        maker: CaptionedImageMaker,
        tower: &RqVaeSiglip,
        device: &Device,
        group: ProcessGroup,
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
                    lpips: teachers.lpips,
                    layer_codes: losses.layer_codes.and(teachers.layer_codes),
                    texts: (!losses.from_scratch).then(|| texts.clone().valid()),
                    start: losses
                        .adversarial
                        .map(|settings| first + settings.start_step),
                    losses: losses.clone(),
                }))
            }
            _ => return Err(Error::usage("recipe: not a stage of the vision tower")),
        };
        let [rows, columns, _] = tower.quantizer.code_shape();
        // The same pictures every time; only rank 0 looks at them.
        let count = if group.is_main() { EVALUATED } else { 0 };
        let sources = recipe.data.sources.iter().filter(|source| source.held_out);
        let sources: Vec<_> = sources.cloned().collect();
        let held_out = held_out::first(&maker, &sources, &recipe.data, count)?;
        Ok(Self {
            objective: recipe.stages[index].objective.clone(),
            stage,
            maker,
            seed: recipe.seed,
            positions: rows * columns,
            no_positions: recipe.model.no_position_embedding,
            device: device.clone(),
            held_out,
            group,
        })
    }
}

impl Objective<TowerWithDiscriminator> for TowerObjective {
    type Maker = CaptionedImageMaker;

    fn sample_maker(&self) -> &CaptionedImageMaker {
        &self.maker
    }

    fn tokens(&self, sample: &CaptionedImage) -> usize {
        self.positions + sample.ids.len()
    }

    fn is_parallel(&self) -> bool {
        // Quantizing moves the codebooks, and ranks exchange the rows of one batch after the other.
        matches!(self.stage, Stage::Align(_)) && self.group.world_size() == 1
    }

    fn is_trained(&self, path: &str) -> bool {
        is_trained(&self.objective, self.no_positions, path)
    }

    fn is_adversary(&self, path: &str) -> bool {
        ModelPart::of(path) == Some(ModelPart::Discriminator)
    }

    fn losses(
        &self,
        model: &mut TowerWithDiscriminator,
        batch: Vec<CaptionedImage>,
        step: u64,
    ) -> Result<BatchLosses> {
        let (pixels, ids) = tensors(&batch, self.maker.size, &self.device);
        Ok(match &self.stage {
            Stage::Align(kind) => align(*kind, &model.tower, pixels, ids, &self.group),
            Stage::Tower(stage) => {
                // The same on all ranks, whose codebooks are one.
                let chance = ChaCha8Rng::seed_from_u64(mix(self.seed, step));
                let group = &self.group;
                let mut codebooks = Codebooks { chance, group };
                let batch = stage.batch(pixels, ids, &batch, &mut codebooks.chance);
                stage.losses(model, batch, step, &mut codebooks)
            }
        })
    }

    /// `matching`: how often a picture's own caption fits it best, among those of 32 pictures.
    /// `psnr` in dB; `lpips`, where it is a loss; `codes_used`: share of the codebook's rows in use, over
    /// all depths; `cut_out_codes`, `background_codes`: share of the codes that are as taught, where they are.
    fn evaluate(&self, model: &TowerWithDiscriminator) -> Result<Vec<(&'static str, f64)>> {
        let model = model.tower.valid();
        let quantizes = matches!(self.stage, Stage::Tower(_));
        let (lpips, layer_codes) = match &self.stage {
            Stage::Tower(stage) => (stage.lpips.as_ref(), stage.layer_codes.as_ref()),
            Stage::Align(_) => (None, None),
        };
        let (mut matched, mut psnr, mut distance) = (0, 0.0, 0.0);
        let mut accuracy = [0.0; 2];
        let mut used = vec![false; model.quantizer.codes()];
        if self.held_out.is_empty() {
            return Ok(Vec::new());
        }
        let device = self.device.clone().inner();
        for batch in self.held_out.chunks(AT_ONCE) {
            let (pixels, ids) = tensors(batch, self.maker.size, &device);
            let mut features = model.features(pixels.clone());
            if quantizes {
                let quantized = model.quantize(features);
                for code in quantized.codes.to_data().iter::<i64>() {
                    used[code as usize] = true;
                }
                if let Some(layer_codes) = layer_codes {
                    let of_batch = layer_codes.accuracy(quantized.codes, &layers(batch));
                    for (sum, share) in accuracy.iter_mut().zip(of_batch) {
                        *sum += share * batch.len() as f64;
                    }
                }
                let images = model.decode(quantized.z_q.clone()).clamp(-1.0, 1.0);
                if let Some(lpips) = lpips {
                    let distances = lpips.forward(images.clone(), pixels.clone());
                    distance += f64::from(distances.sum().into_scalar::<f32>());
                }
                let error: Tensor<2> = (images - pixels).square().flatten::<2>(1, 3).mean_dim(1);
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
        if layer_codes.is_some() {
            let [cut_outs, backgrounds] = accuracy.map(|sum| sum / count);
            metrics.extend([
                ("cut_out_codes", cut_outs),
                ("background_codes", backgrounds),
            ]);
        }
        Ok(metrics)
    }

    /// How well it reconstructs, and before that is learned, how well it matches.
    fn score(&self, metrics: &BTreeMap<String, f64>) -> Option<f64> {
        let psnr = metrics.get("eval/psnr");
        psnr.or_else(|| metrics.get("eval/matching")).copied()
    }

    /// Held-out pictures, each with its reconstruction below.
    fn save_samples(&self, model: &TowerWithDiscriminator, path: &Path) -> Result<()> {
        if matches!(self.stage, Stage::Align(_)) || self.held_out.is_empty() {
            return Ok(());
        }
        let model = model.tower.valid();
        let shown = &self.held_out[..SHOWN.min(self.held_out.len())];
        let (pixels, _) = tensors(shown, self.maker.size, &self.device.clone().inner());
        let reconstructed = model.decode(model.encode(pixels.clone()).z_q);
        save_sheet(path, pixels, reconstructed)
    }
}
