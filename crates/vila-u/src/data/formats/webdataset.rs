//! WebDataset shards: tar files in which what belongs together shares a name.
//!
//! ```text
//! 00000.tar:  000000012.jpg  000000012.txt  000000012.json  000000015.jpg ...
//! ```
//!
//! Layout: `img2dataset` (rom1504/img2dataset, `img2dataset/writer.py`: the caption in `.txt`, and in
//! `.json` with `url`, `key`, `status`, `width`, `height`, ...), with which COYO-700M is downloaded.
//! Shards without `.txt` have the caption in `.json`, as the authors' generation data does under
//! `sharegpt4v` or `prompt`.

use std::path::Path;

use serde_json::Value;

use super::{
    Bad, Records,
    archive::{Member, Members},
    json,
    pictures::IMAGES,
};
use crate::{
    Result,
    data::record::{Image, Pictures, Record, Text},
};

/// Fields of `.json` that a caption may be in, the best first.
const CAPTIONS: [&str; 3] = ["sharegpt4v", "prompt", "caption"];

/// The samples of a shard.
pub(in crate::data) fn open(path: &Path) -> Result<Records> {
    let mut group: Option<Group> = None;
    let mut members = Members::open(path)?;
    let samples = std::iter::from_fn(move || {
        for member in members.by_ref() {
            let member = match member {
                Ok(member) => member,
                // What came before it may have lost its other half.
                Err(bad) => {
                    group = None;
                    return Some(Err(bad));
                }
            };
            let whole = match &group {
                Some(group) if group.key == member.key => None,
                _ => group.replace(Group::new(&member.key)),
            };
            if let Some(group) = &mut group {
                group.add(member);
            }
            if let Some(whole) = whole {
                return Some(whole.record());
            }
        }
        group.take().map(|last| last.record())
    });
    Ok(Box::new(samples))
}

/// The files of one sample.
struct Group {
    key: String,
    image: Option<Vec<u8>>,
    text: Option<String>,
    facts: Option<Value>,
    wrong: Option<String>,
}

impl Group {
    fn new(key: &str) -> Self {
        Self {
            key: key.to_string(),
            image: None,
            text: None,
            facts: None,
            wrong: None,
        }
    }

    fn add(&mut self, member: Member) {
        let content = match member.content {
            Ok(content) => content,
            Err(reason) => {
                self.wrong = Some(reason);
                return;
            }
        };
        match member.ending.as_str() {
            "txt" => match super::utf8(content) {
                Ok(text) => self.text = Some(text),
                Err(reason) => self.wrong = Some(format!(".txt is {reason}")),
            },
            "json" => match json::parse(&content) {
                Ok(facts) => self.facts = Some(facts),
                Err(reason) => self.wrong = Some(format!(".json is {reason}")),
            },
            ending if IMAGES.contains(&ending) => self.image = Some(content),
            _ => {}
        }
    }

    fn record(self) -> std::result::Result<Record, Bad> {
        let caption = self.caption().map(str::to_string);
        let key = self.key;
        match (self.wrong, self.image, caption) {
            (None, Some(image), Some(caption)) => Ok(Record {
                id: key,
                text: Text::Caption(caption),
                pictures: Pictures::Images(vec![Image::Bytes(image)]),
            }),
            (wrong, image, _) => {
                let missing = match image {
                    None => "no image (.jpg, .png, .webp, ...)",
                    Some(_) => "no caption (.txt, or `caption` in .json)",
                };
                let reason = wrong.unwrap_or_else(|| missing.into());
                Err(Bad { key, reason })
            }
        }
    }

    fn caption(&self) -> Option<&str> {
        let fields = CAPTIONS.iter();
        let facts = fields.filter_map(|field| self.facts.as_ref()?.get(field)?.as_str());
        let mut all = self.text.as_deref().into_iter().chain(facts);
        all.find(|caption| !caption.trim().is_empty())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::formats::archive::tests::tar;

    fn read(files: &[(&str, &[u8])]) -> Vec<std::result::Result<Record, Bad>> {
        read_bytes(&tar(files))
    }

    fn read_bytes(shard: &[u8]) -> Vec<std::result::Result<Record, Bad>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), shard).unwrap();
        open(file.path()).map_or(Vec::new(), Iterator::collect)
    }

    #[test]
    fn files_of_one_name_are_one_sample() {
        let records = read(&[
            ("000000012.jpg", b"A"),
            ("000000012.txt", b"a cat"),
            ("000000012.json", br#"{"caption": "not this", "url": "x"}"#),
            ("b/1.5.PNG", b"B"),
            ("c.webp", b"C"),
            ("c.json", br#"{"prompt": "a dog", "caption": "not this"}"#),
        ]);
        let known: Vec<_> = records
            .iter()
            .map(|record| match record {
                Ok(record) => (record.id.as_str(), record.caption().unwrap()),
                Err(bad) => (bad.key.as_str(), bad.reason.as_str()),
            })
            .collect();
        assert_eq!(known[0], ("000000012", "a cat"));
        assert_eq!(known[2], ("c", "a dog"));
        // The ending is everything after the first dot.
        assert_eq!(known[1].0, "b/1");
        assert!(records[1].is_err());
        let Ok(first) = &records[0] else {
            return;
        };
        assert_eq!(
            first.pictures,
            Pictures::Images(vec![Image::Bytes(b"A".to_vec())])
        );
        assert_eq!(first.text, Text::Caption("a cat".into()));
    }

    #[test]
    fn what_is_missing_is_said_and_the_next_sample_read() {
        let records = read(&[
            ("1.txt", b"a cat"),
            ("2.jpg", b"A"),
            ("3.jpg", b"A"),
            ("3.json", b"{"),
            ("4.jpg", b"A"),
            ("4.txt", b"a cat"),
        ]);
        let reason = |at: usize| records[at].clone().unwrap_err().reason;
        assert!(reason(0).contains("no image"));
        assert!(reason(1).contains("no caption"));
        assert!(reason(2).contains("not JSON"));
        assert_eq!(records[3].as_ref().unwrap().id, "4");
    }

    #[test]
    fn captions_are_utf8_and_metadata_may_have_nan() {
        let records = read(&[
            ("1.jpg", b"A"),
            ("1.txt", "\u{feff}a cat".as_bytes()),
            ("2.jpg", b"A"),
            ("2.txt", b"\xff\xfea\0"),
            ("3.jpg", b"A"),
            ("3.txt", b"caf\xe9"),
            ("4.jpg", b"A"),
            ("4.json", br#"{"caption": "a dog", "similarity": NaN}"#),
        ]);
        assert_eq!(records[0].as_ref().unwrap().caption(), Some("a cat"));
        let reason = |at: usize| records[at].clone().unwrap_err().reason;
        assert!(reason(1).contains("UTF-16") && reason(2).contains("not UTF-8"));
        assert_eq!(records[3].as_ref().unwrap().caption(), Some("a dog"));
    }

    proptest! {
        #[test]
        fn damaged_shards_never_panic_and_end(at: prop::sample::Index, byte: u8, cut: bool) {
            let mut shard = tar(&[("1.jpg", b"A"), ("1.txt", b"a cat"), ("2.jpg", b"B")]);
            let at = at.index(shard.len());
            shard[at] = byte;
            if cut {
                shard.truncate(at);
            }
            prop_assert!(read_bytes(&shard).len() < 4);
        }
    }
}
