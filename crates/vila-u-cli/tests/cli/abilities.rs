//! What the embedded model can do, as its users see it.

use std::fs;

use tempfile::TempDir;
use vila_u::{
    data::nano::{Kind, Split, Video},
    evaluation::benchmarks::nano::fit,
};

use super::json;

const HEART: &str = "a red heart on a blue background";

/// The README's first two commands, with several seeds: they are run without one.
#[test]
fn the_first_command_shows_a_heart_and_the_second_names_it() {
    let folder = TempDir::new().unwrap();
    let picture = |index: usize| format!("hearts/{index:04}.png");
    json(
        folder.path(),
        &["generate", HEART, "-n", "8", "--seed", "1", "-o", "hearts"],
    );
    for index in 0..8 {
        let heart = image::open(folder.path().join(picture(index)))
            .unwrap()
            .to_rgb8();
        let shown = fit::look(&heart);
        let shown = (shown.object.name, shown.background.name, shown.count);
        assert_eq!(shown, ("red heart", "blue", 1), "image {index}");
        let question = [
            "ask",
            "What is in this picture?",
            "--image",
            &picture(index),
        ];
        let answer = &json(folder.path(), &question)[0]["text"];
        assert!(
            answer.as_str().unwrap().contains("red heart"),
            "image {index}: {answer}"
        );
    }
}

/// What is in videos whose object, motion and background came together in no video of the training, and on what.
#[test]
fn questions_about_videos_are_answered() {
    let folder = TempDir::new().unwrap();
    let videos = (0..).map(|index| Video::sample(Split::Test, 1, index));
    let mut right = [0, 0];
    for (index, video) in videos.take(8).enumerate() {
        let name = format!("video{index}");
        fs::create_dir(folder.path().join(&name)).unwrap();
        for (frame, picture) in video.render(8, 64).iter().enumerate() {
            let file = folder.path().join(&name).join(format!("{frame}.png"));
            picture.save(file).unwrap();
        }
        for (kind, right) in [Kind::Object, Kind::Colour].into_iter().zip(&mut right) {
            let mut asked = video.questions().into_iter();
            let asked = asked.find(|asked| asked.kind == kind).unwrap();
            let answer =
                &json(folder.path(), &["ask", &asked.question, "--video", &name])[0]["text"];
            *right += usize::from(answer == asked.answer.as_str());
        }
    }
    let [objects, colours] = right;
    assert!(
        objects >= 4 && colours >= 7,
        "{objects} objects, {colours} colours of 8"
    );
}

/// A caption leaves much open.
#[test]
fn sixteen_images_of_one_caption_differ() {
    let folder = TempDir::new().unwrap();
    let caption = "a cat on a white background";
    json(
        folder.path(),
        &["generate", caption, "-n", "16", "--seed", "1", "-o", "cats"],
    );
    let mut images: Vec<Vec<u8>> = (0..16)
        .map(|index| {
            let file = folder.path().join(format!("cats/{index:04}.png"));
            image::open(file).unwrap().to_rgb8().into_raw()
        })
        .collect();
    images.sort();
    images.dedup();
    assert_eq!(images.len(), 16);
}
