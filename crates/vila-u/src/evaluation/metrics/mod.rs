//! Measures of pictures and codes, and how sure a measured number is.

mod codes;
mod inception_score;
mod interval;
mod picture;

pub use codes::{CodeCounts, CodeUse, code_use};
pub use inception_score::InceptionScore;
pub use interval::{Estimate, bootstrap, mean, mean_of_groups, share};
pub use picture::{psnr, ssim};
