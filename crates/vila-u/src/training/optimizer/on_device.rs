//! The optimizer's arithmetic where the tensors are, as Burn's operations, which a GPU fuses. The host waits for none of
//! it: what it has to know it reads once a step.

use burn::tensor::Tensor;

use super::adamw::{Rates, Step};
use super::gradients::Grouped;
use super::place::Norms;
use super::shards::Shards;
use crate::Result;
use crate::device::{read_floats, write_floats};

/// Scales the gradients of each group so that their 2-norm is at most `max_norm`; with the norms before.
pub(super) fn clip(
    gradients: Vec<Grouped<Tensor<1>>>,
    shards: &Shards,
    max_norm: f64,
) -> Result<(Vec<Grouped<Tensor<1>>>, Norms)> {
    let Some(device) = gradients.first().map(|one| one.gradient.device()) else {
        return Ok((gradients, Norms::Host([0.0; 2])));
    };
    let squares = [0, 1].map(|group| {
        let of_group = gradients.iter().filter(|one| one.group == group);
        let own = of_group.filter_map(|one| shards.own_tensor(one.id, one.gradient.clone()));
        let sums: Vec<Tensor<1>> = own.map(|own| own.square().sum()).collect();
        if sums.is_empty() {
            Tensor::zeros([1], &device)
        } else {
            Tensor::cat(sums, 0).sum()
        }
    });
    let norms = sum_over_ranks(Tensor::cat(squares.to_vec(), 0), shards)?.sqrt();
    // Where the norm is 0, too, the scale is 1.
    let scales = (norms.clone().recip() * max_norm).clamp_max(1.0);
    let clipped = gradients.into_iter().map(|one| Grouped {
        gradient: one.gradient * scales.clone().narrow(0, one.group, 1),
        ..one
    });
    Ok((clipped.collect(), Norms::Device(Box::new(norms))))
}

/// The sums of the numbers of all ranks, which exchange lists of the host.
fn sum_over_ranks(numbers: Tensor<1>, shards: &Shards) -> Result<Tensor<1>> {
    let group = shards.group();
    if group.world_size() == 1 {
        return Ok(numbers);
    }
    let device = numbers.device();
    // As bits: text would round them.
    let own = read_floats(numbers)?.into_iter().map(f32::to_bits);
    let all = group.all_gather(own.collect::<Vec<_>>())?;
    let mut sums = [0.0; 2];
    for numbers in all {
        for (sum, bits) in sums.iter_mut().zip(numbers) {
            *sum += f32::from_bits(bits);
        }
    }
    Ok(write_floats(sums.to_vec(), &device))
}

/// The parameter after the step, and its moments.
pub(super) fn update(
    step: Step,
    rates: &Rates,
    shards: &Shards,
) -> Result<(Tensor<1>, Option<[Tensor<1>; 2]>)> {
    let own = shards.own_tensor(step.id, step.value.clone());
    let own = own.zip(shards.own_tensor(step.id, step.gradient));
    let updated = own.map(|(value, gradient)| {
        let zeros = || [value.zeros_like(), value.zeros_like()];
        let moments = step.moments.unwrap_or_else(zeros);
        update_list(value, gradient, moments, rates)
    });
    let (own, moments) = updated.unzip();
    Ok((shards.gather_tensor(step.id, own, step.value)?, moments))
}

/// The operations of [`super::on_host`], in their order.
fn update_list(
    value: Tensor<1>,
    gradient: Tensor<1>,
    [first, second]: [Tensor<1>; 2],
    rates: &Rates,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let Rates {
        beta1,
        beta2,
        rate,
        correction,
        keep,
        epsilon,
    } = *rates;
    let first = first * beta1 + gradient.clone() * (1.0 - beta1);
    let second = second * beta2 + gradient.clone() * (1.0 - beta2) * gradient;
    let scale = (second.clone() * correction).sqrt() + epsilon;
    let value = value * keep - first.clone() * rate / scale;
    (value, [first, second])
}
