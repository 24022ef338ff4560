//! `samples.jsonl`: the numbers of every sample, line by line.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result, atomic, json_lines::JsonLines};

const SAMPLES: &str = "samples.jsonl";

/// One line of `samples.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub id: String,
    #[serde(flatten)]
    pub values: Map<String, Value>,
}

/// `samples.jsonl` of a folder: a line is added as soon as its sample is measured, so that whatever happens nothing
/// measured is lost. No two programs have the same one open.
#[derive(Debug)]
pub struct SampleLog(JsonLines);

impl SampleLog {
    /// A new log; one that is there is emptied. Creates the folder.
    pub fn create(folder: &Path) -> Result<Self> {
        JsonLines::create(&path(folder)?).map(Self)
    }

    /// Goes on with the log of a folder, or begins one: what is in it already comes with it. A last line that is not
    /// whole is cut off: the program was stopped while it wrote it.
    pub fn resume(folder: &Path) -> Result<(Self, Vec<Sample>)> {
        let path = path(folder)?;
        let (lines, samples) = JsonLines::open(&path)?;
        unique(&path, &samples)?;
        Ok((Self(lines), samples))
    }

    /// Adds a sample.
    pub fn append(&mut self, sample: &Sample) -> Result<()> {
        self.0.append(sample)
    }

    /// Puts these samples in the place of a folder's log, or leaves it as it was.
    pub fn replace(folder: &Path, samples: &[Sample]) -> Result<()> {
        let path = folder.join(SAMPLES);
        let mut text = Vec::new();
        for sample in samples {
            let line = serde_json::to_vec(sample);
            text.extend(line.map_err(|error| Error::invalid(&path, error.to_string()))?);
            text.push(b'\n');
        }
        atomic::write(&path, &text)
    }

    /// The samples of a folder; none where it has no log.
    pub fn read(folder: &Path) -> Result<Vec<Sample>> {
        let path = folder.join(SAMPLES);
        if !path.try_exists().map_err(Error::io(&path))? {
            return Ok(Vec::new());
        }
        let samples = JsonLines::read(&path)?;
        unique(&path, &samples)?;
        Ok(samples)
    }
}

/// Where the log of a folder is, which is made if it is not there.
fn path(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    Ok(folder.join(SAMPLES))
}

fn unique(path: &Path, samples: &[Sample]) -> Result<()> {
    let mut ids = HashSet::new();
    match samples
        .iter()
        .zip(1..)
        .find(|(sample, _)| !ids.insert(&sample.id))
    {
        Some((Sample { id, .. }, line)) => {
            let reason = format!("line {line}: {id:?} is there twice");
            Err(Error::invalid(path, reason))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample(id: &str, value: f64) -> Sample {
        let values = Map::from_iter([("psnr".to_string(), value.into())]);
        Sample {
            id: id.into(),
            values,
        }
    }

    #[test]
    fn a_log_goes_on_behind_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = SampleLog::create(folder.path()).unwrap();
        log.append(&sample("a", 1.0)).unwrap();
        log.append(&sample("b", 2.0)).unwrap();
        drop(log);
        let path = folder.path().join("samples.jsonl");
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"id\": \"c\", \"ps");
        std::fs::write(&path, text).unwrap();
        let (mut log, samples) = SampleLog::resume(folder.path()).unwrap();
        assert_eq!(samples, [sample("a", 1.0), sample("b", 2.0)]);
        log.append(&sample("c", 3.0)).unwrap();
        assert_eq!(SampleLog::read(folder.path()).unwrap().len(), 3);
        log.append(&sample("a", 3.0)).unwrap();
        let error = SampleLog::read(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("line 4") && error.contains("twice"),
            "{error}"
        );
    }
}
