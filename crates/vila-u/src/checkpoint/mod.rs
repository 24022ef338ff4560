//! Checkpoints in the released Hugging Face layout.
//!
//! ```text
//! config.json                                root: model_type vila_u_llama, copies of the part configs
//! llm/           config, weights, tokenizer, generation_config.json
//! mm_projector/  config, weights
//! vision_tower/  config, weights (autoencoder and depth transformer), preprocessor_config.json
//! ```

pub mod files;
pub mod keys;
mod nano;
pub mod source;
pub mod tensors;
pub mod weights;

pub use files::Files;
pub use keys::Part;
pub use source::Source;
