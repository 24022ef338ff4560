//! Measures of pictures and codes, and how sure a measured number is.

mod codes;
mod interval;
mod picture;

pub use codes::{CodeUse, code_use};
pub use interval::{Estimate, mean, mean_of_groups, share};
pub use picture::{psnr, ssim};
