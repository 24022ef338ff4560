//! Files with a JSON value on each line, which grow while long work goes on: a line is there as soon as what it is about is
//! done, and a program that is killed in the middle of one loses nothing before it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// Such a file, open for more lines, and kept from other programs until it is closed.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Goes on with a file, or begins one, and reads its lines. What is half-written of the last is cut off.
    ///
    /// A usage error while another program has it open; errors name a line that is none.
    pub fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Vec<T>)> {
        let mut lines = Self::locked(path)?;
        let mut text = Vec::new();
        let read = lines.file.read_to_end(&mut text);
        read.map_err(Error::io(path))?;
        let text = whole(&text);
        lines.cut(text.len() as u64)?;
        let values = parse(path, text)?;
        Ok((lines, values))
    }

    /// Begins a file; one that is there is emptied.
    ///
    /// A usage error while another program has it open.
    pub fn create(path: &Path) -> Result<Self> {
        let mut lines = Self::locked(path)?;
        lines.cut(0)?;
        Ok(lines)
    }

    /// The lines of a file that others may be adding to.
    pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
        let text = std::fs::read(path).map_err(Error::io(path))?;
        parse(path, whole(&text))
    }

    /// Adds a line.
    pub fn append(&mut self, value: &impl Serialize) -> Result<()> {
        let line = serde_json::to_vec(value);
        let mut line = line.map_err(|error| Error::invalid(&self.path, error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(Error::io(&self.path))
    }

    /// Brings all lines to disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }

    fn locked(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(Error::io(path))?;
        if !try_lock(&file) {
            return Err(Error::usage(format!(
                "{} is being written by another run: wait for it, or give each a folder or a --shard of its own",
                path.display()
            )));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Leaves the first bytes of the file, and goes on behind them.
    fn cut(&mut self, length: u64) -> Result<()> {
        let cut = self.file.set_len(length);
        cut.and_then(|()| self.file.seek(SeekFrom::Start(length)))
            .map_err(Error::io(&self.path))?;
        Ok(())
    }
}

/// Keeps others that ask for it off an open file until it is closed, or this program ends in any way; false where one of
/// them has it. Where a file system has no locks, nobody is kept off.
pub(crate) fn try_lock(file: &File) -> bool {
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Without what is half-written of the last line.
fn whole(text: &[u8]) -> &[u8] {
    let last = text.iter().rposition(|byte| *byte == b'\n');
    &text[..last.map_or(0, |last| last + 1)]
}

fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<Vec<T>> {
    let lines = text.split(|byte| *byte == b'\n').zip(1..);
    let lines = lines.filter(|(line, _)| !line.is_empty());
    lines
        .map(|(line, number)| {
            serde_json::from_slice(line).map_err(|error| {
                let again = "remove the line, and what it is about is done again";
                Error::invalid(path, format!("line {number}: {error}: {again}"))
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_on_behind_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "1\n2\n[3, ").unwrap();
        assert_eq!(JsonLines::read::<u32>(&path).unwrap(), [1, 2]);
        let (mut lines, values) = JsonLines::open::<u32>(&path).unwrap();
        assert_eq!(values, [1, 2]);
        let error = JsonLines::create(&path).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        lines.append(&3).unwrap();
        drop(lines);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n2\n3\n");
        std::fs::write(&path, "1\n[]\n").unwrap();
        let error = JsonLines::open::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(JsonLines::create(&path).is_ok());
        assert!(JsonLines::read::<u32>(&path).unwrap().is_empty());
    }
}
