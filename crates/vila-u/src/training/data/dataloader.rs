//! The dataloader: worker threads make samples, a few batches ahead of the step that needs them.
//!
//! Which worker makes a sample follows from the sample's number, and each makes its own in order: the
//! samples are the same however fast the workers are. A scene of the nano world is a function of its
//! number alone; a record comes from where its worker stands in the source.
//!
//! Of several ranks each has the samples of its own batches: of the numbers of a step's batch, all ranks'
//! together, the first `batch` are rank 0's, and so on. Each has workers of its own, which divide the sources
//! with those of all ranks.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::dataloader_state::{DataLoaderState, DataProgress, trained};
use crate::data::seed::mix;
use crate::data::stream::{Partition, Position, Skipped, Stream};
use crate::data::weights::{SourceChoice, choose};
use crate::data::{Record, Source};
use crate::training::recipe::Data;
use crate::training::run_folder::failure::Origin;
use crate::{Error, Result};

/// How many batches may wait; enough to bridge a slow one, few enough to stay small.
const AHEAD: usize = 2;
/// What the nano world is called where there could be a path.
const NANO: &str = "nano";

/// Makes samples of scenes and records; each worker has its own.
pub(crate) trait MakeSample: Clone + Send + 'static {
    /// Plain host memory.
    type Sample: Send + 'static;

    /// Sample `n` of the nano world.
    fn scene(&self, n: u64) -> Result<Self::Sample>;

    /// What sample `n` of the nano world is called.
    fn scene_key(&self, n: u64) -> String {
        n.to_string()
    }

    /// Sample `n`, of a record. `n` seeds anything random in it.
    ///
    /// Errors say why the record cannot be used.
    fn record(&self, n: u64, record: Record) -> Result<Self::Sample>;
}

/// A sample after its key and its shard, if it is from one.
type Keyed<S> = (String, Option<PathBuf>, S);

/// What a worker sends.
struct WorkerOutput<S> {
    /// None when it has skipped more than it may.
    sample: Option<Keyed<S>>,
    /// What it skipped on the way to the sample.
    skipped: Vec<Skipped>,
    /// Where it then stands in the sample's source.
    position: Position,
}

/// Which samples are a rank's.
#[derive(Clone, Copy)]
pub(crate) struct RankShare {
    pub rank: usize,
    pub ranks: usize,
    /// Samples of a rank that follow each other.
    pub batch: usize,
}

impl RankShare {
    /// The number among all samples of this rank's own `n`.
    fn number(self, n: u64) -> u64 {
        let (batch, rank, ranks) = (self.batch as u64, self.rank as u64, self.ranks as u64);
        (n / batch * ranks + rank) * batch + n % batch
    }
}

pub(crate) struct DataLoader<S> {
    workers: Vec<Receiver<Result<WorkerOutput<S>>>>,
    /// The paths of the sources.
    names: Vec<String>,
    weights: Vec<f64>,
    /// Number of the next sample, of this rank's own.
    n: u64,
}

impl<S: Send + 'static> DataLoader<S> {
    /// Starts with the rank's own sample `first`, from a state. The threads end when this is dropped.
    pub(crate) fn start<M: MakeSample<Sample = S>>(
        maker: &M,
        data: &Data,
        seed: u64,
        share: RankShare,
        state: &DataLoaderState,
        first: u64,
    ) -> Self {
        let sources: Vec<Source> = trained(data).cloned().collect();
        let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        let readers = data.num_workers * share.ranks;
        let start = |worker| {
            let (sender, receiver) = sync_channel((AHEAD * share.batch).div_ceil(data.num_workers));
            let worker = Worker {
                maker: maker.clone(),
                weights: weights.clone(),
                part: Partition {
                    index: worker,
                    of: data.num_workers,
                },
                share,
                most: usize::try_from(data.max_skipped).unwrap_or(usize::MAX),
                sender,
            };
            let positions = state.of_rank(share.rank).get(worker.part.index).cloned();
            let (sources, buffer) = (sources.clone(), data.shuffle_buffer.div_ceil(readers));
            let part = Partition {
                index: share.rank * data.num_workers + worker.part.index,
                of: readers,
            };
            thread::spawn(move || {
                if sources.is_empty() {
                    worker.scenes(first);
                    return;
                }
                let positions = positions.unwrap_or_default();
                let streams = sources.iter().zip(positions).zip(0..);
                let streams = streams.map(|((source, position), number)| {
                    Stream::new(source, mix(seed, number), part, buffer, position)
                });
                match streams.collect() {
                    Ok(streams) => worker.records(streams, first),
                    Err(error) => {
                        let _ = worker.sender.send(Err(error));
                    }
                }
            });
            receiver
        };
        let names = if sources.is_empty() {
            vec![NANO.to_string()]
        } else {
            sources.iter().map(|source| source.path.clone()).collect()
        };
        Self {
            workers: (0..data.num_workers).map(start).collect(),
            names,
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
        (0..count).map(|_| self.sample(progress)).collect()
    }

    fn sample(&mut self, progress: &mut DataProgress) -> Result<LoadedSample<S>> {
        let (source, worker) = source_and_worker(&self.weights, self.n, self.workers.len());
        self.n += 1;
        let stopped = || Error::failed("the data reader stopped unexpectedly");
        let made = self.workers[worker].recv().map_err(|_| stopped())??;
        progress.skip(&made.skipped)?;
        progress.moved(worker, source, made.position);
        let (key, shard, sample) = made.sample.ok_or_else(stopped)?;
        let source = self.names[source].clone();
        let origin = Origin { source, shard, key };
        Ok(LoadedSample { origin, sample })
    }
}

/// The source of sample `n`, and the worker that makes it: the source's samples go around.
fn source_and_worker(weights: &[f64], n: u64, workers: usize) -> (usize, usize) {
    let SourceChoice { source, number } = if weights.is_empty() {
        SourceChoice {
            source: 0,
            number: n,
        }
    } else {
        choose(weights, n)
    };
    (source, (number % workers as u64) as usize)
}

struct Worker<M: MakeSample> {
    maker: M,
    weights: Vec<f64>,
    /// Among the workers of the rank.
    part: Partition,
    share: RankShare,
    /// Records that may be skipped.
    most: usize,
    sender: SyncSender<Result<WorkerOutput<M::Sample>>>,
}

impl<M: MakeSample> Worker<M> {
    /// The number and the source of each sample that is this worker's, from the rank's own `first` on.
    fn turns(&self, first: u64) -> impl Iterator<Item = (u64, usize)> {
        (first..).filter_map(|n| {
            let (source, worker) = source_and_worker(&self.weights, n, self.part.of);
            (worker == self.part.index).then(|| (self.share.number(n), source))
        })
    }

    fn scenes(self, first: u64) {
        for (n, _) in self.turns(first) {
            let made = self.maker.scene(n).map(|sample| WorkerOutput {
                sample: Some((self.maker.scene_key(n), None, sample)),
                skipped: Vec::new(),
                position: Position::default(),
            });
            let failed = made.is_err();
            if self.sender.send(made).is_err() || failed {
                return;
            }
        }
    }

    fn records(self, mut streams: Vec<Stream>, first: u64) {
        for (n, source) in self.turns(first) {
            let stream = &mut streams[source];
            let mut skipped = Vec::new();
            let made = first_usable(&self.maker, n, stream, &mut skipped, self.most);
            let made = made.map(|sample| WorkerOutput {
                sample,
                skipped,
                position: stream.position(),
            });
            let ended = !matches!(&made, Ok(made) if made.sample.is_some());
            if self.sender.send(made).is_err() || ended {
                return;
            }
        }
    }
}

/// The next sample that can be made; none when more than `most` records were skipped.
fn first_usable<M: MakeSample>(
    maker: &M,
    n: u64,
    stream: &mut Stream,
    skipped: &mut Vec<Skipped>,
    most: usize,
) -> Result<Option<Keyed<M::Sample>>> {
    while let Some(found) = stream.next(skipped, most)? {
        let key = found.record.id.clone();
        match maker.record(n, found.record) {
            Ok(sample) => return Ok(Some((key, Some(found.shard), sample))),
            Err(error) => skipped.push(Skipped {
                shard: found.shard,
                key,
                reason: error.to_string(),
            }),
        }
        if skipped.len() > most {
            break;
        }
    }
    Ok(None)
}

/// A sample and where it is from.
pub(crate) struct LoadedSample<S> {
    pub origin: Origin,
    pub sample: S,
}

/// The first samples of some sources, in proportion to their weights: at most `count`, none twice. Of
/// no sources, scenes of the nano world.
///
/// Errors when there are none, or too many records have to be skipped.
pub(crate) fn first_samples<M: MakeSample>(
    maker: &M,
    sources: &[Source],
    most: u64,
    count: usize,
) -> Result<Vec<LoadedSample<M::Sample>>> {
    let whole = Partition { index: 0, of: 1 };
    let start = |source| Stream::new(source, 0, whole, count, Position::default());
    let mut streams: Vec<Stream> = sources.iter().map(start).collect::<Result<_>>()?;
    let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
    let mut samples = Vec::new();
    let mut skipped = Vec::new();
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    for n in 0..count as u64 {
        if sources.is_empty() {
            samples.push(LoadedSample {
                origin: Origin {
                    source: NANO.into(),
                    shard: None,
                    key: maker.scene_key(n),
                },
                sample: maker.scene(n)?,
            });
            continue;
        }
        let (source, _) = source_and_worker(&weights, n, 1);
        let stream = &mut streams[source];
        let path = &sources[source].path;
        let Some((key, shard, sample)) = first_usable(maker, n, stream, &mut skipped, most)? else {
            let last = skipped.last();
            let reason = last.map_or("", |skipped| skipped.reason.as_str());
            return Err(Error::failed(format!(
                "{path}: more than {most} records cannot be used; the last: {reason}"
            )));
        };
        if stream.epoch() > 0 {
            break;
        }
        let source = path.clone();
        let origin = Origin { source, shard, key };
        samples.push(LoadedSample { origin, sample });
    }
    Ok(samples)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::data::DatasetFormat;
    use crate::training::distributed::ProcessGroup;

    /// A sample is the record's key.
    #[derive(Clone)]
    struct Keys;

    impl MakeSample for Keys {
        type Sample = String;

        fn scene(&self, n: u64) -> Result<String> {
            Ok(n.to_string())
        }

        fn record(&self, _n: u64, record: Record) -> Result<String> {
            Ok(record.id)
        }
    }

    #[test]
    fn ranks_and_their_workers_read_every_record_once() {
        let folder = tempfile::tempdir().unwrap();
        for shard in 0..3 {
            let line = |n| {
                format!(
                    r#"{{"id": {}, "conversations": [{{"from": "human", "value": "Hi"}}]}}"#,
                    4 * shard + n
                )
            };
            let lines: Vec<String> = (0..4).map(line).collect();
            fs::write(
                folder.path().join(format!("{shard}.jsonl")),
                lines.join("\n"),
            )
            .unwrap();
        }
        let data = Data {
            num_workers: 2,
            shuffle_buffer: 4,
            sources: vec![Source {
                format: DatasetFormat::Llava,
                path: folder.path().join("*.jsonl").to_str().unwrap().into(),
                folder: None,
                form: None,
                weight: 1.0,
                held_out: false,
            }],
            ..Data::default()
        };
        let state = DataLoaderState::start(&data, 2).unwrap();
        let mut seen = Vec::new();
        for index in 0..2 {
            let share = RankShare {
                rank: index,
                ranks: 2,
                batch: 1,
            };
            let mut samples = DataLoader::start(&Keys, &data, 1, share, &state, 0);
            let group = Arc::<ProcessGroup>::default();
            let mut progress =
                DataProgress::open(folder.path(), &data, state.clone(), group).unwrap();
            for loaded in samples.next_batch(6, &mut progress).unwrap() {
                assert_eq!(loaded.origin.key, loaded.sample);
                seen.push(loaded.sample.parse::<u32>().unwrap());
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn ranks_divide_the_batches_of_one() {
        let share = |rank, ranks| RankShare {
            rank,
            ranks,
            batch: 3,
        };
        let numbers =
            |rank, ranks| -> Vec<u64> { (0..6).map(|n| share(rank, ranks).number(n)).collect() };
        assert_eq!(numbers(0, 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(numbers(0, 2), [0, 1, 2, 6, 7, 8]);
        assert_eq!(numbers(1, 2), [3, 4, 5, 9, 10, 11]);
    }
}
