//! 3x3 and 1x1 convolution, stride 1, output as large as the input: `y[n, o] = b[o] + sum_{i, k} w[o, i, k] x[n, i, . + k]`.

mod direct;
mod pointwise;
mod signals;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod weight_gradient;
mod winograd;
mod winograd_transform;

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor, module, ops::ConvOptions};

#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::bfloat16;
use crate::bridge::{self, Kernel, Outcome, dims, tensor, values};
use crate::math::registers;
use crate::matmul::Matrix;
#[cfg(target_arch = "x86_64")]
use crate::precision::paired;
use crate::precision::{composed_factors, precision_of};
use signals::Geometry;
use weight_gradient::{channel_sums, weight_gradient};

/// `conv2d` with a 3x3 kernel and zero padding 1, or a 1x1 kernel; stride 1.
///
/// - `x`: `[batch, in_channels, height, width]`
/// - `weight`: `[out_channels, in_channels, 3, 3]` or `[.., 1, 1]`; of another dtype than `x`, that is only how it is stored
/// - `bias`: `[out_channels]`
///
/// Returns `[batch, out_channels, height, width]`.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    if weight.dtype() != x.dtype() {
        let stored = weight.dtype();
        let weight = bfloat16::widened(weight, x.dtype());
        return precision_of(stored, || conv2d(x, weight, bias));
    }
    let [_, _, side, _] = weight.dims();
    let factors = composed_factors(&x);
    let inputs = [
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ];
    match bridge::run(Convolution { side }, inputs) {
        Outcome::Done(output) => Tensor::from_dispatch(output),
        Outcome::Unsupported([x, weight, bias]) => composed(
            Tensor::from_dispatch(x),
            Tensor::from_dispatch(weight),
            Tensor::from_dispatch(bias),
            factors,
        ),
    }
}

/// The convolution out of Burn's operations, of `factors` of this dtype; what is added to their products, and the
/// result, are of that of `x`.
fn composed(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, factors: DType) -> Tensor<4> {
    let dtype = x.dtype();
    let [outputs, _, side, _] = weight.dims();
    let options = ConvOptions::new([1, 1], [side / 2; 2], [1, 1], 1);
    if factors == dtype {
        return module::conv2d(x, weight, Some(bias), options);
    }
    let y = module::conv2d(x.cast(factors), weight.cast(factors), None, options);
    y.cast(dtype) + bias.reshape([1, outputs, 1, 1])
}

/// The convolution of `x` with a kernel. `transposed`: with its `inputs` and `outputs` swapped and its taps
/// rotated by 180 degrees, which makes it the gradient of the convolution's input.
fn convolve(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    geometry: Geometry,
    [inputs, outputs]: [usize; 2],
    transposed: bool,
) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if paired() && amx::available() {
        return tiles::convolve(x, weight, bias, geometry, [inputs, outputs], transposed);
    }
    let [rows, columns] = if transposed {
        [inputs, outputs]
    } else {
        [outputs, inputs]
    };
    /// In blocks of output channels whose sums fill the registers.
    macro_rules! in_blocks_of {
        ($block:literal) => {
            if winograd::is_faster(geometry, inputs, outputs) {
                let points = winograd_transform::TransformedKernel::<$block>::of(
                    weight, rows, columns, transposed,
                );
                winograd::convolve(x, &points, bias, geometry)
            } else {
                let packed = direct::pack_weight::<$block>(weight, rows, columns, transposed);
                direct::convolve(x, &packed, bias, geometry, inputs, outputs)
            }
        };
    }
    match registers() {
        32.. => in_blocks_of!(8),
        _ => in_blocks_of!(6),
    }
}

#[derive(Clone, Debug)]
struct Convolution {
    /// Of the kernel, 1 or 3.
    side: usize,
}

impl Convolution {
    /// Of `x` with a kernel `[outputs, inputs]`; `transposed`: as of [`convolve`].
    fn convolve(
        &self,
        x: &[f32],
        weight: &FlexTensor,
        bias: Option<&[f32]>,
        geometry: Geometry,
        transposed: bool,
    ) -> Vec<f32> {
        let [rows, columns, ..] = dims::<4>(weight);
        if self.side == 1 {
            let matrix = Matrix::new(values(weight), rows, columns);
            let matrix = if transposed {
                matrix.transpose()
            } else {
                matrix
            };
            return pointwise::convolve(x, matrix, bias, geometry);
        }
        let channels = if transposed {
            [rows, columns]
        } else {
            [columns, rows]
        };
        convolve(x, values(weight), bias, geometry, channels, transposed)
    }
}

impl Kernel<3> for Convolution {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, weight, bias]: [FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        let [batch, _, height, width] = dims(&x);
        let [outputs, ..] = dims::<4>(&weight);
        let geometry = Geometry::new(batch, height, width);
        let y = self.convolve(values(&x), &weight, Some(values(&bias)), geometry, false);
        (tensor(y, [batch, outputs, height, width]), [x, weight])
    }

    fn backward(
        &self,
        [x, weight]: Self::Saved,
        grad: FlexTensor,
        [want_x, want_weight, want_bias]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let [batch, inputs, height, width] = dims(&x);
        let [outputs, ..] = dims::<4>(&weight);
        let geometry = Geometry::new(batch, height, width);
        let dy = values(&grad);
        let dx = want_x.then(|| {
            let dx = self.convolve(dy, &weight, None, geometry, true);
            tensor(dx, [batch, inputs, height, width])
        });
        let dw = want_weight.then(|| {
            let dw = if self.side == 1 {
                pointwise::weight_gradient(values(&x), dy, geometry, [inputs, outputs])
            } else {
                weight_gradient(values(&x), dy, geometry, inputs, outputs)
            };
            tensor(dw, [outputs, inputs, self.side, self.side])
        });
        let db = want_bias.then(|| {
            let db = channel_sums(dy, outputs, height * width);
            tensor(db, [outputs])
        });
        [dx, dw, db]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::tests::assert_rounded;

    #[test]
    fn bfloat16_factors_and_everything_else_exact() {
        let shapes: [&[usize]; 3] = [&[3, 5, 9, 7], &[6, 5, 3, 3], &[6]];
        assert_rounded(shapes, |[x, w, b], factors| {
            let (x, w) = (x.reshape([3, 5, 9, 7]), w.reshape([6, 5, 3, 3]));
            composed(x, w, b, factors).flatten(0, 3)
        });
    }
}
