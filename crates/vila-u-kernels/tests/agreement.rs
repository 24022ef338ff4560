//! Every kernel against the same function composed of Burn operations: values and gradients.
//!
//! One file, as all kernels are compared by the same three functions.

mod every_instruction_set;

use burn::tensor::{Bool, Device, Distribution, Int, Tensor, activation, module, ops::ConvOptions};
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
    let [.., side] = w.dims();
    module::conv2d(
        x,
        w,
        Some(b),
        ConvOptions::new([1, 1], [side / 2; 2], [1, 1], 1),
    )
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
        // Enough tiles for Winograd's way, with whole tiles and with parts of them.
        [8, 32, 24, 16, 20],
        [4, 16, 40, 33, 21],
    ] {
        for side in [1, 3] {
            agree(
                &format!("{n}x{i}->{o} {h}x{w}, {side}"),
                ([n, i, h, w], [o, i, side, side], [o]),
                kernels::conv2d,
                plain_conv2d,
            );
        }
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
    for length in [19, 37, 40_000] {
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

#[test]
fn linear() {
    for [rows, inputs, outputs] in [
        [2, 3, 5],
        [16, 1, 8],
        [17, 192, 192],
        [64, 50, 100],
        [300, 900, 33],
        // Few rows, which take tiles of their own: vectors in eights, threes and ones, and what is left.
        [1, 150, 5000],
        [3, 65, 1700],
        [15, 64, 390],
    ] {
        let name = format!("{rows}x{inputs}->{outputs}");
        let shapes = ([2, rows, inputs], [inputs, outputs], [outputs]);
        agree(
            &name,
            shapes,
            |x, w, b| kernels::linear(x, w, Some(b)),
            |x, w, b| module::linear(x, w, Some(b)),
        );
        agree(
            &name,
            shapes,
            |x, w, _: Tensor<1>| kernels::linear(x, w, None),
            |x, w, _| module::linear(x, w, None),
        );
    }
}

/// Packed weights are kept, but not those of before.
#[test]
fn a_weight_may_change_in_place() {
    let device = Device::flex();
    let (x, mut w) = (random([40, 70], &device), random([70, 90], &device));
    for _ in 0..4 {
        let want = module::linear(x.clone(), w.clone(), None);
        assert!(difference(kernels::linear(x.clone(), w.clone(), None), want) < 1e-5);
        w = w * 1.5;
    }
    let table = random([90, 70], &device);
    for _ in 0..2 {
        let want = module::linear(x.clone(), table.clone().transpose(), None);
        let got = kernels::linear(x.clone(), table.clone().transpose(), None);
        assert!(difference(got, want) < 1e-5);
    }
}

/// Softmax of all scores at once.
fn plain_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
) -> Tensor<4> {
    let [batch, heads, queries, width] = q.dims();
    let [_, kv_heads, keys, _] = k.dims();
    let spread = |x: Tensor<4>| {
        x.unsqueeze_dim::<5>(2)
            .repeat_dim(2, heads / kv_heads)
            .reshape([batch, heads, keys, width])
    };
    let scores = q.matmul(spread(k).transpose()) * 0.2;
    let scores = match mask {
        Some(mask) => scores.mask_fill(mask.expand([batch, heads, queries, keys]), -1e30),
        None => scores,
    };
    activation::softmax(scores, 3).matmul(spread(v))
}

#[test]
fn attention() {
    let device = Device::flex();
    for [batch, heads, kv_heads, queries, keys, width] in [
        [2, 3, 3, 64, 64, 64],
        [130, 4, 2, 4, 4, 64],
        [3, 1, 1, 16, 5, 9],
        [1, 4, 2, 5, 9, 7],
        [3, 2, 1, 100, 100, 32],
        [2, 1, 1, 4, 4, 64],
        [1, 2, 2, 70, 401, 48],
    ] {
        let shapes = (
            [batch, heads, queries, width],
            [batch, kv_heads, keys, width],
            [batch, kv_heads, keys, width],
        );
        let some = |shape: [usize; 4]| random(shape, &device).greater_scalar(0.5);
        let masks = [
            None,
            Some(Tensor::<4, Bool>::tril_mask(
                [1, 1, queries, keys],
                0,
                &device,
            )),
            Some(some([batch, 1, queries, keys])),
            Some(some([1, heads, 1, keys])),
        ];
        for (index, mask) in masks.into_iter().enumerate() {
            agree(
                &format!("{shapes:?} mask {index}"),
                shapes,
                |q, k, v| kernels::attention(q, k, v, mask.clone(), 0.2),
                |q, k, v| plain_attention(q, k, v, mask.clone()),
            );
        }
    }
}

#[test]
fn a_query_that_sees_nothing_gets_the_mean() {
    let device = Device::flex();
    let [q, k, v] = [8, 16, 16].map(|rows| random([1, 1, rows, 4], &device));
    let nothing = Tensor::<4, Bool>::full([1, 1, 8, 16], true, &device);
    let got = kernels::attention(q, k, v.clone(), Some(nothing), 0.5);
    assert!(difference(got.narrow(2, 3, 1), v.mean_dim(2)) < 1e-5);
}

#[test]
fn cross_entropy() {
    let device = Device::flex();
    for [rows, classes] in [[9, 3], [40, 1024], [17, 37]] {
        let targets: Vec<i32> = (0..rows).map(|row| ((row * 31) % classes) as i32).collect();
        let targets = Tensor::<1, Int>::from_ints(targets.as_slice(), &device);
        agree(
            &format!("{rows}x{classes}"),
            ([rows, classes], [1], [1]),
            |x, _: Tensor<1>, _: Tensor<1>| kernels::cross_entropy(x * 5.0, targets.clone()),
            |x, _, _| {
                let log_p = activation::log_softmax(x * 5.0, 1);
                -log_p
                    .gather(1, targets.clone().unsqueeze_dim(1))
                    .squeeze_dim(1)
            },
        );
    }
}

#[test]
fn dropout_keeps_the_mean_and_its_mask() {
    let device = Device::flex().autodiff();
    let x = Tensor::<2>::ones([300, 400], &device).require_grad();
    let y = kernels::dropout(x.clone(), 0.1);
    let grads = y.clone().sum().backward();
    let dx = x.grad(&grads).expect("a gradient");
    assert_eq!(y.clone().inner().to_data(), dx.to_data());
    let mean = y.clone().mean().into_scalar::<f32>();
    assert!((mean - 1.0).abs() < 0.01, "mean {mean}");
    let dropped = y.equal_scalar(0.0).float().mean().into_scalar::<f32>();
    assert!((dropped - 0.1).abs() < 0.005, "dropped {dropped}");
    let [a, b] = [0, 1].map(|_| kernels::dropout(x.clone(), 0.5).inner());
    let same = a.equal(b).float().mean().into_scalar::<f32>();
    assert!((same - 0.5).abs() < 0.01, "two masks agree on {same}");
}

/// One new position over a part of a cache, read where it lies: groups of heads, and a mask.
#[test]
fn attention_over_a_cache() {
    let device = Device::flex();
    let [batch, heads, kv_heads, capacity, keys, width] = [2, 6, 3, 50, 37, 16];
    let cache = || random([batch, kv_heads, capacity, width], &device).narrow(2, 0, keys);
    let (key, value) = (cache(), cache());
    for queries in [1, 3] {
        let query = random([batch, heads, queries, width], &device);
        let numbers = Tensor::<1, Int>::arange(0..(batch * queries * keys) as i64, &device);
        let mask = numbers.remainder_scalar(5).equal_scalar(0);
        let mask = mask.reshape([batch, 1, queries, keys]);
        for mask in [None, Some(mask)] {
            let (key, value) = (key.clone(), value.clone());
            let got =
                kernels::attention(query.clone(), key.clone(), value.clone(), mask.clone(), 0.2);
            let repeat = |x: Tensor<4>| {
                let x = x.reshape([batch, kv_heads, 1, keys, width]);
                let x = x.expand([batch, kv_heads, heads / kv_heads, keys, width]);
                x.reshape([batch, heads, keys, width])
            };
            let scores = query.clone().matmul(repeat(key).transpose()) * 0.2;
            let scores = match mask {
                Some(mask) => scores.mask_fill(mask.expand([batch, heads, queries, keys]), -1e30),
                None => scores,
            };
            let want = activation::softmax(scores, 3).matmul(repeat(value));
            let off = difference(got, want);
            assert!(off < 1e-5, "{queries} queries off by {off:e}");
        }
    }
}
