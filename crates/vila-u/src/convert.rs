//! Networks that training and evaluation need, out of their authors' files (`vila-u convert`).

use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use safetensors::{Dtype, SafeTensorError, tensor::TensorView};

use crate::{
    Error, Result, atomic, checkpoint::tensors::Tensors, evaluation::inception,
    training::losses::lpips_file,
};

/// Writes to `output` (safetensors) the network that these files hold, which their keys tell: LPIPS from VGG16 and its
/// linear heads, in any order, or FID's Inception-v3.
///
/// # Errors
/// When a file is missing, damaged or of another network, and when `output` cannot be written.
pub fn convert(inputs: &[PathBuf], output: &Path) -> Result<()> {
    match inputs {
        [input] if inception::is_inception(&Tensors::open_file(input)?) => {
            inception::convert(input, output)
        }
        _ => lpips_file::convert(inputs, output),
    }
}

/// A tensor as it is written: f32, row-major.
pub(crate) struct StoredFloats {
    key: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl StoredFloats {
    pub(crate) fn new(key: impl Into<String>, values: &TensorData) -> Self {
        Self {
            key: key.into(),
            shape: values.shape().to_vec(),
            bytes: values.iter::<f32>().flat_map(f32::to_le_bytes).collect(),
        }
    }
}

/// Writes these tensors as a safetensors file, or leaves everything as it was.
pub(crate) fn write_floats(output: &Path, tensors: Vec<StoredFloats>) -> Result<()> {
    let failed = |error: SafeTensorError| Error::failed(format!("{}: {error}", output.display()));
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &tensor.bytes);
        Ok((&tensor.key, view.map_err(failed)?))
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let file = safetensors::serialize(views, None).map_err(failed)?;
    atomic::write(output, &file)
}
