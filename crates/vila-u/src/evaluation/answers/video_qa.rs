//! Questions about videos from the files that their authors released.
//!
//! | | questions and answers | video |
//! | --- | --- | --- |
//! | MSVD-QA | `test_qa.json`: `[{"id": 0, "video_id": 1, "question": ..., "answer": ...}]` | `vid1.avi`, or by `youtube_mapping.txt` beside it |
//! | MSRVTT-QA | the same | `video1.mp4` |
//! | TGIF-QA | `Test_frameqa_question.csv`, tab-separated: `gif_name`, `question`, `answer`, `key` | `gif_name.gif` |
//! | ActivityNet-QA | `test_q.json`: `[{"video_name", "question", "question_id"}]`, `test_a.json`: `[{"answer", "question_id"}]` | `v_NAME.mp4` |
//!
//! Video-ChatGPT's and Video-LLaVA's copies of all four have the two files of ActivityNet-QA, and are read as well.
//!
//! MSVD-QA, MSRVTT-QA: <https://github.com/xudejing/video-question-answering> (Xu et al. 2017); TGIF-QA:
//! <https://github.com/YunseokJANG/tgif-qa> (arXiv 1704.04497); ActivityNet-QA:
//! <https://github.com/MILVLG/activitynet-qa> (arXiv 1906.02467).

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use csv::ReaderBuilder;
use serde::Deserialize;

use super::{
    Item, Media,
    item::{Word, check_ids, read_json},
};
use crate::{Error, Result, media::read_file};

/// Endings of the files that are taken for videos.
const VIDEOS: [&str; 11] = [
    "mp4", "avi", "mov", "mkv", "webm", "gif", "webp", "mpg", "mpeg", "m4v", "flv",
];

/// Folders in folders at most; links can go in a circle.
const DEEPEST: usize = 32;

/// A set of questions about videos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoQa {
    Msvd,
    Msrvtt,
    /// Its FrameQA questions, those with free answers.
    Tgif,
    ActivityNet,
}

/// A question, and the names that its video may have.
#[derive(Debug)]
struct Question {
    id: String,
    videos: Vec<String>,
    question: String,
    answer: String,
}

#[derive(Deserialize)]
struct Record {
    #[serde(alias = "question_id")]
    id: Option<Word>,
    /// MSVD-QA and MSRVTT-QA number their videos.
    video_id: Option<Word>,
    video_name: Option<String>,
    question: String,
    answer: Option<Word>,
}

#[derive(Deserialize)]
struct AnswerRecord {
    question_id: Option<Word>,
    answer: Word,
}

impl VideoQa {
    pub const ALL: [Self; 4] = [Self::Msvd, Self::Msrvtt, Self::Tgif, Self::ActivityNet];

    /// As on the command line: "msvd-qa".
    pub fn name(self) -> &'static str {
        match self {
            Self::Msvd => "msvd-qa",
            Self::Msrvtt => "msrvtt-qa",
            Self::Tgif => "tgif-qa",
            Self::ActivityNet => "activitynet-qa",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        let all = Self::ALL.into_iter().find(|set| set.name() == name);
        all.ok_or_else(|| Error::usage(format!("there is no set of the name {name}")))
    }

    /// Reads the questions, with answers from a file of their own or the same, and finds their videos in a folder and the
    /// folders in it. Videos that are not there are [`Media::MissingVideo`].
    ///
    /// Errors name the record that is wrong; a usage error when the folder has none of the videos.
    pub fn read(
        self,
        questions: &Path,
        answers: Option<&Path>,
        videos: &Path,
    ) -> Result<Vec<Item>> {
        let asked = match questions.extension().and_then(|ending| ending.to_str()) {
            Some("csv" | "tsv") => tgif(questions)?,
            _ => self.json(questions, answers)?,
        };
        let mut found = HashMap::new();
        index(videos, 0, &mut found)?;
        let mut items = Vec::new();
        for question in asked {
            let path = question.videos.iter().find_map(|name| found.get(name));
            items.push(Item {
                media: vec![match path {
                    Some(path) => Media::Video(path.clone()),
                    None => Media::MissingVideo(question.videos[0].clone()),
                }],
                id: question.id,
                question: question.question,
                answers: vec![question.answer],
                choices: Vec::new(),
            });
        }
        check_ids(questions, &items)?;
        let missing = |item: &Item| matches!(item.media[..], [Media::MissingVideo(_)]);
        match &items[0].media[0] {
            Media::MissingVideo(name) if items.iter().all(missing) => Err(Error::usage(format!(
                "{}: no video of {} is here; the first would be {name}.mp4",
                videos.display(),
                self.name()
            ))),
            _ => Ok(items),
        }
    }

    fn json(self, path: &Path, answers: Option<&Path>) -> Result<Vec<Question>> {
        let mut given = Vec::new();
        if let Some(path) = answers {
            read_json(path, |_, record: AnswerRecord| {
                given.push(record);
                Ok(())
            })?;
        }
        let mut given = given.into_iter();
        let youtube = match self {
            Self::Msvd => youtube_names(&path.with_file_name("youtube_mapping.txt"))?,
            _ => HashMap::new(),
        };
        let mut questions = Vec::new();
        read_json(path, |number, record: Record| {
            let id = record.id.map(String::from);
            let answer = match answers {
                // The files have the same order.
                Some(_) => {
                    let answer = given.next().ok_or("the file of answers ends before it")?;
                    let of = answer.question_id.map(String::from);
                    if of.is_some() && of != id {
                        let of = of.unwrap_or_default();
                        return Err(format!(
                            "the file of answers has question {of} in its place"
                        ));
                    }
                    answer.answer
                }
                None => record
                    .answer
                    .ok_or("it has no answer: name the file of answers with --answers")?,
            };
            let videos = match (record.video_name, record.video_id.map(String::from)) {
                (Some(name), _) => vec![name.clone(), format!("v_{name}")],
                (None, Some(id)) if self == Self::Msvd => {
                    let name = format!("vid{id}");
                    youtube
                        .get(&name)
                        .cloned()
                        .into_iter()
                        .chain([name.clone()])
                        .collect()
                }
                (None, Some(id)) => vec![format!("video{id}")],
                (None, None) => return Err("it has neither video_name nor video_id".into()),
            };
            questions.push(Question {
                id: id.unwrap_or_else(|| number.to_string()),
                videos,
                question: record.question,
                answer: answer.into(),
            });
            Ok(())
        })?;
        Ok(questions)
    }
}

fn tgif(path: &Path) -> Result<Vec<Question>> {
    let text = read_file(path)?;
    let wrong = |reason: String| Error::invalid(path, reason);
    let mut table = ReaderBuilder::new();
    let table = table.delimiter(b'\t').quoting(false).flexible(true);
    let mut table = table.from_reader(text.as_slice());
    let header = table
        .headers()
        .map_err(|error| wrong(error.to_string()))?
        .clone();
    let mut columns = [0; 4];
    for (column, name) in columns
        .iter_mut()
        .zip(["gif_name", "question", "answer", "key"])
    {
        let found = header.iter().position(|found| found == name);
        *column = found.ok_or_else(|| wrong(format!("the first line names no column `{name}`")))?;
    }
    let rows = table.records().zip(2..).map(|(row, line)| {
        let row = row.map_err(|error| wrong(error.to_string()))?;
        let [gif, question, answer, key] = columns.map(|column| row.get(column));
        let (Some(gif), Some(question), Some(answer), Some(key)) = (gif, question, answer, key)
        else {
            return Err(wrong(format!("line {line} ends early")));
        };
        Ok(Question {
            id: key.into(),
            videos: vec![gif.into()],
            question: question.into(),
            answer: answer.into(),
        })
    });
    rows.collect()
}

/// The names that MSVD's videos have on YouTube by those of MSVD-QA, where a file says so: `NAME vid1`.
fn youtube_names(path: &Path) -> Result<HashMap<String, String>> {
    if !path.is_file() {
        return Ok(HashMap::new());
    }
    let text = String::from_utf8_lossy(&read_file(path)?).into_owned();
    let names = text.lines().filter_map(|line| {
        let (name, number) = line.trim().rsplit_once(char::is_whitespace)?;
        Some((number.to_string(), name.trim().to_string()))
    });
    Ok(names.collect())
}

/// The videos of a folder and the folders in it by their names without ending; of two of one name, the first.
fn index(folder: &Path, depth: usize, found: &mut HashMap<String, PathBuf>) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::invalid(
            folder,
            format!("more than {DEEPEST} folders in folders: does a link lead back?"),
        ));
    }
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let entries = entries.collect::<std::io::Result<Vec<_>>>();
    let mut paths: Vec<PathBuf> = entries
        .map_err(Error::io(folder))?
        .iter()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            index(&path, depth + 1, found)?;
        } else if path.extension().is_some_and(|ending| {
            VIDEOS
                .iter()
                .any(|known| ending.eq_ignore_ascii_case(known))
        }) && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            found.entry(name.to_string()).or_insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn read(set: VideoQa, folder: &tempfile::TempDir, files: [&str; 2]) -> Result<Vec<Item>> {
        let [questions, answers] = files.map(|name| folder.path().join(name));
        let answers = Some(answers.as_path()).filter(|path| path.is_file());
        set.read(&questions, answers, &folder.path().join("videos"))
    }

    #[test]
    fn msvd_numbers_its_videos() {
        let questions = r#"[{"answer": "cat", "id": 7, "question": "who runs?", "video_id": 1},
            {"answer": "two", "id": 8, "question": "how many?", "video_id": 2}]"#;
        let files = [
            ("test_qa.json", questions),
            ("youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\nx_1_2 vid3\n"),
            ("videos/-4wsuPCjDBc_5_15.avi", ""),
            ("videos/vid2.avi", ""),
            ("videos/vid2.txt", ""),
        ];
        let folder = folder(&files);
        let items = read(VideoQa::Msvd, &folder, ["test_qa.json", ""]).unwrap();
        let video = |name: &str| [Media::Video(folder.path().join("videos").join(name))];
        assert_eq!(items[0].media, video("-4wsuPCjDBc_5_15.avi"));
        assert_eq!(items[1].media, video("vid2.avi"));
        assert_eq!(
            (&*items[1].id, &items[1].answers[0]),
            ("8", &"two".to_string())
        );
        let error = read(VideoQa::Msrvtt, &folder, ["test_qa.json", ""]).unwrap_err();
        assert!(error.to_string().contains("video1.mp4"), "{error}");
    }

    #[test]
    fn tgif_is_a_table_with_tabs() {
        let table = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription\n\
            tumblr_a\twhat is \"it\" ?\tcat\t0\t17\tFRAMEQA1\ta cat .\n\
            tumblr_b\thow many ?\ttwo\t1\t18\tFRAMEQA2\n";
        let folder = folder(&[("q.csv", table), ("videos/gifs/tumblr_a.gif", "")]);
        let items = read(VideoQa::Tgif, &folder, ["q.csv", ""]).unwrap();
        assert_eq!(
            (&*items[0].id, &*items[0].question),
            ("FRAMEQA1", "what is \"it\" ?")
        );
        let path = folder.path().join("videos/gifs/tumblr_a.gif");
        assert_eq!(items[0].media, [Media::Video(path)]);
        assert_eq!(items[1].media, [Media::MissingVideo("tumblr_b".into())]);
        for (table, expected) in [
            ("gif_name\tquestion\nx\ty\n".to_string(), "`answer`"),
            (format!("{table}tumblr_c\twhat"), "line 4 ends early"),
        ] {
            fs::write(folder.path().join("q.csv"), table).unwrap();
            let error = read(VideoQa::Tgif, &folder, ["q.csv", ""]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn questions_and_answers_in_two_files_belong_together() {
        let questions = r#"[{"video_name": "1QIU", "question": "does he swim", "question_id": "v_1QIU_3"},
            {"video_name": "abc", "question": "what", "question_id": "v_abc_1"}]"#;
        let answers = r#"[{"answer": "no", "type": 3, "question_id": "v_1QIU_3"},
            {"answer": "a ball", "type": 8, "question_id": "v_abc_1"}]"#;
        let files = [
            ("q.json", questions),
            ("a.json", answers),
            ("videos/v_1QIU.mkv", ""),
        ];
        let folder = folder(&files);
        let items = read(VideoQa::ActivityNet, &folder, ["q.json", "a.json"]).unwrap();
        let path = folder.path().join("videos/v_1QIU.mkv");
        assert_eq!(items[0].media, [Media::Video(path)]);
        assert_eq!(items[1].answers, ["a ball"]);
        for (answers, expected) in [
            (
                answers.replace("abc", "abd"),
                "question v_abd_1 in its place",
            ),
            (r#"[{"answer": "no"}]"#.to_string(), "ends before it"),
        ] {
            fs::write(folder.path().join("a.json"), answers).unwrap();
            let read = read(VideoQa::ActivityNet, &folder, ["q.json", "a.json"]);
            let error = read.unwrap_err().to_string();
            assert!(
                error.contains("record") && error.contains(expected),
                "{error}"
            );
        }
        let error = read(VideoQa::ActivityNet, &folder, ["q.json", ""]).unwrap_err();
        assert!(error.to_string().contains("--answers"), "{error}");
    }
}
