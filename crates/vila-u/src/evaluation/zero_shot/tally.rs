//! Which pictures were classified rightly, from which features.

use serde_json::Value;

use super::classifier::rank;
use crate::{
    Error, Result,
    evaluation::{
        ImageId,
        metrics::share,
        record::{Interval, Metric},
        sample_log::Sample,
    },
};

/// The right class is to be among so many best ones.
const TOPS: [usize; 2] = [1, 5];

/// Counts of right ones, for each kind of features and each of [`TOPS`].
pub(super) struct Tally {
    classes: usize,
    /// Of all D codes first, then of fewer, then unquantized; and how many pictures were right.
    right: Vec<(String, usize)>,
    pictures: usize,
}

impl Tally {
    pub fn new(depth: usize, classes: usize) -> Self {
        let fewer = (1..depth).map(|depth| format!("/depth-{depth}"));
        let features = [String::new()].into_iter().chain(fewer);
        let features = features.chain(["/unquantized".to_string()]);
        // The five best of five classes are all of them.
        let tops = || TOPS.into_iter().filter(|top| *top < classes);
        let metrics = features.flat_map(|of| tops().map(move |top| format!("top-{top}{of}")));
        Self {
            classes,
            right: metrics.map(|metric| (metric, 0)).collect(),
            pictures: 0,
        }
    }

    /// Whether a picture of the class `class` was classified rightly, by its scores in the order of the features.
    ///
    /// Errors when a score is not a number.
    pub fn sample(&self, image: &ImageId, scores: &[&[f32]], class: usize) -> Result<Sample> {
        let ranks = scores.iter().map(|scores| rank(scores, class));
        let ranks = ranks.collect::<Option<Vec<_>>>().ok_or_else(|| {
            Error::failed(format!("{}: the model's scores are not numbers", image.id))
        })?;
        let tops = || TOPS.into_iter().filter(|top| *top < self.classes);
        let right = ranks
            .iter()
            .flat_map(|rank| tops().map(move |top| *rank < top));
        let metrics = self.right.iter().map(|(metric, _)| metric.clone());
        Ok(Sample {
            id: image.id.clone(),
            values: metrics.zip(right.map(Value::Bool)).collect(),
        })
    }

    /// Counts a sample of this run or of one before it.
    pub fn count(&mut self, sample: &Sample) -> Result<()> {
        self.pictures += 1;
        for (metric, right) in &mut self.right {
            match sample.values.get(metric) {
                Some(Value::Bool(is_right)) => *right += usize::from(*is_right),
                _ => {
                    return Err(Error::failed(format!(
                        "samples.jsonl: {} has no {metric}: remove the file to begin again",
                        sample.id
                    )));
                }
            }
        }
        Ok(())
    }

    /// Errors when there was no picture.
    pub fn metrics(&self) -> Result<Vec<Metric>> {
        if self.pictures == 0 {
            return Err(Error::failed("none of the pictures could be read"));
        }
        let metric = |(metric, right): &(String, usize)| {
            Metric::estimate(metric, share(*right, self.pictures), Interval::Wilson)
        };
        Ok(self.right.iter().map(metric).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_features_is_counted() {
        let image = |id: &str| ImageId {
            id: id.into(),
            class: None,
        };
        let (first, last) = (
            [0.9, 0.1, 0.0, 0.0, 0.0, 0.0],
            [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        );
        let mut tally = Tally::new(2, 6);
        for (id, scores) in [
            ("a", [&first[..], &last, &first]),
            ("b", [&last, &last, &first]),
        ] {
            let sample = tally.sample(&image(id), &scores, 0).unwrap();
            tally.count(&sample).unwrap();
        }
        let metrics = tally.metrics().unwrap();
        let found: Vec<_> = metrics
            .iter()
            .map(|one| (one.name.as_str(), one.value))
            .collect();
        let expected = [
            ("top-1", 0.5),
            ("top-5", 0.5),
            ("top-1/depth-1", 0.0),
            ("top-5/depth-1", 0.0),
            ("top-1/unquantized", 1.0),
            ("top-5/unquantized", 1.0),
        ];
        assert_eq!(found, expected);
        assert!(tally.sample(&image("c"), &[&[f32::NAN, 0.0]], 0).is_err());
        // Of few classes the five best say nothing.
        assert!(
            Tally::new(1, 5)
                .right
                .iter()
                .all(|(name, _)| name.starts_with("top-1"))
        );
        assert!(Tally::new(1, 6).metrics().is_err());
    }
}
