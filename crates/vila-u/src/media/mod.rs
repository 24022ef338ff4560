//! Image and video files <-> pixels.
//!
//! [`load`] reads a file, [`preprocess::pixels`] makes of it what the vision tower sees, [`to_rgb`]
//! and [`save_png`] turn the tower's output into a file again.

pub mod preprocess;
mod read;
pub mod resize;
pub mod sheet;
pub mod video;
mod write;

pub use read::{Picture, decode, load};
pub use write::{save_png, to_rgb};
