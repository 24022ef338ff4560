//! Samples laid out in rows of positions: the token at each position, what it may attend to, and what it has to
//! predict.
//!
//! All indices are computed on the host from the spans alone. The tensors then come from a few
//! gathers, whatever the number of samples, so that gradients reach the text embeddings and the
//! projector.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::{Content, Sample, packing::pack};
use crate::language::{Llama, causal_mask};

/// The hidden state at `from` predicts the text token `id`, which stands at `from + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextTarget {
    /// Position counted over all rows: `row * length + column`.
    pub from: usize,
    pub id: i64,
}

/// The hidden state at `from` predicts the codes of a visual token, which stands at `from + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisualTarget {
    /// Position counted over all rows: `row * length + column`.
    pub from: usize,
    /// Which visual token, counted over all images of all samples.
    pub token: usize,
}

/// A batch of rows. Vectors named "per position" hold `rows * length` values, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceLayout {
    pub rows: usize,
    pub length: usize,
    /// How many samples the rows hold.
    pub samples: usize,
    /// Visual tokens of all images of all samples, sample after sample in the order given.
    pub visual_tokens: usize,
    /// The text tokens of all samples, sample after sample in the order given.
    tokens: Vec<i64>,
    /// Per position: a text token (index in `tokens`), a visual token (`tokens.len()` + its index),
    /// or padding (the index after the last of these).
    source: Vec<i64>,
    /// Per position: distance from the start of its sample; 0 for padding.
    positions: Vec<i64>,
    /// Per position: index of its sample; -1 for padding.
    segment_ids: Vec<i64>,
    /// In the order of `from` within a sample, sample after sample in the order given.
    pub text_targets: Vec<TextTarget>,
    /// In the order of `from` within a sample, sample after sample in the order given.
    pub visual_targets: Vec<VisualTarget>,
}

impl SequenceLayout {
    /// For training: samples cut to `max_length` positions and packed into rows of `capacity`
    /// positions, or of the longest sample's length where that is more or `capacity` is not given.
    /// Rows are padded on the right.
    ///
    /// - `visual_tokens`: positions per image
    pub fn packed(
        samples: &[Sample],
        visual_tokens: usize,
        max_length: usize,
        capacity: Option<usize>,
    ) -> Self {
        let lengths: Vec<usize> = samples
            .iter()
            .map(|sample| sample.length(visual_tokens).min(max_length))
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let rows = pack(&lengths, capacity.unwrap_or(0).max(longest));
        let mut starts = vec![(0, 0); samples.len()];
        let mut length = 0;
        for (row, members) in rows.iter().enumerate() {
            let mut column = 0;
            for &sample in members {
                starts[sample] = (row, column);
                column += lengths[sample];
            }
            length = length.max(column);
        }
        Self::place(
            samples,
            visual_tokens,
            &lengths,
            &starts,
            rows.len(),
            length,
        )
    }

    /// For generation: one sample a row, padded on the left, so that every row continues at the
    /// same column. Nothing is cut.
    ///
    /// - `visual_tokens`: positions per image
    pub fn left_padded(samples: &[Sample], visual_tokens: usize) -> Self {
        let lengths: Vec<usize> = samples
            .iter()
            .map(|sample| sample.length(visual_tokens))
            .collect();
        let length = lengths.iter().copied().max().unwrap_or(0);
        let starts: Vec<(usize, usize)> = lengths
            .iter()
            .enumerate()
            .map(|(row, own)| (row, length - own))
            .collect();
        Self::place(
            samples,
            visual_tokens,
            &lengths,
            &starts,
            samples.len(),
            length,
        )
    }

    /// Writes the first `lengths[i]` positions of sample `i` from `starts[i]` (row, column) on.
    fn place(
        samples: &[Sample],
        visual_tokens: usize,
        lengths: &[usize],
        starts: &[(usize, usize)],
        rows: usize,
        length: usize,
    ) -> Self {
        let mut tokens = Vec::new();
        let mut images = 0;
        for span in samples.iter().flat_map(|sample| &sample.spans) {
            match &span.content {
                Content::Text(ids) => tokens.extend_from_slice(ids),
                Content::Visual(count) => images += count,
            }
        }
        let first_visual = tokens.len();
        let padding = first_visual + images * visual_tokens;
        let mut layout = Self {
            rows,
            length,
            samples: samples.len(),
            visual_tokens: images * visual_tokens,
            tokens,
            source: vec![padding as i64; rows * length],
            positions: vec![0; rows * length],
            segment_ids: vec![-1; rows * length],
            text_targets: Vec::new(),
            visual_targets: Vec::new(),
        };
        let (mut text, mut visual) = (0, 0);
        for (index, sample) in samples.iter().enumerate() {
            let (row, column) = starts[index];
            let start = row * length + column;
            let end = start + lengths[index];
            let mut at = start;
            for span in &sample.spans {
                // Tokens past the end are cut; they still count, as do the images they belong to.
                let (first, tokens) = match &span.content {
                    Content::Text(ids) => (text, ids.len()),
                    Content::Visual(images) => (first_visual + visual, images * visual_tokens),
                };
                for (position, source) in (at..end).zip(first..first + tokens) {
                    layout.source[position] = source as i64;
                    layout.positions[position] = (position - start) as i64;
                    layout.segment_ids[position] = index as i64;
                    // A sample's first token has nothing of its own to be predicted from.
                    if position == start {
                        continue;
                    }
                    let from = position - 1;
                    if source < first_visual && span.role.predicts_text() {
                        let id = layout.tokens[source];
                        layout.text_targets.push(TextTarget { from, id });
                    }
                    if source >= first_visual && span.role.predicts_visual() {
                        let token = source - first_visual;
                        layout.visual_targets.push(VisualTarget { from, token });
                    }
                }
                match &span.content {
                    Content::Text(_) => text += tokens,
                    Content::Visual(_) => visual += tokens,
                }
                at += tokens;
            }
        }
        layout
    }

    /// Share of the positions that are padding, 0 to 1.
    pub fn padding(&self) -> f64 {
        let padding = self.segment_ids.iter().filter(|id| **id < 0).count();
        padding as f64 / self.segment_ids.len().max(1) as f64
    }

    /// The sample that stands at a position (`row * length + column`), `None` for padding.
    pub fn sample_at(&self, position: usize) -> Option<usize> {
        usize::try_from(self.segment_ids[position]).ok()
    }

    /// The text token at a position (`row * length + column`), `None` for a visual token or padding.
    #[cfg(test)]
    pub fn text_at(&self, position: usize) -> Option<i64> {
        let index = usize::try_from(self.source[position]).ok()?;
        self.tokens.get(index).copied()
    }

    /// Input of the language model, `[rows, length, hidden]`; zeros at padding.
    ///
    /// - `visual`: one embedding per visual token, `[visual_tokens, hidden]`; `None` without images
    pub fn embeddings(&self, llm: &Llama, visual: Option<Tensor<2>>) -> Tensor<3> {
        let device = llm.device();
        let ids = ints(self.tokens.clone(), [1, self.tokens.len()], &device);
        let text = llm.embed(ids).squeeze_dim::<2>(0);
        let [_, hidden] = text.dims();
        let dtype = text.dtype();
        let mut parts = vec![text];
        parts.extend(visual.map(|visual| visual.cast(dtype)));
        parts.push(Tensor::zeros([1, hidden], (&device, dtype)));
        let source = ints(self.source.clone(), [self.source.len()], &device);
        Tensor::cat(parts, 0)
            .select(0, source)
            .reshape([self.rows, self.length, hidden])
    }

    /// Position of every token within its sample, `[rows, length]`; 0 at padding.
    pub fn positions(&self, device: &Device) -> Tensor<2, Int> {
        ints(self.positions.clone(), [self.rows, self.length], device)
    }

    /// `true` where a token may *not* look: at later tokens, other samples and padding. Padding sees
    /// the padding before it. `[rows, 1, length, length]`.
    pub fn mask(&self, device: &Device) -> Tensor<4, Bool> {
        let (rows, length) = (self.rows, self.length);
        let samples: Tensor<4, Int> = ints(self.segment_ids.clone(), [rows, 1, length, 1], device);
        let square = [rows, 1, length, length];
        let query = samples.clone().expand(square);
        let key = samples.swap_dims(2, 3).expand(square);
        let later = causal_mask(length, length, device).expand(square);
        query.not_equal(key).bool_or(later)
    }
}

fn ints<const D: usize>(values: Vec<i64>, shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
