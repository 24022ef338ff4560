#![allow(clippy::unwrap_used)]
use std::fs;

use image::Rgb;

use super::super::{
    FrameSampling, frames,
    tests::{levels, sample},
};
use super::*;

/// Frame `n` of the samples is grey with luma 40 + 14 n, and white in its top left quarter.
fn grey(n: u32) -> u8 {
    ((40.0 + 14.0 * f64::from(n) - 16.0) * 255.0 / 219.0).round() as u8
}

#[track_caller]
fn assert_frames(path: &Path, expected: &[u32]) {
    let seen = levels(&frames(path, expected.len(), FrameSampling::Inference).unwrap());
    assert_eq!(seen.len(), expected.len());
    for (seen, n) in seen.iter().zip(expected) {
        assert!(
            seen.abs_diff(grey(*n)) <= 2,
            "{seen} is not frame {n}: {path:?}"
        );
    }
}

#[test]
fn frames_come_in_the_order_they_are_shown_in() {
    let all: Vec<u32> = (0..12).collect();
    for name in [
        "baseline.mp4",
        "bframes.mp4",
        "fragmented.mp4",
        "fragments_old.mp4",
    ] {
        assert_frames(&sample(name), &all);
    }
    // The sound is the first track.
    assert_frames(&sample("audio.mp4"), &all[..6]);
    // Frames are counted, whatever the time between them.
    assert_frames(&sample("vfr.mp4"), &[0, 1, 2, 4, 5, 8, 11]);
    // Cut by an edit list, which keeps what is needed to decode.
    assert_frames(&sample("trimmed.mp4"), &all[5..]);
}

#[test]
fn some_frames_are_chosen_by_either_rule() {
    let seen = |sampling| levels(&frames(&sample("bframes.mp4"), 4, sampling).unwrap());
    for (sampling, expected) in [
        (FrameSampling::Inference, [0, 4, 7, 11]),
        (FrameSampling::Training, [0, 3, 6, 10]),
    ] {
        let apart = seen(sampling).into_iter().zip(expected);
        for (seen, n) in apart {
            assert!(
                seen.abs_diff(grey(n)) <= 2,
                "{sampling:?}: {seen} is not frame {n}"
            );
        }
    }
    let all = levels(&frames(&sample("odd.mp4"), 6, FrameSampling::Training).unwrap());
    assert_eq!(all[..2], [0, 0], "two of six are black");
    assert!(all[2].abs_diff(grey(0)) <= 2 && all[5].abs_diff(grey(3)) <= 2);
}

#[test]
fn frames_are_upright_and_have_their_size() {
    let one = |name| {
        frames(&sample(name), 1, FrameSampling::Inference)
            .unwrap()
            .remove(0)
            .rgb()
    };
    let plain = one("baseline.mp4");
    assert_eq!(plain.dimensions(), (48, 32));
    assert!(plain.get_pixel(2, 2)[0] > 250 && plain.get_pixel(2, 29)[0] < 40);
    let turned = one("rotated.mp4");
    assert_eq!(turned.dimensions(), (32, 48));
    assert!(turned.get_pixel(2, 45)[0] > 250 && turned.get_pixel(2, 2)[0] < 40);
    // No multiple of the 16 pixels that are coded together.
    assert_eq!(one("odd.mp4").dimensions(), (50, 38));
}

#[test]
fn colours_are_what_the_file_says_they_are() {
    let red = frames(&sample("bt709.mp4"), 1, FrameSampling::Inference)
        .unwrap()
        .remove(0)
        .rgb();
    let Rgb([r, g, b]) = *red.get_pixel(9, 9);
    assert!(r > 248 && g < 6 && b < 6, "{r} {g} {b}");
}

/// Eight bars of 16 x 16 pixels, coded by either matrix in either range, which the container says, the stream,
/// both, or neither; and what ffmpeg 7.0.2 makes of each.
#[test]
fn colours_are_what_ffmpeg_makes_of_them() {
    type Bars = [[u8; 3]; 8];
    const LIMITED_601: Bars = [
        [234, 20, 19],
        [20, 200, 30],
        [30, 39, 220],
        [240, 240, 240],
        [15, 15, 15],
        [200, 200, 200],
        [249, 200, 10],
        [100, 61, 160],
    ];
    const FULL_601: Bars = [
        [234, 20, 20],
        [20, 200, 30],
        [30, 41, 221],
        [240, 240, 240],
        [15, 15, 15],
        [200, 200, 200],
        [249, 200, 10],
        [100, 60, 159],
    ];
    const LIMITED_709: Bars = [
        [234, 20, 19],
        [20, 200, 29],
        [30, 41, 220],
        [240, 240, 240],
        [15, 15, 15],
        [200, 200, 200],
        [251, 200, 11],
        [101, 60, 160],
    ];
    const FULL_709: Bars = [
        [235, 21, 20],
        [20, 199, 30],
        [31, 40, 220],
        [240, 240, 240],
        [15, 15, 15],
        [200, 200, 200],
        [251, 200, 10],
        [100, 61, 160],
    ];
    let said = ["box", "stream", "both"];
    let files = [
        ("601_tv", LIMITED_601),
        ("601_pc", FULL_601),
        ("709_tv", LIMITED_709),
        ("709_pc", FULL_709),
    ];
    let tagged = files
        .iter()
        .flat_map(|(name, bars)| said.map(|by| (format!("{name}_{by}"), bars)));
    for (name, bars) in tagged.chain([("601_tv_neither".into(), &LIMITED_601)]) {
        let path = sample(&format!("colours/{name}.mp4"));
        let frame = frames(&path, 1, FrameSampling::Inference)
            .unwrap()
            .remove(0)
            .rgb();
        for (x, expected) in (8..).step_by(16).zip(bars) {
            let seen = frame.get_pixel(x, 8).0;
            let apart = seen.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
            assert!(
                apart.max() <= Some(2),
                "{name}: {seen:?} is not {expected:?}"
            );
        }
    }
}

#[test]
fn turns_and_flips_are_told_from_the_matrix() {
    let turn = |[a, b, c, d]: [i32; 4]| {
        let unit = 1 << 16;
        orientation(&[a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30])
    };
    assert_eq!(turn([1, 0, 0, 1]), Orientation::NoTransforms);
    assert_eq!(turn([0, 1, -1, 0]), Orientation::Rotate90);
    assert_eq!(turn([-1, 0, 0, -1]), Orientation::Rotate180);
    assert_eq!(turn([0, -1, 1, 0]), Orientation::Rotate270);
    assert_eq!(turn([-1, 0, 0, 1]), Orientation::FlipHorizontal);
}

/// A table may say of any number of frames that they lie in the same place.
#[test]
fn frames_together_are_no_larger_than_the_file() {
    let place = |offset, size| ByteRange { offset, size };
    assert_eq!(whole(&[place(10, 40), place(50, 50)], 100), 2);
    assert_eq!(whole(&[place(10, 40), place(50, 51)], 100), 1);
    assert_eq!(whole(&[place(10, 40); 1000], 100), 2);
    assert_eq!(whole(&[place(u64::MAX, 40)], 100), 0);
}

/// What is there of a file that is cut short is seen; one without an index says so.
#[test]
fn files_that_are_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.mp4");
    let whole = fs::read(sample("baseline.mp4")).unwrap();
    let mut lengths = std::collections::HashSet::new();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        match frames(&path, 1 << 8, FrameSampling::Inference) {
            Ok(seen) => {
                let mut seen = levels(&seen);
                seen.dedup();
                lengths.insert(seen.len());
                assert!(seen[0].abs_diff(grey(0)) <= 2);
            }
            Err(error) => {
                assert!(error.to_string().contains("cut.mp4"), "{error}");
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
    let mut lengths: Vec<usize> = lengths.into_iter().collect();
    lengths.sort();
    assert_eq!(lengths, (1..12).collect::<Vec<_>>());
    // Its index is at the end.
    let whole = fs::read(sample("bframes.mp4")).unwrap();
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    let error = frames(&path, 8, FrameSampling::Inference)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cut short") && error.contains("whole file"),
        "{error}"
    );
}

/// Any byte may be wrong: frames come out or an error, and soon.
#[test]
fn damaged_files_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.mp4");
    for name in ["bframes.mp4", "fragmented.mp4"] {
        let whole = fs::read(sample(name)).unwrap();
        for at in (0..whole.len()).step_by(23) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            fs::write(&path, &bytes).unwrap();
            if let Err(error) = frames(&path, 3, FrameSampling::Inference) {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}
