//! The unified foundation vision tower (paper, section 3.1): pixels become discrete codes that carry
//! both what the text encoder can match and what the pixel decoder needs to rebuild the image.
//!
//! ```text
//! pixels -> SigLIP layers 1..L-1 -> features -> residual quantizer -> codes, z_q -> pixel decoder -> pixels
//!                                                                           \--> SigLIP layer L, pooling -> embedding
//! ```

pub(crate) mod codebook;
pub(crate) mod config;
pub(crate) mod pixel_decoder;
pub(crate) mod residual_quantizer;
pub mod siglip;

use burn::{
    module::Module,
    nn::conv::Conv2d,
    tensor::{
        Device, Int, Tensor,
        module::interpolate,
        ops::{InterpolateMode, InterpolateOptions},
    },
};

pub use codebook::{Codebook, CodebookUpdate};
pub use config::{RqVaeSiglipConfig, VisionTowerConfig};
pub use pixel_decoder::{PixelDecoder, PixelDecoderConfig};
use pixel_decoder::{conv1x1, convolve};
pub use residual_quantizer::{Quantized, ResidualQuantizer};
use siglip::normalise;
pub use siglip::{Siglip, SiglipConfig};

use crate::{Result, depth::DepthTransformer};

/// All of `vision_tower/`: the tower itself, and the depth transformer that predicts its codes.
#[derive(Module, Debug)]
pub struct VisionTower {
    pub rqvaesiglip: RqVaeSiglip,
    pub rqtransformer: DepthTransformer,
}

impl VisionTower {
    /// Untrained; weights are initialised when first used. `siglip` is what `pretrained_model` names.
    ///
    /// A usage error when [`VisionTowerConfig::check`] fails.
    pub fn new(config: &VisionTowerConfig, siglip: &SiglipConfig, device: &Device) -> Result<Self> {
        config.check(siglip)?;
        Ok(config.init(siglip, device))
    }
}

impl VisionTowerConfig {
    /// Untrained, of a config that was checked; weights are initialised when first used.
    pub(crate) fn init(&self, siglip: &SiglipConfig, device: &Device) -> VisionTower {
        VisionTower {
            rqvaesiglip: self.rqvaesiglip.init(siglip, device),
            rqtransformer: self.rqtransformer.init(device),
        }
    }
}

/// Image and text encoders, quantizer and pixel decoder.
#[derive(Module, Debug)]
pub struct RqVaeSiglip {
    pub siglip_model: Siglip,
    pub quantizer: ResidualQuantizer,
    pub post_quant_conv: Conv2d,
    pub decoder: PixelDecoder,
    latent_shape: [usize; 3],
    decoder_latent_shape: Option<[usize; 2]>,
}

impl RqVaeSiglipConfig {
    /// Untrained, of a config that was checked; weights are initialised when first used.
    pub(crate) fn init(&self, siglip: &SiglipConfig, device: &Device) -> RqVaeSiglip {
        RqVaeSiglip {
            siglip_model: siglip.init(device),
            quantizer: ResidualQuantizer::new(self, device),
            post_quant_conv: conv1x1(self.embed_dim, self.ddconfig.z_channels, device),
            decoder: self.ddconfig.init(device),
            latent_shape: self.latent_shape,
            decoder_latent_shape: self.decoder_latent_shape,
        }
    }
}

impl RqVaeSiglip {
    /// Untrained; weights are initialised when first used. `siglip` is what `pretrained_model` names.
    ///
    /// A usage error when [`RqVaeSiglipConfig::check`] fails.
    pub fn new(config: &RqVaeSiglipConfig, siglip: &SiglipConfig, device: &Device) -> Result<Self> {
        config.check(siglip)?;
        Ok(config.init(siglip, device))
    }

    /// The features that are quantized: `[batch, 3, size, size]` in -1..1 -> `[batch, h, w, C]`.
    pub fn features(&self, pixels: Tensor<4>) -> Tensor<4> {
        let features = self.siglip_model.vision_model.features(pixels);
        let batch = features.dims()[0];
        let [height, width, channels] = self.latent_shape;
        features.reshape([batch, height, width, channels])
    }

    /// Features `[batch, h, w, C]` to codes and quantized features.
    pub fn quantize(&self, features: Tensor<4>) -> Quantized {
        self.quantizer.forward(features)
    }

    /// Pixels `[batch, 3, size, size]` in -1..1 to codes and quantized features.
    pub fn encode(&self, pixels: Tensor<4>) -> Quantized {
        self.quantize(self.features(pixels))
    }

    /// Quantized features `[batch, h, w, C]` to pixels `[batch, 3, H, W]`, about -1..1 but not
    /// bounded.
    pub fn decode(&self, z: Tensor<4>) -> Tensor<4> {
        self.decoder.pixels(self.decoder_features(z))
    }

    /// The input of the decoder's last convolution: `[batch, h, w, C]` -> `[batch, ch, H, W]`.
    pub fn decoder_features(&self, z: Tensor<4>) -> Tensor<4> {
        let z = z.permute([0, 3, 1, 2]);
        let z = match self.decoder_latent_shape {
            Some(size) => {
                let options = InterpolateOptions::new(InterpolateMode::Bilinear)
                    .with_align_corners(false)
                    .with_output_size(size);
                interpolate(z, options)
            }
            None => z,
        };
        self.decoder.features(convolve(&self.post_quant_conv, z))
    }

    /// Codes `[batch, rows, columns, D]` to pixels `[batch, 3, H, W]`.
    ///
    /// Errors when the codes are not this model's: another grid or depth, or out of range.
    pub fn decode_codes(&self, codes: Tensor<4, Int>) -> Result<Tensor<4>> {
        self.quantizer.check(&codes)?;
        Ok(self.decode(self.quantizer.features_of(codes)))
    }

    /// L2-normalised embeddings `[batch, C]` of images `[batch, 3, size, size]`, to be compared with those of texts;
    /// from quantized features or, as in plain SigLIP, from the features themselves.
    pub fn image_embeds(&self, pixels: Tensor<4>, quantized: bool) -> Tensor<2> {
        let features = self.features(pixels);
        self.feature_embeds(if quantized {
            self.quantize(features).z_q
        } else {
            features
        })
    }

    /// L2-normalised embeddings `[batch, C]` of (quantized) features `[batch, h, w, C]`: the encoder's last layer and
    /// its attention pooling.
    pub fn feature_embeds(&self, features: Tensor<4>) -> Tensor<2> {
        normalise(
            self.siglip_model
                .vision_model
                .pooled(features.flatten(1, 2)),
        )
    }

    /// L2-normalised embeddings of texts: ids `[texts, tokens]` -> `[texts, C]`.
    pub fn text_embeds(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        self.siglip_model.text_embeds(ids)
    }
}
