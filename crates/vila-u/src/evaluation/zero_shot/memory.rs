//! How many pictures or texts the encoders work on at once: as many as memory allows.

use crate::tower::siglip::{SiglipConfig, SiglipTextConfig, SiglipVisionConfig};

/// Bytes that a batch may take, where the device does not say how many are free.
const UNKNOWN_FREE: u64 = 4 << 30;
/// The part of the free memory that a batch may take: the rest is for the pictures that are decoded meanwhile, and for
/// what an allocator holds back.
const PART: u64 = 4;
/// Larger batches are not faster, and a run that is stopped loses what it has of one.
const MOST: usize = 128;

/// How many are encoded at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AtOnce {
    pub pictures: usize,
    pub texts: usize,
}

impl AtOnce {
    /// With so many bytes free.
    pub fn new(siglip: &SiglipConfig, depth: usize, free: Option<u64>) -> Self {
        let SiglipConfig {
            vision_config: vision,
            text_config: text,
            ..
        } = siglip;
        let free = free.map_or(UNKNOWN_FREE, |free| free / PART);
        let fit =
            |floats: usize| (free / (4 * floats as u64).max(1)).clamp(1, MOST as u64) as usize;
        Self {
            pictures: fit(picture(vision, depth)),
            texts: fit(self::text(text)),
        }
    }
}

/// Numbers that are held for a picture: its pixels twice, its features after each depth, and a layer. Of a tower of the
/// released sizes for 256 px, 51 pictures at once took 13 MB each on a CPU, and this counts 24: GPUs hold the scores of
/// attention besides.
fn picture(config: &SiglipVisionConfig, depth: usize) -> usize {
    let positions = config.grid().pow(2);
    let pixels = 2 * 3 * config.image_size.pow(2);
    let features = (depth + 2) * positions * config.hidden_size;
    let sizes = [
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
    ];
    pixels + features + layer(positions, sizes)
}

fn text(config: &SiglipTextConfig) -> usize {
    let sizes = [
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
    ];
    layer(config.max_position_embeddings, sizes)
}

/// In a layer: its input and its norm, then queries, keys, values, what is attended to and its projection, with the
/// scores; or the wide activations of its MLP twice.
fn layer(positions: usize, [hidden, intermediate, heads]: [usize; 3]) -> usize {
    let attention = 7 * positions * hidden + 2 * heads * positions.pow(2);
    attention.max(3 * positions * hidden + 2 * positions * intermediate)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_large_as_memory_allows() {
        let siglip = SiglipConfig::preset("google/siglip-large-patch16-256").unwrap();
        let pictures = |free| AtOnce::new(&siglip, 4, free).pictures;
        // 24 MB a picture, and a quarter of the memory.
        assert_eq!(pictures(Some(1 << 40)), MOST);
        assert_eq!(pictures(Some(0)), 1);
        let some = pictures(Some(1 << 30));
        assert!((8..20).contains(&some), "{some}");
        assert!(AtOnce::new(&siglip, 4, Some(1 << 30)).texts > some);
    }
}
