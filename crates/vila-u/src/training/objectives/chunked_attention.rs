//! A layer's way back where attention has no kernel of its own: its scores are computed again for a few queries at a time.
//!
//! Recorded whole, attention keeps `[heads, positions, positions]` of scores. So the layer is recorded in two parts, before
//! attention and after it:
//!
//! ```text
//! q, k, v = before(x)      a = attention(q, k, v), not recorded      y = after(x, a)
//! da = gradient of sum(y * dy)
//! dq_i, dk, dv = gradients of sum(a_i * da_i), added up over the queries i
//! dx = gradient of sum(y * dy) + that of sum(q * dq) + sum(k * dk) + sum(v * dv)
//! ```

use burn::tensor::{Bool, Tensor};

use super::gradient_checkpointing::backward_from;
use crate::attention::multi_head_attention;
use crate::language::{DecoderLayer, RotaryEmbedding};
use crate::training::optimizer::Gradients;

/// The layer's gradients and that of its input, or none where nothing reaches the input.
///
/// - `input`: `[rows, length, hidden]`, tracked by autodiff
/// - `grad`: of the layer's output, of the same shape
/// - `queries`: whose scores are in memory at a time
pub(super) fn backward(
    layer: &DecoderLayer,
    input: Tensor<3>,
    rotation: &RotaryEmbedding,
    mask: &Tensor<4, Bool>,
    grad: Tensor<3>,
    queries: usize,
) -> Option<(Gradients, Tensor<3>)> {
    let mut attention = None;
    let y = layer.run(input.clone(), rotation, |query, key, value| {
        let inputs = [query, key, value];
        let [query, key, value] = inputs.clone().map(Tensor::inner);
        let output = multi_head_attention(query, key, value, Some(mask.clone()));
        let output = output.autodiff().require_grad();
        attention = Some((inputs, output.clone()));
        output
    });
    let (inputs, output) = attention?;
    let mut after = backward_from(y, grad);
    let input_grad = input.grad_remove(&mut after)?;
    let input_grads = of_attention(&inputs, output.grad_remove(&mut after)?, mask, queries)?;
    let parts = inputs.into_iter().zip(input_grads);
    let sums = parts.map(|(part, grad)| (part * grad.autodiff()).sum());
    let mut before = sums.reduce(|sum, part| sum + part)?.backward();
    let input_grad = input_grad + input.grad_remove(&mut before)?;
    let mut gradients = Gradients::of(layer, after);
    gradients.add(Gradients::of(layer, before));
    Some((gradients, input_grad))
}

/// The gradients of queries, keys and values from that of what attention makes of them.
fn of_attention(
    inputs: &[Tensor<4>; 3],
    grad: Tensor<3>,
    mask: &Tensor<4, Bool>,
    queries: usize,
) -> Option<[Tensor<4>; 3]> {
    let [query, key, value] = inputs.clone().map(Tensor::inner);
    let positions = query.dims()[2];
    let mut query_grads = Vec::new();
    let [mut key_grad, mut value_grad] = [key.zeros_like(), value.zeros_like()];
    for first in (0..positions).step_by(queries) {
        let count = queries.min(positions - first);
        let query = query.clone().narrow(2, first, count);
        let [query, key, value] =
            [query, key.clone(), value.clone()].map(|part| part.autodiff().require_grad());
        let mask = mask.clone().narrow(2, first, count);
        let output = multi_head_attention(query.clone(), key.clone(), value.clone(), Some(mask));
        let mut grads = backward_from(output, grad.clone().narrow(1, first, count));
        query_grads.push(query.grad_remove(&mut grads)?);
        key_grad = key_grad + key.grad_remove(&mut grads)?;
        value_grad = value_grad + value.grad_remove(&mut grads)?;
    }
    Some([Tensor::cat(query_grads, 2), key_grad, value_grad])
}
