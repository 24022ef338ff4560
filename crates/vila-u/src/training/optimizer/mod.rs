//! AdamW over accumulated gradients, the learning-rate schedule, and the moving average of the weights.

mod adamw;
pub mod ema;
mod gradients;
pub mod schedule;

pub use adamw::{AdamW, Moments};
pub use gradients::Gradients;
