//! Pointwise nonlinearities: one pass forward, one pass backward, nothing kept but the input.

use burn::backend::{DispatchTensor, flex::FlexTensor};
use burn::tensor::{Tensor, activation};
use rayon::prelude::*;
use std::{fmt::Debug, marker::PhantomData};

use crate::bridge::{self, Kernel, Outcome, tensor, values};
use crate::math::{erf, exp, sigmoid, simd};
use crate::output::in_chunks;

/// `x * Phi(x)` with the tanh approximation of the normal distribution (PyTorch's
/// `gelu(approximate="tanh")`), of any shape.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match run_gelu_tanh(x.into_dispatch()) {
        Outcome::Done(y) => Tensor::from_dispatch(y),
        Outcome::Unsupported([x]) => activation::gelu_approximate(Tensor::from_dispatch(x)),
    }
}

/// `x * Phi(x)`, the exact GELU, of any shape.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match run_gelu(x.into_dispatch()) {
        Outcome::Done(y) => Tensor::from_dispatch(y),
        Outcome::Unsupported([x]) => activation::gelu(Tensor::from_dispatch(x)),
    }
}

/// `silu(gate) * up`, the gated unit of LLaMA's feed-forward layers; both of one shape.
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    if gate.dims() != up.dims() {
        return activation::silu(gate) * up;
    }
    match run_silu_mul(gate.into_dispatch(), up.into_dispatch()) {
        Outcome::Done(y) => Tensor::from_dispatch(y),
        Outcome::Unsupported([gate, up]) => {
            activation::silu(Tensor::from_dispatch(gate)) * Tensor::from_dispatch(up)
        }
    }
}

// Apart from the functions above, which are generic and so compiled wherever they are called, however
// little is optimised there.

fn run_gelu_tanh(x: DispatchTensor) -> Outcome<1> {
    bridge::run(Pointwise::<GeluTanh>(PhantomData), [x])
}

fn run_gelu(x: DispatchTensor) -> Outcome<1> {
    bridge::run(Pointwise::<Gelu>(PhantomData), [x])
}

fn run_silu_mul(gate: DispatchTensor, up: DispatchTensor) -> Outcome<2> {
    bridge::run(SiluMul, [gate, up])
}

/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;

/// A function of one number and its derivative.
trait Elementwise: Send + Sync + Debug + 'static {
    fn value(x: f32) -> f32;
    fn derivative(x: f32) -> f32;
}

#[derive(Debug)]
struct GeluTanh;

/// `sqrt(2 / pi)`, and the cubic coefficient, of GELU's tanh approximation.
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

impl Elementwise for GeluTanh {
    // (1 + tanh u) / 2 = sigmoid(2 u)
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * sigmoid(2.0 * GELU_SCALE * x * (1.0 + GELU_CUBIC * x * x))
    }

    #[inline(always)]
    fn derivative(x: f32) -> f32 {
        let s = sigmoid(2.0 * GELU_SCALE * x * (1.0 + GELU_CUBIC * x * x));
        let inner = 2.0 * GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * x * x);
        s + x * s * (1.0 - s) * inner
    }
}

#[derive(Debug)]
struct Gelu;

impl Elementwise for Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x * 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }

    #[inline(always)]
    fn derivative(x: f32) -> f32 {
        const INVERSE_SQRT_TAU: f32 = 0.398_942_3;
        0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
            + x * INVERSE_SQRT_TAU * exp(-0.5 * x * x)
    }
}

#[derive(Debug)]
struct Pointwise<F>(PhantomData<F>);

impl<F> Clone for Pointwise<F> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<F: Elementwise> Kernel<1> for Pointwise<F> {
    type Saved = FlexTensor;

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
        let from = values(&x);
        let y = in_chunks(from.len(), CHUNK, |chunk, y| {
            let x = &from[chunk * CHUNK..];
            simd(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = F::value(*x);
                    }
                },
            );
        });
        (tensor(y, x.layout().shape().clone()), x)
    }

    fn backward(&self, x: FlexTensor, grad: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let (from, grad) = (values(&x), values(&grad));
        let dx = in_chunks(from.len(), CHUNK, |chunk, dx| {
            let (x, dy) = (&from[chunk * CHUNK..], &grad[chunk * CHUNK..]);
            simd(
                #[inline(always)]
                || {
                    for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                        *dx = dy * F::derivative(*x);
                    }
                },
            );
        });
        [Some(tensor(dx, x.layout().shape().clone()))]
    }
}

#[derive(Clone, Debug)]
struct SiluMul;

impl Kernel<2> for SiluMul {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [gate, up]: [FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        let (gates, ups) = (values(&gate), values(&up));
        let y = in_chunks(gates.len(), CHUNK, |chunk, y| {
            let (gate, up) = (&gates[chunk * CHUNK..], &ups[chunk * CHUNK..]);
            simd(
                #[inline(always)]
                || {
                    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                        *y = gate * sigmoid(*gate) * up;
                    }
                },
            );
        });
        (tensor(y, gate.layout().shape().clone()), [gate, up])
    }

    fn backward(
        &self,
        [gate, up]: Self::Saved,
        grad: FlexTensor,
        _: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let shape = gate.layout().shape().clone();
        let (gate, up, dy) = (values(&gate), values(&up), values(&grad));
        let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
        dgate
            .par_chunks_mut(CHUNK)
            .zip(dup.par_chunks_mut(CHUNK))
            .enumerate()
            .for_each(|(chunk, (dgate, dup))| {
                let range = chunk * CHUNK..chunk * CHUNK + dgate.len();
                let (gate, up, dy) = (&gate[range.clone()], &up[range.clone()], &dy[range]);
                simd(
                    #[inline(always)]
                    || {
                        let inputs = gate.iter().zip(up).zip(dy);
                        for ((dgate, dup), ((gate, up), dy)) in
                            dgate.iter_mut().zip(dup.iter_mut()).zip(inputs)
                        {
                            let s = sigmoid(*gate);
                            *dup = dy * gate * s;
                            *dgate = dy * up * s * (1.0 + gate * (1.0 - s));
                        }
                    },
                );
            });
        [Some(tensor(dgate, shape.clone())), Some(tensor(dup, shape))]
    }
}
