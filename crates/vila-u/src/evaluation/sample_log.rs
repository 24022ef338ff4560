//! `samples.jsonl`: the numbers of every sample, line by line.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result, atomic};

const SAMPLES: &str = "samples.jsonl";

/// One line of `samples.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub id: String,
    #[serde(flatten)]
    pub values: Map<String, Value>,
}

/// `samples.jsonl` of a folder: a line is added as soon as its sample is measured, so that whatever happens nothing
/// measured is lost.
#[derive(Debug)]
pub struct SampleLog {
    path: PathBuf,
    file: File,
}

impl SampleLog {
    /// A new log; one that is there is emptied. Creates the folder.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(SAMPLES);
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok(Self { path, file })
    }

    /// Goes on with the log of a folder, or begins one: what is in it already comes with it. A last line that is not
    /// whole is cut off: the program was stopped while it wrote it.
    pub fn resume(folder: &Path) -> Result<(Self, Vec<Sample>)> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(SAMPLES);
        let open = || {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            let whole = text
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            text.truncate(whole);
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::End(0))?;
            Ok((file, text))
        };
        let (file, text) = open().map_err(Error::io(&path))?;
        let samples = parse(&path, &text)?;
        Ok((Self { path, file }, samples))
    }

    /// Adds a sample.
    pub fn append(&mut self, sample: &Sample) -> Result<()> {
        let line = serde_json::to_vec(sample);
        let mut line = line.map_err(|error| Error::invalid(&self.path, error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&self.path))
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
        match std::fs::read(&path) {
            Ok(text) => parse(&path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Error::io(&path)(error)),
        }
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<Sample>> {
    let mut ids = HashSet::new();
    let lines = text.split(|byte| *byte == b'\n').zip(1..);
    let lines = lines.filter(|(line, _)| !line.is_empty());
    lines
        .map(|(line, number)| {
            let wrong = |reason: String| Error::invalid(path, format!("line {number}: {reason}"));
            let sample: Sample =
                serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
            if !ids.insert(sample.id.clone()) {
                return Err(wrong(format!("{:?} is there twice", sample.id)));
            }
            Ok(sample)
        })
        .collect()
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
