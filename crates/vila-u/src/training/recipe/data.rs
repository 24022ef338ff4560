//! What a run learns from.

use serde::{Deserialize, Serialize};

use super::{Objective, Stage, must};
use crate::Result;
use crate::data::{DatasetFormat, Form, Source};

/// What the run learns from: files, or, without sources, the nano world.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Of the nano world: share of pictures with one of the many further emoji at any place and size.
    pub gallery: f64,
    /// Of the nano world, for the tower: share of pictures that are a frame of a video.
    pub frames: f64,
    /// Threads that read and prepare samples. Of files, another number gives another order.
    pub num_workers: usize,
    /// Records of a source that are shuffled together, over all workers.
    pub shuffle_buffer: usize,
    /// Records that may be skipped, over the whole run; one more stops it.
    pub max_skipped: u64,
    pub sources: Vec<Source>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            gallery: 0.0,
            frames: 0.0,
            num_workers: 2,
            shuffle_buffer: 1000,
            max_skipped: 1000,
            sources: Vec::new(),
        }
    }
}

impl Data {
    pub(super) fn check(&self, stages: &[Stage]) -> Result<()> {
        let must = |holds: bool, what: &str| must(holds, &format!("data.{what}"));
        must(
            [self.gallery, self.frames, self.gallery + self.frames]
                .iter()
                .all(|share| (0.0..=1.0).contains(share)),
            "gallery and frames must be between 0 and 1, and so must be their sum",
        )?;
        must(
            (1..=64).contains(&self.num_workers),
            "num_workers must be between 1 and 64",
        )?;
        must(self.shuffle_buffer > 0, "shuffle_buffer must be at least 1")?;
        if self.sources.is_empty() {
            return Ok(());
        }
        must(
            self.gallery == 0.0 && self.frames == 0.0,
            "gallery and frames are of the nano world, which data.sources take the place of",
        )?;
        let trained = self.sources.iter().filter(|source| !source.held_out);
        must(
            trained.map(|source| source.weight).sum::<f64>() > 0.0,
            "sources: one that is not held_out must have a weight above 0",
        )?;
        let stage = |wanted: fn(&Objective) -> bool| {
            let mut stages = stages.iter();
            stages.any(|stage| wanted(&stage.objective))
        };
        let pretrains = stage(|objective| matches!(objective, Objective::Pretrain(_)));
        let language = pretrains || stage(|objective| matches!(objective, Objective::Sft(_)));
        for (index, source) in self.sources.iter().enumerate() {
            let must = |holds: bool, what: &str| must(holds, &format!("sources.{index}: {what}"));
            must(
                source.weight >= 0.0 && source.weight.is_finite(),
                "weight must not be negative",
            )?;
            let video = source.format == DatasetFormat::OpenVid;
            must(
                language || !video,
                "the tower learns from pictures, not from videos",
            )?;
            must(
                source.form.is_some() || !source.format.captions() || !language,
                "form is needed: \"caption\" or \"generation\"",
            )?;
            must(
                source.form.is_none()
                    || source.format.captions()
                    || source.format == DatasetFormat::Parquet,
                "form is of captions; conversations and pages have theirs",
            )?;
            must(
                !(video && pretrains && source.form == Some(Form::Caption)),
                "videos are only described in fine-tuning: use form = \"generation\", or kind = \"sft\"",
            )?;
        }
        Ok(())
    }
}
