//! A step that is computed again gives the same bits, whichever threads were free.

use burn::tensor::{Device, Distribution, Tensor};
use rayon::ThreadPoolBuilder;
use vila_u_kernels as kernels;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// The gradients of three tensors, computed many times by more threads than there are cores.
fn same_bits<const A: usize, const B: usize, const Y: usize>(
    (a, b, c): ([usize; A], [usize; B], usize),
    compute: impl Fn(Tensor<A>, Tensor<B>, Tensor<1>) -> Tensor<Y> + Sync,
) {
    let (a, b, c) = (random(a), random(b), random([c]));
    let weighting = random(compute(a.clone(), b.clone(), c.clone()).dims());
    let gradients = || {
        let (a, b, c) = (
            a.clone().autodiff().require_grad(),
            b.clone().autodiff().require_grad(),
            c.clone().autodiff().require_grad(),
        );
        let y = compute(a.clone(), b.clone(), c.clone());
        let grads = (y * weighting.clone().autodiff()).sum().backward();
        [
            a.grad(&grads).map(Tensor::into_data),
            b.grad(&grads).map(Tensor::into_data),
            c.grad(&grads).map(Tensor::into_data),
        ]
    };
    let pool = ThreadPoolBuilder::new().num_threads(8).build();
    pool.expect("threads").install(|| {
        let first = gradients();
        assert!(first.iter().all(Option::is_some));
        for _ in 0..50 {
            let again = gradients();
            for (which, (again, first)) in again.iter().zip(&first).enumerate() {
                assert!(again == first, "gradient of input {which} differs");
            }
        }
    });
}

#[test]
fn linear() {
    same_bits(([2000, 64, 8], [8, 8], 8), |x, weight, bias| {
        kernels::linear(x, weight, Some(bias))
    });
}

#[test]
fn norms() {
    same_bits(([25000, 64], [64], 64), |x, gamma, beta| {
        kernels::layer_norm(x, gamma, beta, 1e-6)
    });
    same_bits(([25000, 64], [64], 64), |x, gamma, beta| {
        kernels::rms_norm(x, gamma, 1e-6) + beta.unsqueeze()
    });
    same_bits(([50, 32, 16, 16], [32], 32), |x, gamma, beta| {
        kernels::group_norm_silu(x, gamma, beta, 8, 1e-6)
    });
}

#[test]
fn conv2d() {
    same_bits(([64, 4, 64, 64], [4, 4, 3, 3], 4), kernels::conv2d);
}
