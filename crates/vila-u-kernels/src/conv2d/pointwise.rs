//! 1x1 convolution, which is a product of matrices for each image: `y[n] = w x[n] + b`.

use rayon::prelude::*;

use super::signals::Geometry;
use crate::math::add_up;
use crate::matmul::{Matrix, gemm, gemm_accumulate};
use crate::output::{filled, written};
use crate::precision::paired;

/// The convolution of `x` `[batch, inputs, height, width]` with a kernel `[outputs, inputs]`.
pub(super) fn convolve(
    x: &[f32],
    weight: Matrix,
    bias: Option<&[f32]>,
    geometry: Geometry,
) -> Vec<f32> {
    let plane = geometry.height * geometry.width;
    let Matrix {
        rows: outputs,
        columns: inputs,
        ..
    } = weight;
    let image = |index: usize| {
        Matrix::new(
            &x[index * inputs * plane..][..inputs * plane],
            inputs,
            plane,
        )
    };
    // A single image has no other images to share the threads with.
    if geometry.batch == 1 {
        let mut y = gemm(weight, image(0), None);
        if let Some(bias) = bias {
            let rows = y.par_chunks_mut(plane).zip(bias);
            rows.for_each(|(row, bias)| row.iter_mut().for_each(|y| *y += bias));
        }
        return y;
    }
    let paired = paired();
    // SAFETY: images are all of it, and their rows are set to the bias.
    unsafe {
        written(geometry.batch * outputs * plane, |y| {
            let images = y.par_chunks_mut(outputs * plane).enumerate();
            images.for_each(|(index, y)| {
                for (output, row) in y.chunks_exact_mut(plane).enumerate() {
                    filled(row, bias.map_or(0.0, |bias| bias[output]));
                }
                gemm_accumulate(weight, image(index), y.assume_init_mut(), paired);
            });
        })
    }
}

/// `dw[o, i] = sum over batch and positions of dy[o] x[i]`.
pub(super) fn weight_gradient(
    x: &[f32],
    dy: &[f32],
    geometry: Geometry,
    [inputs, outputs]: [usize; 2],
) -> Vec<f32> {
    let plane = geometry.height * geometry.width;
    let images = geometry.images_per_task();
    let paired = paired();
    let tasks = x
        .par_chunks(images * inputs * plane)
        .zip(dy.par_chunks(images * outputs * plane));
    let parts = tasks.map(|(x, dy)| {
        let mut dw = vec![0.0; outputs * inputs];
        let images = x.chunks_exact(inputs * plane);
        for (x, dy) in images.zip(dy.chunks_exact(outputs * plane)) {
            let (x, dy) = (
                Matrix::new(x, inputs, plane),
                Matrix::new(dy, outputs, plane),
            );
            gemm_accumulate(dy, x.transpose(), &mut dw, paired);
        }
        dw
    });
    add_up(outputs * inputs, parts)
}
