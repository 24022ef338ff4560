//! `vila-u encode`: images to codes.

use std::{collections::HashMap, path::Path};

use serde_json::json;
use vila_u::{
    Error, Result, atomic,
    burn::tensor::{Int, Tensor},
    media::preprocess::ResizeMode,
    safetensors::{Dtype, serialize, tensor::TensorView},
};

use super::{check_parent, load_tower, read_pixels};
use crate::{
    arguments::{Encode, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Encode, console: &Console) -> Result<()> {
    check_parent(&args.output)?;
    let tower = load_tower(global, console)?;
    let size = tower.siglip.vision_config.image_size;
    let model = &tower.model;
    let device = model.post_quant_conv.weight.device();
    let (mut codes, mut features) = (Vec::new(), Vec::new());
    for (index, path) in args.images.iter().enumerate() {
        if console.stopped() {
            return Err(Error::Interrupted);
        }
        let quantized = model.encode(read_pixels(path, size, ResizeMode::Stretch, &device)?);
        codes.push(quantized.codes);
        if args.features {
            features.push(quantized.z_q);
        }
        console.progress("encoding", index as u64 + 1, args.images.len() as u64, "");
    }
    let codes = Tensor::cat(codes, 0);
    let shape = codes.dims();
    let features = (!features.is_empty()).then(|| Tensor::cat(features, 0));
    save_codes(codes, features, &args.output)?;
    let [n, height, width, depth] = shape;
    console.result(
        format!(
            "{}: {n} x {height} x {width} x {depth} codes",
            args.output.display()
        ),
        json!({"file": args.output.display().to_string(), "codes": shape}),
    )
}

/// Writes `codes` [n, h, w, D] i64 and, if given, `features` [n, h, w, C] f32.
pub fn save_codes(codes: Tensor<4, Int>, features: Option<Tensor<4>>, file: &Path) -> Result<()> {
    let unread = |e| Error::failed(format!("reading from the device: {e}"));
    let mut tensors = HashMap::new();
    let shape = codes.dims().to_vec();
    let values = codes.try_into_vec_as::<i64>().map_err(unread)?;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    tensors.insert("codes", (Dtype::I64, shape, bytes));
    if let Some(features) = features {
        let shape = features.dims().to_vec();
        let values = features.try_into_vec_as::<f32>().map_err(unread)?;
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.insert("features", (Dtype::F32, shape, bytes));
    }
    let invalid = |e| Error::invalid(file, format!("cannot be written: {e}"));
    let mut views = Vec::new();
    for (name, (dtype, shape, bytes)) in &tensors {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(invalid)?;
        views.push((*name, view));
    }
    atomic::write(file, &serialize(views, None).map_err(invalid)?)
}
