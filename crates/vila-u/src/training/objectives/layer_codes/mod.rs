//! Codes of layers, an objective of our own: the first D - 1 codes of a patch say what is cut out there, and the last
//! one which colour is behind it. So an object has the same codes on every background, and what was learnt of it on
//! one holds for all.
//!
//! Pictures that are at hand in layers say which codes these ought to be: residual k-means of cut-out patches, and a
//! palette of backgrounds. The encoder sees the picture put together and learns them as a classifier:
//!
//! ```text
//! L = -mean_d log softmax_k(-s_d |r_d-1 - e_d(k)|^2)[target_d],   r_d = r_d-1 - e_d(target_d)
//! ```
//!
//! with `r_0` its features, and rows `e_d` that learn too, from this loss and from all that is made of the target
//! codes. What it learns is ordinary residual quantization: each code the row nearest to the residual.

mod k_means;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vila_u_kernels::{cross_entropy, full_precision, nearest};

use super::held_out;
use crate::Result;
use crate::data::Layers;
use crate::tower::ResidualQuantizer;
use crate::training::data::captioned_images::CaptionedImageMaker;
use crate::training::data::dataloader_state::trained;
use crate::training::recipe::Recipe;
use k_means::{residual_codes, residual_k_means};

/// Pictures that the codebooks are made of.
const PICTURES: usize = 4096;
/// A third of a row's channels tells cut-outs at the start, but for these, which tell colours of the background. The
/// rest is free for what the encoder needs itself.
const COLOUR_CHANNELS: usize = 3;
/// How far colours are apart, which are 0 to 1, beside cut-outs.
const COLOUR_SCALE: f64 = 8.0;
/// How far the logits of cut-outs and those of backgrounds, which differ in few channels, spread at the start.
const SPREAD: f64 = 5.0;
const BACKGROUND_SPREAD: f64 = 40.0;
/// Weight of a patch with nothing but background in it: there are more of them, and they are soon learnt.
const EMPTY_WEIGHT: f64 = 0.25;
/// Of so many random colours the palette gets the one that is farthest from those in it.
const CANDIDATES: usize = 8;

/// Which codes patches ought to have.
#[derive(Clone, Debug)]
pub(crate) struct LayerCodes {
    /// Rows and columns of patches.
    grid: [usize; 2],
    /// Of cut-out patches: D - 1 of `[K, channels]`; row 0 is a patch with nothing in it.
    cut_outs: Vec<Tensor<2>>,
    /// Of backgrounds, `[K, 3]` in 0..1.
    palette: Tensor<2>,
    /// Rows of the palette that are backgrounds of the pictures.
    own_colours: usize,
    /// The rows that the quantizer starts with, D of `[K, channels]`.
    start: Vec<Tensor<2>>,
    /// What logits are times, for each depth.
    scales: Vec<f64>,
}

/// A batch of pictures put together of their layers.
pub(crate) struct LayeredBatch {
    /// `[n, 3, size, size]` in -1..1
    pub pixels: Tensor<4>,
    /// `[n * positions, D]`
    pub codes: Tensor<2, Int>,
    /// How many, from the first on, have their own background, which captions may speak of.
    pub own: usize,
}

impl LayerCodes {
    /// Codes of the quantizer's sizes, made of the first pictures that the recipe trains on: the same on every rank, and
    /// whenever a run goes on.
    pub(crate) fn fit(
        recipe: &Recipe,
        maker: &CaptionedImageMaker,
        quantizer: &ResidualQuantizer,
        device: &Device,
    ) -> Result<Self> {
        let sources: Vec<_> = trained(&recipe.data).cloned().collect();
        let pictures = held_out::first(maker, &sources, &recipe.data, PICTURES)?;
        let pictures: Vec<_> = pictures
            .iter()
            .filter_map(|made| made.layers.as_ref())
            .collect();
        Ok(Self::of(&pictures, quantizer, recipe.seed, device))
    }

    fn of(pictures: &[&Layers], quantizer: &ResidualQuantizer, seed: u64, device: &Device) -> Self {
        let [rows, columns, depth] = quantizer.code_shape();
        let (grid, codes) = ([rows, columns], quantizer.codes());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut own: Vec<_> = pictures.iter().map(|picture| picture.background).collect();
        own.sort_unstable();
        own.dedup();
        own.truncate(codes);
        let own_colours = own.len();
        let palette = colours(&palette(own, codes, &mut rng), device);
        let patches = patches(cut_outs(pictures, device), grid);
        let shown = patches.clone().abs().sum_dim(1).greater_scalar(0.0);
        let shown = shown.squeeze_dim::<1>(1).argwhere().squeeze_dim(1);
        let cut_outs = residual_k_means(patches.select(0, shown), codes, depth - 1, &mut rng);
        let start = starting_rows(&cut_outs, &palette, quantizer.code_channels(), &mut rng);
        let scale = |(rows, spread): (&Tensor<2>, f64)| {
            let offsets = rows.clone() - rows.clone().mean_dim(0);
            let variance = offsets.square().sum_dim(1).mean().into_scalar::<f32>();
            spread / f64::from(variance)
        };
        let mut spreads = vec![SPREAD; depth];
        spreads[depth - 1] = BACKGROUND_SPREAD;
        Self {
            grid,
            scales: start.iter().zip(spreads).map(scale).collect(),
            cut_outs,
            palette,
            own_colours,
            start,
        }
    }

    /// Gives a new quantizer rows that resemble each other as what they stand for does.
    pub(crate) fn initialise(&self, quantizer: &mut ResidualQuantizer) {
        for (codebook, rows) in quantizer.codebooks.iter_mut().zip(&self.start) {
            codebook.set_rows(rows.clone());
        }
    }

    /// Puts pictures together, the share of them that come last on other backgrounds than their own.
    pub(crate) fn batch(
        &self,
        pictures: &[&Layers],
        other_backgrounds: f64,
        rng: &mut impl Rng,
    ) -> LayeredBatch {
        let count = pictures.len();
        let own = count - (count as f64 * other_backgrounds) as usize;
        let device = self.palette.device();
        let mut backgrounds = backgrounds(pictures, &device);
        let codes = self.palette.dims()[0];
        if own < count && self.own_colours < codes {
            let others: Vec<i64> = (own..count)
                .map(|_| rng.random_range(self.own_colours..codes) as i64)
                .collect();
            let others = Tensor::from_data(TensorData::new(others, [count - own]), &device);
            let others = self.palette.clone().select(0, others);
            backgrounds = Tensor::cat(vec![backgrounds.narrow(0, 0, own), others], 0);
        }
        let cut_outs = cut_outs(pictures, &device);
        let codes = self.codes(cut_outs.clone(), backgrounds.clone());
        let transparency = cut_outs.clone().narrow(1, 3, 1) * -1.0 + 1.0;
        let behind = transparency * backgrounds.reshape([count, 3, 1, 1]);
        LayeredBatch {
            pixels: (cut_outs.narrow(1, 0, 3) + behind) * 2.0 - 1.0,
            codes,
            own,
        }
    }

    /// The codes `[n * positions, D]` of cut-outs `[n, 4, size, size]` on backgrounds `[n, 3]`.
    fn codes(&self, cut_outs: Tensor<4>, backgrounds: Tensor<2>) -> Tensor<2, Int> {
        let cut_outs = residual_codes(patches(cut_outs, self.grid), &self.cut_outs);
        let (pictures, all) = (backgrounds.dims()[0], cut_outs.dims()[0]);
        let colours = self.palette.dims()[0];
        let backgrounds = nearest(backgrounds, self.palette.clone(), colours);
        let backgrounds = backgrounds
            .reshape([pictures, 1])
            .expand([pictures, all / pictures]);
        Tensor::cat(vec![cut_outs, backgrounds.reshape([all, 1])], 1)
    }

    /// What is quantized with given codes `[n, D]`, and the mean cross-entropy of these, `[1]`.
    pub(crate) fn quantize(
        &self,
        quantizer: &mut ResidualQuantizer,
        features: Tensor<4>,
        codes: Tensor<2, Int>,
    ) -> (Tensor<4>, Tensor<1>) {
        let shown = is_shown(&codes).float().squeeze_dim(1);
        let weights: Tensor<1> = shown * (1.0 - EMPTY_WEIGHT) + EMPTY_WEIGHT;
        let (z_q, logits) = full_precision(|| {
            quantizer.forward_teacher_forced(features, codes.clone(), &self.scales)
        });
        let losses = logits.into_iter().zip(codes.split(1, 1));
        let losses = losses.map(|(logits, codes)| {
            let losses = cross_entropy(logits, codes.squeeze_dim(1));
            (losses * weights.clone()).sum() / weights.clone().sum()
        });
        (z_q, Tensor::cat(losses.collect(), 0).mean())
    }

    /// Of the codes `[n, rows, columns, D]` of pictures on their own backgrounds: the share of right ones at depths of
    /// cut-outs where some is shown, and at the last depth.
    pub(crate) fn accuracy(&self, codes: Tensor<4, Int>, pictures: &[&Layers]) -> [f64; 2] {
        let device = self.palette.device();
        let targets = self.codes(cut_outs(pictures, &device), backgrounds(pictures, &device));
        let [all, depth] = targets.dims();
        let right = codes.reshape([all, depth]).equal(targets.clone()).float();
        let shown = is_shown(&targets).float();
        let cut_outs = right.clone().narrow(1, 0, depth - 1).mean_dim(1) * shown.clone();
        let share = |part: Tensor<1>| f64::from(part.into_scalar::<f32>());
        [
            share(cut_outs.sum() / shown.sum().clamp_min(1.0)),
            share(right.narrow(1, depth - 1, 1).mean()),
        ]
    }
}

/// Whether the first code is not that of an empty patch: `[n, D]` -> `[n, 1]`.
fn is_shown(codes: &Tensor<2, Int>) -> Tensor<2, Bool> {
    codes.clone().narrow(1, 0, 1).not_equal_scalar(0)
}

/// Rows that lie as the k-means' do: those of cut-outs in a third of the channels, by a random projection, which keeps
/// distances (Johnson and Lindenstrauss 1984; with signs, Achlioptas 2003), those of colours in three more.
fn starting_rows(
    cut_outs: &[Tensor<2>],
    palette: &Tensor<2>,
    channels: usize,
    rng: &mut impl Rng,
) -> Vec<Tensor<2>> {
    let device = palette.device();
    let ([rows, values], projected) = (cut_outs[0].dims(), channels / 3);
    let size = (projected as f32).powf(-0.5);
    let signs: Vec<f32> = (0..values * projected)
        .map(|_| if rng.random() { size } else { -size })
        .collect();
    let projection = Tensor::from_data(TensorData::new(signs, [values, projected]), &device);
    let zeros = |width| Tensor::zeros([rows, width], &device);
    let cut_outs = cut_outs.iter().map(|codebook| {
        let projected_rows = full_precision(|| codebook.clone().matmul(projection.clone()));
        Tensor::cat(vec![projected_rows, zeros(channels - projected)], 1)
    });
    let mut all: Vec<_> = cut_outs.collect();
    let rest = channels - projected - COLOUR_CHANNELS;
    let colours = (palette.clone() - 0.5) * COLOUR_SCALE;
    all.push(Tensor::cat(vec![zeros(projected), colours, zeros(rest)], 1));
    // As long as features in these channels are that have a variance of one.
    let length = all[0].clone().square().sum_dim(1).sqrt().mean();
    let scale = (projected as f64).sqrt() / f64::from(length.into_scalar::<f32>());
    all.into_iter().map(|rows| rows * scale).collect()
}

/// `count` colours: the given ones, and others well apart from them and each other (Mitchell's best candidates, 1991).
fn palette(own: Vec<[u8; 3]>, count: usize, rng: &mut impl Rng) -> Vec<[u8; 3]> {
    let mut palette = own;
    let apart = |a: [u8; 3], b: [u8; 3]| -> u32 {
        let channels = a.into_iter().zip(b);
        channels.map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
    };
    while palette.len() < count {
        let candidates: [[u8; 3]; CANDIDATES] = std::array::from_fn(|_| rng.random());
        let nearest = |colour: &[u8; 3]| palette.iter().map(|other| apart(*colour, *other)).min();
        palette.extend(candidates.into_iter().max_by_key(nearest));
    }
    palette
}

/// `[n, 3]` in 0..1.
fn colours(colours: &[[u8; 3]], device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (colours.iter().flatten())
        .map(|value| f32::from(*value) / 255.0)
        .collect();
    Tensor::from_data(TensorData::new(values, [colours.len(), 3]), device)
}

/// The pictures' own, `[n, 3]` in 0..1.
fn backgrounds(pictures: &[&Layers], device: &Device) -> Tensor<2> {
    let backgrounds: Vec<_> = pictures.iter().map(|picture| picture.background).collect();
    colours(&backgrounds, device)
}

/// Premultiplied colours and alpha in 0..1, `[n, 4, size, size]`.
fn cut_outs(pictures: &[&Layers], device: &Device) -> Tensor<4> {
    let size = pictures
        .first()
        .map_or(0, |picture| picture.cut_out.width() as usize);
    let values = pictures.iter().flat_map(|picture| picture.cut_out.as_raw());
    let values: Vec<f32> = values.map(|value| f32::from(*value) / 255.0).collect();
    let shape = [pictures.len(), size, size, 4];
    Tensor::<4>::from_data(TensorData::new(values, shape), device).permute([0, 3, 1, 2])
}

/// `[n, channels, size, size]` -> `[n * rows * columns, values of a patch]`.
fn patches(pictures: Tensor<4>, [rows, columns]: [usize; 2]) -> Tensor<2> {
    let [count, channels, height, width] = pictures.dims();
    let (tall, wide) = (height / rows, width / columns);
    pictures
        .reshape([count, channels, rows, tall, columns, wide])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([count * rows * columns, channels * tall * wide])
}
