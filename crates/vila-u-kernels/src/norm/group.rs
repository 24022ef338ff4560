//! Group normalisation of images, with or without the SiLU that follows it everywhere.

use burn::backend::flex::FlexTensor;
use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use super::{CHUNK, moments, standardised};
use crate::bridge::{self, Kernel, Outcome, dims, tensor, values};
use crate::math::{dot, sigmoid, simd, sum};
use crate::output::{Unwritten, written};

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
        Outcome::Unsupported(inputs) => inputs,
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
        let (from, size) = (values(&x), members * plane);
        let normalise = |(group, (y, x)): (usize, (&mut [Unwritten], &[f32]))| {
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
                                *y = Unwritten::new(z * sigmoid(z));
                            }
                        } else {
                            for (y, x) in y.iter_mut().zip(x) {
                                *y = Unwritten::new(x * scale + shift);
                            }
                        }
                    }
                },
            );
        };
        // SAFETY: groups are all of it, and each writes its planes.
        let y = unsafe {
            written(from.len(), |y| {
                let groups = y.par_chunks_mut(size).zip(from.par_chunks(size));
                let groups = groups.with_min_len(CHUNK.div_ceil(size));
                groups.enumerate().for_each(normalise);
            })
        };
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
        let x_scale = -inverse * inverse * mean_gh;
        let shift = -inverse * mean_g - mean * x_scale;
        for ((dx, x), gamma) in dx
            .chunks_exact_mut(plane)
            .zip(x.chunks_exact(plane))
            .zip(gamma)
        {
            let scale = gamma * inverse;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = *dx * scale + x * x_scale + shift;
            }
        }
    }
}
