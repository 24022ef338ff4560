//! The dataloader: worker threads make samples of records, a few batches ahead of the step that needs them.
//!
//! Which worker makes a sample follows from the sample's number, and each makes its own in order: the
//! samples are the same however fast the workers are. A record comes from where its worker stands in the
//! sample's source.
//!
//! Of several ranks each has the samples of its own batches (see [`Partition`]), and workers of its own, which
//! divide the sources with those of all ranks.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::dataloader_state::{DataLoaderState, DataProgress, trained};
use crate::data::partition::Partition;
use crate::data::seed::mix;
use crate::data::stream::{EMPTY_EPOCHS, ReadOptions, Skipped, SkippedRecords};
use crate::data::weights::choose;
use crate::data::worker_stream::{WorkerPosition, WorkerStream};
use crate::data::{KindWeights, Record, Source};
use crate::training::recipe::Data;
use crate::training::run_folder::failure::Origin;
use crate::{Error, Result};

/// How many batches may wait; enough to bridge a slow one, few enough to stay small.
const AHEAD: usize = 2;

/// Makes samples of records; each worker has its own.
pub(crate) trait MakeSample: Clone + Send + 'static {
    /// Plain host memory.
    type Sample: Send + 'static;

    /// How often each kind of sample comes, where a source has a choice.
    fn kinds(&self) -> KindWeights;

    /// Sample `n`, of a record. `n` seeds anything random in it.
    ///
    /// Errors say why the record cannot be used.
    fn make(&self, n: u64, record: Record) -> Result<Self::Sample>;

    /// Why pictures of the record are not in the sample.
    fn left_out(_sample: &Self::Sample) -> &[String] {
        &[]
    }
}

/// A sample after its key and its shard.
type Keyed<S> = (String, PathBuf, S);

/// What a worker sends.
struct WorkerOutput<S> {
    /// None when it has skipped more than it may.
    sample: Option<Keyed<S>>,
    /// What it skipped on the way to the sample, and of the sample.
    skipped: Vec<Skipped>,
    /// Where it then stands in the sample's source.
    position: WorkerPosition,
}

/// A sample and where it is from.
pub(crate) struct LoadedSample<S> {
    pub origin: Origin,
    pub sample: S,
}

impl<S> LoadedSample<S> {
    fn new(source: &str, (key, shard, sample): Keyed<S>) -> Self {
        let origin = Origin {
            source: source.to_string(),
            shard,
            key,
        };
        Self { origin, sample }
    }
}

/// The first samples of some sources, and what was skipped before and between them.
pub(crate) struct FirstSamples<S> {
    pub samples: Vec<LoadedSample<S>>,
    pub skipped: Vec<Skipped>,
}

pub(crate) struct DataLoader<S> {
    workers: Vec<Receiver<Result<WorkerOutput<S>>>>,
    names: Vec<String>,
    weights: Vec<f64>,
    /// Number of the next sample, of this rank's own.
    n: u64,
}

impl<S: Send + 'static> DataLoader<S> {
    /// Starts with the rank's own sample `first`, from a state. `rank`: what its workers divide. The threads end
    /// when this is dropped.
    pub(crate) fn start<M: MakeSample<Sample = S>>(
        maker: &M,
        data: &Data,
        seed: u64,
        rank: Partition,
        state: &DataLoaderState,
        first: u64,
    ) -> Self {
        let sources: Vec<Source> = trained(data).cloned().collect();
        let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        let start = |worker| {
            let partition = Partition {
                worker,
                workers: data.num_workers,
                ..rank
            };
            let (sender, receiver) = sync_channel((AHEAD * rank.batch).div_ceil(data.num_workers));
            let worker = Worker {
                maker: maker.clone(),
                sources: sources.clone(),
                weights: weights.clone(),
                partition,
                shuffle_buffer: data.shuffle_buffer.div_ceil(data.num_workers * rank.ranks),
                seed,
                max_skipped: usize::try_from(data.max_skipped).unwrap_or(usize::MAX),
                sender,
            };
            let positions = state.of_rank(rank.rank).get(partition.worker).cloned();
            thread::spawn(move || worker.run(&positions.unwrap_or_default(), first));
            receiver
        };
        Self {
            workers: (0..data.num_workers).map(start).collect(),
            names: sources
                .iter()
                .map(|source| source.name().to_string())
                .collect(),
            weights,
            n: first,
        }
    }

    /// The next samples in order; notes where that leads to and what was skipped.
    pub(crate) fn next_batch(
        &mut self,
        count: usize,
        progress: &mut DataProgress,
    ) -> Result<Vec<LoadedSample<S>>> {
        (0..count).map(|_| self.next_sample(progress)).collect()
    }

    fn next_sample(&mut self, progress: &mut DataProgress) -> Result<LoadedSample<S>> {
        let (source, worker) = source_and_worker(&self.weights, self.n, self.workers.len());
        self.n += 1;
        let stopped = || Error::failed("the data reader stopped unexpectedly");
        let made = self.workers[worker].recv().map_err(|_| stopped())??;
        progress.skip(&made.skipped)?;
        progress.moved(worker, source, made.position);
        let sample = made.sample.ok_or_else(stopped)?;
        Ok(LoadedSample::new(&self.names[source], sample))
    }
}

/// The source of sample `n`, and the worker that makes it: the source's samples go around.
fn source_and_worker(weights: &[f64], n: u64, workers: usize) -> (usize, usize) {
    let choice = choose(weights, n);
    (choice.source, (choice.number % workers as u64) as usize)
}

struct Worker<M: MakeSample> {
    maker: M,
    sources: Vec<Source>,
    weights: Vec<f64>,
    partition: Partition,
    shuffle_buffer: usize,
    seed: u64,
    max_skipped: usize,
    sender: SyncSender<Result<WorkerOutput<M::Sample>>>,
}

impl<M: MakeSample> Worker<M> {
    /// Sends sample after sample, from the rank's own `first` and a position in each source on.
    fn run(self, positions: &[WorkerPosition], first: u64) {
        match self.streams(positions) {
            Ok(streams) => self.send_samples(streams, first),
            Err(error) => {
                let _ = self.sender.send(Err(error));
            }
        }
    }

    fn streams(&self, positions: &[WorkerPosition]) -> Result<Vec<WorkerStream>> {
        let streams = self.sources.iter().zip(positions).zip(0..);
        let streams = streams.map(|((source, position), number)| {
            let options = ReadOptions {
                kinds: self.maker.kinds(),
                seed: self.seed,
                shuffle_seed: mix(self.seed, number),
                shuffle_buffer: self.shuffle_buffer,
                partition: self.partition,
            };
            WorkerStream::new(source, options, position.clone())
        });
        streams.collect()
    }

    fn send_samples(self, mut streams: Vec<WorkerStream>, first: u64) {
        for n in first.. {
            let Partition {
                worker, workers, ..
            } = self.partition;
            let (source, turn) = source_and_worker(&self.weights, n, workers);
            if turn != worker {
                continue;
            }
            let stream = &mut streams[source];
            let number = self.partition.global(n);
            let made = next_usable(&self.maker, number, stream, self.max_skipped);
            let ended = !matches!(&made, Ok(made) if made.sample.is_some());
            if self.sender.send(made).is_err() || ended {
                return;
            }
        }
    }
}

/// The next sample that can be made, and what was skipped; none when these are more than `max_skipped` records.
///
/// Errors when there are only records that cannot be used.
fn next_usable<M: MakeSample>(
    maker: &M,
    n: u64,
    stream: &mut WorkerStream,
    max_skipped: usize,
) -> Result<WorkerOutput<M::Sample>> {
    let mut skipped = SkippedRecords::default();
    let first = stream.epoch();
    while let Some(found) = stream.next(&mut skipped, max_skipped)? {
        let key = found.record.id.clone();
        let because = |reason: String, picture| Skipped {
            shard: found.shard.clone(),
            record: found.number,
            key: key.clone(),
            reason,
            picture,
        };
        match maker.make(n, found.record) {
            Ok(sample) => {
                for reason in M::left_out(&sample) {
                    skipped.push(because(reason.clone(), true));
                }
                return Ok(WorkerOutput {
                    sample: Some((key, found.shard, sample)),
                    skipped: skipped.into_vec(),
                    position: stream.position(),
                });
            }
            Err(error) if stream.epoch().saturating_sub(first) > EMPTY_EPOCHS => {
                let shard = found.shard.display();
                return Err(Error::usage(format!(
                    "{shard}: none of the samples can be used; the last: {error}"
                )));
            }
            Err(error) => skipped.push(because(error.to_string(), false)),
        }
        if skipped.len() > max_skipped {
            break;
        }
    }
    Ok(WorkerOutput {
        sample: None,
        skipped: skipped.into_vec(),
        position: stream.position(),
    })
}

/// The first samples of some sources, in proportion to their weights: at most `count`, none twice. `seed`: of
/// records that are no files.
///
/// Errors when there are none, or too many records have to be skipped.
pub(crate) fn first_samples<M: MakeSample>(
    maker: &M,
    sources: &[Source],
    seed: u64,
    max_skipped: u64,
    count: usize,
) -> Result<FirstSamples<M::Sample>> {
    let mut reader = FirstSamplesReader::new(maker, sources, seed, max_skipped, count)?;
    let mut samples = Vec::new();
    while let Some(sample) = reader.next_sample()? {
        samples.push(sample);
    }
    Ok(FirstSamples {
        samples,
        skipped: reader.into_skipped(),
    })
}

/// The same, one after the other: a sample in memory at a time.
pub(crate) struct FirstSamplesReader<'a, M> {
    maker: &'a M,
    sources: &'a [Source],
    weights: Vec<f64>,
    streams: Vec<WorkerStream>,
    skipped: SkippedRecords,
    max_skipped: usize,
    /// Number of the next sample, below `count`.
    n: u64,
    count: u64,
}

impl<'a, M: MakeSample> FirstSamplesReader<'a, M> {
    pub(crate) fn new(
        maker: &'a M,
        sources: &'a [Source],
        seed: u64,
        max_skipped: u64,
        count: usize,
    ) -> Result<Self> {
        let start = |source| {
            let options = ReadOptions {
                kinds: maker.kinds(),
                seed,
                shuffle_seed: 0,
                shuffle_buffer: count,
                partition: Partition::WHOLE,
            };
            WorkerStream::new(source, options, WorkerPosition::default())
        };
        Ok(Self {
            maker,
            sources,
            weights: sources.iter().map(|source| source.weight).collect(),
            streams: sources.iter().map(start).collect::<Result<_>>()?,
            skipped: SkippedRecords::default(),
            max_skipped: usize::try_from(max_skipped).unwrap_or(usize::MAX),
            n: 0,
            count: count as u64,
        })
    }

    /// None after the last.
    pub(crate) fn next_sample(&mut self) -> Result<Option<LoadedSample<M::Sample>>> {
        if self.n >= self.count {
            return Ok(None);
        }
        let (source, _) = source_and_worker(&self.weights, self.n, 1);
        let (stream, name) = (&mut self.streams[source], self.sources[source].name());
        let made = next_usable(self.maker, self.n, stream, self.max_skipped)?;
        made.skipped
            .into_iter()
            .for_each(|one| self.skipped.push(one));
        if made.sample.is_none() || self.skipped.len() > self.max_skipped {
            let last = self.skipped.last();
            let reason = last.map_or("", |skipped| skipped.reason.as_str());
            return Err(Error::failed(format!(
                "{name}: more than {} records cannot be used; the last: {reason}",
                self.max_skipped
            )));
        }
        self.n += 1;
        let first = stream.epoch() == 0;
        Ok(made
            .sample
            .filter(|_| first)
            .map(|sample| LoadedSample::new(name, sample)))
    }

    /// What was skipped so far.
    pub(crate) fn into_skipped(self) -> Vec<Skipped> {
        self.skipped.into_vec()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
