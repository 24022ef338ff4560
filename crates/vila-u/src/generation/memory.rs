//! How much memory generating images takes beside the weights, and how many images or videos are generated
//! together because of it.
//!
//! Keys and values of every position are most of it. More images than fit are generated batch after
//! batch, so a thousand of them take no more memory than one batch and the finished pictures.

use serde::Serialize;

use crate::model::VilaUConfig;

/// Bytes that a batch of images may take, unless a single one takes more.
const MOST: u64 = 4 << 30;
/// Positions of the prompt: a caption in its conversation template is mostly shorter.
const PROMPT: usize = 128;
/// Guidance runs every image twice, with its caption and without.
const ROWS: usize = 2;
/// Maps of the pixel decoder that are held at once: what a block adds to, and three on the way.
const MAPS: usize = 4;

/// Memory of generating with guidance beside the weights, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryEstimate {
    /// However many images are generated.
    pub fixed: u64,
    /// Of each image of a batch, or of each video.
    pub per_image: u64,
    /// Images of a batch, or videos.
    pub at_once: usize,
}

impl MemoryEstimate {
    /// What a model of these sizes needs for images.
    pub(crate) fn of(config: &VilaUConfig) -> Self {
        Self::of_videos(config, 1)
    }

    /// What a model of these sizes needs for videos of `frames` frames.
    pub(crate) fn of_videos(config: &VilaUConfig, frames: usize) -> Self {
        let (llm, depth) = (&config.llm, &config.vision_tower.rqtransformer);
        let [map, image] = pixels(config);
        let positions = frames * depth.positions();
        let position = 2 * llm.kv_heads() * llm.head_dim(); // keys and values of a layer
        let cache = (PROMPT + positions) * position * llm.num_hidden_layers;
        let codes = 2 * depth.depth() * depth.embed_dim * depth.head.n_layer;
        let hidden = 4 * llm.hidden_size + 3 * llm.intermediate_size;
        let logits = 4 * depth.vocab_size;
        let features = positions * depth.input_embed_dim_1;
        // Features and pixels are held one by one and then together.
        let per_image =
            ROWS * (cache + codes + hidden + logits) + 2 * features + 2 * frames * image;
        // One more layer: its keys and values are copied to be multiplied.
        let prompt = ROWS * PROMPT * (hidden + position * (llm.num_hidden_layers + 1));
        let [fixed, per_image] =
            [prompt + MAPS * map, per_image].map(|values| (values * size_of::<f32>()) as u64);
        Self {
            fixed,
            per_image,
            at_once: (MOST.saturating_sub(fixed) / per_image).max(1) as usize,
        }
    }

    /// For `n` images, in as many batches as that takes.
    pub fn bytes(&self, n: usize) -> u64 {
        self.fixed + n.min(self.at_once) as u64 * self.per_image
    }
}

/// Values of the decoder's largest map, and of an image.
fn pixels(config: &VilaUConfig) -> [usize; 2] {
    let tower = &config.vision_tower.rqvaesiglip;
    let decoder = &tower.ddconfig;
    let [height, width, _] = tower.latent_shape;
    let [height, width] = tower.decoder_latent_shape.unwrap_or([height, width]);
    let finest = decoder.ch_mult.len() - 1;
    let size = |doublings: usize| (height << doublings) * (width << doublings);
    // A level's map grows before its channels become fewer.
    let maps = decoder.ch_mult.iter().enumerate().map(|(level, channels)| {
        let doublings = (finest + 1 - level).min(finest);
        decoder.ch * channels * size(doublings)
    });
    [maps.max().unwrap_or(0), 3 * size(finest)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::released;

    #[test]
    fn a_batch_is_bounded_and_more_images_take_no_more() {
        for name in released::NAMES {
            let need = MemoryEstimate::of(&released::sizes(name).unwrap());
            assert!(need.at_once >= 1, "{name}");
            assert!(
                need.at_once == 1 || need.bytes(need.at_once) <= MOST,
                "{name}"
            );
            assert_eq!(need.bytes(need.at_once), need.bytes(1024));
        }
        // Two rows of 384 positions, 32 layers of 8192 values: 805 MB of keys and values.
        let need = MemoryEstimate::of(&released::sizes("vila-u-7b-256").unwrap());
        assert!(
            (805..870).contains(&(need.per_image / 1_000_000)),
            "{need:?}"
        );
        assert_eq!(need.at_once, 4);
        // Of a video, 2,176 positions: 4.56 GB of keys and values, one at a time.
        let need = MemoryEstimate::of_videos(&released::sizes("vila-u-7b-256").unwrap(), 8);
        assert!(
            (4_560..4_700).contains(&(need.per_image / 1_000_000)),
            "{need:?}"
        );
        assert_eq!(need.at_once, 1);
    }
}
