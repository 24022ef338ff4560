//! Half precision, as a GPU computes in it: what must be `f32` inside is.

use burn::tensor::{Bool, DType, Device, Distribution, Tensor, TensorData};
use vila_u_kernels as kernels;

/// Numbers whose squares are more than an `f16` holds.
fn large<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1000.0), &Device::flex())
}

fn ones(count: usize) -> Tensor<1> {
    Tensor::ones([count], &Device::flex())
}

fn half<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(DType::F16)
}

fn assert_near<const D: usize>(name: &str, got: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(got.dtype(), DType::F16, "{name}");
    let worst = (got.cast(DType::F32) - expected).abs().max();
    let worst = worst.into_scalar::<f32>();
    assert!(worst < 0.02, "{name}: off by {worst}");
}

#[test]
fn norms() {
    let x = large([2, 3, 64]);
    let (gamma, beta) = (ones(64), ones(64));
    assert_near(
        "layer_norm",
        kernels::layer_norm(
            half(x.clone()),
            half(gamma.clone()),
            half(beta.clone()),
            1e-6,
        ),
        kernels::layer_norm(x.clone(), gamma.clone(), beta, 1e-6),
    );
    assert_near(
        "rms_norm",
        kernels::rms_norm(half(x.clone()), half(gamma.clone()), 1e-6),
        kernels::rms_norm(x, gamma, 1e-6),
    );
    let x = large([2, 8, 4, 4]);
    let (gamma, beta) = (ones(8), ones(8));
    assert_near(
        "group_norm_silu",
        kernels::group_norm_silu(
            half(x.clone()),
            half(gamma.clone()),
            half(beta.clone()),
            2,
            1e-6,
        ),
        kernels::group_norm_silu(x, gamma, beta, 2, 1e-6),
    );
}

/// Also where a query may look nowhere.
#[test]
fn attention() {
    let random = |shape: [usize; 4]| {
        Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
    };
    let (query, key, value) = (
        random([1, 2, 2, 8]),
        random([1, 2, 3, 8]),
        random([1, 2, 3, 8]),
    );
    let mask = TensorData::new(vec![true, true, true, false, false, true], [1, 1, 2, 3]);
    let mask = Tensor::<4, Bool>::from_data(mask, &Device::flex());
    let attend = |q, k, v| kernels::attention(q, k, v, Some(mask.clone()), 0.3);
    assert_near(
        "attention",
        attend(half(query.clone()), half(key.clone()), half(value.clone())),
        attend(query, key, value),
    );
}

#[test]
fn nearest_rows() {
    let rows = large([9, 16]);
    let vectors = half(rows.clone().narrow(0, 0, 8)).cast(DType::F32) + 1.0;
    let got = kernels::nearest(half(vectors), half(rows), 9);
    let got: Vec<i64> = got.into_data().iter().collect();
    assert_eq!(got, (0..8).collect::<Vec<_>>());
}
