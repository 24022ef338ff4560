//! Names of many shards in one: `{00000..00999}` and `{a,b}` as shells write them, and `*`, `?`, `[ab]`,
//! `**` for what is there.

use std::path::PathBuf;

use crate::{Error, Result};

/// More shards than this are a mistake in the pattern.
const MOST_SHARDS: usize = 1_000_000;

/// The files and folders that a pattern names, in its order and each matched part sorted.
///
/// Errors when one that it spells out is not there, or nothing matches.
pub(crate) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let wrong = |reason: String| Error::usage(format!("{pattern}: {reason}"));
    let mut shards = Vec::new();
    for path in braces(pattern).map_err(wrong)? {
        if PathBuf::from(&path).exists() {
            shards.push(PathBuf::from(path));
        } else if path.contains(['*', '?', '[']) {
            let found = glob::glob(&path).map_err(|error| wrong(error.to_string()))?;
            for path in found {
                let path = path.map_err(|error| wrong(error.to_string()))?;
                // What macOS puts beside files on other disks.
                let name = path.file_name().unwrap_or_default();
                if !name.as_encoded_bytes().starts_with(b"._") {
                    shards.push(path);
                }
            }
        } else {
            return Err(wrong(format!("there is no {path}")));
        }
    }
    if shards.is_empty() {
        Err(wrong("nothing matches this pattern".into()))
    } else {
        Ok(shards)
    }
}

/// All that a pattern with braces spells.
fn braces(pattern: &str) -> std::result::Result<Vec<String>, String> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return Ok(vec![pattern.into()]);
    };
    let (inside, after) = rest.split_once('}').ok_or("a `{` without its `}`")?;
    let choices = match inside.split_once("..") {
        Some((first, last)) => range(first, last)?,
        None => inside.split(',').map(str::to_string).collect(),
    };
    let rest = braces(after)?;
    if choices.len().saturating_mul(rest.len()) > MOST_SHARDS {
        return Err(format!("more than {MOST_SHARDS} shards"));
    }
    let spell = |choice: &String| {
        let whole = |rest: &String| format!("{before}{choice}{rest}");
        rest.iter().map(whole).collect::<Vec<_>>()
    };
    Ok(choices.iter().flat_map(spell).collect())
}

/// The numbers from the first to the last, as wide as these where they begin with a zero.
fn range(first: &str, last: &str) -> std::result::Result<Vec<String>, String> {
    let number = |text: &str| {
        text.parse::<usize>()
            .map_err(|_| format!("`{{{first}..{last}}}` is no range of numbers"))
    };
    let (from, to) = (number(first)?, number(last)?);
    if from > to {
        return Err(format!("`{{{first}..{last}}}` is empty"));
    }
    if to - from >= MOST_SHARDS {
        return Err(format!("more than {MOST_SHARDS} shards"));
    }
    let padded = [first, last]
        .iter()
        .any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded {
        first.len().max(last.len())
    } else {
        0
    };
    Ok((from..=to).map(|at| format!("{at:0width$}")).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn braces_spell_ranges_and_lists() {
        let spelt = |pattern| braces(pattern).unwrap();
        assert_eq!(
            spelt("{008..011}.tar"),
            ["008.tar", "009.tar", "010.tar", "011.tar"]
        );
        assert_eq!(spelt("{9..10}"), ["9", "10"]);
        assert_eq!(spelt("{a,b}/{0..1}"), ["a/0", "a/1", "b/0", "b/1"]);
        assert_eq!(spelt("x"), ["x"]);
        for wrong in [
            "{0..",
            "{a..b}",
            "{3..1}",
            "{0..99999999}",
            "{0..9999}{0..9999}",
        ] {
            assert!(braces(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_spelt_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "a.txt", "[1].tar"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let expanded = |pattern: &str| {
            let paths = expand(folder.path().join(pattern).to_str().unwrap())?;
            let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_string();
            Ok::<_, Error>(paths.into_iter().map(name).collect::<Vec<_>>())
        };
        assert_eq!(expanded("?.tar").unwrap(), ["a.tar", "b.tar"]);
        assert_eq!(expanded("[1].tar").unwrap(), ["[1].tar"]);
        assert_eq!(expanded("{b,a}.t*").unwrap(), ["b.tar", "a.tar", "a.txt"]);
        assert!(
            expanded("{a,c}.tar")
                .unwrap_err()
                .to_string()
                .contains("c.tar")
        );
        assert!(
            expanded("*.json")
                .unwrap_err()
                .to_string()
                .contains("nothing matches")
        );
    }
}
