//! How well the model predicts given answers and pictures: the losses of training, sample by sample.

use burn::tensor::{Tensor, TensorData};
use serde::Serialize;

use crate::{
    Result,
    data::{Prepared, Record, prepare},
    model::{VilaU, VilaUConfig},
    sequence::SequenceLayout,
    teacher_forcing::{Score, VisualTokens, losses},
    text::Tokenizer,
};

/// The score of one record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    pub id: String,
    #[serde(flatten)]
    pub score: Score,
}

/// Reads a record's pictures and predicts each of its targets, given everything before it.
///
/// Errors when a picture cannot be read, or the record is no conversation about its pictures.
pub fn score(
    model: &VilaU,
    config: &VilaUConfig,
    tokenizer: &Tokenizer,
    record: &Record,
) -> Result<Scored> {
    let Prepared { sample, pixels, .. } = prepare(record, tokenizer, config)?;
    let (images, size) = (
        sample.images().len(),
        config.siglip.vision_config.image_size,
    );
    let visual = (images > 0).then(|| {
        let pixels = TensorData::new(pixels, [images, 3, size, size]);
        let pixels = Tensor::from_data(pixels, &model.llm.device());
        VisualTokens::encode(&model.vision_tower.rqvaesiglip, pixels)
    });
    let samples = std::slice::from_ref(&sample);
    let max_length = config.llm.max_length();
    let layout = SequenceLayout::packed(samples, model.image_tokens(), max_length, None);
    let score = losses(model, &layout, visual.as_ref())?.scores(&layout)?;
    Ok(Scored {
        id: record.id.clone(),
        score: score.into_iter().next().unwrap_or_default(),
    })
}
