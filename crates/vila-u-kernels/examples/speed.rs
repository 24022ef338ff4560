//! Times each kernel against the same function composed of Burn operations: forward alone, and
//! forward with backward, in milliseconds.
//!
//! `cargo run --release -p vila-u-kernels --example speed [filter]`

use burn::nn::{GroupNormConfig, LayerNormConfig};
use burn::tensor::{Device, Distribution, Tensor, activation, module, ops::ConvOptions};
use std::time::Instant;
use vila_u_kernels as kernels;

/// Best of several runs.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let mut best = f64::MAX;
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 5 || begin.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
        runs += 1;
    }
    best
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Forward, and forward with backward.
fn time<const A: usize, const B: usize, const C: usize, const Y: usize>(
    (a, b, c): ([usize; A], [usize; B], [usize; C]),
    f: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<Y>,
) -> [f64; 2] {
    let device = Device::flex();
    let (a, b, c) = (random(a, &device), random(b, &device), random(c, &device));
    let forward = best(|| {
        f(a.clone(), b.clone(), c.clone());
    });
    let [a, b, c] = [
        (a.autodiff().require_grad().into_dispatch()),
        (b.autodiff().require_grad().into_dispatch()),
        (c.autodiff().require_grad().into_dispatch()),
    ];
    let both = best(|| {
        let (a, b, c) = (
            Tensor::from_dispatch(a.clone()),
            Tensor::from_dispatch(b.clone()),
            Tensor::from_dispatch(c.clone()),
        );
        f(a, b, c).sum().backward();
    });
    [forward, both]
}

struct Report {
    filter: String,
}

impl Report {
    /// `flop`: of the forward pass, where it is worth knowing.
    fn compare<const A: usize, const B: usize, const C: usize, const Y: usize>(
        &self,
        name: &str,
        flop: usize,
        shapes: ([usize; A], [usize; B], [usize; C]),
        plain: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<Y>,
        ours: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<Y>,
    ) {
        let name = format!("{name} {:?}", shapes.0);
        if !name.contains(&self.filter) {
            return;
        }
        let (plain, ours) = (time(shapes, plain), time(shapes, ours));
        print!(
            "{name:40} forward {:8.2} -> {:7.2}   with backward {:8.2} -> {:7.2}",
            plain[0], ours[0], plain[1], ours[1]
        );
        if flop > 0 {
            let rate = |ms: f64| flop as f64 / ms / 1e6;
            print!(
                "   GFLOP/s forward {:4.0} -> {:4.0}",
                rate(plain[0]),
                rate(ours[0])
            );
        }
        println!();
    }
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let report = Report { filter };
    for [n, i, o, s] in [
        [16, 64, 64, 64],
        [16, 32, 32, 64],
        [16, 128, 128, 16],
        [32, 64, 64, 32],
        [16, 192, 64, 8],
        [16, 32, 3, 64],
        [1, 128, 128, 64],
    ] {
        report.compare(
            &format!("conv2d to {o}"),
            2 * n * i * o * 9 * s * s,
            ([n, i, s, s], [o, i, 3, 3], [o]),
            |x, w, b| module::conv2d(x, w, Some(b), ConvOptions::new([1, 1], [1, 1], [1, 1], 1)),
            kernels::conv2d,
        );
    }
    for [rows, i, o] in [[2048, 192, 768], [2048, 768, 192], [8192, 256, 1024]] {
        report.compare(
            &format!("linear to {o}"),
            2 * rows * i * o,
            ([rows, i], [i, o], [o]),
            |x, w, b| module::linear(x, w, Some(b)),
            |x, w, b| kernels::linear(x, w, Some(b)),
        );
    }
    for shape @ [n, h, t, d] in [[32, 3, 64, 64], [32, 4, 85, 64], [2048, 4, 4, 64]] {
        report.compare(
            "attention",
            4 * n * h * t * t * d,
            (shape, shape, shape),
            |q, k, v| activation::softmax(q.matmul(k.transpose()) * 0.1, 3).matmul(v),
            |q, k, v| kernels::attention(q, k, v, None, 0.1),
        );
    }
    for shape @ [_, c, ..] in [[16, 32, 64, 64], [16, 64, 8, 8]] {
        let norm = GroupNormConfig::new(32, c).init(&Device::flex());
        report.compare(
            "group_norm_silu",
            0,
            (shape, [c], [c]),
            |x, gamma, beta| {
                let mut norm = norm.clone();
                norm.gamma = Some(burn::module::Param::from_tensor(gamma));
                norm.beta = Some(burn::module::Param::from_tensor(beta));
                activation::silu(norm.forward(x))
            },
            |x, gamma, beta| kernels::group_norm_silu(x, gamma, beta, 32, 1e-6),
        );
    }
    for shape @ [_, c] in [[2048, 192], [8192, 256]] {
        let norm = LayerNormConfig::new(c).init(&Device::flex());
        report.compare(
            "layer_norm",
            0,
            (shape, [c], [c]),
            |x, gamma, beta| {
                let mut norm = norm.clone();
                norm.gamma = burn::module::Param::from_tensor(gamma);
                norm.beta = Some(burn::module::Param::from_tensor(beta));
                norm.forward(x)
            },
            |x, gamma, beta| kernels::layer_norm(x, gamma, beta, 1e-6),
        );
        report.compare(
            "rms_norm",
            0,
            (shape, [c], [1]),
            |x, gamma, _: Tensor<1>| {
                let rms = (x.clone().square().mean_dim(1) + 1e-5).sqrt();
                x / rms * gamma.unsqueeze()
            },
            |x, gamma, _| kernels::rms_norm(x, gamma, 1e-5),
        );
    }
    let shape = [2048, 768];
    report.compare(
        "gelu_tanh",
        0,
        (shape, [1], [1]),
        |x, _: Tensor<1>, _: Tensor<1>| activation::gelu_approximate(x),
        |x, _, _| kernels::gelu_tanh(x),
    );
    report.compare(
        "gelu",
        0,
        (shape, [1], [1]),
        |x, _: Tensor<1>, _: Tensor<1>| activation::gelu(x),
        |x, _, _| kernels::gelu(x),
    );
    report.compare(
        "silu_mul",
        0,
        (shape, shape, [1]),
        |x, y, _: Tensor<1>| activation::silu(x) * y,
        |x, y, _| kernels::silu_mul(x, y),
    );
}
