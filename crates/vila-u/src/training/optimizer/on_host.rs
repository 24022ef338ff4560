//! The optimizer's arithmetic in the memory of the host.
//!
//! Written as tensor operations an update is a dozen passes and as many temporaries. Here it is one pass over each list,
//! on all threads.

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::adamw::{Rates, Step};
use super::gradients::Grouped;
use super::place::Norms;
use super::shards::Shards;
use crate::Result;
use crate::device::{read_floats, write_floats};
use crate::training::distributed::CHUNK;

/// Scales the gradients of each group so that their 2-norm is at most `max_norm`; with the norms before.
pub(super) fn clip(
    gradients: Vec<Grouped<Tensor<1>>>,
    shards: &Shards,
    max_norm: f64,
) -> Result<(Vec<Grouped<Tensor<1>>>, Norms)> {
    let lists = gradients.into_iter().map(|one| one.try_map(read_floats));
    let mut lists = lists.collect::<Result<Vec<Grouped<Vec<f32>>>>>()?;
    let ids: Vec<_> = lists.iter().map(|one| one.id).collect();
    let own: Vec<&[f32]> = (lists.iter())
        .flat_map(|one| shards.own(one.id, &one.gradient))
        .collect();
    let own = own.into_par_iter().map(sum_of_squares).collect();
    let mut squares = [0.0; 2];
    for (one, sum) in lists.iter().zip(shards.all_sums(&ids, own)?) {
        squares[one.group] += sum;
    }
    let norms = squares.map(f64::sqrt);
    for one in &mut lists {
        let norm = norms[one.group];
        if norm > max_norm {
            let scale = (max_norm / norm) as f32;
            let chunks = shards.own_mut(one.id, &mut one.gradient).into_par_iter();
            chunks.for_each(|chunk| chunk.iter_mut().for_each(|value| *value *= scale));
        }
    }
    let tensor = |list| Ok(write_floats(list, &Device::flex()));
    let clipped = lists.into_iter().map(|one| one.try_map(tensor));
    Ok((clipped.collect::<Result<_>>()?, Norms::Host(norms)))
}

fn sum_of_squares(chunk: &[f32]) -> f64 {
    let squares = chunk
        .iter()
        .map(|value| f64::from(*value) * f64::from(*value));
    squares.sum()
}

/// The parameter after the step, and its moments.
pub(super) fn update(
    step: Step,
    rates: &Rates,
    shards: &Shards,
) -> Result<(Tensor<1>, Option<[Tensor<1>; 2]>)> {
    let mut values = read_floats(step.value)?;
    let gradient = read_floats(step.gradient)?;
    let own = shards.own_mut(step.id, &mut values);
    let [mut first, mut second] = match step.moments {
        Some([first, second]) => [read_floats(first)?, read_floats(second)?],
        None => {
            let count = own.iter().map(|chunk| chunk.len()).sum();
            [vec![0.0; count], vec![0.0; count]]
        }
    };
    (
        own,
        shards.own(step.id, &gradient),
        first.par_chunks_mut(CHUNK),
        second.par_chunks_mut(CHUNK),
    )
        .into_par_iter()
        .for_each(|(values, gradient, first, second)| {
            update_chunk(values, gradient, first, second, rates);
        });
    shards.gather(step.id, &mut values)?;
    let tensor = |list| write_floats(list, &Device::flex());
    let keeps_some = !first.is_empty();
    let moments = keeps_some.then(|| [first, second].map(tensor));
    Ok((tensor(values), moments))
}

fn update_chunk(
    values: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    rates: &Rates,
) {
    let Rates {
        beta1,
        beta2,
        rate,
        correction,
        keep,
        epsilon,
    } = *rates;
    let moments = first.iter_mut().zip(second);
    for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(moments) {
        *first = beta1 * *first + (1.0 - beta1) * gradient;
        *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
        let scale = (*second * correction).sqrt() + epsilon;
        *value = keep * *value - rate * *first / scale;
    }
}
