//! Where training and evaluation samples come from: files in the common formats, and the nano world, which is
//! rendered as it is needed.
//!
//! A recipe names [`Source`]s; `weights` says which of them a sample is from, `stream` gives its
//! records in a shuffled order, read by `formats` from its shards, each of a [`SampleKind`], and [`prepare()`]
//! makes of a record what the model sees.

pub(crate) mod formats;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod fuzz;
mod layers;
pub mod nano;
pub(crate) mod partition;
pub(crate) mod pattern;
mod prepare;
mod record;
pub(crate) mod sample_kind;
pub(crate) mod seed;
mod source;
pub(crate) mod stream;
pub(crate) mod weights;
pub(crate) mod worker_stream;

pub use formats::{DatasetFormat, Rendering, read_jsonl};
pub use layers::Layers;
pub use prepare::{Prepared, prepare};
pub use record::{Image, Pictures, Record, Text};
pub use sample_kind::{KindWeights, SampleKind};
pub use source::Source;
pub use stream::Skipped;
