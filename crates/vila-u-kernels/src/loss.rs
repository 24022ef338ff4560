//! Cross entropy: `-log softmax(logits)[target]` per row, with `d logits = softmax - one-hot`.

use burn::backend::{BackendTensor, DispatchTensorKind, flex::FlexTensor};
use burn::tensor::{DType, Int, Tensor, activation::log_softmax};
use rayon::prelude::*;
use std::sync::Arc;

use crate::bridge::{self, Kernel, Outcome, dims, tensor, values};
use crate::math::{simd, softmax};

/// `-log p` of each target, in `f32`.
///
/// - `logits`: `[rows, classes]`
/// - `targets`: `[rows]`, each below `classes`
///
/// Returns `[rows]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let logits = logits.cast(DType::F32);
    let [_, classes] = logits.dims();
    let Some(known) = cpu_indices(targets.clone(), classes) else {
        return fallback(logits, targets);
    };
    let kernel = CrossEntropy {
        targets: known.into(),
    };
    match bridge::run(kernel, [logits.into_dispatch()]) {
        Outcome::Done(loss) => Tensor::from_dispatch(loss),
        Outcome::Unsupported([logits]) => fallback(Tensor::from_dispatch(logits), targets),
    }
}

/// Cross entropy out of Burn's operations.
fn fallback(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    -log_softmax(logits, 1)
        .gather(1, targets.unsqueeze_dim(1))
        .squeeze_dim::<1>(1)
}

/// The indices, if they are on the CPU and all below `limit`.
fn cpu_indices(indices: Tensor<1, Int>, limit: usize) -> Option<Vec<u32>> {
    let DispatchTensorKind::Flex(BackendTensor::Int(indices)) = indices.into_dispatch().kind else {
        return None;
    };
    let indices = indices.to_contiguous();
    let index = |index: i64| u32::try_from(index).ok().filter(|i| (*i as usize) < limit);
    match indices.dtype() {
        DType::I64 => (indices.as_slice::<i64>()?.iter())
            .map(|i| index(*i))
            .collect(),
        DType::I32 => (indices.as_slice::<i32>()?.iter())
            .map(|i| index(i64::from(*i)))
            .collect(),
        _ => None,
    }
}

/// Rows per parallel task.
const ROWS: usize = 16;

#[derive(Clone, Debug)]
struct CrossEntropy {
    targets: Arc<[u32]>,
}

impl Kernel<1> for CrossEntropy {
    /// The probabilities.
    type Saved = FlexTensor;

    fn forward(&self, [logits]: [FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
        let [rows, classes] = dims(&logits);
        let logits = values(&logits);
        let mut probabilities = vec![0.0; rows * classes];
        let mut loss = vec![0.0; rows];
        probabilities
            .par_chunks_mut(ROWS * classes)
            .zip(loss.par_chunks_mut(ROWS))
            .zip(logits.par_chunks(ROWS * classes))
            .zip(self.targets.par_chunks(ROWS))
            .for_each(|(((probabilities, loss), logits), targets)| {
                simd(
                    #[inline(always)]
                    || {
                        let rows = probabilities.chunks_exact_mut(classes);
                        let rows = rows.zip(logits.chunks_exact(classes));
                        for ((p, logits), (loss, target)) in rows.zip(loss.iter_mut().zip(targets))
                        {
                            p.copy_from_slice(logits);
                            let [largest, inverse] = softmax(p);
                            *loss = (largest - logits[*target as usize]) - inverse.ln();
                        }
                    },
                );
            });
        (tensor(loss, [rows]), tensor(probabilities, [rows, classes]))
    }

    fn backward(
        &self,
        probabilities: FlexTensor,
        grad: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let shape @ [rows, classes] = dims(&probabilities);
        let mut dlogits = vec![0.0; rows * classes];
        dlogits
            .par_chunks_mut(classes)
            .zip(values(&probabilities).par_chunks(classes))
            .zip(values(&grad))
            .zip(self.targets.par_iter())
            .with_min_len(ROWS)
            .for_each(|(((dlogits, p), grad), target)| {
                for (dlogit, p) in dlogits.iter_mut().zip(p) {
                    *dlogit = p * grad;
                }
                dlogits[*target as usize] -= grad;
            });
        [Some(tensor(dlogits, shape))]
    }
}
