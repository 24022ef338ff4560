//! Tensors in order: what was transposed, copied by all threads.

use burn::backend::{DispatchTensor, flex::FlexTensor};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::bridge::{self, Kernel, Outcome};
use crate::output::written;

/// Shorter runs of numbers that lie together are left to Burn, which goes through them in squares.
const SHORTEST_RUN: usize = 16;
/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;

/// The same tensor, with its numbers in the order of its dimensions: before a reshape, which would copy on one thread.
pub fn contiguous<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match run(x.into_dispatch()) {
        Outcome::Done(y) => Tensor::from_dispatch(y),
        Outcome::Unsupported([x]) => Tensor::from_dispatch(x),
    }
}

fn run(x: DispatchTensor) -> Outcome<1> {
    bridge::run(Contiguous, [x])
}

/// Nothing: what a kernel is given is contiguous.
#[derive(Clone, Debug)]
struct Contiguous;

impl Kernel<1> for Contiguous {
    type Saved = ();

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, ()) {
        (x, ())
    }

    fn backward(&self, (): (), grad: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(grad)]
    }
}

/// A tensor of the CPU, in order.
pub(crate) fn in_order(tensor: &FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let runs = layout.strided_blocks();
    let run = runs.block_len();
    let count = layout.num_elements();
    if tensor.is_contiguous()
        || tensor.dtype() != DType::F32
        || !layout.has_positive_strides()
        || run < SHORTEST_RUN
        || count < 2 * CHUNK
    {
        return tensor.to_contiguous();
    }
    let from: &[f32] = tensor.storage();
    let starts: Vec<usize> = runs.block_starts().collect();
    let together = CHUNK.div_ceil(run);
    // SAFETY: there is a start for every run of the output.
    let numbers = unsafe {
        written(count, |to| {
            let chunks = to.par_chunks_mut(together * run);
            chunks
                .zip(starts.par_chunks(together))
                .for_each(|(to, starts)| {
                    for (to, start) in to.chunks_exact_mut(run).zip(starts) {
                        to.write_copy_of_slice(&from[*start..][..run]);
                    }
                });
        })
    };
    bridge::tensor(numbers, layout.shape().clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, Distribution, Tensor};

    use super::contiguous;

    #[test]
    fn numbers_and_gradients_are_those_of_burn() {
        let device = Device::flex().autodiff();
        for [batch, positions, heads, width] in [[1, 3, 2, 4], [2, 300, 4, 32], [3, 50, 64, 16]] {
            let shape = [batch, positions + 1, heads, width];
            let x = Tensor::<4>::random(shape, Distribution::Default, &device).require_grad();
            let part = || x.clone().narrow(1, 1, positions).swap_dims(1, 2);
            assert_eq!(contiguous(part()).into_data(), part().into_data());
            let weight = part().random_like(Distribution::Default);
            let gradient = |y: Tensor<4>| {
                let grads = (y * weight.clone()).sum().backward();
                x.grad(&grads).unwrap().into_data()
            };
            assert_eq!(gradient(contiguous(part())), gradient(part()));
        }
    }
}
