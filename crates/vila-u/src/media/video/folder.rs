//! A folder of image files, which are the frames of a video in the order of their names.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use super::{FrameRead, Video};
use crate::{
    Error, Result,
    media::{load, memory_limit::check_memory, read::pixels},
};

/// Endings of the files that are taken for frames.
const ENDINGS: [&str; 8] = ["png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff"];

pub(super) struct Folder {
    pub files: Vec<PathBuf>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(Error::io(path))? {
            let path = entry.map_err(Error::io(path))?.path();
            let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
            // macOS puts `._frame1.png` beside `frame1.png` on other disks.
            let name = path.file_name().unwrap_or_default();
            let metadata = name.as_encoded_bytes().starts_with(b"._");
            if !metadata && path.is_file() && ENDINGS.iter().any(|&known| ending == known) {
                files.push(path);
            }
        }
        let name = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        files.sort_by(|a, b| natural_order(&name(a), &name(b)));
        Ok(Self { files })
    }
}

impl Video for Folder {
    fn total(&mut self) -> Result<usize> {
        Ok(self.files.len())
    }

    fn read(&mut self, wanted: &[usize]) -> Result<FrameRead> {
        let (mut pictures, mut taken, mut read) = (Vec::with_capacity(wanted.len()), 0, 0);
        for &index in wanted {
            let file = &self.files[index];
            let picture = load(file)?;
            let (width, height) = picture.dimensions();
            taken += 4 * pixels(width, height);
            read += fs::metadata(file).map_err(Error::io(file))?.len();
            check_memory("the frames", taken, read).map_err(Error::in_file(file))?;
            pictures.push(picture);
        }
        Ok(FrameRead::All(pictures))
    }
}

/// "frame2" before "frame10".
fn natural_order(a: &str, b: &str) -> Ordering {
    let digits =
        |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) {
        let (m, n) = (digits(left), digits(right));
        let (order, m, n) = if m > 0 && n > 0 {
            let (p, q) = (
                left[..m].trim_start_matches('0'),
                right[..n].trim_start_matches('0'),
            );
            (p.len().cmp(&q.len()).then_with(|| p.cmp(q)), m, n)
        } else {
            (x.cmp(&y), x.len_utf8(), y.len_utf8())
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[m..], &right[n..]);
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        super::{
            FrameSampling, frames,
            tests::{dot, levels},
        },
        *,
    };

    #[test]
    fn a_folder_is_a_video() {
        let folder = tempfile::tempdir().unwrap();
        assert!(frames(folder.path(), 2, FrameSampling::Inference).is_err());
        for level in [0, 2, 10] {
            let path = folder.path().join(format!("frame{level}.png"));
            dot(level).save(path).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "not a frame").unwrap();
        fs::write(folder.path().join("._frame2.png"), "no picture").unwrap();
        let seen = |count, sampling| levels(&frames(folder.path(), count, sampling).unwrap());
        assert_eq!(seen(3, FrameSampling::Inference), [0, 2, 10]);
        assert_eq!(seen(2, FrameSampling::Inference), [0, 10]);
        assert_eq!(seen(2, FrameSampling::Training), [0, 2]);
    }

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["f10.png", "f2.png", "f02.png", "F1.png", "f1a.png", "f.png"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            ["F1.png", "f.png", "f1a.png", "f02.png", "f2.png", "f10.png"]
        );
    }
}
