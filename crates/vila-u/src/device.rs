//! Where tensors live and are computed: the CPU (always built) or a GPU (a cargo feature each).

use burn::tensor::{DType, Device};

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

/// The number format of that name.
pub fn dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        name => Err(Error::usage(format!(
            "unknown dtype {name}: choose one of f32, f16, bf16"
        ))),
    }
}

/// A usage error unless the device computes in that number format.
pub fn check_dtype(dtype: DType, device: &Device) -> Result<()> {
    // The CPU takes half formats, but computes in them a hundred times slower than in f32.
    let half = dtype != DType::F32;
    if half && (*device == Device::flex() || !device.supports_dtype(dtype)) {
        return Err(Error::usage(format!(
            "this device does not compute in {}: use --dtype f32",
            dtype.name()
        )));
    }
    Ok(())
}
