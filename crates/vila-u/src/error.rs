//! The one error type of the library: what went wrong, and what to do about it.

use std::path::{Path, PathBuf};

/// Every message is one line that names the thing at fault and, where there is one, the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request itself cannot be carried out (unknown option, impossible value). Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file was read, and holds something other than what it should.
    #[error("{}: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    /// The work itself failed (NaN loss, device out of memory, no network).
    #[error("{0}")]
    Failed(String),
    /// Stopped by the user; what was done so far is saved.
    #[error("interrupted")]
    Interrupted,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub fn invalid(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.as_ref().to_path_buf(),
            reason: reason.into(),
        }
    }

    /// For `map_err` where the content of a file was found wrong by code that does not know the file:
    /// `parse(&bytes).map_err(Error::in_file(path))`.
    pub(crate) fn in_file(path: impl AsRef<Path>) -> impl Fn(Self) -> Self {
        let path = path.as_ref().to_path_buf();
        move |error| Self::invalid(&path, error.to_string())
    }

    /// For `map_err` on file operations: `fs::read(p).map_err(Error::io(p))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }
}
