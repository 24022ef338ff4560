//! The dataloader's state: where a run stands in its data, and which records it skipped on the way there.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::data::stream::{Position, Skipped};
use crate::training::distributed::ProcessGroup;
use crate::training::recipe::Data;
use crate::{Error, Result, atomic};

/// What a checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataLoaderState {
    /// Each of them with its own workers.
    #[serde(default = "one")]
    pub ranks: usize,
    /// Of each worker in each source, rank after rank.
    pub positions: Vec<Vec<Position>>,
    /// How many each source has.
    pub shards: Vec<usize>,
    /// Records skipped so far, each once however often it was met.
    pub skipped: u64,
    /// Pictures of pages left out so far, each once.
    #[serde(default)]
    pub left_out: u64,
    /// Which records and pictures these are.
    #[serde(default)]
    pub known: BTreeSet<u64>,
}

fn one() -> usize {
    1
}

impl DataLoaderState {
    /// Before the first sample.
    ///
    /// Errors when the pattern of a source names nothing.
    pub(crate) fn start(data: &Data, ranks: usize) -> Result<Self> {
        let sources: Vec<&Source> = trained(data).collect();
        let shards = sources.iter().map(|source| Ok(source.shards()?.len()));
        Ok(Self {
            ranks,
            positions: vec![vec![Position::default(); sources.len()]; data.num_workers * ranks],
            shards: shards.collect::<Result<_>>()?,
            skipped: 0,
            left_out: 0,
            known: BTreeSet::new(),
        })
    }

    /// Errors when the run cannot go on from here with this data.
    pub(crate) fn check(&self, data: &Data, ranks: usize) -> Result<()> {
        let start = Self::start(data, ranks)?;
        let workers = |state: &Self| state.positions.len();
        if self.positions.is_empty() {
            return Err(Error::usage(
                "the checkpoint is of an older version, which did not keep where the nano world's samples are gone \
                 on with: start a new run from its model with --set init=FOLDER",
            ));
        }
        if self.ranks != start.ranks {
            return Err(Error::usage(format!(
                "the checkpoint was read by {} ranks, these are {ranks}: resume with --ranks {0}, or start a new run \
                 from its model with --set init=FOLDER",
                self.ranks
            )));
        }
        if workers(self) == workers(&start) && self.shards == start.shards {
            return Ok(());
        }
        Err(Error::usage(format!(
            "recipe: data: the checkpoint was read by {} workers from sources of {:?} shards, this is \
             {} workers and {:?} shards: resume with the data that the run began with",
            workers(self),
            self.shards,
            workers(&start),
            start.shards,
        )))
    }

    /// The positions of one rank's workers.
    pub(crate) fn of_rank(&self, rank: usize) -> &[Vec<Position>] {
        let workers = self.positions.len() / self.ranks.max(1);
        self.positions
            .get(rank * workers..(rank + 1) * workers)
            .unwrap_or_default()
    }
}

/// The sources that are trained on.
pub(crate) fn trained(data: &Data) -> impl Iterator<Item = &Source> {
    data.sources.iter().filter(|source| !source.held_out)
}

/// The state as training goes on, and `skipped.jsonl` in the run folder, which rank 0 writes.
pub(crate) struct DataProgress {
    /// Of all ranks after the last step; of this one as of now.
    pub state: DataLoaderState,
    /// Skipped by this rank since.
    skipped: Vec<Skipped>,
    path: PathBuf,
    /// Opened when the first record is skipped.
    file: Option<File>,
    max_skipped: u64,
    group: Arc<ProcessGroup>,
}

impl DataProgress {
    /// Continues from a state: what a run that was cut off skipped beyond it goes from the file.
    pub(crate) fn open(
        out: &Path,
        data: &Data,
        state: DataLoaderState,
        group: Arc<ProcessGroup>,
    ) -> Result<Self> {
        let path = out.join("skipped.jsonl");
        if group.is_main() && path.exists() {
            let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
            let written = state.skipped + state.left_out;
            let lines = text.split_inclusive('\n').take(written as usize);
            atomic::write(&path, lines.collect::<String>().as_bytes())?;
        }
        Ok(Self {
            state,
            skipped: Vec::new(),
            path,
            file: None,
            max_skipped: data.max_skipped,
            group,
        })
    }

    /// Notes where a worker of this rank stands in a source.
    pub(crate) fn moved(&mut self, worker: usize, source: usize, position: Position) {
        let workers = self.state.of_rank(self.group.rank()).len();
        let worker = self.group.rank() * workers + worker;
        if let Some(positions) = self.state.positions.get_mut(worker) {
            positions[source] = position;
        }
    }

    /// Notes records that cannot be used.
    ///
    /// Errors when these have become more than the recipe allows.
    pub(crate) fn skip(&mut self, skipped: &[Skipped]) -> Result<()> {
        for record in skipped {
            let same = |other: &Skipped| other.identity() == record.identity();
            if self.state.known.contains(&record.identity()) || self.skipped.iter().any(same) {
                continue;
            }
            self.skipped.push(record.clone());
            let records = self.skipped.iter().filter(|skipped| !skipped.picture);
            if self.state.skipped + records.count() as u64 > self.max_skipped {
                let skipped = std::mem::take(&mut self.skipped);
                self.count(&skipped)?;
            }
        }
        Ok(())
    }

    /// Learns at the end of a step where the other ranks stand and what they skipped.
    pub(crate) fn exchange(&mut self) -> Result<()> {
        let skipped = std::mem::take(&mut self.skipped);
        let own = self.state.of_rank(self.group.rank()).to_vec();
        let (positions, skipped): (Vec<_>, Vec<_>) =
            self.group.all_gather((own, skipped))?.into_iter().unzip();
        self.state.positions = positions.concat();
        self.count(&skipped.concat())
    }

    fn count(&mut self, skipped: &[Skipped]) -> Result<()> {
        for record in skipped {
            if !self.state.known.insert(record.identity()) {
                continue;
            }
            match record.picture {
                true => self.state.left_out += 1,
                false => self.state.skipped += 1,
            }
            if self.group.is_main() {
                let line = serde_json::to_string(record)
                    .map_err(|error| Error::failed(format!("{}: {error}", self.path.display())))?;
                self.write(&line).map_err(Error::io(&self.path))?;
            }
            if self.state.skipped > self.max_skipped {
                let Skipped {
                    shard, key, reason, ..
                } = record;
                return Err(Error::failed(format!(
                    "{} records could not be used, more than data.max_skipped = {}; the last is {} of {}: {reason}; \
                     all are in {}",
                    self.state.skipped,
                    self.max_skipped,
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
