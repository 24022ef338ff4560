//! A linear layer whose weight stays bfloat16 in memory, as checkpoints store it: `y = x W + b`.
//!
//! To write one token, a language model reads every weight once, and reading them is all that it
//! costs: half the bytes are half the time. A bfloat16 is the upper half of an `f32`, so one shift widens it
//! in the register, and factors and sums are `f32` as everywhere else. Of many rows the products are what costs: `x` is
//! rounded to bfloat16 too, where the CPU multiplies that faster.

use burn::backend::{TensorMetadata, flex::FlexTensor};
use burn::tensor::{DType, Tensor, bf16};
use pulp::{Simd, WithSimd, bytemuck};

use crate::bridge::{self, tensor, values};
use crate::gemv::by_outputs;
use crate::instruction_set::arch;
use crate::linear::{composed, matrix};
use crate::matmul::{Matrix, gemm, gemm_packed, kept};
use crate::output::in_chunks;
use crate::precision::{has_tiles, paired_with};

/// Outputs and rows of `x` whose sums stay in registers together.
const OUTPUTS: usize = 4;
const ROWS: usize = 2;
/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;
/// Up to so many rows, reading the weight again from the cache is cheaper than packing it; on a tile unit fewer.
const MOST_ROWS: usize = 64;
const MOST_ROWS_BESIDE_TILES: usize = 12;

/// As [`crate::linear`], for a weight of another dtype than `x`.
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let bias = bias.map(Tensor::into_dispatch);
    let on_cpu = || {
        if (x.dtype(), weight.dtype()) != (DType::F32, DType::BF16) {
            return None;
        }
        let (x, weight) = (bridge::untracked(&x)?, bridge::untracked(&weight)?);
        let bias = match &bias {
            Some(bias) => Some(bridge::untracked(bias)?.to_contiguous()),
            None => None,
        };
        let y = forward(&x.to_contiguous(), &weight, bias.as_ref().map(values));
        Some(bridge::dispatch(y))
    };
    match on_cpu() {
        Some(y) => Tensor::from_dispatch(y),
        None => {
            let x = Tensor::<D>::from_dispatch(x);
            let weight = Tensor::<2>::from_dispatch(weight).cast(x.dtype());
            composed(x, weight, bias.map(Tensor::from_dispatch))
        }
    }
}

/// The tensor in another dtype: bfloat16 of the CPU as `f32` on all threads, anything else as Burn does.
pub(crate) fn widened<const D: usize>(weight: Tensor<D>, dtype: DType) -> Tensor<D> {
    let stored = weight.into_dispatch();
    if (stored.dtype(), dtype) == (DType::BF16, DType::F32)
        && let Some(numbers) = bridge::untracked(&stored).map(|stored| stored.to_contiguous())
        && let Some(from) = numbers.as_slice::<bf16>()
    {
        let to = in_chunks(from.len(), CHUNK, |chunk, to| {
            let from = to.iter_mut().zip(&from[chunk * CHUNK..]);
            from.for_each(|(to, from)| *to = from.to_f32());
        });
        let shape = numbers.layout().shape().clone();
        return Tensor::from_dispatch(bridge::dispatch(tensor(to, shape)));
    }
    Tensor::<D>::from_dispatch(stored).cast(dtype)
}

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: Option<&[f32]>) -> FlexTensor {
    // As it is where it is the transpose of that.
    let stored = weight.transpose(0, 1).to_contiguous();
    let [outputs, inputs] = bridge::dims(&stored);
    let Some(weight) = stored.as_slice::<bf16>() else {
        unreachable!("a contiguous tensor of bf16")
    };
    let mut shape = x.layout().shape().clone();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let x = matrix(x);
    let most_rows = if has_tiles() && paired_with(DType::BF16) {
        MOST_ROWS_BESIDE_TILES
    } else {
        MOST_ROWS
    };
    let y = match bytemuck::try_cast_slice(weight) {
        Ok(pairs) if (1..=most_rows).contains(&x.rows) && inputs % 2 == 0 => gemv(x, pairs, bias),
        _ => {
            let numbers = Matrix::new(weight, outputs, inputs).transpose();
            // What was just put in order is nobody else's and would never be found again.
            let keep = x.rows < kept::MOST_ROWS && !stored.is_unique();
            match keep
                .then(|| kept::packed(&stored, numbers, paired_with(DType::BF16)))
                .flatten()
            {
                Some(packed) => gemm_packed(x, &packed, bias),
                None => gemm(x, numbers, bias),
            }
        }
    };
    tensor(y, shape)
}

/// `x W' + b` for a weight `W` of `pairs` of neighbours in a row, the first in the lower half.
fn gemv(x: Matrix, pairs: &[u32], bias: Option<&[f32]>) -> Vec<f32> {
    let (rows, half) = (x.rows, x.columns / 2);
    // The even columns of every row, then the odd ones.
    let mut parted = vec![0.0; x.data.len()];
    for (to, row) in parted
        .chunks_exact_mut(x.columns)
        .zip(x.data.chunks_exact(x.columns))
    {
        let (even, odd) = to.split_at_mut(half);
        for ((even, odd), [first, second]) in even.iter_mut().zip(odd).zip(row.as_chunks().0) {
            (*even, *odd) = (*first, *second);
        }
    }
    by_outputs(rows, pairs.len() / half, bias, |outputs, part| {
        arch().dispatch(Share {
            x: &parted,
            pairs: &pairs[outputs.start * half..outputs.end * half],
            half,
            part,
        });
    })
}

/// Some of the outputs, on one thread.
struct Share<'a> {
    /// `[rows, 2, half]`
    x: &'a [f32],
    /// `[outputs, half]`
    pairs: &'a [u32],
    half: usize,
    /// `[rows, outputs]`
    part: &'a mut [f32],
}

impl WithSimd for Share<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let all = self.pairs.len() / self.half;
        for (index, pairs) in self.pairs.chunks(OUTPUTS * self.half).enumerate() {
            for (first, x) in self.x.chunks(ROWS * 2 * self.half).enumerate() {
                let mut tile = Tile {
                    x,
                    pairs,
                    half: self.half,
                    part: &mut self.part[first * ROWS * all + index * OUTPUTS..],
                    all,
                };
                match (pairs.len() / self.half, x.len() / (2 * self.half)) {
                    (OUTPUTS, 1) => tile.sum::<S, OUTPUTS, 1>(simd, 0, 0),
                    (OUTPUTS, ROWS) => tile.sum::<S, OUTPUTS, ROWS>(simd, 0, 0),
                    (outputs, rows) => {
                        for (output, row) in
                            (0..outputs).flat_map(|o| (0..rows).map(move |r| (o, r)))
                        {
                            tile.sum::<S, 1, 1>(simd, output, row);
                        }
                    }
                }
            }
        }
    }
}

/// At most [`OUTPUTS`] outputs of at most [`ROWS`] rows of `x`.
struct Tile<'a> {
    x: &'a [f32],
    pairs: &'a [u32],
    half: usize,
    /// `[rows, outputs]`, from the tile's first row and output on.
    part: &'a mut [f32],
    /// Outputs of the share.
    all: usize,
}

impl Tile<'_> {
    /// `O` outputs from `output` on, of `R` rows from `row` on. Without closures, which are functions of their
    /// own where there are many of them, and take no vectors in registers.
    #[inline(always)]
    fn sum<S: Simd, const O: usize, const R: usize>(&mut self, simd: S, output: usize, row: usize) {
        let half = self.half;
        let vectors = half / S::F32_LANES;
        let mut x: [[&[S::f32s]; 2]; R] = [[&[]; 2]; R];
        for r in 0..R {
            let (even, odd) = self.x[(row + r) * 2 * half..][..2 * half].split_at(half);
            x[r][0] = &S::as_simd_f32s(even).0[..vectors];
            x[r][1] = &S::as_simd_f32s(odd).0[..vectors];
        }
        let mut pairs: [&[S::u32s]; O] = [&[]; O];
        for o in 0..O {
            let row = &self.pairs[(output + o) * half..][..half];
            pairs[o] = &S::as_simd_u32s(row).0[..vectors];
        }
        let (sixteen, upper) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
        let mut sums = [[simd.splat_f32s(0.0); R]; O];
        for k in 0..vectors {
            for o in 0..O {
                let pair = pairs[o][k];
                let even = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pair, sixteen));
                let odd = simd.transmute_f32s_u32s(simd.and_u32s(pair, upper));
                for r in 0..R {
                    sums[o][r] = simd.mul_add_e_f32s(x[r][0][k], even, sums[o][r]);
                    sums[o][r] = simd.mul_add_e_f32s(x[r][1][k], odd, sums[o][r]);
                }
            }
        }
        for o in 0..O {
            for r in 0..R {
                let (x, pairs) = (
                    &self.x[(row + r) * 2 * half..][..2 * half],
                    &self.pairs[(output + o) * half..][..half],
                );
                let mut sum = simd.reduce_sum_f32s(sums[o][r]);
                for k in vectors * S::F32_LANES..half {
                    sum += x[k] * f32::from_bits(pairs[k] << 16);
                    sum += x[half + k] * f32::from_bits(pairs[k] & 0xffff_0000);
                }
                self.part[(row + r) * self.all + output + o] = sum;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{DType, Device, Distribution, Tensor, module};

    use crate::full_precision;

    /// Every way through the kernel: rows from one to many, outputs that are no multiple of a tile,
    /// inputs that are no multiple of a vector and odd ones, with and without a bias, and a weight
    /// that is no transpose.
    #[test]
    fn the_same_as_widened_first() {
        let device = Device::flex();
        let random = |shape| Tensor::<2>::random(shape, Distribution::Default, &device);
        for rows in [1, 2, 3, 4, 5, 7, 16, 65] {
            for (inputs, outputs) in [(64, 8), (70, 13), (33, 5), (2, 1), (256, 130)] {
                let x = random([rows, inputs]);
                let stored = random([outputs, inputs]).cast(DType::BF16);
                let bias = (rows % 2 == 0).then(|| random([1, outputs]).squeeze_dim::<1>(0));
                let wide = stored.clone().cast(DType::F32).transpose();
                let expected = module::linear(x.clone(), wide.clone(), bias.clone());
                for weight in [stored.transpose(), wide.cast(DType::BF16)] {
                    let got = || crate::linear(x.clone(), weight.clone(), bias.clone());
                    let off = |got: Tensor<2>| {
                        assert_eq!(got.dtype(), DType::F32);
                        let off = (got - expected.clone()).abs().max();
                        (off / expected.clone().abs().max()).into_scalar::<f32>()
                    };
                    let exact = off(full_precision(got));
                    assert!(exact < 1e-6, "{rows} {inputs} {outputs}: {exact}");
                    // Where the CPU multiplies bfloat16, many rows of `x` are rounded to it.
                    let rounded = off(got());
                    assert!(rounded < 4e-3, "{rows} {inputs} {outputs}: {rounded}");
                }
            }
        }
    }

    #[test]
    fn recorded_inputs_have_gradients() {
        let device = Device::flex().autodiff();
        let x = Tensor::<2>::ones([2, 4], &device).require_grad();
        let weight = Tensor::<2>::full([4, 3], 2.0, &device).cast(DType::BF16);
        let grads = crate::linear(x.clone(), weight, None).sum().backward();
        let grad = x.grad(&grads).unwrap();
        assert_eq!(grad.into_data().iter::<f32>().collect::<Vec<_>>(), [6.0; 8]);
    }
}
