//! Checkpoints in the released Hugging Face layout.
//!
//! ```text
//! config.json                                root: model_type vila_u_llama, copies of the part configs
//! llm/           config, weights, tokenizer, generation_config.json
//! mm_projector/  config, weights
//! vision_tower/  config, weights (autoencoder and depth transformer), preprocessor_config.json
//! ```

pub(crate) mod adapter;
mod base;
pub mod config;
mod default_configs;
pub(crate) mod files;
mod floats;
mod info;
pub(crate) mod keys;
mod load;
mod nano;
mod parameter;
mod random;
pub mod released;
mod safetensors_writer;
mod save;
pub(crate) mod source;
pub(crate) mod stored_tensor;
mod tensor_to_load;
mod tensor_to_save;
pub(crate) mod tensors;
pub(crate) mod weight_dtype;
mod weight_files;
pub(crate) mod weights;

pub use base::{BaseModel, load_base};
pub(crate) use default_configs::generation_defaults;
pub use files::Files;
pub use info::{Info, info};
pub use keys::Component;
pub use load::{Checkpoint, Tower, load, load_siglip, load_tower};
pub use save::{ModelWeights, convert, save, save_alone, save_tower};
pub use source::Source;
pub use weight_dtype::WeightDtype;
pub use weights::load_into;
