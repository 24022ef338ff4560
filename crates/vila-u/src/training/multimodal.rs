//! The multi-modal objective (paper, section 3.2): one autoregressive model over text tokens and
//! visual tokens.
//!
//! ```text
//! loss = mean over text targets of -log p(token | hidden before it)
//!      + mean over visual targets and depths of -log p(code | hidden before it, codes before it)
//! ```
//!
//! The language head gives the first, the depth transformer the second; each is only computed where
//! [`crate::sequence`] says there is something to predict.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor, TensorData},
};
use serde::Serialize;
use vila_u_kernels::{cross_entropy, full_precision};

use super::pieces::Pieces;
use super::recompute::Recomputed;
use crate::{
    Error, Result, device::read_floats, model::VilaU, sequence::SequenceLayout, tower::RqVaeSiglip,
};

/// Attention within images is the largest need of memory in encoding them.
const IMAGES_AT_ONCE: usize = 16;

/// The visual tokens of a batch, image after image.
#[derive(Debug, Clone)]
pub struct Visual {
    /// `[tokens, D]`
    pub codes: Tensor<2, Int>,
    /// The sums of their code vectors, `[tokens, C]`.
    pub features: Tensor<2>,
}

impl Visual {
    /// Of codes `[images, rows, columns, D]`.
    pub fn of(tower: &RqVaeSiglip, codes: Tensor<4, Int>) -> Self {
        let features = tower.valid().quantizer.features_of(codes.clone());
        Self {
            codes: codes.flatten::<2>(0, 2),
            features: features.flatten::<2>(0, 2),
        }
    }

    /// Of images `[images, 3, size, size]` in -1..1. The tower records no gradients, even on a device
    /// that would.
    pub fn encode(tower: &RqVaeSiglip, pixels: Tensor<4>) -> Self {
        Self::encode_with(&tower.valid(), pixels.inner())
    }

    /// The same with gradients for the vision encoder, which pass straight through the codes.
    pub(super) fn encode_recorded(tower: &RqVaeSiglip, pixels: Tensor<4>) -> Self {
        let visual = Self::encode_with(tower, pixels);
        Self {
            codes: visual.codes.inner(),
            ..visual
        }
    }

    fn encode_with(tower: &RqVaeSiglip, pixels: Tensor<4>) -> Self {
        let (mut codes, mut features) = (Vec::new(), Vec::new());
        for pixels in pixels.split(IMAGES_AT_ONCE, 0) {
            // The codes must be those that this tower gives anywhere else.
            let quantized = full_precision(|| tower.encode(pixels));
            codes.push(quantized.codes.flatten::<2>(0, 2));
            features.push(quantized.z_q.flatten::<2>(0, 2));
        }
        Self {
            codes: Tensor::cat(codes, 0),
            features: Tensor::cat(features, 0),
        }
    }
}

/// What the model expects at every target, as logits, and what is there. `None` where a batch has no such
/// target.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// `[targets, vocabulary]` and `[targets]`, in the order of [`SequenceLayout::text_targets`].
    pub text: Option<(Tensor<2>, Tensor<1, Int>)>,
    /// `[targets * D, codes]` and `[targets * D]`, in the order of [`SequenceLayout::visual_targets`].
    pub visual: Option<(Tensor<2>, Tensor<1, Int>)>,
}

/// How surprising every target was, `-log p`. `None` where a batch has no such target.
#[derive(Debug, Clone)]
pub struct Losses {
    /// `[targets]`, in the order of [`SequenceLayout::text_targets`].
    pub text: Option<Tensor<1>>,
    /// `[targets, D]`, in the order of [`SequenceLayout::visual_targets`].
    pub visual: Option<Tensor<2>>,
}

/// Reads a batch and compares each prediction with what stands there.
///
/// `visual`: the tokens of all images of the layout's samples, in their order.
///
/// Errors when these are more or fewer than the layout has room for.
pub fn losses(model: &VilaU, layout: &SequenceLayout, visual: Option<&Visual>) -> Result<Losses> {
    Ok(compare(model, predictions(model, layout, visual)?))
}

/// Reads a batch as [`losses`] does, with little kept for the way back: the language model's layers are left
/// to be computed again, and visual targets have gone it piece by piece.
pub(super) fn recomputed(
    model: &VilaU,
    layout: &SequenceLayout,
    visual: Option<&Visual>,
    seed: Option<u64>,
) -> Result<(Losses, Recomputed, Option<Pieces>)> {
    let embeds = embeddings(model, layout, visual)?;
    let device = model.llm.device();
    let (positions, mask) = (layout.positions(&device), layout.mask(&device));
    let layers = Recomputed::forward(&model.llm, embeds, positions, mask, seed);
    let hidden = model.llm.normalised(layers.top()).flatten::<2>(0, 1);
    let targets = Targets::of(layout, visual, &device);
    let text = targets.text.map(|(from, ids)| {
        let logits = text_logits(model, hidden.clone().select(0, from));
        cross_entropy(logits, ids)
    });
    let pieces = targets
        .visual
        .map(|(from, codes)| Pieces::new(model, hidden.select(0, from), codes));
    let visual = pieces.as_ref().map(|pieces| pieces.losses.clone());
    Ok((Losses { text, visual }, layers, pieces))
}

fn compare(model: &VilaU, Predictions { text, visual }: Predictions) -> Losses {
    let depth = model.vision_tower.rqtransformer.depth();
    let of = |(logits, targets)| cross_entropy(logits, targets);
    Losses {
        text: text.map(of),
        visual: visual.map(of).map(|losses| {
            let [codes] = losses.dims();
            losses.reshape([codes / depth, depth])
        }),
    }
}

/// Reads a batch; see [`losses`].
pub fn predictions(
    model: &VilaU,
    layout: &SequenceLayout,
    visual: Option<&Visual>,
) -> Result<Predictions> {
    let embeds = embeddings(model, layout, visual)?;
    let device = model.llm.device();
    let (positions, mask) = (layout.positions(&device), layout.mask(&device));
    let hidden = model.llm.forward(embeds, positions, Some(mask), None);
    Ok(expected(model, layout, visual, hidden))
}

/// What the language model reads, `[rows, length, hidden]`.
fn embeddings(
    model: &VilaU,
    layout: &SequenceLayout,
    visual: Option<&Visual>,
) -> Result<Tensor<3>> {
    let given = visual.map_or(0, |visual| visual.codes.dims()[0]);
    if given != layout.visual_tokens {
        return Err(Error::failed(format!(
            "{given} visual tokens are given for {} places",
            layout.visual_tokens
        )));
    }
    let projected = visual.map(|visual| model.mm_projector.forward(visual.features.clone()));
    Ok(layout.embeddings(&model.llm, projected))
}

/// Where something is predicted from, as rows of hidden states, and what is there.
struct Targets {
    /// `[targets]` and `[targets]`.
    text: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
    /// `[targets]` and `[targets, D]`.
    visual: Option<(Tensor<1, Int>, Tensor<2, Int>)>,
}

impl Targets {
    fn of(layout: &SequenceLayout, visual: Option<&Visual>, device: &Device) -> Self {
        let indices = |values: Vec<usize>| -> Tensor<1, Int> {
            let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
            Tensor::from_data(TensorData::from(values.as_slice()), device)
        };
        let targets = &layout.text_targets;
        let text = (!targets.is_empty()).then(|| {
            let from = indices(targets.iter().map(|target| target.from).collect());
            let ids: Vec<i64> = targets.iter().map(|target| target.id).collect();
            (
                from,
                Tensor::from_data(TensorData::from(ids.as_slice()), device),
            )
        });
        let targets = &layout.visual_targets;
        let visual = visual.filter(|_| !targets.is_empty()).map(|visual| {
            let from = indices(targets.iter().map(|target| target.from).collect());
            let tokens = indices(targets.iter().map(|target| target.token).collect());
            (from, visual.codes.clone().select(0, tokens))
        });
        Self { text, visual }
    }
}

/// What the heads make of the hidden states `[rows, length, hidden]`.
fn expected(
    model: &VilaU,
    layout: &SequenceLayout,
    visual: Option<&Visual>,
    hidden: Tensor<3>,
) -> Predictions {
    let hidden = hidden.flatten::<2>(0, 1);
    let targets = Targets::of(layout, visual, &model.llm.device());
    let text = targets.text.map(|(from, ids)| {
        let hidden = hidden.clone().select(0, from);
        (text_logits(model, hidden), ids)
    });
    let visual = targets.visual.map(|(from, codes)| {
        let logits = code_logits(model, hidden.select(0, from), codes.clone());
        (logits, codes.flatten(0, 1))
    });
    Predictions { text, visual }
}

/// `[targets, hidden]` -> `[targets, vocabulary]`.
fn text_logits(model: &VilaU, hidden: Tensor<2>) -> Tensor<2> {
    let logits = model.llm.logits(hidden.unsqueeze_dim(0));
    logits.squeeze_dim::<2>(0)
}

/// `[targets, hidden]` and the codes there `[targets, D]` -> `[targets * D, codes]`.
fn code_logits(model: &VilaU, hidden: Tensor<2>, codes: Tensor<2, Int>) -> Tensor<2> {
    let tower = &model.vision_tower;
    let quantizer = &tower.rqvaesiglip.quantizer;
    let sums = quantizer.cumulative_embeddings(codes).inner();
    let logits = tower.rqtransformer.teacher_forced(hidden, sums);
    logits.flatten(0, 1)
}

/// `[targets, hidden]` and the codes there `[targets, D]` -> `[targets, D]`.
pub(super) fn code_losses(model: &VilaU, hidden: Tensor<2>, codes: Tensor<2, Int>) -> Tensor<2> {
    let shape = codes.dims();
    let logits = code_logits(model, hidden, codes.clone());
    cross_entropy(logits, codes.flatten(0, 1)).reshape(shape)
}

impl Losses {
    /// `[1]`, mean over text targets.
    pub fn text_loss(&self) -> Option<Tensor<1>> {
        self.text.clone().map(Tensor::mean)
    }

    /// `[1]`, mean over visual targets and depths.
    pub fn visual_loss(&self) -> Option<Tensor<1>> {
        self.visual.clone().map(Tensor::mean)
    }

    /// `[D]`, mean over visual targets at each depth.
    pub fn depth_losses(&self) -> Option<Tensor<1>> {
        let visual = self.visual.clone()?;
        Some(visual.mean_dim(0).squeeze_dim(0))
    }

    /// `[1]`, the sum of both; `None` where nothing was to be predicted.
    pub fn total(&self) -> Option<Tensor<1>> {
        match (self.text_loss(), self.visual_loss()) {
            (Some(text), Some(visual)) => Some(text + visual),
            (text, visual) => text.or(visual),
        }
    }

    /// The means of every sample of the batch by itself, whichever row it was packed in.
    pub fn scores(&self, layout: &SequenceLayout) -> Result<Vec<Score>> {
        let text = match &self.text {
            None => Vec::new(),
            Some(text) => read(text.clone())?,
        };
        let visual = match &self.visual {
            None => Vec::new(),
            Some(visual) => read(visual.clone().mean_dim(1).squeeze_dim(1))?,
        };
        let mut scores = vec![[Mean::default(); 2]; layout.samples];
        let mut add = |kind: usize, from: usize, value: f64| {
            if let Some(sample) = layout.sample_at(from) {
                scores[sample][kind].add(value);
            }
        };
        for (target, value) in layout.text_targets.iter().zip(text) {
            add(0, target.from, value);
        }
        for (target, value) in layout.visual_targets.iter().zip(visual) {
            add(1, target.from, value);
        }
        let score = |[text, visual]: [Mean; 2]| Score {
            text_loss: text.value(),
            text_tokens: text.count,
            visual_loss: visual.value(),
            visual_tokens: visual.count,
        };
        Ok(scores.into_iter().map(score).collect())
    }
}

/// How well one sample was predicted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Score {
    /// Mean of `-log p` over the text tokens to be predicted; none where there are none.
    pub text_loss: Option<f64>,
    pub text_tokens: usize,
    /// Mean of `-log p` over the codes of the visual tokens to be predicted.
    pub visual_loss: Option<f64>,
    pub visual_tokens: usize,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// None of nothing.
    pub(super) fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

fn read(values: Tensor<1>) -> Result<Vec<f64>> {
    let values = read_floats(values)?;
    Ok(values.into_iter().map(f64::from).collect())
}
