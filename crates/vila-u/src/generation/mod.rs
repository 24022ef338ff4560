//! Generation: text, images and videos, one token at a time.
//!
//! [`chat`] puts a request in the model's conversation template, [`visual`], [`text`] and [`interleaved`] generate,
//! [`batch`] holds the key/value cache that they share, [`sampling`] turns logits into tokens.

pub mod batch;
pub mod chat;
mod device_sampling;
pub mod interleaved;
pub mod memory;
pub mod sampling;
pub mod text;
pub mod visual;
