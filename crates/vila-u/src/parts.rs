//! The parts of a VILA-U, and which of its parameters each of them has.

/// A part that is trained, counted or loaded on its own (paper, figures 1 and 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelPart {
    /// The LLaMA decoder of text and visual tokens.
    LanguageModel,
    /// Maps visual features to embeddings of the language model.
    Projector,
    /// Predicts the D codes of a visual token from a hidden state of the language model.
    DepthTransformer,
    /// Pixels to features, and features to the embedding of an image.
    VisionEncoder,
    /// Texts to embeddings that are compared with those of images.
    TextEncoder,
    /// Features to residual codes.
    Quantizer,
    /// Quantized features to pixels.
    PixelDecoder,
    /// Scale and bias of the contrastive loss's logits.
    ContrastiveLogits,
    /// The adversary of the pixel decoder in training; no released checkpoint has it.
    Discriminator,
}

/// What paths in a tower begin with, where it is inside the whole model.
const TOWER: &str = "vision_tower.rqvaesiglip.";

impl ModelPart {
    pub(crate) const ALL: [Self; 9] = [
        Self::LanguageModel,
        Self::Projector,
        Self::DepthTransformer,
        Self::VisionEncoder,
        Self::TextEncoder,
        Self::Quantizer,
        Self::PixelDecoder,
        Self::ContrastiveLogits,
        Self::Discriminator,
    ];

    /// What tables and messages call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LanguageModel => "language model",
            Self::Projector => "projector",
            Self::DepthTransformer => "depth transformer",
            Self::VisionEncoder => "vision encoder",
            Self::TextEncoder => "text encoder",
            Self::Quantizer => "quantizer",
            Self::PixelDecoder => "pixel decoder",
            Self::ContrastiveLogits => "scale and bias",
            Self::Discriminator => "discriminator",
        }
    }

    /// What the paths of its parameters begin with in a [`VilaU`](crate::model::VilaU), or in what is trained with
    /// a tower; paths in a tower, without `vision_tower.rqvaesiglip.`.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::LanguageModel => &["llm."],
            Self::Projector => &["mm_projector."],
            Self::DepthTransformer => &["vision_tower.rqtransformer."],
            Self::VisionEncoder => &["siglip_model.vision_model."],
            Self::TextEncoder => &["siglip_model.text_model."],
            Self::Quantizer => &["quantizer."],
            Self::PixelDecoder => &["post_quant_conv.", "decoder."],
            Self::ContrastiveLogits => &["siglip_model.logit_"],
            Self::Discriminator => &["discriminator."],
        }
    }

    /// The part that the parameter at this path belongs to, in the whole model or in a tower alone.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let path = path.strip_prefix(TOWER).unwrap_or(path);
        let has = |part: &Self| part.prefixes().iter().any(|start| path.starts_with(start));
        Self::ALL.into_iter().find(has)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{checkpoint::released, parameters};

    #[test]
    fn every_parameter_belongs_to_a_part() {
        let config = released::sizes("vila-u-7b-256").unwrap();
        let device = Device::flex();
        let whole = parameters::list(&config.init(&device));
        let rqvaesiglip = &config.vision_tower.rqvaesiglip;
        let tower = parameters::list(&rqvaesiglip.init(&config.siglip, &device));
        for parameter in whole.iter().chain(&tower) {
            assert!(
                ModelPart::of(&parameter.path).is_some(),
                "{}",
                parameter.path
            );
        }
        let in_whole = ModelPart::of("vision_tower.rqvaesiglip.quantizer.codebooks.0.weight");
        assert_eq!(in_whole, Some(ModelPart::Quantizer));
        assert_eq!(ModelPart::of("quantizer.codebooks.0.weight"), in_whole);
        assert_eq!(ModelPart::of("model.norm.gamma"), None);
    }
}
