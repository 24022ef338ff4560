//! How exactly products are computed, and on which instructions.
//!
//! Factors are `f32`. In mixed precision they are rounded to bfloat16 on their way into a product,
//! two neighbours along the summed dimension sharing the 32 bits of a lane; sums stay `f32`. CPUs with
//! AVX512-BF16 multiply twice as many of them at a time, and a GPU's tensor cores many times as many.

use burn::tensor::{DType, Device, Tensor};
use pulp::{Simd, WithSimd};
use std::cell::Cell;

use crate::instruction_set::arch;
#[cfg(target_arch = "x86_64")]
use crate::instruction_set::{InstructionSet, allows};

thread_local! {
    /// Whether factors are bfloat16, where a caller has asked for one or the other.
    static MIXED: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Does something with the factors of large products (convolutions, linear layers, attention) rounded
/// to bfloat16, on a GPU and where the CPU is faster that way; elsewhere nothing changes. Sums are `f32`, as is all
/// between the products; a GPU rounds their results to bfloat16 too. Made for training: the
/// rounding is that of training in bfloat16 on any device.
pub fn mixed_precision<R>(work: impl FnOnce() -> R) -> R {
    with(true, work)
}

/// Does something with weights of this dtype: in [`mixed_precision`] if that is bfloat16, as a GPU would, unless a caller
/// has asked for one of the two precisions already.
pub fn precision_of<R>(weights: DType, work: impl FnOnce() -> R) -> R {
    if weights == DType::BF16 && MIXED.get().is_none() {
        mixed_precision(work)
    } else {
        work()
    }
}

/// Does something in full precision, even inside [`mixed_precision`].
pub fn full_precision<R>(work: impl FnOnce() -> R) -> R {
    with(false, work)
}

/// Holds for operations started on this thread, on whichever threads they are computed.
fn with<R>(mixed: bool, work: impl FnOnce() -> R) -> R {
    struct Restore(Option<bool>);
    impl Drop for Restore {
        fn drop(&mut self) {
            MIXED.set(self.0);
        }
    }
    let _restore = Restore(MIXED.replace(Some(mixed)));
    work()
}

/// Are factors to be paired in bfloat16? To be asked where an operation starts.
pub(crate) fn paired() -> bool {
    paired_with(DType::F32)
}

/// The same for a product with a weight of this dtype.
pub(crate) fn paired_with(weight: DType) -> bool {
    MIXED.get().unwrap_or(weight == DType::BF16) && has_bf16()
}

/// What the factors of a product are to be that Burn's operations compute: on a GPU bfloat16 in [`mixed_precision`],
/// otherwise what `x` is.
pub(crate) fn composed_factors<const D: usize>(x: &Tensor<D>) -> DType {
    let is_gpu = || x.device().inner() != Device::flex();
    match (MIXED.get(), x.dtype()) {
        (Some(true), DType::F32) if is_gpu() => DType::BF16,
        (_, dtype) => dtype,
    }
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    allows(InstructionSet::Avx512) && std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16() -> bool {
    false
}

/// Are products of pairs computed on a tile unit?
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_tiles() -> bool {
    crate::amx::available()
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn has_tiles() -> bool {
    false
}

/// `c + a b` lane by lane.
pub(crate) trait MulAdd<S: Simd>: Copy {
    fn mul_add(self, simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s;
}

/// Lanes are `f32`.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl<S: Simd> MulAdd<S> for Single {
    #[inline(always)]
    fn mul_add(self, simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, c)
    }
}

/// A loop to run with the machine's widest vectors. What it calls must be `#[inline(always)]`.
pub(crate) trait VectorLoop {
    fn run<S: Simd, M: MulAdd<S>>(self, simd: S, multiply: M);
}

/// Runs a loop over numbers, or over pairs of them; pairs only where [`paired`] allows them.
pub(crate) fn dispatch<W: VectorLoop>(work: W, pairs: bool) {
    #[cfg(target_arch = "x86_64")]
    if pairs
        && has_bf16()
        && let Some(simd) = pulp::x86::V4::try_new()
    {
        // SAFETY: the CPU has every feature that `bf16::run` is compiled for, as just detected.
        return unsafe { bf16::run(work, simd) };
    }
    debug_assert!(!pairs, "pairs need AVX512-BF16");
    arch().dispatch(Numbers(work));
}

struct Numbers<W>(W);

impl<W: VectorLoop> WithSimd for Numbers<W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(simd, Single);
    }
}

#[cfg(target_arch = "x86_64")]
mod bf16 {
    use super::{MulAdd, VectorLoop};
    use pulp::{f32x16, x86::V4};
    use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};

    /// Lanes are pairs of bfloat16: `c + a0 b0 + a1 b1`.
    #[derive(Clone, Copy)]
    struct Paired;

    impl MulAdd<V4> for Paired {
        #[inline(always)]
        fn mul_add(self, _: V4, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
            // SAFETY: only `run` makes a `Paired`, and its caller has detected the instruction. All
            // types are 64 bytes of plain bits.
            unsafe {
                let c: __m512 = std::mem::transmute(c);
                let [a, b]: [__m512bh; 2] = std::mem::transmute([a, b]);
                std::mem::transmute(_mm512_dpbf16_ps(c, a, b))
            }
        }
    }

    /// # Safety
    /// The CPU has the features named here.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,fma,bmi2")]
    pub(super) unsafe fn run<W: VectorLoop>(work: W, simd: V4) {
        work.run(simd, Paired);
    }
}

/// Two numbers as bfloat16, rounded to nearest even, in the bits of one; the first in the low half.
#[inline(always)]
pub(crate) fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits((round(low) >> 16) | (round(high) & 0xffff_0000))
}

/// A number whose upper 16 bits are its nearest bfloat16.
#[inline(always)]
pub(crate) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1))
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::tensor::Distribution;

    use super::*;

    /// That a function of inputs of these `shapes`, which it gets as lists, is as good with bfloat16 factors as their
    /// rounding to 8 bits allows (2^-9 of each factor and of each result at most, by chance in either direction), and so
    /// are its gradients; and that all of them are `f32`.
    pub(crate) fn assert_rounded(
        shapes: [&[usize]; 3],
        function: impl Fn([Tensor<1>; 3], DType) -> Tensor<1>,
    ) {
        let device = Device::flex().autodiff();
        let inputs = shapes.map(|shape| {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<1>::random([shape.iter().product::<usize>()], normal, &device).require_grad()
        });
        let run = |factors| {
            let y = function(inputs.clone(), factors);
            let weighting = Tensor::<1, burn::tensor::Int>::arange(0..y.dims()[0] as i64, &device);
            let gradients = (y.clone() * weighting.float().sin()).sum().backward();
            let gradients = inputs.each_ref().map(|input| input.grad(&gradients));
            (
                y.inner(),
                gradients.map(|gradient| gradient.expect("a gradient")),
            )
        };
        let off = |got: Tensor<1>, want: Tensor<1>| {
            assert_eq!(got.dtype(), DType::F32);
            let size = |list: Tensor<1>| list.square().mean().sqrt().into_scalar::<f32>();
            size(got - want.clone()) / size(want)
        };
        let ((y, gradients), (want, of_want)) = (run(DType::BF16), run(DType::F32));
        let [first, second, third] = gradients;
        let [of_first, of_second, of_third] = of_want;
        let off = [
            off(y, want),
            off(first, of_first),
            off(second, of_second),
            off(third, of_third),
        ];
        assert!(off.iter().all(|off| *off < 1e-2), "off by {off:?}");
        assert!(off[0] > 1e-4, "nothing was rounded: {off:?}");
    }
}
