//! The pictures and videos that generation benchmarks score: each benchmark's own prompt file is read, and what is
//! generated gets the names that its official scorer looks for.
//!
//! A [`Layout`] says which files a benchmark wants of which prompts; [`run`] generates those that are not there yet,
//! many prompts in each step of one [`crate::engine::Engine`]; and beside them is a manifest, which says of every file
//! how it was made. A run that was stopped, however that was, goes on where it was, and a [`Shard`] of it runs on each of
//! many machines: a file depends on its prompt, its place among the prompts, and the settings.

mod layouts;
mod manifest;
mod prompt_file;
mod run;
mod shard;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use layouts::{Layout, Prompt};
pub use manifest::{Entry, SampleSettings};
pub use run::{Outcome, Progress, Settings, Skipped, run};
pub use shard::Shard;
