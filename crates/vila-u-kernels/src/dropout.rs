//! Dropout whose mask is never stored: whether a number stays is a hash of the call's seed and the
//! number's index, computed again on the way back.

use burn::backend::{DispatchTensor, flex::FlexTensor};
use burn::tensor::{Distribution, Tensor};
use std::cell::Cell;

use crate::bridge::{self, Kernel, Outcome, tensor, values};
use crate::math::simd;
use crate::output::in_chunks;

thread_local! {
    /// Where this thread's chance stands. The CPU's own generator is one for all threads.
    static CHANCE: Cell<u64> = const { Cell::new(0) };
}

/// Seeds the chance of this thread's [`dropout`] on the CPU.
pub fn seed_dropout(seed: u64) {
    CHANCE.set(seed);
}

/// The next number of this thread's chance (SplitMix64, Steele and others 2014).
pub fn dropout_chance() -> u64 {
    let state = CHANCE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    CHANCE.set(state);
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Zeroes each number with `probability`, below 1, and scales the others so that the mean stays; of
/// any shape. Chance comes from this thread's generator on the CPU, from the device's on others.
pub fn dropout<const D: usize>(x: Tensor<D>, probability: f64) -> Tensor<D> {
    let x = x.into_dispatch();
    if bridge::is_cpu_f32(&x)
        && let Outcome::Done(y) = run(x.clone(), probability, dropout_chance() as u32)
    {
        return Tensor::from_dispatch(y);
    }
    let x = Tensor::<D>::from_dispatch(x);
    let kept = x.random_like(Distribution::Bernoulli(1.0 - probability));
    x * kept * (1.0 / (1.0 - probability))
}

fn run(x: DispatchTensor, probability: f64, seed: u32) -> Outcome<1> {
    let kernel = Dropout {
        seed,
        threshold: (probability * f64::from(u32::MAX)) as u32,
        scale: (1.0 / (1.0 - probability)) as f32,
    };
    bridge::run(kernel, [x])
}

/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;

#[derive(Clone, Debug)]
struct Dropout {
    seed: u32,
    /// Hashes below it are dropped.
    threshold: u32,
    scale: f32,
}

impl Dropout {
    fn apply(&self, x: &FlexTensor) -> FlexTensor {
        let from = values(x);
        let y = in_chunks(from.len(), CHUNK, |chunk, y| {
            let x = &from[chunk * CHUNK..];
            let seed = hash(self.seed ^ hash(chunk as u32));
            simd(
                #[inline(always)]
                || {
                    for (index, (y, x)) in (0u32..).zip(y.iter_mut().zip(x)) {
                        let kept = hash(seed.wrapping_add(index)) >= self.threshold;
                        *y = if kept { x * self.scale } else { 0.0 };
                    }
                },
            );
        });
        tensor(y, x.layout().shape().clone())
    }
}

/// A bijection of 32 bits in which every bit depends on all others (Wellons' `lowbias32`).
#[inline(always)]
fn hash(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

impl Kernel<1> for Dropout {
    type Saved = ();

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, ()) {
        (self.apply(&x), ())
    }

    fn backward(&self, (): (), grad: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(self.apply(&grad))]
    }
}
