//! The configuration files of the released checkpoints, as far as their contents are not ours: what the authors'
//! code expects there.

use serde_json::{Value, json};

use crate::model::VilaUConfig;

const TRANSFORMERS: &str = "4.36.2";

pub(super) fn llm_defaults(config: &VilaUConfig) -> Value {
    let length = config.llm.max_length();
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "initializer_range": 0.02,
        "model_max_length": length,
        "tokenizer_model_max_length": length,
        "tokenizer_padding_side": "right",
        "transformers_version": TRANSFORMERS,
        "use_cache": true,
    })
}

pub(super) fn projector_defaults() -> Value {
    json!({
        "architectures": ["MultimodalProjector"],
        "model_type": "v2l_projector",
        "transformers_version": TRANSFORMERS,
    })
}

pub(super) fn tower_defaults() -> Value {
    json!({
        "architectures": ["RQVAESIGLIPTransformer"],
        "model_type": "rqvaesigliptransformer_model",
        "transformers_version": TRANSFORMERS,
        "rqtransformer": { "architectures": ["RQTransformer"], "attn_implementation": null },
        "rqvaesiglip": { "architectures": ["RQVAESiglipModel"], "attn_implementation": null },
    })
}

pub(super) fn root_defaults(dtype: &str) -> Value {
    json!({
        "architectures": ["VILAULlamaModel"],
        "model_type": "vila_u_llama",
        "drop_path_rate": 0.0,
        "interpolate_mode": "linear",
        "mm_vision_select_layer": -2,
        "model_dtype": format!("torch.{dtype}"),
        "transformers_version": TRANSFORMERS,
        "tune_language_model": true,
        "tune_mm_projector": true,
        "tune_vision_tower": false,
    })
}

/// `llm/generation_config.json` as the released checkpoints have it: text is sampled (their image
/// generation needs `do_sample`).
pub(crate) fn generation_defaults(config: &VilaUConfig) -> Value {
    json!({
        "bos_token_id": config.llm.bos_token_id,
        "do_sample": true,
        "eos_token_id": config.llm.eos_token_id,
        "max_length": config.llm.max_length(),
        "pad_token_id": 0,
        "temperature": 0.9,
        "top_p": 0.6,
        "transformers_version": TRANSFORMERS,
    })
}

pub(super) fn image_settings(size: usize) -> Value {
    let square = json!({ "height": size, "width": size });
    json!({
        "crop_size": square,
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": square,
    })
}
