//! VFlan-style records: a question, an answer, and pictures in base64.
//!
//! ```json
//! {"question": "What is it?", "answer:": "a dog", "image": ["/9j/4AAQ..."]}
//! ```
//!
//! Layout: what `LazyVFlanDataset` in the authors' `vila_u/data/dataset.py` reads, a pickled list of
//! such records; or the same as JSON, one object a line or all in one array. `answer` and `image` may end in a colon; a
//! picture may be the path of a `.jpg` instead, and there may be none. The pictures come before the
//! question, like the frames of a video. A question with worked examples ("Image Descriptions")
//! becomes a conversation.

use std::{fs::File, io::Read, path::Path};

use serde::Deserialize;

use super::{
    Bad, Records,
    json::{self, Texts},
    pickle,
};
use crate::{
    Error, Result,
    data::record::{Image, Pictures, Record, Text, inside},
    text::conversation::Turn,
};

/// Pictures of one question.
const MOST_IMAGES: usize = 8;

#[derive(Deserialize)]
struct Entry {
    question: String,
    #[serde(alias = "answer:")]
    answer: String,
    #[serde(alias = "image:", default)]
    image: Option<Texts>,
}

pub(in crate::data) fn open(path: &Path, folder: &Path) -> Result<Records> {
    let folder = folder.to_path_buf();
    let mut first = [0];
    let mut file = File::open(path).map_err(Error::io(path))?;
    let read = file.read(&mut first).map_err(Error::io(path))?;
    if read == 0 || first != [pickle::START] {
        return json::records(path, move |number, entry| record(number, entry, &folder));
    }
    let records = pickle::Elements::open(path)?.map(move |(number, element)| {
        let entry = element
            .and_then(|element| serde_json::from_value(element).map_err(|error| error.to_string()));
        entry
            .and_then(|entry| record(number, entry, &folder))
            .map_err(|reason| Bad {
                key: format!("record {number}"),
                reason,
            })
    });
    Ok(Box::new(records))
}

fn record(number: u64, entry: Entry, folder: &Path) -> std::result::Result<Record, String> {
    let images = entry.image.map_or(Vec::new(), Vec::from);
    if images.len() > MOST_IMAGES {
        return Err(format!(
            "{} pictures, more than {MOST_IMAGES}",
            images.len()
        ));
    }
    let image = |image: String| {
        if image.ends_with(".jpg") {
            inside(folder, &image).map(Image::File)
        } else {
            super::base64(&image).map(Image::Bytes)
        }
    };
    let images = images
        .into_iter()
        .map(image)
        .collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Record {
        id: number.to_string(),
        text: Text::Turns(turns(entry.question.trim_end(), entry.answer.trim_end())),
        pictures: if images.is_empty() {
            Pictures::Images(images)
        } else {
            Pictures::Frames(images)
        },
    })
}

fn turns(question: &str, answer: &str) -> Vec<Turn> {
    let asked = question.split("\nQuestion: ").skip(1);
    let examples: Vec<&str> = if question.contains("Image Descriptions") {
        asked.collect()
    } else {
        Vec::new()
    };
    let Some((last, answered)) = examples.split_last() else {
        let question = ["<image>\n", "\n<image>", "<image>"]
            .iter()
            .fold(question.to_string(), |text, name| text.replace(name, ""));
        return vec![Turn::human(question), Turn::assistant(answer)];
    };
    let mut turns = Vec::new();
    for example in answered {
        let (question, answer) = example.split_once("\nAnswer: ").unwrap_or((example, ""));
        turns.extend([Turn::human(question), Turn::assistant(answer)]);
    }
    turns.extend([Turn::human(last.replace('\n', "")), Turn::assistant(answer)]);
    turns
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(entry: serde_json::Value) -> std::result::Result<Record, String> {
        record(
            1,
            serde_json::from_value(entry).unwrap(),
            Path::new("images"),
        )
    }

    fn said(record: &Record) -> Vec<&str> {
        match &record.text {
            Text::Turns(turns) => turns.iter().map(|turn| turn.value.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn questions_have_pictures_or_none() {
        let record = read(json!({
            "question": "<image>\nWhat is it? ", "answer:": "a dog\n", "image:": ["QQ==", "b/c.jpg"],
        }))
        .unwrap();
        assert_eq!(said(&record), ["What is it?", "a dog"]);
        let images = vec![
            Image::Bytes(b"A".to_vec()),
            Image::File("images/b/c.jpg".into()),
        ];
        assert_eq!(record.pictures, Pictures::Frames(images));
        let text = read(json!({"question": "1 + 1?", "answer": "2", "image": null})).unwrap();
        assert_eq!(text.pictures, Pictures::Images(Vec::new()));
        assert!(read(json!({"question": "", "answer": "", "image": "/a.jpg"})).is_err());
        let many = vec!["QQ=="; 9];
        assert!(read(json!({"question": "", "answer": "", "image": many})).is_err());
    }

    /// Written by CPython 3.11: `pickle.dumps(records, protocol=2)` and `protocol=4`, in base64.
    const PICKLED: [&str; 2] = [
        "gAJdcQAofXEBKFgIAAAAcXVlc3Rpb25xAlgTAAAAPGltYWdlPgpXaGF0IGlzIGl0P3EDWAcAAABhbnN3ZXI6cQRY\
        BQAAAGEgZG9ncQVYBQAAAGltYWdlcQZdcQdYBAAAAFFRPT1xCGF1fXEJKGgCWA8AAABJcyBhIGRvZyByb3VuZD9x\
        CmgEWAIAAABub3ELaAZdcQx1fXENKGgCWAYAAABXaGljaD9xDmgEWAQAAABib3RocQ9oBl1xEChoCFgEAAAAUWc9\
        PXERZXVlLg==",
        "gASVmAAAAAAAAABdlCh9lCiMCHF1ZXN0aW9ulIwTPGltYWdlPgpXaGF0IGlzIGl0P5SMB2Fuc3dlcjqUjAVhIGRv\
        Z5SMBWltYWdllF2UjARRUT09lGF1fZQoaAKMD0lzIGEgZG9nIHJvdW5kP5RoBIwCbm+UaAZdlHV9lChoAowGV2hp\
        Y2g/lGgEjARib3RolGgGXZQoaAiMBFFnPT2UZXVlLg==",
    ];

    #[test]
    fn pickled_records_are_read_and_never_run() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let records = |content: &[u8]| -> Vec<std::result::Result<Record, Bad>> {
            std::fs::write(file.path(), content).unwrap();
            open(file.path(), Path::new("images")).unwrap().collect()
        };
        for pickled in PICKLED {
            let read = records(&super::super::base64(pickled).unwrap());
            let read: Vec<Record> = read.into_iter().map(|record| record.unwrap()).collect();
            assert_eq!(read.len(), 3);
            assert_eq!(said(&read[0]), ["What is it?", "a dog"]);
            let images = |contents: &[&[u8]]| {
                let image = |content: &&[u8]| Image::Bytes(content.to_vec());
                contents.iter().map(image).collect::<Vec<_>>()
            };
            assert_eq!(read[0].pictures, Pictures::Frames(images(&[b"A"])));
            assert_eq!(read[1].pictures, Pictures::Images(Vec::new()));
            assert_eq!(said(&read[2]), ["Which?", "both"]);
            assert_eq!(read[2].pictures, Pictures::Frames(images(&[b"A", b"B"])));
        }
        // `os.system("touch hacked")` beside a record: the record is read, nothing more.
        let record = b"}(X\x08\0\0\0questionX\x02\0\0\0a?X\x06\0\0\0answerX\x01\0\0\0bu";
        let call = b"cos\nsystem\n(X\x0c\0\0\0touch hackedtR";
        let read = records(&[b"\x80\x02](".as_slice(), record, call, b"e."].concat());
        let bad = read.last().unwrap().as_ref().unwrap_err();
        assert!(bad.reason.contains("GLOBAL"), "{bad:?}");
        assert!(!Path::new("hacked").exists());
        // A record that is no record costs itself alone.
        let read = records(&[b"\x80\x02](K\x01".as_slice(), record, b"e."].concat());
        assert!(read[0].is_err() && read[1].is_ok() && read.len() == 2);
    }

    #[test]
    fn worked_examples_are_a_conversation() {
        let question =
            "Image Descriptions: a dog\nQuestion: How many?\nAnswer: one\nQuestion: Is it\nred?";
        let record = read(json!({"question": question, "answer": "no", "image": "QQ=="})).unwrap();
        assert_eq!(said(&record), ["How many?", "one", "Is itred?", "no"]);
    }
}
