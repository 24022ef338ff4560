//! Image and video files <-> pixels.
//!
//! [`load`] reads a file, [`to_tensor`] makes of it what the vision tower sees, [`to_images`] and [`save_png`] turn
//! the tower's output into files again.

mod jpeg;
mod memory_limit;
pub mod preprocess;
mod read;
pub(crate) mod resize;
pub mod sheet;
mod tensor;
pub mod video;
mod webp;
mod write;

pub use memory_limit::{fix_memory_limit, set_memory_limit};
pub(crate) use read::read_file;
pub use read::{Picture, decode, load};
pub(crate) use tensor::stack;
pub use tensor::{to_images, to_tensor};
pub use write::save_png;
pub(crate) use write::to_rgb;
