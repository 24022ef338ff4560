//! Memory of what a step keeps between its forward and its backward pass, counted from the operations
//! that keep something.
//!
//! On the CPU the kernels keep a layer's inputs and little else. On a GPU the same layers are made of
//! more operations, and attention keeps its scores three times: `[heads, length, length]`, or with gradient checkpointing
//! those of some queries, `[heads, 512, length]`.
//!
//! How near it comes: peaks of resident memory of runs on the CPU, of 11 to 113 million parameters, less
//! 130 MB for the program itself. Runs of the language model took from 7 % less to 25 % more than this
//! and the exact sizes of weights, gradients and moments add up to, the tower's stage 24 % and 49 % more.
//! Part of that is memory which is free again and which the allocator holds back. GPUs were not measured.

use vila_u_kernels::COMPOSED_QUERIES;

use crate::language::LlamaConfig;
use crate::model::VilaUConfig;
use crate::tower::RqVaeSiglipConfig;
use crate::tower::siglip::SiglipConfig;
use crate::training::losses::lpips::{BLOCKS, CHANNELS};
use crate::training::objectives::chunk_size;
use crate::training::recipe::{Adversarial, Objective, Recipe, TrainablePart};

/// Bytes of a number.
const F32: f64 = 4.0;

/// A batch as the language model reads it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchShape {
    pub rows: f64,
    /// Positions of a row.
    pub length: f64,
    pub text_targets: f64,
    pub visual_targets: f64,
    pub images: f64,
}

/// Bytes of a batch of the whole model: all layers kept or computed again, as the recipe says.
pub(super) fn language(
    recipe: &Recipe,
    trained: &[TrainablePart],
    config: &VilaUConfig,
    batch: &BatchShape,
    gpu: bool,
) -> u64 {
    let llm = &config.llm;
    let (hidden, layers) = (llm.hidden_size as f64, llm.num_hidden_layers as f64);
    let positions = batch.rows * batch.length;
    let adapter = recipe.lora.as_ref().map_or(0.0, |lora| {
        let inputs = |target: &String| match target.as_str() {
            "down_proj" => llm.intermediate_size as f64,
            _ => hidden,
        };
        let dropped = |target: &String| {
            if lora.dropout > 0.0 {
                inputs(target)
            } else {
                0.0
            }
        };
        let kept = |target| lora.rank as f64 + dropped(target);
        lora.target_modules.iter().map(kept).sum()
    });
    let scored = if recipe.gradient_checkpointing {
        batch.length.min(COMPOSED_QUERIES as f64)
    } else {
        batch.length
    };
    let layer = layer(llm, scored, gpu) + adapter;
    // On the way back through a layer: the gradients of its widest numbers.
    let grads = 3.0 * llm.intermediate_size as f64 + 2.0 * hidden;
    let text = batch.text_targets * (hidden + 2.0 * llm.vocab_size as f64);
    let codes = depth(config, gpu);
    let chunk = chunk_size(config.vision_tower.rqtransformer.depth()) as f64;
    let heads = if recipe.gradient_checkpointing {
        text + codes * batch.visual_targets.min(chunk)
    } else {
        text + codes * batch.visual_targets
    };
    // The heads are gone through before the layers are.
    let layers = if recipe.gradient_checkpointing {
        positions * layers * hidden + heads.max(positions * (layer + grads))
    } else {
        positions * layers * layer + heads.max(positions * grads)
    };
    let tokens = batch.images * config.vision_tower.rqtransformer.positions() as f64;
    let width = config.vision_tower.rqvaesiglip.embed_dim as f64;
    // In and out of the layers, and before them.
    let around = 2.0 * positions * hidden + tokens * (width + 2.0 * hidden);
    let mask = 3.0 * batch.rows * batch.length * batch.length / F32; // bytes
    let tower = if trained.contains(&TrainablePart::Tower) {
        batch.images * encoder(&config.siglip)
    } else {
        0.0
    };
    (F32 * (layers + around + mask + tower)) as u64
}

/// Numbers that a layer keeps of a position: the inputs of its norms (2 h) and linear layers (h for
/// queries, keys and values, h, h for gate and up, f), queries, keys and values, and both factors of the
/// gated unit; and the scores of a position for the queries that are `scored` at a time.
fn layer(llm: &LlamaConfig, scored: f64, gpu: bool) -> f64 {
    let (hidden, wide) = (llm.hidden_size as f64, llm.intermediate_size as f64);
    let heads = llm.num_attention_heads as f64;
    let keys = (llm.kv_heads() * llm.head_dim()) as f64;
    let kept = 6.0 * hidden + 2.0 * keys + 3.0 * wide;
    if gpu {
        kept + 3.0 * hidden + 2.0 * wide + 3.0 * heads * scored
    } else {
        kept + 2.0 * heads
    }
}

/// Numbers that the depth transformer keeps of a visual target.
fn depth(config: &VilaUConfig, gpu: bool) -> f64 {
    let depth = &config.vision_tower.rqtransformer;
    let (width, codes) = (depth.embed_dim as f64, depth.depth() as f64);
    let block = 16.0 * width;
    let composed = if gpu {
        8.0 * width + 3.0 * depth.head.block.n_head as f64 * codes
    } else {
        2.0 * depth.head.block.n_head as f64
    };
    let blocks = depth.head.n_layer as f64 * (block + composed);
    let inputs = depth.input_embed_dim_1 as f64 + 2.0 * width;
    let head = 2.0 * width + 2.0 * depth.vocab_size as f64;
    let grads = 8.0 * width;
    depth.input_embed_dim_2 as f64 + codes * (inputs + blocks + grads + head)
}

/// Bytes of a batch of the tower's.
pub(super) fn tower(
    config: &RqVaeSiglipConfig,
    siglip: &SiglipConfig,
    objective: &Objective,
    images: f64,
    gpu: bool,
) -> u64 {
    let side = siglip.vision_config.image_size as f64;
    let pixels = 3.0 * side * side;
    let stage = match objective {
        Objective::Tower(losses) => {
            let judges = [
                losses.perceptual.as_ref().map(|_| lpips(side)),
                losses.adversarial.map(|game| discriminator(&game, side)),
                losses.from_scratch.then(|| texts(siglip)),
            ];
            // The picture, its reconstruction, and their difference twice.
            pixel_decoder(config) + 4.0 * pixels + judges.iter().flatten().sum::<f64>()
        }
        _ => texts(siglip),
    };
    let composed = if gpu { 1.5 } else { 1.0 };
    (F32 * composed * images * (encoder(siglip) + stage)) as u64
}

/// Numbers that LPIPS keeps of a reconstruction: each convolution before and after its activation, and of the
/// compared features four maps.
fn lpips(side: f64) -> f64 {
    let blocks = BLOCKS.iter().zip(CHANNELS).enumerate();
    let kept = blocks.map(|(block, (convolutions, channels))| {
        let positions = (side / f64::from(1 << block)).powi(2);
        positions * (channels * (2 * convolutions + 4)) as f64
    });
    kept.sum()
}

/// Numbers that a discriminator keeps of a picture and its reconstruction, which it sees twice: of each
/// convolution the output, normalised and activated.
fn discriminator(game: &Adversarial, side: f64) -> f64 {
    let layers = (1..=game.layers).map(|layer| {
        let channels = game.width << (layer - 1).min(3);
        4.0 * channels as f64 * (side / f64::from(1 << layer)).powi(2)
    });
    3.0 * layers.sum::<f64>()
}

/// Numbers that the vision encoder keeps of an image.
fn encoder(siglip: &SiglipConfig) -> f64 {
    let vision = &siglip.vision_config;
    let side = vision.grid() as f64;
    let layer = transformer(vision.hidden_size, vision.intermediate_size);
    let pixels = 3.0 * (vision.image_size * vision.image_size) as f64;
    side * side * layer * vision.num_hidden_layers as f64 + pixels
}

/// Numbers that the text encoder keeps of a text.
fn texts(siglip: &SiglipConfig) -> f64 {
    let text = &siglip.text_config;
    let layer = transformer(text.hidden_size, text.intermediate_size);
    text.max_position_embeddings as f64 * layer * text.num_hidden_layers as f64
}

/// Of a position of a SigLIP layer.
fn transformer(hidden: usize, wide: usize) -> f64 {
    8.0 * hidden as f64 + 2.0 * wide as f64
}

/// Numbers that the pixel decoder keeps of an image: in a residual block the input of each norm and
/// convolution, in attention seven maps.
fn pixel_decoder(config: &RqVaeSiglipConfig) -> f64 {
    let decoder = &config.ddconfig;
    let [height, width, _] = config.latent_shape;
    let [height, width] = config.decoder_latent_shape.unwrap_or([height, width]);
    let coarsest = decoder.ch_mult.len().saturating_sub(1);
    let channels = |level: usize| (decoder.ch * decoder.ch_mult[level]) as f64;
    let widest = channels(coarsest);
    let mut size = (height * width) as f64;
    let block = |inputs: f64, outputs: f64, size: f64| size * 2.0 * (inputs + outputs);
    let attention = |channels: f64, size: f64| 7.0 * channels * size;
    let mut kept = 2.0 * block(widest, widest, size) + attention(widest, size);
    let mut inputs = widest;
    for level in (0..=coarsest).rev() {
        let outputs = channels(level);
        let nominal = (decoder.resolution >> coarsest) << (coarsest - level);
        for index in 0..=decoder.num_res_blocks {
            let from = if index == 0 { inputs } else { outputs };
            kept += block(from, outputs, size);
            if decoder.attn_resolutions.contains(&nominal) {
                kept += attention(outputs, size);
            }
        }
        if level > 0 {
            size *= 4.0;
            kept += outputs * size;
        }
        inputs = outputs;
    }
    kept + 2.0 * inputs * size
}
