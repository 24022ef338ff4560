//! Fused CPU kernels with hand-written gradients, as plain functions on Burn tensors.
//!
//! Each function is what its name says, differentiable, and the same on every device: `f32` tensors
//! of the CPU backend take the kernel, everything else the same composition of Burn operations. A linear
//! layer's weight may be stored as `bf16` or in quantized blocks.
//! Model code makes one call and never asks where it runs.

// Loops over the fixed tiles of a kernel are written by index: that is what becomes vector registers.
#![allow(clippy::needless_range_loop, clippy::manual_memcpy)]

mod activation;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod bfloat16;
mod bridge;
mod contiguous;
mod conv2d;
pub mod covariance;
mod denormals;
mod dropout;
mod gemv;
pub mod huge_pages;
mod instruction_set;
mod linear;
mod loss;
mod math;
mod matmul;
mod nearest;
mod norm;
mod output;
mod precision;
mod prefetch;
mod quantized;

#[cfg(test)]
#[path = "../tests/every_instruction_set/mod.rs"]
mod every_instruction_set;
#[cfg(test)]
extern crate self as vila_u_kernels;

pub use activation::{gelu, gelu_tanh, silu_mul};
pub use attention::{COMPOSED_QUERIES, attention, attention_of_sequences};
pub use contiguous::contiguous;
pub use conv2d::conv2d;
pub use denormals::flush_denormals;
pub use dropout::{dropout, dropout_chance, seed_dropout};
pub use instruction_set::{InstructionSet, VARIABLE as CPU_VARIABLE};
pub use linear::linear;
pub use loss::cross_entropy;
pub use nearest::nearest;
pub use norm::{group_norm, group_norm_silu, layer_norm, rms_norm};
pub use precision::{full_precision, mixed_precision, precision_of};
pub use quantized::{BLOCK, BlockFormat, quantized};
