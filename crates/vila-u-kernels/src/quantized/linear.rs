//! A linear layer whose weight is in blocks: `y = x W + b`.
//!
//! Rows of `x` are rounded to bytes themselves and multiplied as integers. For the few rows of decoding, reading
//! the weight is then all that it costs; for many, it is several times as fast as in floating point.

use burn::backend::{
    BackendTensor, DispatchTensorKind, TensorMetadata,
    flex::{FlexQTensor, FlexTensor},
};
use burn::tensor::{DType, Tensor};

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{
    BLOCK, BlockFormat,
    activations::Activations,
    packed::{Group, LANES},
    portable,
};
#[cfg(target_arch = "x86_64")]
use super::{
    avx2, avx512,
    tiles::{self, Tiles},
};
use crate::bridge::{self, dims, tensor, values};
use crate::gemv::by_outputs;
use crate::linear::matrix;
use crate::matmul::Matrix;

/// Rows that are multiplied together at most.
const ROWS: usize = 8;

/// As [`crate::linear`], for a weight from [`super::quantized`]. `x` is `f32` on the CPU.
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let on_cpu = |tensor| bridge::untracked(&tensor).map(|tensor| tensor.to_contiguous());
    let x = on_cpu(x.cast(DType::F32).into_dispatch());
    let bias = bias.and_then(|bias| on_cpu(bias.into_dispatch()));
    let weight = match weight.into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Quantized(weight)) => Some(weight),
        _ => None,
    };
    let (Some(x), Some(weight)) = (x, weight) else {
        unreachable!("quantized weights are for inference on the CPU")
    };
    let y = forward(&x, &weight, bias.as_ref().map(values));
    Tensor::from_dispatch(bridge::dispatch(y))
}

fn forward(x: &FlexTensor, weight: &FlexQTensor, bias: Option<&[f32]>) -> FlexTensor {
    let Some(blocks) = BlockFormat::of(weight.dtype()) else {
        unreachable!("a weight made by `quantized`")
    };
    let [inputs, outputs] = dims(weight.tensor());
    let Matrix {
        data,
        rows,
        columns,
        ..
    } = matrix(x);
    assert_eq!(columns, inputs, "x is not as wide as the weight");
    let packed = weight.tensor().bytes();
    let row = inputs / BLOCK * blocks.block_bytes();
    let rounded = Activations::new(data, inputs);
    #[cfg(target_arch = "x86_64")]
    let tiles = (rows >= tiles::ROWS && tiles::is_here()).then(|| Tiles::new(&rounded));
    let y = by_outputs(rows, outputs, bias, |range, part| {
        let count = range.len();
        let groups = range.clone().step_by(LANES);
        let groups = groups.map(|first| Group::new(blocks, packed, row, first / LANES));
        let groups: Vec<Group> = groups.collect();
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = &tiles {
            tiles.products(blocks, &groups, |row, group, sums| {
                let part = &mut part[row * count..][..count][group * LANES..];
                let width = LANES.min(part.len());
                part[..width].copy_from_slice(&sums[..width]);
            });
            done = tiles.count();
        }
        for (index, group) in groups.into_iter().enumerate() {
            let width = LANES.min(count - index * LANES);
            let mut first = done;
            while first < rows {
                let mut sums = [[0.0; LANES]; ROWS];
                let done = dot(blocks, &rounded, group, first, &mut sums, rows - first);
                for (row, sums) in sums[..done].iter().enumerate() {
                    part[(first + row) * count + index * LANES..][..width]
                        .copy_from_slice(&sums[..width]);
                }
                first += done;
            }
        }
    });
    let mut shape = x.layout().shape().clone();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    tensor(y, shape)
}

/// Adds the products of up to [`ROWS`] of the `left` rows from `first` on, and tells of how many.
fn dot(
    blocks: BlockFormat,
    x: &Activations,
    group: Group,
    first: usize,
    sums: &mut [[f32; LANES]; ROWS],
    left: usize,
) -> usize {
    /// Calls a function for a fixed number of rows: the largest that there are.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    macro_rules! by_rows {
        ($dot:path) => {
            match left {
                1 => by_rows!($dot, 1),
                2 | 3 => by_rows!($dot, 2),
                4..8 => by_rows!($dot, 4),
                _ => by_rows!($dot, 8),
            }
        };
        ($dot:path, $rows:literal) => {{
            if let Some(sums) = sums.first_chunk_mut::<$rows>() {
                // SAFETY: the CPU has what it needs, as the caller of this macro has found.
                unsafe { $dot(blocks, x, group, first, sums) };
            }
            $rows
        }};
    }
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::is_here() {
            return by_rows!(avx512::dot);
        }
        if avx2::is_here() {
            return by_rows!(avx2::dot);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if neon::is_here() {
        return by_rows!(neon::dot);
    }
    let rows = left.min(ROWS);
    portable::dot(blocks, x, group, first, &mut sums[..rows]);
    rows
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

    use super::*;
    use crate::quantized::{packed, quantized, tests::numbers};

    fn dots(x: &[f32], weights: &[f32], inputs: usize) -> Vec<f32> {
        let rows = x.chunks(inputs);
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum();
        rows.flat_map(|x| weights.chunks(inputs).map(move |w| dot(x, w)))
            .collect()
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
    }

    /// Rows of every tile, outputs that do not fill their last group, with a bias: close to the same weights
    /// in floating point, to the rounding of `x`.
    #[test]
    fn the_same_as_unpacked_first() {
        let device = Device::flex();
        for blocks in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
            for rows in [1, 2, 3, 4, 5, 7, 8, 35] {
                for (inputs, outputs) in [(32, 3), (96, 16), (1024, 33), (1376, 70)] {
                    let x = numbers(rows * inputs, 3);
                    let weights = numbers(outputs * inputs, 4);
                    let bias = numbers(outputs, 5);
                    let bytes = blocks.quantize(&weights).unwrap();
                    let mut wanted = dots(&x, &blocks.dequantize(&bytes), inputs);
                    for y in wanted.chunks_mut(outputs) {
                        y.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
                    }
                    let row = blocks.row_bytes(inputs).unwrap();
                    let shape = Shape::from([outputs, row]);
                    let data = TensorData::from_bytes_vec(bytes, shape, DType::U8);
                    let weight = quantized(blocks, data);
                    assert_eq!(weight.dims(), [inputs, outputs]);
                    let x = Tensor::<2>::from_data(TensorData::new(x, [rows, inputs]), &device);
                    let bias = Tensor::<1>::from_data(TensorData::new(bias, [outputs]), &device);
                    let y = crate::linear(x, weight, Some(bias));
                    assert_eq!(y.dims(), [rows, outputs]);
                    let y = y.into_data().try_into_vec::<f32>().unwrap();
                    let off = distance(&y, &wanted);
                    assert!(off < 8e-3, "{blocks:?} {rows} {inputs} {outputs}: {off}");
                }
            }
        }
    }

    /// What is not a number, or infinite, makes an output of its row so, and leaves other rows alone.
    #[test]
    fn what_is_no_number_stays_none() {
        let device = Device::flex();
        let (inputs, outputs) = (96, 20);
        for blocks in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
            for (rows, bad) in [(1, f32::NAN), (9, f32::INFINITY), (33, f32::NAN)] {
                let mut x = numbers(rows * inputs, 3);
                x[inputs - 7] = bad;
                let bytes = blocks.quantize(&numbers(outputs * inputs, 4)).unwrap();
                let shape = Shape::from([outputs, blocks.row_bytes(inputs).unwrap()]);
                let weight = quantized(blocks, TensorData::from_bytes_vec(bytes, shape, DType::U8));
                let x = Tensor::<2>::from_data(TensorData::new(x, [rows, inputs]), &device);
                let y = crate::linear(x, weight, None).into_data();
                let y = y.try_into_vec::<f32>().unwrap();
                let (first, others) = y.split_at(outputs);
                assert!(first.iter().all(|y| y.is_nan()), "{blocks:?} {rows} {bad}");
                assert!(others.iter().all(|y| y.is_finite()));
            }
        }
    }

    /// Every instruction set computes the same integers, so only sums round differently; with the largest
    /// integers too.
    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn every_instruction_set_agrees() {
        let (inputs, outputs, rows) = (32 * 19, LANES, 8);
        let mut largest = vec![7.0; outputs * inputs];
        largest.iter_mut().step_by(BLOCK).for_each(|w| *w = -8.0);
        let random = (numbers(rows * inputs, 6), numbers(outputs * inputs, 7));
        for (x, weights) in [random, (vec![1.0; rows * inputs], largest)] {
            for blocks in [BlockFormat::Q8_0, BlockFormat::Q4_0] {
                let x = Activations::new(&x, inputs);
                let bytes = blocks.quantize(&weights).unwrap();
                let row = blocks.row_bytes(inputs).unwrap();
                let mut packed = vec![0; packed::size(outputs, row)];
                packed::pack(blocks, &bytes, row, &mut packed);
                let group = Group::new(blocks, &packed, row, 0);
                let mut plain = [[0.0; LANES]; 8];
                portable::dot(blocks, &x, group, 0, &mut plain);
                let check = |name: &str, sums: [[f32; LANES]; 8]| {
                    let off = distance(sums.as_flattened(), plain.as_flattened());
                    assert!(off < 1e-5, "{name} {blocks:?}: {off}");
                };
                /// Runs one set's function, where this CPU has what it needs.
                macro_rules! check {
                    ($set:ident) => {
                        if $set::is_here() {
                            let mut sums = [[0.0; LANES]; 8];
                            // SAFETY: the CPU has what it needs.
                            unsafe { $set::dot(blocks, &x, group, 0, &mut sums) };
                            check(stringify!($set), sums);
                        }
                    };
                }
                #[cfg(target_arch = "x86_64")]
                {
                    check!(avx2);
                    check!(avx512);
                }
                #[cfg(target_arch = "aarch64")]
                check!(neon);
            }
        }
    }
}
