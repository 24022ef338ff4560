//! What files say of each parameter: its key, its shape, and what its numbers may be stored as.

use std::collections::BTreeMap;

use burn::{module::Module, tensor::DType};
use vila_u_kernels::BlockFormat;

use super::{keys::Component, weight_dtype::WeightDtype};
use crate::{parameters, parts::ModelPart};

/// A parameter of the model as files hold it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParameterSpec {
    /// Its path in the whole model.
    pub path: String,
    /// As stored: linear weights are `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// The weight of a linear layer, which modules have as `[inputs, outputs]`.
    pub linear: bool,
}

/// Every parameter of the module of a component by its key, without initialising any.
pub(super) fn parameter_specs<M: Module>(
    module: &M,
    component: Component,
) -> BTreeMap<String, ParameterSpec> {
    let specs = parameters::list(module).into_iter().map(|parameter| {
        let spec = ParameterSpec::new(component, &parameter.path, parameter.shape);
        (component.key(&parameter.path), spec)
    });
    specs.collect()
}

impl ParameterSpec {
    /// The parameter at `path` in the module of a component, whose tensor has this shape.
    pub(crate) fn new(component: Component, path: &str, mut shape: Vec<usize>) -> Self {
        let linear = Component::is_linear(path, &shape);
        if linear {
            shape.reverse();
        }
        Self {
            path: component.whole_path(path),
            shape,
            linear,
        }
    }

    /// How many numbers it has.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The part of the model that it belongs to.
    pub(crate) fn part(&self) -> Option<ModelPart> {
        ModelPart::of(&self.path)
    }

    /// Whether the CPU holds it in the dtype of the weights, and not always in f32: weights of linear layers and of
    /// 3x3 convolutions, and the language model's table.
    pub(crate) fn keeps_weight_dtype(&self) -> bool {
        self.linear
            || self.shape.get(2..) == Some(&[3, 3])
            || self.path == "llm.model.embed_tokens.weight"
    }

    /// Its floating-point type in a file of `weight_dtype`. Beside blocks, everything is stored as the CPU holds it.
    pub(crate) fn float(&self, weight_dtype: WeightDtype) -> DType {
        match weight_dtype.blocks() {
            Some(_) if !self.keeps_weight_dtype() => DType::F32,
            _ => weight_dtype.float(),
        }
    }

    /// The blocks that `weight_dtype` puts it in; None for what stays floating point, and for rows that do not make
    /// whole blocks.
    pub(crate) fn blocks(&self, weight_dtype: WeightDtype) -> Option<BlockFormat> {
        let in_blocks = [
            Some(ModelPart::LanguageModel),
            Some(ModelPart::Projector),
            Some(ModelPart::DepthTransformer),
        ];
        let large = self.linear && in_blocks.contains(&self.part());
        let blocks = weight_dtype.blocks().filter(|_| large)?;
        blocks.row_bytes(*self.shape.last()?).map(|_| blocks)
    }

    /// The blocks that a tensor of bytes of this shape holds it in.
    pub(crate) fn stored_blocks(&self, bytes: &[usize]) -> Option<BlockFormat> {
        let (&[outputs, inputs], &[rows, row]) = (&self.shape[..], bytes) else {
            return None;
        };
        let formats = [BlockFormat::Q8_0, BlockFormat::Q4_0];
        formats.into_iter().find(|blocks| {
            self.linear && outputs == rows && inputs > 0 && blocks.row_bytes(inputs) == Some(row)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_blocks() {
        let spec = |component, path: &str, shape: [usize; 2]| {
            ParameterSpec::new(component, path, shape.to_vec())
        };
        let blocks = |parameter: &ParameterSpec| parameter.blocks(WeightDtype::Q4_0);
        // Modules have linear weights the other way round.
        let head = spec(Component::Llm, "lm_head.weight", [64, 6]);
        assert_eq!(head.shape, [6, 64]);
        assert_eq!(blocks(&head), Some(BlockFormat::Q4_0));
        assert_eq!(head.blocks(WeightDtype::BF16), None);
        let depth = spec(
            Component::VisionTower,
            "rqtransformer.in_mlp_1.weight",
            [64, 6],
        );
        assert_eq!(blocks(&depth), Some(BlockFormat::Q4_0));
        let encoder = "rqvaesiglip.siglip_model.text_model.head.weight";
        assert_eq!(
            blocks(&spec(Component::VisionTower, encoder, [64, 6])),
            None
        );
        assert_eq!(
            blocks(&spec(Component::Llm, "lm_head.weight", [65, 6])),
            None
        );
        let table = spec(Component::Llm, "model.embed_tokens.weight", [6, 64]);
        assert_eq!((blocks(&table), table.keeps_weight_dtype()), (None, true));
        assert_eq!(table.shape, [6, 64]);

        assert_eq!(head.stored_blocks(&[6, 68]), Some(BlockFormat::Q8_0));
        assert_eq!(head.stored_blocks(&[6, 36]), Some(BlockFormat::Q4_0));
        assert_eq!(head.stored_blocks(&[6, 64]), None);
        assert_eq!(head.stored_blocks(&[5, 36]), None);
    }
}
