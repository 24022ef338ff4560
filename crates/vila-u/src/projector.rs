//! The projector: maps visual features (the summed code vectors) to embeddings of the language model.

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};
use vila_u_kernels::gelu;

use crate::{
    Error, Result,
    layers::{apply, dtype},
};

/// `mm_projector/config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectorConfig {
    /// `identity`, `linear`, or `mlpNx_gelu` for N linear layers with GELU between them.
    pub mm_projector_type: String,
}

/// Linear layers with GELU between them; none for `identity`.
///
/// Checkpoint keys: `layers.weight` for `linear`; `layers.0`, `layers.2`, ... for `mlpNx_gelu`.
#[derive(Module, Debug)]
pub struct Projector {
    pub layers: Vec<Linear>,
}

impl ProjectorConfig {
    /// Linear layers of this type, or the reason why there is no such type.
    pub fn depth(&self) -> Result<usize> {
        let kind = self.mm_projector_type.as_str();
        let mlp = kind
            .strip_prefix("mlp")
            .and_then(|rest| rest.strip_suffix("x_gelu"))
            .and_then(|depth| depth.parse().ok());
        match (kind, mlp) {
            ("identity", _) => Ok(0),
            ("linear", _) => Ok(1),
            (_, Some(depth @ 1..=16)) => Ok(depth),
            _ => Err(Error::usage(format!(
                "unknown mm_projector_type {kind}: it is identity, linear, or mlpNx_gelu with N from 1 to 16"
            ))),
        }
    }

    /// The reason why no projector from width `visual` to width `language` has this config, if
    /// there is one.
    pub fn check(&self, visual: usize, language: usize) -> Result<()> {
        if self.depth()? == 0 && visual != language {
            return Err(Error::usage(format!(
                "an identity projector cannot take width {visual} to width {language}"
            )));
        }
        Ok(())
    }

    /// A projector with random weights from width `visual` to width `language`, of a config that was checked.
    pub(crate) fn init(&self, visual: usize, language: usize, device: &Device) -> Projector {
        let depth = self.depth().expect("the config was checked");
        let layer = |index| {
            let input = if index == 0 { visual } else { language };
            LinearConfig::new(input, language).init(device)
        };
        Projector {
            layers: (0..depth).map(layer).collect(),
        }
    }
}

impl Projector {
    /// `[.., visual]` -> `[.., language]`.
    pub fn forward<const D: usize>(&self, features: Tensor<D>) -> Tensor<D> {
        let mut x = features;
        for (index, layer) in self.layers.iter().enumerate() {
            x = match index {
                // The tower may be of another dtype.
                0 => apply(layer, x.cast(dtype(layer))),
                _ => apply(layer, gelu(x)),
            };
        }
        x
    }
}
