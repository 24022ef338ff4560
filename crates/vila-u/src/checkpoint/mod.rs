//! Checkpoints in the released Hugging Face layout.
//!
//! ```text
//! config.json                                root: model_type vila_u_llama, copies of the part configs
//! llm/           config, weights, tokenizer, generation_config.json
//! mm_projector/  config, weights
//! vision_tower/  config, weights (autoencoder and depth transformer), preprocessor_config.json
//! ```

pub mod adapter;
mod base;
pub mod config;
pub mod files;
mod floats;
pub mod format;
mod info;
pub mod keys;
mod load;
mod nano;
mod random;
pub mod released;
mod safetensors_writer;
mod save;
pub mod source;
pub mod tensors;
pub mod weights;

pub use base::{BaseModel, load_base};
pub use files::Files;
pub use format::Format;
pub use info::{Info, info};
pub use keys::Part;
pub use load::{Checkpoint, Tower, load, load_siglip, load_tower};
pub(crate) use save::generation_defaults;
pub use save::{Weights, convert, save, save_alone, save_tower};
pub use source::Source;
