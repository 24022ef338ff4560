//! Everything of the nano world that is no single scene, as files in the layouts of public datasets.
//!
//! ```text
//! videos/0000003/0.png ... 7.png   videos, a folder of frames each
//! videos.csv                       their captions, as OpenVid has them
//! video-questions.jsonl            LLaVA-style records about them
//! pages.jsonl                      pages as MMC4 has them, of the scenes in images/
//! comparisons/0000003-0.png, -1    two scenes that differ in one thing
//! comparisons.jsonl                LLaVA-style records about the two
//! replies.jsonl                    LLaVA-style records: words, a picture of images/, words
//! riddles.jsonl                    LLaVA-style records without pictures
//! ```

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use image::RgbImage;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{
    Comparison, Page, Question, Scene, Split, Video, riddle,
    write::{SIDE, png},
};
use crate::{Error, Result, sequence::templates::VIDEO_FRAMES, text::conversation::Turn};

/// Scenes for each video, comparison, page and riddle.
const SCENES: usize = 4;

/// The files, to be written stretch by stretch.
pub(super) struct Forms {
    folder: PathBuf,
    split: Split,
    seed: u64,
    captions: csv::Writer<File>,
    video_questions: Lines,
    pages: Lines,
    comparisons: Lines,
    replies: Lines,
    riddles: Lines,
}

impl Forms {
    pub(super) fn create(folder: &Path, split: Split, seed: u64) -> Result<Self> {
        for name in ["videos", "comparisons"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(Error::io(path))?;
        }
        let path = folder.join("videos.csv");
        let file = File::create(&path).map_err(Error::io(&path))?;
        let mut captions = csv::Writer::from_writer(file);
        let columns = [
            "video",
            "caption",
            "camera motion",
            "frame",
            "fps",
            "seconds",
        ];
        captions.write_record(columns).map_err(not_written)?;
        let lines = |name: &str| Lines::create(folder.join(name));
        Ok(Self {
            folder: folder.to_path_buf(),
            split,
            seed,
            captions,
            video_questions: lines("video-questions.jsonl")?,
            pages: lines("pages.jsonl")?,
            comparisons: lines("comparisons.jsonl")?,
            replies: lines("replies.jsonl")?,
            riddles: lines("riddles.jsonl")?,
        })
    }

    /// What belongs to a stretch of scenes, whose pictures lie in `images`.
    pub(super) fn write(&mut self, scenes: Range<usize>) -> Result<()> {
        let own = scenes.start.div_ceil(SCENES)..scenes.end.div_ceil(SCENES);
        for index in scenes.clone() {
            let scene = Scene::sample(self.split, self.seed, index as u64);
            if let Some(turns) = scene.reply() {
                let key = key(index);
                let image = format!("images/{key}.png");
                let record = json!({"id": key, "image": image, "conversations": turns});
                self.replies.write(&record)?;
            }
        }
        let (split, seed, folder) = (self.split, self.seed, &self.folder);
        let sampled: Vec<(Video, Comparison)> = own
            .clone()
            .into_par_iter()
            .map(|index| {
                let video = Video::sample(split, seed, index as u64);
                let frames = folder.join("videos").join(key(index));
                fs::create_dir(&frames).map_err(Error::io(&frames))?;
                for (frame, picture) in video.render(VIDEO_FRAMES, SIDE).iter().enumerate() {
                    save(&frames.join(format!("{frame}.png")), picture)?;
                }
                let comparison = Comparison::sample(split, seed, index as u64);
                for (scene, at) in comparison.scenes.iter().zip(0..) {
                    let path = folder.join(compared(index, at));
                    save(&path, &scene.render(SIDE))?;
                }
                Ok((video, comparison))
            })
            .collect::<Result<_>>()?;
        for (index, (video, comparison)) in own.clone().zip(sampled) {
            let (id, frames) = (key(index), format!("videos/{}", key(index)));
            let frame_count = VIDEO_FRAMES.to_string();
            let row = [
                &frames,
                &video.caption(),
                "static",
                &frame_count,
                "8.0",
                "1.0",
            ];
            self.captions.write_record(row).map_err(not_written)?;
            let turns = turns(video.questions());
            let record = json!({"id": id, "video": frames, "conversations": turns});
            self.video_questions.write(&record)?;
            for asked in comparison.questions() {
                let id = format!("{id}-{}", asked.kind.name());
                let images = [0, 1].map(|at| compared(index, at));
                let turns = turns_of(asked);
                let record = json!({"id": id, "images": images, "conversations": turns});
                self.comparisons.write(&record)?;
            }
            let asked = riddle(self.split, self.seed, index as u64);
            let record = json!({"id": id, "conversations": turns_of(asked)});
            self.riddles.write(&record)?;
            // The last page may lack scenes.
            let page = Page::numbers(index as u64);
            if page.end <= scenes.end as u64 {
                self.pages.write(&self.page(index as u64))?;
            }
        }
        Ok(())
    }

    /// Page `index` as a line of MMC4.
    fn page(&self, index: u64) -> Value {
        let sentences = Page::sample(self.split, self.seed, index).sentences();
        let picture = |(number, at): (u64, usize)| {
            json!({"image_name": format!("{}.png", key(number as usize)),
                   "matched_text_index": at, "matched_sim": 1.0})
        };
        let pictures: Vec<Value> = Page::numbers(index).zip(0..).map(picture).collect();
        let similar = |own: usize| {
            let row = (0..sentences.len()).map(|at| f64::from(u8::from(at == own)));
            row.collect::<Vec<f64>>()
        };
        let matrix: Vec<_> = (0..sentences.len()).map(similar).collect();
        json!({"url": format!("nano:{index}"), "text_list": sentences, "image_info": pictures,
               "similarity_matrix": matrix})
    }

    pub(super) fn finish(mut self) -> Result<()> {
        let path = self.folder.join("videos.csv");
        self.captions.flush().map_err(Error::io(path))?;
        for lines in [
            self.video_questions,
            self.pages,
            self.comparisons,
            self.replies,
            self.riddles,
        ] {
            lines.finish()?;
        }
        Ok(())
    }
}

/// What names the files of a number.
pub(super) fn key(index: usize) -> String {
    format!("{index:07}")
}

fn compared(index: usize, at: usize) -> String {
    format!("comparisons/{}-{at}.png", key(index))
}

fn turns(asked: Vec<Question>) -> Vec<Turn> {
    asked.into_iter().flat_map(turns_of).collect()
}

fn turns_of(asked: Question) -> [Turn; 2] {
    [Turn::human(asked.question), Turn::assistant(asked.answer)]
}

fn save(path: &Path, picture: &RgbImage) -> Result<()> {
    fs::write(path, png(picture)?).map_err(Error::io(path))
}

fn not_written(error: csv::Error) -> Error {
    Error::failed(format!("videos.csv cannot be written: {error}"))
}

/// A file of one JSON object a line.
pub(super) struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Lines {
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let file = BufWriter::new(File::create(&path).map_err(Error::io(&path))?);
        Ok(Self { path, file })
    }

    pub(super) fn write(&mut self, record: &Value) -> Result<()> {
        writeln!(self.file, "{record}").map_err(Error::io(&self.path))
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path))
    }
}
