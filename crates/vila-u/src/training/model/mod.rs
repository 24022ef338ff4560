//! The model that a run trains: what it starts from, and how it is written and read back.

pub(crate) mod checkpointer;
pub(crate) mod initial;
pub(crate) mod initial_tower;
mod llama;
mod tower_with_discriminator;

pub(crate) use tower_with_discriminator::TowerWithDiscriminator;
