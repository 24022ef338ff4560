//! Where training and evaluation samples come from: the nano world, drawn as it is needed, and
//! files in the common formats.

pub mod nano;
mod record;

pub use record::{Record, read_jsonl};
