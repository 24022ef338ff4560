//! Normalisation of rows: layer norm and RMS norm.

use burn::backend::{DispatchTensor, flex::FlexTensor};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use super::{CHUNK, moments, standardised};
use crate::bridge::{self, Kernel, Outcome, tensor, values};
use crate::math::{add_up, dot, simd, sum};
use crate::output::in_chunks;

/// Normalises the last dimension to mean 0 and variance 1, then scales and shifts each column.
///
/// - `x`: `[.., columns]`
/// - `gamma`, `beta`: `[columns]`
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let inputs = [
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
    ];
    match run_layer_norm(epsilon, inputs) {
        Outcome::Done(y) => Tensor::from_dispatch(y),
        Outcome::Unsupported([x, gamma, beta]) => {
            standardised(Tensor::<D>::from_dispatch(x), epsilon)
                * Tensor::<1>::from_dispatch(gamma).unsqueeze()
                + Tensor::<1>::from_dispatch(beta).unsqueeze()
        }
    }
}

/// Divides by the root mean square of the last dimension, in `f32` whatever the inputs are, then
/// scales each column.
///
/// - `x`: `[.., columns]`
/// - `gamma`: `[columns]`
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    match run_rms_norm(epsilon, [x.into_dispatch(), gamma.into_dispatch()]) {
        Outcome::Done(y) => Tensor::from_dispatch(y),
        Outcome::Unsupported([x, gamma]) => {
            let x = Tensor::<D>::from_dispatch(x);
            let dtype = x.dtype();
            let x = x.cast(DType::F32);
            let rms = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
            (x / rms).cast(dtype) * Tensor::<1>::from_dispatch(gamma).unsqueeze()
        }
    }
}

// Apart from the functions above, which are generic and so compiled wherever they are called, however
// little is optimised there.

fn run_layer_norm(epsilon: f64, inputs: [DispatchTensor; 3]) -> Outcome<3> {
    bridge::run(LayerNorm(epsilon as f32), inputs)
}

fn run_rms_norm(epsilon: f64, inputs: [DispatchTensor; 2]) -> Outcome<2> {
    bridge::run(RmsNorm(epsilon as f32), inputs)
}

/// The rows of `y`, each made of its row of `x`.
fn map_rows(x: &[f32], columns: usize, row: impl Fn(&mut [f32], &[f32]) + Sync) -> Vec<f32> {
    let rows = CHUNK.div_ceil(columns);
    let chunk = rows * columns;
    in_chunks(x.len(), chunk, |index, y| {
        let x = &x[index * chunk..];
        simd(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                    row(y, x);
                }
            },
        );
    })
}

/// The gradients of the input, and of `parameters` numbers, to which `row(dx, x, dy, parameter gradients)` adds
/// every row's share.
fn backward_rows(
    x: &[f32],
    dy: &[f32],
    columns: usize,
    parameters: usize,
    row: impl Fn(&mut [f32], &[f32], &[f32], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let rows = CHUNK.div_ceil(columns);
    let mut dx = vec![0.0; x.len()];
    let sums = dx
        .par_chunks_mut(rows * columns)
        .zip(x.par_chunks(rows * columns))
        .zip(dy.par_chunks(rows * columns))
        .map(|((dx, x), dy)| {
            let mut sums = vec![0.0; parameters];
            simd(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(columns).zip(x.chunks_exact(columns));
                    for ((dx, x), dy) in rows.zip(dy.chunks_exact(columns)) {
                        row(dx, x, dy, &mut sums);
                    }
                },
            );
            sums
        });
    let sums = add_up(parameters, sums);
    (dx, sums)
}

#[derive(Clone, Debug)]
struct LayerNorm(f32);

impl Kernel<3> for LayerNorm {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, gamma, beta]: [FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        let (gammas, betas) = (values(&gamma), values(&beta));
        let y = map_rows(
            values(&x),
            gammas.len(),
            #[inline(always)]
            |y, x| {
                let (mean, inverse) = moments(x, self.0);
                let affine = gammas.iter().zip(betas);
                for ((y, x), (gamma, beta)) in y.iter_mut().zip(x).zip(affine) {
                    *y = (x - mean) * inverse * gamma + beta;
                }
            },
        );
        (tensor(y, x.layout().shape().clone()), [x, gamma])
    }

    fn backward(
        &self,
        [x, gamma]: Self::Saved,
        grad: FlexTensor,
        _: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let shape = x.layout().shape().clone();
        let gamma = values(&gamma);
        let columns = gamma.len();
        // The gradients of gamma and, after them, of beta.
        let (dx, affine) = backward_rows(
            values(&x),
            values(&grad),
            columns,
            2 * columns,
            #[inline(always)]
            |dx, x, dy, affine| {
                let (dgamma, dbeta) = affine.split_at_mut(columns);
                let (mean, inverse) = moments(x, self.0);
                let inputs = x.iter().zip(dy).zip(gamma);
                let sums = dgamma.iter_mut().zip(dbeta);
                for ((dx, ((x, dy), gamma)), (dgamma, dbeta)) in dx.iter_mut().zip(inputs).zip(sums)
                {
                    *dx = dy * gamma;
                    *dgamma += dy * (x - mean) * inverse;
                    *dbeta += dy;
                }
                let total = sum(dx);
                let mean_g = total / columns as f32;
                let mean_gh = (dot(dx, x) - mean * total) * inverse / columns as f32;
                for (dx, x) in dx.iter_mut().zip(x) {
                    *dx = (*dx - mean_g - (x - mean) * inverse * mean_gh) * inverse;
                }
            },
        );
        let (dgamma, dbeta) = affine.split_at(columns);
        [
            Some(tensor(dx, shape)),
            Some(tensor(dgamma.to_vec(), [columns])),
            Some(tensor(dbeta.to_vec(), [columns])),
        ]
    }
}

#[derive(Clone, Debug)]
struct RmsNorm(f32);

impl RmsNorm {
    #[inline(always)]
    fn inverse(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.0).sqrt()
    }
}

impl Kernel<2> for RmsNorm {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, gamma]: [FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        let gammas = values(&gamma);
        let y = map_rows(
            values(&x),
            gammas.len(),
            #[inline(always)]
            |y, x| {
                let inverse = self.inverse(x);
                for ((y, x), gamma) in y.iter_mut().zip(x).zip(gammas) {
                    *y = x * inverse * gamma;
                }
            },
        );
        (tensor(y, x.layout().shape().clone()), [x, gamma])
    }

    fn backward(
        &self,
        [x, gamma]: Self::Saved,
        grad: FlexTensor,
        _: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let shape = x.layout().shape().clone();
        let gamma = values(&gamma);
        let columns = gamma.len();
        let (dx, dgamma) = backward_rows(
            values(&x),
            values(&grad),
            columns,
            columns,
            #[inline(always)]
            |dx, x, dy, dgamma| {
                let inverse = self.inverse(x);
                let inputs = x.iter().zip(dy).zip(gamma);
                for ((dx, ((x, dy), gamma)), dgamma) in dx.iter_mut().zip(inputs).zip(dgamma) {
                    *dx = dy * gamma;
                    *dgamma += dy * x * inverse;
                }
                let x_scale = dot(dx, x) * inverse * inverse / columns as f32;
                for (dx, x) in dx.iter_mut().zip(x) {
                    *dx = (*dx - x * x_scale) * inverse;
                }
            },
        );
        [Some(tensor(dx, shape)), Some(tensor(dgamma, [columns]))]
    }
}
