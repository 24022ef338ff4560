//! The losses of the tower's two stages on a batch, put together.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use rand_chacha::ChaCha8Rng;

use super::layer_codes::LayerCodes;
use super::tower::layers;
use crate::tower::siglip::{TextModel, normalise};
use crate::tower::{CodebookUpdate, ResidualQuantizer, RqVaeSiglip};
use crate::training::data::captioned_images::CaptionedImage;
use crate::training::distributed::ProcessGroup;
use crate::training::losses::adversarial::{
    PixelGrad, adaptive_weight, decoder_loss, discriminator_loss, gradient_only,
};
use crate::training::losses::{Lpips, contrastive};
use crate::training::model::TowerWithDiscriminator;
use crate::training::optimizer::Gradients;
use crate::training::recipe::{self, Contrastive, PixelLoss};
use crate::training::trainer::BatchLosses;

/// What the codebooks learn from besides a batch: chance, and the batches of the other ranks.
pub(super) struct Codebooks<'a> {
    pub(super) chance: ChaCha8Rng,
    pub(super) group: &'a ProcessGroup,
}

impl CodebookUpdate for Codebooks<'_> {
    fn choose(&mut self, length: usize, count: usize) -> Vec<usize> {
        self.chance.choose(length, count)
    }

    fn noise(&mut self, count: usize) -> Vec<f32> {
        self.chance.noise(count)
    }

    fn gather(&mut self, vectors: Tensor<2>, codes: Tensor<1, Int>) -> (Tensor<2>, Tensor<1, Int>) {
        (
            self.group.all_gather_rows(vectors),
            self.group.all_gather_codes(codes),
        )
    }
}

pub(super) fn align(
    kind: Contrastive,
    tower: &RqVaeSiglip,
    pixels: Tensor<4>,
    ids: Tensor<2, Int>,
    group: &ProcessGroup,
) -> BatchLosses {
    // Pictures and texts are compared with those of all ranks.
    let images = group.all_gather_rows_with_grad(tower.image_embeds(pixels, false));
    let texts = group.all_gather_rows_with_grad(tower.text_embeds(ids));
    let contrastive = contrastive(kind, &tower.siglip_model, images, texts);
    BatchLosses {
        total: contrastive.clone(),
        parts: vec![("contrastive", contrastive)],
        gradients: Gradients::default(),
        checkpointed: None,
    }
}

/// The stage in which the tower learns to reconstruct and match. The total is what is minimised; decoder
/// and discriminator play for the gradients of their losses only.
pub(super) struct TowerStage {
    pub(super) losses: recipe::Tower,
    pub(super) lpips: Option<Lpips>,
    pub(super) layer_codes: Option<LayerCodes>,
    /// The frozen text encoder, without autodiff; none if it is trained too.
    pub(super) texts: Option<TextModel>,
    /// Steps of the run before decoder and discriminator play, if they do.
    pub(super) start: Option<u64>,
}

/// A batch of the stage.
pub(super) struct TowerBatch {
    /// `[n, 3, size, size]` in -1..1
    pixels: Tensor<4>,
    /// `[n, tokens]`, or those of the first pictures alone, which are what their captions say.
    ids: Tensor<2, Int>,
    /// `[n * positions, D]`, where codes are taught.
    codes: Option<Tensor<2, Int>>,
}

impl TowerStage {
    /// The pictures `[n, 3, size, size]`, captions `[n, tokens]`, and what is taught with them.
    pub(super) fn batch(
        &self,
        pixels: Tensor<4>,
        ids: Tensor<2, Int>,
        made: &[CaptionedImage],
        chance: &mut ChaCha8Rng,
    ) -> TowerBatch {
        let (Some(layer_codes), Some(settings)) = (&self.layer_codes, self.losses.layer_codes)
        else {
            return TowerBatch {
                pixels,
                ids,
                codes: None,
            };
        };
        let layered = layer_codes.batch(&layers(made), settings.other_backgrounds, chance);
        TowerBatch {
            pixels: Tensor::from_inner(layered.pixels),
            ids: ids.narrow(0, 0, layered.own),
            codes: Some(Tensor::from_inner(layered.codes)),
        }
    }

    pub(super) fn losses(
        &self,
        model: &mut TowerWithDiscriminator,
        batch: TowerBatch,
        step: u64,
        codebooks: &mut Codebooks,
    ) -> BatchLosses {
        let weights = &self.losses;
        let TowerBatch { pixels, ids, codes } = batch;
        let TowerWithDiscriminator {
            tower,
            discriminator,
        } = model;
        let captioned = ids.dims()[0];
        let texts = match &self.texts {
            Some(frozen) => {
                let texts = Tensor::from_inner(normalise(frozen.pooled(ids.inner())));
                codebooks.group.all_gather_rows(texts)
            }
            None => codebooks
                .group
                .all_gather_rows_with_grad(tower.text_embeds(ids)),
        };
        let features = tower.features(pixels.clone());
        let mut parts = Vec::new();
        let (z_q, to_codes) =
            self.quantize(&mut tower.quantizer, features, codes, codebooks, &mut parts);
        let images = tower.feature_embeds(z_q.clone().narrow(0, 0, captioned));
        let images = codebooks.group.all_gather_rows_with_grad(images);
        let contrastive = contrastive(weights.contrastive_loss, &tower.siglip_model, images, texts);
        parts.push(("contrastive", contrastive.clone()));
        let features = tower.decoder_features(z_q);
        let reconstructed = tower.decoder.pixels(features.clone());
        let plays = self.start.is_some_and(|start| step >= start);
        let (reconstruction, judged) = match (discriminator, &weights.adversarial) {
            (Some(discriminator), Some(settings)) if plays => {
                let reconstruction = PixelGrad::of(&reconstructed, |images| {
                    self.reconstruction_loss(images, &pixels, &mut parts)
                });
                let opponent = discriminator.valid();
                let adversarial = PixelGrad::of(&reconstructed, |images| {
                    decoder_loss(opponent.forward(images))
                });
                let lambda = adaptive_weight(
                    &tower.decoder.conv_out,
                    features,
                    &reconstruction,
                    &adversarial,
                );
                let real = discriminator.forward(pixels);
                let judged =
                    discriminator_loss(real, discriminator.forward(reconstructed.clone().detach()));
                parts.extend([
                    ("adversarial", adversarial.loss.clone()),
                    ("adaptive_weight", lambda.clone()),
                    ("discriminator", judged.clone()),
                ]);
                let both = reconstruction.add_grad(&adversarial, lambda * settings.weight);
                (both.attach(reconstructed), Some(judged))
            }
            _ => (
                self.reconstruction_loss(reconstructed, &pixels, &mut parts),
                None,
            ),
        };
        let total = contrastive * weights.contrastive_weight
            + reconstruction * weights.reconstruction_weight
            + to_codes;
        let total = match judged {
            Some(judged) => total + gradient_only(judged),
            None => total,
        };
        BatchLosses {
            total,
            parts,
            gradients: Gradients::default(),
            checkpointed: None,
        }
    }

    /// Quantized features, and the loss that draws features to their codes, weighed: the commitment loss, or the
    /// cross-entropy of codes that are taught.
    fn quantize(
        &self,
        quantizer: &mut ResidualQuantizer,
        features: Tensor<4>,
        codes: Option<Tensor<2, Int>>,
        codebooks: &mut Codebooks,
        parts: &mut Vec<(&'static str, Tensor<1>)>,
    ) -> (Tensor<4>, Tensor<1>) {
        let weights = &self.losses;
        if let (Some(layer_codes), Some(settings), Some(codes)) =
            (&self.layer_codes, weights.layer_codes, codes)
        {
            let (z_q, loss) = layer_codes.quantize(quantizer, features, codes);
            parts.push(("layer_codes", loss.clone()));
            return (z_q, loss * settings.weight);
        }
        let quantized = quantizer.forward_train(features, codebooks);
        let commitment = quantized.commitment_loss;
        parts.push(("commitment", commitment.clone()));
        let weight = weights.commitment_weight * weights.reconstruction_weight;
        (quantized.z_q, commitment * weight)
    }

    /// How far reconstructions are from pictures, in pixels and in looks.
    fn reconstruction_loss(
        &self,
        reconstructed: Tensor<4>,
        pixels: &Tensor<4>,
        parts: &mut Vec<(&'static str, Tensor<1>)>,
    ) -> Tensor<1> {
        let difference = reconstructed.clone() - pixels.clone();
        let pixel = match self.losses.pixel_loss {
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
        let distance = lpips.forward(reconstructed, pixels.clone()).mean();
        parts.push(("perceptual", distance.clone()));
        loss + distance * perceptual.weight
    }
}
