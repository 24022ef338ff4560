//! The model compiled into the program: the files of `models/nano`.

use super::files::{Bytes, Files};

/// Path inside the checkpoint, contents.
const FILES: &[(&str, &[u8])] = &[];

/// The embedded checkpoint, `None` in a build without one.
pub fn files() -> Option<Files> {
    let files = FILES
        .iter()
        .map(|(path, contents)| (path.to_string(), Bytes::Static(contents)));
    (!FILES.is_empty()).then(|| Files::memory("nano", files))
}
