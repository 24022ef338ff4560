//! Where training and evaluation samples come from: the nano world, rendered as it is needed, and files
//! in the common formats.
//!
//! A recipe names [`Source`]s; [`weights`] says which of them a sample is from, [`stream`] gives its
//! records in a shuffled order, read by [`formats`] from the shards that a [`pattern`] names, and
//! [`prepare()`] makes of a record what the model sees.

pub mod formats;
pub mod nano;
pub mod pattern;
mod prepare;
mod record;
pub mod seed;
mod source;
pub mod stream;
pub mod weights;

pub use formats::{DatasetFormat, Form, read_jsonl};
pub use prepare::{Prepared, prepare};
pub use record::{Image, Pictures, Record, Text};
pub use source::Source;
