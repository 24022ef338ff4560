//! Samples for the trainer: made of records, loaded by worker threads, resumed where they stopped, and shown.

pub(super) mod captioned_images;
pub(crate) mod dataloader;
pub(super) mod dataloader_state;
pub mod inspect;
pub(crate) mod samples;
