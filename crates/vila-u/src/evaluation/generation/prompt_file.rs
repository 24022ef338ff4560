//! A benchmark's prompt file: text that is not trusted.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result, file_kind};

/// The largest that is known, of MJHQ-30K, has 10 MB.
const LARGEST: u64 = 64 << 20;

pub(super) struct PromptFile {
    path: PathBuf,
    text: String,
}

impl PromptFile {
    /// Errors for a file that cannot be read, is too large, or holds no text.
    pub fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
            .map_err(Error::io(path))?;
        if let Some(what) = file_kind::mistaken(&bytes) {
            return Err(Error::invalid(path, what));
        }
        if bytes.len() as u64 > LARGEST {
            let reason = format!("more than {} MiB: not a prompt file", LARGEST >> 20);
            return Err(Error::invalid(path, reason));
        }
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| Error::invalid(path, "not text in UTF-8"))?;
        Ok(Self {
            path: path.to_path_buf(),
            text: text.trim_start_matches('\u{feff}').to_string(),
        })
    }

    /// The name of the file without its ending.
    pub fn stem(&self) -> &str {
        let stem = self.path.file_stem();
        stem.and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    /// Whether it is one JSON array.
    pub fn is_array(&self) -> bool {
        self.text.trim_start().starts_with('[')
    }

    /// The lines that are not blank, with their numbers from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        let lines = lines.map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim().is_empty())
    }

    /// Its one JSON array.
    pub fn array<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        serde_json::from_str(&self.text).map_err(|error| self.invalid(error))
    }

    /// The entries of its one JSON object, in their order.
    pub fn object<T: DeserializeOwned>(&self) -> Result<Vec<(String, T)>> {
        let object: Map<String, Value> =
            serde_json::from_str(&self.text).map_err(|error| self.invalid(error))?;
        let entries = object.into_iter().map(|(key, value)| {
            let entry = serde_json::from_value(value);
            let entry = entry.map_err(|error| self.invalid(format!("{key}: {error}")))?;
            Ok((key, entry))
        });
        entries.collect()
    }

    /// The error that names this file.
    pub fn invalid(&self, reason: impl std::fmt::Display) -> Error {
        Error::invalid(&self.path, reason.to_string())
    }

    /// The error that names a line of it.
    pub fn invalid_line(&self, number: usize, reason: impl std::fmt::Display) -> Error {
        self.invalid(format!("line {number}: {reason}"))
    }
}
