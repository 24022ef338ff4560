//! What the embedded model can do, as its users see it.

use std::{collections::HashSet, fs};

use image::RgbImage;
use tempfile::TempDir;
use vila_u::{
    data::nano::{Kind, Split, Video},
    evaluation::benchmarks::nano::fit,
};

use super::{json, vila_u};

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

#[test]
fn images_of_one_caption_differ() {
    let folder = TempDir::new().unwrap();
    let prompt = "a cat on a white background";
    json(
        folder.path(),
        &["generate", prompt, "-n", "16", "--seed", "1", "-o", "cats"],
    );
    let images =
        (0..16).map(|index| fs::read(folder.path().join(format!("cats/{index:04}.png"))).unwrap());
    let distinct: HashSet<_> = images.collect();
    assert_eq!(distinct.len(), 16);
}

/// Questions about videos of combinations that training never saw.
#[test]
fn questions_about_videos_are_answered() {
    let folder = TempDir::new().unwrap();
    let (mut asked, mut right) = (0, 0);
    for index in 0..8 {
        let video = Video::sample(Split::Test, 1, index);
        let name = format!("video-{index}");
        fs::create_dir(folder.path().join(&name)).unwrap();
        let frames: Vec<RgbImage> = video.render(8, 64);
        for (at, frame) in frames.iter().enumerate() {
            frame
                .save(folder.path().join(format!("{name}/{at:04}.png")))
                .unwrap();
        }
        let questions = video.questions();
        let direction = questions
            .iter()
            .find(|question| question.kind == Kind::Direction)
            .unwrap();
        let output = vila_u(
            folder.path(),
            &["ask", &direction.question, "--video", &name, "--greedy"],
        );
        let answer = String::from_utf8(output.stdout).unwrap();
        asked += 1;
        right += usize::from(answer.trim() == direction.answer);
    }
    assert!(right * 4 >= asked * 3, "{right} of {asked}");
}
