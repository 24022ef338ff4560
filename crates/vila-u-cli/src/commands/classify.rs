//! `vila-u classify`: zero-shot classification with the text-aligned visual tokens.

use serde_json::{Map, json};
use vila_u::{
    Error, Result,
    burn::tensor::{Int, Tensor, TensorData, activation::softmax},
    media::preprocess::ResizeMode,
};

use super::{load_tower, read_pixels};
use crate::{
    arguments::{Classify, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Classify, console: &Console) -> Result<()> {
    if args.labels.len() < 2 {
        return Err(Error::usage(
            "give at least two labels: --label \"a dog\" --label \"a cat\"",
        ));
    }
    let tower = load_tower(global, console)?;
    let tokenizer = tower.text_tokenizer()?;
    let size = tower.siglip.vision_config.image_size;
    let model = &tower.model;
    let device = model.post_quant_conv.weight.device();
    let ids: Vec<Vec<i64>> = args.labels.iter().map(|l| tokenizer.encode(l)).collect();
    let shape = [ids.len(), ids[0].len()];
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.concat(), shape), &device);
    let labels = model.text_embeds(ids);

    let (mut lines, mut values) = (Vec::new(), Vec::new());
    for path in &args.images {
        let pixels = read_pixels(path, size, ResizeMode::Stretch, &device)?;
        let image = model.image_embeds(pixels, true);
        let logits = model.siglip_model.logits_per_image(image, labels.clone());
        let probabilities: Vec<f32> = softmax(logits, 1)
            .try_into_vec_as()
            .map_err(|e| Error::failed(format!("reading from the device: {e}")))?;
        let mut ranked: Vec<_> = args.labels.iter().zip(probabilities).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        lines.push(format!("{}", path.display()));
        lines.extend(ranked.iter().map(|(l, p)| format!("  {p:.4}  {l}")));
        let probabilities: Map<_, _> = ranked
            .into_iter()
            .map(|(label, p)| (label.clone(), json!(p)))
            .collect();
        values.push(json!({"image": path.display().to_string(), "probabilities": probabilities}));
    }
    console.result(lines.join("\n"), json!(values))
}
