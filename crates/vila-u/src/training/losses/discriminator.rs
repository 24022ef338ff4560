//! The discriminator that learns to tell pictures from reconstructions, patch by patch (PatchGAN, arXiv
//! 1611.07004, as in VQGAN, arXiv 2012.09841).
//!
//! 4x4 convolutions with LeakyReLU 0.2; all but the first and last are followed by batch norm. Each of `layers`
//! halves the picture, so that one output judges a patch: 70 x 70 pixels with three of them.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Below zero.
const SLOPE: f64 = 0.2;
const EPSILON: f64 = 1e-5;
/// Weights start as N(0, 0.02), scales as N(1, 0.02).
const DEVIATION: f64 = 0.02;
/// The widest layer is this often as wide as the first.
const WIDEST: usize = 8;

/// Sizes of a discriminator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DiscriminatorConfig {
    /// Convolutions that halve the picture.
    pub layers: usize,
    /// Channels of the first layer.
    pub width: usize,
}

#[derive(Module, Debug)]
pub struct Discriminator {
    pub first: Conv2d,
    pub middle: Vec<Stage>,
    pub last: Conv2d,
}

/// A convolution and its batch norm.
#[derive(Module, Debug)]
pub struct Stage {
    pub conv: Conv2d,
    /// `[channels]`
    pub scale: Param<Tensor<1>>,
    /// `[channels]`
    pub shift: Param<Tensor<1>>,
}

impl DiscriminatorConfig {
    /// A usage error that says why no discriminator can have these sizes, if there is a reason.
    pub fn check(&self) -> Result<()> {
        for (name, size, most) in [("layers", self.layers, 6), ("width", self.width, 1024)] {
            if !(1..=most).contains(&size) {
                return Err(Error::usage(format!(
                    "objective.adversarial.{name} must be between 1 and {most}"
                )));
            }
        }
        Ok(())
    }

    /// Untrained; weights are initialised when first used.
    pub(crate) fn init(&self, device: &Device) -> Discriminator {
        let channels = |layer: usize| self.width * WIDEST.min(1 << layer.min(3));
        let middle = (1..=self.layers).map(|layer| {
            // The last of them keeps the size.
            let stride = if layer < self.layers { 2 } else { 1 };
            Stage::new([channels(layer - 1), channels(layer)], stride, device)
        });
        Discriminator {
            first: convolution([3, self.width], 2, true, device),
            middle: middle.collect(),
            last: convolution([channels(self.layers), 1], 1, true, device),
        }
    }

    /// Height or width of the smallest picture that one output is left of.
    pub fn smallest(&self) -> usize {
        3 << self.layers
    }
}

impl Discriminator {
    /// Untrained; weights are initialised when first used.
    ///
    /// A usage error when [`DiscriminatorConfig::check`] fails.
    pub fn new(config: &DiscriminatorConfig, device: &Device) -> Result<Self> {
        config.check()?;
        Ok(config.init(device))
    }

    /// How real each patch looks, above 0 real and below 0 reconstructed:
    /// `[n, 3, height, width]` in -1..1 -> `[n, 1, rows, columns]`.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let x = leaky_relu(self.first.forward(pixels), SLOPE);
        let x = self.middle.iter().fold(x, |x, stage| stage.forward(x));
        self.last.forward(x)
    }
}

impl Stage {
    fn new(channels: [usize; 2], stride: usize, device: &Device) -> Self {
        let [_, outputs] = channels;
        Self {
            conv: convolution(channels, stride, false, device),
            scale: Initializer::Normal {
                mean: 1.0,
                std: DEVIATION,
            }
            .init([outputs], device),
            shift: Initializer::Zeros.init([outputs], device),
        }
    }

    /// Normalised over the batch at hand, in training and always: nothing else is done with a discriminator.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.conv.forward(x);
        let mean = |x: Tensor<4>| x.mean_dim(0).mean_dim(2).mean_dim(3);
        let x = x.clone() - mean(x);
        let variance = mean(x.clone().square());
        let along = |values: &Param<Tensor<1>>| {
            let channels = values.dims()[0];
            values.val().reshape([1, channels, 1, 1])
        };
        let x = x / (variance + EPSILON).sqrt() * along(&self.scale) + along(&self.shift);
        leaky_relu(x, SLOPE)
    }
}

/// 4x4, padded by one.
fn convolution(channels: [usize; 2], stride: usize, bias: bool, device: &Device) -> Conv2d {
    let mut convolution = Conv2dConfig::new(channels, [4, 4])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(bias)
        .with_initializer(Initializer::Normal {
            mean: 0.0,
            std: DEVIATION,
        })
        .init(device);
    if bias {
        convolution.bias = Some(Initializer::Zeros.init([channels[1]], device));
    }
    convolution
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_picture_leaves_one_patch() {
        for layers in 1..=4 {
            let config = DiscriminatorConfig { layers, width: 2 };
            let size = config.smallest();
            let device = Device::flex();
            let pixels = Tensor::zeros([2, 3, size, size], &device);
            assert_eq!(config.init(&device).forward(pixels).dims(), [2, 1, 1, 1]);
        }
    }

    #[test]
    fn three_layers_of_64_have_the_size_of_the_papers() {
        let config = DiscriminatorConfig {
            layers: 3,
            width: 64,
        };
        // 3-64, 64-128, 128-256, 256-512, 512-1: weights, biases of the outer two, scales and shifts.
        let weights = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512);
        let rest = 64 + 1 + 2 * (128 + 256 + 512);
        assert_eq!(config.init(&Device::flex()).num_params(), weights + rest);
    }
}
