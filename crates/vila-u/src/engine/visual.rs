//! Images and videos of several requests, a visual token of each at a time (paper, section 3.3).

use burn::tensor::{DType, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::request::{Event, Listener};
use crate::{
    Error, Result,
    device::read_floats,
    generation::{
        sampling::Sampler,
        visual::{VisualOptions, VisualOutput, decode},
    },
    media::to_images,
    model::VilaU,
    pipeline::Generated,
};

/// An image or a video under way.
pub(super) struct VisualReply {
    frames: usize,
    /// The token that ends it in a reply of text and images.
    pub end: Option<i64>,
    guidance: f32,
    sampler: Sampler,
    /// Visual tokens of it.
    total: usize,
    /// Each `[1, C]`.
    features: Vec<Tensor<2>>,
    codes: Vec<i64>,
    previews: usize,
}

impl VisualReply {
    /// - `previews`: how many are told, evenly spread
    pub(super) fn new(
        model: &VilaU,
        frames: usize,
        options: &VisualOptions,
        previews: usize,
    ) -> Self {
        Self {
            frames,
            end: None,
            guidance: options.guidance as f32,
            sampler: Sampler::new(options.sampling, options.seed, options.first),
            total: frames * model.image_tokens(),
            features: Vec::new(),
            codes: Vec::new(),
            previews,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.features.len() == self.total
    }

    /// Tells how far it is, and now and then what it looks like.
    pub(super) fn tell(&self, model: &VilaU, listener: &mut Listener) -> Result<()> {
        let (done, total) = (self.features.len(), self.total);
        listener.tell(Event::Progress { done, total });
        // The last is the image itself.
        let parts = self.previews + 1;
        if done < total && done * parts / total > (done - 1) * parts / total {
            let mut features = self.features.clone();
            features.resize(total, self.features[0].zeros_like());
            let pixels = decode(model, &features);
            listener.tell(Event::Preview(to_images(pixels.flatten(0, 1))?));
        }
        Ok(())
    }

    /// The finished image or video.
    pub(super) fn generated(&self, model: &VilaU) -> Result<Generated> {
        let [rows, columns] = model.grid();
        let depth = self.codes.len() / self.total;
        let shape = [1, self.frames, rows, columns, depth];
        let codes = TensorData::new(self.codes.clone(), shape);
        let output = VisualOutput {
            codes: Tensor::from_data(codes, &model.llm.device()),
            pixels: decode(model, &self.features),
        };
        let mut generated = Generated::read(&output)?;
        generated
            .pop()
            .ok_or_else(|| Error::failed("the model has no codes to choose"))
    }

    /// The code of the next depth, from the logits with the caption and without.
    fn sample(&mut self, with: &[f32], without: Option<&[f32]>) -> Result<i64> {
        let code = match without {
            None => self.sampler.sample(with)?,
            Some(without) => {
                let guided: Vec<f32> = with
                    .iter()
                    .zip(without)
                    .map(|(with, without)| without + (with - without) * self.guidance)
                    .collect();
                self.sampler.sample(&guided)?
            }
        };
        Ok(code as i64)
    }
}

/// Samples the next visual token of every reply, given the hidden states `[1, hidden]` after its prompt and, where it is
/// guided, after the unconditional one, and says what the sequences are to read of it: `[replies, hidden]`. A reply whose
/// logits are not numbers has its own error.
pub(super) fn sample(
    model: &VilaU,
    replies: &mut [(Tensor<2>, Option<Tensor<2>>, &mut VisualReply)],
) -> Result<(Tensor<2>, Vec<Result<()>>)> {
    let n = replies.len();
    let mut hidden: Vec<Tensor<2>> = replies.iter().map(|(with, ..)| with.clone()).collect();
    let mut guided = Vec::new();
    // The row without the caption, for each reply that is guided.
    let mut without = vec![None; n];
    for (index, (_, unconditional, _)) in replies.iter().enumerate() {
        if let Some(unconditional) = unconditional {
            without[index] = Some(hidden.len());
            hidden.push(unconditional.clone());
            guided.push(index);
        }
    }
    let tower = &model.vision_tower;
    let transformer = &tower.rqtransformer;
    let device = model.llm.device();
    let rows: Vec<i64> = (0..n).chain(guided).map(|row| row as i64).collect();
    let mut cache = transformer.cache(rows.len());
    let rows: Tensor<1, Int> = Tensor::from_data(TensorData::from(rows.as_slice()), &device);
    let mut outcomes: Vec<Result<()>> = (0..n).map(|_| Ok(())).collect();
    let mut logits = transformer.first(Tensor::cat(hidden, 0), &mut cache);
    let depth = transformer.depth();
    let mut sum: Option<Tensor<2>> = None;
    for at in 0..depth {
        let [_, width] = logits.dims();
        let values = read_floats(logits.clone().cast(DType::F32))?;
        let row = |row: usize| &values[row * width..][..width];
        let codes: Vec<Result<i64>> = replies
            .par_iter_mut()
            .zip(&without)
            .enumerate()
            .map(|(index, ((.., reply), without))| reply.sample(row(index), without.map(row)))
            .collect();
        let mut chosen = Vec::with_capacity(n);
        for (code, outcome) in codes.into_iter().zip(&mut outcomes) {
            chosen.push(code.unwrap_or_else(|error| {
                *outcome = Err(error);
                0
            }));
        }
        for ((.., reply), code) in replies.iter_mut().zip(&chosen) {
            reply.codes.push(*code);
        }
        let chosen = Tensor::from_data(TensorData::new(chosen, [n]), &device);
        let vectors = tower.rqvaesiglip.quantizer.embed_code(at, chosen);
        let so_far = match sum {
            None => vectors,
            Some(sum) => sum + vectors,
        };
        if at + 1 < depth {
            let both = so_far.clone().select(0, rows.clone());
            logits = transformer.next(both, &mut cache);
        }
        sum = Some(so_far);
    }
    let features = sum.ok_or_else(|| Error::failed("the model has no codes to choose"))?;
    for (index, (.., reply)) in replies.iter_mut().enumerate() {
        reply.features.push(features.clone().narrow(0, index, 1));
    }
    Ok((model.mm_projector.forward(features), outcomes))
}
