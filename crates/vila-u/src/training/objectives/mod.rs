//! What a stage trains: the tower alone, or the language model on what it reads and generates.

mod chunked_attention;
mod chunked_depth_loss;
mod code_cache;
mod gradient_checkpointing;
pub(crate) mod held_out;
pub(super) mod layer_codes;
pub(super) mod multimodal;
mod sample_sheet;
pub(super) mod tower;
mod tower_losses;

pub(super) use chunked_depth_loss::chunk_size;
pub(super) use gradient_checkpointing::CheckpointedLayers;
