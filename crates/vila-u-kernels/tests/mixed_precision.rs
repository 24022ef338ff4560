//! Mixed precision rounds like bfloat16, ends where it ends, and leaves out what is to be exact.

mod every_instruction_set;

use burn::tensor::{Device, Distribution, Tensor};
use vila_u_kernels::{attention, conv2d, full_precision, linear, mixed_precision};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// The root mean square difference, relative to the numbers'.
fn difference<const D: usize>(got: Tensor<D>, want: Tensor<D>) -> f32 {
    let scale = want.clone().square().mean().sqrt().into_scalar::<f32>();
    (got - want).square().mean().sqrt().into_scalar::<f32>() / scale
}

#[test]
fn products_are_close_and_exact_ones_exact() {
    // Odd sizes: pairs do not come out even.
    let (x, w, b) = (random([33, 401]), random([401, 53]), random([53]));
    let product = || linear(x.clone(), w.clone(), Some(b.clone()));
    let images = random([3, 5, 9, 7]).autodiff().require_grad();
    let kernel = random([6, 5, 3, 3]).autodiff().require_grad();
    let bias = random([6]).autodiff();
    let weighting = random([3, 6, 9, 7]);
    let gradients = || {
        let y = conv2d(images.clone(), kernel.clone(), bias.clone()) * weighting.clone();
        let grads = y.clone().sum().backward();
        let dx = images.grad(&grads).expect("a gradient");
        let dw = kernel.grad(&grads).expect("a gradient");
        (y.inner(), dx, dw)
    };
    let (query, key, value) = (
        random([2, 3, 40, 33]),
        random([2, 3, 50, 33]),
        random([2, 3, 50, 33]),
    );
    let attend = || attention(query.clone(), key.clone(), value.clone(), None, 0.2);
    let (want, attended) = (product(), attend());
    let (y, dx, dw) = gradients();

    mixed_precision(|| {
        let got = gradients();
        let off = [
            difference(product(), want.clone()),
            difference(attend(), attended.clone()),
            difference(got.0, y),
            difference(got.1, dx),
            difference(got.2, dw),
        ];
        assert!(off.iter().all(|off| *off < 5e-3), "off by {off:?}");
        assert_eq!(full_precision(product).to_data(), want.to_data());
        assert_eq!(full_precision(attend).to_data(), attended.to_data());
    });
    assert_eq!(product().to_data(), want.to_data());
    assert_eq!(attend().to_data(), attended.to_data());
}
