//! LPIPS, how different two pictures look (arXiv 1801.03924): the distance between the features that VGG16
//! has of them, after five of its layers, each channel weighted by how much people mind it.
//!
//! ```text
//! d(x, y) = sum_l mean_hw sum_c w_lc (x_lhwc / |x_lhw| - y_lhwc / |y_lhw|)^2
//! ```

use std::path::Path;

use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{DType, Device, Tensor};
use vila_u_kernels::conv2d;

use crate::checkpoint::tensors::Tensors;
use crate::{Error, Result};

/// 3x3 convolutions of each block of VGG16; a block begins at half the size of the one before and ends
/// in the features that are compared: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.
pub const BLOCKS: [usize; 5] = [2, 2, 3, 3, 3];
/// Channels of each block.
pub const CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];
/// Where torchvision's `features` have these convolutions, between activations and poolings.
pub const CONVOLUTIONS: [usize; 13] = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
/// From -1..1 to VGG's inputs: ImageNet's mean and deviation, moved there.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
/// Keeps features that are all zero from dividing by it.
const EPSILON: f64 = 1e-10;
/// Four poolings leave at least one position of these.
pub const SMALLEST: usize = 16;

/// How many numbers the network has.
pub fn parameters() -> u64 {
    let (mut count, mut inputs) = (0, 3);
    for (convolutions, outputs) in BLOCKS.into_iter().zip(CHANNELS) {
        for _ in 0..convolutions {
            count += 9 * inputs * outputs + outputs;
            inputs = outputs;
        }
        count += outputs;
    }
    count as u64
}

/// VGG16 up to relu5_3 and five linear heads. Nothing in it is trained.
#[derive(Clone, Debug)]
pub struct Lpips {
    blocks: Vec<Block>,
    shift: Tensor<4>,
    scale: Tensor<4>,
}

#[derive(Clone, Debug)]
struct Block {
    /// Weights `[outputs, inputs, 3, 3]` and biases `[outputs]`.
    convolutions: Vec<(Tensor<4>, Tensor<1>)>,
    /// `[1, channels, 1, 1]`
    head: Tensor<4>,
}

impl Lpips {
    /// Reads what `vila-u convert` wrote.
    ///
    /// # Errors
    /// When the file is missing or damaged, or holds another network.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let tensors = Tensors::open_file(path)?;
        let invalid = |reason: String| {
            let made = "made by `vila-u convert vgg16-397923af.pth vgg.pth -o lpips.safetensors`";
            Error::invalid(path, format!("{reason}; this is no LPIPS file {made}"))
        };
        let read = |key: String, expected: &dyn Fn(&[usize]) -> bool| {
            let stored = (tensors.by_key.get(&key))
                .ok_or_else(|| invalid(format!("tensor `{key}` is missing")))?;
            if expected(&stored.shape) {
                stored.floats(&key, DType::F32)
            } else {
                Err(invalid(format!(
                    "tensor `{key}` has shape {:?}",
                    stored.shape
                )))
            }
        };
        let (mut blocks, mut indices, mut inputs) = (Vec::new(), CONVOLUTIONS.iter(), 3);
        for (block, count) in BLOCKS.into_iter().enumerate() {
            let mut convolutions = Vec::new();
            for index in indices.by_ref().take(count) {
                let fits = |shape: &[usize]| matches!(*shape, [n, i, 3, 3] if n > 0 && i == inputs);
                let weight = read(format!("features.{index}.weight"), &fits)?;
                let outputs = weight.shape()[0];
                let bias = read(format!("features.{index}.bias"), &|shape| {
                    *shape == [outputs]
                })?;
                convolutions.push((
                    Tensor::from_data(weight, device),
                    Tensor::from_data(bias, device),
                ));
                inputs = outputs;
            }
            let head = read(format!("lin{block}.weight"), &|shape| {
                *shape == [1, inputs, 1, 1]
            })?;
            let head = Tensor::from_data(head, device);
            blocks.push(Block { convolutions, head });
        }
        let channels =
            |values: [f32; 3]| Tensor::<1>::from_floats(values, device).reshape([1, 3, 1, 1]);
        Ok(Self {
            blocks,
            shift: channels(SHIFT),
            scale: channels(SCALE),
        })
    }

    /// The distance of each pair, `[n]`: pictures `[n, 3, height, width]` in -1..1, at least 16 pixels high
    /// and wide.
    pub fn forward(&self, x: Tensor<4>, y: Tensor<4>) -> Tensor<1> {
        let n = x.dims()[0];
        let scaled = |pixels: Tensor<4>| (pixels - self.shift.clone()) / self.scale.clone();
        let (mut x, mut y) = (scaled(x), scaled(y));
        let mut distance = Tensor::zeros([n], &x.device());
        for (index, block) in self.blocks.iter().enumerate() {
            if index > 0 {
                (x, y) = (halve(x), halve(y));
            }
            (x, y) = (block.features(x), block.features(y));
            let difference = (unit(x.clone()) - unit(y.clone())).square();
            let weighted = (difference * block.head.clone()).sum_dim(1); // [n, 1, h, w]
            distance = distance + weighted.flatten::<2>(1, 3).mean_dim(1).squeeze_dim(1);
        }
        distance
    }
}

impl Block {
    fn features(&self, x: Tensor<4>) -> Tensor<4> {
        (self.convolutions.iter()).fold(x, |x, (weight, bias)| {
            relu(conv2d(x, weight.clone(), bias.clone()))
        })
    }
}

fn halve(x: Tensor<4>) -> Tensor<4> {
    let options = MaxPoolOptions::new([2, 2]).with_stride([2, 2]);
    max_pool2d(x, options)
}

/// Channels of length one at every position.
fn unit(x: Tensor<4>) -> Tensor<4> {
    // The constant under the root keeps its gradient finite where nothing is active.
    let length = (x.clone().square().sum_dim(1) + EPSILON * EPSILON).sqrt();
    x / (length + EPSILON)
}
