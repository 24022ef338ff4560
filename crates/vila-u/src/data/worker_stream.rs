//! What a worker reads of a source: first what workers of an earlier division of it have left of an epoch, then
//! its own part.
//!
//! A run may go on with another number of ranks or workers than it began with. Their parts of an epoch that has
//! begun are then not those of the workers before, so these parts are read to the end as they were divided, each by one
//! of the new workers, which begin with their own in the epoch after: no record is lost, none is read twice.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::partition::Partition;
use super::source::Source;
use super::stream::{Found, Position, ReadOptions, SkippedRecords, Stream};
use crate::Result;

/// Where a worker stands in a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerPosition {
    /// In its own part.
    #[serde(flatten)]
    pub own: Position,
    /// What it reads before that.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub left: VecDeque<Leftover>,
}

/// The rest of a part of another division.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leftover {
    pub partition: Partition,
    pub shuffle_buffer: usize,
    pub position: Position,
    /// The last epoch that is divided like this.
    pub last_epoch: u64,
}

/// Divides anew what the workers `before` have not read, of a source that is read through buffers of `shuffle_buffer`
/// records.
pub(crate) fn redistribute(
    before: Vec<(Partition, WorkerPosition)>,
    shuffle_buffer: usize,
    is_endless: bool,
    workers: usize,
) -> Vec<WorkerPosition> {
    if is_endless {
        // Its records are made, not lost: all go on behind the last that was read.
        let positions = before.iter().map(|(_, position)| position.own);
        let own = positions.max_by_key(|own| (own.epoch, own.shard, own.record));
        let position = WorkerPosition {
            own: own.unwrap_or_default(),
            left: VecDeque::new(),
        };
        return vec![position; workers];
    }
    let last_begun = |own: Position| match own.shard == 0 && own.record == 0 && own.taken == 0 {
        true => own.epoch.checked_sub(1),
        false => Some(own.epoch),
    };
    let last = before.iter().filter_map(|(_, at)| last_begun(at.own)).max();
    let Some(last_epoch) = last else {
        return vec![WorkerPosition::default(); workers];
    };
    let own = Position {
        epoch: last_epoch + 1,
        ..Position::default()
    };
    let mut dealt = vec![
        WorkerPosition {
            own,
            left: VecDeque::new()
        };
        workers
    ];
    let leftovers = before.into_iter().flat_map(|(partition, at)| {
        let own = (at.own.epoch <= last_epoch).then_some(Leftover {
            partition,
            shuffle_buffer,
            position: at.own,
            last_epoch,
        });
        at.left.into_iter().chain(own)
    });
    for (number, leftover) in leftovers.enumerate() {
        dealt[number % workers].left.push_back(leftover);
    }
    dealt
}

/// The records of a worker.
pub(crate) struct WorkerStream {
    source: Source,
    options: ReadOptions,
    position: WorkerPosition,
    /// Of the first leftover, or of the worker's own part.
    current: Stream,
}

impl WorkerStream {
    /// From a position on. `options` are those of the worker's own part.
    ///
    /// Errors when the pattern names nothing.
    pub(crate) fn new(
        source: &Source,
        options: ReadOptions,
        position: WorkerPosition,
    ) -> Result<Self> {
        Ok(Self {
            current: open(source, &options, &position)?,
            source: source.clone(),
            options,
            position,
        })
    }

    /// The epoch of the last record.
    pub(crate) fn epoch(&self) -> u64 {
        self.current.epoch()
    }

    /// Where [`Self::new`] has to begin to go on with the next record.
    pub(crate) fn position(&self) -> WorkerPosition {
        let mut position = self.position.clone();
        match position.left.front_mut() {
            Some(leftover) => leftover.position = self.current.position(),
            None => position.own = self.current.position(),
        }
        position
    }

    /// See [`Stream::next`].
    pub(crate) fn next(
        &mut self,
        skipped: &mut SkippedRecords,
        most: usize,
    ) -> Result<Option<Found>> {
        loop {
            let found = self.current.next(skipped, most)?;
            if found.is_some() || !self.current.has_ended() {
                return Ok(found);
            }
            self.position.left.pop_front();
            self.current = open(&self.source, &self.options, &self.position)?;
        }
    }
}

fn open(source: &Source, options: &ReadOptions, position: &WorkerPosition) -> Result<Stream> {
    let mut options = options.clone();
    let Some(leftover) = position.left.front() else {
        return Stream::new(source, options, position.own);
    };
    options.partition = leftover.partition;
    options.shuffle_buffer = leftover.shuffle_buffer;
    let stream = Stream::new(source, options, leftover.position)?;
    Ok(stream.until(leftover.last_epoch))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::data::formats::DatasetFormat;
    use crate::data::sample_kind::KindWeights;

    const BUFFER: usize = 12;

    /// All workers of so many ranks, where they stand.
    type Workers = Vec<(Partition, WorkerPosition)>;

    fn partitions(ranks: usize, workers: usize) -> impl Iterator<Item = Partition> {
        (0..ranks * workers).map(move |index| Partition {
            rank: index / workers,
            ranks,
            worker: index % workers,
            workers,
            batch: 2,
        })
    }

    /// Takes `count` records by turns and counts how often each was read in each epoch.
    fn read(source: &Source, at: Workers, count: usize, seen: &mut Seen) -> Workers {
        let buffer = BUFFER.div_ceil(at.len());
        let open = |(partition, position): (Partition, WorkerPosition)| {
            let options = ReadOptions {
                kinds: KindWeights::default(),
                seed: 5,
                shuffle_seed: 5,
                shuffle_buffer: buffer,
                partition,
            };
            (
                partition,
                WorkerStream::new(source, options, position).unwrap(),
            )
        };
        let mut streams: Vec<_> = at.into_iter().map(open).collect();
        for number in 0..count {
            let turn = number % streams.len();
            let stream = &mut streams[turn].1;
            let skipped = &mut SkippedRecords::default();
            let found = stream.next(skipped, usize::MAX).unwrap().unwrap();
            *seen.entry((stream.epoch(), found.record.id)).or_default() += 1;
        }
        let position =
            |(partition, stream): (Partition, WorkerStream)| (partition, stream.position());
        streams.into_iter().map(position).collect()
    }

    type Seen = BTreeMap<(u64, String), usize>;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_record_is_read_once_an_epoch_whoever_goes_on(
            shards in prop::collection::vec(1usize..9, 1..7),
            divisions in prop::collection::vec((1usize..4, 1usize..3, 0usize..25), 1..5),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut id = 0;
            for (shard, records) in shards.iter().enumerate() {
                let line = |id| format!(
                    r#"{{"id": {id}, "conversations": [{{"from": "human", "value": "Hi"}}]}}"#
                );
                let lines: Vec<String> = (id..id + records).map(line).collect();
                id += records;
                fs::write(folder.path().join(format!("{shard}.jsonl")), lines.join("\n")).unwrap();
            }
            let source = Source {
                format: DatasetFormat::Llava,
                path: folder.path().join("*.jsonl").to_str().unwrap().into(),
                folder: None,
                kind: None,
                weight: 1.0,
                held_out: false,
                gallery: 0.0,
                frames: 0.0,
            };
            let mut seen = Seen::new();
            let mut at = Workers::new();
            for (ranks, workers, count) in divisions {
                let new: Vec<Partition> = partitions(ranks, workers).collect();
                let buffer = BUFFER.div_ceil(at.len().max(1));
                let positions = redistribute(at, buffer, false, new.len());
                // As a checkpoint keeps it.
                let json = serde_json::to_string(&positions).unwrap();
                let positions: Vec<WorkerPosition> = serde_json::from_str(&json).unwrap();
                at = new.into_iter().zip(positions).collect();
                at = read(&source, at, count, &mut seen);
            }
            // The last division goes on until all are ahead: what was begun is then complete.
            let begun = seen.keys().map(|(epoch, _)| epoch + 1).max().unwrap_or_default();
            let is_behind = |(_, at): &(_, WorkerPosition)| !at.left.is_empty() || at.own.epoch <= begun;
            while at.iter().any(is_behind) {
                let count = 8 * at.len();
                at = read(&source, at, count, &mut seen);
            }
            for ((epoch, record), count) in &seen {
                prop_assert_eq!(*count, 1, "record {} of epoch {}", record, epoch);
            }
            for epoch in 0..begun {
                let read = seen.keys().filter(|(at, _)| *at == epoch).count();
                prop_assert_eq!(read, id, "epoch {}", epoch);
            }
        }
    }

    #[test]
    fn made_records_go_on_behind_the_last() {
        let at = |record| WorkerPosition {
            own: Position {
                record,
                ..Position::default()
            },
            ..WorkerPosition::default()
        };
        let before = partitions(2, 1).zip([at(7), at(9)]).collect();
        assert_eq!(redistribute(before, 1, true, 3), vec![at(9); 3]);
    }
}
