//! Times each kernel against the same function composed of Burn operations, forward and backward.
//!
//! `cargo run --release -p vila-u-kernels --example speed [filter]`

use burn::tensor::{Device, Distribution, Tensor, module, ops::ConvOptions};
use std::time::Instant;

/// Best of several runs, in milliseconds.
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

fn report(name: &str, flop: f64, plain: [f64; 2], ours: [f64; 2]) {
    let rate = |ms: f64, times: f64| times * flop / ms / 1e6;
    println!(
        "{name:34} forward {:8.2} -> {:8.2} ms ({:4.0} -> {:4.0} GFLOP/s)   both {:8.2} -> {:8.2} ms ({:4.0} -> {:4.0} GFLOP/s)",
        plain[0],
        ours[0],
        rate(plain[0], 1.0),
        rate(ours[0], 1.0),
        plain[1],
        ours[1],
        rate(plain[1], 3.0),
        rate(ours[1], 3.0),
    );
}

fn conv2d(x: Tensor<4>, w: Tensor<4>, b: Tensor<1>) -> Tensor<4> {
    module::conv2d(x, w, Some(b), ConvOptions::new([1, 1], [1, 1], [1, 1], 1))
}

fn time_conv(
    f: fn(Tensor<4>, Tensor<4>, Tensor<1>) -> Tensor<4>,
    [n, i, o, s]: [usize; 4],
) -> [f64; 2] {
    let device = Device::flex();
    let (x, w, b) = (
        random([n, i, s, s], &device),
        random([o, i, 3, 3], &device),
        random([o], &device),
    );
    let forward = best(|| {
        f(x.clone(), w.clone(), b.clone());
    });
    let device = device.autodiff();
    let x = random([n, i, s, s], &device).require_grad();
    let w = random([o, i, 3, 3], &device).require_grad();
    let b = random([o], &device).require_grad();
    let both = best(|| {
        f(x.clone(), w.clone(), b.clone()).sum().backward();
    });
    [forward, both]
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    for shape @ [n, i, o, s] in [
        [16, 64, 64, 64],
        [16, 32, 32, 64],
        [16, 128, 128, 16],
        [32, 64, 64, 32],
        [16, 192, 64, 8],
        [16, 128, 128, 8],
        [16, 32, 3, 64],
        [1, 128, 128, 64],
    ] {
        let name = format!("conv2d {n}x{i}->{o} {s}x{s}");
        if name.contains(&filter) {
            let flop = 2.0 * (n * i * o * 9 * s * s) as f64;
            report(
                &name,
                flop,
                time_conv(conv2d, shape),
                time_conv(vila_u_kernels::conv2d, shape),
            );
        }
    }
}
