//! AdamW over accumulated gradients, the learning-rate schedule, and the moving average of the weights.

mod adamw;
pub(super) mod ema;
mod gradients;
mod on_device;
mod on_host;
mod place;
pub(super) mod schedule;
mod shards;

pub(super) use adamw::{AdamW, Moments};
pub(super) use gradients::Gradients;
pub(super) use place::{Norms, Place};
pub(super) use shards::Shards;
