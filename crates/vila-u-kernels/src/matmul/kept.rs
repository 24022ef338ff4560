//! Weights that stay packed: many small batches are multiplied by the same ones, and to pack them takes as long as to
//! multiply a few dozen rows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::flex::FlexTensor;

use super::{Element, Matrix, Packed};

/// From so many rows on, packing a weight anew does not count.
pub(crate) const MOST_ROWS: usize = 512;
/// Bytes that are kept at most: small models whole, and the encoder of the 256 px model, in `f32` too; of larger ones what
/// comes first.
const MOST_BYTES: usize = 1280 << 20;

struct Kept {
    /// Holds the numbers in memory where they are, and as they are: what is shared is copied before it is changed.
    weight: FlexTensor,
    packed: Arc<Packed>,
}

/// By the place of the numbers in memory, the rows and columns that they are used as, and whether they are paired.
type Key = (usize, [usize; 2], bool);

static KEPT: Mutex<Option<HashMap<Key, Kept>>> = Mutex::new(None);

/// The weight packed, in pairs or not, if there is room to keep it; `matrix` is of its numbers.
pub(crate) fn packed<T: Element>(
    weight: &FlexTensor,
    matrix: Matrix<T>,
    paired: bool,
) -> Option<Arc<Packed>> {
    let key = (
        matrix.data.as_ptr() as usize,
        [matrix.rows, matrix.columns],
        paired,
    );
    let lock = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    {
        let mut kept = lock();
        let kept = kept.get_or_insert_default();
        if let Some(kept) = kept.get(&key) {
            return Some(kept.packed.clone());
        }
        // What nobody else has any more.
        kept.retain(|_, kept| !kept.weight.is_unique());
        let bytes: usize = kept.values().map(|kept| kept.packed.bytes()).sum();
        let needed = matrix.data.len() * if paired { 2 } else { 4 };
        if bytes + needed > MOST_BYTES {
            return None;
        }
    }
    let mut packed = Packed::new();
    packed.pack_parallel(matrix, paired);
    let packed = Arc::new(packed);
    let kept = Kept {
        weight: weight.clone(),
        packed: packed.clone(),
    };
    lock().get_or_insert_default().insert(key, kept);
    Some(packed)
}
