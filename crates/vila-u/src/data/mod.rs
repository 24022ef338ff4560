//! Where training and evaluation samples come from: the nano world, rendered as it is needed, and files
//! in the common formats.
//!
//! A recipe names [`Source`]s; `weights` says which of them a sample is from, `stream` gives its
//! records in a shuffled order, read by `formats` from the shards that a `pattern` names, and
//! [`prepare()`] makes of a record what the model sees.

pub(crate) mod formats;
pub mod nano;
pub(crate) mod pattern;
mod prepare;
mod record;
pub(crate) mod seed;
mod source;
pub(crate) mod stream;
pub(crate) mod weights;

pub use formats::{DatasetFormat, Form, read_jsonl};
pub use prepare::{Prepared, prepare};
pub use record::{Image, Pictures, Record, Text};
pub use source::Source;
