//! Every kernel against the same function composed of Burn operations: values and gradients.

use burn::tensor::{Device, Distribution, Tensor, activation, module, ops::ConvOptions};
use vila_u_kernels as kernels;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// The largest difference, relative to the largest number.
fn difference<const D: usize>(got: Tensor<D>, want: Tensor<D>) -> f32 {
    let scale = want.clone().abs().max().into_scalar::<f32>();
    let off = (got - want).abs().max().into_scalar::<f32>();
    off / scale.max(1e-6)
}

/// Compares a function of three tensors on the CPU, recorded and not, under a random weighting of
/// its output.
fn agree<const A: usize, const B: usize, const C: usize, const Y: usize>(
    name: &str,
    (a, b, c): ([usize; A], [usize; B], [usize; C]),
    ours: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<Y>,
    plain: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<Y>,
) {
    let device = Device::flex();
    let (a, b, c) = (random(a, &device), random(b, &device), random(c, &device));
    let want = plain(a.clone(), b.clone(), c.clone());
    let got = ours(a.clone(), b.clone(), c.clone());
    let off = difference(got, want.clone());
    assert!(off < 1e-5, "{name}: value off by {off:e}");

    let weighting = random(want.dims(), &device);
    let inputs = || {
        (
            a.clone().autodiff().require_grad(),
            b.clone().autodiff().require_grad(),
            c.clone().autodiff().require_grad(),
        )
    };
    let gradients = |y: Tensor<Y>| (y * weighting.clone()).sum().backward();
    let (a, b, c) = inputs();
    let want = gradients(plain(a.clone(), b.clone(), c.clone()));
    let want = (a.grad(&want), b.grad(&want), c.grad(&want));
    let (a, b, c) = inputs();
    let got = gradients(ours(a.clone(), b.clone(), c.clone()));
    let compare = |which: &str, off: f32| {
        assert!(
            off < 1e-5,
            "{name}: gradient of input {which} off by {off:e}"
        );
    };
    if let Some(want) = want.0 {
        compare("0", difference(a.grad(&got).expect("a gradient"), want));
    }
    if let Some(want) = want.1 {
        compare("1", difference(b.grad(&got).expect("a gradient"), want));
    }
    if let Some(want) = want.2 {
        compare("2", difference(c.grad(&got).expect("a gradient"), want));
    }
}

fn plain_conv2d(x: Tensor<4>, w: Tensor<4>, b: Tensor<1>) -> Tensor<4> {
    module::conv2d(x, w, Some(b), ConvOptions::new([1, 1], [1, 1], [1, 1], 1))
}

#[test]
fn conv2d() {
    for [n, i, o, h, w] in [
        [1, 1, 1, 1, 1],
        [2, 3, 5, 4, 7],
        [1, 5, 19, 9, 6],
        [5, 8, 16, 8, 8],
        [17, 4, 8, 16, 16],
        [3, 16, 3, 33, 20],
    ] {
        agree(
            &format!("{n}x{i}->{o} {h}x{w}"),
            ([n, i, h, w], [o, i, 3, 3], [o]),
            kernels::conv2d,
            plain_conv2d,
        );
    }
}

#[test]
fn group_norm() {
    let plain = |x: Tensor<4>, gamma: Tensor<1>, beta: Tensor<1>, groups: usize| {
        let shape @ [n, c, h, w] = x.dims();
        let x = x.reshape([n, groups, c / groups * h * w]);
        let x = x.clone() - x.mean_dim(2);
        let y = x.clone() / (x.square().mean_dim(2) + 1e-6).sqrt();
        y.reshape(shape) * gamma.reshape([1, c, 1, 1]) + beta.reshape([1, c, 1, 1])
    };
    for [n, c, h, w, groups] in [[2, 64, 5, 7, 32], [3, 32, 4, 4, 32], [16, 128, 8, 8, 32]] {
        let shapes = ([n, c, h, w], [c], [c]);
        agree(
            &format!("norm {shapes:?}"),
            shapes,
            |x, gamma, beta| kernels::group_norm(x, gamma, beta, groups, 1e-6),
            |x, gamma, beta| plain(x, gamma, beta, groups),
        );
        agree(
            &format!("norm and silu {shapes:?}"),
            shapes,
            |x, gamma, beta| kernels::group_norm_silu(x, gamma, beta, groups, 1e-6),
            |x, gamma, beta| activation::silu(plain(x, gamma, beta, groups)),
        );
    }
}

#[test]
fn layer_norm() {
    for [rows, columns] in [[1, 3], [7, 192], [300, 256]] {
        agree(
            &format!("{rows}x{columns}"),
            ([2, rows, columns], [columns], [columns]),
            |x, gamma, beta| kernels::layer_norm(x, gamma, beta, 1e-6),
            |x, gamma, beta| {
                let x = x.clone() - x.mean_dim(2);
                let y = x.clone() / (x.square().mean_dim(2) + 1e-6).sqrt();
                y * gamma.unsqueeze() + beta.unsqueeze()
            },
        );
    }
}

#[test]
fn rms_norm() {
    for [rows, columns] in [[1, 3], [7, 192], [300, 256]] {
        agree(
            &format!("{rows}x{columns}"),
            ([2, rows, columns], [columns], [1]),
            |x, gamma, _: Tensor<1>| kernels::rms_norm(x, gamma, 1e-5),
            |x, gamma, _| {
                let rms = (x.clone().square().mean_dim(2) + 1e-5).sqrt();
                x / rms * gamma.unsqueeze()
            },
        );
    }
}

#[test]
fn pointwise() {
    for length in [1, 37, 40_000] {
        let shapes = ([length], [length], [1]);
        agree(
            "gelu_tanh",
            shapes,
            |x, _: Tensor<1>, _: Tensor<1>| kernels::gelu_tanh(x),
            |x, _, _| activation::gelu_approximate(x),
        );
        agree(
            "gelu",
            shapes,
            |x, _: Tensor<1>, _: Tensor<1>| kernels::gelu(x),
            |x, _, _| activation::gelu(x),
        );
        agree(
            "silu_mul",
            shapes,
            |x, y, _: Tensor<1>| kernels::silu_mul(x, y),
            |x, y, _| activation::silu(x) * y,
        );
    }
}

#[test]
fn a_view_counts_as_what_it_shows() {
    let device = Device::flex();
    let x = random([3, 5, 6, 4], &device)
        .swap_dims(1, 3)
        .narrow(2, 1, 4);
    let w = random([2, 4, 3, 3], &device).flip([3]);
    let b = random([2], &device);
    let want = plain_conv2d(x.clone(), w.clone(), b.clone());
    assert!(difference(kernels::conv2d(x, w, b), want) < 1e-5);
}

#[test]
fn constants_mix_with_recorded_tensors() {
    let device = Device::flex();
    let x = random([2, 3, 4, 4], &device);
    let w = random([8, 3, 3, 3], &device.clone().autodiff()).require_grad();
    let b = random([8], &device.clone().autodiff());
    let grads = kernels::conv2d(x, w.clone(), b.clone()).sum().backward();
    assert!(w.grad(&grads).is_some());
    assert!(b.grad(&grads).is_none());
}

#[test]
fn checkpointed_graphs_work() {
    let device = Device::flex().autodiff().gradient_checkpointing();
    let x = random([40], &device).require_grad();
    let grads = (kernels::gelu_tanh(x.clone() * 2.0) * 3.0).sum().backward();
    let got = x.grad(&grads).expect("a gradient");
    let grads = (activation::gelu_approximate(x.clone() * 2.0) * 3.0)
        .sum()
        .backward();
    assert!(difference(got, x.grad(&grads).expect("a gradient")) < 1e-5);
}
