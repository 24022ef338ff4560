//! The multimodal loss (paper, section 3.2) by teacher forcing: one autoregressive model over text tokens and
//! visual tokens predicts each target from what stands before it.
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

use crate::{
    Error, Result, device::read_floats, model::VilaU, sequence::SequenceLayout, tower::RqVaeSiglip,
};

/// Attention within images is the largest need of memory in encoding them.
const IMAGES_AT_ONCE: usize = 16;

/// The visual tokens of a batch, image after image.
#[derive(Debug, Clone)]
pub struct VisualTokens {
    /// `[tokens, D]`
    pub codes: Tensor<2, Int>,
    /// The sums of their code vectors, `[tokens, C]`.
    pub features: Tensor<2>,
}

impl VisualTokens {
    /// Of codes `[images, rows, columns, D]`.
    pub fn of(tower: &RqVaeSiglip, codes: Tensor<4, Int>) -> Self {
        let features = tower.valid().quantizer.features_of(codes.clone());
        Self {
            codes: codes.flatten::<2>(0, 2),
            features: features.flatten::<2>(0, 2),
        }
    }

    /// Of images `[images, 3, size, size]` in -1..1. The tower has no gradients, even on an autodiff
    /// device.
    pub fn encode(tower: &RqVaeSiglip, pixels: Tensor<4>) -> Self {
        Self::encode_with(&tower.valid(), pixels.inner())
    }

    /// The same with gradients for the vision encoder, which pass straight through the codes.
    pub(crate) fn encode_with_grad(tower: &RqVaeSiglip, pixels: Tensor<4>) -> Self {
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

/// The logits at every target, and the targets. `None` where a batch has none of the kind.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// `[targets, vocabulary]` and `[targets]`, in the order of [`SequenceLayout::text_targets`].
    pub text: Option<(Tensor<2>, Tensor<1, Int>)>,
    /// `[targets * D, codes]` and `[targets * D]`, in the order of [`SequenceLayout::visual_targets`].
    pub visual: Option<(Tensor<2>, Tensor<1, Int>)>,
}

/// The cross-entropy `-log p` of every target, in nats. `None` where a batch has none of the kind.
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
pub fn losses(
    model: &VilaU,
    layout: &SequenceLayout,
    visual: Option<&VisualTokens>,
) -> Result<Losses> {
    Ok(cross_entropies(model, predictions(model, layout, visual)?))
}

fn cross_entropies(model: &VilaU, Predictions { text, visual }: Predictions) -> Losses {
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
    visual: Option<&VisualTokens>,
) -> Result<Predictions> {
    let embeds = embeddings(model, layout, visual)?;
    let device = model.llm.device();
    let (positions, mask) = (layout.positions(&device), layout.mask(&device));
    let hidden = model.llm.forward(embeds, positions, Some(mask), None);
    Ok(predict(model, layout, visual, hidden))
}

/// The input of the language model, `[rows, length, hidden]`.
pub(crate) fn embeddings(
    model: &VilaU,
    layout: &SequenceLayout,
    visual: Option<&VisualTokens>,
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

/// The rows of hidden states that targets are predicted from, and the targets.
pub(crate) struct Targets {
    /// `[targets]` and `[targets]`.
    pub text: Option<(Tensor<1, Int>, Tensor<1, Int>)>,
    /// `[targets]` and `[targets, D]`.
    pub visual: Option<(Tensor<1, Int>, Tensor<2, Int>)>,
}

impl Targets {
    pub(crate) fn of(
        layout: &SequenceLayout,
        visual: Option<&VisualTokens>,
        device: &Device,
    ) -> Self {
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

/// The heads on the hidden states `[rows, length, hidden]`.
fn predict(
    model: &VilaU,
    layout: &SequenceLayout,
    visual: Option<&VisualTokens>,
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

/// `[targets, hidden]` and the tokens there `[targets]` -> `[targets]`.
pub(crate) fn text_losses(model: &VilaU, hidden: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<1> {
    cross_entropy(text_logits(model, hidden), ids)
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
pub(crate) fn code_losses(model: &VilaU, hidden: Tensor<2>, codes: Tensor<2, Int>) -> Tensor<2> {
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
        let (visual, depth) = match &self.visual {
            None => (Vec::new(), 0),
            Some(visual) => (read(visual.clone().flatten(0, 1))?, visual.dims()[1]),
        };
        // Of text, and of the codes at each depth.
        let mut means = vec![vec![Mean::default(); 1 + depth]; layout.samples];
        let mut add = |from: usize, first: usize, values: &[f64]| {
            if let Some(sample) = layout.sample_at(from) {
                let means = means[sample][first..].iter_mut();
                means.zip(values).for_each(|(mean, value)| mean.add(*value));
            }
        };
        for (target, value) in layout.text_targets.iter().zip(text) {
            add(target.from, 0, &[value]);
        }
        for (target, values) in layout
            .visual_targets
            .iter()
            .zip(visual.chunks(depth.max(1)))
        {
            add(target.from, 1, values);
        }
        Ok(means
            .iter()
            .map(|means| Score::of(means[0], &means[1..]))
            .collect())
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
    /// The same of the codes at each depth; empty where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depth_losses: Vec<f64>,
}

impl Score {
    fn of(text: Mean, depths: &[Mean]) -> Self {
        let depth_losses: Vec<f64> = depths.iter().filter_map(|mean| mean.value()).collect();
        Self {
            text_loss: text.value(),
            text_tokens: text.count,
            visual_loss: (!depth_losses.is_empty())
                .then(|| depth_losses.iter().sum::<f64>() / depth_losses.len() as f64),
            visual_tokens: depths.first().map_or(0, |mean| mean.count),
            depth_losses,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    pub(crate) fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    /// None of nothing.
    pub(crate) fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

fn read(values: Tensor<1>) -> Result<Vec<f64>> {
    let values = read_floats(values)?;
    Ok(values.into_iter().map(f64::from).collect())
}
