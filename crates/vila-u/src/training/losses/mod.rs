//! The tower's losses, each by itself: what is minimised and why, as plain functions and modules.

pub mod adversarial;
pub mod contrastive;
pub mod discriminator;
pub mod lpips;
pub mod lpips_file;

pub use contrastive::contrastive;
pub use discriminator::{Discriminator, DiscriminatorConfig};
pub use lpips::Lpips;
