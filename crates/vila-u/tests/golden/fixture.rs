//! Reading the recorded tensors, and comparing with them.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{Device, Int, Shape, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-d4")
}

/// Writes tensors of f32 by key, with their shapes.
pub fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = (tensors.iter())
        .map(|(_, _, values)| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((key, shape, _), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (key, view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// One `.safetensors` file of the fixture, read whole.
pub struct Recorded(HashMap<String, (Vec<usize>, Values)>);

enum Values {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

impl Recorded {
    pub fn open(name: &str) -> Self {
        Self::read(&folder().join(name))
    }

    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let read = |view: &TensorView| {
            let data = view.data();
            match view.dtype() {
                Dtype::F32 => Values::Float(
                    data.chunks_exact(4)
                        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                        .collect(),
                ),
                Dtype::I64 => Values::Int(
                    data.chunks_exact(8)
                        .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
                        .collect(),
                ),
                Dtype::I32 => Values::Int(
                    data.chunks_exact(4)
                        .map(|b| i32::from_le_bytes(b.try_into().unwrap()) as i64)
                        .collect(),
                ),
                Dtype::U8 => Values::Int(data.iter().map(|&b| b as i64).collect()),
                other => panic!("{}: dtype {other:?}", path.display()),
            }
        };
        Self(
            file.iter()
                .map(|(key, view)| (key.to_string(), (view.shape().to_vec(), read(&view))))
                .collect(),
        )
    }

    pub fn shape(&self, key: &str) -> Vec<usize> {
        self.0[key].0.clone()
    }

    pub fn floats(&self, key: &str) -> Vec<f32> {
        match &self.0[key].1 {
            Values::Float(values) => values.clone(),
            Values::Int(_) => panic!("{key} holds integers"),
        }
    }

    pub fn ints(&self, key: &str) -> Vec<i64> {
        match &self.0[key].1 {
            Values::Int(values) => values.clone(),
            Values::Float(_) => panic!("{key} holds floats"),
        }
    }

    pub fn tensor<const D: usize>(&self, key: &str) -> Tensor<D> {
        let data = TensorData::new(self.floats(key), Shape::from(self.shape(key)));
        Tensor::from_data(data, &Device::flex())
    }

    pub fn int_tensor<const D: usize>(&self, key: &str) -> Tensor<D, Int> {
        let data = TensorData::new(self.ints(key), Shape::from(self.shape(key)));
        Tensor::from_data(data, &Device::flex())
    }
}

/// Norm of the difference over norm of the expected values.
pub fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let difference: f64 = actual
        .iter()
        .zip(expected)
        .map(|(a, b)| ((a - b) as f64).powi(2))
        .sum();
    let norm: f64 = expected.iter().map(|b| (*b as f64).powi(2)).sum();
    (difference / norm.max(1e-30)).sqrt()
}

/// Fails when `actual` is further than `tolerance` (relative error) from the recorded tensor.
pub fn assert_close<const D: usize>(
    recorded: &Recorded,
    key: &str,
    actual: Tensor<D>,
    tolerance: f64,
) {
    assert_eq!(
        actual.dims().to_vec(),
        recorded.shape(key),
        "shape of {key}"
    );
    let error = relative_error(
        &actual.into_data().try_to_vec::<f32>().unwrap(),
        &recorded.floats(key),
    );
    assert!(
        error <= tolerance,
        "{key}: relative error {error:.2e} > {tolerance:.0e}"
    );
}
