//! How the numbers of weights are stored.

use burn::tensor::{DType, Device};
use vila_u_kernels::BlockFormat;

use crate::{Error, Result};

/// The dtype of weights, in files and in memory.
///
/// The two of blocks (llama.cpp's) are for the large linear layers, those of the language model, the
/// projector, the depth transformer and their heads; what is in blocks is read by the CPU only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightDtype {
    F32,
    F16,
    BF16,
    /// 8.5 bits a weight.
    Q8_0,
    /// 4.5 bits a weight.
    Q4_0,
}

impl WeightDtype {
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

    /// The dtype of that name.
    ///
    /// # Errors
    /// A usage error that lists the names.
    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|weight_dtype| weight_dtype.name() == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL
                .iter()
                .map(|weight_dtype| weight_dtype.name())
                .collect();
            Error::usage(format!(
                "unknown dtype {name}: choose one of {}",
                names.join(", ")
            ))
        })
    }

    /// The blocks of large linear layers, if that is what they are in.
    pub fn blocks(self) -> Option<BlockFormat> {
        match self {
            Self::Q8_0 => Some(BlockFormat::Q8_0),
            Self::Q4_0 => Some(BlockFormat::Q4_0),
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

    /// A usage error unless the device takes weights of this dtype. A GPU computes in it; the CPU holds
    /// the weights of linear layers in it and computes in f32.
    pub fn check(self, device: &Device) -> Result<()> {
        let (takes, others) = if crate::device::is_cpu(device) {
            (self != Self::F16, "f32, bf16, q8_0 or q4_0")
        } else {
            let float = self == Self::F32 || device.supports_dtype(self.float());
            (float && self.blocks().is_none(), "f32, f16 or bf16")
        };
        if takes {
            Ok(())
        } else {
            Err(Error::usage(format!(
                "this device does not take weights of {}: use --dtype {others}",
                self.name()
            )))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_devices() {
        let cpu = Device::flex();
        for weight_dtype in WeightDtype::ALL {
            assert_eq!(
                WeightDtype::parse(weight_dtype.name()).unwrap(),
                weight_dtype
            );
            assert_eq!(
                weight_dtype.check(&cpu).is_ok(),
                weight_dtype != WeightDtype::F16
            );
        }
        assert!(WeightDtype::parse("q5_1").is_err());
    }
}
