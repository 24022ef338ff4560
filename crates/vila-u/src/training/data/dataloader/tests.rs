use std::fs;

use super::*;
use crate::data::DatasetFormat;
use crate::training::distributed::ProcessGroup;

/// A sample is the record's key.
#[derive(Clone)]
struct Keys;

impl MakeSample for Keys {
    type Sample = String;

    fn kinds(&self) -> KindWeights {
        KindWeights::default()
    }

    fn make(&self, _n: u64, record: Record) -> Result<String> {
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
            kind: None,
            weight: 1.0,
            held_out: false,
            gallery: 0.0,
            frames: 0.0,
        }],
        ..Data::default()
    };
    let state = DataLoaderState::start(&data, 2, 1).unwrap();
    let mut seen = Vec::new();
    for index in 0..2 {
        let rank = Partition {
            rank: index,
            ranks: 2,
            ..Partition::WHOLE
        };
        let mut samples = DataLoader::start(&Keys, &data, 1, rank, &state, 0);
        let group = ProcessGroup::default();
        let mut progress = DataProgress::open(folder.path(), &data, state.clone(), group).unwrap();
        for loaded in samples.next_batch(6, &mut progress).unwrap() {
            assert_eq!(loaded.origin.key, loaded.sample);
            seen.push(loaded.sample.parse::<u32>().unwrap());
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
}
