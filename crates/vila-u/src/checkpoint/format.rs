//! How the numbers of weights are stored.

use burn::tensor::{DType, Device};
use vila_u_kernels::Blocks;

use super::keys::Part;
use crate::{Error, Result};

/// A number format of weights, in files and in memory.
///
/// The two of blocks (llama.cpp's) are for the large linear layers, those of the language model, the
/// projector, the depth transformer and their heads; what is in blocks is read by the CPU only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    F32,
    F16,
    BF16,
    /// 8.5 bits a weight.
    Q8_0,
    /// 4.5 bits a weight.
    Q4_0,
}

impl Format {
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0];

    /// As on the command line and in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// The format of that name.
    ///
    /// # Errors
    /// A usage error that lists the names.
    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|format| format.name()).collect();
            Error::usage(format!(
                "unknown dtype {name}: choose one of {}",
                names.join(", ")
            ))
        })
    }

    /// The blocks of large linear layers, if that is what they are in.
    pub fn blocks(self) -> Option<Blocks> {
        match self {
            Self::Q8_0 => Some(Blocks::Q8_0),
            Self::Q4_0 => Some(Blocks::Q4_0),
            _ => None,
        }
    }

    /// The floating-point type of all that is not in blocks.
    pub fn float(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 | Self::Q8_0 | Self::Q4_0 => DType::BF16,
        }
    }

    /// A usage error unless the device takes weights of this format. A GPU computes in it; the CPU holds
    /// the weights of linear layers in it and computes in f32.
    pub fn check(self, device: &Device) -> Result<()> {
        let (takes, others) = match crate::device::is_cpu(device) {
            true => (self != Self::F16, "f32, bf16, q8_0 or q4_0"),
            false => {
                let float = self == Self::F32 || device.supports_dtype(self.float());
                (float && self.blocks().is_none(), "f32, f16 or bf16")
            }
        };
        match takes {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "this device does not take weights of {}: use --dtype {others}",
                self.name()
            ))),
        }
    }
}

/// A parameter of a part of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// As stored: linear weights are `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// The weight of a linear layer.
    pub linear: bool,
}

impl Parameter {
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the CPU holds the parameter `key` of `part` in the format of the weights, and not always in
    /// f32: weights of linear layers, and the language model's table.
    pub fn is_held(&self, part: Part, key: &str) -> bool {
        self.linear || (part == Part::Llm && key == "model.embed_tokens.weight")
    }

    /// The floating-point type of the parameter in a file of `format`. Beside blocks, everything is stored as
    /// the CPU holds it.
    pub fn float(&self, part: Part, key: &str, format: Format) -> DType {
        match format.blocks() {
            Some(_) if !self.is_held(part, key) => DType::F32,
            _ => format.float(),
        }
    }

    /// The blocks that `format` puts the parameter `key` of `part` in; None for what stays floating
    /// point, and for rows that do not make whole blocks.
    pub fn blocks(&self, part: Part, key: &str, format: Format) -> Option<Blocks> {
        let tower = matches!(part, Part::VisionTower | Part::RqVaeSiglip);
        let large = self.linear && (!tower || key.starts_with("rqtransformer."));
        let blocks = format.blocks().filter(|_| large)?;
        blocks.row(*self.shape.last()?).map(|_| blocks)
    }

    /// The blocks that a tensor of bytes of this shape holds the parameter in.
    pub fn stored_blocks(&self, bytes: &[usize]) -> Option<Blocks> {
        let (&[outputs, inputs], &[rows, row]) = (&self.shape[..], bytes) else {
            return None;
        };
        [Blocks::Q8_0, Blocks::Q4_0].into_iter().find(|blocks| {
            self.linear && outputs == rows && inputs > 0 && blocks.row(inputs) == Some(row)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_devices() {
        let cpu = Device::flex();
        for format in Format::ALL {
            assert_eq!(Format::parse(format.name()).unwrap(), format);
            assert_eq!(format.check(&cpu).is_ok(), format != Format::F16);
        }
        assert!(Format::parse("q5_1").is_err());
    }

    #[test]
    fn what_is_put_in_blocks() {
        let weight = |shape: [usize; 2], linear| Parameter {
            shape: shape.to_vec(),
            linear,
        };
        let blocks = |parameter: &Parameter, part, key| parameter.blocks(part, key, Format::Q4_0);
        let whole = weight([6, 64], true);
        assert_eq!(
            blocks(&whole, Part::Llm, "lm_head.weight"),
            Some(Blocks::Q4_0)
        );
        let depth = "rqtransformer.in_mlp_1.weight";
        assert_eq!(blocks(&whole, Part::VisionTower, depth), Some(Blocks::Q4_0));
        assert_eq!(blocks(&whole, Part::VisionTower, "rqvaesiglip.x"), None);
        assert_eq!(blocks(&weight([6, 65], true), Part::Llm, "x"), None);
        assert_eq!(blocks(&weight([6, 64], false), Part::Llm, "x"), None);
        assert_eq!(whole.blocks(Part::Llm, "x", Format::BF16), None);

        assert_eq!(whole.stored_blocks(&[6, 68]), Some(Blocks::Q8_0));
        assert_eq!(whole.stored_blocks(&[6, 36]), Some(Blocks::Q4_0));
        assert_eq!(whole.stored_blocks(&[6, 64]), None);
        assert_eq!(whole.stored_blocks(&[5, 36]), None);
    }
}
