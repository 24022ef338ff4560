//! What is recorded of every step: `metrics.jsonl` and the TensorBoard file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::training::run_folder::tensorboard::Events;
use crate::{Error, Result, atomic};

/// Both files, open.
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
    events: Events,
}

impl Metrics {
    /// Continues after `step`: what a run that was cut off wrote beyond its checkpoint goes.
    pub(crate) fn open(out: &Path, step: u64) -> Result<Self> {
        let path = out.join("metrics.jsonl");
        let kept: String = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(&path)(error)),
            Ok(text) => text
                .lines()
                .filter(|line| parsed(line).is_some_and(|(at, _)| at <= step))
                .flat_map(|line| [line, "\n"])
                .collect(),
        };
        atomic::write(&path, kept.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        let events = Events::create(out)?;
        Ok(Self { path, file, events })
    }

    pub(crate) fn write(&mut self, step: u64, metrics: &BTreeMap<String, f64>) -> Result<()> {
        let mut object = Map::from_iter([("step".to_string(), json!(step))]);
        object.extend(
            metrics
                .iter()
                .map(|(name, value)| (name.clone(), json!(value))),
        );
        let line = format!("{}\n", Value::Object(object));
        self.file
            .write_all(line.as_bytes())
            .map_err(Error::io(&self.path))?;
        self.events.scalars(
            step,
            metrics.iter().map(|(name, value)| (name.as_str(), *value)),
        )
    }

    /// Brings to disk what was written so far.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path))
    }
}

/// What was recorded in a run folder, step after step; a last line that was cut off is left out.
pub(crate) fn read(out: &Path) -> Result<Vec<(u64, BTreeMap<String, f64>)>> {
    let path = out.join("metrics.jsonl");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    Ok(text.lines().filter_map(parsed).collect())
}

/// The step of a line and its values that are numbers.
fn parsed(line: &str) -> Option<(u64, BTreeMap<String, f64>)> {
    let object: Map<String, Value> = serde_json::from_str(line).ok()?;
    let step = object.get("step")?.as_u64()?;
    let values = object.iter().filter(|(name, _)| *name != "step");
    let values = values.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
    Some((step, values.collect()))
}
