//! Paths that files name, which are not to be trusted.

use std::path::{Component, Path};

/// A path named inside an untrusted file, if it stays in the folder it is relative to:
/// not absolute, no `.` or `..`, no backslash, not empty.
pub(crate) fn relative(path: &str) -> Option<&str> {
    let inside = !path.is_empty()
        && !path.contains('\\')
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
    inside.then_some(path)
}
