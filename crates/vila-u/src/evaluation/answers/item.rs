//! Questions with known answers, from JSON lines or a JSON array.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    Error, Result,
    data::formats::json::{Entries, Texts, parse},
    safe_path,
};

/// A question about images, a video or nothing, and the answers that are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// No other item of the set has it.
    pub id: String,
    pub media: Vec<Media>,
    pub question: String,
    pub answers: Vec<String>,
    /// Among which the model is to choose, of a multiple-choice question.
    pub choices: Vec<String>,
}

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    Image(PathBuf),
    /// A file, or a folder of frames.
    Video(PathBuf),
    /// A video of this name, which is not there.
    MissingVideo(String),
}

/// A text or a number: data sets have both as ids and answers.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Word {
    Text(String),
    Number(serde_json::Number),
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        match word {
            Word::Text(text) => text,
            Word::Number(number) => number.to_string(),
        }
    }
}

/// One answer, or what ten people answered, as VQA writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answers {
    One(Word),
    Many(Vec<Answer>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Word(Word),
    OfPerson { answer: Word },
}

/// A line of the file. The other names are those of POPE and of LLaVA's question files.
#[derive(Deserialize)]
struct Line {
    #[serde(alias = "question_id")]
    id: Option<Word>,
    #[serde(alias = "images")]
    image: Option<Texts>,
    video: Option<String>,
    #[serde(alias = "text")]
    question: String,
    #[serde(alias = "answers", alias = "label")]
    answer: Answers,
    #[serde(default)]
    choices: Vec<String>,
}

impl Item {
    /// Reads a file of items, an object a line or one array of objects:
    ///
    /// ```json
    /// {"id": "1", "image": "cat.png", "question": "What is this?", "answers": ["cat", "a cat"]}
    /// ```
    ///
    /// - `image`: a path in `folder`, or several; or `video`; or neither
    /// - `answers`: those that are right, or one as `answer`; for VQA accuracy what each person answered
    /// - `choices`: of a multiple-choice question; its answer is a letter, or one of them
    /// - `id`: the number of the line where it is left out
    ///
    /// Other fields are passed over. Errors name the line that is wrong.
    pub fn read(path: &Path, folder: &Path) -> Result<Vec<Self>> {
        let mut items = Vec::new();
        read_json(path, |number, line: Line| {
            items.push(line.item(number, folder)?);
            Ok(())
        })?;
        check_ids(path, &items)?;
        Ok(items)
    }
}

impl Line {
    fn item(self, number: u64, folder: &Path) -> std::result::Result<Item, String> {
        let inside = |path: &str| match safe_path::relative(path) {
            Some(path) => Ok(folder.join(path)),
            None => Err(format!("{path:?} is no path inside {}", folder.display())),
        };
        let images: Vec<String> = self.image.map_or_else(Vec::new, Texts::into);
        let images = images.iter().map(|path| inside(path).map(Media::Image));
        let mut media = images.collect::<std::result::Result<Vec<_>, _>>()?;
        if let Some(video) = &self.video {
            media.push(Media::Video(inside(video)?));
        }
        let answers = match self.answer {
            Answers::One(answer) => vec![answer.into()],
            Answers::Many(answers) => answers.into_iter().map(Answer::text).collect(),
        };
        if answers.is_empty() {
            return Err("it has no answer".into());
        }
        Ok(Item {
            id: self.id.map_or_else(|| number.to_string(), Word::into),
            media,
            question: self.question,
            answers,
            choices: self.choices,
        })
    }
}

impl Answer {
    fn text(self) -> String {
        match self {
            Self::Word(word) | Self::OfPerson { answer: word } => word.into(),
        }
    }
}

/// Each object of a file, with its number from 1.
pub(super) fn read_json<T: DeserializeOwned>(
    path: &Path,
    mut each: impl FnMut(u64, T) -> std::result::Result<(), String>,
) -> Result<()> {
    for (number, entry) in Entries::open(path)? {
        let read = entry.and_then(|bytes| parse(&bytes));
        let read = read.and_then(|value| each(number, value));
        read.map_err(|reason| Error::invalid(path, format!("record {number}: {reason}")))?;
    }
    Ok(())
}

/// Answers are told apart by their ids.
pub(super) fn check_ids(path: &Path, items: &[Item]) -> Result<()> {
    let mut ids = HashSet::new();
    match items.iter().find(|item| !ids.insert(&item.id)) {
        Some(item) => Err(Error::invalid(
            path,
            format!("two records have the id {:?}: give each its own", item.id),
        )),
        None if items.is_empty() => Err(Error::invalid(path, "there are no questions in it")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Item>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("questions.jsonl");
        std::fs::write(&path, text).unwrap();
        Item::read(&path, Path::new("pictures"))
    }

    #[test]
    fn files_of_own_sets_of_pope_and_of_vqa() {
        let items = read(concat!(
            r#"{"id": 7, "images": ["a.png", "b/c.png"], "question": "Same?", "answer": "no", "choices": ["yes", "no"]}"#,
            "\n",
            r#"{"question_id": 8, "image": "a.png", "text": "Is there a cat?", "label": "yes", "category": "x"}"#,
            "\n",
            r#"{"video": "v.mp4", "question": "How many?", "answers": [{"answer": "2", "answer_id": 1}, {"answer": 3}]}"#,
        ))
        .unwrap();
        assert_eq!(items[0].id, "7");
        assert_eq!(items[0].choices, ["yes", "no"]);
        assert_eq!(items[0].media[1], Media::Image("pictures/b/c.png".into()));
        assert_eq!(items[1].question, "Is there a cat?");
        assert_eq!(items[1].answers, ["yes"]);
        assert_eq!(items[2].id, "3");
        assert_eq!(items[2].media, [Media::Video("pictures/v.mp4".into())]);
        assert_eq!(items[2].answers, ["2", "3"]);
        assert_eq!(
            read(r#"[{"question": "Why?", "answer": 1}]"#).unwrap()[0].answers,
            ["1"]
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let good = r#"{"id": 1, "question": "Why?", "answer": "so"}"#;
        for (line, expected) in [
            (
                r#"{"question": "Why?"}"#,
                "record 2: missing field `answer`",
            ),
            (r#"{"answer": "so"}"#, "record 2: missing field `question`"),
            (r#"{"question": "Why?", "answers": []}"#, "no answer"),
            (
                r#"{"question": "Why?", "answer": "so", "image": "../a.png"}"#,
                "no path inside",
            ),
            (
                r#"{"question": "Why?", "answer": "so", "image": "/a.png"}"#,
                "no path inside",
            ),
            (r#"{"question": "Why"#, "record 2: not JSON"),
            (good, "the id \"1\""),
        ] {
            let error = read(&format!("{good}\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read("[]").unwrap_err().to_string().contains("no questions"));
        assert!(read("<html>").unwrap_err().to_string().contains("web page"));
    }
}
