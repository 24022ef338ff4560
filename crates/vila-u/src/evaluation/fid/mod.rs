//! FID, the Fréchet inception distance (arXiv 1706.08500): how far apart two sets of pictures are as
//! [`Inception`](super::inception::Inception) sees them.
//!
//! ```text
//! |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))      means and covariances of the features
//! ```
//!
//! What the network is shown differs between implementations, and the numbers with it: [`Definition`].

mod definition;
mod extractor;
mod gaussian;
mod npz;
mod statistics;

pub use definition::Definition;
pub use extractor::{Extractor, PictureStatistics};
pub use gaussian::Gaussian;
pub use statistics::FeatureStatistics;
