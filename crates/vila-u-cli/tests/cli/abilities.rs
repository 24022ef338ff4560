//! What the embedded model can do, as its users see it.

use tempfile::TempDir;
use vila_u::evaluation::benchmarks::nano::fit;

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
