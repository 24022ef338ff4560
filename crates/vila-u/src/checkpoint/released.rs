//! The sizes of the released models, and checkpoints that have them with random weights.

use std::path::Path;

use super::{
    files::{Bytes, Files},
    nano,
    random::RandomWeights,
    save::save_random,
};
use crate::{
    Error, Result,
    depth::{BlockConfig, DepthConfig, HeadConfig},
    language::{LlamaConfig, Rope, RopeScaling},
    model::{RootConfig, VilaUConfig},
    projector::ProjectorConfig,
    tower::{PixelDecoderConfig, RqVaeSiglipConfig, SiglipConfig, VisionTowerConfig},
};

/// What [`create`] can make.
pub const NAMES: [&str; 2] = ["vila-u-7b-256", "vila-u-7b-384"];

/// The sizes of a released model.
///
/// # Errors
/// When none has that name.
pub fn sizes(name: &str) -> Result<VilaUConfig> {
    // Encoder, width, positions a side, depth, and the side that the decoder starts from.
    let (encoder, width, grid, depth, decoder) = match name {
        "vila-u-7b-256" => ("google/siglip-large-patch16-256", 1024, 16, 4, 16),
        "vila-u-7b-384" => ("google/siglip-so400m-patch14-384", 1152, 27, 16, 24),
        name => {
            return Err(Error::usage(format!(
                "no released model is called {name}: choose one of {}",
                NAMES.join(", ")
            )));
        }
    };
    let siglip = SiglipConfig::preset(encoder)
        .ok_or_else(|| Error::failed(format!("the sizes of {encoder} are not known")))?;
    let llm = LlamaConfig {
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: None,
        head_dim: None,
        vocab_size: 32_004,
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 10_000.0,
            // Trained on sequences twice as long as LLaMA-2's.
            scaling: Some(RopeScaling::Linear { factor: 2.0 }),
        },
        tie_word_embeddings: false,
        max_position_embeddings: 4096,
        tokenizer_model_max_length: Some(8192),
        bos_token_id: 1,
        eos_token_id: 2,
        hidden_act: "silu".into(),
        attention_bias: false,
        mlp_bias: false,
    };
    let code_shape = [grid, grid, depth];
    let codes = 16_384;
    Ok(VilaUConfig {
        root: RootConfig::new(llm.hidden_size, width),
        mm_projector: ProjectorConfig {
            mm_projector_type: "mlp2x_gelu".into(),
        },
        vision_tower: VisionTowerConfig {
            rqvaesiglip: RqVaeSiglipConfig {
                pretrained_model: encoder.into(),
                embed_dim: width,
                n_embed: codes,
                latent_shape: [grid, grid, width],
                code_shape,
                shared_codebook: true,
                restart_unused_codes: true,
                decay: 0.99,
                latent_loss_weight: 0.25,
                decoder_latent_shape: (decoder != grid).then_some([decoder, decoder]),
                ddconfig: PixelDecoderConfig {
                    double_z: false,
                    z_channels: width,
                    resolution: 256,
                    in_channels: 3,
                    out_ch: 3,
                    ch: 128,
                    ch_mult: vec![1, 1, 2, 2, 4],
                    num_res_blocks: 2,
                    attn_resolutions: vec![16],
                    dropout: 0.0,
                },
            },
            rqtransformer: DepthConfig {
                block_size: code_shape,
                embed_dim: 2560,
                input_embed_dim_1: width,
                input_embed_dim_2: llm.hidden_size,
                vocab_size: codes,
                head: HeadConfig {
                    n_layer: 6,
                    block: BlockConfig { n_head: 40 },
                },
            },
            hidden_size: width,
        },
        llm,
        siglip,
    })
}

/// Writes a checkpoint of a released model's sizes to the new folder `dir`: its configurations, the
/// nano model's tokenizers, and random weights that take no room, as they are made up while they are
/// read.
///
/// # Errors
/// When no released model has that name, `dir` exists and is not empty, or it cannot be written.
pub fn create(dir: &Path, name: &str) -> Result<()> {
    let config = sizes(name)?;
    let nano = nano::files();
    let encoder = &config.vision_tower.rqvaesiglip.pretrained_model;
    let mut files = vec![(
        format!("{encoder}/config.json"),
        Bytes::from(b"{}".to_vec()),
    )];
    for (from, to) in [("llm", "llm"), ("siglip", encoder)] {
        let from = nano.join(from);
        for file in from.names()? {
            if file.contains("token") || file.contains("spiece") {
                files.push((format!("{to}/{file}"), from.bytes(&file)?));
            }
        }
    }
    save_random(
        dir,
        &config,
        &Files::memory("nano", files),
        &RandomWeights::default(),
    )
}
