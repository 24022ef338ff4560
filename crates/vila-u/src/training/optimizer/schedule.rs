//! The learning-rate schedule: linear warm-up, then half a cosine down to the minimum.

use std::f64::consts::PI;

use crate::training::recipe::Optimizer;

/// The learning rate of step `step` (from 0) of a stage that has `steps` of them.
pub(crate) fn learning_rate(optimizer: &Optimizer, step: u64, steps: u64) -> f64 {
    let warm_up = (optimizer.warmup_ratio * steps as f64).round();
    let now = step as f64;
    let fraction = if now < warm_up {
        (now + 1.0) / warm_up
    } else {
        let progress = (now - warm_up) / (steps as f64 - warm_up).max(1.0);
        let cosine = 0.5 * (1.0 + (PI * progress.min(1.0)).cos());
        optimizer.min_lr_ratio + (1.0 - optimizer.min_lr_ratio) * cosine
    };
    optimizer.learning_rate * fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_the_minimum() {
        let optimizer = Optimizer {
            learning_rate: 2.0,
            min_lr_ratio: 0.1,
            warmup_ratio: 0.1,
            weight_decay: 0.0,
            betas: [0.9, 0.95],
            max_grad_norm: 1.0,
        };
        let rates: Vec<f64> = (0..101)
            .map(|step| learning_rate(&optimizer, step, 100))
            .collect();
        assert!((rates[0] - 0.2).abs() < 1e-12);
        assert!((rates[9] - 2.0).abs() < 1e-12 && (rates[10] - 2.0).abs() < 1e-12);
        assert!(rates[10..].windows(2).all(|pair| pair[1] <= pair[0]));
        assert!((rates[100] - 0.2).abs() < 1e-12);
        assert!((rates[55] - 1.1).abs() < 1e-9);
    }
}
