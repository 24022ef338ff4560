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

/// How often each code was seen at each depth.
#[derive(Clone, Debug)]
pub struct CodeCounts(Vec<Vec<u64>>);

impl CodeCounts {
    /// Of so many depths and codes, none seen yet.
    pub fn new(depths: usize, codebook: usize) -> Self {
        Self(vec![vec![0; codebook]; depths])
    }

    /// Counts codes `[positions, depths]`, one position after the other, each in `0..codebook`; others do not count.
    pub fn add(&mut self, codes: &[i64]) {
        let depths = self.0.len();
        for (at, code) in codes.iter().enumerate() {
            let counts = &mut self.0[at % depths];
            let count = usize::try_from(*code)
                .ok()
                .and_then(|code| counts.get_mut(code));
            if let Some(count) = count {
                *count += 1;
            }
        }
    }

    /// All counts, depth after depth.
    pub(crate) fn sums(&self) -> Vec<f64> {
        self.0.iter().flatten().map(|count| *count as f64).collect()
    }

    /// Takes the counts that another of this size had; None of another size.
    pub(crate) fn restore(&mut self, sums: &[f64]) -> Option<()> {
        let mut sums = sums.iter();
        for count in self.0.iter_mut().flatten() {
            *count = *sums.next()? as u64;
        }
        sums.next().is_none().then_some(())
    }

    /// The use at every depth.
    pub fn code_use(&self) -> Vec<CodeUse> {
        let of_depth = |counts: &Vec<u64>| {
            let total = counts.iter().sum::<u64>() as f64;
            let shares = (counts.iter())
                .filter(|count| **count > 0)
                .map(|count| *count as f64 / total);
            CodeUse {
                used: shares.clone().count() as f64 / counts.len() as f64,
                perplexity: (-shares.map(|share| share * share.ln()).sum::<f64>()).exp(),
            }
        };
        self.0.iter().map(of_depth).collect()
    }
}

/// The use at every depth of codes `[positions, depths]`, as [`CodeCounts::add`] takes them.
pub fn code_use(codes: &[i64], depths: usize, codebook: usize) -> Vec<CodeUse> {
    let mut counts = CodeCounts::new(depths, codebook);
    counts.add(codes);
    counts.code_use()
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

    #[test]
    fn parts_count_as_the_whole() {
        let codes = [0, 3, 1, 3, 2, 9, -1, 0];
        let mut counts = CodeCounts::new(2, 4);
        counts.add(&codes[..4]);
        counts.add(&codes[4..]);
        assert_eq!(counts.code_use(), code_use(&codes, 2, 4));
        let mut restored = CodeCounts::new(2, 4);
        assert!(restored.restore(&counts.sums()).is_some());
        assert_eq!(restored.code_use(), counts.code_use());
        assert!(restored.restore(&[0.0; 9]).is_none());
    }
}
