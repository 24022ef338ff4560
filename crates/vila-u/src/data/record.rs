//! LLaVA-style records: a conversation about files, one JSON object a line.
//!
//! ```json
//! {"id": "7", "image": "images/7.png", "conversations": [
//!   {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]}
//! ```

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result, text::conversation::Turn};

/// A longer line is no record.
const LONGEST_LINE: u64 = 16 << 20;
/// A larger JSON array should be lines instead, which are read one by one.
const LARGEST_ARRAY: u64 = 1 << 30;

/// One sample of training or evaluation data. Its pictures are named, not yet read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// As written in the file; its number in the file (from 1) where there is none.
    pub id: String,
    pub turns: Vec<Turn>,
    /// Image files, in the order of the `<image>` placeholders.
    pub images: Vec<PathBuf>,
    /// A video file, or a folder of frames.
    pub video: Option<PathBuf>,
}

/// Reads records from JSON lines, or from one JSON array.
///
/// Paths in records are relative to the folder of the file and stay inside it. Errors name the
/// record.
pub fn read_jsonl(path: &Path) -> Result<Vec<Record>> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let folder = path.parent().unwrap_or(Path::new(""));
    let invalid =
        |number: usize, reason: String| Error::invalid(path, format!("record {number}: {reason}"));
    if is_array(&mut file).map_err(Error::io(path))? {
        let mut text = Vec::new();
        let mut limited = file.take(LARGEST_ARRAY + 1);
        limited.read_to_end(&mut text).map_err(Error::io(path))?;
        if text.len() as u64 > LARGEST_ARRAY {
            let reason = "a JSON array of more than 1 GiB: write one object a line instead";
            return Err(Error::invalid(path, reason));
        }
        let entries: Vec<Value> = serde_json::from_slice(&text)
            .map_err(|error| Error::invalid(path, format!("not JSON: {error}")))?;
        let entries = entries.into_iter().zip(1..);
        return entries
            .map(|(entry, number)| {
                record(entry, number, folder).map_err(|reason| invalid(number, reason))
            })
            .collect();
    }
    let mut records = Vec::new();
    loop {
        let number = records.len() + 1;
        let mut line = Vec::new();
        let mut limited = (&mut file).take(LONGEST_LINE);
        limited
            .read_until(b'\n', &mut line)
            .map_err(Error::io(path))?;
        if line.is_empty() {
            return Ok(records);
        }
        if line.len() as u64 == LONGEST_LINE {
            return Err(invalid(number, "longer than 16 MiB".into()));
        }
        if !line.trim_ascii().is_empty() {
            let entry = serde_json::from_slice(&line)
                .map_err(|error| invalid(number, format!("not JSON: {error}")))?;
            records.push(record(entry, number, folder).map_err(|reason| invalid(number, reason))?);
        }
    }
}

/// Whether the first thing in the file is `[`. Reads no more than the space before it.
fn is_array(file: &mut BufReader<File>) -> std::io::Result<bool> {
    loop {
        let buffer = file.fill_buf()?;
        let space = buffer
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
        if let Some(byte) = buffer.get(space) {
            return Ok(*byte == b'[');
        }
        if buffer.is_empty() {
            return Ok(false);
        }
        file.consume(space);
    }
}

/// A record as people write it.
#[derive(Deserialize)]
struct Entry {
    id: Option<Value>,
    conversations: Vec<Turn>,
    image: Option<Paths>,
    images: Option<Paths>,
    video: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Paths {
    One(String),
    Many(Vec<String>),
}

fn record(entry: Value, number: usize, folder: &Path) -> std::result::Result<Record, String> {
    let entry: Entry = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    if entry.conversations.is_empty() {
        return Err("conversations is empty".into());
    }
    let id = match entry.id {
        None | Some(Value::Null) => number.to_string(),
        Some(Value::String(id)) => id,
        Some(other) => other.to_string(),
    };
    let mut images = Vec::new();
    for paths in [entry.image, entry.images].into_iter().flatten() {
        let paths = match paths {
            Paths::One(path) => vec![path],
            Paths::Many(paths) => paths,
        };
        for path in paths {
            images.push(inside(folder, &path)?);
        }
    }
    let video = entry.video.map(|path| inside(folder, &path)).transpose()?;
    if video.is_some() && !images.is_empty() {
        return Err("has both images and a video: split it into two records".into());
    }
    Ok(Record {
        id,
        turns: entry.conversations,
        images,
        video,
    })
}

/// The path in the folder, or why it would leave it.
fn inside(folder: &Path, path: &str) -> std::result::Result<PathBuf, String> {
    let parts = || Path::new(path).components();
    if parts().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        Ok(folder.join(path))
    } else {
        Err(format!(
            "path {path:?} leaves the folder of the file: give it relative to that folder, without `..`"
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Record>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        std::fs::write(&path, text).unwrap();
        let mut records = read_jsonl(&path)?;
        for record in &mut records {
            for image in &mut record.images {
                *image = image.strip_prefix(folder.path()).unwrap().into();
            }
        }
        Ok(records)
    }

    const TURNS: &str = r#""conversations": [{"from": "human", "value": "Hi"}]"#;

    #[test]
    fn lines_and_arrays_read_the_same() {
        let (a, b) = (
            format!(r#"{{"id": 7, "image": "a.png", {TURNS}}}"#),
            format!(r#"{{"images": ["x/b.png", "c.png"], {TURNS}}}"#),
        );
        let lines = read(&format!("\n{a}\n\n{b}")).unwrap();
        assert_eq!(lines, read(&format!(" [{a}, {b}]")).unwrap());
        assert_eq!((lines[0].id.as_str(), lines[1].id.as_str()), ("7", "2"));
        assert_eq!(lines[1].images, [Path::new("x/b.png"), Path::new("c.png")]);
        assert_eq!(lines[0].turns, [Turn::human("Hi")]);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn bad_records_are_named() {
        for (text, reason) in [
            (format!("{{{TURNS}}}\n{{"), "record 2: not JSON"),
            (
                r#"{"id": 1}"#.into(),
                "record 1: missing field `conversations`",
            ),
            (r#"{"conversations": []}"#.into(), "conversations is empty"),
            (
                format!(r#"{{"image": "/etc/a.png", {TURNS}}}"#),
                "leaves the folder",
            ),
            (
                format!(r#"{{"video": "a/../../b", {TURNS}}}"#),
                "leaves the folder",
            ),
            (
                format!(r#"[{{"image": "a", "video": "b", {TURNS}}}]"#),
                "both images and a video",
            ),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
