//! A linear layer, `y = x W + b`, with `dx = dy W'`, `dW = x' dy`, `db = sum dy`.

use burn::backend::{DispatchTensor, flex::FlexTensor};
use burn::tensor::{DType, Tensor, module};
use rayon::prelude::*;

use crate::bridge::{self, Kernel, Outcome, dims, tensor, values};
use crate::math::{add_up, simd};
use crate::matmul::{MIN_ROWS, Matrix, gemm, gemm_packed, kept};
use crate::precision::{composed_factors, paired};
use crate::{bfloat16, quantized};

/// Rows per parallel task of a column sum.
const ROWS: usize = 64;

/// `x W + b` over the last dimension.
///
/// - `x`: `[.., inputs]`
/// - `weight`: `[inputs, outputs]`; it may be of another dtype than `x`, which is then only how it is
///   stored. The CPU is fast with `bf16` in the transpose of a matrix `[outputs, inputs]`. Or it is
///   quantized, from [`crate::quantized`].
/// - `bias`: `[outputs]`
///
/// Returns `[.., outputs]`.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    if matches!(weight.dtype(), DType::QFloat(_)) {
        return quantized::linear::linear(x, weight, bias);
    }
    if weight.dtype() != x.dtype() {
        return bfloat16::linear(x, weight, bias);
    }
    let [inputs, _] = weight.dims();
    let rows = x.shape().num_elements() / inputs.max(1);
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    // To copy the transpose of a table in order takes longer than to multiply a few rows with it.
    if D < 2 || rows < MIN_ROWS && !bridge::is_contiguous(&weight) {
        return composed(
            Tensor::from_dispatch(x),
            Tensor::from_dispatch(weight),
            bias,
        );
    }
    if (MIN_ROWS..kept::MOST_ROWS).contains(&rows)
        && let Some(y) = with_kept(&x, &weight, bias.as_ref())
    {
        return Tensor::from_dispatch(y);
    }
    let (x, weight, bias) = match bias {
        Some(bias) => match run_biased([x, weight, bias.into_dispatch()]) {
            Outcome::Done(y) => return Tensor::from_dispatch(y),
            Outcome::Unsupported([x, weight, bias]) => (x, weight, Some(bias)),
        },
        None => match run_unbiased([x, weight]) {
            Outcome::Done(y) => return Tensor::from_dispatch(y),
            Outcome::Unsupported([x, weight]) => (x, weight, None),
        },
    };
    composed(
        Tensor::from_dispatch(x),
        Tensor::from_dispatch(weight),
        bias.map(Tensor::from_dispatch),
    )
}

/// The layer out of Burn's operations.
pub(crate) fn composed<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let factors = composed_factors(&x);
    composed_of(x, weight, bias, factors)
}

/// The same of `factors` of this dtype; what is added to their product, and the result, are of that of `x`.
fn composed_of<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    factors: DType,
) -> Tensor<D> {
    let dtype = x.dtype();
    if factors == dtype {
        return module::linear(x, weight, bias);
    }
    let y = module::linear(x.cast(factors), weight.cast(factors), None).cast(dtype);
    match bias {
        None => y,
        Some(bias) => y + bias.unsqueeze(),
    }
}

/// The layer with its weight packed once and for all, if it is not trained and there is room.
fn with_kept(
    x: &DispatchTensor,
    weight: &DispatchTensor,
    bias: Option<&Tensor<1>>,
) -> Option<DispatchTensor> {
    let untracked = |tensor: &DispatchTensor| {
        let here = bridge::is_cpu_f32(tensor);
        here.then(|| bridge::untracked(tensor)).flatten()
    };
    let (x, weight) = (untracked(x)?.to_contiguous(), untracked(weight)?);
    let bias = match bias {
        Some(bias) => Some(untracked(&bias.clone().into_dispatch())?.to_contiguous()),
        None => None,
    };
    // The transpose of a table is read as it lies.
    let by_rows = weight.is_contiguous();
    let stored = if by_rows {
        weight
    } else {
        weight.transpose(0, 1)
    };
    if !stored.is_contiguous() {
        return None;
    }
    let numbers = matrix(&stored);
    let numbers = if by_rows {
        numbers
    } else {
        numbers.transpose()
    };
    let packed = kept::packed(&stored, numbers, paired())?;
    let y = gemm_packed(matrix(&x), &packed, bias.as_ref().map(values));
    let mut shape = x.layout().shape().clone();
    if let Some(last) = shape.last_mut() {
        *last = numbers.columns;
    }
    Some(bridge::dispatch(tensor(y, shape)))
}

// Apart from `linear`, which is generic and so compiled wherever it is called, however little is
// optimised there.

fn run_biased(inputs: [DispatchTensor; 3]) -> Outcome<3> {
    bridge::run(Biased, inputs)
}

fn run_unbiased(inputs: [DispatchTensor; 2]) -> Outcome<2> {
    bridge::run(Unbiased, inputs)
}

#[derive(Clone, Debug)]
struct Biased;

impl Kernel<3> for Biased {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, weight, bias]: [FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        (forward(&x, &weight, Some(values(&bias))), [x, weight])
    }

    fn backward(
        &self,
        [x, weight]: Self::Saved,
        grad: FlexTensor,
        [want_x, want_weight, want_bias]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let [dx, dw] = backward(&x, &weight, &grad, [want_x, want_weight]);
        let db = want_bias.then(|| column_sums(&grad));
        [dx, dw, db]
    }
}

#[derive(Clone, Debug)]
struct Unbiased;

impl Kernel<2> for Unbiased {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, weight]: [FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        (forward(&x, &weight, None), [x, weight])
    }

    fn backward(
        &self,
        [x, weight]: Self::Saved,
        grad: FlexTensor,
        wanted: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        backward(&x, &weight, &grad, wanted)
    }
}

/// A tensor `[.., columns]` as a matrix `[rows, columns]`.
pub(crate) fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let values = values(tensor);
    let columns = tensor.layout().shape().last().copied().unwrap_or(1);
    Matrix::new(values, values.len() / columns, columns)
}

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: Option<&[f32]>) -> FlexTensor {
    let mut shape = x.layout().shape().clone();
    let [_, outputs] = dims(weight);
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    tensor(gemm(matrix(x), matrix(weight), bias), shape)
}

fn backward(
    x: &FlexTensor,
    weight: &FlexTensor,
    grad: &FlexTensor,
    [want_x, want_weight]: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let dy = matrix(grad);
    let dx = want_x.then(|| {
        let dx = gemm(dy, matrix(weight).transpose(), None);
        tensor(dx, x.layout().shape().clone())
    });
    let dw = want_weight.then(|| {
        let dw = gemm(matrix(x).transpose(), dy, None);
        tensor(dw, weight.layout().shape().clone())
    });
    [dx, dw]
}

fn column_sums(grad: &FlexTensor) -> FlexTensor {
    let Matrix { data, columns, .. } = matrix(grad);
    let sums = data.par_chunks(ROWS * columns).map(|rows| {
        let mut sums = vec![0.0; columns];
        simd(
            #[inline(always)]
            || {
                for row in rows.chunks_exact(columns) {
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
            },
        );
        sums
    });
    tensor(add_up(columns, sums), [columns])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::tests::assert_rounded;

    #[test]
    fn bfloat16_factors_and_everything_else_exact() {
        assert_rounded([&[3, 33, 401], &[401, 53], &[53]], |[x, w, b], factors| {
            let (x, w) = (x.reshape([3, 33, 401]), w.reshape([401, 53]));
            composed_of(x, w, Some(b), factors).flatten(0, 2)
        });
    }
}
