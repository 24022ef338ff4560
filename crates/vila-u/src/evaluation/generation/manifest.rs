//! What was generated, and how: a line of JSON for every file, added once the file is there. A file without its line, or
//! a line without its file, is generated again.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Shard;
use crate::{Error, Result};

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
    path: PathBuf,
    file: File,
    /// Those of other shards; of a run without one locked, for nobody else may be at work.
    _others: Vec<File>,
}

impl Manifest {
    /// Opens the manifest of a shard, and reads what it and those of other shards in the same folder say. What a killed
    /// run left half-written of the last line is cut off.
    ///
    /// A usage error while another run writes to it; errors name a line that is none.
    pub fn open(folder: &Path, shard: Shard) -> Result<(Self, HashMap<String, Entry>)> {
        let path = folder.join(shard.manifest());
        let mut entries = HashMap::new();
        let mut others = Vec::new();
        for other in manifests(folder)?
            .into_iter()
            .filter(|other| *other != path)
        {
            let mut file = open(&other)?;
            if shard == Shard::WHOLE {
                lock(&file, &other)?;
            }
            read_lines(&mut file, &other, &mut entries)?;
            others.push(file);
        }
        let mut file = open(&path)?;
        lock(&file, &path)?;
        let whole = read_lines(&mut file, &path, &mut entries)?;
        file.set_len(whole)
            .and_then(|()| file.seek(SeekFrom::Start(whole)))
            .map_err(Error::io(&path))?;
        let manifest = Self {
            path,
            file,
            _others: others,
        };
        Ok((manifest, entries))
    }

    /// Adds a line and brings it to disk.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        let line =
            serde_json::to_string(entry).map_err(|error| Error::failed(error.to_string()))?;
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(Error::io(&self.path))
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

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(Error::io(path))
}

/// Keeps other runs off a manifest until its file is closed, where the file system can.
fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::usage(format!(
            "{} is being written by another run: wait for it, or give each a --shard of its own",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Reads the lines that are whole; how many bytes they have.
fn read_lines(file: &mut File, path: &Path, entries: &mut HashMap<String, Entry>) -> Result<u64> {
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(Error::io(path))?;
    let last = text.iter().rposition(|byte| *byte == b'\n');
    let whole = last.map_or(0, |last| last + 1);
    for (index, line) in text[..whole].split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let entry: Entry = serde_json::from_slice(line).map_err(|error| {
            let number = index + 1;
            let what = "remove the line, and its file is generated again";
            Error::invalid(path, format!("line {number}: {error}: {what}"))
        })?;
        entries.insert(entry.file.clone(), entry);
    }
    Ok(whole as u64)
}
