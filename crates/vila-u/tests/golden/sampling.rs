//! The sampling filter: the probabilities that a token is sampled from.

use vila_u::generation::sampling::{Sampler, Sampling};

use crate::fixture::Recorded;

fn sampling(temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> Sampling {
    Sampling {
        temperature,
        top_k,
        top_p,
    }
}

/// Probabilities of every token, 0 where it cannot be sampled.
fn probabilities(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
    let mut all = vec![0.0; logits.len()];
    for (token, probability) in sampling.distribution(logits).unwrap() {
        all[token] = probability;
    }
    all
}

#[test]
fn filter() {
    let recorded = Recorded::open("sampling.safetensors");
    let cases = [
        (
            "logits",
            "probs.t1_k30_p096",
            sampling(1.0, Some(30), Some(0.96)),
        ),
        (
            "logits",
            "probs.t07_k30_p096",
            sampling(0.7, Some(30), Some(0.96)),
        ),
        ("logits", "probs.t1_k30", sampling(1.0, Some(30), None)),
        ("logits", "probs.t1_p096", sampling(1.0, None, Some(0.96))),
        ("big_logits", "big_probs.default", Sampling::VISUAL),
    ];
    for (logits, key, sampling) in cases {
        let width = recorded.shape(logits)[1];
        let (logits, expected) = (recorded.floats(logits), recorded.floats(key));
        let rows = logits.chunks(width).zip(expected.chunks(width));
        for (row, (logits, expected)) in rows.enumerate() {
            let actual = probabilities(sampling, logits);
            // Which of several equal logits falls under the top-p cut is open: compare their sums.
            for value in logits {
                let sum = |of: &dyn Fn(usize) -> f64| -> f64 {
                    (0..width).filter(|i| logits[*i] == *value).map(of).sum()
                };
                let (a, e) = (sum(&|i| actual[i]), sum(&|i| expected[i] as f64));
                assert!((a - e).abs() < 1e-6, "{key} row {row}: {a} is not {e}");
            }
        }
    }
}

#[test]
fn samples_follow_the_distribution_and_the_seed() {
    let logits = [0.0, 1.0, f32::NEG_INFINITY, 2.0];
    let all = sampling(1.0, None, None);
    let sample = |seed, row| -> Vec<usize> {
        let mut sampler = Sampler::new(all, seed, row);
        (0..20_000)
            .map(|_| sampler.sample(&logits).unwrap())
            .collect()
    };
    let samples = sample(1, 0);
    assert_eq!(samples, sample(1, 0));
    assert_ne!(samples, sample(2, 0));
    assert_ne!(samples, sample(1, 1));
    for (token, expected) in probabilities(all, &logits).into_iter().enumerate() {
        let share = samples.iter().filter(|t| **t == token).count() as f64 / samples.len() as f64;
        assert!(
            (share - expected).abs() < 0.015,
            "{token}: {share} is not {expected}"
        );
    }
}

#[test]
fn edges() {
    let logits = [1.0, 3.0, 3.0, 2.0];
    assert_eq!(
        probabilities(Sampling::GREEDY, &logits),
        [0.0, 1.0, 0.0, 0.0]
    );
    // Ties with the k-th survive; more than there are is all of them.
    assert_eq!(
        sampling(1.0, Some(1), None)
            .distribution(&logits)
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        sampling(1.0, Some(99), None)
            .distribution(&logits)
            .unwrap()
            .len(),
        4
    );
    assert_eq!(
        sampling(1.0, None, Some(1.0))
            .distribution(&logits)
            .unwrap()
            .len(),
        4
    );
    assert_eq!(
        sampling(1e-300, None, Some(1e-9))
            .distribution(&logits)
            .unwrap()
            .len(),
        1
    );
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
        assert!(Sampling::VISUAL.distribution(&[0.0, bad]).is_err());
    }
    assert!(Sampling::VISUAL.distribution(&[]).is_err());
    for (temperature, top_k, top_p) in [
        (-1.0, None, None),
        (f64::NAN, None, None),
        (1.0, Some(0), None),
        (1.0, None, Some(0.0)),
        (1.0, None, Some(1.5)),
        (1.0, None, Some(f64::NAN)),
    ] {
        assert!(sampling(temperature, top_k, top_p).check().is_err());
    }
}
