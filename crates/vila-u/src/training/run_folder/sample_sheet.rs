//! Sample sheets: what was meant, and below each what the model made of it.

use std::path::Path;

use burn::tensor::Tensor;

use crate::Result;
use crate::media::{save_png, sheet::grid, to_images};

/// Pairs side by side.
const COLUMNS: usize = 8;

/// Writes a sheet of two equally long rows of square pictures, `[n, 3, size, size]` in -1..1,
/// folded to lines of eight pairs.
pub(crate) fn save_sheet(path: &Path, above: Tensor<4>, below: Tensor<4>) -> Result<()> {
    let (above, below) = (to_images(above)?, to_images(below)?);
    let lines = above.chunks(COLUMNS).zip(below.chunks(COLUMNS));
    let cells: Vec<_> = lines
        .flat_map(|(above, below)| [above, below].concat())
        .collect();
    save_png(path, &grid(&cells, COLUMNS))
}
