//! The model that a run trains: what it starts from, and how it is written and read back.

pub mod checkpointer;
pub mod initial;
mod llama;
mod tower_with_discriminator;

pub use tower_with_discriminator::TowerWithDiscriminator;
