//! How much of a codebook is in use.

use serde::Serialize;

/// Use of the codebook at one depth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CodeUse {
    /// Part of the codes that occur at all.
    pub used: f64,
    /// `exp` of the entropy of the codes: the number of codes if all were equally frequent.
    pub perplexity: f64,
}

/// The use at every depth.
///
/// - `codes`: `[positions, depths]` one after the other, each in `0..codebook`; others do not count
pub fn code_use(codes: &[i64], depths: usize, codebook: usize) -> Vec<CodeUse> {
    (0..depths)
        .map(|depth| {
            let mut counts = vec![0_u64; codebook];
            for code in codes.iter().skip(depth).step_by(depths) {
                if let Some(count) = usize::try_from(*code)
                    .ok()
                    .and_then(|at| counts.get_mut(at))
                {
                    *count += 1;
                }
            }
            let total = counts.iter().sum::<u64>() as f64;
            let shares = counts
                .iter()
                .filter(|count| **count > 0)
                .map(|count| *count as f64 / total);
            CodeUse {
                used: shares.clone().count() as f64 / codebook as f64,
                perplexity: (-shares.map(|share| share * share.ln()).sum::<f64>()).exp(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_codes_have_their_number_as_perplexity() {
        let depths = code_use(&[0, 3, 1, 3, 0, 3, 1, 3], 2, 4);
        assert_eq!(depths[0].used, 0.5);
        assert!((depths[0].perplexity - 2.0).abs() < 1e-12);
        assert_eq!((depths[1].used, depths[1].perplexity), (0.25, 1.0));
    }
}
