#![allow(clippy::unwrap_used)]
use super::{
    super::{
        FrameSampling, frames,
        tests::{levels, sample},
    },
    *,
};

#[test]
fn kinds_are_told_from_the_content() {
    let head = std::fs::read(sample("vp9.webm")).unwrap();
    assert_eq!(kind(&head).unwrap(), "VP9 in a Matroska or WebM file");
    assert_eq!(kind(b"RIFF\0\0\0\0AVI LIST").unwrap(), "an AVI file");
    assert_eq!(kind(b"#EXTM3U\nhttp://example.org/a.ts"), None);
    assert_eq!(kind(b""), None);
}

#[test]
fn images_are_read_one_after_the_other() {
    let mut stream: &[u8] = b"P6\n2 1\n255\nabcdefP6\n1 1\n255\nxyzP6\n1 1\n255\nx";
    let first = ppm(&mut stream, 1, 0).unwrap().unwrap();
    assert_eq!(
        (first.dimensions(), first.as_raw().as_slice()),
        ((2, 1), &b"abcdef"[..])
    );
    assert_eq!(ppm(&mut stream, 1, 0).unwrap().unwrap().as_raw(), b"xyz");
    // The last is cut short.
    assert!(ppm(&mut stream, 1, 0).unwrap().is_none());
    assert!(ppm(&mut stream, 1, 0).unwrap().is_none());
    for wrong in [
        &b"P5\n1 1\n255\nx"[..],
        b"P6\n99999 99999\n255\n",
        b"P6\n0 1\n255\n",
        b"x",
    ] {
        assert!(ppm(&mut &wrong[..], 1, 0).is_err());
    }
}

/// Twenty frames, five a second, all of them different: what a constant rate would repeat.
#[test]
fn no_frame_is_repeated_or_left_out() {
    if installed().is_none() {
        return;
    }
    let frames = frames(&sample("slow.mkv"), 20, FrameSampling::Inference).unwrap();
    assert_eq!(frames.len(), 20);
    for pair in frames.windows(2) {
        assert!(pair[0].rgb() != pair[1].rgb());
    }
    let mut video = Ffmpeg::open(&sample("slow.mkv"), "a video").unwrap();
    assert_eq!(video.total().unwrap(), 20);
}

/// Versions before 5.1 know one name, later ones the other.
#[cfg(unix)]
#[test]
fn every_version_is_asked_by_the_name_that_it_knows() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    for (version, help, expected) in [
        ("4.2", "-vsync set video sync method", "-vsync"),
        ("9.0", "-fps_mode set framerate mode", "-fps_mode"),
    ] {
        let program = folder.path().join(version);
        std::fs::write(&program, format!("#!/bin/sh\necho '{help}'\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(frames_as_they_are(&program), expected);
    }
    assert_eq!(frames_as_they_are(Path::new("none")), "-vsync");
}

/// With `ffmpeg` the frames, without it what to do.
#[test]
fn other_codecs_are_decoded_where_ffmpeg_is() {
    for (name, codec) in [
        ("vp9.webm", "VP9"),
        ("hevc.mp4", "HEVC"),
        ("interlaced.mp4", "interlaced"),
    ] {
        let seen = frames(&sample(name), 6, FrameSampling::Inference);
        if installed().is_none() {
            let error = seen.unwrap_err().to_string();
            assert!(
                error.contains(codec) && error.contains("install it"),
                "{error}"
            );
            continue;
        }
        let seen = levels(&seen.unwrap());
        for (seen, level) in seen.iter().zip([27_u8, 44, 60, 76, 93, 109]) {
            assert!(seen.abs_diff(level) <= 3, "{name}: {seen} is not {level}");
        }
        let few = levels(&frames(&sample(name), 2, FrameSampling::Training).unwrap());
        assert!(
            few[0].abs_diff(27) <= 3 && few[1].abs_diff(93) <= 3,
            "{few:?}"
        );
    }
}
