//! Several sources in one sequence, each as often as its weight says.
//!
//! The first source gets the numbers `n` at which `floor(share * n)` grows, the others divide what is
//! left in the same way. So the shares hold over any stretch, within one sample for each division, and
//! where a sample comes from follows from its number alone.

/// Where a sample comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceChoice {
    pub source: usize,
    /// Which of that source's samples, counted from 0.
    pub number: u64,
}

/// Where sample `n` comes from. The weights are not negative, and one is above 0.
pub(crate) fn choose(weights: &[f64], n: u64) -> SourceChoice {
    let mut number = n;
    let mut source = 0;
    loop {
        let others: f64 = weights[source + 1..].iter().sum();
        if others <= 0.0 {
            return SourceChoice { source, number };
        }
        // In whole numbers, so that it grows by one at most.
        let share = (weights[source] / (weights[source] + others) * (1_u64 << 32) as f64) as u128;
        let own = |n: u64| ((u128::from(n) * share) >> 32) as u64;
        let before = own(number);
        if own(number + 1) > before {
            return SourceChoice {
                source,
                number: before,
            };
        }
        number -= before;
        source += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_source_gets_everything_and_weightless_ones_nothing() {
        for n in 0..100 {
            assert_eq!(
                choose(&[0.3], n),
                SourceChoice {
                    source: 0,
                    number: n
                }
            );
            assert_eq!(
                choose(&[0.0, 2.0, 0.0], n),
                SourceChoice {
                    source: 1,
                    number: n
                }
            );
        }
    }

    proptest! {
        #[test]
        fn weights_hold_over_any_stretch_and_no_number_is_left_out(
            weights in prop::collection::vec(0.0_f64..10.0, 1..6),
            first in 0_u64..1_000_000_000_000,
            count in 1_u64..500,
        ) {
            let total: f64 = weights.iter().sum();
            prop_assume!(total > 0.1);
            let mut numbers = vec![Vec::new(); weights.len()];
            for n in first..first + count {
                let SourceChoice { source, number } = choose(&weights, n);
                numbers[source].push(number);
            }
            for (weight, numbers) in weights.iter().zip(&numbers) {
                let expected = weight / total * count as f64;
                let difference = (numbers.len() as f64 - expected).abs();
                prop_assert!(difference <= weights.len() as f64 + 0.01, "{difference}");
                prop_assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
            }
        }
    }
}
