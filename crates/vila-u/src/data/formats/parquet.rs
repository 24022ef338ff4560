//! Parquet tables as the Hugging Face Hub has them: pictures as bytes, and what is said about them.
//!
//! | column | is |
//! | --- | --- |
//! | `image`, `images` | a picture or a list: `{bytes, path}`, or bytes alone |
//! | `conversations` | a list of `{from, value}`, as LLaVA has it |
//! | `texts` | a list of `{user, assistant}` |
//! | `caption`, `text` | a caption; such a table is of the kinds of its source |
//! | `id` | names the record, otherwise its row does |
//!
//! Layout: `datasets.Image` of huggingface/datasets (`features/image.py`: a struct of `bytes` and
//! `path`); lmms-lab/LLaVA-OneVision-Data has `id`, `image`, `conversations`, HuggingFaceM4/the_cauldron
//! `images`, `texts`. Other columns are not read.

use std::{fs::File, path::Path, sync::Arc};

use parquet::{
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::{Field, Row, reader::RowIter},
    schema::types::Type,
};

use super::{Bad, Records, footer};
use crate::{
    Error, Result,
    catch_unwind::catch_unwind_silent,
    data::record::{Image, LARGEST_IMAGE, Pictures, Record, Text, inside},
    file_kind,
    text::conversation::Turn,
};

const COLUMNS: [&str; 7] = [
    "id",
    "image",
    "images",
    "conversations",
    "texts",
    "caption",
    "text",
];
/// Rows decoded at once.
const ROWS: usize = 16;

/// The rows of a shard; picture paths in them are relative to `folder`.
pub(in crate::data) fn open(path: &Path, folder: &Path) -> Result<Records> {
    let folder = folder.to_path_buf();
    let records = rows(path, &COLUMNS)?.zip(1..).map(move |(row, number)| {
        let record = row.and_then(|row| record(number, row, &folder));
        record.map_err(|reason| Bad {
            key: format!("row {number}"),
            reason,
        })
    });
    Ok(Box::new(records))
}

/// The rows of a table, as far as these columns go. After one that cannot be read nothing follows.
pub(super) fn rows(
    path: &Path,
    columns: &[&str],
) -> Result<impl Iterator<Item = std::result::Result<Row, String>> + Send + use<>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let invalid = |reason: String| Error::invalid(path, reason);
    if let Some(what) = file_kind::mistaken_file(&mut file).map_err(Error::io(path))? {
        return Err(invalid(format!("no Parquet table: {what}")));
    }
    footer::check(&mut file).map_err(invalid)?;
    // Damaged files make the library panic here and there.
    let rows = guarded(|| {
        let reader = SerializedFileReader::new(file)?;
        let schema = reader.metadata().file_metadata().schema();
        let known = |column: &&Arc<Type>| columns.contains(&column.name());
        let columns = schema.get_fields().iter().filter(known).cloned().collect();
        let columns = Type::group_type_builder(schema.name())
            .with_fields(columns)
            .build()?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(columns))?;
        Ok(rows.with_batch_size(ROWS))
    });
    let mut rows = rows.map_err(invalid)?;
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let row = guarded(|| rows.next().transpose());
        ended = !matches!(row, Ok(Some(_)));
        let row = row.map_err(|reason| format!("the rest of this table cannot be read: {reason}"));
        row.transpose()
    }))
}

/// The result, or why the library failed.
fn guarded<T>(
    work: impl FnOnce() -> std::result::Result<T, parquet::errors::ParquetError>,
) -> std::result::Result<T, String> {
    match catch_unwind_silent(work) {
        Some(result) => result.map_err(|error| error.to_string()),
        None => Err("the file is damaged".into()),
    }
}

fn record(number: u64, row: Row, folder: &Path) -> std::result::Result<Record, String> {
    let (mut id, mut images, mut turns, mut caption) = (number.to_string(), vec![], vec![], None);
    for (name, field) in row.into_columns() {
        match (name.as_str(), field) {
            (_, Field::Null) => {}
            ("id", Field::Str(text)) => id = text,
            ("id", other) => id = other.to_string(),
            ("caption" | "text", Field::Str(text)) => caption = Some(text),
            ("image" | "images", Field::ListInternal(list)) => {
                for element in list.elements() {
                    images.push(image(element, folder)?);
                }
            }
            ("image" | "images", field) => images.push(image(&field, folder)?),
            ("conversations" | "texts", Field::ListInternal(list)) => {
                for element in list.elements() {
                    said(element, &mut turns)?;
                }
            }
            (name, _) => return Err(format!("column {name} is of a type that is not read")),
        }
    }
    if !turns.is_empty() {
        return Ok(Record {
            id,
            text: Text::Turns(turns),
            pictures: Pictures::Images(images),
        });
    }
    match (caption, images.pop(), images.is_empty()) {
        (Some(caption), Some(image), true) => Ok(Record {
            id,
            text: Text::Caption(caption),
            pictures: Pictures::Images(vec![image]),
        }),
        _ => Err(
            "neither a conversation (`conversations`, `texts`) nor one picture and its `caption`"
                .into(),
        ),
    }
}

/// A picture: bytes, or a struct of bytes and a path.
pub(super) fn image(field: &Field, folder: &Path) -> std::result::Result<Image, String> {
    let content = |bytes: &[u8]| {
        if bytes.len() as u64 <= LARGEST_IMAGE {
            Ok(Image::Bytes(bytes.to_vec()))
        } else {
            Err(format!("a picture larger than {} MiB", LARGEST_IMAGE >> 20))
        }
    };
    match field {
        Field::Bytes(bytes) => content(bytes.data()),
        Field::Group(row) => {
            let part = |wanted: &str| {
                let mut parts = row.get_column_iter();
                parts
                    .find(|(name, _)| *name == wanted)
                    .map(|(_, field)| field)
            };
            match (part("bytes"), part("path")) {
                (Some(Field::Bytes(bytes)), _) => content(bytes.data()),
                (_, Some(Field::Str(path))) => inside(folder, path).map(Image::File),
                _ => Err("a picture has neither bytes nor a path".into()),
            }
        }
        _ => Err("a picture is of a type that is not read".into()),
    }
}

/// What one element of a conversation adds to its turns.
fn said(element: &Field, turns: &mut Vec<Turn>) -> std::result::Result<(), String> {
    let unreadable =
        || "a turn has neither `from` and `value` nor `user` and `assistant`".to_string();
    let Field::Group(row) = element else {
        return Err(unreadable());
    };
    let text = |wanted: &str| {
        let mut parts = row.get_column_iter();
        parts.find_map(|(name, field)| match field {
            Field::Str(text) if name == wanted => Some(text.as_str()),
            _ => None,
        })
    };
    match (text("from"), text("value"), text("user"), text("assistant")) {
        (Some("human"), Some(value), ..) => turns.push(Turn::human(value)),
        (Some("gpt"), Some(value), ..) => turns.push(Turn::assistant(value)),
        (Some(other), ..) => return Err(format!("a turn is from {other:?}, not human or gpt")),
        (.., Some(user), Some(assistant)) => {
            turns.extend([Turn::human(user), Turn::assistant(assistant)]);
        }
        _ => return Err(unreadable()),
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
