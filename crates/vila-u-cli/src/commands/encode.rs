//! `vila-u encode`: images to codes.

use std::path::Path;

use serde_json::json;
use vila_u::{
    Codes, Error, Features, Result, atomic, media,
    safetensors::{Dtype, serialize, tensor::TensorView},
};

use super::{check_not_input, check_parent, pipeline};
use crate::{
    arguments::{Encode, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Encode, console: &Console) -> Result<()> {
    check_parent(&args.output)?;
    check_not_input(&args.output, &args.images)?;
    let pipeline = pipeline(global, console).vision_only().build()?;
    let (mut codes, mut features) = (Vec::new(), Vec::new());
    for (index, path) in args.images.iter().enumerate() {
        if console.stopped() {
            return Err(Error::Interrupted);
        }
        let encoded = pipeline.encode(media::load(path)?)?;
        codes.push(encoded.codes);
        if args.features {
            features.push(encoded.features);
        }
        console.progress("encoding", index as u64 + 1, args.images.len() as u64, "");
    }
    save_codes(&codes, &features, &args.output)?;
    let n = codes.len();
    let [height, width, depth] = pipeline.code_shape();
    console.result(
        format!(
            "{}: {n} x {height} x {width} x {depth} codes",
            args.output.display()
        ),
        json!({"file": args.output.display().to_string(), "codes": [n, height, width, depth]}),
    )
}

/// Writes `codes` [n, h, w, D] i64 and, if there are some, `features` [n, h, w, C] f32.
pub fn save_codes(codes: &[Codes], features: &[Features], file: &Path) -> Result<()> {
    let shape = |n: usize, [rows, columns, depth]: [usize; 3]| vec![n, rows, columns, depth];
    let mut tensors = Vec::new();
    if let Some(first) = codes.first() {
        let values = codes.iter().flat_map(Codes::values);
        let bytes: Vec<u8> = values.flat_map(|code| code.to_le_bytes()).collect();
        tensors.push((
            "codes",
            Dtype::I64,
            shape(codes.len(), first.shape()),
            bytes,
        ));
    }
    if let Some(first) = features.first() {
        let values = features.iter().flat_map(Features::values);
        let bytes = values.flat_map(|value| value.to_le_bytes()).collect();
        let shape = shape(features.len(), first.shape());
        tensors.push(("features", Dtype::F32, shape, bytes));
    }
    let invalid = |e| Error::invalid(file, format!("cannot be written: {e}"));
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in &tensors {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(invalid)?;
        views.push((*name, view));
    }
    atomic::write(file, &serialize(views, None).map_err(invalid)?)
}
