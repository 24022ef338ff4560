//! Tensors on their way from a file into the parameters of a module.

use burn::{
    module::Param,
    tensor::{DType, Device, Tensor},
};
use vila_u_kernels::quantized;

use super::{
    parameter::ParameterSpec, stored_tensor::StoredTensor, weight_dtype::WeightDtype,
    weights::ComponentWeights,
};
use crate::{Error, Result, parameters, parts::ModelPart};

/// Gives every parameter its values; after the first error the others stay as they are.
pub(super) struct Loader<'a> {
    pub weights: &'a ComponentWeights,
    pub weight_dtype: WeightDtype,
    pub error: Option<Error>,
}

impl Loader<'_> {
    fn load<const D: usize>(
        &self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> Result<Param<Tensor<D>>> {
        let component = self.weights.component;
        let key = component.key(path);
        let stored = self.weights.stored(&key).ok_or_else(|| {
            let reason = format!("tensor `{key}` is missing");
            Error::invalid(&self.weights.tensors.path, reason)
        })?;
        let tensor = TensorToLoad {
            parameter: ParameterSpec::new(component, path, param.lazy_shape().to_vec()),
            key,
            stored: stored.clone(),
            weight_dtype: self.weight_dtype,
        };
        let (id, device) = (param.id, param.lazy_device());
        if !tensor.waits() {
            return Ok(param.transform_for_load(tensor.read(&device)?, id));
        }
        let shape = param.lazy_shape();
        let read = move |device: &Device, require_grad| match tensor.read(device) {
            Ok(tensor) => tensor.set_require_grad(require_grad),
            Err(error) => unreachable!("{error}"),
        };
        Ok(Param::uninitialized(id, read, device, true, shape))
    }
}

impl parameters::Mapper for Loader<'_> {
    fn map<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match self.load(path, param.clone()) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// A tensor to load.
struct TensorToLoad {
    key: String,
    parameter: ParameterSpec,
    stored: StoredTensor,
    weight_dtype: WeightDtype,
}

impl TensorToLoad {
    /// Whether it is read when it is first used: of an encoder of the tower, where that cannot fail.
    fn waits(&self) -> bool {
        let encoders = [Some(ModelPart::VisionEncoder), Some(ModelPart::TextEncoder)];
        encoders.contains(&self.parameter.part()) && self.stored.is_infallible()
    }

    fn read<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        let tensor = self.tensor(device);
        self.stored.release();
        tensor
    }

    fn tensor<const D: usize>(&self, device: &Device) -> Result<Tensor<D>> {
        let Self {
            key,
            parameter,
            stored,
            weight_dtype,
        } = self;
        let cpu = crate::device::is_cpu(device);
        let blocks = stored.blocks(parameter).filter(|_| cpu);
        if let Some(blocks) = blocks.or_else(|| parameter.blocks(*weight_dtype)) {
            let rows = stored.read_blocks(key, parameter, blocks)?;
            return Ok(Tensor::from_dispatch(
                quantized(blocks, rows).into_dispatch(),
            ));
        }
        // The CPU computes in f32, but reads the weights of linear layers, and tables, as they are stored.
        let narrow = cpu && *weight_dtype != WeightDtype::F32;
        let dtype = if narrow && !parameter.keeps_weight_dtype() {
            DType::F32
        } else {
            weight_dtype.float()
        };
        if !narrow {
            let data = stored.read(key, parameter, dtype, parameter.linear)?;
            return Ok(Tensor::from_data(data, (device, dtype)));
        }
        let data = stored.read_to_hold(key, parameter, dtype)?;
        let tensor = Tensor::from_data(data, (device, dtype));
        Ok(if parameter.linear {
            tensor.transpose()
        } else {
            tensor
        })
    }
}
