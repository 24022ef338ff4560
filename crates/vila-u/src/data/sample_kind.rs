//! The kinds of sample that the language model learns from (paper section 3.2), and how often each comes.
//!
//! ```text
//! caption            [picture, caption]         loss on the caption
//! generation         [caption, picture]         loss on the picture
//! question           [picture, answers]         loss on the answers
//! video_generation   [caption, video]           loss on the video
//! video_question     [video, answers]           loss on the answers
//! page               [picture, caption, ...]    loss on the captions
//! comparison         [two pictures, answer]     loss on the answer
//! reply              [request, words, picture, words]   loss on all but the request
//! text               [question, answer]         loss on the answer
//! ```

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::seed::mix;

/// What a record becomes as a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleKind {
    Caption,
    Generation,
    Question,
    VideoGeneration,
    VideoQuestion,
    Page,
    Comparison,
    Reply,
    Text,
}

impl SampleKind {
    pub const ALL: [Self; 9] = [
        Self::Caption,
        Self::Generation,
        Self::Question,
        Self::VideoGeneration,
        Self::VideoQuestion,
        Self::Page,
        Self::Comparison,
        Self::Reply,
        Self::Text,
    ];

    /// As recipes spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caption => "caption",
            Self::Generation => "generation",
            Self::Question => "question",
            Self::VideoGeneration => "video_generation",
            Self::VideoQuestion => "video_question",
            Self::Page => "page",
            Self::Comparison => "comparison",
            Self::Reply => "reply",
            Self::Text => "text",
        }
    }

    /// Its loss on held-out samples in `metrics.jsonl`.
    pub fn metric(self) -> &'static str {
        match self {
            Self::Caption => "caption_loss",
            Self::Generation => "generation_loss",
            Self::Question => "answer_loss",
            Self::VideoGeneration => "video_loss",
            Self::VideoQuestion => "video_answer_loss",
            Self::Page => "page_loss",
            Self::Comparison => "comparison_loss",
            Self::Reply => "reply_loss",
            Self::Text => "text_only_loss",
        }
    }

    /// Whether its metric is about visual tokens, not about words.
    pub fn generates(self) -> bool {
        matches!(self, Self::Generation | Self::VideoGeneration | Self::Reply)
    }
}

/// How often each kind comes, relative to the others; none is negative.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KindWeights([f64; SampleKind::ALL.len()]);

impl KindWeights {
    /// In the order of [`SampleKind::ALL`].
    pub fn new(weights: [f64; SampleKind::ALL.len()]) -> Self {
        Self(weights)
    }

    /// One kind and no other.
    pub fn only(kind: SampleKind) -> Self {
        Self(SampleKind::ALL.map(|one| if one == kind { 1.0 } else { 0.0 }))
    }

    /// The same without all other kinds.
    pub fn among(&self, kinds: &[SampleKind]) -> Self {
        let mut weights = self.0;
        for (kind, weight) in SampleKind::ALL.iter().zip(&mut weights) {
            if !kinds.contains(kind) {
                *weight = 0.0;
            }
        }
        Self(weights)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SampleKind, f64)> {
        SampleKind::ALL.into_iter().zip(self.0)
    }

    /// The kinds that come.
    pub fn kinds(&self) -> impl Iterator<Item = SampleKind> {
        let weighed = self.iter().filter(|(_, weight)| *weight > 0.0);
        weighed.map(|(kind, _)| kind)
    }

    pub fn is_empty(&self) -> bool {
        self.kinds().next().is_none()
    }

    /// The kind of sample `index`: in the given proportions over any stretch, mixed well. None of no kinds.
    pub fn pick(&self, index: u64) -> Option<SampleKind> {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(u64::MAX, index));
        let total: f64 = self.0.iter().sum();
        let mut left = rng.random::<f64>() * total;
        for (kind, weight) in self.iter() {
            if left < weight {
                return Some(kind);
            }
            left -= weight;
        }
        self.kinds().last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_as_often_as_they_weigh() {
        let mut weights = [0.0; 9];
        (weights[1], weights[4]) = (3.0, 1.0);
        let weights = KindWeights::new(weights);
        let picked: Vec<_> = (0..4000).filter_map(|n| weights.pick(n)).collect();
        let questions = picked
            .iter()
            .filter(|kind| **kind == SampleKind::VideoQuestion);
        assert!((900..1100).contains(&questions.count()));
        let generation = weights.among(&[SampleKind::Generation, SampleKind::Caption]);
        assert_eq!(
            generation.kinds().collect::<Vec<_>>(),
            [SampleKind::Generation]
        );
        assert_eq!(generation.pick(7), Some(SampleKind::Generation));
        assert_eq!(weights.among(&[]).pick(7), None);
    }

    #[test]
    fn names_are_those_of_recipes() {
        for kind in SampleKind::ALL {
            let name = serde_json::to_value(kind).expect("a name");
            assert_eq!(name, kind.name());
        }
    }
}
