//! Inception-v3 (arXiv 1512.00567) with the weights of 2015-12-05, the network by whose features FID compares pictures
//! (arXiv 1706.08500) and by whose classes the inception score judges them (arXiv 1606.03498).

mod architecture;
mod file;

use burn::tensor::{
    Device, Tensor,
    activation::relu,
    module::{avg_pool2d, conv2d, max_pool2d},
    ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions},
};

use architecture::Border;
pub use file::convert;
pub(crate) use file::is_inception;

use crate::{Error, Result};

/// Height and width of the pictures that it reads.
pub const SIZE: usize = 299;

/// Where features are taken: the mean of a layer over the picture. Named by the number of its channels, as
/// torch-fidelity and pytorch-fid do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FeatureLayer {
    /// The first max pooling.
    L64,
    /// The second max pooling.
    L192,
    /// Before the auxiliary classifier (`Mixed_6e`).
    L768,
    /// The last pooling, which is meant where nobody says anything.
    L2048,
}

impl FeatureLayer {
    pub const ALL: [Self; 4] = [Self::L64, Self::L192, Self::L768, Self::L2048];

    pub fn name(self) -> &'static str {
        match self {
            Self::L64 => "64",
            Self::L192 => "192",
            Self::L768 => "768",
            Self::L2048 => "2048",
        }
    }

    /// The layer of that name, or a usage error that lists them.
    pub fn parse(name: &str) -> Result<Self> {
        let layer = Self::ALL.into_iter().find(|layer| layer.name() == name);
        layer.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::usage(format!("unknown layer {name}: choose one of {names}"))
        })
    }
}

/// The network; nothing in it is trained. Read with [`Inception::load`].
#[derive(Clone, Debug)]
pub struct Inception {
    /// The blocks up to each [`FeatureLayer`].
    stages: Vec<Vec<Block>>,
    /// `[classes, channels]` of the last layer. Its bias is left out: scores are computed without.
    classes: Tensor<2>,
}

/// What it makes of pictures.
#[derive(Clone, Debug)]
pub struct Activations {
    /// `[pictures, channels]` of each [`FeatureLayer`].
    features: Vec<Tensor<2>>,
    /// `[pictures, classes]`, the logits without the bias.
    pub logits: Tensor<2>,
}

impl Activations {
    /// `[pictures, channels]`
    pub fn features(&self, layer: FeatureLayer) -> Tensor<2> {
        self.features[layer as usize].clone()
    }
}

#[derive(Clone, Debug)]
struct Block {
    /// The layers of each.
    branches: Vec<Vec<Layer>>,
    /// Channels of all of them.
    outputs: usize,
}

#[derive(Clone, Debug)]
enum Layer {
    Conv(Box<Convolution>),
    /// Of the same input; their channels follow each other.
    Fork(Vec<Convolution>),
    Mean,
    Max(Border),
}

/// With its batch normalisation folded into it, and a ReLU.
#[derive(Clone, Debug)]
struct Convolution {
    /// `[outputs, inputs, height, width]`
    weight: Tensor<4>,
    /// `[outputs]`
    bias: Tensor<1>,
    border: Border,
}

impl Inception {
    /// Channels of each [`FeatureLayer`]: 64, 192, 768 and 2048 of the published weights.
    pub fn channels(&self, layer: FeatureLayer) -> usize {
        let block = self.stages[layer as usize].last();
        block.map_or(0, |block| block.outputs)
    }

    pub fn classes(&self) -> usize {
        self.classes.dims()[0]
    }

    pub fn device(&self) -> Device {
        self.classes.device()
    }

    /// Pictures `[pictures, 3, 299, 299]` in -1..1, as a [`Definition`](super::fid::Definition) prepares them.
    pub fn forward(&self, pixels: Tensor<4>) -> Activations {
        let (mut x, mut features) = (pixels, Vec::new());
        for blocks in &self.stages {
            x = blocks.iter().fold(x, |x, block| block.forward(x));
            features.push(x.clone().flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2));
        }
        let last: Tensor<2> = features[FeatureLayer::L2048 as usize].clone();
        let logits = last.matmul(self.classes.clone().transpose());
        Activations { features, logits }
    }
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branch = |layers: &Vec<Layer>| {
            let layers = layers.iter();
            layers.fold(x.clone(), |x, layer| layer.forward(x))
        };
        Tensor::cat(self.branches.iter().map(branch).collect(), 1)
    }
}

impl Layer {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Fork(convolutions) => {
                let each = convolutions.iter().map(|conv| conv.forward(x.clone()));
                Tensor::cat(each.collect(), 1)
            }
            Self::Mean => {
                let options = AvgPoolOptions::new([3, 3]).with_stride([1, 1]);
                let options = options.with_padding([1, 1]).with_count_include_pad(false);
                avg_pool2d(x, options)
            }
            Self::Max(border) => {
                let options = MaxPoolOptions::new([3, 3]).with_stride(border.stride());
                max_pool2d(x, options.with_padding(border.padding([3, 3])))
            }
        }
    }
}

impl Convolution {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = self.weight.dims();
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        let padded = |x| vila_u_kernels::conv2d(x, weight.clone(), bias.clone());
        relu(match (self.border, [height, width]) {
            (Border::Padded, [3, 3]) => padded(x),
            // Faster than what computes no border.
            (Border::Valid, [3, 3]) => {
                let [_, _, height, width] = x.dims();
                padded(x).narrow(2, 1, height - 2).narrow(3, 1, width - 2)
            }
            (border, kernel) => {
                let options = ConvOptions::new(border.stride(), border.padding(kernel), [1, 1], 1);
                conv2d(x, weight, Some(bias), options)
            }
        })
    }
}

impl Border {
    fn stride(self) -> [usize; 2] {
        match self {
            Self::Padded | Self::Valid => [1, 1],
            Self::Halved => [2, 2],
        }
    }

    fn padding(self, kernel: architecture::Kernel) -> [usize; 2] {
        match self {
            Self::Padded => kernel.map(|size| size / 2),
            Self::Valid | Self::Halved => [0, 0],
        }
    }
}
