//! What a recipe says about one dataset.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::formats::{
    DatasetFormat, Records, llava, mmc4, nano, openvid, parquet, vflan, webdataset,
};
use super::nano::Split;
use super::pattern;
use super::sample_kind::{KindWeights, SampleKind};
use super::seed::mix;
use crate::{Error, Result};

/// What the nano world is called where files have a path.
const NANO: &str = "nano";

/// A dataset, and how often its samples come.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub format: DatasetFormat,
    /// The shards: one file, or a pattern such as `coyo/{00000..00999}.tar` or `sft/*.json`. The nano world has
    /// none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Where the files lie that records name; without it, beside the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// What its captions become, the nano world's scenes too; without it, what the stage weighs. Conversations
    /// and pages are of their own kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SampleKind>,
    /// How many samples come from here, relative to the other sources.
    #[serde(default = "one")]
    pub weight: f64,
    /// Never trained on: what evaluations and sample sheets look at. Of the nano world, what is held out of it.
    #[serde(default)]
    pub held_out: bool,
    /// Of the nano world: share of pictures with a caption that have one of the many further emoji, at any place
    /// and size.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gallery: f64,
    /// Of the nano world: share of pictures with a caption that are a frame of a video.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub frames: f64,
}

fn one() -> f64 {
    1.0
}

/// Errors with what must hold, if it does not.
fn must(holds: bool, what: &str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::usage(what))
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Source {
    /// What it is called in messages.
    pub fn name(&self) -> &str {
        if self.is_nano() { NANO } else { &self.path }
    }

    fn is_nano(&self) -> bool {
        self.format == DatasetFormat::Nano
    }

    /// Errors when its keys do not go together.
    pub fn check(&self) -> Result<()> {
        must(
            self.weight >= 0.0 && self.weight.is_finite(),
            "weight must not be negative",
        )?;
        let nano = self.is_nano();
        must(nano || !self.path.is_empty(), "path is needed")?;
        must(
            !nano || self.path.is_empty() && self.folder.is_none(),
            "the nano world has neither path nor folder",
        )?;
        let shares = [self.gallery, self.frames, self.gallery + self.frames];
        must(
            shares.iter().all(|share| (0.0..=1.0).contains(share)),
            "gallery and frames must be between 0 and 1, and so must be their sum",
        )?;
        must(
            nano || shares == [0.0; 3],
            "gallery and frames are of the nano world (format = \"nano\")",
        )?;
        let Some(kind) = self.kind else {
            return Ok(());
        };
        let kinds = self.format.kinds();
        must(
            !kinds.is_empty(),
            "kind is of captions; conversations and pages have theirs",
        )?;
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let names = names.join(", ");
        must(
            kinds.contains(&kind),
            &format!("kind must be one of {names}"),
        )
    }

    /// Whether its records have no end, in an order that needs no shuffling.
    pub fn is_endless(&self) -> bool {
        self.is_nano()
    }

    /// The kinds of its samples, of those that a stage weighs. None where its records are of their own kind.
    pub fn kinds(&self, stage: &KindWeights) -> KindWeights {
        match self.kind {
            Some(kind) => KindWeights::only(kind),
            None => stage.among(self.format.kinds()),
        }
    }

    /// Whether what its records become is chosen by what a stage weighs.
    pub fn chooses(&self, stage: &KindWeights) -> bool {
        self.kind.is_none() && !self.kinds(stage).is_empty()
    }

    /// The files that the pattern names, each of them there; none of the nano world.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        if self.is_nano() {
            return Ok(Vec::new());
        }
        pattern::expand(&self.path)
    }

    /// What can be opened: its files, or the one shard of the nano world.
    pub fn shards(&self) -> Result<Vec<PathBuf>> {
        if self.is_nano() {
            return Ok(vec![NANO.into()]);
        }
        self.files()
    }

    /// The records of a shard in an epoch, each of one of the `kinds`. `seed`: of records that are no files.
    pub(super) fn open(
        &self,
        shard: &Path,
        epoch: u64,
        kinds: &KindWeights,
        seed: u64,
    ) -> Result<Records> {
        let beside = shard.parent().unwrap_or(Path::new(""));
        let folder = self.folder.as_deref().unwrap_or(beside);
        let kinds = self.kinds(kinds);
        let records = match self.format {
            DatasetFormat::WebDataset => webdataset::open(shard),
            DatasetFormat::Llava => llava::open(shard, folder),
            DatasetFormat::Mmc4 => mmc4::open(shard, folder),
            DatasetFormat::OpenVid => openvid::open(shard, folder),
            DatasetFormat::Vflan => vflan::open(shard, folder),
            DatasetFormat::Parquet => parquet::open(shard, folder),
            DatasetFormat::Nano => {
                let split = if self.held_out {
                    Split::Validation
                } else {
                    Split::Train
                };
                return Ok(nano::open(nano::Nano {
                    split,
                    seed,
                    kinds,
                    gallery: self.gallery,
                    frames: self.frames,
                }));
            }
        }?;
        // In another epoch a record may be of another kind.
        let kind = move |number| {
            kinds
                .pick(mix(epoch, number))
                .unwrap_or(SampleKind::Caption)
        };
        let records = records.zip(0..);
        Ok(Box::new(records.map(move |(record, number)| {
            Ok(record?.of_kind(kind(number)))
        })))
    }
}
