//! The nano world as files, in formats that other programs read.
//!
//! ```text
//! images/0000012.png       scenes, and
//! nano.jsonl               two LLaVA-style records for each: its questions, and its caption with the picture as answer
//! nano-00000.tar ...       the same scenes as WebDataset shards (.png, .txt, .json)
//! gallery-00000.tar ...    further art with names only, one for every eight scenes
//! CREDITS.txt              whose art it is
//! ```
//!
//! What is no single scene, [`super::write_forms`] writes beside them.

use std::{
    fs::{self, File},
    io::{BufWriter, Cursor, Write},
    path::Path,
};

use image::{ImageFormat, RgbImage};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{
    Scene, Split,
    write_forms::{Forms, Lines, key},
};
use crate::{Error, Result, atomic, text::conversation::Turn};

/// Width and height of the pictures written.
pub(super) const SIDE: u32 = 64;
/// Scenes in a shard.
const SHARD: usize = 1000;
/// Scenes for each scene of the gallery.
const GALLERY: usize = 8;

/// The license of the art asks for this wherever the pictures go.
const CREDITS: &str = "\
The pictures contain graphics of Twemoji (https://github.com/jdecked/twemoji), placed on coloured
backgrounds. Copyright 2019 Twitter, Inc and other contributors, licensed under CC-BY 4.0:
https://creativecommons.org/licenses/by/4.0/
";

/// Writes `count` scenes of a split to a new folder: the same files for the same arguments.
///
/// `progress` gets the number of scenes written so far, and stops the work by returning `false`.
/// The folder appears when all is written, or not at all; an existing one must be empty.
pub fn write(
    folder: &Path,
    split: Split,
    seed: u64,
    count: usize,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<()> {
    let taken = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if taken || folder.is_file() {
        let shown = folder.display();
        return Err(Error::usage(format!("{shown} exists: choose a new folder")));
    }
    atomic::folder(folder, |new| write_into(new, split, seed, count, progress))
}

fn write_into(
    folder: &Path,
    split: Split,
    seed: u64,
    count: usize,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<()> {
    let images = folder.join("images");
    fs::create_dir_all(&images).map_err(Error::io(&images))?;
    let credits = folder.join("CREDITS.txt");
    fs::write(&credits, CREDITS).map_err(Error::io(&credits))?;
    let mut lines = Lines::create(folder.join("nano.jsonl"))?;
    let mut forms = Forms::create(folder, split, seed)?;
    for first in (0..count).step_by(SHARD) {
        let many = first..count.min(first + SHARD);
        let rendered = render(many.clone(), |index| Scene::sample(split, seed, index))?;
        write_shard(folder, "nano", first / SHARD, &rendered)?;
        for scene in &rendered {
            let path = images.join(format!("{}.png", scene.key));
            fs::write(&path, &scene.png).map_err(Error::io(&path))?;
            for record in scene.records() {
                lines.write(&record)?;
            }
        }
        forms.write(many.clone())?;
        if !progress(many.end) {
            return Err(Error::Interrupted);
        }
    }
    lines.finish()?;
    forms.finish()?;
    let gallery = count.div_ceil(GALLERY);
    for first in (0..gallery).step_by(SHARD) {
        let many = first..gallery.min(first + SHARD);
        let rendered = render(many, |index| Scene::sample_gallery(split, seed, index))?;
        write_shard(folder, "gallery", first / SHARD, &rendered)?;
    }
    Ok(())
}

/// A scene and its picture.
struct RenderedScene {
    /// Its number, which names its files.
    key: String,
    scene: Scene,
    png: Vec<u8>,
}

fn render(
    indices: std::ops::Range<usize>,
    sample: impl Fn(u64) -> Scene + Sync,
) -> Result<Vec<RenderedScene>> {
    indices
        .into_par_iter()
        .map(|index| {
            let scene = sample(index as u64);
            let png = png(&scene.render(SIDE))?;
            let key = key(index);
            Ok(RenderedScene { key, scene, png })
        })
        .collect()
}

/// The picture as a PNG file.
pub(super) fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    picture
        .write_to(&mut Cursor::new(&mut png), ImageFormat::Png)
        .map_err(|error| Error::failed(format!("a picture cannot be encoded: {error}")))?;
    Ok(png)
}

impl RenderedScene {
    /// The picture in the human's words with all questions, and in the assistant's.
    fn records(&self) -> [Value; 2] {
        let image = format!("images/{}.png", self.key);
        let mut turns = Vec::new();
        for asked in self.scene.questions() {
            let first = if turns.is_empty() { "<image>\n" } else { "" };
            turns.push(Turn::human(format!("{first}{}", asked.question)));
            turns.push(Turn::assistant(asked.answer));
        }
        let generation = [
            Turn::human(self.scene.caption()),
            Turn::assistant("<image>"),
        ];
        [
            json!({"id": format!("{}-ask", self.key), "image": image, "conversations": turns}),
            json!({"id": format!("{}-draw", self.key), "image": image, "conversations": generation}),
        ]
    }

    /// Everything that is true of the scene; positions are parts of the picture.
    fn facts(&self) -> Value {
        let object = |(emoji, left, top, side): (super::Emoji, f64, f64, f64)| {
            json!({"name": emoji.name, "emoji": emoji.character.to_string(),
                   "left": left, "top": top, "side": side})
        };
        json!({
            "caption": self.scene.caption(),
            "background": self.scene.background.name,
            "objects": self.scene.placements().into_iter().map(object).collect::<Vec<_>>(),
            "questions": self.scene.questions(),
        })
    }
}

/// One tar of `.png`, `.txt` (caption) and `.json` (facts) files that share a name.
fn write_shard(folder: &Path, kind: &str, number: usize, rendered: &[RenderedScene]) -> Result<()> {
    let path = folder.join(format!("{kind}-{number:05}.tar"));
    let write = || -> std::io::Result<()> {
        let mut tar = tar::Builder::new(BufWriter::new(File::create(&path)?));
        for scene in rendered {
            for (ending, content) in [
                ("png", scene.png.clone()),
                ("txt", scene.scene.caption().into_bytes()),
                ("json", scene.facts().to_string().into_bytes()),
            ] {
                let mut header = tar::Header::new_ustar();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                let name = format!("{}.{ending}", scene.key);
                tar.append_data(&mut header, name, content.as_slice())?;
            }
        }
        tar.into_inner()?.flush()
    };
    write().map_err(Error::io(&path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::data::{
        Image, KindWeights, Pictures, Record, SampleKind, Source, Text,
        nano::{Page, Video},
        read_jsonl,
    };

    #[test]
    fn what_is_written_can_be_read() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("nano");
        write(&folder, Split::Test, 3, 9, &mut |_| true).unwrap();
        let records = read_jsonl(&folder.join("nano.jsonl")).unwrap();
        assert_eq!(records.len(), 18);
        let scene = Scene::sample(Split::Test, 3, 4);
        let generation = vec![Turn::human(scene.caption()), Turn::assistant("<image>")];
        assert_eq!(records[9].text, Text::Turns(generation));
        let file = Image::File(folder.join("images/0000004.png"));
        assert_eq!(records[9].pictures, Pictures::Images(vec![file.clone()]));
        let picture = file.read(64).unwrap().rgb();
        assert_eq!(picture, scene.render(64));
        let lines = |name: &str| read_jsonl(&folder.join(name)).unwrap();
        assert_eq!(lines("video-questions.jsonl").len(), 3);
        assert_eq!(lines("comparisons.jsonl").len(), 6);
        assert_eq!(lines("riddles.jsonl").len(), 3);
        let reply = &lines("replies.jsonl")[0];
        let Pictures::Images(images) = &reply.pictures else {
            panic!("{reply:?}");
        };
        assert!(images[0].read(64).is_ok());
        let open = |format: &str, name: &str, images: &Path| -> Vec<Record> {
            let shard = folder.join(name);
            let text = format!("format = {format:?}\npath = {shard:?}\nfolder = {images:?}");
            let source: Source = toml::from_str(&text).unwrap();
            let kinds = KindWeights::only(SampleKind::VideoGeneration);
            let records = source.open(&shard, 0, &kinds, 0).unwrap();
            records.map(|record| record.unwrap()).collect()
        };
        let pages = open("mmc4", "pages.jsonl", &folder.join("images"));
        assert_eq!(pages.len(), 2);
        let page = Page::sample(Split::Test, 3, 1);
        assert_eq!(pages[1].text, Text::Page(page.text()));
        let Pictures::Images(images) = &pages[1].pictures else {
            panic!("{pages:?}");
        };
        assert_eq!(images[2].read(64).unwrap().rgb(), page.scenes[2].render(64));
        let videos = open("openvid", "videos.csv", &folder);
        let video = Video::sample(Split::Test, 3, 2);
        let made = vec![Turn::human(video.caption()), Turn::assistant("<video>")];
        assert_eq!(videos[2].text, Text::Turns(made));
        let Pictures::Video(frames) = &videos[2].pictures else {
            panic!("{videos:?}");
        };
        let frames =
            crate::media::video::frames(frames, 8, crate::media::video::FrameSampling::Inference)
                .unwrap();
        let frames: Vec<RgbImage> = frames.iter().map(|frame| frame.rgb()).collect();
        assert_eq!(frames, video.render(8, 64));
        let names = |shard: &str| -> Vec<String> {
            let mut tar = tar::Archive::new(File::open(folder.join(shard)).unwrap());
            let name = |entry: std::io::Result<tar::Entry<'_, File>>| {
                entry.unwrap().path().unwrap().display().to_string()
            };
            tar.entries().unwrap().map(name).collect()
        };
        assert_eq!(names("nano-00000.tar").len(), 27);
        assert_eq!(names("gallery-00000.tar")[3], "0000001.png");

        let error = write(&folder, Split::Train, 3, 9, &mut |_| true).unwrap_err();
        assert!(error.to_string().contains("choose a new folder"));
        let stopped = write(&place.path().join("b"), Split::Train, 3, 9, &mut |_| false);
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
