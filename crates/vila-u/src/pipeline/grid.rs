//! What stands at every position of an image: its codes, or its features.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{
    Error, Result,
    device::{read_floats, read_ints},
};

/// Rows x columns x values per position.
///
/// ```
/// use vila_u::Features;
///
/// let features = Features::new([1, 2, 2], vec![0.5, 1.0, -0.5, 0.0])?;
/// assert_eq!(features.shape(), [1, 2, 2]);
/// assert_eq!(features.values().len(), 4);
/// assert_eq!(features.at(0, 1), Some([-0.5, 0.0].as_slice()));
/// assert_eq!(features.at(1, 0), None);
/// # Ok::<(), vila_u::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Grid<T> {
    shape: [usize; 3],
    values: Vec<T>,
}

/// The discrete codes of an image: D at every position, each a row of the codebook. The first says most, each
/// further one refines what the ones before it leave over (paper, section 3.1).
pub type Codes = Grid<i64>;

/// The quantized features of an image: at every position the sum of its codes' vectors.
pub type Features = Grid<f32>;

impl<T> Grid<T> {
    /// - `shape`: rows, columns, values per position
    /// - `values`: row after row, position after position
    ///
    /// A usage error unless there are as many values as the shape says, and at least one.
    ///
    /// ```
    /// use vila_u::Codes;
    ///
    /// let codes = Codes::new([1, 2, 3], vec![0, 1, 2, 10, 11, 12])?;
    /// assert_eq!(codes.at(0, 1), Some([10, 11, 12].as_slice()));
    /// assert!(Codes::new([1, 2, 3], vec![0]).is_err());
    /// # Ok::<(), vila_u::Error>(())
    /// ```
    pub fn new(shape: [usize; 3], values: Vec<T>) -> Result<Self> {
        let [rows, columns, depth] = shape;
        let count = rows.checked_mul(columns).and_then(|n| n.checked_mul(depth));
        if values.is_empty() || count != Some(values.len()) {
            return Err(Error::usage(format!(
                "{} values are no grid of {rows} x {columns} x {depth}",
                values.len()
            )));
        }
        Ok(Self { shape, values })
    }

    /// Rows, columns, values per position.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// All values, row after row, position after position.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The values at a position; nothing outside of the grid.
    pub fn at(&self, row: usize, column: usize) -> Option<&[T]> {
        let [rows, columns, depth] = self.shape;
        if row >= rows || column >= columns {
            return None;
        }
        let start = (row * columns + column) * depth;
        self.values.get(start..start + depth)
    }
}

impl Codes {
    /// Of codes `[images, rows, columns, depth]`, those of each image.
    pub(super) fn read(codes: Tensor<4, Int>) -> Result<Vec<Self>> {
        let [_, shape @ ..] = codes.dims();
        each(shape, &read_ints(codes)?)
    }

    /// `[1, rows, columns, depth]`
    pub(super) fn tensor(&self, device: &Device) -> Tensor<4, Int> {
        let [rows, columns, depth] = self.shape;
        let data = TensorData::new(self.values.clone(), [1, rows, columns, depth]);
        Tensor::from_data(data, device)
    }
}

impl Features {
    /// Of features `[images, rows, columns, channels]`, those of each image.
    pub(super) fn read(features: Tensor<4>) -> Result<Vec<Self>> {
        let [_, shape @ ..] = features.dims();
        each(shape, &read_floats(features)?)
    }
}

fn each<T: Clone>(shape: [usize; 3], values: &[T]) -> Result<Vec<Grid<T>>> {
    let grids = values.chunks_exact(shape.iter().product::<usize>().max(1));
    grids
        .map(|values| Grid::new(shape, values.to_vec()))
        .collect()
}
