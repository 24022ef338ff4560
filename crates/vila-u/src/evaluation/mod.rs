//! How good a model is: [`metrics`] are pure functions, [`benchmarks`] run a model.

pub mod benchmarks;
pub mod metrics;
pub mod score;
