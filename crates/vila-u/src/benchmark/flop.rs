//! Floating-point operations of matrix products and convolutions, of the tower for one image; a multiplication and an
//! addition each count one. What else is computed is left out.

use crate::language::LlamaConfig;
use crate::tower::{RqVaeSiglipConfig, siglip::SiglipVisionConfig};

/// A prompt of the language model, to hidden states.
pub(super) fn prompt(llm: &LlamaConfig, positions: usize) -> usize {
    let (hidden, heads) = (llm.hidden_size, llm.head_dim() * llm.num_attention_heads);
    let keys = llm.head_dim() * llm.kv_heads();
    let products = 2 * hidden * (2 * heads + 2 * keys + 3 * llm.intermediate_size);
    // A position looks at half of them in the mean.
    let attention = 2 * positions * heads;
    llm.num_hidden_layers * positions * (products + attention)
}

/// Pixels to the features that are quantized: all layers but the last.
pub(super) fn features(vision: &SiglipVisionConfig) -> usize {
    let (width, positions) = (vision.hidden_size, vision.grid().pow(2));
    let patches = 2 * positions * width * vision.num_channels * vision.patch_size.pow(2);
    let products = 2 * positions * width * (4 * width + 2 * vision.intermediate_size);
    let attention = 4 * positions.pow(2) * width;
    patches + (vision.num_hidden_layers - 1) * (products + attention)
}

/// Every position's distance to every row of the codebook, at each depth.
pub(super) fn quantize(tower: &RqVaeSiglipConfig) -> usize {
    let [rows, columns, depth] = tower.code_shape;
    2 * rows * columns * depth * tower.n_embed * tower.code_channels()
}

/// Features to pixels.
pub(super) fn decode(tower: &RqVaeSiglipConfig) -> usize {
    let decoder = &tower.ddconfig;
    let [height, width, channels] = tower.latent_shape;
    let [height, width] = tower.decoder_latent_shape.unwrap_or([height, width]);
    let mut pixels = height * width;
    let conv = |pixels, from, to, side: usize| 2 * pixels * from * to * side.pow(2);
    let block = |pixels, from, to| {
        let shortcut = if from == to {
            0
        } else {
            conv(pixels, from, to, 1)
        };
        conv(pixels, from, to, 3) + conv(pixels, to, to, 3) + shortcut
    };
    let attention =
        |pixels: usize, width| 4 * conv(pixels, width, width, 1) + 4 * pixels.pow(2) * width;
    let coarsest = decoder.ch_mult.len() - 1;
    let mut current = decoder.ch * decoder.ch_mult[coarsest];
    let mut sum = conv(pixels, channels, decoder.z_channels, 1)
        + conv(pixels, decoder.z_channels, current, 3)
        + 2 * block(pixels, current, current)
        + attention(pixels, current);
    for level in (0..=coarsest).rev() {
        let outputs = decoder.ch * decoder.ch_mult[level];
        let nominal = (decoder.resolution >> coarsest) << (coarsest - level);
        for _ in 0..=decoder.num_res_blocks {
            sum += block(pixels, current, outputs);
            current = outputs;
            if decoder.attn_resolutions.contains(&nominal) {
                sum += attention(pixels, current);
            }
        }
        if level > 0 {
            pixels *= 4;
            sum += conv(pixels, current, current, 3);
        }
    }
    sum + conv(pixels, current, decoder.out_ch, 3)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::released;

    /// Against what PyTorch's counter says of modules of the same shapes.
    #[test]
    fn the_released_towers_need_as_much_as_another_counter_says() {
        for (name, expected) in [
            (
                "vila-u-7b-256",
                [154_753_040_384, 34_359_738_368, 255_064_014_848],
            ),
            (
                "vila-u-7b-384",
                [641_801_428_992, 440_301_256_704, 576_404_324_352],
            ),
        ] {
            let config = released::sizes(name).unwrap();
            let tower = &config.vision_tower.rqvaesiglip;
            let vision = features(&config.siglip.vision_config);
            assert_eq!([vision, quantize(tower), decode(tower)], expected, "{name}");
        }
    }
}
