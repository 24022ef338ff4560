//! Attention block by block. A task is one key head: its scores exist for a block of queries at a time, and
//! backward finds them again from the queries and keys, so that memory grows with the positions and not with
//! their square. Heads of a few positions (the depth transformer's) are computed number by number instead.
//!
//! With `dP = dO V'`: `dS = P (dP - sum_k P dP)`, `dQ = s dS K`, `dK = s dS' Q`, `dV = P' dO`.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;
use std::{cell::RefCell, ops::Range};

use super::MASKED_SCORE;
use crate::bridge::{Kernel, dims, tensor, values};
use crate::math::{dot, exp, simd, softmax};
use crate::matmul::{Matrix, Packed, gemm_accumulate};

/// Up to so many scores a head is too small for matrix products.
const SMALL: usize = 256;
/// Heads per parallel task, where they are small.
const SMALL_HEADS: usize = 64;
/// Queries whose scores exist at once.
const BLOCK: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Attention {
    /// Bytes `[batch or 1, heads or 1, queries, keys]`, not 0 where a query may not look.
    pub mask: Option<FlexTensor>,
    pub scale: f32,
    /// Are factors bfloat16?
    pub paired: bool,
}

/// What `backward` needs: query, key, value, and the largest score and inverse sum of each row.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    inputs: [FlexTensor; 3],
    rows: Vec<[f32; 2]>,
}

thread_local! {
    /// Scores and their gradients of the block at hand.
    static SCORES: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    /// What all blocks of a task are multiplied by.
    static FACTORS: RefCell<[Packed; 3]> =
        const { RefCell::new([Packed::new(), Packed::new(), Packed::new()]) };
}

/// The sizes of a call.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
}

impl Sizes {
    fn of(query: &FlexTensor, key: &FlexTensor) -> Self {
        let [_, heads, queries, width] = dims(query);
        let [_, kv_heads, keys, _] = dims(key);
        Self {
            heads,
            kv_heads,
            queries,
            keys,
            width,
        }
    }

    /// Query rows of one task.
    fn rows(self) -> usize {
        self.heads / self.kv_heads * self.queries
    }

    /// Are scores too few for matrix products?
    fn small(self) -> bool {
        self.queries * self.keys <= SMALL
    }

    /// Tasks that one thread should take at least.
    fn tasks_together(self) -> usize {
        if self.small() { SMALL_HEADS } else { 1 }
    }

    /// Are blocks large enough for factors to be packed?
    fn packs(self) -> bool {
        self.queries.min(BLOCK) * self.width.min(self.keys) > SMALL
    }

    /// The blocks of a task: a range of its rows, all of one query head.
    fn blocks(self) -> impl Iterator<Item = Range<usize>> {
        let queries = self.queries;
        (0..self.rows()).step_by(queries).flat_map(move |head| {
            (0..queries)
                .step_by(BLOCK)
                .map(move |first| head + first..head + (first + BLOCK).min(queries))
        })
    }
}

impl Attention {
    /// The mask's rows for a block of a task.
    fn mask(&self, sizes: Sizes, task: usize, block: &Range<usize>) -> Option<&[u8]> {
        let mask = self.mask.as_ref()?;
        let [batches, heads, ..] = dims::<4>(mask);
        let batch = (task / sizes.kv_heads) % batches;
        let group = sizes.heads / sizes.kv_heads;
        let head = (task % sizes.kv_heads * group + block.start / sizes.queries) % heads;
        let row = (batch * heads + head) * sizes.queries + block.start % sizes.queries;
        Some(&mask.bytes()[row * sizes.keys..(row + block.len()) * sizes.keys])
    }

    /// Scores of a block, before the softmax.
    fn scores(&self, query: Matrix, key: &Factor, mask: Option<&[u8]>, scores: &mut Vec<f32>) {
        scores.clear();
        scores.resize(query.rows * key.matrix.columns, 0.0);
        key.multiply(query, scores);
        simd(
            #[inline(always)]
            || match mask {
                None => scores.iter_mut().for_each(|score| *score *= self.scale),
                Some(mask) => {
                    for (score, masked) in scores.iter_mut().zip(mask) {
                        *score = if *masked == 0 {
                            *score * self.scale
                        } else {
                            MASKED_SCORE
                        };
                    }
                }
            },
        );
    }
}

impl Kernel<3> for Attention {
    type Saved = Saved;

    fn forward(&self, [query, key, value]: [FlexTensor; 3]) -> (FlexTensor, Saved) {
        let sizes = Sizes::of(&query, &key);
        let Sizes { keys, width, .. } = sizes;
        let mut output = vec![0.0; values(&query).len()];
        let mut rows = vec![[0.0; 2]; output.len() / width];
        output
            .par_chunks_mut(sizes.rows() * width)
            .zip(rows.par_chunks_mut(sizes.rows()))
            .zip(values(&query).par_chunks(sizes.rows() * width))
            .with_min_len(sizes.tasks_together())
            .enumerate()
            .for_each(|(task, ((output, rows), query))| {
                let head = task * keys * width..(task + 1) * keys * width;
                let key = Matrix::new(&values(&key)[head.clone()], keys, width);
                let value = Matrix::new(&values(&value)[head], keys, width);
                with_scratch(|[scores, _], [first, second, _]| {
                    let keys = Factor::new(key.transpose(), sizes.packs(), first, self.paired);
                    let values = Factor::new(value, sizes.packs(), second, self.paired);
                    for block in sizes.blocks() {
                        let mask = self.mask(sizes, task, &block);
                        let span = block.start * width..block.end * width;
                        let query = Matrix::new(&query[span.clone()], block.len(), width);
                        self.scores(query, &keys, mask, scores);
                        simd(
                            #[inline(always)]
                            || {
                                let scores = scores.chunks_exact_mut(sizes.keys);
                                for (row, scores) in rows[block.clone()].iter_mut().zip(scores) {
                                    *row = softmax(scores);
                                }
                            },
                        );
                        let weights = Matrix::new(scores, block.len(), sizes.keys);
                        values.multiply(weights, &mut output[span]);
                    }
                });
            });
        let output = tensor(output, query.layout().shape().clone());
        let inputs = [query, key, value];
        (output, Saved { inputs, rows })
    }

    fn backward(&self, saved: Saved, grad: FlexTensor, _: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let Saved { inputs, rows } = saved;
        let [query, key, value] = &inputs;
        let sizes = Sizes::of(query, key);
        let Sizes { keys, width, .. } = sizes;
        let mut dquery = vec![0.0; values(query).len()];
        let mut dkey = vec![0.0; values(key).len()];
        let mut dvalue = vec![0.0; values(key).len()];
        dquery
            .par_chunks_mut(sizes.rows() * width)
            .zip(dkey.par_chunks_mut(keys * width))
            .zip(dvalue.par_chunks_mut(keys * width))
            .with_min_len(sizes.tasks_together())
            .enumerate()
            .for_each(|(task, ((dquery, dkey), dvalue))| {
                let head = task * keys * width..(task + 1) * keys * width;
                let key = Matrix::new(&values(key)[head.clone()], keys, width);
                let value = Matrix::new(&values(value)[head], keys, width);
                let start = task * sizes.rows();
                with_scratch(|[weights, dscores], [first, second, third]| {
                    let factor =
                        |matrix, packed| Factor::new(matrix, sizes.packs(), packed, self.paired);
                    let by_keys = factor(key.transpose(), first);
                    let by_values = factor(value.transpose(), second);
                    let with_keys = factor(key, third);
                    for block in sizes.blocks() {
                        let mask = self.mask(sizes, task, &block);
                        let count = block.len();
                        let all = (start + block.start) * width..(start + block.end) * width;
                        let query = Matrix::new(&values(query)[all.clone()], count, width);
                        let doutput = Matrix::new(&values(&grad)[all], count, width);
                        self.scores(query, &by_keys, mask, weights);
                        dscores.clear();
                        dscores.resize(count * keys, 0.0);
                        by_values.multiply(doutput, dscores);
                        let rows = &rows[start + block.start..start + block.end];
                        simd(
                            #[inline(always)]
                            || {
                                let both = weights.chunks_exact_mut(keys);
                                for ((weights, dscores), row) in
                                    both.zip(dscores.chunks_exact_mut(keys)).zip(rows)
                                {
                                    softmax_backward(weights, dscores, *row, self.scale);
                                }
                                // A score that was replaced does not depend on anything.
                                for (dscore, masked) in
                                    dscores.iter_mut().zip(mask.unwrap_or_default())
                                {
                                    *dscore = if *masked == 0 { *dscore } else { 0.0 };
                                }
                            },
                        );
                        let weights = Matrix::new(weights, count, keys);
                        let dscores = Matrix::new(dscores, count, keys);
                        multiply(weights.transpose(), doutput, dvalue, self.paired);
                        multiply(dscores.transpose(), query, dkey, self.paired);
                        let span = block.start * width..block.end * width;
                        with_keys.multiply(dscores, &mut dquery[span]);
                    }
                });
            });
        let shape = |tensor: &FlexTensor| tensor.layout().shape().clone();
        [
            Some(tensor(dquery, shape(query))),
            Some(tensor(dkey, shape(key))),
            Some(tensor(dvalue, shape(value))),
        ]
    }
}

/// Lends this thread's scratch memory.
fn with_scratch(work: impl FnOnce(&mut [Vec<f32>; 2], &mut [Packed; 3])) {
    SCORES.with_borrow_mut(|scores| FACTORS.with_borrow_mut(|factors| work(scores, factors)));
}

/// A right factor of all blocks of a task.
struct Factor<'a> {
    matrix: Matrix<'a>,
    packed: Option<&'a Packed>,
    paired: bool,
}

impl<'a> Factor<'a> {
    fn new(matrix: Matrix<'a>, packs: bool, packed: &'a mut Packed, paired: bool) -> Self {
        let packed = packs.then(|| {
            packed.pack(matrix, paired);
            &*packed
        });
        Self {
            matrix,
            packed,
            paired,
        }
    }

    /// `c += a` times this.
    fn multiply(&self, a: Matrix, c: &mut [f32]) {
        match self.packed {
            Some(packed) => packed.gemm_accumulate(a, c),
            None => multiply(a, self.matrix, c, self.paired),
        }
    }
}

/// `c += a b`.
fn multiply(a: Matrix, b: Matrix, c: &mut [f32], paired: bool) {
    if a.rows * a.columns.min(b.columns) > SMALL {
        return gemm_accumulate(a, b, c, paired);
    }
    simd(
        #[inline(always)]
        || {
            if b.transposed {
                // Rows of `a` and of what `b` is the transpose of.
                for (c, a) in c
                    .chunks_exact_mut(b.columns)
                    .zip(a.data.chunks_exact(a.columns))
                {
                    for (c, b) in c.iter_mut().zip(b.data.chunks_exact(b.rows)) {
                        *c += dot(a, b);
                    }
                }
                return;
            }
            for (inner, b) in b.data.chunks_exact(b.columns).enumerate() {
                for (row, c) in c.chunks_exact_mut(b.len()).enumerate() {
                    let a = if a.transposed {
                        a.data[inner * a.rows + row]
                    } else {
                        a.data[row * a.columns + inner]
                    };
                    for (c, b) in c.iter_mut().zip(b) {
                        *c += a * b;
                    }
                }
            }
        },
    );
}

/// Backward of the softmax of one row, in packed: scores become probabilities, and the gradients of the
/// probabilities those of the scores.
#[inline(always)]
fn softmax_backward(weights: &mut [f32], dscores: &mut [f32], row: [f32; 2], scale: f32) {
    let [largest, inverse] = row;
    let mut strands = [0.0; 16];
    for (weights, dscores) in weights.chunks_mut(16).zip(dscores.chunks(16)) {
        for ((strand, weight), dscore) in strands.iter_mut().zip(weights).zip(dscores) {
            *weight = exp(*weight - largest) * inverse;
            *strand += *weight * dscore;
        }
    }
    let mean = strands.iter().sum::<f32>();
    for (weight, dscore) in weights.iter().zip(dscores) {
        *dscore = weight * (*dscore - mean) * scale;
    }
}
