//! OpenVid: a CSV of captions beside a folder of videos.
//!
//! ```csv
//! video,caption,aesthetic score,motion score,temporal consistency score,camera motion,frame,fps,seconds
//! celebv_-0Xzh6R7Vfs_5_0.mp4,"In the video, a man ...",5.2,3.6,0.99,static,114,25.0,4.56
//! ```
//!
//! Layout: nkp37/OpenVid-1M on the Hugging Face Hub, `data/train/OpenVid-1M.csv`. Only `video` and
//! `caption` are read; the columns may stand in any order.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use csv::{Reader, StringRecord};

use super::{Bad, Records};
use crate::{
    Error, Result,
    data::record::{Pictures, Record, Text, inside},
    file_kind,
};

/// A longer row is none: somewhere a quote was not closed.
const LONGEST_ROW: usize = 16 << 20;

/// A file that is read until a row has become too long.
struct Rows {
    file: File,
    /// Bytes that the row may still have.
    left: Arc<AtomicUsize>,
}

impl Read for Rows {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let left = self.left.load(Ordering::Relaxed).checked_sub(read);
        let left = left.ok_or_else(|| io::Error::other("a row of more than 16 MiB"))?;
        self.left.store(left, Ordering::Relaxed);
        Ok(read)
    }
}

/// The videos of a shard, which lie in `folder`.
pub(in crate::data) fn open(path: &Path, folder: &Path) -> Result<Records> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    if let Some(what) = file_kind::mistaken_file(&mut file).map_err(Error::io(path))? {
        return Err(Error::invalid(path, format!("no CSV table: {what}")));
    }
    file.rewind().map_err(Error::io(path))?;
    let left = Arc::new(AtomicUsize::new(LONGEST_ROW));
    let mut csv = Reader::from_reader(Rows {
        file,
        left: left.clone(),
    });
    let header = csv
        .headers()
        .map_err(|error| Error::invalid(path, error.to_string()))?;
    let column = |name: &str| {
        let mut names = header.iter();
        names
            .position(|found| found == name)
            .ok_or_else(|| Error::invalid(path, format!("the first line names no column `{name}`")))
    };
    let (video, caption) = (column("video")?, column("caption")?);
    let folder = folder.to_path_buf();
    let rows = csv.into_records().zip(1_u64..).map(move |(row, number)| {
        let field = |row: &StringRecord, at| row.get(at).unwrap_or_default().trim().to_string();
        let record = |row: StringRecord| -> std::result::Result<Record, String> {
            let (video, caption) = (field(&row, video), field(&row, caption));
            if video.is_empty() || caption.is_empty() {
                return Err("no video or no caption".into());
            }
            let path = inside(&folder, &video)?;
            Ok(Record {
                id: video,
                text: Text::Caption(caption),
                pictures: Pictures::Video(path),
            })
        };
        left.store(LONGEST_ROW, Ordering::Relaxed);
        row.map_err(|error| error.to_string())
            .and_then(record)
            .map_err(|reason| Bad {
                key: format!("row {number}"),
                reason,
            })
    });
    Ok(Box::new(rows))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_videos_and_captions() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let rows = "caption,video,aesthetic score\n\"A man, and\n\"\"a dog\"\"\",a_0.mp4,5.2\n\
                    short\n,b.mp4,1\nA cat,../b.mp4,1\nA cat,b.mp4,1\n";
        std::fs::write(file.path(), rows).unwrap();
        let records: Vec<_> = open(file.path(), Path::new("v")).unwrap().collect();
        assert_eq!(records.len(), 5);
        let first = records[0].as_ref().unwrap();
        assert_eq!(first.pictures, Pictures::Video("v/a_0.mp4".into()));
        assert_eq!(first.text, Text::Caption("A man, and\n\"a dog\"".into()));
        assert!(records[1].is_err() && records[2].is_err());
        let left = records[3].as_ref().unwrap_err();
        assert!(left.reason.contains("leaves the folder"), "{left:?}");
        assert!(records[4].is_ok());

        std::fs::write(file.path(), "name,caption\n").unwrap();
        let Err(error) = open(file.path(), Path::new("v")) else {
            return assert_eq!("an error", "");
        };
        assert!(error.to_string().contains("`video`"));
    }
}
