//! What an evaluation did and found: `result.json`.

use std::{collections::BTreeMap, fmt, fs::File, path::Path};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::metrics::Estimate;
use crate::{Error, Result, atomic, checkpoint::Files};

const RECORD: &str = "result.json";

/// What a model consists of, among other files that lie beside it.
const MODEL_FILES: [&str; 6] = [".json", ".safetensors", ".bin", ".pt", ".pth", ".model"];

/// Everything that somebody needs to repeat a measurement, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// `reconstruction`, `zero-shot`, ...
    pub evaluation: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Of `vila-u`.
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Identity>,
    #[serde(default)]
    pub data: Vec<Identity>,
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// What each metric is, where there is more than one definition: a sentence for each name.
    #[serde(default)]
    pub definitions: BTreeMap<String, String>,
    pub metrics: Vec<Metric>,
    /// How many samples were left out, for each reason.
    #[serde(default)]
    pub skipped: BTreeMap<String, usize>,
    pub seconds: f64,
}

/// A model or a dataset, by its content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// As it was given: a path or `hf:ORG/NAME`.
    pub name: String,
    /// SHA-256 of the content in hexadecimal; see [`Identity::of_model`] and [`super::ImageSet`].
    pub sha256: String,
    /// Samples of a dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
}

/// A measured number, with its 95 % interval where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    pub name: String,
    /// What is no number or infinite is `null` in the file, and not a number when it is read again.
    #[serde(deserialize_with = "number_or_null")]
    pub value: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    pub n: usize,
    /// How the interval was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// How a 95 % confidence interval was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interval {
    /// Wilson's score interval, of shares.
    Wilson,
    /// Percentiles of 2,000 bootstrap resamples, of means.
    Bootstrap,
}

fn number_or_null<'de, D: Deserializer<'de>>(value: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(value)?.unwrap_or(f64::NAN))
}

impl EvaluationRecord {
    /// A record of the running command, with nothing measured yet.
    pub fn new(evaluation: &str) -> Self {
        Self {
            evaluation: evaluation.into(),
            command: std::env::args().collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            model: None,
            data: Vec::new(),
            settings: Map::new(),
            definitions: BTreeMap::new(),
            metrics: Vec::new(),
            skipped: BTreeMap::new(),
            seconds: 0.0,
        }
    }

    /// Notes a setting that the numbers depend on.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// The metric of this name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|metric| metric.name == name)
    }

    /// Writes `result.json` into a folder that is there.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(RECORD);
        let text = serde_json::to_vec_pretty(self);
        let mut text = text.map_err(|error| Error::invalid(&path, error.to_string()))?;
        text.push(b'\n');
        atomic::write(&path, &text)
    }

    /// Reads the `result.json` of a folder, or the file itself.
    pub fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() {
            path.join(RECORD)
        } else {
            path.to_path_buf()
        };
        let text = std::fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::invalid(&path, format!("not a result of `vila-u eval`: {error}"))
        })
    }
}

impl fmt::Display for EvaluationRecord {
    /// A line for each metric, then what was left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.metrics.iter().map(|metric| metric.name.len()).max();
        let width = width.unwrap_or(0);
        for (at, metric) in self.metrics.iter().enumerate() {
            let between = if at > 0 { "\n" } else { "" };
            write!(f, "{between}{:width$}  {:.4}", metric.name, metric.value)?;
            if let (Some(low), Some(high)) = (metric.low, metric.high) {
                write!(f, " [{low:.4}, {high:.4}]")?;
            }
            write!(f, ", n = {}", metric.n)?;
        }
        for (reason, count) in &self.skipped {
            write!(f, "\nleft out {count}: {reason}")?;
        }
        Ok(())
    }
}

impl Metric {
    /// A number without an interval, such as FID.
    pub fn plain(name: impl Into<String>, value: f64, n: usize) -> Self {
        Self {
            name: name.into(),
            value,
            low: None,
            high: None,
            n,
            interval: None,
        }
    }

    /// What `interval::share` (Wilson) or `interval::mean` (bootstrap) estimated.
    pub fn estimate(name: impl Into<String>, estimate: Estimate, interval: Interval) -> Self {
        Self {
            low: Some(estimate.low),
            high: Some(estimate.high),
            interval: Some(interval),
            ..Self::plain(name, estimate.value, estimate.n)
        }
    }
}

impl Identity {
    /// A file by its content.
    pub fn of_file(path: &Path) -> Result<Self> {
        let mut hash = Sha256::new();
        File::open(path)
            .and_then(|mut file| std::io::copy(&mut file, &mut hash))
            .map_err(Error::io(path))?;
        Ok(Self {
            name: path.display().to_string(),
            sha256: hex(hash),
            n: None,
        })
    }

    /// A model by the content of its weights, configurations and tokenizers: SHA-256 over path, NUL, length, NUL and
    /// content of each, in the order of folders and names. Takes as long as reading them.
    pub fn of_model(name: &str, files: &Files) -> Result<Self> {
        let mut hash = Sha256::new();
        for folder in ["", "llm", "mm_projector", "siglip", "vision_tower"] {
            let inside = if folder.is_empty() {
                files.clone()
            } else {
                files.join(folder)
            };
            // A folder without a file of its own is not there in every place that models come from.
            for file in inside.names().unwrap_or_default() {
                if !MODEL_FILES.iter().any(|ending| file.ends_with(ending)) {
                    continue;
                }
                let bytes = inside.bytes(&file)?;
                hash.update(format!("{folder}/{file}\0{}\0", bytes.len()));
                hash.update(&*bytes);
            }
        }
        Ok(Self {
            name: name.into(),
            sha256: hex(hash),
            n: None,
        })
    }
}

/// The digest in hexadecimal.
pub fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = EvaluationRecord::new("zero-shot");
        let estimate = Estimate {
            value: 0.75,
            low: 0.25,
            high: 1.0,
            n: 4,
        };
        record
            .metrics
            .push(Metric::estimate("top-1", estimate, Interval::Wilson));
        record.metrics.push(Metric::plain("fid", 1.8, 50_000));
        record.skipped.insert("not an image".into(), 2);
        record.write(folder.path()).unwrap();
        assert_eq!(EvaluationRecord::read(folder.path()).unwrap(), record);
        assert_eq!(record.metric("fid").unwrap().value, 1.8);
        let table = "top-1  0.7500 [0.2500, 1.0000], n = 4\nfid    1.8000, n = 50000\nleft out 2: not an image";
        assert_eq!(record.to_string(), table);
        record.metrics[1].value = f64::INFINITY;
        record.write(folder.path()).unwrap();
        let read = EvaluationRecord::read(folder.path()).unwrap();
        assert!(read.metric("fid").unwrap().value.is_nan());
        std::fs::write(folder.path().join("result.json"), "{}").unwrap();
        let error = EvaluationRecord::read(folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("not a result"), "{error}");
    }

    #[test]
    fn a_model_is_known_by_its_content() {
        let nano = crate::checkpoint::Source::parse("nano").unwrap();
        let files = nano.files(|_, _| {}).unwrap();
        let embedded = Identity::of_model("nano", &files).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/nano");
        let copy = tempfile::tempdir().unwrap();
        for part in ["", "llm", "mm_projector", "siglip", "vision_tower"] {
            std::fs::create_dir_all(copy.path().join(part)).unwrap();
            for name in Files::folder(folder.join(part)).names().unwrap() {
                let to = copy.path().join(part).join(&name);
                std::fs::copy(folder.join(part).join(&name), to).unwrap();
            }
        }
        let copied = Identity::of_model("copy", &Files::folder(copy.path())).unwrap();
        assert_eq!(embedded.sha256, copied.sha256);
        std::fs::write(copy.path().join("config.json"), "{}").unwrap();
        let changed = Identity::of_model("copy", &Files::folder(copy.path())).unwrap();
        assert_ne!(embedded.sha256, changed.sha256);
    }
}
