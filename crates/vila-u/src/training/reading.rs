//! Where a run stands in its data, and which records it skipped on the way there.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::recipe::Data;
use crate::data::Source;
use crate::data::stream::{Position, Skipped};
use crate::{Error, Result, atomic};

/// What a checkpoint keeps of it. Empty for the nano world, whose samples follow from their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Of each worker in each source.
    pub positions: Vec<Vec<Position>>,
    /// How many each source has.
    pub shards: Vec<usize>,
    /// Records skipped so far.
    pub skipped: u64,
}

impl Place {
    /// Before the first sample.
    ///
    /// Errors when the pattern of a source names nothing.
    pub fn start(data: &Data) -> Result<Self> {
        let sources: Vec<&Source> = trained(data).collect();
        if sources.is_empty() {
            return Ok(Self::default());
        }
        let shards = sources.iter().map(|source| Ok(source.shards()?.len()));
        Ok(Self {
            positions: vec![vec![Position::default(); sources.len()]; data.workers],
            shards: shards.collect::<Result<_>>()?,
            skipped: 0,
        })
    }

    /// Errors when the run cannot go on from here with this data.
    pub fn check(&self, data: &Data) -> Result<()> {
        let start = Self::start(data)?;
        let workers = |place: &Self| place.positions.len();
        match workers(self) == workers(&start) && self.shards == start.shards {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "recipe: data: the checkpoint was read by {} workers from sources of {:?} shards, this is \
                 {} workers and {:?} shards: resume with the data that the run began with",
                workers(self),
                self.shards,
                workers(&start),
                start.shards,
            ))),
        }
    }
}

/// The sources that are trained on.
pub fn trained(data: &Data) -> impl Iterator<Item = &Source> {
    data.sources.iter().filter(|source| !source.held_out)
}

/// The place, and `skipped.jsonl` in the run folder.
pub struct Reading {
    pub place: Place,
    path: PathBuf,
    /// Opened when the first record is skipped.
    file: Option<File>,
    most: u64,
}

impl Reading {
    /// Continues from a place: what a run that was cut off skipped beyond it goes from the file.
    pub fn open(out: &Path, data: &Data, place: Place) -> Result<Self> {
        let path = out.join("skipped.jsonl");
        if path.exists() {
            let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
            let lines = text.split_inclusive('\n').take(place.skipped as usize);
            atomic::write(&path, lines.collect::<String>().as_bytes())?;
        }
        Ok(Self {
            place,
            path,
            file: None,
            most: data.max_bad,
        })
    }

    /// Writes down records that cannot be used.
    ///
    /// Errors when these have become more than the recipe allows.
    pub fn skip(&mut self, skipped: &[Skipped]) -> Result<()> {
        for record in skipped {
            self.place.skipped += 1;
            let line = serde_json::to_string(record)
                .map_err(|error| Error::failed(format!("{}: {error}", self.path.display())))?;
            self.write(&line).map_err(Error::io(&self.path))?;
            if self.place.skipped > self.most {
                let Skipped { shard, key, reason } = record;
                return Err(Error::failed(format!(
                    "{} records could not be used, more than data.max_bad = {}; the last is {} of {}: {reason}; \
                     all are in {}",
                    self.place.skipped,
                    self.most,
                    key,
                    shard.display(),
                    self.path.display(),
                )));
            }
        }
        Ok(())
    }

    fn write(&mut self, line: &str) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut options = OpenOptions::new();
                none.insert(options.create(true).append(true).open(&self.path)?)
            }
        };
        file.write_all(format!("{line}\n").as_bytes())
    }
}
