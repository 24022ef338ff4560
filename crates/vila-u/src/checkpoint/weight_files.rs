//! Which files hold the weights of a folder: one, or several shards with an index; safetensors or PyTorch.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::files::Files;
use crate::{Error, Result, safe_path};

/// File names in the order they are looked for; each may also be an index of shards.
const NAMES: [&str; 5] = [
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pt",
    "model.pt",
    "model.pth",
];

/// Which files hold the weights of a folder.
pub(super) struct WeightFiles {
    /// The file, or the index of the files.
    pub name: String,
    /// The shard of every tensor, where there is an index.
    pub weight_map: Option<BTreeMap<String, String>>,
}

impl WeightFiles {
    /// # Errors
    /// When there are none, or the index is damaged.
    pub(super) fn find(files: &Files) -> Result<Self> {
        for name in NAMES {
            if files.contains(name) {
                return Ok(Self {
                    name: name.into(),
                    weight_map: None,
                });
            }
            let index = format!("{name}.index.json");
            if files.contains(&index) {
                return Self::read_index(files, index);
            }
        }
        Err(Error::invalid(
            files.path(""),
            "no weights here (looked for model.safetensors and pytorch_model.bin, whole or with an \
             index of shards)",
        ))
    }

    fn read_index(files: &Files, name: String) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let path = files.path(&name);
        let Index { weight_map } = serde_json::from_slice(&files.read(&name)?)
            .map_err(|error| Error::invalid(&path, format!("not an index of shards: {error}")))?;
        for shard in weight_map.values() {
            if safe_path::relative(shard).is_none_or(|shard| shard.contains('/')) {
                let reason = format!("shard `{shard}` is not a file of this folder");
                return Err(Error::invalid(&path, reason));
            }
        }
        Ok(Self {
            name,
            weight_map: Some(weight_map),
        })
    }

    pub(super) fn shards(&self) -> BTreeSet<&String> {
        match &self.weight_map {
            Some(weight_map) => weight_map.values().collect(),
            None => [&self.name].into(),
        }
    }
}

/// Whether a folder has all the weights files that it names.
pub(super) fn is_complete(files: &Files) -> bool {
    WeightFiles::find(files)
        .is_ok_and(|found| found.shards().iter().all(|shard| files.contains(shard)))
}
