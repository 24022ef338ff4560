//! Where tensors live and are computed: the CPU (always built) or a GPU (a cargo feature each).

use burn::tensor::{Device, DeviceType};

use crate::{Error, Result};

/// What `--device` takes; `auto` is the first of the others that is built in and present. Of several
/// GPUs, `cuda:1` is the second.
pub const NAMES: [&str; 6] = ["auto", "cuda", "rocm", "metal", "vulkan", "cpu"];

/// The device of that name, or an error that says how to get it.
pub fn select(name: &str) -> Result<Device> {
    let (name, index) = match name.split_once(':') {
        None => (name, 0),
        Some((kind, index)) => match index.parse() {
            Ok(index) if kind != "auto" => (kind, index),
            _ => {
                return Err(Error::usage(format!(
                    "unknown device {name}: the number of a device follows its name, as in cuda:1"
                )));
            }
        },
    };
    match name {
        "auto" => Ok(NAMES
            .iter()
            .filter_map(|name| built(name))
            .find_map(|kind| nth(kind, 0))
            .unwrap_or_else(Device::flex)),
        name if !NAMES.contains(&name) => Err(Error::usage(format!(
            "unknown device {name}: choose one of {}",
            NAMES.join(", ")
        ))),
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
        for name in ["abacus", "cpu:1", "cpu:x", "auto:0"] {
            assert!(select(name).is_err(), "{name}");
        }
    }
}
