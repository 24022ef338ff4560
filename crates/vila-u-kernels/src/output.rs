//! Outputs in memory that nothing was written to before: `vec![0.0; length]` fills it on one thread while the others wait.

use rayon::prelude::*;
use std::mem::MaybeUninit;

/// A number of an output, before it is written.
pub(crate) type Unwritten = MaybeUninit<f32>;

/// `length` numbers, all of them written by `write`.
///
/// # Safety
/// `write` writes every one.
pub(crate) unsafe fn written(length: usize, write: impl FnOnce(&mut [Unwritten])) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(length);
    write(&mut numbers.spare_capacity_mut()[..length]);
    // SAFETY: there is room for them, and they are written, as the caller says.
    unsafe { numbers.set_len(length) };
    numbers
}

/// `length` numbers in chunks that are computed side by side: `compute` is given the number of a chunk, and its numbers,
/// which are zeros.
pub(crate) fn in_chunks(
    length: usize,
    chunk: usize,
    compute: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let chunk = chunk.max(1);
    // SAFETY: chunks are all of it, and zeros are written to each.
    unsafe {
        written(length, |numbers| {
            let chunks = numbers.par_chunks_mut(chunk).enumerate();
            chunks.for_each(|(index, chunk)| compute(index, filled(chunk, 0.0)));
        })
    }
}

/// The numbers, all of them set.
pub(crate) fn filled(numbers: &mut [Unwritten], number: f32) -> &mut [f32] {
    numbers
        .iter_mut()
        .for_each(|to| *to = Unwritten::new(number));
    // SAFETY: all were written just now.
    unsafe { numbers.assume_init_mut() }
}
