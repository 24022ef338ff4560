//! What was generated, and how: a line of JSON for every file, added once the file is there. A file without its line, or
//! a line without its file, is generated again.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Shard;
use crate::{Error, Result, json_lines::JsonLines};

/// What a file depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleSettings {
    pub prompt: String,
    /// Of this file: `vila-u generate PROMPT --seed SEED` with the settings below gives the same picture.
    pub seed: u64,
    pub cfg: f64,
    /// 0 with `greedy`.
    pub temperature: f64,
    /// All codes if there is none.
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    pub greedy: bool,
    /// Of the files that the model was read from.
    pub model_sha256: String,
    /// Number format of the weights in memory.
    pub dtype: String,
}

/// A line of the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the folder of the manifest, with `/` between folders.
    pub file: String,
    #[serde(flatten)]
    pub settings: SampleSettings,
    pub model: String,
    /// Of this program.
    pub version: String,
    /// Of the pixels before they were written, frame after frame and row after row, three bytes each.
    pub pixels_sha256: String,
}

impl SampleSettings {
    /// The first thing that is other than in `now`, if anything is.
    pub(super) fn difference(&self, now: &Self) -> Option<String> {
        // As it is read back: JSON may not keep the last bit of a number.
        let now: Self = serde_json::from_str(&serde_json::to_string(now).ok()?).ok()?;
        let fields = |settings| match serde_json::to_value(settings) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let mut pairs = fields(self).into_iter().zip(fields(&now));
        let ((name, before), (_, now)) = pairs.find(|((_, before), (_, now))| before != now)?;
        Some(format!("{name} {before}, not {now}"))
    }
}

/// The manifest of a shard, open for more lines.
pub(super) struct Manifest {
    lines: JsonLines,
    /// Those of other shards, of a run without one: nobody else may be at work.
    _others: Vec<JsonLines>,
}

impl Manifest {
    /// Opens the manifest of a shard, and reads what it and those of other shards in the same folder say. What a killed
    /// run left half-written of the last line is cut off.
    ///
    /// A usage error while another run writes to it; errors name a line that is none.
    pub fn open(folder: &Path, shard: Shard) -> Result<(Self, HashMap<String, Entry>)> {
        let path = folder.join(shard.manifest());
        let mut entries: Vec<Entry> = Vec::new();
        let mut others = Vec::new();
        for other in manifests(folder)? {
            if other == path {
                continue;
            }
            if shard == Shard::WHOLE {
                let (lines, theirs) = JsonLines::open(&other)?;
                others.push(lines);
                entries.extend::<Vec<Entry>>(theirs);
            } else {
                entries.extend(JsonLines::read::<Entry>(&other)?);
            }
        }
        let (lines, own) = JsonLines::open(&path)?;
        entries.extend::<Vec<Entry>>(own);
        let manifest = Self {
            lines,
            _others: others,
        };
        let named = |entry: Entry| (entry.file.clone(), entry);
        Ok((manifest, entries.into_iter().map(named).collect()))
    }

    /// Adds a line and brings it to disk.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        self.lines.append(entry)?;
        self.lines.sync()
    }
}

/// The manifests of all shards that wrote to a folder.
fn manifests(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("manifest.") && name.ends_with(".jsonl") {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}
