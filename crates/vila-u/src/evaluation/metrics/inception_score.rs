//! The inception score (arXiv 1606.03498): how sure a classifier is about each picture, and how varied its classes are.

/// Pictures are divided into so many parts, each with a score of its own.
const PARTS: usize = 10;

/// `exp(mean KL(p(y | x) || p(y)))` of ten parts, over pictures that pass by once.
///
/// Part k has every tenth picture, from the k-th on. (Ten parts of the same sizes, drawn at random, are torch-fidelity's;
/// its function on the pictures in this order gives the same number.)
#[derive(Clone, Debug)]
pub struct InceptionScore {
    parts: Vec<Part>,
    n: usize,
}

#[derive(Clone, Debug)]
struct Part {
    n: usize,
    /// `sum p ln p` over pictures and classes
    entropies: f64,
    /// `sum p` over pictures, for each class
    sums: Vec<f64>,
}

impl InceptionScore {
    /// Of so many classes.
    pub fn new(classes: usize) -> Self {
        let part = Part {
            n: 0,
            entropies: 0.0,
            sums: vec![0.0; classes],
        };
        Self {
            parts: vec![part; PARTS],
            n: 0,
        }
    }

    /// Adds pictures by their logits, `[n, classes]` row by row.
    pub fn add(&mut self, logits: &[f32]) {
        let classes = self.parts[0].sums.len();
        for logits in logits.chunks_exact(classes) {
            let part = &mut self.parts[self.n % PARTS];
            let highest = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            let exp = |logit: &f32| f64::from(logit - highest).exp();
            let normalizer: f64 = logits.iter().map(exp).sum();
            for (logit, sum) in logits.iter().zip(&mut part.sums) {
                let p = exp(logit) / normalizer;
                *sum += p;
                part.entropies += p * (f64::from(logit - highest) - normalizer.ln());
            }
            part.n += 1;
            self.n += 1;
        }
    }

    /// Everything that was added, part after part.
    pub(crate) fn sums(&self) -> Vec<f64> {
        let parts = self.parts.iter().flat_map(|part| {
            let own = [part.n as f64, part.entropies].into_iter();
            own.chain(part.sums.iter().copied())
        });
        parts.collect()
    }

    /// Takes what another of as many classes had; None of another number.
    pub(crate) fn restore(&mut self, sums: &[f64]) -> Option<()> {
        let mut sums = sums.iter().copied();
        for part in &mut self.parts {
            (part.n, part.entropies) = (sums.next()? as usize, sums.next()?);
            for sum in &mut part.sums {
                *sum = sums.next()?;
            }
        }
        self.n = self.parts.iter().map(|part| part.n).sum();
        sums.next().is_none().then_some(())
    }

    /// The mean and the standard deviation (over the number of parts) of the parts' scores.
    pub fn score(&self) -> (f64, f64) {
        let parts = self.parts.iter().filter(|part| part.n > 0);
        let scores: Vec<f64> = parts.map(Part::score).collect();
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let variance = scores
            .iter()
            .map(|score| (score - mean).powi(2))
            .sum::<f64>()
            / n;
        (mean, variance.sqrt())
    }
}

impl Part {
    fn score(&self) -> f64 {
        let n = self.n as f64;
        let shares = self.sums.iter().map(|sum| sum / n).filter(|q| *q > 0.0);
        (self.entropies / n - shares.map(|q| q * q.ln()).sum::<f64>()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sure_and_varied_is_as_good_as_there_are_classes() {
        let mut score = InceptionScore::new(4);
        for picture in 0..160 {
            let mut logits = [0.0; 4];
            logits[picture / 10 % 4] = 50.0;
            score.add(&logits);
        }
        let (mean, deviation) = score.score();
        assert!((mean - 4.0).abs() < 1e-9 && deviation < 1e-9, "{mean}");
        let mut restored = InceptionScore::new(4);
        assert!(restored.restore(&score.sums()).is_some());
        assert_eq!(restored.score(), score.score());
        assert!(restored.restore(&[0.0; 3]).is_none());
        // Unsure, or always the same.
        let mut score = InceptionScore::new(4);
        score.add(&[1.0; 4 * 20]);
        assert!((score.score().0 - 1.0).abs() < 1e-12);
    }
}
