//! Normalisations, each with its affine map (and, for images, the SiLU that follows) in one pass. Statistics
//! are `f32` whatever the inputs are.
//!
//! With `h = (x - mean) / sd` and `y = f(gamma h + beta)`, the gradient through the statistics is
//! `dx = (g - mean(g) - h mean(g h)) / sd` where `g = gamma f'(..) dy`; means over what was
//! normalised together.

use burn::backend::{DispatchTensor, flex::FlexTensor};
use burn::tensor::{DType, Tensor, activation};
use rayon::prelude::*;

use crate::bridge::{self, Kernel, Outcome, dims, tensor, values};
use crate::math::{add_up, dot, fold, sigmoid, simd, sum};

/// Group normalisation: each image's channels in `groups` consecutive groups, every group
/// normalised over its channels and pixels, then scaled and shifted per channel.
///
/// - `x`: `[batch, channels, height, width]`, `channels` a multiple of `groups`
/// - `gamma`, `beta`: `[channels]`
pub fn group_norm(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
) -> Tensor<4> {
    run_group_norm(x, gamma, beta, groups, epsilon, false)
}

/// `silu(group_norm(x))`, as [`group_norm`].
pub fn group_norm_silu(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
) -> Tensor<4> {
    run_group_norm(x, gamma, beta, groups, epsilon, true)
}

fn run_group_norm(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    groups: usize,
    epsilon: f64,
    silu: bool,
) -> Tensor<4> {
    let kernel = GroupNorm {
        groups,
        epsilon: epsilon as f32,
        silu,
    };
    let inputs = [
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
    ];
    let [x, gamma, beta] = match bridge::run(kernel, inputs) {
        Outcome::Done(y) => return Tensor::from_dispatch(y),
        Outcome::Elsewhere(inputs) => inputs,
    };
    let x = Tensor::<4>::from_dispatch(x);
    let shape @ [batch, channels, height, width] = x.dims();
    let y = standardised(
        x.reshape([batch, groups, channels / groups * height * width]),
        epsilon,
    );
    let y = y.reshape(shape) * Tensor::<1>::from_dispatch(gamma).reshape([1, channels, 1, 1])
        + Tensor::<1>::from_dispatch(beta).reshape([1, channels, 1, 1]);
    if silu { activation::silu(y) } else { y }
}

/// The last dimension with mean 0 and variance 1, out of Burn's operations.
fn standardised<const D: usize>(x: Tensor<D>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let (variance, mean) = x.clone().var_mean_bias(D - 1);
    ((x - mean) / (variance + epsilon).sqrt()).cast(dtype)
}

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
        Outcome::Elsewhere([x, gamma, beta]) => {
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
        Outcome::Elsewhere([x, gamma]) => {
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

/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;

/// Mean and inverse standard deviation; the second pass over `x` finds it in cache.
#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum(x) / count;
    let variance = fold(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

#[derive(Clone, Debug)]
struct GroupNorm {
    groups: usize,
    epsilon: f32,
    silu: bool,
}

impl Kernel<3> for GroupNorm {
    type Saved = [FlexTensor; 3];

    fn forward(&self, [x, gamma, beta]: [FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        let shape @ [_, channels, height, width] = dims(&x);
        let (members, plane) = (channels / self.groups, height * width);
        let mut y = vec![0.0; values(&x).len()];
        y.par_chunks_mut(members * plane)
            .zip(values(&x).par_chunks(members * plane))
            .with_min_len(CHUNK.div_ceil(members * plane))
            .enumerate()
            .for_each(|(group, (y, x))| {
                let first = group % self.groups * members;
                let gamma = &values(&gamma)[first..][..members];
                let beta = &values(&beta)[first..][..members];
                simd(
                    #[inline(always)]
                    || {
                        let (mean, inverse) = moments(x, self.epsilon);
                        let planes = y.chunks_exact_mut(plane).zip(x.chunks_exact(plane));
                        for ((y, x), (gamma, beta)) in planes.zip(gamma.iter().zip(beta)) {
                            let scale = gamma * inverse;
                            let shift = beta - mean * scale;
                            if self.silu {
                                for (y, x) in y.iter_mut().zip(x) {
                                    let z = x * scale + shift;
                                    *y = z * sigmoid(z);
                                }
                            } else {
                                for (y, x) in y.iter_mut().zip(x) {
                                    *y = x * scale + shift;
                                }
                            }
                        }
                    },
                );
            });
        (tensor(y, shape), [x, gamma, beta])
    }

    fn backward(
        &self,
        [x, gamma, beta]: Self::Saved,
        grad: FlexTensor,
        _: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let shape @ [_, channels, height, width] = dims(&x);
        let (members, plane) = (channels / self.groups, height * width);
        let (x, dy) = (values(&x), values(&grad));
        let mut dx = vec![0.0; x.len()];
        // Per image and channel, the gradients of gamma and beta.
        let mut affine = vec![[0.0; 2]; x.len() / plane];
        dx.par_chunks_mut(members * plane)
            .zip(affine.par_chunks_mut(members))
            .zip(x.par_chunks(members * plane))
            .zip(dy.par_chunks(members * plane))
            .with_min_len(CHUNK.div_ceil(members * plane))
            .enumerate()
            .for_each(|(group, (((dx, affine), x), dy))| {
                let first = group % self.groups * members;
                let gamma = &values(&gamma)[first..][..members];
                let beta = &values(&beta)[first..][..members];
                simd(
                    #[inline(always)]
                    || self.group_gradient(x, dy, gamma, beta, plane, dx, affine),
                );
            });
        let reduce = |which: usize| {
            let total = |channel| {
                let images = affine.iter().skip(channel).step_by(channels);
                images.map(|both| both[which]).sum()
            };
            Some(tensor((0..channels).map(total).collect(), [channels]))
        };
        [Some(tensor(dx, shape)), reduce(0), reduce(1)]
    }
}

impl GroupNorm {
    /// One group of one image.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn group_gradient(
        &self,
        x: &[f32],
        dy: &[f32],
        gamma: &[f32],
        beta: &[f32],
        plane: usize,
        dx: &mut [f32],
        affine: &mut [[f32; 2]],
    ) {
        let (mean, inverse) = moments(x, self.epsilon);
        // First the gradient before the SiLU, kept in `dx`, and its sums per channel.
        let (mut mean_g, mut mean_gh) = (0.0, 0.0);
        for (channel, [dgamma, dbeta]) in affine.iter_mut().enumerate() {
            let range = channel * plane..(channel + 1) * plane;
            let (x, dy, dz) = (&x[range.clone()], &dy[range.clone()], &mut dx[range]);
            let scale = gamma[channel] * inverse;
            let shift = beta[channel] - mean * scale;
            if self.silu {
                for ((dz, x), dy) in dz.iter_mut().zip(x).zip(dy) {
                    let z = x * scale + shift;
                    let s = sigmoid(z);
                    *dz = dy * s * (1.0 + z * (1.0 - s));
                }
            } else {
                dz.copy_from_slice(dy);
            }
            *dbeta = sum(dz);
            *dgamma = (dot(dz, x) - mean * *dbeta) * inverse;
            mean_g += gamma[channel] * *dbeta;
            mean_gh += gamma[channel] * *dgamma;
        }
        let count = x.len() as f32;
        let (mean_g, mean_gh) = (mean_g / count, mean_gh / count);
        // dx = (gamma dz - mean_g - h mean_gh) / sd, linear in x and dz.
        let slope = -inverse * inverse * mean_gh;
        let shift = -inverse * mean_g - mean * slope;
        for ((dx, x), gamma) in dx
            .chunks_exact_mut(plane)
            .zip(x.chunks_exact(plane))
            .zip(gamma)
        {
            let scale = gamma * inverse;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = *dx * scale + x * slope + shift;
            }
        }
    }
}

#[derive(Clone, Debug)]
struct LayerNorm(f32);

impl Kernel<3> for LayerNorm {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, gamma, beta]: [FlexTensor; 3]) -> (FlexTensor, Self::Saved) {
        let (gammas, betas) = (values(&gamma), values(&beta));
        let columns = gammas.len();
        let rows = CHUNK.div_ceil(columns);
        let mut y = vec![0.0; values(&x).len()];
        y.par_chunks_mut(rows * columns)
            .zip(values(&x).par_chunks(rows * columns))
            .for_each(|(y, x)| {
                simd(
                    #[inline(always)]
                    || {
                        for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                            let (mean, inverse) = moments(x, self.0);
                            let affine = gammas.iter().zip(betas);
                            for ((y, x), (gamma, beta)) in y.iter_mut().zip(x).zip(affine) {
                                *y = (x - mean) * inverse * gamma + beta;
                            }
                        }
                    },
                );
            });
        (tensor(y, x.layout().shape().clone()), [x, gamma])
    }

    fn backward(
        &self,
        [x, gamma]: Self::Saved,
        grad: FlexTensor,
        _: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let shape = x.layout().shape().clone();
        let (x, gamma, dy) = (values(&x), values(&gamma), values(&grad));
        let columns = gamma.len();
        let rows = CHUNK.div_ceil(columns);
        let mut dx = vec![0.0; x.len()];
        // The gradients of gamma and, after them, of beta.
        let affines = dx
            .par_chunks_mut(rows * columns)
            .zip(x.par_chunks(rows * columns))
            .zip(dy.par_chunks(rows * columns))
            .map(|((dx, x), dy)| {
                let mut affine = vec![0.0; 2 * columns];
                let (dgamma, dbeta) = affine.split_at_mut(columns);
                simd(
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(columns).zip(x.chunks_exact(columns));
                        for ((dx, x), dy) in rows.zip(dy.chunks_exact(columns)) {
                            let (mean, inverse) = moments(x, self.0);
                            let inputs = x.iter().zip(dy).zip(gamma);
                            let sums = dgamma.iter_mut().zip(dbeta.iter_mut());
                            for ((dx, ((x, dy), gamma)), (dgamma, dbeta)) in
                                dx.iter_mut().zip(inputs).zip(sums)
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
                        }
                    },
                );
                affine
            });
        let affine = add_up(2 * columns, affines);
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
        let columns = values(&gamma).len();
        let rows = CHUNK.div_ceil(columns);
        let mut y = vec![0.0; values(&x).len()];
        y.par_chunks_mut(rows * columns)
            .zip(values(&x).par_chunks(rows * columns))
            .for_each(|(y, x)| {
                simd(
                    #[inline(always)]
                    || {
                        for (y, x) in y.chunks_exact_mut(columns).zip(x.chunks_exact(columns)) {
                            let inverse = self.inverse(x);
                            for ((y, x), gamma) in y.iter_mut().zip(x).zip(values(&gamma)) {
                                *y = x * inverse * gamma;
                            }
                        }
                    },
                );
            });
        (tensor(y, x.layout().shape().clone()), [x, gamma])
    }

    fn backward(
        &self,
        [x, gamma]: Self::Saved,
        grad: FlexTensor,
        _: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let shape = x.layout().shape().clone();
        let (x, gamma, dy) = (values(&x), values(&gamma), values(&grad));
        let columns = gamma.len();
        let rows = CHUNK.div_ceil(columns);
        let mut dx = vec![0.0; x.len()];
        let dgammas = dx
            .par_chunks_mut(rows * columns)
            .zip(x.par_chunks(rows * columns))
            .zip(dy.par_chunks(rows * columns))
            .map(|((dx, x), dy)| {
                let mut dgamma = vec![0.0; columns];
                simd(
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(columns).zip(x.chunks_exact(columns));
                        for ((dx, x), dy) in rows.zip(dy.chunks_exact(columns)) {
                            let inverse = self.inverse(x);
                            let inputs = x.iter().zip(dy).zip(gamma);
                            for ((dx, ((x, dy), gamma)), dgamma) in
                                dx.iter_mut().zip(inputs).zip(dgamma.iter_mut())
                            {
                                *dx = dy * gamma;
                                *dgamma += dy * x * inverse;
                            }
                            let slope = dot(dx, x) * inverse * inverse / columns as f32;
                            for (dx, x) in dx.iter_mut().zip(x) {
                                *dx = (*dx - x * slope) * inverse;
                            }
                        }
                    },
                );
                dgamma
            });
        let dgamma = add_up(columns, dgammas);
        [Some(tensor(dx, shape)), Some(tensor(dgamma, [columns]))]
    }
}
