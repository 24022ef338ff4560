//! VILA-U (arXiv 2409.04429): a unified foundation model that understands and generates images and
//! videos as discrete tokens inside one autoregressive language model.
//!
//! How a sample flows: file -> [`media`] -> pixels -> [`tower`] -> codes and features ->
//! [`projector`] -> [`sequence`] (spliced with text tokens from [`text`]) -> [`language`] -> hidden
//! states -> text head or [`depth`] -> codes -> [`tower`] decoder -> pixels -> [`media`] -> file.

pub mod atomic;
pub mod attention;
pub mod benchmark;
pub mod checkpoint;
pub mod data;
pub mod depth;
pub mod device;
pub mod error;
pub mod evaluation;
pub mod generation;
pub mod language;
mod layers;
pub mod media;
pub mod memory;
pub mod model;
mod plot;
pub mod projector;
mod quiet;
pub mod sequence;
pub mod text;
pub mod tower;
pub mod training;

pub use {burn, image, safetensors};

pub use error::{Error, Result};
