//! What a recipe says about one dataset.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    formats::{DatasetFormat, Form, Records},
    pattern,
};
use crate::Result;

/// A dataset, and how often its samples come.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub format: DatasetFormat,
    /// The shards: one file, or a pattern such as `coyo/{00000..00999}.tar` or `sft/*.json`.
    pub path: String,
    /// Where the files lie that records name; without it, beside the shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// What captions become; of conversations it is in their turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// How many samples come from here, relative to the other sources.
    #[serde(default = "one")]
    pub weight: f64,
    /// Never trained on: what evaluations and sample sheets look at.
    #[serde(default)]
    pub held_out: bool,
}

fn one() -> f64 {
    1.0
}

impl Source {
    /// The files that the pattern names, each of them there.
    pub fn shards(&self) -> Result<Vec<PathBuf>> {
        pattern::expand(&self.path)
    }

    /// The records of a shard.
    pub fn open(&self, shard: &Path) -> Result<Records> {
        let beside = shard.parent().unwrap_or(Path::new(""));
        let folder = self.folder.as_deref().unwrap_or(beside);
        // Where no form is asked for, any shows what stands beside the picture.
        let form = self.form.unwrap_or(Form::Caption);
        self.format.open(shard, folder, form)
    }
}
