//! What a run learns from.

use serde::{Deserialize, Serialize};

use super::{Multimodal, Objective, Stage, must};
use crate::data::{DatasetFormat, SampleKind, Source};
use crate::{Error, Result};

/// What the run learns from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Threads that read and prepare samples. Another number may give another order.
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
            (1..=64).contains(&self.num_workers),
            "num_workers must be between 1 and 64",
        )?;
        must(self.shuffle_buffer > 0, "shuffle_buffer must be at least 1")?;
        must(
            !self.sources.is_empty(),
            "sources are needed: [[data.sources]] with a format and a path, or with format = \"nano\"",
        )?;
        let trained = self.sources.iter().filter(|source| !source.held_out);
        must(
            trained.map(|source| source.weight).sum::<f64>() > 0.0,
            "sources: one that is not held_out must have a weight above 0",
        )?;
        for (index, source) in self.sources.iter().enumerate() {
            let must = |holds: bool, what: &str| must(holds, &format!("sources.{index}: {what}"));
            let checked = source.check();
            checked
                .map_err(|error| Error::usage(format!("recipe: data.sources.{index}: {error}")))?;
            for stage in stages {
                match &stage.objective {
                    Objective::Pretrain(settings) => {
                        check_kinds(source, settings, true, &must)?;
                    }
                    Objective::Sft(settings) => check_kinds(source, settings, false, &must)?,
                    Objective::Align(_) | Objective::Tower(_) => must(
                        source.format != DatasetFormat::OpenVid,
                        "the tower learns from pictures, not from videos",
                    )?,
                }
            }
        }
        for stage in stages {
            if let Objective::Pretrain(settings) | Objective::Sft(settings) = &stage.objective {
                self.check_weights(settings)?;
            }
        }
        Ok(())
    }

    /// That what a stage weighs can come from a source.
    fn check_weights(&self, settings: &Multimodal) -> Result<()> {
        let stage = settings.kinds();
        let chosen = |source: &&Source| !source.held_out && source.kind.is_none();
        for kind in stage.kinds() {
            let mut sources = self.sources.iter().filter(chosen);
            must(
                sources.any(|source| source.kinds(&stage).kinds().any(|one| one == kind)),
                &format!(
                    "{} has a weight, and no source gives such samples by choice: sources have weights of their own, \
                     or need a format that has them",
                    kind.name()
                ),
            )?;
        }
        Ok(())
    }
}

type Must<'a> = &'a dyn Fn(bool, &str) -> Result<()>;

/// That samples of the source are of a kind that a stage can train.
fn check_kinds(source: &Source, settings: &Multimodal, pretrains: bool, must: Must) -> Result<()> {
    let kinds = source.format.kinds();
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    must(
        !source.format.needs_kind() || !source.kinds(&settings.kinds()).is_empty(),
        &format!(
            "kind is needed, or a weight of its kinds in every stage: {}",
            names.join(", ")
        ),
    )?;
    must(
        !(pretrains && source.kind == Some(SampleKind::VideoQuestion)),
        "videos are only described in fine-tuning: use kind = \"video_generation\", or a stage of kind = \"sft\"",
    )
}
