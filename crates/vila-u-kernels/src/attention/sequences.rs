//! Attention of new positions of several sequences, each over a cache of its own.

use burn::tensor::{Bool, Tensor};

use super::{attention, cached};
use crate::{bridge, contiguous};

/// Causal attention of the new positions of several sequences that are computed together, whatever their lengths: no
/// padding, and none sees another.
///
/// - `query`: `[1, heads, positions, head_dim]`, the new positions of one sequence after those of the other
/// - `sequences`: of each, how many of the positions are its own, and its keys and values
///   `[1, kv_heads, keys, head_dim]`, of which the new ones are the last
///
/// Returns `[1, positions, heads * head_dim]`.
pub fn attention_of_sequences(
    query: Tensor<4>,
    sequences: &[(usize, [Tensor<4>; 2])],
    scale: f64,
) -> Tensor<3> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut rest = sequences;
    while let Some((count, cached)) = rest.first() {
        // Those that read one position each go together.
        let single = rest.iter().take_while(|(count, _)| *count == 1).count();
        let positions = if single > 0 { single } else { *count };
        let query = query.clone().narrow(2, start, positions);
        let together = (single > 0).then(|| each(&query, &rest[..single], scale));
        let (part, done) = match together.flatten() {
            Some(part) => (part, single),
            None if single > 0 => {
                let query = query.narrow(2, 0, 1);
                (one(query, cached.clone(), scale), 1)
            }
            None => (one(query, cached.clone(), scale), 1),
        };
        start += part.dims()[1];
        rest = &rest[done..];
        parts.push(part);
    }
    if parts.len() == 1 {
        parts.swap_remove(0)
    } else {
        Tensor::cat(parts, 1)
    }
}

/// One position of each sequence, if they are `f32` on the CPU.
fn each(query: &Tensor<4>, sequences: &[(usize, [Tensor<4>; 2])], scale: f64) -> Option<Tensor<3>> {
    let readable = |tensor: &Tensor<4>| {
        bridge::untracked(&tensor.clone().into_dispatch()).filter(cached::is_readable)
    };
    let query = readable(query)?;
    let cached: Option<Vec<_>> = sequences
        .iter()
        .map(|(_, [key, value])| Some([readable(key)?, readable(value)?]))
        .collect();
    let output = cached::attend_each(&query, &cached?, scale as f32);
    Some(Tensor::from_dispatch(bridge::dispatch(output)))
}

/// The new positions of one sequence.
fn one(query: Tensor<4>, [key, value]: [Tensor<4>; 2], scale: f64) -> Tensor<3> {
    let [_, heads, count, head_dim] = query.dims();
    let [_, _, keys, _] = key.dims();
    let mask = (count > 1).then(|| {
        let device = query.device();
        Tensor::<4, Bool>::tril_mask([1, 1, count, keys], (keys - count) as i64, &device)
    });
    contiguous(attention(query, key, value, mask, scale).swap_dims(1, 2)).reshape([
        1,
        count,
        heads * head_dim,
    ])
}
