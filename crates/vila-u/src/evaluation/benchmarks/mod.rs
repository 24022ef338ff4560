//! One benchmark, one module: runs a model and reports what it measured.

pub mod fid;
pub mod nano;
pub mod quantized;
pub mod reconstruction;
