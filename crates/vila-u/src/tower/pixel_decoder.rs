//! The pixel decoder, which is VQGAN's (arXiv 2012.09841): residual blocks of group norm, SiLU and 3x3 convolutions
//! make a grid of latents an image, upsampling by two from level to level.

use burn::{
    module::Module,
    nn::{
        GroupNorm, GroupNormConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Tensor,
        activation::silu,
        module::interpolate,
        ops::{InterpolateMode, InterpolateOptions},
    },
};
use serde::{Deserialize, Serialize};
use vila_u_kernels::{attention, conv2d, group_norm_silu};

use crate::{
    Error, Result,
    layers::{dropout, normalise_groups},
};

/// Groups of every norm.
const GROUPS: usize = 32;

/// `ddconfig` of a tower config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PixelDecoderConfig {
    #[serde(default)]
    pub double_z: bool,
    /// Channels of the latents, after `post_quant_conv`.
    pub z_channels: usize,
    /// Nominal height of the image. It only decides which levels have attention.
    pub resolution: usize,
    #[serde(default = "rgb")]
    pub in_channels: usize,
    #[serde(default = "rgb")]
    pub out_ch: usize,
    /// Channels of the finest level are `ch * ch_mult[0]`, of the next coarser one `ch * ch_mult[1]`...
    pub ch: usize,
    pub ch_mult: Vec<usize>,
    pub num_res_blocks: usize,
    /// Nominal heights of the levels whose blocks are followed by attention.
    pub attn_resolutions: Vec<usize>,
    #[serde(default)]
    pub dropout: f64,
}

fn rgb() -> usize {
    3
}

#[derive(Module, Debug)]
pub struct PixelDecoder {
    pub conv_in: Conv2d,
    pub mid: Middle,
    /// From the finest level to the coarsest; the image grows from the last to the first.
    pub up: Vec<Level>,
    pub norm_out: GroupNorm,
    pub conv_out: Conv2d,
}

#[derive(Module, Debug)]
pub struct Middle {
    pub block_1: ResidualBlock,
    pub attn_1: PixelAttention,
    pub block_2: ResidualBlock,
}

#[derive(Module, Debug)]
pub struct Level {
    pub block: Vec<ResidualBlock>,
    /// After each block, or nowhere in this level.
    pub attn: Vec<PixelAttention>,
    /// Everywhere but at the finest level.
    pub upsample: Option<Upsample>,
}

#[derive(Module, Debug)]
pub struct ResidualBlock {
    pub norm1: GroupNorm,
    pub conv1: Conv2d,
    pub norm2: GroupNorm,
    pub conv2: Conv2d,
    /// Where the block changes the number of channels.
    pub nin_shortcut: Option<Conv2d>,
    dropout: f64,
}

/// Attention of all positions on all, with a single head.
#[derive(Module, Debug)]
pub struct PixelAttention {
    pub norm: GroupNorm,
    pub q: Conv2d,
    pub k: Conv2d,
    pub v: Conv2d,
    pub proj_out: Conv2d,
}

#[derive(Module, Debug)]
pub struct Upsample {
    pub conv: Conv2d,
}

impl PixelDecoderConfig {
    /// A usage error that says why no decoder can have this config, if there is a reason.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::usage(format!("ddconfig: {reason}")));
        if !(1..=16).contains(&self.ch_mult.len()) || self.num_res_blocks > 100 {
            return refuse("ch_mult or num_res_blocks is out of range");
        }
        if self.z_channels == 0 || self.out_ch == 0 {
            return refuse("z_channels and out_ch must not be 0");
        }
        for multiplier in &self.ch_mult {
            match self.ch.checked_mul(*multiplier) {
                Some(channels) if channels > 0 && channels.is_multiple_of(GROUPS) => {}
                _ => {
                    return refuse(&format!(
                        "ch {} times {multiplier} is not a multiple of {GROUPS}",
                        self.ch
                    ));
                }
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(&format!("dropout {} is not between 0 and 1", self.dropout));
        }
        Ok(())
    }

    /// Untrained, of a config that was checked; weights are initialised when first used.
    pub(crate) fn init(&self, device: &Device) -> PixelDecoder {
        let block = |inputs, outputs| ResidualBlock::new(inputs, outputs, self.dropout, device);
        let coarsest = self.ch_mult.len() - 1;
        let widest = self.ch * self.ch_mult[coarsest];

        let mut inputs = widest;
        let mut up = Vec::new();
        for level in (0..=coarsest).rev() {
            let outputs = self.ch * self.ch_mult[level];
            let nominal_height = (self.resolution >> coarsest) << (coarsest - level);
            let attends = self.attn_resolutions.contains(&nominal_height);
            let blocks = self.num_res_blocks + 1;
            up.push(Level {
                block: (0..blocks)
                    .map(|index| block(if index == 0 { inputs } else { outputs }, outputs))
                    .collect(),
                attn: (0..if attends { blocks } else { 0 })
                    .map(|_| PixelAttention::new(outputs, device))
                    .collect(),
                upsample: (level > 0).then(|| Upsample {
                    conv: conv3x3(outputs, outputs, device),
                }),
            });
            inputs = outputs;
        }
        up.reverse();

        PixelDecoder {
            conv_in: conv3x3(self.z_channels, widest, device),
            mid: Middle {
                block_1: block(widest, widest),
                attn_1: PixelAttention::new(widest, device),
                block_2: block(widest, widest),
            },
            up,
            norm_out: group_norm(inputs, device),
            conv_out: conv3x3(inputs, self.out_ch, device),
        }
    }
}

impl PixelDecoder {
    /// `[batch, z_channels, h, w]` -> `[batch, 3, H, W]`, about -1..1 but not bounded; each level
    /// but the finest doubles height and width.
    pub fn forward(&self, z: Tensor<4>) -> Tensor<4> {
        self.pixels(self.features(z))
    }

    /// Everything but the last convolution: `[batch, z_channels, h, w]` -> `[batch, ch, H, W]`.
    pub fn features(&self, z: Tensor<4>) -> Tensor<4> {
        let x = self.mid.forward(convolve(&self.conv_in, z));
        let x = self.up.iter().rev().fold(x, |x, level| level.forward(x));
        norm_silu(&self.norm_out, x)
    }

    /// The last convolution: `[batch, ch, H, W]` -> `[batch, 3, H, W]`.
    pub fn pixels(&self, features: Tensor<4>) -> Tensor<4> {
        convolve(&self.conv_out, features)
    }
}

impl Middle {
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.attn_1.forward(self.block_1.forward(x));
        self.block_2.forward(x)
    }
}

impl Level {
    pub fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (index, block) in self.block.iter().enumerate() {
            x = block.forward(x);
            if let Some(attention) = self.attn.get(index) {
                x = attention.forward(x);
            }
        }
        match &self.upsample {
            Some(upsample) => upsample.forward(x),
            None => x,
        }
    }
}

impl ResidualBlock {
    fn new(inputs: usize, outputs: usize, dropout: f64, device: &Device) -> Self {
        Self {
            norm1: group_norm(inputs, device),
            conv1: conv3x3(inputs, outputs, device),
            norm2: group_norm(outputs, device),
            conv2: conv3x3(outputs, outputs, device),
            nin_shortcut: (inputs != outputs).then(|| conv1x1(inputs, outputs, device)),
            dropout,
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = convolve(&self.conv1, norm_silu(&self.norm1, x.clone()));
        let y = dropout(norm_silu(&self.norm2, y), self.dropout);
        let y = convolve(&self.conv2, y);
        match &self.nin_shortcut {
            Some(shortcut) => convolve(shortcut, x) + y,
            None => x + y,
        }
    }
}

impl PixelAttention {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            norm: group_norm(channels, device),
            q: conv1x1(channels, channels, device),
            k: conv1x1(channels, channels, device),
            v: conv1x1(channels, channels, device),
            proj_out: conv1x1(channels, channels, device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let normed = normalise_groups(&self.norm, x.clone());
        // [batch, channels, height, width] -> [batch, 1, positions, channels]
        let positions = |conv: &Conv2d| {
            convolve(conv, normed.clone())
                .reshape([batch, 1, channels, height * width])
                .swap_dims(2, 3)
        };
        let scale = (channels as f64).powf(-0.5);
        let y = attention(
            positions(&self.q),
            positions(&self.k),
            positions(&self.v),
            None,
            scale,
        );
        let y = y.swap_dims(2, 3).reshape([batch, channels, height, width]);
        x + convolve(&self.proj_out, y)
    }
}

impl Upsample {
    /// Nearest-neighbour upsampling by two, then a convolution.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let options = InterpolateOptions::new(InterpolateMode::Nearest)
            .with_output_size([2 * height, 2 * width]);
        convolve(&self.conv, interpolate(x, options))
    }
}

/// `silu(group_norm(x))`, the step before almost every convolution.
fn norm_silu(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    match (&norm.gamma, &norm.beta) {
        (Some(gamma), Some(beta)) => {
            group_norm_silu(x, gamma.val(), beta.val(), GROUPS, norm.epsilon)
        }
        _ => silu(norm.forward(x)),
    }
}

/// Every convolution of the decoder (stride 1, output as large as input).
pub(crate) fn convolve(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    match &conv.bias {
        Some(bias) => conv2d(x, conv.weight.val(), bias.val()),
        None => conv.forward(x),
    }
}

fn group_norm(channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(GROUPS, channels)
        .with_epsilon(1e-6)
        .init(device)
}

fn conv3x3(inputs: usize, outputs: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([inputs, outputs], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

pub(super) fn conv1x1(inputs: usize, outputs: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([inputs, outputs], [1, 1]).init(device)
}
