//! One benchmark, one module: runs a model and reports what it measured.

pub mod nano;
pub mod quantized;
