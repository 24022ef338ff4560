//! How good a model is: [`metrics`] are pure functions, [`benchmarks`] run a model.

pub mod answers;
pub mod benchmarks;
pub mod compare;
pub mod fid;
pub mod generation;
pub mod held_out_loss;
mod image_set;
pub mod inception;
pub mod metrics;
mod paper;
pub mod record;
pub mod sample_log;
pub mod score;
pub mod zero_shot;

pub use crate::data::formats::pictures::Class;
pub use image_set::{ImageId, ImageSet, ImageSetSummary};
pub use paper::{PAPER, PaperNumber};
