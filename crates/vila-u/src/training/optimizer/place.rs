//! Where gradients are clipped and parameters updated, and the one time that a step reads from there.

use burn::tensor::{Device, Tensor};

use crate::Result;
use crate::device::{is_cpu, read_floats};

/// Where the optimizer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the memory of the host, in one pass over each list: that of a CPU's tensors is theirs.
    Host,
    /// Where the parameters are, as Burn's operations: nothing waits for the host.
    Device,
}

impl Place {
    /// That of the parameters of a model on this device.
    pub(crate) fn of(device: &Device) -> Self {
        if is_cpu(device) {
            Self::Host
        } else {
            Self::Device
        }
    }
}

/// The 2-norms of all gradients of a model, and of its adversary's, before they were clipped. They are finite if
/// and only if every gradient is, and not too large for its square.
pub(crate) enum Norms {
    Host([f64; 2]),
    /// `[2]`, computed when it is read.
    Device(Box<Tensor<1>>),
}

impl Norms {
    /// Brings them to the host, and with them numbers `[1]` of the same device: in one transfer, which waits for all
    /// that the device has still to do.
    pub(crate) fn read_with(self, numbers: Vec<Tensor<1>>) -> Result<([f64; 2], Vec<f64>)> {
        let read = |tensors: Vec<Tensor<1>>| -> Result<Vec<f64>> {
            let values = read_floats(Tensor::cat(tensors, 0))?;
            Ok(values.into_iter().map(f64::from).collect())
        };
        match self {
            Self::Host(norms) => Ok((norms, read(numbers)?)),
            Self::Device(norms) => {
                let mut values = read([vec![*norms], numbers].concat())?;
                let numbers = values.split_off(2);
                Ok(([values[0], values[1]], numbers))
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn read(self) -> Result<[f64; 2]> {
        let nothing = Tensor::zeros([1], &Device::flex());
        self.read_with(vec![nothing]).map(|(norms, _)| norms)
    }
}
