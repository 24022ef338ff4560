//! Images and videos, generated visual token by visual token (paper, section 3.3).
//!
//! Each token: the language model's hidden state goes to the depth transformer, which chooses D
//! codes one after the other. The sum of their vectors is the token's feature. It goes through the
//! projector back into the language model, and in the end to the pixel decoder.
//!
//! Classifier-free guidance runs every image twice, with its caption and without, and samples from
//! `without + guidance * (with - without)`. Both rows read the same codes on.

use std::ops::ControlFlow;

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{
    batch::{DecodeBatch, Prompt},
    device_sampling::DeviceSampler,
    sampling::{Sampler, Sampling},
};
use crate::{
    Error, Result,
    device::{is_cpu, read_floats},
    language::KvCache,
    model::VilaU,
};

/// Visual tokens after which a GPU is waited for: until then it never waits for the host, and no more is asked
/// of it than can be told and stopped.
const TOGETHER: usize = 16;

/// The weight of classifier-free guidance that the released model generates with.
pub(crate) const GUIDANCE: f64 = 3.0;

/// How images and videos are generated.
#[derive(Debug, Clone)]
pub struct VisualOptions {
    /// Weight of classifier-free guidance. 1 turns it off, which takes half the time.
    pub guidance: f64,
    pub sampling: Sampling,
    pub seed: u64,
    /// Number of the first image, where earlier ones were generated before.
    pub first: usize,
}

impl VisualOptions {
    /// A usage error unless every number is in its range.
    pub(crate) fn check(&self) -> Result<()> {
        self.sampling.check()?;
        if self.guidance.is_finite() {
            Ok(())
        } else {
            Err(Error::usage("the guidance must be a number"))
        }
    }

    /// Whether every image is run twice, with its prompt and without.
    pub(crate) fn guided(&self) -> bool {
        self.guidance != 1.0
    }
}

/// Generated images or videos.
#[derive(Debug, Clone)]
pub struct VisualOutput {
    /// `[n, frames, rows, columns, depth]`
    pub codes: Tensor<5, Int>,
    /// `[n, frames, 3, H, W]`, about -1..1 but not bounded.
    pub pixels: Tensor<5>,
}

/// Images or videos under way.
pub struct Progress<'a> {
    /// Visual tokens of each image or video sampled so far, of `total`.
    pub done: usize,
    pub total: usize,
    model: &'a VilaU,
    features: &'a [Tensor<2>],
}

impl Progress<'_> {
    /// The pixels `[n, frames, 3, H, W]` so far; the rest is decoded from features of zero.
    /// Takes the time of decoding every image once.
    pub fn preview(&self) -> Tensor<5> {
        let mut features = self.features.to_vec();
        if let Some(first) = features.first() {
            let blank = first.zeros_like();
            features.resize(self.total, blank);
        }
        decode(self.model, &features)
    }
}

/// Generates one image (or video of `frames` frames) for each of `prompts`.
///
/// - `prompts`: token ids, each ending in the token that starts an image or a video
/// - `unconditional`: the same without a caption
/// - `on_progress`: called after every visual token; [`ControlFlow::Break`] ends it with
///   [`Error::Interrupted`]
///
/// Image `i`, counted from `options.first`, depends on its prompt, the seed and `i`, not on how many
/// are generated together.
pub fn generate(
    model: &VilaU,
    prompts: &[Vec<i64>],
    unconditional: &[i64],
    frames: usize,
    options: &VisualOptions,
    on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<VisualOutput> {
    options.check()?;
    if prompts.is_empty() || frames == 0 {
        return Err(Error::usage(
            "there is nothing to generate: ask for at least one",
        ));
    }
    let total = frames.saturating_mul(model.image_tokens());
    let mut wanted: Vec<&[i64]> = prompts.iter().map(Vec::as_slice).collect();
    if options.guided() {
        wanted.extend(prompts.iter().map(|_| unconditional));
    }
    let (mut batch, hidden) = prefill(model, &wanted, total - 1)?;
    let mut generator = CodeGenerator::new(model, prompts.len(), options);
    let features = generator.tokens(&mut batch, hidden, total, on_progress)?;
    let codes = generator.codes(frames);
    // Keys and values make room for the pixel decoder.
    drop(batch);
    Ok(VisualOutput {
        codes,
        pixels: decode(model, &features),
    })
}

/// Reads the prompts, each distinct one once, and gives every row its own continuation.
fn prefill<'m>(
    model: &'m VilaU,
    prompts: &[&[i64]],
    room: usize,
) -> Result<(DecodeBatch<'m>, Tensor<2>)> {
    let mut distinct: Vec<Vec<i64>> = Vec::new();
    let mut origins = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let origin = distinct.iter().position(|known| known == prompt);
        origins.push(origin.unwrap_or(distinct.len()));
        if origin.is_none() {
            distinct.push(prompt.to_vec());
        }
    }
    let prompt = Prompt::from_ids(&model.llm, &distinct)?;
    if prompt.room(&model.llm)? < room {
        return Err(Error::usage(format!(
            "the prompt and {room} visual tokens are more than the {} positions of the model's context",
            model.llm.context_length()
        )));
    }
    let (batch, hidden) = DecodeBatch::prefill(&model.llm, prompt, 0);
    let hidden = hidden.select(0, batch.indices(&origins));
    Ok((batch.fork(&origins, room), hidden))
}

/// Samples the codes of one visual position after the other, for `n` images at once.
pub(crate) struct CodeGenerator<'m> {
    model: &'m VilaU,
    n: usize,
    /// None without guidance; otherwise rows `n..2n` are those without a caption.
    guidance: Option<f64>,
    sampler: CodeSampler,
    cache: KvCache,
    codes: Vec<Tensor<1, Int>>, // [positions * depth][n]
}

/// Where codes are sampled: on a GPU without bringing logits to the host, on the CPU by the host, which is fastest.
enum CodeSampler {
    Host(Vec<Sampler>),
    Device(Box<DeviceSampler>),
}

impl<'m> CodeGenerator<'m> {
    pub(crate) fn new(model: &'m VilaU, n: usize, options: &VisualOptions) -> Self {
        let guidance = options.guided().then_some(options.guidance);
        let rows = if guidance.is_some() { 2 * n } else { n };
        let device = model.llm.device();
        let (sampling, seed) = (options.sampling, options.seed);
        let images = options.first..options.first + n;
        Self {
            model,
            n,
            guidance,
            sampler: if is_cpu(&device) {
                CodeSampler::Host(Sampler::rows(sampling, seed, images))
            } else {
                let sampler = DeviceSampler::new(sampling, seed, images, &device);
                CodeSampler::Device(Box::new(sampler))
            },
            cache: model.vision_tower.rqtransformer.cache(rows),
            codes: Vec::new(),
        }
    }

    /// Samples `total` visual tokens, the first after `hidden` `[rows, hidden]`, and lets `batch` read all
    /// but the last. Their features, each `[n, C]`.
    pub(super) fn tokens(
        &mut self,
        batch: &mut DecodeBatch,
        mut hidden: Tensor<2>,
        total: usize,
        on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Vec<Tensor<2>>> {
        let mut features = Vec::with_capacity(total);
        while features.len() < total {
            let feature = self.visual_token(hidden)?;
            features.push(feature.clone());
            if features.len() == total || features.len().is_multiple_of(TOGETHER) {
                self.check()?;
            }
            let progress = Progress {
                done: features.len(),
                total,
                model: self.model,
                features: &features,
            };
            if on_progress(&progress).is_break() {
                return Err(Error::Interrupted);
            }
            if features.len() == total {
                break;
            }
            let embeds = self.model.mm_projector.forward(feature);
            hidden = batch.step(self.both(embeds));
        }
        Ok(features)
    }

    /// The feature `[n, C]` of the next visual token, given the hidden states `[rows, hidden]`: `n`
    /// rows, or with guidance `2 n`, those without a caption last.
    pub(crate) fn visual_token(&mut self, hidden: Tensor<2>) -> Result<Tensor<2>> {
        let tower = &self.model.vision_tower;
        let transformer = &tower.rqtransformer;
        let mut sum: Option<Tensor<2>> = None;
        for depth in 0..transformer.depth() {
            let logits = match sum.clone().map(|sum| self.both(sum)) {
                None => transformer.first(hidden.clone(), &mut self.cache),
                Some(sum) => transformer.next(sum, &mut self.cache),
            };
            let chosen = self.sample(logits)?;
            self.codes.push(chosen.clone());
            let vectors = tower.rqvaesiglip.quantizer.embed_code(depth, chosen);
            sum = Some(match sum {
                None => vectors,
                Some(sum) => sum + vectors,
            });
        }
        sum.ok_or_else(|| Error::failed("the model has no codes to choose"))
    }

    /// One code for each image, `[n]`, from the logits `[rows, codes]`.
    fn sample(&mut self, logits: Tensor<2>) -> Result<Tensor<1, Int>> {
        let (n, device) = (self.n, logits.device());
        let logits = logits.cast(DType::F32);
        let [_, width] = logits.dims();
        let logits = match self.guidance {
            Some(guidance) => {
                let with = logits.clone().narrow(0, 0, n);
                let without = logits.narrow(0, n, n);
                without.clone() + (with - without) * guidance
            }
            None => logits,
        };
        let samplers = match &mut self.sampler {
            CodeSampler::Host(samplers) => samplers,
            CodeSampler::Device(sampler) => return Ok(sampler.sample(logits)),
        };
        let logits = read_floats(logits)?;
        let rows = logits.chunks_exact(width).zip(samplers);
        let codes = rows.map(|(logits, sampler)| Ok(sampler.sample(logits)? as i64));
        let codes = codes.collect::<Result<Vec<i64>>>()?;
        Ok(Tensor::from_data(TensorData::new(codes, [n]), &device))
    }

    /// Waits for what has been asked of the device. Fails when some logits have not been numbers.
    fn check(&self) -> Result<()> {
        match &self.sampler {
            CodeSampler::Host(_) => Ok(()),
            CodeSampler::Device(sampler) => sampler.check(),
        }
    }

    /// What all rows read, given what each image reads: `[n, width]` -> `[rows, width]`.
    fn both(&self, x: Tensor<2>) -> Tensor<2> {
        match self.guidance {
            Some(_) => x.repeat_dim(0, 2),
            None => x,
        }
    }

    /// All codes, `[n, frames, rows, columns, depth]`.
    pub(super) fn codes(self, frames: usize) -> Tensor<5, Int> {
        let [rows, columns] = self.model.grid();
        let depth = self.model.vision_tower.rqtransformer.depth();
        Tensor::stack::<2>(self.codes, 1).reshape([self.n, frames, rows, columns, depth])
    }
}

/// Pixels `[n, frames, 3, H, W]` of the features of every position, each `[n, C]`.
pub(crate) fn decode(model: &VilaU, features: &[Tensor<2>]) -> Tensor<5> {
    let features = Tensor::stack::<3>(features.to_vec(), 1);
    let [n, positions, channels] = features.dims();
    let image = model.image_tokens();
    let features = features.reshape([n * positions / image, image, channels]);
    // One at a time: the decoder's activations are many times the size of an image.
    let images = features.split(1, 0).into_iter();
    let pixels = Tensor::cat(images.map(|image| model.pixels(image)).collect(), 0);
    let [images, colors, height, width] = pixels.dims();
    pixels.reshape([n, images / n, colors, height, width])
}
