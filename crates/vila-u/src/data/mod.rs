//! Where training and evaluation samples come from: the nano world, drawn as it is needed, and
//! files in the common formats.

pub mod nano;
mod prepare;
mod record;

pub use prepare::{Prepared, prepare};
pub use record::{Record, read_jsonl};
