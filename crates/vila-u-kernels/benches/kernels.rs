//! Each kernel against the same function composed of Burn operations: forward alone, and forward with
//! backward. Shapes are those of the nano model's training and of the released towers.
//!
//! `cargo bench --workspace --bench kernels [NAME]`

use std::time::Duration;

use burn::module::Param;
use burn::nn::{GroupNormConfig, LayerNormConfig};
use burn::tensor::{DType, Device, Distribution, Tensor, activation, module, ops::ConvOptions};
use divan::{Bencher, Divan};
use vila_u_kernels as kernels;

fn main() {
    Divan::from_args()
        .max_time(Duration::from_millis(500))
        .main();
}

/// What is timed.
#[derive(Clone, Copy, Debug)]
enum Way {
    Fused,
    Composed,
    FusedBackward,
    ComposedBackward,
}

use Way::{Composed, ComposedBackward, Fused, FusedBackward};

const WAYS: [Way; 4] = [Fused, Composed, FusedBackward, ComposedBackward];

impl Way {
    /// Times one of two functions that compute the same from tensors of three shapes.
    fn time<const A: usize, const B: usize, const C: usize, const Y: usize>(
        self,
        bencher: Bencher,
        (a, b, c): ([usize; A], [usize; B], [usize; C]),
        fused: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<Y>,
        composed: impl Fn(Tensor<A>, Tensor<B>, Tensor<C>) -> Tensor<Y>,
    ) {
        let (a, b, c) = (random(a), random(b), random(c));
        let compute = |a, b, c| match self {
            Fused | FusedBackward => fused(a, b, c),
            Composed | ComposedBackward => composed(a, b, c),
        };
        match self {
            Fused | Composed => bencher.bench_local(|| compute(a.clone(), b.clone(), c.clone())),
            FusedBackward | ComposedBackward => bencher.bench_local(|| {
                let (a, b, c) = (leaf(&a), leaf(&b), leaf(&c));
                compute(a, b, c).sum().backward()
            }),
        }
    }
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// The tensor as a leaf of a new graph.
fn leaf<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    tensor.clone().autodiff().require_grad()
}

#[divan::bench(args = WAYS)]
fn conv2d(bencher: Bencher, way: Way) {
    way.time(
        bencher,
        ([16, 64, 64, 64], [64, 64, 3, 3], [64]),
        kernels::conv2d,
        |x, w, b| module::conv2d(x, w, Some(b), ConvOptions::new([1, 1], [1, 1], [1, 1], 1)),
    );
}

#[divan::bench(args = WAYS)]
fn linear(bencher: Bencher, way: Way) {
    way.time(
        bencher,
        ([2048, 192], [192, 768], [768]),
        |x, w, b| kernels::linear(x, w, Some(b)),
        |x, w, b| module::linear(x, w, Some(b)),
    );
}

/// Rows of a batch that generates images, through a large weight.
const ROWS: [usize; 10] = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64];
const WIDTH: usize = 4096;

#[divan::bench(args = ROWS)]
fn rows_f32(bencher: Bencher, rows: usize) {
    let (x, weight) = (random([rows, WIDTH]), random([WIDTH, WIDTH]));
    bencher.bench_local(|| kernels::linear(x.clone(), weight.clone(), None));
}

#[divan::bench(args = ROWS)]
fn rows_bf16(bencher: Bencher, rows: usize) {
    let (x, weight) = (random([rows, WIDTH]), random([WIDTH, WIDTH]));
    let weight = weight.cast(DType::BF16).transpose();
    bencher.bench_local(|| kernels::linear(x.clone(), weight.clone(), None));
}

#[divan::bench(args = WAYS)]
fn attention(bencher: Bencher, way: Way) {
    let shape = [32, 4, 85, 64];
    way.time(
        bencher,
        (shape, shape, shape),
        |q, k, v| kernels::attention(q, k, v, None, 0.1),
        |q, k, v| activation::softmax(q.matmul(k.transpose()) * 0.1, 3).matmul(v),
    );
}

#[divan::bench(args = WAYS)]
fn group_norm_silu(bencher: Bencher, way: Way) {
    let norm = GroupNormConfig::new(32, 32).init(&Device::flex());
    way.time(
        bencher,
        ([16, 32, 64, 64], [32], [32]),
        |x, gamma, beta| kernels::group_norm_silu(x, gamma, beta, 32, 1e-6),
        |x, gamma, beta| {
            let mut norm = norm.clone();
            norm.gamma = Some(Param::from_tensor(gamma));
            norm.beta = Some(Param::from_tensor(beta));
            activation::silu(norm.forward(x))
        },
    );
}

#[divan::bench(args = WAYS)]
fn layer_norm(bencher: Bencher, way: Way) {
    let norm = LayerNormConfig::new(256).init(&Device::flex());
    way.time(
        bencher,
        ([8192, 256], [256], [256]),
        |x, gamma, beta| kernels::layer_norm(x, gamma, beta, 1e-6),
        |x, gamma, beta| {
            let mut norm = norm.clone();
            norm.gamma = Param::from_tensor(gamma);
            norm.beta = Some(Param::from_tensor(beta));
            norm.forward(x)
        },
    );
}

#[divan::bench(args = WAYS)]
fn rms_norm(bencher: Bencher, way: Way) {
    way.time(
        bencher,
        ([8192, 256], [256], [1]),
        |x, gamma, _| kernels::rms_norm(x, gamma, 1e-5),
        |x, gamma, _| {
            let rms = (x.clone().square().mean_dim(1) + 1e-5).sqrt();
            x / rms * gamma.unsqueeze()
        },
    );
}

#[divan::bench(args = WAYS)]
fn gelu_tanh(bencher: Bencher, way: Way) {
    way.time(
        bencher,
        ([2048, 768], [1], [1]),
        |x, _, _| kernels::gelu_tanh(x),
        |x, _, _| activation::gelu_approximate(x),
    );
}

#[divan::bench(args = WAYS)]
fn gelu(bencher: Bencher, way: Way) {
    way.time(
        bencher,
        ([2048, 768], [1], [1]),
        |x, _, _| kernels::gelu(x),
        |x, _, _| activation::gelu(x),
    );
}

#[divan::bench(args = WAYS)]
fn silu_mul(bencher: Bencher, way: Way) {
    let shape = [2048, 768];
    way.time(
        bencher,
        (shape, shape, [1]),
        |x, y, _| kernels::silu_mul(x, y),
        |x, y, _| activation::silu(x) * y,
    );
}
