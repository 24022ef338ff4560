//! Videos in and out of the binary, and answers with pictures in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;
use vila_u::media::video::{self, FrameSampling};

use super::{json as run, recorded_json, vila_u};

/// One of the library's small videos.
fn sample(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vila-u/tests/videos");
    folder.join(name).display().to_string()
}

fn seen(path: &Path) -> Vec<RgbImage> {
    let frames = video::frames(path, 8, FrameSampling::Inference).unwrap();
    frames.iter().map(|frame| frame.rgb()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap();
    let name = |file: fs::DirEntry| file.file_name().into_string().unwrap();
    let mut names: Vec<String> = files.map(|file| name(file.unwrap())).collect();
    names.sort();
    names
}

#[test]
fn a_video_is_written_as_its_name_says() {
    let folder = TempDir::new().unwrap();
    let generate = |output: &[&str]| {
        let mut arguments = vec!["generate", "--video", "a red heart", "--seed", "5"];
        arguments.extend(output);
        recorded_json(folder.path(), &arguments).remove(0)
    };
    let printed = generate(&["-o", "frames"]);
    assert_eq!(printed["files"], json!(["frames"]));
    let path = |name: &str| folder.path().join(name);
    assert_eq!(names(&path("frames")).len(), 8);
    let frames = seen(&path("frames"));
    assert_eq!(frames[0].dimensions(), (64, 64));
    generate(&["-o", "a.webp"]);
    assert_eq!(seen(&path("a.webp")), frames);
    for name in ["a.mp4", "a.gif"] {
        generate(&["-o", name, "--fps", "10"]);
        let seen = seen(&path(name));
        assert_eq!(seen.len(), 8);
        let apart = |a: &RgbImage, b: &RgbImage| {
            let differences = a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b));
            differences.map(u64::from).sum::<u64>()
        };
        for (seen, pair) in seen.iter().zip(frames.windows(2)) {
            let [own, next] = [0, 1].map(|index| apart(seen, &pair[index]));
            assert!(2 * own < next, "{name}: {own} {next}");
        }
    }
    // A second video is another one, whatever is generated with it.
    let printed = generate(&["-n", "2", "-o", "two"]);
    let files = json!(["two/0000.mp4", "two/0001.mp4", "two/sheet.png"]);
    assert_eq!(printed["files"], files);
    assert_eq!(printed["codes"], json!([16, 8, 8, 4]));
    let first = fs::read(path("two/0000.mp4")).unwrap();
    generate(&["-o", "b.mp4"]);
    assert_eq!(first, fs::read(path("b.mp4")).unwrap());
    assert_ne!(first, fs::read(path("two/0001.mp4")).unwrap());
    let sheet = image::open(path("two/sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (8 * 66 - 2, 2 * 66 - 2));
}

#[test]
fn impossible_outputs_are_refused_before_anything_is_read() {
    let folder = TempDir::new().unwrap();
    for (arguments, word) in [
        (vec!["--video", "x", "-o", "a.avi"], ".gif"),
        (vec!["--video", "x", "-o", "a.png"], ".mp4"),
        (
            vec!["--video", "x", "-o", "a.mp4", "-n", "2"],
            "name a folder",
        ),
        (vec!["x", "--fps", "8"], "--video"),
        (vec!["--video", "x", "--fps", "0"], "--fps"),
    ] {
        let mut all = vec!["--model", "none", "generate"];
        all.extend(&arguments);
        let output = vila_u(folder.path(), &all);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn questions_are_about_videos_images_and_examples() {
    let folder = TempDir::new().unwrap();
    let picture = |name: &str, colour| {
        let picture = RgbImage::from_pixel(64, 64, Rgb(colour));
        picture.save(folder.path().join(name)).unwrap();
    };
    picture("blue.png", [38, 98, 217]);
    picture("red.png", [217, 40, 38]);
    let ask = |arguments: &[&str]| {
        let mut all = vec!["ask", "--greedy", "--max-tokens", "3"];
        all.extend(arguments);
        run(folder.path(), &all).remove(0)
    };
    let positions = |answer: &Value| answer["prompt_tokens"].as_u64().unwrap();
    let words = positions(&ask(&["What moves?"]));
    let clip = sample("bframes.mp4");
    let one = positions(&ask(&["What moves?", "--video", &clip]));
    assert!((8 * 64..9 * 66).contains(&(one - words)));
    let frames = folder.path().join("frames");
    video::save(&frames, &seen(Path::new(&clip)), video::RATE).unwrap();
    let with = |video: &str| ask(&["What moves?", "--video", video])["tokens"].clone();
    assert_eq!(with(&clip), with("frames"));
    let both = ask(&[
        "What moves?",
        "--video",
        &clip,
        "--image",
        "red.png",
        "--video",
        "frames",
    ]);
    // Every frame and every image is 64 positions and a line's end, which is two tokens.
    assert_eq!(positions(&both) - one, 9 * 66);
    let placed = "Is what <video> shows in <image>?";
    let answer = ask(&[placed, "--video", &clip, "--image", "red.png"]);
    assert!(positions(&answer) > 9 * 66);
    // Examples in the question, each picture where it is named.
    let examples = "<image>red. <image>blue. <image>red. <image>";
    let answer = ask(&[
        examples, "--image", "red.png", "--image", "blue.png", "--image", "red.png", "--image",
        "blue.png",
    ]);
    assert!(positions(&answer) > 4 * 66);
    let output = vila_u(folder.path(), &["ask", "<video>?", "--image", "red.png"]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("1 x <video>, and 0 videos"), "{message}");
}

/// The embedded model answers a caption with its picture: the one that `generate` makes.
#[test]
fn pictures_of_a_reply_are_saved_and_named() {
    let folder = TempDir::new().unwrap();
    let caption = "a red heart on a blue background";
    let ask = ["ask", caption, "--greedy"];
    let output = vila_u(folder.path(), &ask);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("[reply/0000.png]"), "{text}");
    let named: Vec<&str> = ask.into_iter().chain(["-o", "out/a"]).collect();
    let answer = &run(folder.path(), &named)[0];
    assert_eq!(answer["files"], json!(["out/a/0000.png"]));
    assert!(
        answer["text"]
            .as_str()
            .unwrap()
            .contains("[out/a/0000.png]")
    );
    let tokens = answer["tokens"].as_array().unwrap();
    assert!(tokens.contains(&json!(-200)) && tokens.last() == Some(&json!(2)));
    run(
        folder.path(),
        &["generate", caption, "--greedy", "-o", "generated.png"],
    );
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("out/a/0000.png"), read("generated.png"));
    assert_eq!(read("reply/0000.png"), read("generated.png"));
    // A reply in words alone makes no folder.
    let answer = &run(
        folder.path(),
        &[
            "ask",
            "What colour is it?",
            "--greedy",
            "-o",
            "none",
            "--image",
            "generated.png",
        ],
    )[0];
    assert_eq!(answer["files"], json!([]));
    assert!(!folder.path().join("none").exists());
    let output = vila_u(folder.path(), &["ask", "x", "-o", "generated.png"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn videos_that_cannot_be_read_are_named() {
    let folder = TempDir::new().unwrap();
    let whole = fs::read(sample("bframes.mp4")).unwrap();
    fs::write(folder.path().join("cut.mp4"), &whole[..whole.len() - 30]).unwrap();
    fs::write(folder.path().join("text.mp4"), "text").unwrap();
    for (name, words) in [("cut.mp4", "cut short"), ("text.mp4", "not a video")] {
        let output = vila_u(folder.path(), &["ask", "x", "--video", name]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains(name) && message.contains(words),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

/// Asks about a video with nothing but `folder` on the path.
fn ask_with_path(folder: &Path, video: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args([
            "ask",
            "What moves?",
            "--greedy",
            "--max-tokens",
            "2",
            "--video",
            video,
        ])
        .env("PATH", folder)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn other_codecs_need_ffmpeg_and_say_so() {
    let folder = TempDir::new().unwrap();
    for (name, codec) in [("vp9.webm", "VP9"), ("hevc.mp4", "HEVC")] {
        let output = ask_with_path(folder.path(), &sample(name));
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        for word in [codec, "`ffmpeg`", "install it", name] {
            assert!(message.contains(word), "no {word} in: {message}");
        }
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

/// A program that stands for `ffmpeg`: two frames for any file, or a complaint.
#[cfg(unix)]
#[test]
fn what_ffmpeg_sends_is_seen_and_what_it_says_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let program: PathBuf = folder.path().join("ffmpeg");
    let install = |script: &str| {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    install(
        "case \"$*\" in
         *framecrc*) printf '#tb 0: 1/25\\n0, 0, 0, 1, 12, 0x1\\n0, 1, 1, 1, 12, 0x2\\n';;
         *'eq(n,0)+eq(n,1)'*) printf 'P6\\n2 2\\n255\\naaaaaaaaaaaaP6\\n2 2\\n255\\nzzzzzzzzzzzz';;
         esac",
    );
    let output = ask_with_path(folder.path(), &sample("vp9.webm"));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    install("echo 'Decoder vp9 not found' >&2; exit 1");
    let output = ask_with_path(folder.path(), &sample("vp9.webm"));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    for word in ["vp9.webm", "VP9", "Decoder vp9 not found"] {
        assert!(message.contains(word), "no {word} in: {message}");
    }
    install("printf 'nonsense'; exit 0");
    let output = ask_with_path(folder.path(), &sample("vp9.webm"));
    assert_eq!(output.status.code(), Some(1));
}
