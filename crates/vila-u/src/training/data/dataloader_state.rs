//! The dataloader's state: where a run stands in its data, and which records it skipped on the way there.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::data::partition::Partition;
use crate::data::stream::Skipped;
use crate::data::worker_stream::{WorkerPosition, redistribute};
use crate::training::distributed::ProcessGroup;
use crate::training::recipe::Data;
use crate::{Error, Result, atomic};

/// What a checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataLoaderState {
    /// Each of them with its own workers.
    #[serde(default = "one")]
    pub ranks: usize,
    /// Samples of a batch.
    #[serde(default)]
    pub batch: usize,
    /// Of each worker in each source, rank after rank.
    pub positions: Vec<Vec<WorkerPosition>>,
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
    pub(crate) fn start(data: &Data, ranks: usize, batch: usize) -> Result<Self> {
        let sources: Vec<&Source> = trained(data).collect();
        let shards = sources.iter().map(|source| Ok(source.shards()?.len()));
        Ok(Self {
            ranks,
            batch,
            positions: vec![
                vec![WorkerPosition::default(); sources.len()];
                data.num_workers * ranks
            ],
            shards: shards.collect::<Result<_>>()?,
            skipped: 0,
            left_out: 0,
            known: BTreeSet::new(),
        })
    }

    /// The state for so many ranks, each with batches of so many samples, to go on from: where there were others before,
    /// what these have not read is divided anew.
    ///
    /// Errors when the run cannot go on from here with this data.
    pub(crate) fn divided(self, data: &Data, ranks: usize, batch: usize) -> Result<Self> {
        let mut new = Self::start(data, ranks, batch)?;
        if self.positions.is_empty() {
            return Err(Error::usage(
                "the checkpoint is of an older version, which did not keep where the nano world's samples are gone \
                 on with: start a new run from its model with --set init=FOLDER",
            ));
        }
        if self.shards != new.shards {
            return Err(Error::usage(format!(
                "recipe: data: the checkpoint was read from sources of {:?} shards, these are {:?}: resume with the \
                 data that the run began with",
                self.shards, new.shards,
            )));
        }
        let (before, now) = (self.positions.len(), new.positions.len());
        // Alone, a rank takes batches of any size one after the other.
        let same_batches = self.batch == batch || ranks == 1;
        if self.ranks == ranks && before == now && same_batches {
            return Ok(Self { batch, ..self });
        }
        let workers = (before / self.ranks.max(1)).max(1);
        let buffer = data.shuffle_buffer.div_ceil(before);
        for (index, source) in trained(data).enumerate() {
            let part = |(number, positions): (usize, &Vec<WorkerPosition>)| {
                let partition = Partition {
                    rank: number / workers,
                    ranks: self.ranks,
                    worker: number % workers,
                    workers,
                    // Not kept by older versions, whose batches are taken to be those of now.
                    batch: if self.batch == 0 { batch } else { self.batch },
                };
                (partition, positions.get(index).cloned().unwrap_or_default())
            };
            let parts = self.positions.iter().enumerate().map(part).collect();
            let dealt = redistribute(parts, buffer, source.is_endless(), now);
            for (positions, position) in new.positions.iter_mut().zip(dealt) {
                positions[index] = position;
            }
        }
        Ok(Self {
            ranks,
            batch,
            positions: new.positions,
            ..self
        })
    }

    /// The positions of one rank's workers.
    pub(crate) fn of_rank(&self, rank: usize) -> &[Vec<WorkerPosition>] {
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
    group: ProcessGroup,
}

impl DataProgress {
    /// Continues from a state: what a run that was cut off skipped beyond it goes from the file.
    pub(crate) fn open(
        out: &Path,
        data: &Data,
        state: DataLoaderState,
        group: ProcessGroup,
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
    pub(crate) fn moved(&mut self, worker: usize, source: usize, position: WorkerPosition) {
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
