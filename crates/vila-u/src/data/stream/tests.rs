//! Every record once an epoch, in an order that can be gone on with.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;

use super::*;
use crate::data::formats::DatasetFormat;
use crate::data::sample_kind::SampleKind;

/// Shards of LLaVA records with so many records each, named by their numbers over all shards; every
/// seventh cannot be used.
fn source(folder: &Path, shards: &[usize]) -> Source {
    let mut id = 0;
    for (shard, records) in shards.iter().enumerate() {
        let mut lines = String::new();
        for _ in 0..*records {
            let turns = match id % 7 {
                6 => "",
                _ => r#"{"from": "human", "value": "Hi"}"#,
            };
            lines += &format!("{{\"id\": {id}, \"conversations\": [{turns}]}}\n");
            id += 1;
        }
        fs::write(folder.join(format!("{shard}.jsonl")), lines).unwrap();
    }
    Source {
        format: DatasetFormat::Llava,
        path: folder.join("*.jsonl").to_str().unwrap().into(),
        folder: None,
        kind: None,
        weight: 1.0,
        held_out: false,
        gallery: 0.0,
        frames: 0.0,
    }
}

fn next(stream: &mut Stream, skipped: &mut SkippedRecords) -> u64 {
    let found = stream.next(skipped, usize::MAX).unwrap().unwrap();
    found.record.id.parse().unwrap()
}

fn options(partition: Partition, shuffle_buffer: usize) -> ReadOptions {
    ReadOptions {
        kinds: KindWeights::default(),
        seed: 5,
        shuffle_seed: 5,
        shuffle_buffer,
        partition,
    }
}

fn stream(source: &Source, partition: Partition, buffer: usize, position: Position) -> Stream {
    Stream::new(source, options(partition, buffer), position).unwrap()
}

fn part(worker: usize, workers: usize) -> Partition {
    Partition {
        worker,
        workers,
        ..Partition::WHOLE
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_record_comes_once_an_epoch_over_all_parts(
        shards in prop::collection::vec(1_usize..12, 1..7),
        parts in 1_usize..6,
        buffer in 1_usize..20,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path(), &shards);
        let total: usize = shards.iter().sum();
        let mut seen: BTreeMap<(u64, u64), usize> = BTreeMap::new();
        let mut bad: BTreeMap<(PathBuf, String), usize> = BTreeMap::new();
        for index in 0..parts {
            let part = part(index, parts);
            let mut stream = stream(&source, part, buffer, Position::default());
            let mut skipped = SkippedRecords::default();
            loop {
                let id = next(&mut stream, &mut skipped);
                // A buffer never reaches from one epoch into the next.
                let epoch = stream.epoch();
                if epoch > 1 {
                    break;
                }
                *seen.entry((epoch, id)).or_default() += 1;
            }
            for skipped in skipped.into_vec() {
                *bad.entry((skipped.shard, skipped.key)).or_default() += 1;
            }
        }
        for epoch in 0..2 {
            for id in (0..total as u64).filter(|id| id % 7 != 6) {
                prop_assert_eq!(seen.get(&(epoch, id)), Some(&1), "epoch {} record {}", epoch, id);
            }
        }
        // However often they were met.
        prop_assert_eq!(bad.len(), total / 7);
    }

    #[test]
    fn a_restored_stream_goes_on_as_the_first(
        shards in prop::collection::vec(1_usize..12, 1..7),
        parts in 1_usize..4,
        buffer in 1_usize..20,
        taken in 0_usize..60,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path(), &shards);
        let part = part(parts - 1, parts);
        let mut first = stream(&source, part, buffer, Position::default());
        for _ in 0..taken {
            next(&mut first, &mut SkippedRecords::default());
        }
        let mut second = stream(&source, part, buffer, first.position());
        let (mut skipped, mut again) = (SkippedRecords::default(), SkippedRecords::default());
        for _ in 0..40 {
            prop_assert_eq!(first.position(), second.position());
            prop_assert_eq!(next(&mut first, &mut skipped), next(&mut second, &mut again));
        }
        prop_assert_eq!(skipped.into_vec(), again.into_vec());
    }
}

#[test]
fn the_order_is_shuffled_and_new_in_every_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), &[6; 4]);
    let mut stream = stream(&source, Partition::WHOLE, 12, Position::default());
    let mut epoch = || -> Vec<u64> {
        let ids = (0..21).map(|_| next(&mut stream, &mut SkippedRecords::default()));
        ids.collect()
    };
    let (first, second) = (epoch(), epoch());
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert!(first != second && first != sorted);
    let mut again = second.clone();
    again.sort_unstable();
    assert_eq!(sorted, again);
}

#[test]
fn what_cannot_be_opened_is_skipped_and_nothing_at_all_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = source(folder.path(), &[3, 3]);
    // A folder is no file of records.
    fs::create_dir(folder.path().join("2.jsonl")).unwrap();
    let mut stream = stream(&source, Partition::WHOLE, 2, Position::default());
    let mut skipped = SkippedRecords::default();
    for _ in 0..6 {
        next(&mut stream, &mut skipped);
    }
    next(&mut stream, &mut skipped);
    let skipped = skipped.into_vec();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(skipped[0].shard.ends_with("2.jsonl"));

    let empty = folder.path().join("empty.jsonl");
    fs::write(&empty, "").unwrap();
    source.path = empty.to_str().unwrap().into();
    let mut stream =
        Stream::new(&source, options(Partition::WHOLE, 2), Position::default()).unwrap();
    let mut skipped = SkippedRecords::default();
    let error = stream.next(&mut skipped, 10).unwrap_err();
    assert!(error.to_string().contains("no sample"), "{error}");
    // Nothing but bad records: it gives up, after more than it may skip or after many epochs of the same.
    fs::write(&empty, "1\n2\n3\n").unwrap();
    let opened =
        || Stream::new(&source, options(Partition::WHOLE, 2), Position::default()).unwrap();
    assert!(opened().next(&mut skipped, 2).unwrap().is_none());
    assert_eq!(skipped.len(), 3);
    let error = opened()
        .next(&mut SkippedRecords::default(), 10)
        .unwrap_err();
    assert!(
        error.to_string().contains("can be used; the last"),
        "{error}"
    );
}

#[test]
fn the_nano_world_has_no_end_and_is_read_in_order() {
    let source: Source = toml::from_str("format = \"nano\"").unwrap();
    let options = |worker| ReadOptions {
        kinds: KindWeights::only(SampleKind::Text),
        ..options(part(worker, 2), 100)
    };
    let mut first = Stream::new(&source, options(1), Position::default()).unwrap();
    let ids = |stream: &mut Stream, count: usize| -> Vec<String> {
        let mut id = || {
            let found = stream.next(&mut SkippedRecords::default(), 0);
            found.unwrap().unwrap().record.id
        };
        (0..count).map(|_| id()).collect()
    };
    assert_eq!(ids(&mut first, 3), ["text 1", "text 3", "text 5"]);
    let mut second = Stream::new(&source, options(1), first.position()).unwrap();
    assert_eq!(ids(&mut first, 4), ids(&mut second, 4));
}
