//! VILA-U (arXiv 2409.04429): a unified foundation model that understands and generates images and
//! videos as discrete tokens inside one autoregressive language model.
//!
//! A [`Pipeline`] is a model that is loaded and ready to be used; the one called `nano` is inside this library:
//!
//! ```
//! # fn main() -> vila_u::Result<()> {
//! use vila_u::{AskOptions, GenerateOptions, Pipeline, Question};
//!
//! let pipeline = Pipeline::from_pretrained("nano")?; // or a folder, or "hf:mit-han-lab/vila-u-7b-256"
//! let images = pipeline.generate_images("a red heart on a blue background", 1, &GenerateOptions::default())?;
//! let question = Question::new("What is in this picture?").image(images[0].clone());
//! println!("{}", pipeline.ask(question, &AskOptions::default())?.text);
//! # Ok(())
//! # }
//! ```
//!
//! Programs of twenty to forty lines are in the folder `examples/`, run with `cargo run --release --example NAME`:
//!
//! | name | what it does |
//! | --- | --- |
//! | `ask` | asks about a picture, the answer printed as it is generated |
//! | `generate` | generates an image, with a preview now and then |
//! | `video` | generates a video, and asks about it |
//! | `classify` | classifies a picture by labels, and gives the vectors behind it |
//! | `codes` | reads the codes of a picture, changes them, and decodes them again |
//! | `score` | says which caption of a picture the language model finds most probable |
//! | `continue_text` | continues a text with a base language model |
//! | `train_step` | training steps by hand, as a start for objectives of your own |
//!
//! Errors are values, [`Error`], whose message is one line that names what is at fault. Tensors are those of
//! [`burn`], images those of [`image`]; both are exported from here in the version that is used.
//!
//! # How a sample flows
//!
//! file -> [`media`] -> pixels -> [`tower`] -> codes and features -> [`projector`] -> [`sequence`] (spliced with text
//! tokens from [`text`]) -> [`language`] -> hidden states -> text head or [`depth`] -> codes -> [`tower`] decoder ->
//! pixels -> [`media`] -> file. [`model`] puts the parts together, [`generation`] runs them token by token,
//! [`checkpoint`] reads and writes the released Hugging Face layout.

pub mod atomic;
mod attention;
pub mod benchmark;
mod catch_unwind;
pub mod checkpoint;
pub mod convert;
pub mod data;
pub mod depth;
pub mod device;
pub mod engine;
mod error;
pub mod evaluation;
mod file_kind;
pub mod generation;
mod json_lines;
pub mod language;
mod layers;
pub mod media;
pub mod memory;
pub mod model;
mod parameters;
mod parts;
mod pipeline;
mod plot;
pub mod projector;
mod safe_path;
pub mod sequence;
pub mod teacher_forcing;
pub mod text;
pub mod tower;
pub mod training;

pub use {burn, image, safetensors};

pub use error::{Error, Result};
pub use pipeline::{
    Answer, AskEvent, AskOptions, Codes, Encoded, Features, GenerateEvent, GenerateOptions,
    Generated, GenerationProgress, Grid, Pipeline, PipelineBuilder, Question, Reconstruction,
    ZeroShotClassifier, random_seed,
};
