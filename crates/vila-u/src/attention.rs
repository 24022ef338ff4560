//! The one attention of every transformer here: `softmax(Q K^T * scale + mask) V`.

pub use vila_u_kernels::attention;
