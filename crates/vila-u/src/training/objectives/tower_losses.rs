//! The losses of the tower's two stages on a batch, put together.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use rand_chacha::ChaCha8Rng;

use crate::tower::siglip::{TextModel, normalise};
use crate::tower::{CodebookUpdate, RqVaeSiglip};
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
    /// The frozen text encoder, without autodiff; none if it is trained too.
    pub(super) texts: Option<TextModel>,
    /// Steps of the run before decoder and discriminator play, if they do.
    pub(super) start: Option<u64>,
}

impl TowerStage {
    pub(super) fn losses(
        &self,
        model: &mut TowerWithDiscriminator,
        pixels: Tensor<4>,
        ids: Tensor<2, Int>,
        step: u64,
        codebooks: &mut Codebooks,
    ) -> BatchLosses {
        let weights = &self.losses;
        let TowerWithDiscriminator {
            tower,
            discriminator,
        } = model;
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
        let quantized = tower.quantizer.forward_train(features, codebooks);
        let images = tower.feature_embeds(quantized.z_q.clone());
        let images = codebooks.group.all_gather_rows_with_grad(images);
        let contrastive = contrastive(weights.contrastive_loss, &tower.siglip_model, images, texts);
        let features = tower.decoder_features(quantized.z_q);
        let reconstructed = tower.decoder.pixels(features.clone());
        let mut parts = vec![("contrastive", contrastive.clone())];
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
        let commitment = quantized.commitment_loss;
        parts.push(("commitment", commitment.clone()));
        let reconstruction = reconstruction + commitment * weights.commitment_weight;
        let total = contrastive * weights.contrastive_weight
            + reconstruction * weights.reconstruction_weight;
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
