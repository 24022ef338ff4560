//! LLaVA-style records: a conversation about files, one JSON object a line or all in one array.
//!
//! ```json
//! {"id": "7", "image": "images/7.png", "conversations": [
//!   {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]}
//! ```
//!
//! Layout: LLaVA, `docs/Finetune_Custom_Data.md` of haotian-liu/LLaVA; ShareGPT4V
//! (Lin-Chen/ShareGPT4V on the Hugging Face Hub) has the same. A record without a picture is text
//! alone; `images` are several, `video` is a video to look at or, with `<video>` in the assistant's
//! turn, to make.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Records,
    json::{self, Texts},
};
use crate::{
    Error, Result,
    data::record::{Image, Pictures, Record, Text, inside},
    text::conversation::Turn,
};

#[derive(Deserialize)]
struct Entry {
    id: Option<Value>,
    conversations: Vec<Turn>,
    image: Option<Texts>,
    images: Option<Texts>,
    video: Option<String>,
}

/// The records of a file; paths in them are relative to `folder` and stay inside it.
pub(in crate::data) fn open(path: &Path, folder: &Path) -> Result<Records> {
    let folder = folder.to_path_buf();
    json::records(path, move |number, entry| record(number, entry, &folder))
}

/// Reads all records of a small file; paths in them are relative to its folder.
///
/// Errors name the first record that is none.
pub fn read_jsonl(path: &Path) -> Result<Vec<Record>> {
    let folder = path.parent().unwrap_or(Path::new(""));
    open(path, folder)?
        .map(|record| {
            record.map_err(|bad| Error::invalid(path, format!("{}: {}", bad.key, bad.reason)))
        })
        .collect()
}

fn record(number: u64, entry: Entry, folder: &Path) -> std::result::Result<Record, String> {
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
        for path in Vec::from(paths) {
            images.push(Image::File(inside(folder, &path)?));
        }
    }
    let pictures = match entry.video {
        Some(_) if !images.is_empty() => {
            return Err("has both images and a video: split it into two records".into());
        }
        Some(path) => Pictures::Video(inside(folder, &path)?),
        None => Pictures::Images(images),
    };
    Ok(Record {
        id,
        text: Text::Turns(entry.conversations),
        pictures,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Record>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        std::fs::write(&path, text).unwrap();
        read_jsonl(&path)
    }

    /// The paths of a record's pictures, without the folder of the file.
    fn images(record: &Record) -> Vec<String> {
        let Pictures::Images(images) = &record.pictures else {
            return Vec::new();
        };
        let name = |image: &Image| match image {
            Image::File(path) => path.to_str().unwrap().to_string(),
            _ => String::new(),
        };
        images.iter().map(name).collect()
    }

    const TURNS: &str = r#""conversations": [{"from": "human", "value": "Hi"}]"#;

    #[test]
    fn lines_and_arrays_read_the_same() {
        let (a, b) = (
            format!(r#"{{"id": 7, "image": "a.png", {TURNS}}}"#),
            format!(r#"{{"images": ["x/b.png", "c.png"], {TURNS}}}"#),
        );
        let lines = read(&format!("\n{a}\n\n{b}")).unwrap();
        let array = read(&format!(" [{a}, {b}]")).unwrap();
        assert_eq!((lines.len(), array.len()), (2, 2));
        assert_eq!((lines[0].id.as_str(), lines[1].id.as_str()), ("7", "2"));
        for records in [&lines, &array] {
            let names = images(&records[1]);
            assert!(names[0].ends_with("x/b.png") && names[1].ends_with("c.png"));
        }
        assert_eq!(lines[0].text, Text::Turns(vec![Turn::human("Hi")]));
        assert_eq!(lines[0].text, array[0].text);
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
