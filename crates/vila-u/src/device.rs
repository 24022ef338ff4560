//! Where tensors live and are computed: the CPU (always built) or a GPU (a cargo feature each).

use burn::tensor::Device;

use crate::{Error, Result};

/// What `--device` takes, best first; `auto` is the first of these that is built in and present.
pub const NAMES: [&str; 6] = ["auto", "cuda", "rocm", "metal", "vulkan", "cpu"];

/// The device of that name, or a usage error that says how to get it.
pub fn select(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(burn::tensor::DeviceIndex::Default)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(burn::tensor::DeviceIndex::Default)),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        "auto" => Ok(Device::flex()),
        name if NAMES.contains(&name) => Err(Error::usage(format!(
            "device {name} is not in this build: rebuild with `--features {name}`"
        ))),
        name => Err(Error::usage(format!(
            "unknown device {name}: choose one of {}",
            NAMES.join(", ")
        ))),
    }
}
