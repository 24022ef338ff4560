//! Where tensors live and are computed: the CPU (always built) or a GPU (a cargo feature each).

use burn::tensor::{Device, DeviceType, Int, Tensor, TensorData};
use vila_u_kernels::InstructionSet;

use crate::{Error, Result};

/// What `--device` takes; `auto` is the first of the others that is built in and present. Of several
/// GPUs, `cuda:1` is the second.
const NAMES: [&str; 6] = ["auto", "cuda", "rocm", "metal", "vulkan", "cpu"];

/// The device of that name, or an error that says how to get it: `auto`, `cpu`, or a kind of GPU, whose second is
/// `cuda:1`.
///
/// ```
/// let cpu = vila_u::device::select("cpu")?;
/// assert!(vila_u::device::is_cpu(&cpu));
/// assert!(vila_u::device::select("abacus").is_err());
/// # Ok::<(), vila_u::Error>(())
/// ```
pub fn select(name: &str) -> Result<Device> {
    InstructionSet::named().map_err(Error::usage)?;
    let (name, index) = parse(name)?;
    match name {
        "auto" => Ok(NAMES
            .iter()
            .filter_map(|name| built(name))
            .find_map(|kind| nth(kind, 0))
            .unwrap_or_else(Device::flex)),
        name => match built(name) {
            None => Err(Error::usage(format!(
                "device {name} is not in this build: rebuild with `--features {name}`"
            ))),
            Some(kind) => nth(kind, index).ok_or_else(|| {
                Error::failed(match index {
                    0 => format!("no {name} device on this machine: use --device cpu"),
                    _ => {
                        format!("no {name} device {index} on this machine: they are counted from 0")
                    }
                })
            }),
        },
    }
}

/// Whether tensors of the device are in the memory of the host, gradients recorded or not.
pub fn is_cpu(device: &Device) -> bool {
    device.clone().inner() == Device::flex()
}

/// Brings a tensor to the host, row-major.
pub(crate) fn read_floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.try_into_vec_as().map_err(unread)
}

/// Brings a list of numbers to a device.
pub(crate) fn write_floats(list: Vec<f32>, device: &Device) -> Tensor<1> {
    let length = list.len();
    Tensor::from_data(TensorData::new(list, [length]), device)
}

/// [`read_floats`] of integers.
pub(crate) fn read_ints<const D: usize>(tensor: Tensor<D, Int>) -> Result<Vec<i64>> {
    tensor.try_into_vec_as().map_err(unread)
}

fn unread(error: impl std::fmt::Display) -> Error {
    Error::failed(format!("reading from the device: {error}"))
}

/// The kind of device and its number, or an error that says how devices are named.
pub fn parse(name: &str) -> Result<(&str, usize)> {
    let (kind, index) = match name.split_once(':') {
        None => (name, Some(0)),
        Some((kind, index)) => (kind, index.parse().ok().filter(|_| kind != "auto")),
    };
    match index {
        Some(index) if NAMES.contains(&kind) => Ok((kind, index)),
        _ => Err(Error::usage(format!(
            "unknown device {name}: choose one of {}; of several GPUs cuda:1 is the second",
            NAMES.join(", ")
        ))),
    }
}

/// The name of the device for each of several ranks on this machine: of a kind of GPU one each.
pub fn of_rank(name: &str, rank: usize) -> Result<String> {
    let (kind, index) = match parse(name)? {
        ("auto", _) => {
            let present = |name: &&&str| built(name).and_then(|kind| nth(kind, 0)).is_some();
            (*NAMES.iter().find(present).unwrap_or(&"cpu"), 0)
        }
        named => named,
    };
    Ok(match kind {
        "cpu" => kind.to_string(),
        _ => format!("{kind}:{}", index + rank),
    })
}

/// The kind of device of that name, if this build has it.
fn built(name: &str) -> Option<DeviceType> {
    match name {
        #[cfg(feature = "cuda")]
        "cuda" => Some(DeviceType::Cuda),
        #[cfg(feature = "rocm")]
        "rocm" => Some(DeviceType::Rocm),
        #[cfg(feature = "metal")]
        "metal" => Some(DeviceType::Metal),
        #[cfg(feature = "vulkan")]
        "vulkan" => Some(DeviceType::Vulkan),
        "cpu" => Some(DeviceType::Flex),
        _ => None,
    }
}

/// A device of a kind on this machine.
fn nth(kind: DeviceType, index: usize) -> Option<Device> {
    Device::enumerate(kind).into_vec().into_iter().nth(index)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        let cpu = select("cpu").unwrap();
        assert_eq!(cpu, Device::flex());
        assert!(select("auto").is_ok());
        assert_eq!(select("cpu:0").unwrap(), cpu);
        assert_eq!(of_rank("cpu", 3).unwrap(), "cpu");
        assert_eq!(of_rank("cuda", 3).unwrap(), "cuda:3");
        for name in ["abacus", "cpu:1", "cpu:x", "auto:0"] {
            assert!(select(name).is_err(), "{name}");
        }
    }
}
