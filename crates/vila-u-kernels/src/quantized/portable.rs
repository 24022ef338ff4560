//! The dot products in plain loops, which a compiler turns into the machine's basic vectors (NEON, SSE2).

use burn::tensor::f16;

use super::{
    BLOCK, BlockFormat,
    activations::Activations,
    packed::{Group, LANES, integers},
};

/// Adds to `sums` the products of the rows from `first` on with a group of outputs.
pub(super) fn dot(
    blocks: BlockFormat,
    x: &Activations,
    group: Group,
    first: usize,
    sums: &mut [[f32; LANES]],
) {
    for (index, (scales, words)) in group.blocks().enumerate() {
        let w = integers(blocks, words);
        let scales: [f32; LANES] = std::array::from_fn(|lane| {
            f16::from_le_bytes([scales[2 * lane], scales[2 * lane + 1]]).to_f32()
        });
        for (row, sums) in sums.iter_mut().enumerate() {
            let at = (first + row) * x.blocks + index;
            let mut products = [0; LANES];
            for (w, q) in w.iter().zip(&x.q[at * BLOCK..][..BLOCK]) {
                for (product, w) in products.iter_mut().zip(w) {
                    *product += i32::from(*w) * i32::from(*q);
                }
            }
            for ((sum, product), scale) in sums.iter_mut().zip(products).zip(scales) {
                *sum += scale * x.scales[at] * product as f32;
            }
        }
    }
}
