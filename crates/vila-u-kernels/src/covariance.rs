//! Sums of products and the square root behind the Fréchet distance of normal distributions, in f64, by `faer`. Matrices
//! are row-major slices.

use faer::{
    Accum, Mat, MatMut, MatRef, Par, Side,
    linalg::{matmul::matmul, solvers::EvdError},
};

/// Adds `rows^T rows` to `sum`: rows `[n, channels]`, sum `[channels, channels]`.
///
/// # Panics
/// When the slices are of other lengths.
pub fn add_products(sum: &mut [f64], rows: &[f64], channels: usize) {
    let rows = MatRef::from_row_major_slice(rows, rows.len() / channels, channels);
    let sum = MatMut::from_row_major_slice_mut(sum, channels, channels);
    matmul(sum, Accum::Add, rows.transpose(), rows, 1.0, Par::rayon(0));
}

/// The trace of `(a b)^(1/2)`: symmetric matrices `[channels, channels]` without negative eigenvalues, regular or not.
/// None where an iteration does not converge.
///
/// It is the sum of the roots of the eigenvalues of `a b`. With `a = r r^T` these are those of `r^T b r`, which is
/// symmetric: they are real, and rounding makes none of them more than slightly negative.
///
/// # Panics
/// When the slices are of other lengths.
pub fn root_trace(a: &[f64], b: &[f64], channels: usize) -> Option<f64> {
    let matrix = |values| MatRef::from_row_major_slice(values, channels, channels);
    let trace = || -> Result<f64, EvdError> {
        let own = matrix(a).self_adjoint_eigen(Side::Lower)?;
        let (vectors, values) = (own.U(), own.S().column_vector());
        let root = Mat::from_fn(channels, channels, |row, column| {
            vectors[(row, column)] * values[column].max(0.0).sqrt()
        });
        let product = root.transpose() * matrix(b) * &root;
        let values = product.self_adjoint_eigenvalues(Side::Lower)?;
        Ok(values.iter().map(|value| value.max(0.0).sqrt()).sum())
    };
    trace().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_added() {
        let mut sum = [1.0, 0.0, 0.0, 1.0];
        add_products(&mut sum, &[1.0, 2.0, 3.0, 4.0, 0.0, 1.0], 2);
        assert_eq!(sum, [11.0, 14.0, 14.0, 22.0]);
        add_products(&mut sum, &[], 2);
        assert_eq!(sum, [11.0, 14.0, 14.0, 22.0]);
    }

    #[test]
    fn the_root_of_a_square_has_its_trace() {
        // Symmetric, eigenvalues 1 and 3; and one without an inverse.
        for (matrix, trace) in [([2.0, 1.0, 1.0, 2.0], 4.0), ([1.0, 2.0, 2.0, 4.0], 5.0)] {
            let found = root_trace(&matrix, &matrix, 2);
            assert!(
                found.is_some_and(|found| (found - trace).abs() < 1e-12),
                "{found:?}"
            );
        }
        assert_eq!(root_trace(&[4.0], &[9.0], 1), Some(6.0));
    }
}
