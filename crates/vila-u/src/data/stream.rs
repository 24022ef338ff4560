//! The records of one source in a shuffled order that never ends, and can be gone on with from any
//! place.
//!
//! In every epoch the shards come in a new order and are divided among the ranks and their workers; where
//! there are fewer shards than these, each takes its share of every shard's records. Records go through a buffer that is filled, shuffled and emptied: to go on from a
//! [`Position`], the buffer is filled again from where its filling began.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
};

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    formats::{Bad, Records},
    partition::Partition,
    record::Record,
    sample_kind::KindWeights,
    seed::mix,
    source::Source,
};
use crate::{Error, Result};

/// A buffer is full with so many bytes as well.
const MOST_BYTES: usize = 64 << 20;
/// A source without a sample in so many epochs has none.
pub(crate) const EMPTY_EPOCHS: u64 = 64;

/// How a source is read.
#[derive(Clone, Debug)]
pub(crate) struct ReadOptions {
    /// How often each kind of sample comes, where the source has a choice.
    pub kinds: KindWeights,
    /// Of records that are no files.
    pub seed: u64,
    /// Of the order of shards and records.
    pub shuffle_seed: u64,
    /// Records that are shuffled together.
    pub shuffle_buffer: usize,
    pub partition: Partition,
}

/// Where a worker stands in its source: the start of the buffer's filling, and what was taken since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub epoch: u64,
    /// Index among the worker's shards of the epoch.
    pub shard: usize,
    /// Records of that shard before, usable or not, the other workers' too.
    pub record: u64,
    /// Records taken from the buffer.
    pub taken: usize,
}

/// A record that was skipped: where it is and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub shard: PathBuf,
    /// Its number in the shard, from 1; keys may come more than once.
    pub record: u64,
    pub key: String,
    pub reason: String,
    /// The record is used without one of its pictures, about which this is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub picture: bool,
}

impl Skipped {
    /// Tells a record, or a picture of one, from all others.
    pub(crate) fn identity(&self) -> u64 {
        let picture = self.picture.then_some(self.reason.as_str());
        let mut hasher = DefaultHasher::new();
        (&self.shard, self.record, picture).hash(&mut hasher);
        hasher.finish()
    }
}

/// What was skipped, each once however often it was met.
#[derive(Debug, Default)]
pub(crate) struct SkippedRecords {
    all: Vec<Skipped>,
    seen: HashSet<u64>,
}

impl SkippedRecords {
    pub(crate) fn push(&mut self, skipped: Skipped) {
        if self.seen.insert(skipped.identity()) {
            self.all.push(skipped);
        }
    }

    /// How many records; pictures that are left out of one are none.
    pub(crate) fn len(&self) -> usize {
        self.all.iter().filter(|skipped| !skipped.picture).count()
    }

    pub(crate) fn last(&self) -> Option<&Skipped> {
        self.all.last()
    }

    pub(crate) fn into_vec(self) -> Vec<Skipped> {
        self.all
    }
}

/// A record and the shard that it is from.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub record: Record,
    pub shard: PathBuf,
    /// Its number in the shard, from 1.
    pub number: u64,
}

pub(crate) struct Stream {
    source: Source,
    shards: Vec<PathBuf>,
    options: ReadOptions,
    /// Where the buffer's filling began.
    start: Position,
    taken: usize,
    /// What is left of the buffer, the last first.
    buffer: Vec<Found>,
    /// Where filling goes on.
    next: Position,
    /// The shards of the epoch of `next`.
    order: Vec<usize>,
    open: Option<Records>,
    /// After which it ends, if it does.
    last_epoch: Option<u64>,
}

impl Stream {
    /// A worker's part of a source, from a position on.
    ///
    /// Errors when the pattern names nothing.
    pub(crate) fn new(
        source: &Source,
        mut options: ReadOptions,
        position: Position,
    ) -> Result<Self> {
        if source.is_endless() {
            options.shuffle_buffer = 1;
        }
        let mut stream = Self {
            source: source.clone(),
            shards: source.shards()?,
            options,
            start: position,
            taken: 0,
            buffer: Vec::new(),
            next: Position {
                taken: 0,
                ..position
            },
            order: Vec::new(),
            open: None,
            last_epoch: None,
        };
        stream.order = stream.order_of(position.epoch);
        if position.taken > 0 {
            // What was skipped in this filling was counted when it was first filled.
            stream.fill(&mut SkippedRecords::default(), usize::MAX)?;
            let left = stream.buffer.len().saturating_sub(position.taken);
            stream.buffer.truncate(left);
            stream.taken = position.taken;
        }
        Ok(stream)
    }

    /// The same, ending with an epoch.
    pub(crate) fn until(mut self, last_epoch: u64) -> Self {
        self.last_epoch = Some(last_epoch);
        self
    }

    /// Whether there are no more records.
    pub(crate) fn has_ended(&self) -> bool {
        self.buffer.is_empty() && self.is_at_the_end()
    }

    fn is_at_the_end(&self) -> bool {
        self.next.shard >= self.order.len()
            && self.last_epoch.is_some_and(|last| self.next.epoch >= last)
    }

    /// The epoch of the last record.
    pub(crate) fn epoch(&self) -> u64 {
        self.start.epoch
    }

    /// Where [`Self::new`] has to begin to go on with the next record.
    pub(crate) fn position(&self) -> Position {
        if self.buffer.is_empty() {
            self.next
        } else {
            Position {
                taken: self.taken,
                ..self.start
            }
        }
    }

    /// The next record; those that cannot be used are added to `skipped`. None when these have become
    /// more than `most`, or when it [has ended](Self::has_ended).
    ///
    /// Errors when the source has no records.
    pub(crate) fn next(
        &mut self,
        skipped: &mut SkippedRecords,
        most: usize,
    ) -> Result<Option<Found>> {
        if self.buffer.is_empty() {
            self.fill(skipped, most)?;
        }
        self.taken += 1;
        Ok(self.buffer.pop())
    }

    /// Fills the buffer with what is left of the epoch, or of the next one with a record, as far as it
    /// holds it. It stays empty only if more than `most` are skipped, or at the end.
    fn fill(&mut self, skipped: &mut SkippedRecords, most: usize) -> Result<()> {
        (self.start, self.taken) = (self.next, 0);
        let first = self.next.epoch;
        let mut bytes = 0;
        while self.buffer.len() < self.options.shuffle_buffer.max(1) && bytes < MOST_BYTES {
            if self.next.shard >= self.order.len() {
                if !self.buffer.is_empty() || self.is_at_the_end() {
                    break;
                }
                if self.next.epoch - first == EMPTY_EPOCHS {
                    let name = self.source.name();
                    let reason = match skipped.last() {
                        Some(last) => format!(" can be used; the last: {}", last.reason),
                        None => String::new(),
                    };
                    return Err(Error::usage(format!(
                        "{name}: no sample in these files{reason}"
                    )));
                }
                self.begin_epoch(self.next.epoch + 1);
                self.start = self.next;
                continue;
            }
            match self.read() {
                Some(Ok(found)) => {
                    bytes += found.record.size();
                    self.buffer.push(found);
                }
                Some(Err(bad)) => {
                    skipped.push(bad);
                    if skipped.len() > most {
                        self.buffer.clear();
                        return Ok(());
                    }
                }
                None => {
                    self.open = None;
                    self.next.shard += 1;
                    self.next.record = 0;
                }
            }
        }
        let at = mix(self.start.epoch, self.start.shard as u64);
        let seed = mix(mix(self.options.shuffle_seed, at), self.start.record);
        self.buffer.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        Ok(())
    }

    /// The worker's next record of the shard that is open, which it opens; none at its end.
    fn read(&mut self) -> Option<std::result::Result<Found, Skipped>> {
        let index = self.order[self.next.shard];
        let shard = self.shards[index].clone();
        let records = match &mut self.open {
            Some(records) => records,
            closed => {
                let (kinds, seed) = (&self.options.kinds, self.options.seed);
                let opened = match self.source.open(&shard, self.next.epoch, kinds, seed) {
                    Ok(mut records) => {
                        // The others' and what was read before.
                        if let Some(last) = self.next.record.checked_sub(1) {
                            records.nth(last as usize);
                        }
                        records
                    }
                    // Read as a shard with nothing but this in it; it is the first record's.
                    Err(error) => Box::new(
                        std::iter::once(Err(Bad {
                            key: "shard".into(),
                            reason: error.to_string(),
                        }))
                        .skip(self.next.record as usize),
                    ),
                };
                closed.insert(opened)
            }
        };
        let partition = self.options.partition;
        let others = if self.shards.len() >= partition.count() {
            0
        } else {
            let first = index as u64 + self.next.epoch + self.next.record;
            let own = (first..).find(|number| partition.takes(*number))?;
            own - first
        };
        let record = records.nth(others as usize)?;
        self.next.record += others + 1;
        let number = self.next.record;
        Some(match record {
            Ok(record) => Ok(Found {
                record,
                shard,
                number,
            }),
            Err(Bad { key, reason }) => Err(Skipped {
                shard,
                record: number,
                key,
                reason,
                picture: false,
            }),
        })
    }

    fn begin_epoch(&mut self, epoch: u64) {
        self.open = None;
        self.next = Position {
            epoch,
            ..Position::default()
        };
        self.order = self.order_of(epoch);
    }

    /// The worker's shards of an epoch, in order.
    fn order_of(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(mix(
            self.options.shuffle_seed,
            epoch,
        )));
        let partition = self.options.partition;
        if order.len() < partition.count() {
            return order;
        }
        let own = order.into_iter().skip(partition.index());
        own.step_by(partition.count()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
