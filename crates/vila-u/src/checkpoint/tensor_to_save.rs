//! Tensors on their way into a file, from a module or from another file.

use burn::{
    module::{Module, Param},
    tensor::{DType, ExecutionError, Shape, Tensor, TensorData},
};
use vila_u_kernels::BlockFormat;

use super::{
    floats::{convert, overflowed, transpose},
    keys::Component,
    parameter::ParameterSpec,
    stored_tensor::{StoredTensor, to_blocks},
    weight_dtype::WeightDtype,
};
use crate::{Error, Result, parameters};

/// A tensor to save: what the file will say of it, and where its values are.
pub(crate) struct TensorToSave<'a> {
    pub key: String,
    pub parameter: ParameterSpec,
    source: TensorSource<'a>,
}

enum TensorSource<'a> {
    /// Of a module, with linear weights transposed.
    Module(Box<dyn Fn() -> std::result::Result<TensorData, ExecutionError>>),
    File(&'a StoredTensor),
}

/// Every parameter of the module in the order of its key.
pub(super) fn tensors_to_save<M: Module>(
    module: &M,
    component: Component,
) -> Vec<TensorToSave<'static>> {
    struct Collect(Component, Vec<TensorToSave<'static>>);
    impl parameters::Visitor for Collect {
        fn visit<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            let (component, tensor) = (self.0, param.val());
            self.1.push(TensorToSave {
                key: component.key(path),
                parameter: ParameterSpec::new(component, path, tensor.shape().to_vec()),
                source: TensorSource::Module(Box::new(move || tensor.try_to_data())),
            });
        }
    }
    let mut collect = Collect(component, Vec::new());
    parameters::visit(module, &mut collect);
    collect.1.sort_by(|a, b| a.key.cmp(&b.key));
    collect.1
}

impl<'a> TensorToSave<'a> {
    /// A tensor of another file.
    pub(crate) fn stored(key: &str, parameter: &ParameterSpec, stored: &'a StoredTensor) -> Self {
        Self {
            key: key.into(),
            parameter: parameter.clone(),
            source: TensorSource::File(stored),
        }
    }

    /// The dtype and shape in a file of `weight_dtype`.
    ///
    /// Running statistics of the codebooks keep their precision: sums and counts exceed f16, and
    /// training goes on from them.
    pub(crate) fn layout(&self, weight_dtype: WeightDtype) -> (DType, Vec<usize>) {
        let shape = &self.parameter.shape;
        match (self.parameter.blocks(weight_dtype), &shape[..]) {
            (Some(blocks), [outputs, inputs]) => {
                let row = blocks.row_bytes(*inputs).unwrap_or_default();
                (DType::U8, vec![*outputs, row])
            }
            _ if self.key.ends_with("_ema") => (DType::F32, shape.clone()),
            _ => (self.parameter.float(weight_dtype), shape.clone()),
        }
    }

    /// Bytes in a file of `weight_dtype`.
    pub(crate) fn bytes(&self, weight_dtype: WeightDtype) -> usize {
        let (dtype, shape) = self.layout(weight_dtype);
        shape.iter().product::<usize>() * dtype.size()
    }

    /// The values as in a file of `weight_dtype`; only now are they read, or brought from the device.
    ///
    /// # Errors
    /// When that fails, or a value is too large for `weight_dtype`.
    pub(crate) fn read(&self, weight_dtype: WeightDtype) -> Result<TensorData> {
        let (dtype, shape) = self.layout(weight_dtype);
        match self.parameter.blocks(weight_dtype) {
            Some(blocks) => self.read_blocks(blocks, shape),
            None => self.read_floats(dtype),
        }
    }

    fn read_blocks(&self, blocks: BlockFormat, shape: Vec<usize>) -> Result<TensorData> {
        if let TensorSource::File(stored) = self.source
            && stored.blocks(&self.parameter) == Some(blocks)
        {
            return stored.read_blocks(&self.key, &self.parameter, blocks);
        }
        to_blocks(&self.key, self.read_floats(DType::F32)?, blocks, shape)
    }

    fn read_floats(&self, dtype: DType) -> Result<TensorData> {
        let fail = |reason: String| Error::failed(format!("tensor `{}`: {reason}", self.key));
        let values = match &self.source {
            TensorSource::Module(values) => values().map_err(|error| fail(error.to_string()))?,
            TensorSource::File(stored) => {
                let exact = stored.float().unwrap_or(DType::F32);
                stored.read(&self.key, &self.parameter, exact, false)?
            }
        };
        let old = values.dtype();
        let transposed;
        let bytes = match (&self.source, &self.parameter.shape[..]) {
            (TensorSource::Module(_), [outputs, _]) if self.parameter.linear => {
                transposed = transpose(values.as_bytes(), *outputs, old.size());
                transposed.as_slice()
            }
            _ => values.as_bytes(),
        };
        let shape = Shape::from(self.parameter.shape.clone());
        let converted = convert(bytes, shape, old, dtype);
        if dtype == DType::F16 && overflowed((bytes, old), (converted.as_bytes(), dtype)) {
            return Err(fail("values too large for f16: save as bf16 or f32".into()));
        }
        Ok(converted)
    }
}
